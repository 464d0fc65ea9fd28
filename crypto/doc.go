// Package crypto says who a host is and what a cluster shares.
//
// It owns the identity key of this host, the cluster secret, every key that is
// derived from either, the signatures that bind statements to identities, and
// the two files of the state directory that keep them. It does not own
// sessions: TLS is used by mesh/hello, Noise by WireGuard, and it opens no
// socket. The other files of the state directory belong to others.
package crypto
