package path

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// The gaps between probes of one candidate.
const (
	probeGap     = time.Second // never less, but for punching
	maxProbeGap  = 60 * time.Second
	idleProbeGap = 10 * time.Minute // of a direct path without traffic
	returnGap    = 5 * time.Second  // of one that may be returned to
	askedTime    = 30 * time.Second // how long the peer's probe makes us curious
	enoughGap    = 8 * time.Second  // of an end that does not choose
	shortenPause = 5 * time.Minute  // between changes for being faster
	doubtStreak  = 3                // pings lost in a row before others are asked
)

// budget limits the probes to one peer's endpoints, whatever it says that these
// are: so many at once, then one each budgetGap, and none of them twice a
// second. Volleys have their own rule.
type budget struct {
	full  time.Time // when all of it is there again
	asked map[netip.AddrPort]time.Time
}

const (
	budgetSize = 8
	budgetGap  = 500 * time.Millisecond
)

// next is when the endpoint may be asked.
func (b *budget) next(now time.Time, ep netip.AddrPort) time.Time {
	next := laterOf(now, b.full.Add(-(budgetSize-1)*budgetGap))
	if at, ok := b.asked[ep]; ok {
		next = laterOf(next, at.Add(probeGap))
	}
	return next
}

// spend notes a probe.
func (b *budget) spend(now time.Time, ep netip.AddrPort) {
	b.full = laterOf(now, b.full).Add(budgetGap)
	b.note(now, ep)
}

// note notes one that the budget does not pay.
func (b *budget) note(now time.Time, ep netip.AddrPort) {
	if b.asked == nil {
		b.asked = make(map[netip.AddrPort]time.Time)
	}
	maps.DeleteFunc(b.asked, func(_ netip.AddrPort, at time.Time) bool { return now.Sub(at) >= probeGap })
	b.asked[ep] = now
}

// probe asks the candidates whose time has come, those first that were not
// asked for the longest time.
func (m *Machine) probe(now time.Time) []Action {
	var due []*candidate
	for _, c := range m.ends {
		if reached(now, c.due) {
			due = append(due, c)
		}
	}
	slices.SortStableFunc(due, func(a, b *candidate) int { return a.asked.Compare(b.asked) })
	var do []Action
	for _, c := range due {
		if next := m.budget.next(now, c.endpoint); next.After(now) {
			c.due = next
			continue
		}
		m.budget.spend(now, c.endpoint)
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
	m.budget.note(now, c.endpoint)
}

// probeAgain is after how long a candidate that was just asked is asked again;
// 0: not until something happens.
func (m *Machine) probeAgain(now time.Time, c *candidate) time.Duration {
	switch {
	case m.state != Established && m.brisk(now) && c.endpoint == m.up.stood:
		return probeGap
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
	if !m.decider || !m.route.Relayed() || m.move.on() || !m.hold.over(now) {
		return nil
	}
	c := m.ends.best(func(c *candidate) bool {
		return c.good(now) && c.opens(now) && !m.rests.has(now, c.endpoint)
	})
	if c == nil {
		return nil
	}
	m.hold.returned = now
	return m.switchTo(now, Route{Endpoint: c.endpoint}, "the direct path answers", true)
}

// returnDue is when returnTo may do something though nothing is heard: when a
// good path has been left alone for long enough. Zero: not by then.
func (m *Machine) returnDue(now time.Time) (next time.Time) {
	if !m.decider || !m.route.Relayed() || m.move.on() {
		return time.Time{}
	}
	for _, c := range m.ends {
		if due := laterOf(m.hold.until, m.rests.end(c.endpoint)); c.good(now) && due.After(now) {
			next = first(next, due)
		}
	}
	return next
}

// shorten takes a direct path that has been much faster than the one in use for
// a while.
func (m *Machine) shorten(now time.Time, c *candidate) []Action {
	cur := m.ends.find(m.route.Endpoint)
	if cur == nil || c.row < compareRow || cur.row < compareRow || !muchBetter(c.rtt, cur.rtt, fasterMargin) {
		c.faster = time.Time{}
		return nil
	}
	if c.faster.IsZero() {
		c.faster = now
	}
	if !m.decider || m.move.on() || m.pulse.streak > 0 || now.Sub(c.faster) < fasterTime ||
		m.rests.has(now, c.endpoint) || within(now, m.hold.shortened, shortenPause) {
		return nil
	}
	m.hold.shortened = now
	why := "another address is " + round(cur.rtt-c.rtt).String() + " faster"
	return m.switchTo(now, Route{Endpoint: c.endpoint}, why, true)
}

// asked takes the news that the peer probed us.
func (m *Machine) asked(now time.Time, ep netip.AddrPort) {
	if !ep.IsValid() || len(m.via(ep)) > 0 {
		return
	}
	c := m.ends.hint(now, ep, m.route.Endpoint)
	if m.started && !within(now, c.answered, freshAnswer) && m.route.Endpoint != ep {
		// Two ends that both began anew for the other's probes would never
		// become rare. What stands directly is only compared.
		if m.state != Established || !m.route.Direct() {
			c.gap = 0
		}
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
		m.punch.moved(now)
		do = append(do, Rebind{m.route.Endpoint})
	default:
		m.ends.hurry(now)
	}
	m.pulse.anxious = true
	return append(do, m.ping(now)...)
}
