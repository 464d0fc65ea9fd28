package path

import (
	"fmt"
	"net/netip"
	"time"
)

// The times of watching a tunnel that stands.
const (
	// followerWait is how long the end that does not decide leaves a dead path
	// to the other one.
	followerWait   = 8 * time.Second
	followerJitter = 2 * time.Second
	// helpWait is how long it leaves a session that a relay forgot.
	helpWait   = 2500 * time.Millisecond
	helpJitter = time.Second

	// A relay's notice does not say whose session it is that is unknown there.
	// A ping says whether it is ours: its answer comes within two round trips.
	noticeWait    = 300 * time.Millisecond // when these are not known
	minNoticeWait = 100 * time.Millisecond
	forgottenGap  = 2 * time.Second        // least time between handshakes for notices
	restartedGap  = 300 * time.Millisecond // the same for relays that begin anew
)

// arrive begins to use a route: after a handshake of bring-up, and after each
// change.
func (m *Machine) arrive(now time.Time) {
	m.pulse.forget()
	m.stray, m.giveIn = stray{}, time.Time{}
	m.meter.lively = now
	m.relays.gone, m.relays.since, m.relays.stale = time.Time{}, time.Time{}, false
	if m.route.Direct() {
		if m.ends.find(m.route.Endpoint) == nil {
			m.ends.hint(now, m.route.Endpoint, m.route.Endpoint)
		}
	}
	switch {
	case !m.route.Relayed():
		m.punch.disarm()
	case m.decider && m.punch.due.IsZero():
		m.punch.arm(now)
	}
	m.settle(now)
}

// read takes what the device reports.
func (m *Machine) read(now time.Time, e Device) []Action {
	before := m.device.Endpoint
	m.device = e
	m.told = now
	if m.meter.read(now, e.Rx, e.Tx) {
		m.giveIn = time.Time{}
		m.came(now)
	}
	do := m.observe(now, e.Handshake)
	if m.state != Established {
		if e.Endpoint.IsValid() && e.Endpoint != before && e.Endpoint != m.route.Endpoint {
			m.up.learnt = e.Endpoint
		}
		return do
	}
	if m.meter.stalled(now) {
		m.pulse.anxious = true
	}
	return append(do, m.follow(now, e.Endpoint)...)
}

// ping asks the peer through the tunnel.
func (m *Machine) ping(now time.Time) []Action {
	if m.told.IsZero() || m.state != Established {
		return nil
	}
	m.meter.pinged(now)
	m.pulse.slack = m.rand(m.idle / 8)
	return []Action{m.pulse.send(now)}
}

// pingDue is when the next ping goes; zero: none does.
func (m *Machine) pingDue(now time.Time) time.Time {
	p := &m.pulse
	if m.told.IsZero() {
		return time.Time{}
	}
	if p.last.IsZero() {
		return now
	}
	suspect := (p.streak > 0 || p.anxious) && !m.deaf()
	switch {
	case suspect && (p.streak < burst || m.leads(now) && p.streak < oneWayBurst):
		return p.last.Add(burstGap)
	case m.move.on() && m.route.Direct():
		return p.last.Add(burstGap)
	case m.move.on():
		return p.last.Add(proveGap)
	case suspect || m.meter.busy(now):
		return p.last.Add(busyGap)
	}
	idle := p.last.Add(m.idle + p.slack)
	renew := m.fresh.Add(renewAge)
	if next := p.last.Add(renewGap); renew.Before(next) {
		renew = next
	}
	return first(idle, renew)
}

// echo takes the answer to a ping.
func (m *Machine) echo(now time.Time, e Echo) {
	if m.state != Established {
		return
	}
	if m.pulse.echo(now, e.Number, e.RTT) {
		m.meter.echoed(now)
	}
	m.giveIn, m.proved, m.echoed = time.Time{}, true, true
	m.force.echoed(e.Number)
	m.move.echo(e.Number)
}

// trip is the round trip of the route in use, as far as it is known; else 0.
func (m *Machine) trip() time.Duration {
	if m.pulse.rtt > 0 {
		return m.pulse.rtt
	}
	if c := m.ends.find(m.route.Endpoint); c != nil {
		return c.rtt
	}
	r, _ := m.relays.find(m.route.Endpoint)
	return r.RTT
}

// watch does what is due of a tunnel that stands.
func (m *Machine) watch(now time.Time) []Action {
	if reached(now, m.fresh.Add(Lifetime)) {
		if !within(now, m.pulse.answer, Lifetime/12) {
			return m.lost(now, fmt.Sprintf("the last handshake is %s old", Lifetime))
		}
		m.fresh = now.Add(renewGap - Lifetime) // the clock was set, since packets pass
	}
	doubts := m.pulse.streak >= doubtStreak
	m.pulse.expire(now)
	var do []Action
	if !doubts && m.pulse.streak >= doubtStreak {
		do = m.doubt(now)
	}
	do = append(do, m.verify(now)...)
	do = append(do, m.judge(now)...)
	if m.state != Established {
		return do // there was nowhere else to go
	}
	do = append(do, m.repeat(now)...)
	do = append(do, m.place(now)...)
	do = append(do, m.leaveRelay(now)...)
	do = append(do, m.tryDirect(now)...)
	do = append(do, m.returnTo(now)...)
	if reached(now, m.pingDue(now)) {
		do = append(do, m.ping(now)...)
	}
	return do
}

// nextWatch is when watch does something.
func (m *Machine) nextWatch() time.Time {
	next := first(m.fresh.Add(Lifetime), m.pingDue(m.now), m.pulse.expiry(),
		m.move.deadline, m.force.next, m.stray.next, m.leadDue(), m.returnDue(m.now))
	if m.giveIn.After(m.now) { // else it waits for a look at the device
		next = first(next, m.giveIn)
	}
	if m.leads(m.now) && m.route.Relayed() && !m.move.on() {
		next = first(next, m.relays.gone, m.relays.due(m.young()))
	}
	return next
}

// doubt asks everybody else when a few pings in a row were lost, so that it is
// known who answers when the path turns out to be dead. Relays are asked by a
// bind: one may have begun anew, or our mapping there may be another; and the
// decider may be about to send through any of them.
func (m *Machine) doubt(now time.Time) []Action {
	m.doubted = now
	for _, c := range m.ends {
		if m.route.Direct() || c.proven(now) {
			c.hurry(now)
		}
	}
	var do []Action
	if _, offered := m.relays.find(m.route.Endpoint); m.route.Relayed() && !offered {
		do = append(do, Rebind{m.route.Endpoint})
	}
	return append(do, rebind(m.relays.list)...)
}

// deaf reports whether the peer's kernel answers no pings: it never did, and yet
// what comes from it is more than handshakes. Only bytes tell of its death then.
func (m *Machine) deaf() bool { return !m.echoed && m.meter.total >= pingBytes }

// deafTime without a byte is a death: WireGuard sends at least a keepalive
// every 10 s when it receives.
const deafTime = 15 * time.Second

// judge acts when the path is dead.
func (m *Machine) judge(now time.Time) []Action {
	v := m.pulse.judge(m.meter.rxAt)
	if v == alive || m.move.on() || m.state != Established {
		return nil
	}
	// Without a look at the device after the last ping nobody can say that
	// nothing came.
	if v == dead && m.told.Before(m.pulse.lostAt[len(m.pulse.lostAt)-1]) {
		return nil
	}
	switch {
	case m.deaf() && within(now, m.meter.rxAt, deafTime):
		return nil
	case m.up.initiator && !m.proved && !m.deaf():
		return m.lose(now, "a handshake completed, but nothing is answered", true)
	case !m.leads(now):
		return m.wait(now, v)
	}
	why := m.silence(now)
	if v == oneWay {
		why = "one way: packets come, none of ours is answered"
	}
	return m.died(now, why)
}

// wait is what the end that does not decide does about a dead path: nothing,
// for long.
func (m *Machine) wait(now time.Time, v verdict) []Action {
	switch {
	case v == oneWay:
		return nil // the decider hears nothing, and acts
	case m.giveIn.IsZero():
		m.giveIn = laterOf(m.pulse.mute, m.meter.rxAt).Add(followerWait + m.rand(followerJitter))
	}
	if !reached(now, m.giveIn) {
		return nil
	}
	m.giveIn = time.Time{}
	return m.died(now, m.silence(now))
}

// silence says for how long nothing of ours was answered.
func (m *Machine) silence(now time.Time) string {
	return "no answer for " + round(now.Sub(m.pulse.mute)).String()
}

// restarted makes a new handshake because the relay in use began anew.
func (m *Machine) restarted(now time.Time, ep netip.AddrPort) []Action {
	switch {
	case m.state != Established:
		m.offered(now, ep)
	case ep != m.route.Endpoint || !m.route.Relayed():
	case !m.leads(now):
		return m.forgotten(now)
	case !within(now, m.force.begun, restartedGap):
		return m.handshakeNow(now)
	}
	return nil
}

// forgotten makes a new handshake if it is true that a relay does not know the
// session. The end that does not decide leaves that to the other one first.
func (m *Machine) forgotten(now time.Time) []Action {
	if m.state != Established || !m.route.Relayed() || m.force.on() || within(now, m.force.begun, forgottenGap) {
		return nil
	}
	wait := min(max(2*m.trip(), minNoticeWait), maxWait)
	switch {
	case !m.leads(now):
		wait = helpWait + m.rand(helpJitter)
	case m.trip() == 0:
		wait = noticeWait
	}
	m.force = force{begun: m.force.begun, at: now, first: m.pulse.number + 1, next: now.Add(wait), help: true}
	return m.ping(now)
}
