package path

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
)

// A peer whose kernel answers no pings keeps its tunnel while bytes come, and
// loses it when none do for long.
func TestPeerThatAnswersNoPings(t *testing.T) {
	for _, use := range []Route{{Endpoint: one}, viaR} {
		for _, decider := range []bool{true, false} {
			r := newRig(t, decider)
			r.deaf = true
			r.passes[use.Endpoint] = true
			if use.Relayed() {
				r.step(Relays{{Route: use}})
			}
			r.step(Introduced{Initiator: true, Candidates: []netip.AddrPort{one}})
			r.run(150 * time.Second)
			if s := r.machine.Status(); s.State != Established || s.Changes != 1 || s.OneWay || r.machine.Suspect() {
				t.Errorf("decider %t, %s: %s, %d changes, one way %t", decider, use, s.State, s.Changes, s.OneWay)
			}
			clear(r.passes)
			r.run(30 * time.Second)
			if s := r.machine.State(); s == Established {
				t.Errorf("decider %t, %s: %s, 30 s after its death: %s %v", decider, use, s, r.now, r.lines)
			}
		}
	}
}

// What is somebody's relay port is never the peer's own endpoint.
func TestRelayPorts(t *testing.T) {
	relay := viaS.Endpoint
	m := New(Config{Decider: true, Rand: none, RelayPort: func(ep netip.AddrPort) (crypto.Identity, bool) {
		return viaS.Via[0], ep == relay
	}})
	now := epoch
	for _, e := range []Event{
		Start{Candidates: []netip.AddrPort{relay, one}, Handshake: now.Add(-time.Second), Endpoint: relay},
		Candidates{relay, two},
		Asked{relay},
		Punched{[]netip.AddrPort{relay}},
		Pong{Endpoint: relay},
		Device{Handshake: now.Add(-time.Second), Endpoint: relay},
		Moved{},
	} {
		now = now.Add(time.Second)
		for _, a := range m.Step(now, e) {
			if p, ok := a.(Probe); ok && p.Endpoint == relay {
				t.Errorf("%T: %s", e, a)
			}
		}
		if !m.Route().Equal(viaS) {
			t.Fatalf("after %T: route %s, want %s", e, m.Route(), viaS)
		}
		for _, c := range m.Status().Candidates {
			if c.Endpoint == relay {
				t.Errorf("%T: a candidate", e)
			}
		}
	}
}

// A way with fewer relays that is not slower is taken: at once while the route
// is young, later after a while.
func TestFewerRelays(t *testing.T) {
	longer := Route{viaR.Endpoint, append(slices.Clone(viaR.Via), viaS.Via...)}
	for _, c := range []struct {
		name string
		age  time.Duration
		rtt  time.Duration // of the way with one relay, in ms, against 40
		want string
	}{
		{"young", 2 * time.Second, 40, "0s"},
		{"old", 20 * time.Second, 40, "30s"},
		{"a little slower", 20 * time.Second, 46, "30s"},
		{"slower", 20 * time.Second, 47, "never"},
	} {
		r := newRig(t, true)
		r.passes[longer.Endpoint], r.passes[viaS.Endpoint] = true, true
		r.device = Device{Handshake: epoch.Add(-time.Second), Endpoint: longer.Endpoint}
		list := Relays{{Route: longer, RTT: 40 * time.Millisecond}}
		r.step(list)
		r.step(Start{Handshake: r.device.Handshake, Endpoint: longer.Endpoint})
		r.run(c.age)
		from := r.now
		r.step(append(list, Relay{Route: viaS, RTT: c.rtt * time.Millisecond}))
		r.run(time.Minute)
		got := "never"
		for _, x := range r.machine.Status().History[1:] {
			got = (x.At.Sub(epoch) - from).String()
		}
		if got != c.want {
			t.Errorf("%s: changed after %s, want %s", c.name, got, c.want)
		}
	}
}

// A peer that names other endpoints all the time has few of them probed.
func TestProbeBudget(t *testing.T) {
	m := New(Config{Decider: true, Rand: none})
	m.Step(epoch, Start{})
	probes := 0
	count := func(do []Action) {
		for _, a := range do {
			if _, ok := a.(Probe); ok {
				probes++
			}
		}
	}
	const seconds = 30
	for i := range seconds * 20 {
		now := epoch.Add(time.Duration(i) * 50 * time.Millisecond)
		var list Candidates
		for k := range 8 {
			list = append(list, netip.AddrPortFrom(one.Addr(), uint16(1024+8*i+k)))
		}
		count(m.Step(now, list))
		count(m.Step(now, Asked{netip.AddrPortFrom(two.Addr(), uint16(1024+i))}))
	}
	if most := budgetSize + int(seconds*time.Second/budgetGap); probes > most || probes < most/2 {
		t.Errorf("%d probes in %d s, want at most %d", probes, seconds, most)
	}
}

// Volleys rest 40 s, whatever becomes known meanwhile, but for one.
func TestPunchRests(t *testing.T) {
	r := standing(t, true, viaR)
	r.run(2 * time.Minute)
	r.lines, r.verbose = nil, true
	for i := range 240 {
		r.step(Candidates{one, two, netip.AddrPortFrom(three.Addr(), uint16(1024+i))})
		r.run(time.Second)
	}
	var last time.Duration
	var gaps []time.Duration
	lone := 0
	for _, l := range r.lines {
		at, what, _ := strings.Cut(l, " ")
		d, err := time.ParseDuration(at)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.Contains(what, "ttl"):
			if d-last > time.Second {
				gaps = append(gaps, d-last)
			}
			last = d
		case strings.HasPrefix(what, "probe") && d-last > time.Second:
			lone++
		}
	}
	short := 0
	for _, g := range gaps[1:] {
		if g < punchRest {
			short++
		}
	}
	if len(gaps) < 3 || short > maxAgain || lone > 3*240/40 {
		t.Errorf("volleys after %v, %d lone probes", gaps, lone)
	}
}

func TestFasterRelay(t *testing.T) {
	rtts := func(a, b time.Duration) Relays {
		return Relays{{Route: viaR, RTT: a * time.Millisecond}, {Route: viaS, RTT: b * time.Millisecond}}
	}
	for _, c := range []struct {
		at     []time.Duration // seconds
		lists  []Relays
		change string
	}{
		{[]time.Duration{0}, []Relays{rtts(40, 29)}, ""}, // 27 %
		{[]time.Duration{0}, []Relays{rtts(30, 21)}, ""}, // 9 ms
		{[]time.Duration{0}, []Relays{rtts(40, 28)}, "30s"},
		{[]time.Duration{0, 29}, []Relays{rtts(40, 20), rtts(40, 38)}, ""},
		{[]time.Duration{0, 10, 11}, []Relays{rtts(40, 20), rtts(40, 38), rtts(40, 20)}, "41s"},
		{[]time.Duration{0}, []Relays{rtts(40, 0)}, ""}, // not known
		{[]time.Duration{0, 31}, []Relays{rtts(40, 20), rtts(10, 40)}, "30s 1m30s"},
	} {
		r := standing(t, true, viaR)
		from := r.now
		for i, list := range c.lists {
			r.after(c.at[i]*time.Second, func() { r.step(list) })
		}
		r.run(2 * time.Minute)
		var got string
		for _, change := range r.machine.Status().History[1:] {
			got += fmt.Sprint(change.At.Sub(epoch)-from) + " "
		}
		if want := c.change; got != want && got != want+" " {
			t.Errorf("%v: changes at %q, want %q", c.lists, got, want)
		}
	}
}

// The peer's probe makes us curious again, in a bring-up that has lasted long.
func TestAskedInBringUp(t *testing.T) {
	r := newRig(t, true)
	r.step(Start{Candidates: []netip.AddrPort{one, two}})
	r.run(10 * time.Minute)
	for r.machine.Route().Endpoint != one { // what was tried last is probed less
		r.run(time.Second)
	}
	r.lines, r.verbose = nil, true
	from := r.now
	r.step(Asked{two})
	r.run(10 * time.Second)
	var probes int
	for _, l := range r.lines {
		if strings.Contains(l, "probe "+two.String()) {
			probes++
		}
	}
	if probes < 3 {
		t.Errorf("%d probes in 10 s from %s\n%s", probes, from, strings.Join(r.lines, "\n"))
	}
}
