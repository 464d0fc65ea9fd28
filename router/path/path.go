// Package path decides, for one peer at a time, what to do to get packets to
// it. It holds the rules of bringing a tunnel up: who initiates the WireGuard
// handshake, when the other end helps, which endpoint is tried next.
//
// It is pure: no sockets, no clock, no goroutine. Time comes as an argument,
// chance through a function, and what is to be done goes out as actions. It
// does not know how a WireGuard device is driven (router/wireguard does) nor
// who the peers are (mesh does).
package path

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// State is where a peer's tunnel stands.
//
//	   Start, Introduced
//	        │
//	        ▼      initiator: at once, or after a delay
//	   ┌─ Pending ─────────────────────────────────────▶ Connecting ◀─┐
//	   │    ▲  ▲   other end: 2.5 s + 0–1 s without        │  │   │   │ no handshake:
//	   │    │  │   a handshake                             │  │   └───┘ next candidate;
//	   │    │  └───────────── Introduced ──────────────────┘  │         decider: re-add
//	   │    │                                                 │         every 6 s + 0–2 s
//	   │    │ Introduced, or the                              │
//	   │    │ handshake is 180 s old                          │
//	   │    │                                                 │
//	   └──▶ Established ◀─────────── handshake ───────────────┘
//	handshake
type State uint8

// The states.
const (
	Pending     State = iota // waits for its turn, for the other end, or for a candidate
	Connecting               // tries candidates
	Established              // a handshake younger than 180 s
)

// String returns the state's word.
func (s State) String() string {
	return [...]string{"pending", "connecting", "established"}[s]
}

// The times of bringing a tunnel up (PROTOCOL section 2).
const (
	// answerWait is how long the end that does not initiate leaves that to
	// the other one; two ends that initiate within one one-way delay void
	// each other's handshake.
	answerWait   = 2500 * time.Millisecond
	answerJitter = time.Second

	// settleTime is how long the initiator waits after an introduction that
	// met a tunnel already begun: the other end forgets what it has when it
	// hears of the introduction, and that must come before our initiation.
	settleTime = 300 * time.Millisecond

	// giveUp is when the decider re-adds the peer, which breaks a lock that
	// nothing else breaks.
	giveUp       = 6 * time.Second
	giveUpJitter = 2 * time.Second
	maxGiveUp    = 60 * time.Second

	// firstGap is short because the first initiation often comes before the
	// other end knows us. Later ones leave a round trip of a second its time,
	// since a new initiation voids the one under way.
	firstGap = 300 * time.Millisecond
	tryGap   = time.Second
	maxGap   = 30 * time.Second
	minPass  = 4 // tries before the gaps double, with few candidates

	// Lifetime is how long a handshake is good for: WireGuard's
	// REJECT_AFTER_TIME.
	Lifetime = 180 * time.Second
)

// Config is what stays the same about a peer.
type Config struct {
	// Decider says that our identity is the smaller of the two. Without an
	// introduction the decider initiates.
	Decider bool
	// Rand returns a uniform duration in [0, n); nil takes the system's.
	Rand func(n time.Duration) time.Duration
}

// Machine brings up the tunnel to one peer and notices when it is gone. It is
// not safe for concurrent use; everything in it is owned by its caller's loop.
type Machine struct {
	// Constant after New.
	decider bool
	rand    func(time.Duration) time.Duration

	// Owned by the caller's loop.
	state      State
	since      time.Time
	started    bool // there was a Start or an Introduced
	initiator  bool
	candidates []netip.AddrPort
	turn       int            // index of the next candidate, counted without end
	tried      netip.AddrPort // the last one
	tries      int            // since bring-up began
	readds     int
	due        time.Time // next try; zero: none
	readd      time.Time // next re-add by the decider; zero: none
	handshake  time.Time // the last one seen, as the device told it
	fresh      time.Time // when that was, on our clock
}

// New returns a machine that waits for [Start] or [Introduced].
func New(c Config) *Machine {
	if c.Rand == nil {
		c.Rand = rand.N[time.Duration]
	}
	return &Machine{decider: c.Decider, rand: c.Rand}
}

// Status is a machine's state for people.
type Status struct {
	State     State
	Since     time.Time // of the state
	Initiator bool
	Endpoint  netip.AddrPort // the candidate tried last; zero: none yet
	Tries     int            // since bring-up began
}

// Status returns where the tunnel stands.
func (m *Machine) Status() Status {
	return Status{m.state, m.since, m.initiator, m.tried, m.tries}
}

// Next returns when a [Tick] will do something; zero: not before something
// else happens.
func (m *Machine) Next() time.Time {
	if m.state == Established {
		return m.fresh.Add(Lifetime)
	}
	if m.due.IsZero() || !m.readd.IsZero() && m.readd.Before(m.due) {
		return m.readd
	}
	return m.due
}

// Step takes one event and returns what to do, in order. Times must not go
// back from one step to the next. An action that fails needs no answer: the
// machine sees that no handshake comes.
func (m *Machine) Step(now time.Time, e Event) []Action {
	var do []Action
	switch e := e.(type) {
	case Start:
		do = m.start(now, e)
	case Introduced:
		do = m.introduced(now, e)
	case Candidates:
		m.replaceCandidates(now, e)
	case Handshake:
		do = m.observe(now, e.At)
	case Tick:
	}
	return append(do, m.time(now)...)
}

func (m *Machine) start(now time.Time, e Start) []Action {
	if m.started {
		m.replaceCandidates(now, e.Candidates)
		return nil
	}
	m.started = true
	m.initiator = m.decider
	m.candidates = slices.Clone(e.Candidates)
	m.handshake = e.Handshake
	if age := now.Sub(e.Handshake); !e.Handshake.IsZero() && age < Lifetime {
		m.establish(now, age)
		return nil
	}
	m.begin(now, e.Delay)
	if !e.Handshake.IsZero() {
		return []Action{Readd{}} // a predecessor's, with an old endpoint
	}
	return nil
}

func (m *Machine) introduced(now time.Time, e Introduced) []Action {
	again := m.started
	m.started = true
	m.initiator = e.Initiator
	m.candidates = slices.Clone(e.Candidates)
	m.turn = 0
	if m.initiator && !again && len(m.candidates) > 0 {
		m.begin(now, 0)
		return m.tryByReadd(now)
	}
	m.beginAgain(now)
	return []Action{Readd{}}
}

// beginAgain leaves the other end the time to forget what it has.
func (m *Machine) beginAgain(now time.Time) {
	var settle time.Duration
	if m.initiator {
		settle = settleTime
	}
	m.begin(now, settle)
}

// begin starts bring-up anew. The initiator's first try is after delay, that
// of the other end so much later.
func (m *Machine) begin(now time.Time, delay time.Duration) {
	m.enter(now, Pending)
	m.tries, m.readds = 0, 0
	m.due = now.Add(delay)
	if !m.initiator {
		m.due = m.due.Add(answerWait + m.rand(answerJitter))
	}
	m.readd = time.Time{}
	if m.decider {
		m.readd = now.Add(delay + giveUp + m.rand(giveUpJitter))
	}
}

func (m *Machine) replaceCandidates(now time.Time, list []netip.AddrPort) {
	if slices.Equal(m.candidates, list) {
		return
	}
	m.candidates = slices.Clone(list)
	m.turn = 0
	m.tries = min(m.tries, 1) // short gaps again
	if !m.started || m.state == Established || len(list) == 0 {
		return
	}
	// What is new deserves a try soon, but not one that voids a handshake
	// under way, nor one from the end that should wait.
	soon := now
	if m.state == Connecting {
		soon = now.Add(tryGap)
	}
	if m.due.IsZero() || m.state == Connecting && soon.Before(m.due) {
		m.due = soon
	}
}

// observe takes what the device says of the last handshake.
func (m *Machine) observe(now, at time.Time) []Action {
	switch {
	case at.IsZero():
		if m.state == Established {
			return m.lost(now) // somebody made the device anew
		}
	case at.Equal(m.handshake):
	default:
		m.handshake = at
		if age := now.Sub(at); m.started && age < Lifetime {
			m.establish(now, age)
		}
	}
	return nil
}

func (m *Machine) establish(now time.Time, age time.Duration) {
	m.enter(now, Established)
	m.fresh = now.Add(-max(age, 0))
	m.due, m.readd = time.Time{}, time.Time{}
}

// lost begins again after a tunnel that stood: not after an introduction, so
// the decider initiates. Both ends forget the session, the other one also the
// endpoint, so that it is quiet.
func (m *Machine) lost(now time.Time) []Action {
	m.initiator = m.decider
	m.turn = 0
	m.beginAgain(now)
	return []Action{Readd{}}
}

// time does what is due.
func (m *Machine) time(now time.Time) []Action {
	switch {
	case m.state == Established:
		if now.Sub(m.fresh) >= Lifetime {
			return m.lost(now)
		}
	case !m.readd.IsZero() && !now.Before(m.readd):
		return m.tryByReadd(now)
	case !m.due.IsZero() && !now.Before(m.due):
		ep, ok := m.try(now)
		if ok {
			return []Action{SetEndpoint{ep}, Initiate{}}
		}
	}
	return nil
}

// tryByReadd makes a try that forgets everything before.
func (m *Machine) tryByReadd(now time.Time) []Action {
	if m.decider {
		m.readds++
		m.readd = now.Add(min(giveUp<<min(m.readds-1, 4), maxGiveUp) + m.rand(giveUpJitter))
	}
	ep, _ := m.try(now) // without a candidate: a clean slate for the other end
	return []Action{Readd{ep}}
}

// try takes the next candidate and says when the one after it is due. The
// first candidate gets two tries.
func (m *Machine) try(now time.Time) (netip.AddrPort, bool) {
	n := len(m.candidates)
	if n == 0 {
		m.due = time.Time{}
		return netip.AddrPort{}, false
	}
	m.tried = m.candidates[m.turn%n]
	if m.tries > 0 {
		m.turn++
	}
	m.tries++
	gap := firstGap
	if m.tries > 1 {
		gap = min(tryGap<<min((m.tries-2)/max(n, minPass), 5), maxGap)
	}
	m.due = now.Add(gap + m.rand(gap/4))
	m.enter(now, Connecting)
	return m.tried, true
}

func (m *Machine) enter(now time.Time, s State) {
	if m.state != s || m.since.IsZero() {
		m.state, m.since = s, now
	}
}
