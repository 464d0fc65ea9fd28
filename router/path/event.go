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
	// Endpoint is where the device sends the peer's packets; zero: nowhere.
	// After a restart it may be a relay's.
	Endpoint netip.AddrPort
	// Delay is this peer's share of [Spread].
	Delay time.Duration
	// Resumed says that a former run of this daemon knew the peer, so that it
	// may go on sending into a session that ended with that run.
	Resumed bool
}

// Introduced says that an introduction with the peer succeeded.
type Introduced struct {
	Initiator  bool             // we are to initiate
	Candidates []netip.AddrPort // best first
}

// Candidates says that these are now the endpoints to try, best first.
type Candidates []netip.AddrPort

// Relays says that the peer can be reached through these now, best first. An
// empty list: through none.
type Relays []Relay

// Device says what the WireGuard device reports of the peer. It may be told as
// often as one likes; every 100 ms is good while a tunnel comes up or has
// traffic. Endpoint changes and deaths are noticed by it.
type Device struct {
	Handshake time.Time      // the last one; zero: none since the peer was added
	Endpoint  netip.AddrPort // where its packets go; zero: nowhere
	// Rx and Tx are bytes that came and went inside the tunnel, keepalives and
	// handshakes included. They may fall back to zero when the peer is re-added.
	Rx, Tx uint64
}

// Pong says that a probe from our WireGuard port to the endpoint was answered.
type Pong struct {
	Endpoint netip.AddrPort // that was asked
	// From is where the answer came from; zero: from Endpoint. Another address
	// is a hint, as in [Asked].
	From netip.AddrPort
	RTT  time.Duration
}

// Asked says that the peer probed us from this endpoint. That is a hint and no
// more: only our own Pong admits a candidate. Zero: only that it did.
type Asked struct{ Endpoint netip.AddrPort }

// Echo says that a [Ping] was answered through the tunnel.
type Echo struct {
	Number uint64 // of the ping
	RTT    time.Duration
}

// Unknown says that a relay on our route does not know the session: it sent an
// authentic notice. The decider forces a handshake, at most every 2 s.
type Unknown struct{}

// Restarted says that the relay whose relay port this is has a new boot id, so
// it forgot all sessions.
type Restarted struct{ Endpoint netip.AddrPort }

// Withdrawn says that the relay whose relay port this is stops, or that our
// bind there is lost.
type Withdrawn struct{ Endpoint netip.AddrPort }

// Punched says that the peer, as the decider, told us to probe these endpoints
// at the same time as it does.
type Punched struct{ Candidates []netip.AddrPort }

// Moved says that our own addresses changed: every mapping of ours may be gone.
type Moved struct{}

// Idle says how often to ask whether the tunnel still carries packets while
// it has no traffic. Zero: [DefaultIdle].
type Idle struct{ Interval time.Duration }

// Alive says whether the peer's daemon is a member of the cluster. Its kernel
// may keep the tunnel when it is not.
type Alive bool

// Late says that nobody looked for so long although [Machine.Next] was over,
// because this host has too much to do. What was answered meanwhile may not have
// been read yet: before it counts as lost, it gets as much more time, within
// bounds.
type Late struct{ By time.Duration }

// Tick says that time has passed.
type Tick struct{}

func (Start) event()      {}
func (Introduced) event() {}
func (Candidates) event() {}
func (Relays) event()     {}
func (Device) event()     {}
func (Pong) event()       {}
func (Asked) event()      {}
func (Echo) event()       {}
func (Unknown) event()    {}
func (Restarted) event()  {}
func (Withdrawn) event()  {}
func (Punched) event()    {}
func (Moved) event()      {}
func (Idle) event()       {}
func (Alive) event()      {}
func (Late) event()       {}
func (Tick) event()       {}
