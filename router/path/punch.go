package path

import (
	"net/netip"
	"time"
)

// The times of punching (docs/protocol.md#punching).
const (
	punchDelay  = time.Second // after a relayed path came up
	shots       = 5
	shotGap     = 125 * time.Millisecond
	shotTTL     = 4 // of the first: it opens our NAT and is to die before theirs
	punchRest   = 40 * time.Second
	maxPunch    = 10 * time.Minute
	newsRest    = 10 * time.Second // least time between volleys
	maxAgain    = 1                // volleys that come so soon, for news
	unknownTrip = 200 * time.Millisecond
)

// punch opens NATs from both sides at the same time, on the decider's signal.
type punch struct {
	due    time.Time // of the next signal, or of lone probes in its stead
	gap    time.Duration
	again  int              // volleys for news since the path is relayed
	signal time.Time        // when the next signal may go; probes go alone before
	fired  time.Time        // when our last volley began
	volley []netip.AddrPort // that is being fired
	shot   int
	next   time.Time // of the next shot; zero: none
}

// arm plans the first punch of a relayed path.
func (p *punch) arm(now time.Time) {
	p.gap = 0
	p.plan(now, punchRest)
}

// plan plans a punch soon, but so long after the last.
func (p *punch) plan(now time.Time, rest time.Duration) {
	p.due = now.Add(punchDelay)
	if last := laterOf(p.fired, p.next); !last.IsZero() {
		p.due = laterOf(p.due, last.Add(rest))
	}
	p.signal = p.due
}

// news plans a punch soon because there is a new endpoint, if one is planned at
// all: the first that come after a volley are worth another one, later ones
// wait like all others. Both ends must fire at the same time, and NATs that
// keep a trace of a probe in vain must forget it, so there is no volley at new
// endpoints alone.
func (p *punch) news(now time.Time) {
	if p.due.IsZero() {
		return
	}
	rest := punchRest
	if p.again < maxAgain {
		p.again++
		rest = newsRest
	}
	due, signal := p.due, p.signal
	p.plan(now, rest)
	if !signal.After(due) && due.Before(p.due) {
		p.due, p.signal = due, signal // it is planned already, and sooner
	}
}

// moved plans a punch soon because all mappings are new.
func (p *punch) moved(now time.Time) {
	if !p.due.IsZero() {
		p.gap = 0
		p.plan(now, newsRest)
	}
}

func (p *punch) disarm() { p.due, p.next, p.again = time.Time{}, time.Time{}, 0 }

// load begins a volley at a time.
func (p *punch) load(at time.Time, ends []netip.AddrPort) {
	if len(ends) > 0 {
		p.volley, p.shot, p.next = ends, 0, at
	}
}

// soonest is when something of it is due; zero: nothing is.
func (p *punch) soonest() time.Time { return first(p.due, p.next) }

// firePunch does what is due of punching.
func (m *Machine) firePunch(now time.Time) []Action {
	p := &m.punch
	var do []Action
	if reached(now, p.due) {
		do = m.aim(now)
	}
	if !reached(now, p.next) {
		return do
	}
	if p.shot == 0 {
		p.fired = now
	}
	for _, ep := range p.volley {
		c := m.ends.find(ep)
		if c == nil || c.answers(p.fired) {
			continue // dropped, or open
		}
		m.asking(now, c)
		shot := Probe{Endpoint: ep}
		if p.shot == 0 {
			shot.TTL = shotTTL
		}
		do = append(do, shot)
	}
	p.shot++
	p.next = now.Add(shotGap)
	if p.shot == shots {
		p.next = time.Time{}
	}
	return do
}

// aim begins the decider's punch, unless some direct endpoint answers anyway.
// Every other of the rests that grow ever longer is filled with lone probes,
// which are enough where no NAT is in the way.
func (m *Machine) aim(now time.Time) []Action {
	p := &m.punch
	p.due = now.Add(punchRest + m.rand(punchRest/8))
	targets := m.targets(now)
	switch {
	case len(targets) == 0:
		p.due = now.Add(freshAnswer)
		p.signal = p.due
		return nil
	case now.Before(p.signal):
		if !m.meter.busy(now) {
			return nil
		}
		var do []Action
		p.fired = now
		for _, ep := range targets {
			c := m.ends.find(ep)
			m.asking(now, c)
			do = append(do, Probe{Endpoint: ep})
		}
		return do
	}
	p.gap = min(max(2*p.gap, punchRest), maxPunch)
	p.signal = now.Add(p.gap)
	trip := m.trip()
	if trip == 0 {
		trip = unknownTrip
	}
	// The signal goes by TCP inside the tunnel: a round trip for the
	// connection and half of one for itself.
	p.load(now.Add(trip+trip/2), targets)
	return []Action{Punch{}}
}

// targets are the candidates to punch: all that do not answer, or none when one
// does.
func (m *Machine) targets(now time.Time) []netip.AddrPort {
	var list []netip.AddrPort
	for _, c := range m.ends {
		if within(now, c.answered, freshAnswer) {
			return nil
		}
		if len(list) < maxListed {
			list = append(list, c.endpoint)
		}
	}
	return list
}

// punched takes the decider's signal.
func (m *Machine) punched(now time.Time, list []netip.AddrPort) {
	p := &m.punch
	if !m.started || m.decider || !p.next.IsZero() || within(now, p.fired, newsRest) {
		return
	}
	for _, ep := range list[:min(len(list), maxListed)] {
		if ep.IsValid() && m.ends.find(ep) == nil && len(m.via(ep)) == 0 {
			m.ends.hint(now, ep, m.route.Endpoint)
		}
	}
	if m.state == Established && m.route.Relayed() {
		p.load(now, m.targets(now))
	}
}
