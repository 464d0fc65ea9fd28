package path

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// pair is a sim with what scenarios ask of it.
type pair struct {
	*sim
	t testing.TB
}

// newPair makes two hosts that know each other, with so many interfaces each,
// and relays that both can use.
func newPair(t testing.TB, seed uint64, interfaces, relays int) *pair {
	s := newSim(seed, t.Fatalf)
	s.log = new(strings.Builder)
	for range 2 {
		s.addHost(interfaces)
	}
	for range relays {
		s.addRelay()
	}
	return &pair{s, t}
}

// begin starts both hosts and lets them run for a while.
func (p *pair) begin(d time.Duration) {
	for _, h := range p.hosts {
		h.start()
		p.after(0, func() { h.step(Start{Candidates: h.peer().lists}) })
	}
	p.wait(d)
}

func (p *pair) wait(d time.Duration) { p.run(p.now+d, nil) }

// measure runs for a while and returns the longest interruption that either
// host saw.
func (p *pair) measure(d time.Duration) time.Duration {
	for _, h := range p.hosts {
		h.worst, h.app = 0, max(h.app, p.now)
	}
	p.wait(d)
	var worst time.Duration
	for _, h := range p.hosts {
		worst = max(worst, h.worst, p.now-h.app)
	}
	return worst
}

// changes counts those of both hosts since the last call.
func (p *pair) changes() [2]int {
	var n [2]int
	for i, h := range p.hosts {
		n[i] = len(h.changes)
		h.changes = nil
	}
	return n
}

// route returns both hosts' routes: "direct 0", "relay 1", "none", and whether
// the devices agree.
func (p *pair) routes() (words [2]string) {
	for i, h := range p.hosts {
		r := h.machine.Route()
		switch {
		case h.machine.State() != Established:
			words[i] = h.machine.State().String()
		case r.Endpoint != h.endpoint:
			words[i] = fmt.Sprintf("%s, but the device uses %s", r, h.endpoint)
		case r.Direct():
			words[i] = "direct"
			for k := range h.peer().up {
				if r.Endpoint == simEndpoint(1-i, k) {
					words[i] = fmt.Sprintf("direct %d", k)
				}
			}
		default:
			for k, x := range p.relays {
				if r.Endpoint == x.endpoint {
					words[i] = fmt.Sprintf("relay %d", k)
				}
			}
		}
	}
	return words
}

// want checks that both hosts use a route.
func (p *pair) want(route string) {
	p.t.Helper()
	if got := p.routes(); !strings.HasPrefix(got[0], route) || !strings.HasPrefix(got[1], route) {
		p.t.Errorf("at %s: routes %q, want %q\n%s", p.now, got, route, p)
	}
}

// atMost checks an interruption.
func (p *pair) atMost(what string, got, want time.Duration) {
	p.t.Helper()
	p.t.Logf("%s: %s", what, got)
	if got > want {
		p.t.Errorf("%s: interrupted for %s, want at most %s\n%s", what, got, want, p)
	}
}

func eachDevice(t *testing.T, f func(t *testing.T, kernel [2]bool)) {
	for _, kernel := range [][2]bool{{false, false}, {true, true}, {true, false}, {false, true}} {
		name := [2]string{"userspace", "userspace"}
		for i, k := range kernel {
			if k {
				name[i] = "kernel"
			}
		}
		t.Run(name[0]+"-"+name[1], func(t *testing.T) { f(t, kernel) })
	}
}

func TestDirectDies(t *testing.T) {
	eachDevice(t, func(t *testing.T, kernel [2]bool) {
		p := newPair(t, 1, 1, 2)
		p.hosts[0].kernel, p.hosts[1].kernel = kernel[0], kernel[1]
		p.begin(5 * time.Second)
		p.want("direct 0")
		p.changes()
		p.cut("0.0", "1.0", true)
		p.atMost("death of a direct path", p.measure(20*time.Second), 3*time.Second)
		p.want("relay 0")
		p.cut("0.0", "1.0", false)
		p.atMost("return to direct", p.measure(30*time.Second), 200*time.Millisecond)
		p.want("direct 0")
		p.wait(5 * time.Minute)
		p.want("direct 0")
		if n := p.changes(); n != [2]int{2, 2} {
			t.Errorf("%v changes, want 2 at each end\n%s", n, p)
		}
	})
}

func TestOneWayDeath(t *testing.T) {
	eachDevice(t, func(t *testing.T, kernel [2]bool) {
		for from := range 2 {
			p := newPair(t, 1, 1, 1)
			p.hosts[0].kernel, p.hosts[1].kernel = kernel[0], kernel[1]
			p.begin(5 * time.Second)
			p.link(fmt.Sprintf("%d.0", from), fmt.Sprintf("%d.0", 1-from)).cut = true
			p.atMost(fmt.Sprintf("one-way death from host %d", from), p.measure(20*time.Second), 3*time.Second)
			p.want("relay 0")
		}
	})
}

// After ten seconds without any network, packets flow again within little more
// than a second.
func TestOutage(t *testing.T) {
	eachDevice(t, func(t *testing.T, kernel [2]bool) {
		var worst, all time.Duration
		const runs = 50
		for seed := range uint64(runs) {
			p := newPair(t, seed, 1, 0)
			p.hosts[0].kernel, p.hosts[1].kernel = kernel[0], kernel[1]
			p.begin(20*time.Second + time.Duration(seed)*37*time.Millisecond)
			p.cut("0.0", "1.0", true)
			p.wait(10 * time.Second)
			p.cut("0.0", "1.0", false)
			healed := p.now
			both := func() bool { return p.hosts[0].app > healed && p.hosts[1].app > healed }
			if !p.run(healed+time.Minute, both) {
				t.Fatalf("nothing flows\n%s", p)
			}
			worst, all = max(worst, p.now-healed), all+p.now-healed
		}
		t.Logf("packets flow after %s on average, %s at most", all/runs, worst)
		if worst > 1300*time.Millisecond || all/runs > 700*time.Millisecond {
			t.Error("too late")
		}
	})
}

func TestRelayDies(t *testing.T) {
	eachDevice(t, func(t *testing.T, kernel [2]bool) {
		p := newPair(t, 1, 1, 2)
		p.hosts[0].kernel, p.hosts[1].kernel = kernel[0], kernel[1]
		p.cut("0.0", "1.0", true)
		p.begin(5 * time.Second)
		p.want("relay 0")
		p.relays[0].crash()
		p.atMost("death of a relay", p.measure(20*time.Second), 3*time.Second)
		p.want("relay 1")
		p.relays[0].restart()
		p.changes()
		p.atMost("its return", p.measure(time.Minute), 200*time.Millisecond)
		p.want("relay 1")
		if n := p.changes(); n != [2]int{0, 0} {
			t.Errorf("%v changes after the relay came back\n%s", n, p)
		}
	})
}

func TestOnlyRelayRestarts(t *testing.T) {
	eachDevice(t, func(t *testing.T, kernel [2]bool) {
		for _, down := range []time.Duration{0, time.Second, 5 * time.Second, 30 * time.Second} {
			p := newPair(t, 1, 1, 1)
			p.hosts[0].kernel, p.hosts[1].kernel = kernel[0], kernel[1]
			p.cut("0.0", "1.0", true)
			p.begin(5 * time.Second)
			p.want("relay 0")
			p.relays[0].crash()
			p.wait(down)
			p.relays[0].restart()
			p.atMost(fmt.Sprintf("restart of the only relay after %s", down), p.measure(40*time.Second), 7*time.Second)
			p.want("relay 0")
		}
	})
}

func TestChain(t *testing.T) {
	eachDevice(t, func(t *testing.T, kernel [2]bool) {
		// 0 - r0 - r1 - 1, and 0 - r0 - r2 - 1
		p := newPair(t, 1, 1, 3)
		p.hosts[0].kernel, p.hosts[1].kernel = kernel[0], kernel[1]
		p.cut("0.0", "1.0", true)
		p.hosts[0].firsts = map[string]bool{"r0": true}
		p.hosts[1].firsts = map[string]bool{"r1": true, "r2": true}
		r := p.relays
		r[0].next[1] = r[1]
		r[1].next[0], r[2].next[0] = r[0], r[0]
		p.begin(5 * time.Second)
		r0, r1 := p.routes()[0], p.routes()[1]
		if r0 != "relay 0" || r1 != "relay 1" {
			t.Errorf("routes %s and %s\n%s", r0, r1, p)
		}
		r[1].crash()
		p.after(1500*time.Millisecond, func() { r[0].next[1] = r[2] })
		p.atMost("death of the second relay", p.measure(20*time.Second), 5*time.Second)
		r0, r1 = p.routes()[0], p.routes()[1]
		if r0 != "relay 0" || r1 != "relay 2" {
			t.Errorf("routes %s and %s\n%s", r0, r1, p)
		}
	})
}

func TestInterfaces(t *testing.T) {
	p := newPair(t, 1, 3, 1)
	p.both("0.0", "1.0", func(l *simLink) { l.delay = 20 * time.Millisecond })
	p.both("0.1", "1.1", func(l *simLink) { l.delay = 18 * time.Millisecond }) // not worth a change
	p.both("0.2", "1.2", func(l *simLink) { l.delay = 5 * time.Millisecond })
	p.begin(2 * time.Minute)
	p.want("direct 2")
	if n := p.changes(); n[0] > 2 {
		t.Errorf("%v changes\n%s", n, p)
	}
	p.cut("0.2", "1.2", true)
	p.atMost("death of the best of three", p.measure(20*time.Second), 3*time.Second)
	p.want("direct 0") // the others do not differ by enough
}

func TestFarRelay(t *testing.T) {
	p := newPair(t, 1, 1, 2)
	p.cut("0.0", "1.0", true)
	p.begin(5 * time.Second)
	p.want("relay 0")
	p.changes()
	p.both("0", "r0", func(l *simLink) { l.delay = 12 * time.Millisecond }) // 48 against 40
	p.wait(2 * time.Minute)
	p.want("relay 0")
	p.both("0", "r0", func(l *simLink) { l.delay = 30 * time.Millisecond })
	p.wait(20 * time.Second)
	p.want("relay 0") // not yet
	p.atMost("change to a faster relay", p.measure(30*time.Second), 500*time.Millisecond)
	p.want("relay 1")
	if n := p.changes(); n != [2]int{1, 1} {
		t.Errorf("%v changes\n%s", n, p)
	}
}

func TestRestart(t *testing.T) {
	eachDevice(t, func(t *testing.T, kernel [2]bool) {
		for who := range 2 {
			for _, relayed := range []bool{false, true} {
				p := newPair(t, 1, 1, 1)
				p.hosts[0].kernel, p.hosts[1].kernel = kernel[0], kernel[1]
				if relayed {
					p.cut("0.0", "1.0", true)
				}
				p.begin(10 * time.Second)
				h := p.hosts[who]
				h.stop()
				p.after(time.Second, func() {
					h.step(Start{Candidates: h.peer().lists, Handshake: h.handshake, Endpoint: h.endpoint})
					h.binds()
				})
				p.atMost(fmt.Sprintf("restart of host %d, relayed %t", who, relayed), p.measure(20*time.Second), 6*time.Second)
				p.want(map[bool]string{false: "direct 0", true: "relay 0"}[relayed])
			}
		}
	})
}

// The 16 pairs of NATs: direct where both keep ports.
func TestNATs(t *testing.T) {
	for i := range 16 {
		bit := func(k int) bool { return i>>k&1 == 1 }
		name := fmt.Sprintf("answers %t random %t-answers %t random %t", bit(0), bit(1), bit(2), bit(3))
		t.Run(name, func(t *testing.T) {
			p := newPair(t, 1, 1, 1)
			for k, h := range p.hosts {
				h.nat = newNAT(k, bit(2*k), bit(2*k+1))
				h.lists = append(h.lists, simPublic(k))
			}
			p.begin(10 * time.Second)
			p.wait(2 * time.Minute)
			want := "direct"
			if bit(1) || bit(3) {
				want = "relay 0"
			}
			p.want(want)
			for k, h := range p.hosts {
				t.Logf("host %d: %d changes, %d punches, %d probes, %d pings", k, len(h.changes), h.punches, h.probes, h.pings)
			}
		})
	}
}

// A host changes its mapping, its address, its NAT.
func TestRemap(t *testing.T) {
	for who := range 2 {
		p := newPair(t, 1, 1, 1)
		h := p.hosts[who]
		h.nat = newNAT(who, false, false)
		h.lists = append(h.lists, simPublic(who))
		p.begin(20 * time.Second)
		p.want("direct")
		h.nat = newNAT(who, false, true)
		p.atMost(fmt.Sprintf("new mapping of host %d", who), p.measure(40*time.Second), 10*time.Second)
		p.want("direct")
	}
}

func TestLoss(t *testing.T) {
	const runs = lossRuns
	var tooMany, most int
	for seed := range uint64(runs) {
		for _, busy := range []bool{true, false} {
			for _, cut := range []bool{true, false} {
				p := newPair(t, seed, 2, 2)
				for _, h := range p.hosts {
					h.busy = busy
				}
				if cut {
					p.cut("0.0", "1.0", true)
					p.cut("0.1", "1.1", true)
				}
				p.begin(20 * time.Second)
				p.changes()
				for k := range 2 {
					p.both(fmt.Sprintf("0.%d", k), fmt.Sprintf("1.%d", k), func(l *simLink) { l.loss = 30 })
					p.both("0", fmt.Sprintf("r%d", k), func(l *simLink) { l.loss = 16 })
					p.both("1", fmt.Sprintf("r%d", k), func(l *simLink) { l.loss = 16 })
				}
				p.wait(5 * time.Minute)
				if n := p.changes(); n[0] > 2 || n[1] > 2 {
					tooMany++
					most = max(most, n[0], n[1])
					if tooMany < 3 {
						t.Logf("seed %d busy %t cut %t: %v changes %s", seed, busy, cut, n, p)
					}
				}
			}
		}
	}
	t.Logf("%d of %d runs of 5 minutes with more than 2 changes, most %d", tooMany, 4*runs, most)
	if tooMany > 4*runs/100 {
		t.Error("too many")
	}
}
