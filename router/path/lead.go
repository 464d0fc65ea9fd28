package path

import "time"

// The times of a follower that decides because nobody else does.
const (
	// leadAfter is how long there may be no sign of the decider's daemon once
	// gossip has found it dead, which takes 12 s at least. A relay forgets a
	// host that does not bind after 60 s, and the relayed path ends then.
	leadAfter = 20 * time.Second
	// Whether a direct path works cannot be asked of a host without a daemon,
	// only tried; that costs up to two seconds if it does not.
	leadGap    = time.Minute // between two tries, doubling
	maxLeadGap = 10 * time.Minute
)

// lead is the part of the end that does not decide while the other's daemon is
// gone and its kernel keeps the tunnel (docs/protocol.md#paths). It is handed back
// with the first sign of life.
type lead struct {
	missed time.Time     // since when the peer's daemon seems to be gone; zero: it does not
	next   time.Time     // when a direct path is tried; zero: not yet planned
	gap    time.Duration // between the last two tries
}

// takeAlive takes the cluster's word for whether the peer's daemon runs.
func (m *Machine) takeAlive(now time.Time, is bool) {
	switch {
	case m.decider:
	case is:
		m.lead = lead{}
		m.handBack(now)
	case m.lead.missed.IsZero():
		m.lead = lead{missed: now}
	}
}

// daemonSeen takes a sign of the peer's daemon: it answered a probe, or sent one.
func (m *Machine) daemonSeen(now time.Time) {
	if !m.lead.missed.IsZero() {
		m.lead = lead{missed: now} // the cluster may be mistaken for ever
		m.handBack(now)
	}
}

// handBack leaves it to the decider to initiate, as in any bring-up without an
// introduction: two ends that initiate void each other's handshakes.
func (m *Machine) handBack(now time.Time) {
	u := &m.up
	if !u.led {
		return
	}
	u.led, u.initiator = false, false
	if m.state != Established {
		m.enter(now, Pending)
		u.due = laterOf(u.due, now.Add(answerWait+m.rand(answerJitter)))
	}
}

// leads reports whether this end chooses the path now.
func (m *Machine) leads(now time.Time) bool {
	return m.decider || !m.lead.missed.IsZero() && now.Sub(m.lead.missed) >= leadAfter
}

// leadDue is when the follower tries a direct path in the decider's stead; zero:
// it does not.
func (m *Machine) leadDue() time.Time {
	if m.decider || m.lead.missed.IsZero() || !m.route.Relayed() || m.move.on() {
		return time.Time{}
	}
	return laterOf(m.lead.missed.Add(leadAfter), m.lead.next)
}

// tryDirect takes a direct path that worked before, and goes back if packets do
// not pass.
func (m *Machine) tryDirect(now time.Time) []Action {
	if !reached(now, m.leadDue()) {
		return nil
	}
	l := &m.lead
	l.gap = min(max(2*l.gap, leadGap), maxLeadGap)
	l.next = now.Add(l.gap)
	if m.pulse.streak > 0 || !m.hold.over(now) {
		return nil
	}
	var to *candidate
	for _, c := range m.ends { // the one that was tried the longest ago
		worked := !c.answered.IsZero() || !c.carried.IsZero()
		if worked && !m.rests.has(now, c.endpoint) && (to == nil || c.tried.Before(to.tried)) {
			to = c
		}
	}
	if to == nil {
		return nil
	}
	to.tried = now
	return m.switchTo(now, Route{Endpoint: to.endpoint}, "the other daemon is gone, trying the direct path", true)
}
