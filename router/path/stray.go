package path

import (
	"net/netip"
	"time"
)

// The times of endpoints that move by themselves.
const (
	strayTime   = 300 * time.Millisecond // before a known one is taken for meant
	strangeTime = time.Second            // in which an unknown one must answer a probe
	assertGap   = 10 * time.Second
	emptyGap    = time.Second
	// maxFlips within assertGap are no move: packets that were under way by two
	// routes keep answering each other.
	maxFlips = 3
)

// stray is an endpoint that the device took by itself: WireGuard follows the
// source of every authentic packet.
type stray struct {
	endpoint netip.AddrPort
	since    time.Time
	next     time.Time // when to look at it again; zero: none
	asserted time.Time // when the decider last insisted on its own choice
	flips    int       // how often the endpoint left ours
	flipped  time.Time // since when these count
}

// follow compares the device's endpoint with ours.
func (m *Machine) follow(now time.Time, ep netip.AddrPort) []Action {
	s := &m.stray
	switch {
	case !m.route.Endpoint.IsValid():
		if ep.IsValid() {
			m.route = m.routeTo(ep)
			m.arrive(now)
		}
		return nil
	case ep == m.route.Endpoint:
		s.endpoint, s.next = netip.AddrPort{}, time.Time{}
		return nil
	case !ep.IsValid():
		if within(now, s.asserted, emptyGap) {
			return nil
		}
		s.asserted = now
		return []Action{SetEndpoint{m.route.Endpoint}}
	case m.leads(now) && m.move.on() && ep == m.move.from.Endpoint && m.move.rewrites < rewrites:
		return m.rewrite(now)
	}
	if ep != s.endpoint {
		*s = stray{endpoint: ep, since: now, next: now.Add(strangeTime), asserted: s.asserted, flips: s.flips + 1, flipped: s.flipped}
		if !within(now, s.flipped, assertGap) {
			s.flips, s.flipped = 1, now
		}
		if m.knows(ep) {
			s.next = now.Add(strayTime)
		} else {
			m.ends.hint(now, ep, m.route.Endpoint).hurry(now) // it is no relay's: those are known
		}
		if c := m.ends.find(m.route.Endpoint); c != nil {
			c.hurry(now) // does our own route answer?
		}
	}
	return m.place(now)
}

// knows reports whether an endpoint is a relay's, or a candidate's that is
// listed or answers.
func (m *Machine) knows(ep netip.AddrPort) bool {
	if len(m.via(ep)) > 0 {
		return true
	}
	c := m.ends.find(ep)
	return c != nil && (c.listed || !c.answered.IsZero())
}

// place decides about a stray endpoint when it is time.
func (m *Machine) place(now time.Time) []Action {
	s := &m.stray
	if !s.endpoint.IsValid() {
		return nil
	}
	known := m.knows(s.endpoint)
	switch {
	case known && m.decider && s.flips >= maxFlips && !within(now, s.asserted, assertGap):
		return m.insist(now)
	case known && !now.Before(s.since.Add(strayTime)):
	case !reached(now, s.next):
		return nil
	case m.decider && m.holds(now):
		s.next = s.asserted.Add(assertGap)
		if !s.asserted.IsZero() && now.Before(s.next) {
			return nil
		}
		return m.insist(now)
	}
	to := m.routeTo(s.endpoint)
	why := "the peer moved there"
	if to.Relayed() {
		why = "the peer came over a relay"
	}
	do := m.note(now, to, Established, why)
	m.move = move{}
	m.force.done()
	m.arrive(now)
	return append(do, m.ping(now)...)
}

// holds reports whether our own route still answers while the peer came from
// elsewhere.
func (m *Machine) holds(now time.Time) bool {
	if m.route.Relayed() {
		_, ok := m.relays.find(m.route.Endpoint)
		return ok && !m.rests.has(now, m.route.Endpoint)
	}
	c := m.ends.find(m.route.Endpoint)
	return c != nil && c.answers(m.stray.since)
}

// insist writes our own choice again.
func (m *Machine) insist(now time.Time) []Action {
	q := Quiet{m.routeTo(m.stray.endpoint), maxSettle}
	if q.Route.Relayed() == m.route.Relayed() {
		q.For = m.quiet()
	}
	do := []Action{q, SetEndpoint{m.route.Endpoint}}
	m.stray = stray{asserted: now}
	if m.route.Relayed() {
		return append(do, m.handshakeNow(now)...)
	}
	return append(do, m.ping(now)...)
}

// rewrite repeats a change that a packet by the old route undid.
func (m *Machine) rewrite(now time.Time) []Action {
	v := &m.move
	v.rewrites++
	v.first, v.echoed = m.pulse.number+1, false
	do := []Action{SetEndpoint{v.to.Endpoint}}
	if v.quiet > 0 {
		do = append([]Action{Quiet{v.from, v.quiet}}, do...)
	}
	if v.to.Relayed() && !within(now, m.force.begun, repeats[0]) {
		return append(do, m.handshakeNow(now)...)
	}
	return append(do, m.ping(now)...)
}
