package path

import (
	"net/netip"
	"slices"
	"time"
)

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

	// directFirst is how long relays are left alone: a direct handshake takes
	// a round trip.
	directFirst = 1200 * time.Millisecond
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
)

// bringUp is a search for a route that carries a handshake.
type bringUp struct {
	initiator bool
	tries     int
	readds    int
	due       time.Time // next try; zero: none
	readd     time.Time // next re-add by the decider; zero: none
	last      time.Time // the last try
	relays    time.Time // from when on relays are tried
	rebind    time.Time // when to bind anew; zero: done
	counts    map[netip.AddrPort]int
}

func (m *Machine) start(now time.Time, e Start) []Action {
	if m.started {
		m.replaceCandidates(now, e.Candidates)
		return nil
	}
	m.started = true
	m.up.initiator = m.decider
	m.ends.replace(now, e.Candidates, e.Endpoint)
	m.handshake = e.Handshake
	if age := now.Sub(e.Handshake); !e.Handshake.IsZero() && age < Lifetime {
		m.device.Endpoint = e.Endpoint
		return m.establish(now, age, "the tunnel stood already")
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
	m.up.initiator = e.Initiator
	m.ends.replace(now, e.Candidates, netip.AddrPort{})
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
	u.tries, u.readds, u.last, u.counts = 0, 0, time.Time{}, make(map[netip.AddrPort]int)
	u.due = now.Add(delay)
	u.relays = u.due.Add(directFirst)
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

func (m *Machine) replaceCandidates(now time.Time, list []netip.AddrPort) {
	old := m.ends.listed()
	m.ends.replace(now, list, m.route.Endpoint)
	if !m.started {
		for _, c := range m.ends {
			c.due = time.Time{}
		}
		return
	}
	if slices.Equal(old, m.ends.listed()) {
		return
	}
	if m.state == Established {
		m.punch.renew(now)
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

// relaysCame uses relays when there were none before.
func (m *Machine) relaysCame(now time.Time) {
	u := &m.up
	if !m.started || len(m.relays.list) == 0 || u.due.IsZero() && len(m.ends) > 0 {
		return
	}
	soon := now
	if next := u.last.Add(tryGap); !u.last.IsZero() && next.After(now) {
		soon = next
	}
	if u.relays.After(soon) {
		soon = u.relays
	}
	if u.due.IsZero() || m.state == Connecting && soon.Before(u.due) {
		u.due = soon
	}
}

// offered tries a relay soon: it can be used again.
func (m *Machine) offered(now time.Time, ep netip.AddrPort) {
	if _, ok := m.relays.find(ep); ok && m.started && !now.Before(m.up.relays) {
		m.up.counts[ep] = 0
		m.soon(now, firstGap)
	}
}

// knocked takes it into account that a candidate answers a probe: it is the
// next to be tried, and soon.
func (m *Machine) knocked(now time.Time, c *candidate, before time.Time) {
	u := &m.up
	if !within(now, before, freshAnswer) {
		u.counts[c.endpoint] = 0
	}
	gap := firstGap
	if c.endpoint == m.route.Endpoint {
		gap = tryGap // a handshake is under way
	}
	m.soon(now, gap)
}

// soon makes the initiator's next try follow the last one after gap, if its
// turn has come at all.
func (m *Machine) soon(now time.Time, gap time.Duration) {
	u := &m.up
	if !u.initiator || u.tries == 0 || u.due.IsZero() {
		return
	}
	if due := u.last.Add(gap); due.Before(u.due) {
		u.due = due
		if due.Before(now) {
			u.due = now
		}
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
	m.up.due, m.up.readd, m.up.rebind = time.Time{}, time.Time{}, time.Time{}
	m.arrive(now)
	return do
}

// lost begins again after a tunnel that stood: not after an introduction, so
// the decider initiates. Both ends forget the session, the other one also the
// endpoint, so that it is quiet.
func (m *Machine) lost(now time.Time, why string) []Action {
	do := m.note(now, Route{}, Pending, why)
	m.up.initiator = m.decider
	return append(do, m.beginAgain(now)...)
}

// lose begins again because nothing carries packets. The session is kept: the
// fault may be over soon.
func (m *Machine) lose(now time.Time, why string) []Action {
	do := m.note(now, Route{}, Pending, why)
	m.up.initiator = m.decider
	m.begin(now, 0)
	m.up.relays, m.up.rebind = now, now
	return do
}

// bring does what is due of bring-up.
func (m *Machine) bring(now time.Time) []Action {
	u := &m.up
	var do []Action
	if reached(now, u.rebind) && len(m.relays.list) > 0 {
		u.rebind = time.Time{}
		do = rebind(m.relays.list)
	}
	switch {
	case reached(now, u.readd):
		do = append(do, m.tryByReadd(now)...)
	case reached(now, u.due):
		to, ok := m.try(now)
		if !ok {
			break
		}
		if to.Relayed() && u.counts[to.Endpoint] > 1 {
			do = append(do, rebind(m.relays.list)...) // the other end may try any
		}
		do = append(do, SetEndpoint{to.Endpoint}, Initiate{})
	}
	return do
}

// nextBring is when bring does something.
func (m *Machine) nextBring() time.Time {
	next := first(m.up.due, m.up.readd)
	if len(m.relays.list) > 0 {
		next = first(next, m.up.rebind)
	}
	return next
}

// rebind binds at every one of the relays.
func rebind(list []Relay) []Action {
	var do []Action
	for _, r := range list {
		do = append(do, Rebind{r.Endpoint})
	}
	return do
}

// tryByReadd makes a try that forgets everything before.
func (m *Machine) tryByReadd(now time.Time) []Action {
	if m.decider {
		u := &m.up
		u.readds++
		u.readd = now.Add(min(giveUp<<min(u.readds-1, 4), maxGiveUp) + m.rand(giveUpJitter))
	}
	to, _ := m.try(now) // without a route: a clean slate for the other end
	return []Action{Readd{to.Endpoint}}
}

// try takes the next route and says when the one after it is due. The first
// gets two tries.
func (m *Machine) try(now time.Time) (Route, bool) {
	u := &m.up
	list := m.options(now)
	if len(list) == 0 {
		u.due = time.Time{}
		return Route{}, false
	}
	m.route = slices.MinFunc(list, func(a, b Route) int {
		return u.counts[a.Endpoint] - u.counts[b.Endpoint]
	})
	if u.tries > 0 {
		u.counts[m.route.Endpoint]++
	}
	u.tries++
	u.last = now
	gap := firstGap
	if u.tries > 1 {
		routes := len(m.ends) + len(m.relays.list)
		gap = min(tryGap<<min((u.tries-2)/max(routes, minPass), 5), maxGap)
	}
	u.due = now.Add(gap + m.rand(gap/4))
	if len(m.relays.list) > 0 && u.relays.After(now.Add(firstGap)) && u.relays.Before(u.due) {
		u.due = u.relays
	}
	m.enter(now, Connecting)
	return m.route, true
}

// options are the routes to choose from, best first: relays and the peer's own
// endpoints by turns, of these those first that answer probes.
func (m *Machine) options(now time.Time) []Route {
	var relays, direct, others []Route
	var news bool // one answers, and was not tried since
	if !now.Before(m.up.relays) {
		for _, r := range m.relays.list {
			relays = append(relays, r.Route)
		}
	}
	for _, c := range m.ends {
		r := Route{Endpoint: c.endpoint}
		if within(now, c.answered, freshAnswer) {
			direct = append(direct, r)
			news = news || m.up.counts[c.endpoint] == 0
		} else if c.listed {
			others = append(others, r)
		}
	}
	slices.SortStableFunc(direct, func(a, b Route) int {
		return int(m.ends.find(a.Endpoint).rtt - m.ends.find(b.Endpoint).rtt)
	})
	direct = append(direct, others...)
	if len(relays) > 0 && !news && (len(direct) == 0 || !m.route.Relayed()) {
		return relays
	}
	return direct
}
