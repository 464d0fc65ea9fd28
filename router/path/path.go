// Package path decides, for one peer at a time, what to do to get packets to
// it. It holds the rules of bringing a tunnel up (who initiates the WireGuard
// handshake, when the other end helps, which endpoint is tried next), of
// choosing a path and leaving a dead one, of probes and of punching.
//
// A [Machine] is pure: no sockets, no clock, no goroutine. Time comes as an
// argument, chance through a function, and what is to be done goes out as
// actions. It does not know how a WireGuard device is driven (router/wireguard
// does), how relays forward (router/relay), nor who the peers are (mesh). The
// probes that it wants are sent and answered by a [Prober], the sizes of a path
// found by an [MTUSearch], and whether coalesced packets arrive by a [RowTest],
// all without a socket; a [Pinger] has the only one.
package path

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/weftnet/weft/crypto"
)

// State is where a peer's tunnel stands.
//
//	   Start, Introduced
//	        │
//	        ▼      initiator: at once, or after a delay
//	   ┌─ Pending ─────────────────────────────────────▶ Connecting ◀─┐
//	   │    ▲  ▲   other end: 2.5 s + 0–1 s without        │  │   │   │ no handshake:
//	   │    │  │   a handshake                             │  │   └───┘ next candidate
//	   │    │  └───────────── Introduced ──────────────────┘  │         or relay; decider:
//	   │    │                                                 │         re-add every
//	   │    │ Introduced, or the handshake is 180 s old,      │         6 s + 0–2 s
//	   │    │ or no route carries packets                     │
//	   │    │                                                 │
//	   └──▶ Established ◀─────────── handshake ───────────────┘
//	handshake   │   ▲
//	            └───┘ another route: direct ⇄ relayed
type State uint8

// The states.
const (
	Pending     State = iota // waits for its turn, for the other end, or for a candidate
	Connecting               // tries candidates and relays
	Established              // a handshake younger than 180 s, and packets pass
)

// String returns the state's word.
func (s State) String() string {
	return [...]string{"pending", "connecting", "established"}[s]
}

// Lifetime is how long a handshake is good for: WireGuard's
// REJECT_AFTER_TIME.
const Lifetime = 180 * time.Second

// Config is what stays the same about a peer.
type Config struct {
	// Decider says that our identity is the smaller of the two. Without an
	// introduction the decider initiates, and it alone chooses the path.
	Decider bool
	// RelayPort returns whose relay port an endpoint is, if it is one; nil
	// knows none. Such an endpoint is never the peer's own. It must not block.
	RelayPort func(netip.AddrPort) (crypto.Identity, bool)
	// Rand returns a uniform duration in [0, n); nil takes the system's.
	Rand func(n time.Duration) time.Duration
}

// Machine brings up the tunnel to one peer, keeps it on the best path there
// is, and notices when it is gone. It is not safe for concurrent use;
// everything in it is owned by its caller's loop.
type Machine struct {
	// Constant after New.
	decider   bool
	rand      func(time.Duration) time.Duration
	relayPort func(netip.AddrPort) (crypto.Identity, bool)

	// Owned by the caller's loop.
	now       time.Time // of the last step
	state     State
	since     time.Time // when the route or the state changed last
	started   bool      // there was a Start or an Introduced
	route     Route     // in use, or tried last
	device    Device
	told      time.Time // when the device was told of; zero: never
	handshake time.Time // the last one seen, as the device told it
	fresh     time.Time // when that was, on our clock
	proved    bool      // a ping was answered since bring-up
	echoed    bool      // one ever was
	doubted   time.Time // when pings were lost last, and everybody else was asked
	history   history

	up     bringUp
	ends   ends
	relays relays
	budget budget
	rests  rests
	hold   hold

	pulse  pulse
	meter  meter
	move   move
	force  force
	stray  stray
	punch  punch
	idle   time.Duration // between pings without traffic
	lead   lead
	giveIn time.Time // when the follower acts by itself; zero: no cause
}

// New returns a machine that waits for [Start] or [Introduced].
func New(c Config) *Machine {
	if c.Rand == nil {
		c.Rand = rand.N[time.Duration]
	}
	if c.RelayPort == nil {
		c.RelayPort = func(netip.AddrPort) (id crypto.Identity, ok bool) { return }
	}
	return &Machine{decider: c.Decider, rand: c.Rand, relayPort: c.RelayPort, idle: DefaultIdle}
}

// Step takes one event and returns what to do, in order. Times must not go
// back from one step to the next. An action that fails needs no answer: the
// machine sees that nothing comes of it.
func (m *Machine) Step(now time.Time, e Event) []Action {
	m.now = now
	return append(m.take(now, e), m.tick(now)...)
}

// take does what an event asks for by itself.
func (m *Machine) take(now time.Time, e Event) []Action {
	switch e := e.(type) {
	case Start:
		return m.start(now, e)
	case Introduced:
		return m.introduced(now, e)
	case Candidates:
		m.replaceCandidates(now, e)
	case Relays:
		return m.replaceRelays(now, e)
	case Device:
		return m.read(now, e)
	case Pong:
		m.daemonSeen(now)
		return m.answered(now, e)
	case Asked:
		m.daemonSeen(now)
		m.asked(now, e.Endpoint)
	case Echo:
		m.echo(now, e)
	case Unknown:
		return m.forgotten(now)
	case Restarted:
		return m.restarted(now, e.Endpoint)
	case Withdrawn:
		return m.withdrawn(now, e.Endpoint)
	case Punched:
		m.daemonSeen(now)
		m.punched(now, e.Candidates)
	case Moved:
		return m.moved(now)
	case Alive:
		m.takeAlive(now, bool(e))
	case Late:
		m.late(now, e.By)
	case Idle:
		m.idle = e.Interval
		if m.idle <= 0 {
			m.idle = DefaultIdle
		}
	}
	return nil
}

// tick does what is due.
func (m *Machine) tick(now time.Time) []Action {
	if !m.started {
		return nil
	}
	var do []Action
	if m.state == Established {
		do = m.watch(now)
	}
	if m.state != Established { // perhaps only since now
		do = append(do, m.bring(now)...)
	}
	do = append(do, m.probe(now)...)
	return append(do, m.firePunch(now)...)
}

// lookGap is how often the device should be read while its news matter.
const lookGap = 100 * time.Millisecond

// Next returns when a [Tick] may do something; zero: not before something else
// happens. While it matters what the device says, because a tunnel comes up,
// changes its route or has traffic, that is within 100 ms: the caller then
// reads the device and tells it as [Device], if it can.
func (m *Machine) Next() time.Time {
	if !m.started {
		return time.Time{}
	}
	next := first(m.ends.next(), m.punch.soonest())
	if m.state == Established {
		next = first(next, m.nextWatch())
	} else {
		next = first(next, m.nextBring())
	}
	if m.looks() {
		next = first(next, m.now.Add(lookGap))
	}
	return next
}

// looks reports whether news of the device matter now.
func (m *Machine) looks() bool {
	switch {
	case m.told.IsZero():
		return false
	case m.state != Established:
		return within(m.now, m.up.last, 2*tryGap) || within(m.now, m.since, answerWait+answerJitter)
	}
	return m.move.on() || m.force.on() || m.pulse.streak > 0 || m.stray.endpoint.IsValid() || m.meter.busy(m.now)
}

// first returns the earliest of the times that are not zero.
func first(times ...time.Time) (t time.Time) {
	for _, u := range times {
		if t.IsZero() || !u.IsZero() && u.Before(t) {
			t = u
		}
	}
	return t
}

// laterOf returns the later of two times.
func laterOf(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// reached reports whether t, unless it is zero, has come.
func reached(now, t time.Time) bool { return !t.IsZero() && !now.Before(t) }

// within reports whether t is at most d ago; a zero t is never.
func within(now, t time.Time, d time.Duration) bool { return !t.IsZero() && now.Sub(t) <= d }

// routeTo returns the route that an endpoint of the device stands for.
func (m *Machine) routeTo(ep netip.AddrPort) Route {
	if c := m.ends.find(ep); c != nil && c.listed {
		return Route{Endpoint: ep}
	}
	return Route{Endpoint: ep, Via: m.via(ep)}
}

// via returns the relays that an endpoint leads through, as far as they are
// known; none when it is no relay's.
func (m *Machine) via(ep netip.AddrPort) []crypto.Identity {
	if via := m.relays.heard[ep]; len(via) > 0 {
		return via
	}
	if id, ok := m.relayPort(ep); ok {
		return []crypto.Identity{id}
	}
	return nil
}

// note makes a change of route or of state, and returns what is to be told of
// it; nil when there is nothing to tell.
func (m *Machine) note(now time.Time, to Route, s State, why string) []Action {
	c := Change{At: now, From: m.route, To: to, FromState: m.state, ToState: s, Why: why}
	if c.FromState != Established {
		c.From = Route{}
	}
	if s != Established {
		c.To = Route{}
	}
	m.route = to
	m.enter(now, s)
	if c.From.Equal(c.To) && (c.FromState == Established) == (c.ToState == Established) {
		return nil
	}
	m.since = now
	if old := m.ends.find(c.From.Endpoint); old != nil {
		old.carried = now
	}
	m.history.add(c)
	return []Action{Changed{c}}
}

func (m *Machine) enter(now time.Time, s State) {
	if m.state != s || m.since.IsZero() {
		m.state, m.since = s, now
	}
}
