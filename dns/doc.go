// Package dns answers for the names of the switch and forwards the rest.
//
// It owns the bytes of a name [Record] as it is replicated and the [Book] of
// those that this host publishes, the [Zone] (which names there are, A, AAAA
// and PTR), the [Server] that containers ask, and the forwarder to the host's
// resolvers ([ResolvConf]). It caches nothing.
//
// It does not own the records: each host publishes those of its own
// containers and mesh replicates them. It puts no address on an interface, adds no route
// or rule (router/bridge does) and edits no resolv.conf. It listens on the
// addresses it is given and on nothing else.
package dns
