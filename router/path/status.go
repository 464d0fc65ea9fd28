package path

import (
	"math/bits"
	"net/netip"
	"slices"
	"time"
)

// DefaultIdle is how often a tunnel without traffic is pinged unless [Idle]
// says otherwise.
const DefaultIdle = 30 * time.Second

// Status is a machine's state for people.
type Status struct {
	State State
	Since time.Time // of the state or, if that changed later, of the route
	// Route is what packets use now, or, while the tunnel does not stand, what
	// was tried last; zero: nothing yet.
	Route Route
	// Endpoint is Route's.
	Endpoint netip.AddrPort
	Tries    int // since bring-up began
	// RTT through the tunnel, smoothed; 0: not measured on this route.
	RTT time.Duration
	// LeastRTT is the least that was measured on this route lately; 0: not
	// measured.
	LeastRTT time.Duration
	// Loss is the share of the last 64 pings that were not answered, 0 to 1.
	Loss       float64
	Pings      uint64 // sent since New
	Unanswered uint64 // of these
	Candidates []CandidateStatus
	// OneWay says that the peer's packets come here while nothing of ours is
	// answered: what we send does not arrive.
	OneWay  bool
	Changes uint64   // since New
	History []Change // the last 32, oldest first; a copy
}

// CandidateStatus is what is known of one direct endpoint of the peer.
type CandidateStatus struct {
	Endpoint netip.AddrPort
	Asked    time.Time     // when it was probed last; zero: never
	Answered time.Time     // when it answered last; zero: never
	RTT      time.Duration // of the probes, smoothed; 0: not known
}

// Status returns where the tunnel stands. It copies; the other accessors do
// not.
func (m *Machine) Status() Status {
	s := Status{
		State: m.state, Since: m.since,
		Route: m.route, Endpoint: m.route.Endpoint, Tries: m.up.tries,
		RTT: m.pulse.rtt, LeastRTT: m.pulse.floor.least(), Loss: m.pulse.loss(), Pings: m.pulse.sent, Unanswered: m.pulse.lost,
		OneWay: m.oneWay(), Changes: m.history.count, History: slices.Clone(m.history.last),
	}
	for _, c := range m.ends {
		s.Candidates = append(s.Candidates, CandidateStatus{c.endpoint, c.asked, c.answered, c.rtt})
	}
	return s
}

// State returns where the tunnel stands.
func (m *Machine) State() State { return m.state }

// Route returns what packets use now, or what was tried last.
func (m *Machine) Route() Route { return m.route }

// Since returns when the state or the route changed last.
func (m *Machine) Since() time.Time { return m.since }

// RTT returns the round trip through the tunnel, smoothed; 0: not measured on
// this route.
func (m *Machine) RTT() time.Duration { return m.pulse.rtt }

// Suspect reports whether pings are being lost, or a change of the route is not
// verified yet: a path over this peer is a bad choice at present.
func (m *Machine) Suspect() bool {
	return m.state != Established || m.pulse.streak > 0 && !m.deaf() || m.move.on()
}

// oneWay reports whether the peer is heard and does not hear us.
func (m *Machine) oneWay() bool {
	if m.state == Established && m.pulse.streak >= burst && !m.deaf() && m.pulse.judge(m.meter.rxAt) != dead {
		return true
	}
	return slices.ContainsFunc(m.ends, func(c *candidate) bool {
		return within(m.now, c.hinted, askedTime) && c.waiting >= goodProbes && !within(m.now, c.answered, askedTime)
	})
}

// loss is the share of the last pings that were lost.
func (p *pulse) loss() float64 {
	if p.count == 0 {
		return 0
	}
	return float64(bits.OnesCount64(p.results)) / float64(p.count)
}
