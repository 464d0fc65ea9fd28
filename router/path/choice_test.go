package path

import (
	"net/netip"
	"slices"
	"testing"
	"time"
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
				"11.9s quiet R for 300ms", "11.9s endpoint one",
				"11.9s changed: established R -> established one: the direct path answers",
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
				"21.9s quiet R for 300ms", "21.9s endpoint one",
				"21.9s changed: established R -> established one: the direct path answers",
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
				r.run(400 * time.Millisecond)
				if !r.machine.Status().OneWay {
					t.Error("not one way")
				}
				r.run(time.Second)
			},
			[]string{
				"1s rebind R",
				"1s rebind S",
				"2.5s quiet one for 300ms",
				"2.5s endpoint R",
				"2.5s initiate",
				"2.5s changed: established one -> established R: one way: packets come, none of ours is answered",
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
				"13.56s quiet R for 300ms",
				"13.56s endpoint one",
				"13.56s changed: established R -> established one: the direct path answers",
				"14.76s rebind R",
				"14.76s rebind S",
				"15.1s quiet one for 300ms",
				"15.1s endpoint R",
				"15.1s initiate",
				"15.1s changed: established one -> established R: the new path carries nothing",
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
