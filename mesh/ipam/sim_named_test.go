package ipam

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
)

// scenario runs a script in a small world with a good network.
func scenario(t *testing.T, r rules, script func(w *world)) {
	t.Helper()
	t.Parallel()
	for seed := uint64(1); seed <= 5; seed++ {
		r.name, r.seed, r.script = t.Name(), seed, script
		if sim.seed != 0 {
			r.seed = sim.seed
		}
		if !r.space.IsValid() {
			r.space = netip.MustParsePrefix("10.32.0.0/26")
		}
		if err := newWorld(r).run(); err != nil {
			t.Fatal(err)
		}
	}
}

// launch starts hosts.
func (w *world) launch(hosts ...*host) {
	for _, h := range hosts {
		h.start()
	}
}

// wait lets time pass until something is so, or fails.
func (w *world) wait(what string, limit time.Duration, ok func() bool) {
	for end := w.now + limit; !ok() && w.err == nil; {
		if w.now >= end {
			w.fail(0, "after %v still not: %s", limit, what)
			return
		}
		w.advance(w.now + 20*time.Millisecond)
	}
}

// fill attaches containers to a host until it has n addresses.
func (w *world) fill(h *host, n int) {
	for w.err == nil && len(h.pods) < n {
		p := h.create()
		p.attach(w.space)
		w.wait("an address for "+p.key+" of "+h.nick, 10*time.Second, func() bool { return p.call == nil })
	}
}

// rmpeer removes peers and returns the answer.
func (w *world) rmpeer(h *host, force bool, peers ...*host) func() *result {
	var ids []crypto.Identity
	for _, p := range peers {
		ids = append(ids, p.id)
		p.stale = beingRemoved
	}
	var got *result
	h.ask(nil, func(t ticket) event { return removeEvent{t, ids, force} }, func(r result) {
		w.note(h, "rmpeer: %+v %v", r.Taken, r.Err)
		got = &r
		for _, p := range peers {
			if r.Err == nil {
				w.wasRemoved(p, true)
			}
		}
	})
	return func() *result { return got }
}

// finished waits for the answer.
func (w *world) finished(get func() *result) result {
	w.wait("an answer", 30*time.Second, func() bool { return get() != nil })
	if w.err != nil {
		return result{}
	}
	return *get()
}

// settle lets everything heal, and checks.
func (w *world) settle() {
	w.heal()
	w.audit()
}

// expect fails unless something is so.
func (w *world) expect(ok bool, what string) {
	if !ok {
		w.fail(0, "not so: %s", what)
	}
}

// A gives space to B, and nobody else hears of it. A dies. C must not take
// what B has.
func TestSimDonorDies(t *testing.T) {
	scenario(t, rules{hosts: 3}, donorDies)
}

func donorDies(w *world) {
	a, b, c := w.hosts[0], w.hosts[1], w.hosts[2]
	w.launch(a, b, c)
	w.fill(a, 1)
	w.fill(b, 1)
	w.fill(c, 1)
	w.advance(w.now + 15*time.Second)
	w.net.sides(func(h *host) int { return h.n / 2 }) // a and b, c
	w.advance(w.now + 5*time.Second)
	had := b.mine.Len()
	w.fill(b, had+1) // the last from a
	w.expect(b.mine.Len() > had, "b got blocks of a")
	a.reboot("dies")
	a.down = true
	w.advance(w.now + 10*time.Second)

	r := w.finished(w.rmpeer(c, false, a))
	if !w.sabotage.unasked {
		w.expect(r.Err != nil && strings.Contains(r.Err.Error(), b.nick), "rmpeer names b, which nobody can ask")
	}
	w.net.mend()
	w.wait("c reaches b", 10*time.Second, func() bool { return c.alive[b.n] })
	r = w.finished(w.rmpeer(c, false, a))
	w.expect(r.Err == nil && len(r.Taken) == 1 && r.Taken[0].IPs < uint64(w.geo.Blocks()), "rmpeer is done")
	w.fill(c, len(c.pods)+8)
	w.fill(b, len(b.pods)+4)
	w.settle()
	a.down = false
	a.start() // and comes back
	w.advance(w.now + 20*time.Second)
	w.fill(a, len(a.pods)+3)
	a.removed = false
	w.settle()
}

// A gives space to B, and A's disk goes back to before that. While B is out of
// reach A gives nothing of what it believes to have.
func TestSimOldCopy(t *testing.T) {
	scenario(t, rules{hosts: 3}, oldCopy)
}

func oldCopy(w *world) {
	a, b, c := w.hosts[0], w.hosts[1], w.hosts[2]
	w.launch(a, b, c)
	for _, h := range w.hosts {
		w.fill(h, 1)
	}
	w.advance(w.now + 15*time.Second)
	before := len(a.disk.past)
	w.net.sides(func(h *host) int { return h.n / 2 }) // a and b, c
	w.advance(w.now + 5*time.Second)
	w.fill(b, b.mine.Len()+1) // the last from a
	a.reboot("its disk is replaced")
	a.disks++
	a.disk.restore(before)
	w.truth.forget(a)
	a.stale = oldDisk
	w.net.mend()
	b.stop("out of reach")
	w.advance(w.now + 5*time.Second)

	a.start()
	w.wait("a reaches c", 10*time.Second, func() bool { return a.alive[c.n] })
	w.fill(a, 3) // from c
	for range 8 {
		a.create().attach(w.space)
	}
	w.advance(w.now + 10*time.Second)
	b.start()
	w.settle()
	w.fill(a, 12)
	w.fill(b, len(b.pods)+2)
	w.settle()
}

// Two hosts remove the same peer at once: its space is taken once.
func TestSimTwoRemove(t *testing.T) {
	scenario(t, rules{hosts: 4}, func(w *world) {
		a, b, c, d := w.hosts[0], w.hosts[1], w.hosts[2], w.hosts[3]
		w.launch(a, b, c, d)
		for _, h := range w.hosts {
			w.fill(h, 2)
		}
		w.advance(w.now + 15*time.Second)
		share := uint64(d.mine.Len()) * w.geo.Size()
		d.reboot("dies")
		d.down = true
		w.advance(w.now + 10*time.Second)
		first, second := w.rmpeer(a, false, d), w.rmpeer(b, false, d)
		x, y := w.finished(first), w.finished(second)
		w.expect(x.Err == nil && y.Err == nil, "both are done")
		var sum uint64
		for _, r := range []result{x, y} {
			for _, taken := range r.Taken {
				sum += taken.IPs
			}
		}
		w.expect(sum == share, "together they took what d had, once")
		w.fill(a, 4)
		w.fill(b, 4)
		w.fill(c, 4)
		w.settle()
	})
}

// conflicting reports whether a host sees another ring.
func conflicting(hosts ...*host) func() bool {
	return func() bool {
		for _, h := range hosts {
			if h.core.ringConflict() == "" {
				return false
			}
		}
		return true
	}
}

func oneRing(hosts ...*host) func() bool {
	return func() bool {
		for _, h := range hosts {
			if h.core.ring == nil || hosts[0].core.ring == nil || h.core.ring.ID() != hosts[0].core.ring.ID() {
				return false
			}
		}
		return true
	}
}

// Two pairs that were launched with each other's names only meet later.
func TestSimDisjointLists(t *testing.T) {
	names := func(n int) []int { return []int{n ^ 1} }
	meet := func(w *world) {
		w.hosts[0].targets = append(w.hosts[0].targets, 2)
		w.net.notice()
	}
	t.Run("both in use", func(t *testing.T) {
		scenario(t, rules{hosts: 4, names: names, rings: true, force: true}, func(w *world) {
			w.launch(w.hosts...)
			for _, h := range w.hosts {
				w.fill(h, 3)
			}
			w.expect(!oneRing(w.hosts[0], w.hosts[2])(), "there are two rings")
			meet(w)
			w.wait("all see the conflict", 90*time.Second, conflicting(w.hosts...))
			for _, h := range w.hosts {
				w.fill(h, 6) // goes on
			}
			w.settle()
			w.expect(oneRing(w.hosts[0], w.hosts[1])() && oneRing(w.hosts[2], w.hosts[3])(), "pairs keep their ring")
		})
	})
	t.Run("one in use", func(t *testing.T) {
		scenario(t, rules{hosts: 4, names: names, rings: true, force: true}, func(w *world) {
			w.launch(w.hosts...)
			for _, h := range w.hosts {
				w.fill(h, 2)
			}
			for _, p := range append(append([]*pod(nil), w.hosts[2].pods...), w.hosts[3].pods...) {
				p.detach(nil)
			}
			w.advance(w.now + 5*time.Second)
			meet(w)
			w.wait("all have one ring", 90*time.Second, oneRing(w.hosts...))
			w.rings = false
			for _, h := range w.hosts {
				w.fill(h, 4)
			}
			w.settle()
		})
	})
}

// Two hosts that were launched alone are joined later.
func TestSimLaunchedAlone(t *testing.T) {
	alone := func(int) []int { return nil }
	meet := func(w *world) {
		w.hosts[0].targets = append(w.hosts[0].targets, 1)
		w.net.notice()
	}
	t.Run("both in use", func(t *testing.T) {
		scenario(t, rules{hosts: 2, names: alone, rings: true, force: true}, func(w *world) {
			w.launch(w.hosts...)
			w.fill(w.hosts[0], 3)
			w.fill(w.hosts[1], 3)
			meet(w)
			w.wait("both see the conflict", 90*time.Second, conflicting(w.hosts...))
			w.fill(w.hosts[0], 5)
			w.fill(w.hosts[1], 5)
			w.settle()
		})
	})
	t.Run("one in use", func(t *testing.T) {
		scenario(t, rules{hosts: 2, names: alone, rings: true, force: true}, func(w *world) {
			w.launch(w.hosts...)
			w.fill(w.hosts[0], 3)
			meet(w)
			w.wait("both have one ring", 90*time.Second, oneRing(w.hosts...))
			w.rings = false
			w.fill(w.hosts[1], 3)
			w.fill(w.hosts[0], 5)
			w.settle()
		})
	})
}

// Two hosts that do not know each other meet a third.
func TestSimRingsMeetThroughThird(t *testing.T) {
	names := func(n int) []int {
		if n == 2 {
			return []int{0, 1}
		}
		return nil
	}
	scenario(t, rules{hosts: 3, names: names, rings: true, force: true}, func(w *world) {
		a, b, c := w.hosts[0], w.hosts[1], w.hosts[2]
		w.launch(a, b)
		w.fill(a, 2)
		w.fill(b, 2)
		w.launch(c)
		w.fill(c, 2)
		w.wait("all see the conflict", 90*time.Second, conflicting(a, b, c))
		w.expect(oneRing(a, c)() || oneRing(b, c)(), "the third has one of the rings")
		w.fill(a, 5)
		w.fill(b, 5)
		w.fill(c, 5)
		w.settle()
	})
}

// Hosts that are launched with the same list make one ring, however the
// network is cut, and none as long as no majority is together.
func TestSimDivision(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 60; seed++ {
		if sim.seed != 0 && sim.seed != seed {
			continue
		}
		r := rules{
			name: t.Name(), seed: seed, space: netip.MustParsePrefix("10.32.0.0/24"), hosts: 2 + int(seed%6), ops: 150, phases: 1,
			pace: 200 * time.Millisecond, loss: 0.1, dup: 0.05, slow: 0.05, churn: 0.3, faults: 0.5, noClock: seed%2 == 0,
		}
		if seed%5 == 0 {
			r.mode = "consensus=3"
		}
		w := newWorld(r)
		w.partition(w.hosts[0])
		if err := w.run(); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("halves", func(t *testing.T) {
		scenario(t, rules{hosts: 4}, func(w *world) {
			w.net.sides(func(h *host) int { return h.n / 2 })
			w.launch(w.hosts...)
			for _, h := range w.hosts {
				h.create().attach(w.space)
			}
			w.advance(w.now + 120*time.Second)
			for _, h := range w.hosts {
				w.expect(h.core.ring == nil, "no ring in half of the hosts")
			}
			w.settle()
		})
	})
}
