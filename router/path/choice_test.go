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

// Names in the wanted lines: one, two and three are endpoints, R and S relays.
func TestChoice(t *testing.T) {
	for _, c := range []struct {
		name    string
		decider bool
		use     Route
		first   func(r *rig) // before the clock starts
		do      func(r *rig)
		want    []string
	}{
		{
			"a dead direct path gives way to the best relay, and is returned to", true,
			Route{Endpoint: one},
			nil,
			func(r *rig) {
				r.passes[one] = false
				r.run(4 * time.Second)
				r.passes[one], r.opens[one] = true, true
				r.run(60 * time.Second)
			},
			[]string{
				"800ms rebind R", "800ms rebind S",
				"1.9s quiet one for 300ms", "1.9s endpoint R", "1.9s initiate",
				"1.9s changed: established one -> established R: no answer for 1.8s",
				"2.9s punch",
				"14.92s quiet R for 300ms", "14.92s endpoint one",
				"14.92s changed: established R -> established one: the direct path answers",
			},
		},
		{
			"one that dies soon after its return is held down for longer", true,
			Route{Endpoint: one},
			func(r *rig) {
				r.passes[one] = false
				r.run(4 * time.Second)
				r.passes[one], r.opens[one] = true, true
				r.run(60 * time.Second)
			},
			func(r *rig) {
				r.passes[one], r.opens[one] = false, false
				r.run(4 * time.Second)
				r.passes[one], r.opens[one] = true, true
				r.run(60 * time.Second)
			},
			[]string{
				"800ms rebind R", "800ms rebind S",
				"1.9s quiet one for 300ms", "1.9s endpoint R", "1.9s initiate",
				"1.9s changed: established one -> established R: no answer for 1.8s",
				"2.9s punch",
				"24.92s quiet R for 300ms", "24.92s endpoint one",
				"24.92s changed: established R -> established one: the direct path answers",
			},
		},
		{
			"another address that answers is better than a relay", true,
			Route{Endpoint: one},
			nil,
			func(r *rig) {
				r.passes[one], r.opens[two] = false, true
				r.run(5 * time.Second)
			},
			[]string{
				"800ms rebind R", "800ms rebind S",
				"1.9s quiet one for 300ms", "1.9s endpoint two",
				"1.9s changed: established one -> established two: no answer for 1.8s",
			},
		},
		{
			"one way: bytes come, nothing is answered", true,
			Route{Endpoint: one},
			nil,
			func(r *rig) {
				r.deaf = true
				r.run(2 * time.Second)
				if r.machine.Status().OneWay {
					t.Error("one way, after 2 s already")
				}
				r.run(1500 * time.Millisecond)
				if !r.machine.Status().OneWay {
					t.Error("not one way")
				}
				r.run(time.Second)
			},
			[]string{
				"1s rebind R",
				"1s rebind S",
				"3.7s quiet one for 300ms",
				"3.7s endpoint R",
				"3.7s initiate",
				"3.7s changed: established one -> established R: one way: packets come, none of ours is answered",
			},
		},
		{
			"probes pass and pings do not: it is the session", true,
			Route{Endpoint: one},
			func(r *rig) { r.opens[one] = true },
			func(r *rig) {
				r.broken = true
				r.run(10 * time.Second)
			},
			[]string{"800ms rebind R", "800ms rebind S", "1.9s initiate"},
		},
		{
			"a path on which a new session does not help either is dead", true,
			Route{Endpoint: one},
			func(r *rig) { r.opens[one] = true },
			func(r *rig) {
				r.passes[one] = false
				r.run(10 * time.Second)
			},
			[]string{
				"800ms rebind R",
				"800ms rebind S",
				"1.9s initiate",
				"2.9s initiate",
				"3.1s rebind R",
				"3.1s rebind S",
				"3.9s initiate",
				"4.9s endpoint R",
				"4.9s initiate",
				"4.9s changed: established one -> established R: no answer for 1.8s",
			},
		},
		{
			"a new path that carries nothing is left again", true, viaR, nil,
			func(r *rig) {
				r.opens[one] = true
				r.step(Asked{one})
				r.passes[one] = false
				r.run(20 * time.Second)
			},
			[]string{
				"2.02s quiet R for 300ms",
				"2.02s endpoint one",
				"2.02s changed: established R -> established one: the direct path answers",
				"3.22s rebind R",
				"3.22s rebind S",
				"3.56s quiet one for 300ms",
				"3.56s endpoint R",
				"3.56s initiate",
				"3.56s changed: established one -> established R: the new path carries nothing",
				"14.58s quiet R for 300ms",
				"14.58s endpoint one",
				"14.58s changed: established R -> established one: the direct path answers",
				"15.78s rebind R",
				"15.78s rebind S",
				"16.12s quiet one for 300ms",
				"16.12s endpoint R",
				"16.12s initiate",
				"16.12s changed: established one -> established R: the new path carries nothing",
			},
		},
		{
			"a relay's notice about others does nothing", true, viaR, nil,
			func(r *rig) {
				r.step(Unknown{})
				r.run(3 * time.Second)
			},
			nil,
		},
		{
			"a relay's notice about us makes a handshake", true, viaR, nil,
			func(r *rig) {
				r.broken = true
				r.step(Unknown{})
				r.step(Unknown{})
				r.run(3 * time.Second)
			},
			[]string{"100ms initiate"},
		},
		{
			"the other end leaves that to the decider", false, viaR, nil,
			func(r *rig) {
				r.step(Unknown{})
				r.broken = true
				r.after(300*time.Millisecond, func() { r.shake(viaR.Endpoint) })
				r.run(5 * time.Second)
			},
			nil,
		},
		{
			"but not for ever", false, viaR, nil,
			func(r *rig) {
				r.broken = true
				r.step(Unknown{})
				r.run(4 * time.Second)
			},
			[]string{
				"800ms rebind R",
				"800ms rebind S",
				"2.5s initiate",
			},
		},
		{
			"a relay that began anew gets a handshake at once", true, viaR, nil,
			func(r *rig) {
				r.broken = true
				r.step(Restarted{viaS.Endpoint})
				r.step(Restarted{viaR.Endpoint})
				r.run(3 * time.Second)
			},
			[]string{"0s initiate"},
		},
		{
			"a relay that is gone is left after a while", true, viaR, nil,
			func(r *rig) {
				r.step(Relays{{Route: viaS, RTT: 50 * time.Millisecond}})
				r.run(3 * time.Second)
			},
			[]string{
				"1s quiet R for 300ms",
				"1s endpoint S",
				"1s initiate",
				"1s changed: established R -> established S: the relay is gone",
			},
		},
		{
			"not if it comes back", true, viaR, nil,
			func(r *rig) {
				r.step(Relays{{Route: viaS, RTT: 50 * time.Millisecond}})
				r.run(900 * time.Millisecond)
				r.step(Relays{{Route: viaS, RTT: 50 * time.Millisecond}, {Route: viaR, RTT: 40 * time.Millisecond}})
				r.run(10 * time.Second)
			},
			nil,
		},
		{
			"a relay that says so is left at once", true, viaR, nil,
			func(r *rig) {
				r.step(Withdrawn{viaR.Endpoint})
				r.run(3 * time.Second)
			},
			[]string{
				"0s quiet R for 300ms",
				"0s endpoint S",
				"0s initiate",
				"0s changed: established R -> established S: the relay stops",
			},
		},
		{
			"another way behind the same relay needs a handshake", true, viaR, nil,
			func(r *rig) {
				longer := Route{viaR.Endpoint, append(slices.Clone(viaR.Via), viaS.Via...)}
				r.step(Relays{{Route: longer}})
				r.run(3 * time.Second)
				r.step(Relays{{Route: viaR}}) // so soon, only if packets are missed
				r.run(3 * time.Second)
			},
			[]string{
				"0s changed: established R -> established R,d2:c9:ce:bb:04:d5: the way behind the relay changed",
				"0s initiate",
			},
		},
		{
			"nothing is left: as after a start", true, viaR,
			func(r *rig) { r.step(Relays{{Route: viaR}}) },
			func(r *rig) {
				clear(r.passes)
				r.run(7 * time.Second)
				r.passes[two] = true
				r.run(3 * time.Second)
			},
			[]string{
				"800ms rebind R",
				"1.9s initiate",
				"2.9s initiate",
				"3.1s rebind R",
				"3.9s initiate",
				"4.9s changed: established R -> pending none: no answer for 1.8s",
				"4.9s rebind R",
				"4.9s endpoint R",
				"4.9s initiate",
				"5.2s endpoint one",
				"5.2s initiate",
				"6.2s rebind R",
				"6.2s endpoint R",
				"6.2s initiate",
				"7.2s rebind R",
				"7.2s endpoint two",
				"7.2s initiate",
				"7.3s changed: connecting none -> established two: handshake completed",
			},
		},
		{
			"the other end waits 8 s before it acts", false, viaR, nil,
			func(r *rig) {
				r.passes[viaR.Endpoint] = false
				r.run(14 * time.Second)
			},
			[]string{
				"800ms rebind R", "800ms rebind S",
				"8.1s endpoint S", "8.1s initiate",
				"8.1s changed: established R -> established S: no answer for 8s",
			},
		},
		{
			"the peer moves to a candidate", true,
			Route{Endpoint: one},
			nil,
			func(r *rig) {
				r.device.Endpoint = two
				r.run(2 * time.Second)
			},
			[]string{"400ms changed: established one -> established two: the peer moved there"},
		},
		{
			"the peer comes over a relay", true,
			Route{Endpoint: one},
			nil,
			func(r *rig) {
				r.device.Endpoint = viaS.Endpoint
				r.run(900 * time.Millisecond)
			},
			[]string{"400ms changed: established one -> established S: the peer came over a relay"},
		},
		{
			"the peer moves to an unknown endpoint that answers", true,
			Route{Endpoint: one},
			func(r *rig) { r.opens[one], r.opens[three], r.passes[three] = true, true, true },
			func(r *rig) {
				r.device.Endpoint = three
				r.run(2 * time.Second)
			},
			[]string{"400ms changed: established one -> established three: the peer moved there"},
		},
		{
			"an endpoint that does not answer is not followed while our own does", true,
			Route{Endpoint: one},
			func(r *rig) { r.opens[one], r.passes[three] = true, true },
			func(r *rig) {
				for range 25 {
					r.device.Endpoint = three
					r.run(time.Second)
				}
			},
			[]string{
				"1.1s quiet three for 300ms",
				"1.1s endpoint one",
				"11.1s quiet three for 300ms",
				"11.1s endpoint one",
				"21.1s quiet three for 300ms",
				"21.1s endpoint one",
			},
		},
		{
			"an endpoint that does not answer is followed when our own does not either", true,
			Route{Endpoint: one},
			func(r *rig) { r.passes[three] = true },
			func(r *rig) {
				r.device.Endpoint = three
				r.run(3 * time.Second)
			},
			[]string{
				"1.1s changed: established one -> established three: the peer moved there",
			},
		},
		{
			"a device that lost the endpoint gets it again", false,
			Route{Endpoint: one},
			nil,
			func(r *rig) {
				r.device.Endpoint = netip.AddrPort{}
				r.run(3 * time.Second)
			},
			[]string{"100ms endpoint one"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := standing(t, c.decider, c.use)
			if c.first != nil {
				c.first(r)
				r.run(10 * time.Second)
				r.lines = nil
			}
			from := r.now
			c.do(r)
			r.want(from, c.want...)
		})
	}
}

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
