package path

import (
	"net/netip"
	"slices"
	"time"
)

// The times of bringing a tunnel up (docs/protocol.md#bringing-a-tunnel-up).
const (
	// answerWait is how long the end that does not initiate leaves that to
	// the other one; two ends that initiate within one one-way delay void
	// each other's handshake.
	answerWait   = 2500 * time.Millisecond
	answerJitter = time.Second
	// resumeJitter keeps two hosts that start in one moment apart.
	resumeJitter = 100 * time.Millisecond

	// settleTime is how long the initiator waits after an introduction that
	// met a tunnel already begun: the other end forgets what it has when it
	// hears of the introduction, and that must come before our initiation.
	settleTime = 300 * time.Millisecond

	// directFirst is how long relays are left alone: a direct handshake takes
	// a round trip.
	directFirst = 1200 * time.Millisecond
	// relayJitter keeps two ends that began in one moment from trying a relay
	// at once, whose round trip is the longest.
	relayJitter = 200 * time.Millisecond
	// bindFirst is how long before that both ends bind anew, in case that what
	// broke the tunnel broke their mappings too.
	bindFirst = 400 * time.Millisecond

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
	minPass  = 4 // tries before the gaps double, with few routes

	// silentGap is the least time between handshakes, after the first round,
	// with an endpoint that never answered a probe: a peer may have been given
	// somebody else's address.
	silentGap = 5 * time.Second

	// briskTime is how long after a loss tries, and probes between them, go on
	// once a second.
	briskTime = 15 * time.Second

	maxYields = 2  // between two tries
	bindTries = 20 // so many of them go along with binds
)

// bringUp is a search for a route that carries a handshake.
type bringUp struct {
	initiator bool
	led       bool // it is that only because it leads
	begun     time.Time
	tries     int
	readds    int
	due       time.Time // next try; zero: none
	readd     time.Time // next re-add by the decider; zero: none
	last      time.Time // the last try
	yields    int       // how often the next one was put off
	relays    time.Time // from when on relays are tried
	rebind    time.Time // when to bind anew; zero: done
	counts    map[netip.AddrPort]int
	learnt    netip.AddrPort // where the peer's own try came from; zero: nowhere
	stood     netip.AddrPort // what carried the tunnel until it was lost or died
	former    netip.AddrPort // that, when nothing is wrong with it: to be tried first
	tried     map[netip.AddrPort]time.Time
	once      bool      // the next try is the only one until turn
	turn      time.Time // when the end that does not initiate begins
}

func (m *Machine) start(now time.Time, e Start) []Action {
	if m.started {
		m.replaceCandidates(now, e.Candidates)
		return nil
	}
	m.started = true
	m.up.initiator = m.decider
	m.ends.replace(now, m.own(e.Candidates), e.Endpoint)
	m.handshake = e.Handshake
	if age := now.Sub(e.Handshake); !e.Handshake.IsZero() && age < Lifetime {
		m.device.Endpoint = e.Endpoint
		return m.establish(now, age, "the tunnel stood already")
	}
	m.begin(now, e.Delay)
	if !e.Handshake.IsZero() {
		return []Action{Readd{}} // a predecessor's, with an old endpoint
	}
	if e.Resumed && !m.up.initiator {
		// The other end does not know that its session is dead: one try of our
		// own. Should both have restarted and this one collide with the other's,
		// its next try meets no other of ours.
		m.up.turn = m.up.due
		m.up.due, m.up.once = now.Add(e.Delay+m.rand(resumeJitter)), true
	}
	return nil
}

func (m *Machine) introduced(now time.Time, e Introduced) []Action {
	again := m.started
	m.started = true
	m.up.initiator = e.Initiator
	m.ends.replace(now, m.own(e.Candidates), netip.AddrPort{})
	do := m.note(now, Route{}, Pending, "introduced again")
	if m.up.initiator && !again && len(m.ends) > 0 {
		m.begin(now, 0)
		return append(do, m.tryByReadd(now)...)
	}
	return append(do, m.beginAgain(now)...)
}

// beginAgain forgets what there is, and leaves the other end the time to do so
// too.
func (m *Machine) beginAgain(now time.Time) []Action {
	var settle time.Duration
	if m.up.initiator {
		settle = settleTime
	}
	m.begin(now, settle)
	return []Action{Readd{}}
}

// begin starts bring-up anew. The initiator's first try is after delay, that
// of the other end so much later.
func (m *Machine) begin(now time.Time, delay time.Duration) {
	m.enter(now, Pending)
	m.move, m.force, m.stray, m.giveIn = move{}, force{}, stray{}, time.Time{}
	m.punch.disarm()
	m.pulse.forget()
	u := &m.up
	u.begun, u.led = now, false
	u.tries, u.readds, u.last, u.once, u.counts = 0, 0, time.Time{}, false, make(map[netip.AddrPort]int)
	u.tried = make(map[netip.AddrPort]time.Time)
	u.learnt, u.former, u.stood = netip.AddrPort{}, netip.AddrPort{}, netip.AddrPort{}
	u.due = now.Add(delay)
	u.relays = u.due.Add(directFirst + m.rand(relayJitter))
	u.rebind = u.relays.Add(-bindFirst)
	for _, c := range m.ends {
		c.hurry(u.due)
	}
	if !u.initiator {
		u.due = u.due.Add(answerWait + m.rand(answerJitter))
	}
	u.readd = time.Time{}
	if m.decider {
		u.readd = now.Add(delay + giveUp + m.rand(giveUpJitter))
	}
}

// own leaves out what is a relay's: whoever says that it is the peer's is
// mistaken.
func (m *Machine) own(list []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(list), func(ep netip.AddrPort) bool {
		_, ok := m.relayPort(ep)
		return ok
	})
}

func (m *Machine) replaceCandidates(now time.Time, list []netip.AddrPort) {
	old := m.ends.listed()
	fresh := m.ends.replace(now, m.own(list), m.route.Endpoint)
	if !m.started {
		for _, c := range m.ends {
			c.due = time.Time{}
		}
		return
	}
	if slices.Equal(old, m.ends.listed()) {
		return
	}
	switch {
	case m.state != Established:
	case m.route.Relayed():
		m.settle(now)
		if fresh {
			m.punch.news(now)
		}
		return
	default:
		return
	}
	u := &m.up
	u.tries = min(u.tries, 1) // short gaps again
	if len(m.ends) == 0 {
		return
	}
	// What is new deserves a try soon, but not one that voids a handshake
	// under way, nor one from the end that should wait.
	soon := now
	if m.state == Connecting {
		soon = now.Add(tryGap)
	}
	if u.due.IsZero() || m.state == Connecting && soon.Before(u.due) {
		u.due = soon
	}
}

// observe takes what the device says of the last handshake.
func (m *Machine) observe(now, at time.Time) []Action {
	switch {
	case at.IsZero():
		if m.state == Established && !m.force.on() {
			return m.lost(now, "the device was made anew")
		}
	case at.Equal(m.handshake):
	default:
		m.handshake = at
		m.force.seen(at)
		if age := now.Sub(at); m.started && age < Lifetime {
			return m.establish(now, age, "handshake completed")
		}
	}
	return nil
}

// establish takes a handshake: the first, or one that renews the session.
func (m *Machine) establish(now time.Time, age time.Duration, why string) []Action {
	m.fresh = now.Add(-max(age, 0))
	if m.state == Established {
		return nil
	}
	to := m.route
	if ep := m.device.Endpoint; ep.IsValid() {
		to = m.routeTo(ep)
	}
	do := m.note(now, to, Established, why)
	m.proved, m.meter.total = false, 0
	m.up.due, m.up.readd, m.up.rebind = time.Time{}, time.Time{}, time.Time{}
	m.arrive(now)
	return do
}

// lost begins again after a tunnel that stood: not after an introduction, so
// the decider initiates. Both ends forget the session, the other one also the
// endpoint, so that it is quiet.
func (m *Machine) lost(now time.Time, why string) []Action {
	former := m.route
	do := m.note(now, Route{}, Pending, why)
	m.up.initiator = m.decider
	do = append(do, m.beginAgain(now)...)
	m.up.stood = former.Endpoint
	m.up.former = former.Endpoint // nothing is wrong with it
	if former.Relayed() {
		m.up.relays = m.up.due
	}
	return do
}

// lose begins again because nothing carries packets. The session is kept: the
// fault may be over soon.
func (m *Machine) lose(now time.Time, why string, initiator bool) []Action {
	former := m.route
	do := m.note(now, Route{}, Pending, why)
	m.up.initiator = initiator
	m.begin(now, 0)
	m.up.led = initiator && !m.decider && m.leads(now)
	m.up.stood = former.Endpoint
	m.up.relays, m.up.rebind = now, now
	return do
}
