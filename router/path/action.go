package path

import (
	"fmt"
	"net/netip"
	"time"
)

// Action is something to be done about the peer: to the WireGuard device, to
// the network, or in the books. Its text is for logs and tests. Actions are
// done in the order in which a step returns them.
type Action interface {
	action()
	String() string
}

// SetEndpoint sets where packets to the peer go.
type SetEndpoint struct{ Endpoint netip.AddrPort }

// Readd removes the peer and adds it again: handshake state, session and
// endpoint are forgotten. With an endpoint a handshake begins at once; without
// one the peer waits to be initiated to.
type Readd struct{ Endpoint netip.AddrPort }

// Initiate begins a new handshake now, whatever is under way.
type Initiate struct{}

// Quiet drops what still comes from the peer over a route that was left, or
// the endpoint would follow it back (docs/protocol.md#changing-a-path). For is at most 3 s.
// A route through a relay is the peer's packets from that relay, not those of
// other peers from there.
type Quiet struct {
	Route Route
	For   time.Duration
}

// Probe asks an endpoint from the WireGuard port; [Pong] is the answer.
type Probe struct {
	Endpoint netip.AddrPort
	TTL      int // hops after which the probe is to be lost; 0: not at all
}

// Ping asks the peer through the tunnel; [Echo] is the answer. It is also the
// packet that shows the peer where we are now.
type Ping struct{ Number uint64 }

// Punch tells the peer, over the mesh, to probe our endpoints now.
type Punch struct{}

// Rebind binds at the relay with this relay port again, now.
type Rebind struct{ Endpoint netip.AddrPort }

// Changed says that the route changed, or that the tunnel was gained or lost:
// one line of log, one count, one entry of the history.
type Changed struct{ Change Change }

func (SetEndpoint) action() {}
func (Readd) action()       {}
func (Initiate) action()    {}
func (Quiet) action()       {}
func (Probe) action()       {}
func (Ping) action()        {}
func (Punch) action()       {}
func (Rebind) action()      {}
func (Changed) action()     {}

func (a SetEndpoint) String() string { return "endpoint " + a.Endpoint.String() }

func (a Readd) String() string {
	if a.Endpoint.IsValid() {
		return "re-add " + a.Endpoint.String()
	}
	return "re-add"
}

func (Initiate) String() string { return "initiate" }

func (a Quiet) String() string { return fmt.Sprintf("quiet %s for %s", a.Route, a.For) }

func (a Probe) String() string {
	if a.TTL > 0 {
		return fmt.Sprintf("probe %s ttl %d", a.Endpoint, a.TTL)
	}
	return "probe " + a.Endpoint.String()
}

func (Ping) String() string      { return "ping" }
func (Punch) String() string     { return "punch" }
func (a Rebind) String() string  { return "rebind " + a.Endpoint.String() }
func (a Changed) String() string { return "changed: " + a.Change.String() }

// spreadEach is the time between two initiations after a start.
const spreadEach = time.Second / 100

// Spread returns when the i-th of n peers may be initiated to after a start,
// counted from 0. More at once and the receivers are under load, ask for
// cookies (5 s lost) and allow 20 initiations per second and address; that
// begins with 128 of them at one time (wireguard-go; 512 in the kernel). Few
// peers share less than a second: each of them is cut off until its turn.
func Spread(i, n int) time.Duration {
	return spreadEach * time.Duration(max(0, min(i, n-1)))
}
