package path

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is cut, lost, delayed, restarted and renumbered: once that ends and
// some path is well, both hosts talk within 10 s, agree on the route within
// 12 s, and stay.
func TestAnyFaults(t *testing.T) { rapid.Check(t, anyFaults) }

func anyFaults(t *rapid.T) {
	pick := func(name string, upTo int) int { return rapid.IntRange(0, upTo).Draw(t, name) }
	ms := func(name string, upTo int) time.Duration { return time.Duration(pick(name, upTo)) * time.Millisecond }
	interfaces, relays := 1+pick("interfaces", 2), pick("relays", 3)
	s := newSim(rapid.Uint64().Draw(t, "seed"), t.Fatalf)
	s.log = new(strings.Builder)
	p := &pair{sim: s}
	for k := range 2 {
		h := s.addHost(interfaces)
		h.kernel = rapid.Bool().Draw(t, "kernel")
		h.busy = true
		if rapid.Bool().Draw(t, "nat") {
			h.nat = newNAT(k, rapid.Bool().Draw(t, "answers"), rapid.Bool().Draw(t, "random"))
			h.lists = append(h.lists, simPublic(k))
		}
	}
	var links [][2]string
	for k := range interfaces {
		links = append(links, [2]string{fmt.Sprintf("0.%d", k), fmt.Sprintf("1.%d", k)})
	}
	for range relays {
		r := s.addRelay()
		links = append(links, [2]string{"0", r.name}, [2]string{r.name, "1"})
	}
	for _, l := range links {
		d, j := ms("delay", 100), ms("jitter", 20)
		s.both(l[0], l[1], func(x *simLink) { x.delay, x.jitter = d, j })
	}

	end := 10*time.Second + ms("trouble", 60_000)
	for range pick("faults", 12) {
		at := ms("at", int(end/time.Millisecond))
		until := min(end, at+ms("for", 40_000))
		l := links[pick("link", len(links)-1)]
		kind := rapid.SampledFrom([]string{"cut", "one way", "loss", "slow", "relay", "restart", "remap", "introduction", "candidates"}).Draw(t, "kind")
		fault(p, kind, at, until, l, pick("who", 1), pick("percent", 60))
	}
	// What stays broken: anything, as long as something is left.
	good := pick("good", max(relays, 1)-1)
	if relays == 0 || rapid.Bool().Draw(t, "direct stays") {
		if relays == 0 { // nothing else, so it must be able to work
			for _, h := range p.hosts {
				h.nat = nil
			}
		}
	} else {
		s.after(end, func() {
			for k := range interfaces {
				s.cut(fmt.Sprintf("0.%d", k), fmt.Sprintf("1.%d", k), true)
			}
			for k := range relays {
				if k != good {
					s.cut("0", fmt.Sprintf("r%d", k), true)
				}
			}
		})
	}
	for _, h := range p.hosts {
		h.start()
		at := ms("start", 3000)
		s.after(at, func() { h.step(Start{Candidates: h.peer().lists}) })
	}

	p.run(end, nil)
	settled := end + 10*time.Second
	talk := func() bool {
		return s.now-s.hosts[0].app < 500*time.Millisecond && s.now-s.hosts[1].app < 500*time.Millisecond
	}
	p.run(settled, nil)
	if !talk() && !p.run(settled+500*time.Millisecond, talk) {
		t.Fatalf("do not talk 10 s after %s\n%s", end, s)
	}
	p.run(end+12*time.Second, nil)
	p.changes()
	var apart, silent time.Duration
	for range 600 {
		p.wait(100 * time.Millisecond)
		if r := p.routes(); r[0] != r[1] && !(strings.HasPrefix(r[0], "direct") && strings.HasPrefix(r[1], "direct")) {
			apart += 100 * time.Millisecond
		}
		if !talk() {
			silent += 100 * time.Millisecond
		}
	}
	n := p.changes()
	if apart > 3*time.Second || silent > 3*time.Second || n[0] > 4 || n[1] > 4 {
		t.Fatalf("apart for %s, silent for %s, %v changes\n%s", apart, silent, n, s)
	}
}

// fault makes something bad happen for a while.
func fault(p *pair, kind string, at, until time.Duration, l [2]string, who, percent int) {
	h := p.hosts[who]
	between := func(begin, stop func()) {
		p.after(at, begin)
		p.after(until, stop)
	}
	a, b := l[0], l[1]
	if who == 1 {
		a, b = b, a
	}
	switch kind {
	case "cut":
		between(func() { p.cut(a, b, true) }, func() { p.cut(a, b, false) })
	case "one way":
		between(func() { p.logf("cut %s to %s", a, b); p.link(a, b).cut = true },
			func() { p.logf("heal %s to %s", a, b); p.link(a, b).cut = false })
	case "loss":
		between(func() { p.both(a, b, func(x *simLink) { x.loss = percent }) }, func() { p.both(a, b, func(x *simLink) { x.loss = 0 }) })
	case "slow":
		between(func() { p.both(a, b, func(x *simLink) { x.jitter += 300 * time.Millisecond }) },
			func() { p.both(a, b, func(x *simLink) { x.jitter -= 300 * time.Millisecond }) })
	case "relay":
		if r := p.relayOf(l); r != nil {
			between(r.crash, r.restart)
		}
	case "restart":
		between(func() { h.stop() }, func() {
			if !h.started {
				h.step(Start{Candidates: h.peer().lists, Handshake: h.handshake, Endpoint: h.endpoint})
				for _, r := range p.sim.relays {
					h.bind(r)
				}
			}
		})
	case "remap":
		p.after(until, func() {
			if h.nat != nil {
				p.logf("%d: new mappings", h.id)
				h.nat = newNAT(h.id, h.nat.answers, h.nat.random)
			}
		})
	case "introduction":
		p.after(until, func() {
			for i, h := range p.hosts {
				p.after(p.uniform(50*time.Millisecond), func() {
					if h.started {
						h.step(Introduced{Initiator: i == who, Candidates: h.peer().lists})
					}
				})
			}
		})
	case "candidates":
		between(func() { h.tell(nil) }, func() { h.tell(h.peer().lists) })
	}
}

func (h *simHost) tell(list []netip.AddrPort) {
	if h.started {
		h.step(Candidates(list))
	}
}

// stop ends the daemon; without a kernel device all is lost.
func (h *simHost) stop() {
	h.s.logf("%d: stops", h.id)
	h.renew()
	if !h.kernel {
		h.added = false
		h.current, h.former, h.next, h.handshake = simSession{}, simSession{}, simSession{}, time.Time{}
		h.endpoint = netip.AddrPort{}
	}
}

// relayOf is the relay at a link's end; nil: the link is direct.
func (p *pair) relayOf(l [2]string) *simRelay {
	for _, r := range p.sim.relays {
		if r.name == l[0] || r.name == l[1] {
			return r
		}
	}
	return nil
}
