package path

import (
	"maps"
	"net/netip"
	"time"
)

// The gaps between probes of one candidate.
const (
	probeGap     = time.Second // never less, but for punching
	maxRecent    = 64          // endpoints asked in that time
	maxProbeGap  = 60 * time.Second
	idleProbeGap = 10 * time.Minute // of a direct path without traffic
	returnGap    = 5 * time.Second  // of one that may be returned to
	askedTime    = 30 * time.Second // how long the peer's probe makes us curious
	enoughGap    = 8 * time.Second  // of an end that does not choose
	endMargin    = 5 * time.Millisecond
	endPause     = 60 * time.Second // between changes for being faster
	doubtStreak  = 3                // pings lost in a row before others are asked
)

// recent is when endpoints were asked last, also those that are no candidates
// any more: a peer that changes its list all the time cannot have one asked
// more often, nor many.
type recent map[netip.AddrPort]time.Time

// add notes a probe.
func (r *recent) add(now time.Time, ep netip.AddrPort) {
	if *r == nil {
		*r = make(recent)
	}
	(*r)[ep] = now
}

// next is when the endpoint may be asked.
func (r recent) next(now time.Time, ep netip.AddrPort) time.Time {
	if at, ok := r[ep]; ok {
		return laterOf(now, at.Add(probeGap))
	}
	if len(r) < maxRecent {
		return now
	}
	maps.DeleteFunc(r, func(_ netip.AddrPort, at time.Time) bool { return now.Sub(at) >= probeGap })
	if len(r) < maxRecent {
		return now
	}
	return now.Add(probeGap)
}

// probe asks the candidates whose time has come.
func (m *Machine) probe(now time.Time) []Action {
	var do []Action
	for _, c := range m.ends {
		if !reached(now, c.due) {
			continue
		}
		if next := m.recent.next(now, c.endpoint); next.After(now) {
			c.due = next
			continue
		}
		do = append(do, m.ask(now, c))
	}
	return do
}

func (m *Machine) ask(now time.Time, c *candidate) Action {
	m.asking(now, c)
	c.due = time.Time{}
	if gap := m.probeAgain(now, c); gap > 0 {
		c.due = now.Add(gap + m.rand(gap/8))
	}
	return Probe{Endpoint: c.endpoint}
}

// asking counts a probe.
func (m *Machine) asking(now time.Time, c *candidate) {
	if c.waiting > 0 {
		c.row = 0
	}
	c.waiting++
	c.asked = now
	m.recent.add(now, c.endpoint)
}

// probeAgain is after how long a candidate that was just asked is asked again;
// 0: not until something happens.
func (m *Machine) probeAgain(now time.Time, c *candidate) time.Duration {
	switch {
	case m.state != Established:
		return c.double(maxProbeGap)
	case m.pulse.streak >= doubtStreak:
		return probeGap
	case m.route.Relayed():
		return m.probeRelayed(now, c)
	case len(m.ends) < 2 || !m.decider && c.gap >= enoughGap:
		return 0 // there is nothing to compare, or to choose
	case !m.meter.busy(now):
		return c.double(idleProbeGap)
	}
	return c.double(maxProbeGap)
}

// probeRelayed is probeAgain while the path is relayed. An endpoint that never
// answered, or not for long, is left to punching: a probe that comes alone may
// move the mapping of the peer's NAT for half a minute, and those of both ends
// would keep it moved.
func (m *Machine) probeRelayed(now time.Time, c *candidate) time.Duration {
	switch {
	case within(now, c.answered, freshAnswer) && !c.good(now):
		return probeGap
	case c.proven(now):
		return m.returnGap(now)
	case within(now, c.hinted, askedTime):
		return c.double(maxProbeGap)
	}
	return 0
}

// returnGap is how often a direct path is asked for while another is used.
func (m *Machine) returnGap(now time.Time) time.Duration {
	if m.meter.busy(now) {
		return returnGap
	}
	return max(returnGap, m.idle/3)
}

// settle plans the probes anew after the path or the state changed.
func (m *Machine) settle(now time.Time) {
	for _, c := range m.ends {
		c.gap, c.due = 0, time.Time{}
		if gap := m.probeAgain(now, c); gap > 0 {
			c.due = c.soonest(now.Add(min(gap, probeGap)))
		}
	}
}

// answered takes the answer to a probe.
func (m *Machine) answered(now time.Time, e Pong) []Action {
	c := m.ends.find(e.Endpoint)
	if c == nil {
		return nil // dropped meanwhile
	}
	if e.From.IsValid() && e.From != e.Endpoint {
		m.asked(now, e.From)
		return nil
	}
	before := c.answered
	c.pong(now, e.RTT)
	switch {
	case !m.started:
	case m.state != Established:
		m.knocked(now, c, before)
	case m.route.Relayed():
		c.due = c.soonest(c.asked.Add(m.probeRelayed(now, c)))
		return m.returnTo(now)
	case e.Endpoint != m.route.Endpoint:
		if cur := m.ends.find(m.route.Endpoint); cur != nil && cur.due.IsZero() {
			cur.due = cur.soonest(now) // to have something to compare with
		}
		return m.shorten(now, c)
	}
	return nil
}

// returnTo takes a direct path again when one is good.
func (m *Machine) returnTo(now time.Time) []Action {
	if !m.decider || m.move.on() || !m.hold.over(now) {
		return nil
	}
	c := m.ends.fastest(func(c *candidate) bool {
		return c.good(now) && !m.rests.has(now, c.endpoint)
	})
	if c == nil {
		return nil
	}
	m.hold.returned = now
	return m.switchTo(now, Route{Endpoint: c.endpoint}, "the direct path answers", true)
}

// shorten takes a direct path that is much faster than the one in use.
func (m *Machine) shorten(now time.Time, c *candidate) []Action {
	cur := m.ends.find(m.route.Endpoint)
	if !m.decider || m.move.on() || m.pulse.streak > 0 || cur == nil ||
		c.row < compareRow || cur.row < compareRow || !muchBetter(c.rtt, cur.rtt, endMargin) ||
		m.rests.has(now, c.endpoint) || within(now, m.hold.shortened, endPause) {
		return nil
	}
	m.hold.shortened = now
	why := "another address is " + round(cur.rtt-c.rtt).String() + " faster"
	return m.switchTo(now, Route{Endpoint: c.endpoint}, why, true)
}

// asked takes the news that the peer probed us.
func (m *Machine) asked(now time.Time, ep netip.AddrPort) {
	if !ep.IsValid() || len(m.relays.via(ep)) > 0 {
		return
	}
	c := m.ends.hint(now, ep, m.route.Endpoint)
	if m.started && !within(now, c.answered, freshAnswer) && m.route.Endpoint != ep {
		c.gap = 0
		c.due = first(c.due, c.soonest(now))
	}
}

// moved takes the news that our own addresses changed: the peer must see the
// new one, and every mapping on the way is new.
func (m *Machine) moved(now time.Time) []Action {
	if !m.started {
		return nil
	}
	m.rests = nil
	var do []Action
	switch {
	case m.state != Established:
		m.ends.hurry(now)
		return nil
	case m.route.Relayed():
		m.settle(now)
		m.punch.renew(now)
		do = append(do, Rebind{m.route.Endpoint})
	default:
		m.ends.hurry(now)
	}
	m.pulse.anxious = true
	return append(do, m.ping(now)...)
}
