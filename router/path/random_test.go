package path

import (
	"fmt"
	"net/netip"
	"slices"
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
		s.addRelay()
	}
	chain := relays > 1 && rapid.Bool().Draw(t, "chain")
	if chain {
		links = append(links, p.chain()...)
	} else {
		for _, r := range s.relays {
			links = append(links, [2]string{"0", r.name}, [2]string{r.name, "1"})
		}
	}
	for _, l := range links {
		d, j := ms("delay", 150), ms("jitter", 20)
		s.both(l[0], l[1], func(x *simLink) { x.delay, x.jitter = d, j })
	}

	end := 10*time.Second + ms("trouble", 60_000)
	for range pick("faults", 12) {
		at := ms("at", int(end/time.Millisecond))
		until := min(end, at+ms("for", 40_000))
		l := links[pick("link", len(links)-1)]
		kind := rapid.SampledFrom([]string{"cut", "one way", "loss", "slow", "relay", "restart", "remap", "introduction", "candidates", "gossip", "busy"}).Draw(t, "kind")
		fault(p, kind, at, until, l, pick("who", 1), pick("percent", 60))
	}
	// What stays broken: anything, as long as something is left.
	good := pick("good", max(relays, 1)-1)
	if relays == 0 { // nothing else, so it must be able to work
		p.hosts[0].nat, p.hosts[1].nat = nil, nil
	} else if !rapid.Bool().Draw(t, "direct stays") {
		s.after(end, func() {
			for k := range interfaces {
				s.cut(fmt.Sprintf("0.%d", k), fmt.Sprintf("1.%d", k), true)
			}
			for k := range relays {
				if k != good && !chain {
					s.cut("0", fmt.Sprintf("r%d", k), true)
				}
			}
		})
	}
	p.meet(t)
	for i, h := range p.hosts {
		if h.busy = rapid.Bool().Draw(t, "busy"); !h.busy {
			s.after(end, func() { s.logf("%d: has traffic", i); h.busy = true })
		}
		h.start()
	}

	p.run(end, nil)
	settled := end + 10*time.Second
	talk := func() bool {
		return s.now-s.hosts[0].app < 500*time.Millisecond && s.now-s.hosts[1].app < 500*time.Millisecond
	}
	p.run(settled, nil)
	late := 500 * time.Millisecond
	if !p.hosts[0].machine.up.initiator && !p.hosts[1].machine.up.initiator {
		late = 20 * time.Second // which no mesh does: introductions agree on one
	}
	if !talk() && !p.run(settled+late, talk) {
		t.Fatalf("do not talk 10 s after %s\n%s", end, s)
	}
	p.run(max(p.now, settled)+2*time.Second, nil)
	p.changes()
	var apart, silent time.Duration
	for range 600 {
		p.wait(100 * time.Millisecond)
		if !p.agree() {
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

// agree reports whether both hosts use a direct path, or both a relayed one,
// and know it.
func (p *pair) agree() bool {
	var relayed [2]bool
	for i, h := range p.hosts {
		relayed[i] = slices.ContainsFunc(p.sim.relays, func(r *simRelay) bool { return r.endpoint == h.endpoint })
		if r := h.machine.Route(); h.machine.State() != Established || r.Relayed() != relayed[i] {
			return false
		}
	}
	return relayed[0] == relayed[1]
}

// meet lets the hosts come to know each other: from a former run, and by any
// number of introductions in either direction, of which the two ends hear at
// times of their own.
func (p *pair) meet(t *rapid.T) {
	ms := func(name string, upTo int) time.Duration {
		return time.Duration(rapid.IntRange(0, upTo).Draw(t, name)) * time.Millisecond
	}
	known := rapid.Bool().Draw(t, "known before")
	if known {
		for _, h := range p.hosts {
			delay := ms("delay", 1000)
			p.after(ms("start", 3000), func() { h.step(Start{Candidates: h.peer().lists, Delay: delay}) })
		}
	}
	introductions := rapid.IntRange(0, 4).Draw(t, "introductions")
	if !known {
		introductions = max(introductions, 1)
	}
	for n := range introductions {
		dialler := rapid.IntRange(0, 1).Draw(t, "dialler")
		at := ms("introduction", 3000)
		for i, h := range p.hosts {
			// A later one may give both ends either role: the worst that a mesh
			// could tell.
			role := i == dialler
			if n > 0 {
				role = rapid.Bool().Draw(t, "role")
			}
			p.after(at+ms("heard after", 300), func() {
				h.step(Introduced{Initiator: role, Candidates: h.peer().lists})
			})
		}
	}
}

// chain puts the first relay before all others: 0 - r0 - rk - 1. Who of them
// is used follows what is well, a while after it is so.
func (p *pair) chain() (links [][2]string) {
	links = append(links, [2]string{"0", "r0"})
	p.hosts[0].firsts = map[string]bool{"r0": true}
	p.hosts[1].firsts = make(map[string]bool)
	rest := p.sim.relays[1:]
	for _, r := range rest {
		p.hosts[1].firsts[r.name] = true
		r.next[0] = p.sim.relays[0]
		links = append(links, [2]string{"r0", r.name}, [2]string{r.name, "1"})
	}
	first := p.sim.relays[0]
	var choose func()
	choose = func() {
		for _, r := range rest {
			if well := !r.down && !p.link("r0", r.name).cut && !p.link(r.name, "r0").cut; well && !p.link(r.name, "1").cut || first.next[1] == nil {
				first.next[1] = r
				break
			}
		}
		p.after(time.Second+p.uniform(time.Second), choose)
	}
	choose()
	return links
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
	case "busy":
		until = min(until, at+4*time.Second)
		between(h.hold, h.release)
	case "relay":
		if r := p.relayOf(l); r != nil {
			between(r.crash, r.restart)
		}
	case "restart":
		between(func() { h.stop() }, func() {
			if !h.started {
				h.step(Start{Candidates: h.peer().lists, Handshake: h.handshake, Endpoint: h.endpoint})
				for _, r := range p.sim.relays {
					if h.first(r) {
						h.bind(r)
					}
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
	case "gossip": // takes both daemons for dead
		for _, h := range p.hosts {
			between(func() { h.tellAlive(false) }, func() { h.tellAlive(true) })
		}
	case "candidates":
		between(func() { h.tell(nil) }, func() { h.tell(h.peer().lists) })
	}
}

func (h *simHost) tellAlive(is bool) {
	if h.started {
		h.step(Alive(is))
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
	h.waiting = nil
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
