package path

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	epoch = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	one   = netip.MustParseAddrPort("192.0.2.1:6784")
	two   = netip.MustParseAddrPort("192.0.2.2:6784")
	three = netip.MustParseAddrPort("192.0.2.3:6784")
)

// none takes chance out: everything happens as early as it may.
func none(time.Duration) time.Duration { return 0 }

// shaken stands for a handshake that the device tells of, and for nothing else.
type shaken struct{ at time.Time }

func (shaken) event() {}

// take takes a step; [shaken] is no event for others.
func (s step) take(m *Machine) []Action {
	now := epoch.Add(s.at)
	if e, ok := s.in.(shaken); ok {
		m.now = now
		return append(m.observe(now, e.at), m.tick(now)...)
	}
	return m.Step(now, s.in)
}

type step struct {
	at   time.Duration // after epoch
	in   Event
	want string // actions, then the state
}

func TestStep(t *testing.T) {
	both := []netip.AddrPort{one, two}
	s, ms := time.Second, time.Millisecond
	at := func(d time.Duration) shaken { return shaken{epoch.Add(d)} }
	for _, c := range []struct {
		name    string
		decider bool
		steps   []step
	}{
		{"the dialler initiates at once", false, []step{
			{0, Introduced{Initiator: true, Candidates: both}, "re-add 192.0.2.1:6784; connecting"},
			{100 * ms, shaken{}, "connecting"},
			{200 * ms, at(150 * ms), "established"},
		}},
		{"the first candidate has two tries, the others one", false, []step{
			{0, Introduced{Initiator: true, Candidates: []netip.AddrPort{one, two, three}}, "re-add 192.0.2.1:6784; connecting"},
			{300 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
			{1300*ms - 1, Tick{}, "connecting"},
			{1300 * ms, Tick{}, "endpoint 192.0.2.2:6784, initiate; connecting"},
			{2300 * ms, Tick{}, "endpoint 192.0.2.3:6784, initiate; connecting"},
			{3300 * ms, Tick{}, "connecting"}, // none of them ever answered a probe
			{5299 * ms, Tick{}, "connecting"},
			{5300 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
			{6300 * ms, Tick{}, "endpoint 192.0.2.2:6784, initiate; connecting"},
			{8299 * ms, Tick{}, "connecting"}, // the gaps double
			{8300 * ms, Tick{}, "endpoint 192.0.2.3:6784, initiate; connecting"},
		}},
		{"the other end has no endpoint until 2.5 s have passed", false, []step{
			{0, Introduced{Candidates: both}, "re-add; pending"},
			{2499 * ms, Tick{}, "pending"},
			{2500 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
		}},
		{"the other end is met in time", true, []step{
			{0, Introduced{Candidates: both}, "re-add; pending"},
			{200 * ms, at(200 * ms), "established"},
			{30 * s, Tick{}, "established"},
		}},
		{"a second introduction makes us the initiator, who lets it settle", true, []step{
			{0, Introduced{Candidates: both}, "re-add; pending"},
			{50 * ms, Introduced{Initiator: true, Candidates: both}, "re-add; pending"},
			{349 * ms, Tick{}, "pending"},
			{350 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
		}},
		{"a second introduction takes the initiative from us", false, []step{
			{0, Introduced{Initiator: true, Candidates: both}, "re-add 192.0.2.1:6784; connecting"},
			{50 * ms, Introduced{Candidates: both}, "re-add; pending"},
			{300 * ms, Tick{}, "pending"},
			{2550 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
		}},
		{"an introduction re-adds a peer whose tunnel stands", true, []step{
			{0, Start{Candidates: both, Handshake: epoch.Add(-20 * s)}, "established"},
			{s, Introduced{Initiator: true, Candidates: both}, "re-add; pending"},
			{1300 * ms, at(-20 * s), "endpoint 192.0.2.1:6784, initiate; connecting"}, // an old answer
			{1400 * ms, at(1350 * ms), "established"},
		}},
		{"without an introduction the decider initiates, in its turn", true, []step{
			{0, Start{Candidates: both, Delay: 700 * ms}, "pending"},
			{699 * ms, Tick{}, "pending"},
			{700 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
		}},
		{"without an introduction the other one waits, in its turn too", false, []step{
			{0, Start{Candidates: both, Delay: 700 * ms}, "pending"},
			{3199 * ms, Tick{}, "pending"},
			{3200 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
		}},
		{"a host that was restarted tries once at once, whoever decides", false, []step{
			{0, Start{Candidates: []netip.AddrPort{one}, Delay: 100 * ms, Resumed: true}, "pending"},
			{100 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; pending"},
			{2599 * ms, Tick{}, "pending"}, // the decider may have restarted, too
			{2600 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
		}},
		{"and not again before its turn, whatever is heard meanwhile", false, []step{
			{0, Start{Candidates: []netip.AddrPort{one}, Resumed: true}, "endpoint 192.0.2.1:6784, initiate; pending"},
			{500 * ms, Candidates(both), "pending"},
			{700 * ms, Relays{{Route: viaR}}, "pending"},
			{900 * ms, Pong{Endpoint: one}, "rebind 198.51.100.1:6783; pending"},
			{2499 * ms, Tick{}, "pending"},
			{2500 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
		}},
		{"nor later than in its turn, without a candidate", false, []step{
			{0, Start{Resumed: true}, "pending"},
			{500 * ms, Candidates{two}, "pending"},
			{2499 * ms, Tick{}, "pending"},
			{2500 * ms, Tick{}, "endpoint 192.0.2.2:6784, initiate; connecting"},
		}},
		{"a tunnel that outlived the daemon is left alone", true, []step{
			{0, Start{Candidates: both, Handshake: epoch.Add(-179 * s)}, "established"},
			{500 * ms, at(-179 * s), "established"},
		}},
		{"one that did not is begun again", false, []step{
			{0, Start{Candidates: both, Handshake: epoch.Add(-180 * s)}, "re-add; pending"},
			{100 * ms, at(-180 * s), "pending"},
		}},
		{"the decider re-adds after 6 s", true, []step{
			{0, Start{Candidates: []netip.AddrPort{one}}, "endpoint 192.0.2.1:6784, initiate; connecting"},
			{300 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
			{900 * ms, Pong{Endpoint: one}, "connecting"},
			{1300 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
			{5800 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
			{5999 * ms, Tick{}, "connecting"},
			{6000 * ms, Tick{}, "re-add 192.0.2.1:6784; connecting"},
			{12000 * ms, Tick{}, "re-add 192.0.2.1:6784; connecting"},
			{23999 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
			{24000 * ms, Tick{}, "re-add 192.0.2.1:6784; connecting"}, // ever less often
		}},
		{"a handshake of 180 s is none", true, []step{
			{0, Introduced{Initiator: true, Candidates: both}, "re-add 192.0.2.1:6784; connecting"},
			{s, at(900 * ms), "established"},
			{180900*ms - 1, at(900 * ms), "established"},
			{180900 * ms, at(900 * ms), "re-add; pending"},
			{181200 * ms, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
		}},
		{"a new handshake in time is enough", false, []step{
			{0, Introduced{Initiator: true, Candidates: both}, "re-add 192.0.2.1:6784; connecting"},
			{s, at(900 * ms), "established"},
			{140 * s, at(139 * s), "established"},
			{318 * s, Tick{}, "established"},
			{319 * s, Tick{}, "re-add; pending"}, // and then the decider initiates, not the dialler
			{319*s + 400*ms, Tick{}, "pending"},
		}},
		{"a device made anew has no handshakes", true, []step{
			{0, Start{Candidates: both, Handshake: epoch.Add(-s)}, "established"},
			{s, shaken{}, "re-add; pending"},
		}},
		{"no candidate: nothing to try until there is one", true, []step{
			{0, Start{}, "pending"},
			{s, Tick{}, "pending"},
			{2 * s, Candidates{two}, "endpoint 192.0.2.2:6784, initiate; connecting"},
		}},
		{"no candidate, but an introduction", false, []step{
			{0, Introduced{Initiator: true}, "re-add; pending"},
			{s, Tick{}, "pending"},
			{2 * s, Candidates{two}, "endpoint 192.0.2.2:6784, initiate; connecting"},
		}},
		{"new candidates do not make the waiting end hurry", false, []step{
			{0, Introduced{Candidates: both}, "re-add; pending"},
			{100 * ms, Candidates{three}, "pending"},
			{2500 * ms, Tick{}, "endpoint 192.0.2.3:6784, initiate; connecting"},
		}},
		{"a new candidate is tried soon after long failure", false, []step{
			{0, Start{Candidates: []netip.AddrPort{one}}, "pending"},
			{300 * s, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
			{301 * s, Tick{}, "endpoint 192.0.2.1:6784, initiate; connecting"},
			{302 * s, Tick{}, "connecting"}, // the gaps of this end are longer
			{303 * s, Tick{}, "connecting"},
			{304 * s, Tick{}, "connecting"},
			{305 * s, Tick{}, "connecting"},
			{305*s + 500*ms, Candidates{three}, "connecting"},
			{306 * s, Tick{}, "endpoint 192.0.2.3:6784, initiate; connecting"},
		}},
		{"only the first start counts", true, []step{
			{0, Start{Candidates: both}, "endpoint 192.0.2.1:6784, initiate; connecting"},
			{100 * ms, Start{Candidates: both}, "connecting"},
		}},
		{"nothing happens before it is told of the peer", true, []step{
			{0, Tick{}, "pending"},
			{s, at(500 * ms), "pending"},
			{2 * s, Candidates{one}, "pending"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := New(Config{Decider: c.decider, Rand: none})
			var got, want []string
			for _, s := range c.steps {
				got = append(got, fmt.Sprint(s.at, ": ", show(s.take(m), m)))
				want = append(want, fmt.Sprint(s.at, ": ", s.want))
				if err := m.check(epoch.Add(s.at)); err != nil {
					t.Errorf("after %s: %v", s.at, err)
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error("(-want +got)\n" + d)
			}
		})
	}
}

// show leaves out what all bring-ups have in common: probes and what is told
// of changes.
func show(do []Action, m *Machine) string {
	var words []string
	for _, a := range do {
		switch a.(type) {
		case Probe, Changed:
		default:
			words = append(words, a.String())
		}
	}
	if len(words) == 0 {
		return m.Status().State.String()
	}
	return strings.Join(words, ", ") + "; " + m.Status().State.String()
}

// check says what is wrong with a machine after a step.
func (m *Machine) check(now time.Time) error {
	u := &m.up
	stands := m.state == Established
	switch {
	case stands && !(u.due.IsZero() && u.readd.IsZero()):
		return fmt.Errorf("established, and yet to try at %s or re-add at %s", u.due, u.readd)
	case m.started && !stands && len(m.ends.listed()) > 0 && u.due.IsZero():
		return fmt.Errorf("%s with candidates, and no try is due", m.state)
	case !stands && m.decider != !u.readd.IsZero() && m.started:
		return fmt.Errorf("%s, decider %t, re-add at %s", m.state, m.decider, u.readd)
	case m.state == Connecting && u.tries == 0:
		return fmt.Errorf("connecting to %s, never tried", m.route)
	case !stands && (m.move.on() || m.force.on() || m.stray.endpoint.IsValid()):
		return fmt.Errorf("%s, and yet in the middle of a change", m.state)
	case stands && !m.told.IsZero() && !m.route.Endpoint.IsValid() && m.device.Endpoint.IsValid():
		return fmt.Errorf("established without a route")
	case m.move.on() && !m.move.to.Equal(m.route):
		return fmt.Errorf("moves to %s, but uses %s", m.move.to, m.route)
	case len(m.ends) > maxListed+maxHints+1 || len(m.rests) > maxListed+maxHints+maxRelays+8:
		return fmt.Errorf("%d endpoints and %d that rest are too many", len(m.ends), len(m.rests))
	case len(m.pulse.flying) > oneWayBurst:
		return fmt.Errorf("%d pings in flight", len(m.pulse.flying))
	case !m.Next().IsZero() && !m.Next().After(now):
		return fmt.Errorf("next step was due %s ago", now.Sub(m.Next()))
	case m.started && m.since.IsZero() || m.since.After(now):
		return fmt.Errorf("%s since %s", m.state, m.since)
	}
	return nil
}

// A machine must sleep until Next without missing anything.
func TestNext(t *testing.T) {
	m := New(Config{Decider: true, Rand: none})
	if n := m.Next(); !n.IsZero() {
		t.Errorf("before the start: %s", n)
	}
	now, idle := epoch, 0
	m.Step(now, Introduced{Initiator: true, Candidates: []netip.AddrPort{one}})
	for i := range 1000 {
		n := m.Next()
		if !n.After(now) {
			t.Fatalf("step %d at %s: next is %s", i, now.Sub(epoch), n.Sub(epoch))
		}
		if do := m.Step(n.Add(-1), Tick{}); len(do) > 0 {
			t.Fatalf("step %d: %v, a moment before Next", i, do)
		}
		if do := m.Step(n, Tick{}); len(do) == 0 {
			idle++
		}
		if n.Sub(now) > maxGap+maxGap/4 {
			t.Fatalf("step %d: a silence of %s", i, n.Sub(now))
		}
		now = n
	}
	if idle > 100 {
		t.Errorf("nothing to do at %d of 1000 ticks", idle)
	}
}

// The share of chance is what docs/protocol.md#bringing-a-tunnel-up says.
func TestChance(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for range 2000 {
		m := New(Config{})
		m.Step(epoch, Introduced{Candidates: []netip.AddrPort{one}})
		d := m.up.due.Sub(epoch)
		least, most = min(least, d), max(most, d)
	}
	if least < 2500*time.Millisecond || least > 2600*time.Millisecond || most < 3400*time.Millisecond || most >= 3500*time.Millisecond {
		t.Errorf("the waiting end sets its candidate after %s to %s, want 2.5 s to 3.5 s", least, most)
	}
}

// Two ends that begin in one moment do not try a relay in one moment.
func TestRelayChance(t *testing.T) {
	begun := make(map[time.Time]bool)
	for range 100 {
		m := New(Config{Decider: true})
		m.Step(epoch, Relays{{Route: viaR}})
		m.Step(epoch, Start{})
		if at := m.up.relays.Sub(epoch); at < directFirst || at >= directFirst+relayJitter {
			t.Fatalf("a relay is tried after %s", at)
		}
		begun[m.up.relays.Truncate(20*time.Millisecond)] = true
	}
	if len(begun) < 5 {
		t.Errorf("all begin at the same time: %v", begun)
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		i, n int
		want time.Duration
	}{
		{0, 0, 0},
		{0, 1, 0},
		{1, 2, 10 * time.Millisecond},
		{3, 4, 30 * time.Millisecond}, // five hosts of a small cluster: at once, as far as people notice
		{99, 100, 990 * time.Millisecond},
		{999, 1000, 9990 * time.Millisecond},
		{5000, 1000, 9990 * time.Millisecond}, // later ones do not wait longer
	} {
		if got := Spread(c.i, c.n); got != c.want {
			t.Errorf("Spread(%d, %d) = %s, want %s", c.i, c.n, got, c.want)
		}
	}
	for _, n := range []int{1, 7, 100, 1000} {
		perSecond := make(map[time.Duration]int)
		for i := range n {
			perSecond[Spread(i, n).Truncate(time.Second)]++
		}
		for at, k := range perSecond {
			if k > 100 {
				t.Errorf("of %d peers %d begin within the second after %s", n, k, at)
			}
		}
	}
}
