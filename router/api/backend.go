// Package api is the contract between weftd and every door into it: the types,
// the [Backend] interface that both ends implement, the server and the client
// on the unix socket.
//
// It does not know how anything is done: the router implements Backend for
// real, [Client] implements it by asking the daemon.
package api

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/netip"
)

// Errors that a caller may test for with errors.Is on either side of the
// socket. Everything else is a failure described by its text.
var (
	// ErrUsage says that the request itself is wrong (exit code 2).
	ErrUsage = errors.New("usage")
	// ErrNotFound says that what was named does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that somebody else holds what was asked for.
	ErrConflict = errors.New("conflict")
	// ErrUnreachable is returned by [Client] when no daemon answers (exit code 3).
	ErrUnreachable = errors.New("weftd is not reachable")
)

// Backend is everything that a door may ask of the daemon. All methods block
// until done or until ctx ends, are safe for concurrent use, and are
// idempotent: asking twice gives the same answer. Bad input changes nothing.
type Backend interface {
	// Status returns one snapshot of everything that weft knows.
	Status(ctx context.Context) (Status, error)
	// Why tells of the path to one peer; see [FindPeers] for how it is named.
	Why(ctx context.Context, peer string) (Why, error)
	// Connect adds targets, or replaces all of them.
	Connect(ctx context.Context, r ConnectRequest) error
	// Forget removes targets; tunnels that stand stay.
	Forget(ctx context.Context, targets []string) error
	// Attach puts a container on the switch and returns its addresses.
	Attach(ctx context.Context, r AttachRequest) (Addresses, error)
	// Detach takes addresses, or everything, from a container; it returns
	// what was named or, without names, what was there.
	Detach(ctx context.Context, r DetachRequest) (Addresses, error)
	// Reserve gives an address to a container whose interface its engine
	// configures; an address that nobody uses within 30 s of Unreserve is free
	// again. Unlike the others it gives another address each time, and it waits
	// for other hosts for 10 s at most. The error wraps [ErrConflict] when there
	// is none, or the one that was asked for is held.
	Reserve(ctx context.Context, r ReserveRequest) (netip.Prefix, error)
	// Unreserve gives it back; one that is not reserved is no error.
	Unreserve(ctx context.Context, addr netip.Addr) error
	// AddEndpoint notes what an engine calls an endpoint: one interface of one
	// container on a network of the engine. Addresses in the range that nobody
	// reserved become its own.
	AddEndpoint(ctx context.Context, r EndpointRequest) (Endpoint, error)
	// JoinEndpoint makes its interface, which the engine then moves into the
	// container; what the engine does not set there is set soon after that. The
	// error wraps [ErrNotFound] when there is no such endpoint.
	JoinEndpoint(ctx context.Context, r EndpointJoin) (Endpoint, error)
	// LeaveEndpoint removes the interface, wherever it is. RemoveEndpoint also
	// forgets the endpoint; its addresses are the engine's to give back. To
	// both, an endpoint that is unknown is no error.
	LeaveEndpoint(ctx context.Context, id string) error
	RemoveEndpoint(ctx context.Context, id string) error
	// Expose gives the host addresses on the switch.
	Expose(ctx context.Context, r ExposeRequest) (Addresses, error)
	// Hide takes them away.
	Hide(ctx context.Context, r HideRequest) (Addresses, error)
	// DNSAdd and DNSRemove register and remove names by hand.
	DNSAdd(ctx context.Context, r NameRequest) error
	DNSRemove(ctx context.Context, r NameRequest) error
	// DNSLookup resolves a name as the embedded server would; an unknown
	// name gives no address and no error.
	DNSLookup(ctx context.Context, name string) (Addresses, error)
	// PS lists the attachments of this host, or of the containers named.
	PS(ctx context.Context, containers []string) ([]Attachment, error)
	// Prime waits until the address space has been divided; it asks for that
	// when nobody has yet. It says through [Progress] what it waits for, as do
	// Attach, Expose, RemovePeers and HandOver.
	Prime(ctx context.Context) error
	// RemovePeers takes over the address space of peers that are gone for good
	// and answers in the order in which they were named, each once. It is
	// refused while one of them answers; see [FindPeers] for how they are named.
	RemovePeers(ctx context.Context, r RemoveRequest) ([]Removed, error)
	// HandOver gives the address space of this host to a peer, before the host
	// leaves for good. Where there is nothing to give the answer is zero.
	HandOver(ctx context.Context) (HandOver, error)
	// Token returns the cluster secret in the form that launch takes.
	Token(ctx context.Context) (Token, error)
	// Logs copies the daemon's log to w; with follow, until ctx ends, which
	// is no error.
	Logs(ctx context.Context, follow bool, w io.Writer) error
	// Events gives what the daemon's log said last, the oldest first; with
	// Follow until ctx ends, which is no error. Nothing comes after an error.
	Events(ctx context.Context, r EventRequest) iter.Seq2[Event, error]
	// Doctor says what is wrong with this host and its paths, and how to mend
	// it. It takes some seconds at most, whatever hangs.
	Doctor(ctx context.Context, r DoctorRequest) (Diagnosis, error)
	// UI turns the picture on for this run of the daemon, and returns an address
	// that opens it in one browser. Each time it is another one. With Off it turns
	// it off, ends what browsers have, and returns nothing.
	UI(ctx context.Context, r UIRequest) (UI, error)
	// Stop makes the daemon end; it answers before the daemon is gone.
	Stop(ctx context.Context) error
}
