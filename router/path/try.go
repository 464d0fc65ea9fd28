package path

import (
	"net/netip"
	"slices"
	"time"
)

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
		// The other end may try any relay, and can reach us only where we are
		// bound.
		if u.counts[to.Endpoint] > 1 && to.Relayed() || u.tries > 2 && u.tries < bindTries {
			do = append(do, rebind(m.relays.list)...)
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
	u := &m.up
	if list, wait := m.options(now); len(list) == 0 && !wait.IsZero() {
		u.due = wait
		if m.decider {
			u.readd = wait
		}
		return nil
	}
	if m.decider {
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
	list, wait := m.options(now)
	if len(list) == 0 {
		u.due = wait
		if u.once {
			u.once, u.due = false, u.turn
		}
		return Route{}, false
	}
	m.route = slices.MinFunc(list, func(a, b Route) int {
		return u.counts[a.Endpoint] - u.counts[b.Endpoint]
	})
	if u.learnt.IsValid() {
		m.route, u.learnt = m.routeTo(u.learnt), netip.AddrPort{}
	}
	if u.tries > 0 {
		u.counts[m.route.Endpoint]++
	}
	u.tries++
	u.last, u.yields = now, 0
	u.tried[m.route.Endpoint] = now
	gap := firstGap
	if u.tries > 1 {
		routes := len(m.ends) + len(m.relays.list)
		gap = min(tryGap<<min((u.tries-2)/max(routes, minPass), 5), maxGap)
	}
	if m.brisk(now) {
		gap = min(gap, tryGap)
	}
	if u.initiator {
		gap += m.rand(gap / 4)
	} else { // leave it the time for a round trip, out of step
		gap += gap + m.rand(gap)
	}
	if u.once { // it stays pending: its turn has not come, whatever is heard
		u.once, u.due = false, u.turn
		return m.route, true
	}
	u.due = now.Add(gap)
	if len(m.relays.list) > 0 && u.relays.After(now.Add(firstGap)) && u.relays.Before(u.due) {
		u.due = u.relays
	}
	m.enter(now, Connecting)
	return m.route, true
}

// brisk reports whether a tunnel that stood was lost so lately that the network
// may be back any moment. In a large cluster, whose pings are rare, so many tries
// at once would be a storm.
func (m *Machine) brisk(now time.Time) bool {
	return m.up.stood.IsValid() && m.idle <= DefaultIdle && within(now, m.up.begun, briskTime)
}

// options are the routes to choose from, best first: relays and the peer's own
// endpoints by turns, of these first what carried the tunnel before, then what
// answers probes. If there is none, it says when there is one; zero: not before
// there is another route.
func (m *Machine) options(now time.Time) (list []Route, wait time.Time) {
	var relays, direct, others []Route
	var news bool // one answers, and was not tried since
	if !now.Before(m.up.relays) {
		for _, r := range m.relays.list {
			relays = append(relays, r.Route)
		}
	}
	fast := m.ends.best(func(c *candidate) bool { return c.opens(now) })
	for _, c := range m.ends {
		at, tried := m.up.tried[c.endpoint]
		r := Route{Endpoint: c.endpoint}
		switch {
		case c == fast || m.up.former == c.endpoint && !tried:
			direct = slices.Insert(direct, 0, r)
			news = news || m.up.counts[c.endpoint] == 0
		case c.opens(now):
			direct = append(direct, r)
			news = news || m.up.counts[c.endpoint] == 0
		case !c.listed:
		case c.answered.IsZero() && m.up.counts[c.endpoint] > 0 && now.Sub(at) < silentGap:
			wait = first(wait, at.Add(silentGap))
		default:
			others = append(others, r)
		}
	}
	direct = append(direct, others...)
	if len(relays) > 0 && !news && (len(direct) == 0 || !m.route.Relayed()) {
		return relays, wait
	}
	return direct, wait
}

// relaysCame takes relays that were not there before.
func (m *Machine) relaysCame(now time.Time) {
	u := &m.up
	if !m.started {
		return
	}
	u.tries = min(u.tries, 1) // short gaps again
	soon := laterOf(now, u.relays)
	if !u.last.IsZero() {
		soon = laterOf(soon, u.last.Add(tryGap))
	}
	if u.due.IsZero() || m.state == Connecting && soon.Before(u.due) {
		u.due = soon
	}
}

// came puts our own try off because something authentic came: the peer's
// initiation, whose handshake ours would void. Not for ever: perhaps our
// answers do not arrive.
func (m *Machine) came(now time.Time) {
	u := &m.up
	if m.state == Established || u.due.IsZero() || u.yields == maxYields {
		return
	}
	u.yields++
	u.due = laterOf(u.due, now.Add(tryGap))
	if !u.readd.IsZero() {
		u.readd = laterOf(u.readd, u.due)
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
