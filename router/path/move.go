package path

import (
	"net/netip"
	"time"
)

// The times of a change of route (docs/protocol.md#changing-a-path).
const (
	proveTime  = 3 * time.Second         // in which packets must pass through a relay
	directTime = 1500 * time.Millisecond // and directly: as many pings as in a burst
	minQuiet   = 300 * time.Millisecond
	maxQuiet   = 3 * time.Second
	maxSettle  = 2 * time.Second
	rewrites   = 20              // of the endpoint, when the old route undoes the change
	stillComes = 3 * time.Second // a route that brought bytes so lately may bring more
)

// repeats are how long after the first a forced handshake is tried again.
var repeats = [...]time.Duration{time.Second, 2 * time.Second, 4 * time.Second}

// force is a handshake that must come about.
type force struct {
	begun time.Time // when one was last forced
	at    time.Time // what counts is newer; zero: none is wanted
	first uint64    // the first ping that proves as much
	next  time.Time // when it is tried (again); zero: not again
	tries int
	help  bool // the first try waits: perhaps none is needed
}

// on reports whether a handshake is awaited.
func (f *force) on() bool { return !f.at.IsZero() }

func (f *force) done() { *f = force{begun: f.begun} }

// seen takes a handshake.
func (f *force) seen(at time.Time) {
	if f.on() && at.After(f.at) {
		f.done()
	}
}

// echoed takes the answer to a ping.
func (f *force) echoed(number uint64) {
	if f.on() && number >= f.first {
		f.done()
	}
}

// handshakeNow begins a handshake and sees that it comes about.
func (m *Machine) handshakeNow(now time.Time) []Action {
	m.relays.stale = false
	m.force = force{begun: now, at: now, first: m.pulse.number + 1, next: now.Add(repeats[0])}
	return []Action{Initiate{}}
}

// repeat tries a forced handshake again.
func (m *Machine) repeat(now time.Time) []Action {
	f := &m.force
	if !reached(now, f.next) {
		return nil
	}
	if f.help {
		return m.handshakeNow(now)
	}
	f.tries++
	f.next = time.Time{}
	if f.tries < len(repeats) {
		f.next = f.at.Add(repeats[f.tries])
	}
	return []Action{Initiate{}}
}

// move is a change of route that is not verified yet.
type move struct {
	from, to Route
	at       time.Time
	deadline time.Time     // by which packets must pass; zero: no move
	late     time.Duration // in the deadline, because this host was late
	quiet    time.Duration // what the old route is made silent for
	settled  time.Time     // before that the old route may still undo it
	back     bool          // to where it came from, if they do not
	first    uint64        // the first ping on the new route
	echoed   bool          // one was answered
	why      string        // to be told if they do not pass; empty: just that
	rewrites int
}

func (v *move) on() bool { return !v.deadline.IsZero() }

func (v *move) echo(number uint64) {
	if v.on() && number >= v.first {
		v.echoed = true
	}
}

// late gives what waits for an answer more time, because this host was late
// itself.
func (m *Machine) late(now time.Time, by time.Duration) {
	if by <= 0 {
		return
	}
	m.pulse.late(now, by)
	if v := &m.move; v.on() {
		was := v.late
		v.late = min(max(was+by, was+now.Add(lateGrace).Sub(v.deadline)), lateMost)
		v.deadline = v.deadline.Add(v.late - was)
	}
}

// switchTo takes another route. What the peer still sends by the old one would
// take the endpoint back, so the decider has that dropped for a while.
func (m *Machine) switchTo(now time.Time, to Route, why string, back bool) []Action {
	from := m.route
	var quiet time.Duration
	var do []Action
	if m.leads(now) && from.Endpoint.IsValid() && from.Endpoint != to.Endpoint && within(now, m.meter.rxAt, stillComes) {
		quiet = m.quiet()
		do = append(do, Quiet{from, quiet})
	}
	do = append(do, SetEndpoint{to.Endpoint})
	told := m.note(now, to, Established, why)
	m.arrive(now)
	m.move = move{from: from, to: to, at: now, deadline: now.Add(proveTime), back: back, first: m.pulse.number + 1}
	m.move.quiet, m.move.settled = quiet, now.Add(min(quiet, maxSettle))
	if to.Direct() {
		m.move.deadline = laterOf(now.Add(min(directTime+2*m.trip(), proveTime)), m.move.settled.Add(burstGap))
	}
	if to.Relayed() {
		do = append(do, m.handshakeNow(now)...)
	} else {
		m.force.done()
	}
	do = append(do, m.ping(now)...)
	return append(do, told...)
}

// quiet is for how long the route in use must be silent when it is left: what
// we sent by it makes the peer answer by it.
func (m *Machine) quiet() time.Duration { return min(max(3*m.trip(), minQuiet), maxQuiet) }

// verify ends a move when packets pass, or goes elsewhere when none do.
func (m *Machine) verify(now time.Time) []Action {
	v := &m.move
	if !v.on() {
		return nil
	}
	there := m.told.After(v.at) && m.device.Endpoint == v.to.Endpoint
	heard := v.echoed || v.to.Relayed() && m.handshake.After(v.at) || m.deaf() && m.meter.rxAt.After(v.settled)
	if there && !now.Before(v.settled) && heard {
		m.move = move{}
		m.pulse.streak, m.pulse.lostAt = 0, m.pulse.lostAt[:0]
		return nil
	}
	if now.Before(v.deadline) {
		return nil
	}
	back := v.back && !m.rests.has(now, v.from.Endpoint)
	from, why := v.from, v.why
	if why == "" {
		why = "the new path carries nothing"
	}
	since := v.at
	m.fail(now)
	if back {
		return m.switchTo(now, from, why, false)
	}
	return m.elsewhere(now, since, why)
}

// fail makes the route in use rest.
func (m *Machine) fail(now time.Time) {
	m.rests.add(now, m.route.Endpoint)
	if m.route.Direct() {
		m.hold.died(now)
	}
	m.move = move{}
}

// died leaves a route that carries nothing. If it is the session that broke, or
// if there is nowhere to go, a handshake on the same route is tried first.
func (m *Machine) died(now time.Time, why string) []Action {
	c := m.ends.find(m.route.Endpoint)
	_, other := m.alternative(now, m.doubted)
	if m.route.Direct() && c != nil && c.answers(m.doubted) || m.route.Relayed() && !other {
		if !within(now, m.force.begun, proveTime) {
			return m.mend(now, why)
		}
	}
	m.fail(now)
	return m.elsewhere(now, m.doubted, why)
}

// mend makes a new handshake on the route in use, and verifies it like a move.
func (m *Machine) mend(now time.Time, why string) []Action {
	do := m.handshakeNow(now)
	m.pulse.forget()
	m.move = move{from: m.route, to: m.route, at: now, settled: now, deadline: now.Add(proveTime), first: m.pulse.number + 1, why: why}
	return append(do, m.ping(now)...)
}

// elsewhere takes the next best route, or begins again when there is none. What
// answered since then is a candidate.
func (m *Machine) elsewhere(now, since time.Time, why string) []Action {
	if to, ok := m.alternative(now, since); ok {
		return m.switchTo(now, to, why, false)
	}
	return m.lose(now, why, m.leads(now))
}

// alternative is the best route that is not the one in use: a candidate that
// answered since then, else a relay, else a candidate although direct paths are
// held down.
func (m *Machine) alternative(now, since time.Time) (Route, bool) {
	usable := func(ep netip.AddrPort) bool {
		return ep != m.route.Endpoint && !m.rests.has(now, ep)
	}
	c := m.ends.best(func(c *candidate) bool { return c.answers(since) && usable(c.endpoint) })
	if c != nil && (m.route.Direct() || m.hold.over(now)) {
		return Route{Endpoint: c.endpoint}, true
	}
	for _, r := range m.relays.list {
		if usable(r.Endpoint) {
			return r.Route, true
		}
	}
	if c != nil {
		return Route{Endpoint: c.endpoint}, true
	}
	return Route{}, false
}
