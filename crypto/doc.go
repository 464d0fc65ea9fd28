// Package crypto says who a host is and what a cluster shares.
//
// It owns the identity key of this host, the cluster secret, every key that is
// derived from either, and the signatures that bind statements to identities.
// It does not own sessions: TLS is used by mesh/hello, Noise by WireGuard, and
// it opens no socket.
package crypto
