package path

import (
	"net/netip"
	"time"
)

// Event is something that a machine must know.
type Event interface{ event() }

// Start says that a peer is known without an introduction: from a former run,
// or because another peer told of it. Only the first one counts.
type Start struct {
	Candidates []netip.AddrPort // best first
	// Handshake is the device's last one with the peer; zero: never. A
	// kernel device outlives the daemon, and so may the tunnel.
	Handshake time.Time
	// Delay is this peer's share of [Spread].
	Delay time.Duration
}

// Introduced says that an introduction with the peer succeeded.
type Introduced struct {
	Initiator  bool             // we are to initiate
	Candidates []netip.AddrPort // best first
}

// Candidates says that these are now the endpoints to try, best first.
type Candidates []netip.AddrPort

// Handshake says what the device reports as the time of the last handshake;
// zero: none since the peer was added. It may be told as often as one likes.
type Handshake struct{ At time.Time }

// Tick says that time has passed.
type Tick struct{}

func (Start) event()      {}
func (Introduced) event() {}
func (Candidates) event() {}
func (Handshake) event()  {}
func (Tick) event()       {}

// Action is something to be done to the WireGuard device about the peer. Its
// text is for logs and tests.
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

func (SetEndpoint) action() {}
func (Readd) action()       {}
func (Initiate) action()    {}

func (a SetEndpoint) String() string { return "endpoint " + a.Endpoint.String() }

func (a Readd) String() string {
	if a.Endpoint.IsValid() {
		return "re-add " + a.Endpoint.String()
	}
	return "re-add"
}

func (Initiate) String() string { return "initiate" }

// Spread returns when the i-th of n peers may be initiated to after a start,
// counted from 0: they share max(1 s, n/100 s). More at once and the receivers
// are under load, ask for cookies (5 s lost) and allow 20 initiations per
// second and address.
func Spread(i, n int) time.Duration {
	if i <= 0 || n <= 0 {
		return 0
	}
	window := max(time.Second, time.Duration(n)*time.Second/100)
	return window * time.Duration(min(i, n-1)) / time.Duration(n)
}
