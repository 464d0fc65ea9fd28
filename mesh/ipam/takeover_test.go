package ipam

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// divided starts hosts and divides the range among them.
func divided(t *testing.T, names ...string) *rig {
	t.Helper()
	r := newRig(t, names...)
	r.start(r.nodes...)
	r.nodes[0].prime()
	r.same()
	r.pass(12 * time.Second) // everybody has met everybody
	return r
}

// anyBlock returns a block that n owns and uses no address of.
func (n *node) anyBlock() int {
	owned := n.core.ring.Owned(n.id())
	free := n.core.used.WhollyFree(&owned, n.core.geo.Range())
	last := -1
	for b := range free.All() {
		last = b
	}
	return last
}

func (n *node) wantTaken(tk ticket, want ...uint64) {
	n.r.t.Helper()
	res := n.answer(tk)
	if res.Err != nil {
		n.r.t.Fatal(res.Err)
	}
	for i, taken := range res.Taken {
		if i >= len(want) || taken.IPs != want[i] {
			n.r.t.Fatalf("taken %+v, want %v", res.Taken, want)
		}
	}
}

func TestRemove(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	used := c.attach("x")
	r.pass(12 * time.Second) // others have written down what c uses
	had := uint64(c.blocks())

	wantError(t, a.answer(a.remove(false, c)).Err, ErrRefused, "c answers", "stop it first")
	wantError(t, a.answer(a.remove(true, c)).Err, ErrRefused, "c answers")
	wantError(t, a.answer(a.remove(false, a)).Err, ErrRefused, "weft reset")

	r.stop(c)
	a.wantTaken(a.remove(false, c), had)
	r.same()
	if g, ok := a.core.leased[used]; !ok || g.Host != c.id() || g.Label != "x" {
		t.Errorf("%s of c is kept as %+v, %v", used, g, ok)
	}
	for _, n := range []*node{a, b} {
		if len(n.core.takeover.fences) > 0 || !n.core.removed(c.id()) {
			t.Errorf("%s: fences %v, removed %v", n.name, n.core.takeover.fences, n.core.takeover.gone)
		}
	}
	a.wantTaken(a.remove(false, c), 0)
	res := a.answer(a.remove(true, c))
	if res.Err != nil || res.Taken[0].Released != 1 || len(a.core.leased) != 0 {
		t.Errorf("released by hand: %+v, left %v", res, a.core.leased)
	}

	// It comes back, finds that its space is gone, and gets some.
	r.start(c)
	again := c.attach("y")
	r.same()
	if again == used || c.core.removed(c.id()) {
		t.Errorf("c gave %s again, removed %v", again, c.core.removed(c.id()))
	}
	r.pass(40 * time.Second)
	if a.core.removed(c.id()) || b.core.removed(c.id()) {
		t.Error("c is still taken for removed")
	}
	if g := a.core.leased[used]; g.Host != c.id() {
		t.Errorf("%s, which c still has, is kept as %+v", used, g)
	}
	r.distinct()
}

// What a peer that is gone gave away unheard belongs to whom it was given.
func TestRemoveUnheardDonation(t *testing.T) {
	r := divided(t, "a", "b", "c", "d")
	a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
	r.cut([]*node{a}, []*node{b, c, d})
	block, chain := d.anyBlock(), d.anyBlock()-1
	d.give(block, c)
	r.pass(time.Second)
	// A second one goes on from c to b.
	d.give(chain, c)
	r.pass(time.Second)
	c.give(chain, b)
	r.pass(time.Second)
	left := uint64(d.blocks())
	r.stop(d)

	wantError(t, a.answer(a.remove(false, d)).Err, ErrRefused, "b and c are out of reach", "name them too", "--force")
	if a.core.takeover.fences != nil && len(a.core.takeover.fences) > 0 {
		t.Error("a has fences left")
	}
	r.cut(r.nodes)
	for _, n := range []*node{b, c} {
		if len(n.core.takeover.fences) > 0 {
			t.Errorf("%s has fences left", n.name)
		}
	}
	// Before anything else makes a learn of it.
	a.wantTaken(a.remove(false, d), left)
	r.same()
	for blk, owner := range map[int]*node{block: c, chain: b} {
		if a.core.ring.Owner(blk) != owner.id() {
			t.Errorf("block %d of %s was taken", blk, owner.name)
		}
	}
}

// A host that only one of those who are asked knows of is asked, too.
func TestRemoveClosure(t *testing.T) {
	r := newRig(t, "a", "b", "c", "d")
	a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
	for _, n := range []*node{a, b, d} {
		n.unknown[c] = true
	}
	r.start(a, b, d)
	a.prime()
	r.same()
	delete(b.unknown, c)
	delete(d.unknown, c)
	r.start(c)
	r.until("c has the ring", func() bool { return c.core.ring != nil })
	r.cut([]*node{a, b}, []*node{c, d})
	block := d.anyBlock()
	d.give(block, c)
	r.pass(time.Second)
	r.stop(d)
	r.cut(r.nodes)
	r.held = func(from, _ *node, body Body) bool {
		switch body.(type) {
		case State, Digest:
			return from == c
		}
		return false
	}
	r.pass(100 * time.Millisecond)
	wantError(t, a.answer(a.remove(false, d)).Err, ErrRefused, c.cfg.Name.String()+" is out of reach")
	delete(a.unknown, c)
	r.tellPeers()
	if res := a.answer(a.remove(false, d)); res.Err != nil {
		t.Fatal(res.Err)
	}
	r.release()
	r.same()
	if a.core.ring.Owner(block) != c.id() {
		t.Error("the block of c was taken")
	}
}

// --force goes on without those out of reach; what they were given unheard is
// not theirs any more when they turn up.
func TestRemoveForce(t *testing.T) {
	r := divided(t, "a", "b", "c", "d")
	a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
	r.cut([]*node{a, b}, []*node{c, d})
	d.give(d.anyBlock(), c)
	r.pass(time.Second)
	r.stop(d)
	res := a.answer(a.remove(true, d))
	if res.Err != nil || res.Taken[0].IPs == 0 {
		t.Fatalf("%+v", res)
	}
	r.cut(r.nodes)
	r.same()
	if b.core.ring.Count(d.id()) > 0 {
		t.Error("d has blocks left")
	}
}

// A donation, and a lease, that are on their way while the promise is made
// must not be used when they arrive.
func TestRemoveDonationUnderWay(t *testing.T) {
	for _, lease := range []bool{false, true} {
		t.Run(fmt.Sprint("lease ", lease), func(t *testing.T) {
			r := divided(t, "a", "b", "c")
			a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
			// b uses up its share, so that it must ask.
			owned := b.core.ring.Owned(b.id())
			for i := range owned.Len() {
				b.attach(fmt.Sprint("b", i))
			}
			if lease {
				owned := c.core.ring.Owned(c.id())
				for i := range owned.Len() - 2 {
					c.attach(fmt.Sprint("c", i))
				}
			}
			r.cut([]*node{a}, []*node{b, c})
			r.held = func(from, to *node, body Body) bool {
				switch body.(type) {
				case Give, State, Digest:
					return from == c
				}
				return false
			}
			b.allocate("late")
			r.until("c gives", func() bool {
				for _, f := range r.stopped {
					m, _ := ParseMessage(f.data)
					if g, ok := m.Body.(Give); ok && (len(g.Runs) > 0 || g.Addr.IsValid()) {
						return true
					}
				}
				return false
			})
			stopped := r.stopped
			r.held, r.stopped = nil, nil
			r.stop(c)
			r.cut(r.nodes)
			// b promises, and then it arrives, and then a takes the space.
			r.held = func(from, to *node, body Body) bool { _, ok := body.(FencePromise); return ok }
			x := a.remove(false, c)
			r.until("b promises", func() bool { return len(r.stopped) > 0 })
			for _, f := range stopped {
				if f.to == b {
					b.step(messageEvent{f.from.id(), f.data})
				}
			}
			if n := len(b.core.local); n != owned.Len() {
				t.Errorf("b has %d addresses, want %d", n, owned.Len())
			}
			r.release()
			a.answer(x)
			for _, f := range stopped {
				if f.to == b {
					b.step(messageEvent{f.from.id(), f.data})
				}
			}
			r.same()
			if n := a.core.ring.Count(c.id()); n > 0 {
				t.Errorf("c still has %d blocks", n)
			}
			r.pass(5 * time.Second)
			for i := range 20 {
				a.attach(fmt.Sprint("a", i))
			}
			r.distinct()
		})
	}
}

// What live hosts lease in the blocks that are taken stays theirs, even if
// they do not hear for long who owns it now.
func TestRemoveKeepsLeases(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	owned := c.core.ring.Owned(c.id())
	addr, _ := c.core.used.LowestFree(&owned, c.core.geo.Range())
	res := b.answer(b.ask(func(tk ticket) event { return claimEvent{Ticket: tk, Key: "static", Label: "static", Addr: addr} }))
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	r.stop(c)
	r.held = func(_, to *node, body Body) bool { _, ok := body.(FenceOver); return ok && to == b }
	if res := a.answer(a.remove(false, c)); res.Err != nil {
		t.Fatal(res.Err)
	}
	if g := a.core.leased[addr]; g.Host != b.id() || g.Key != "static" {
		t.Errorf("%s is %+v", addr, g)
	}
	wantError(t, a.answer(a.ask(func(tk ticket) event { return claimEvent{Ticket: tk, Key: "mine", Addr: addr} })).Err, ErrConflict, "b")
	r.pass(70 * time.Second)
	if g := a.core.leased[addr]; g.Host != b.id() {
		t.Errorf("later %s is %+v", addr, g)
	}
	b.answer(b.ask(func(tk ticket) event { return releaseEvent{Ticket: tk, Key: "static"} }))
	r.pass(70 * time.Second)
	if _, leased := a.core.leased[addr]; leased {
		t.Errorf("%s is still leased after b released it", addr)
	}
}

// Two hosts remove one peer at once: in every order of messages its space is
// taken once.
func TestRemoveTwice(t *testing.T) {
	for delay := range 12 {
		for _, blind := range []bool{false, true} {
			r := divided(t, "a", "b", "c", "d")
			a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
			had := uint64(d.blocks())
			r.stop(d)
			if blind { // a and b reach each other only through what c says
				r.cut([]*node{a, b, c})
				a.apart[b], b.apart[a] = true, true
				r.tellPeers()
			}
			x := b.remove(false, d)
			r.pass(time.Duration(delay) * 500 * time.Microsecond)
			y := a.remove(false, d)
			if blind {
				r.pass(3 * time.Second)
				r.cut(r.nodes)
			}
			first, second := a.answer(y), b.answer(x)
			if first.Err != nil || second.Err != nil {
				t.Fatalf("delay %d, blind %v: %v, %v", delay, blind, first.Err, second.Err)
			}
			if got := first.Taken[0].IPs + second.Taken[0].IPs; got != had {
				t.Errorf("delay %d, blind %v: %d addresses taken of %d", delay, blind, got, had)
			}
			r.same()
			if n := c.core.ring.Count(d.id()); n > 0 {
				t.Errorf("d has %d blocks", n)
			}
			for _, n := range []*node{a, b, c} {
				if len(n.core.takeover.fences) > 0 {
					t.Errorf("%s has fences left", n.name)
				}
			}
		}
	}
}

// The initiator dies in every state.
func TestRemoveInitiatorDies(t *testing.T) {
	for _, state := range []string{"asked", "promised", "taken"} {
		for _, back := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, back %v", state, back), func(t *testing.T) {
				r := divided(t, "a", "b", "c", "d")
				a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
				had := d.blocks()
				r.stop(d)
				r.held = func(from, to *node, body Body) bool {
					switch body.(type) {
					case FenceAsk:
						return state == "asked" && to == c
					case FencePromise:
						return state == "promised" && from == c
					case FenceOver, State, Digest:
						return from == a
					}
					return false
				}
				x := a.remove(false, d)
				r.until("b has a fence", func() bool { return len(b.core.takeover.fences) == 1 })
				r.pass(100 * time.Millisecond)
				if _, done := a.answers[x]; done != (state == "taken") {
					t.Fatalf("done %v", done)
				}
				r.held, r.stopped = nil, nil
				r.stop(a)
				if len(b.core.takeover.fences) != 1 {
					t.Fatal("the fence ended with the one who wanted it")
				}
				if back {
					r.start(a)
					r.until("fences are lifted", func() bool { return len(b.core.takeover.fences)+len(c.core.takeover.fences) == 0 })
					if got, want := b.core.removed(d.id()), state == "taken"; got != want {
						t.Errorf("d removed: %v, want %v", got, want)
					}
					r.same()
					if n := b.core.ring.Count(d.id()); n != 0 && state == "taken" || n != had && state != "taken" {
						t.Errorf("d has %d blocks", n)
					}
					r.start(d)
					r.same()
					d.attach("back")
					r.distinct()
					return
				}
				wantError(t, b.answer(b.remove(false, d)).Err, ErrRefused, "a is out of reach")
				if res := b.answer(b.remove(false, d, a)); res.Err != nil {
					t.Fatal(res.Err)
				}
				if len(b.core.takeover.fences)+len(c.core.takeover.fences) > 0 {
					t.Errorf("fences left: %v, %v", b.core.takeover.fences, c.core.takeover.fences)
				}
				if n := b.core.ring.Count(a.id()) + b.core.ring.Count(d.id()); n > 0 {
					t.Errorf("%d blocks still belong to those who are gone", n)
				}
				// Both come back, against all that was said: they ask first.
				r.start(a, d)
				r.same()
				a.attach("a")
				d.attach("d")
				r.distinct()
			})
		}
	}
}

// The target comes back in every state.
func TestRemoveTargetReturns(t *testing.T) {
	t.Run("before all promised", func(t *testing.T) {
		r := divided(t, "a", "b", "c")
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		r.stop(c)
		r.held = func(_, to *node, body Body) bool { _, ok := body.(FenceAsk); return ok }
		x := a.remove(false, c)
		r.pass(100 * time.Millisecond)
		r.held, r.stopped = nil, nil
		r.start(c)
		wantError(t, a.answer(x).Err, ErrRefused, "c answers")
		r.pass(15 * time.Second)
		if len(a.core.takeover.fences)+len(b.core.takeover.fences) > 0 {
			t.Error("fences left")
		}
		c.attach("x")
		r.same()
	})
	t.Run("to one that promised, not to the initiator", func(t *testing.T) {
		r := divided(t, "a", "b", "c")
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		r.stop(c)
		r.cut([]*node{a, b, c})
		a.apart[c], c.apart[a] = true, true
		r.held = func(from, _ *node, body Body) bool { _, ok := body.(FencePromise); return ok && from == b }
		x := a.remove(false, c)
		r.until("b promised", func() bool { return len(b.core.takeover.fences) == 1 })
		c.boot(true)
		r.tellPeers()
		y := c.allocate("x")
		r.pass(2 * time.Second)
		if _, given := c.answers[y]; given {
			t.Fatal("c gave an address of space that is being taken over")
		}
		if !strings.Contains(c.waits[y], "taking over") {
			t.Errorf("c waits for %q", c.waits[y])
		}
		r.release()
		if res := a.answer(x); res.Err != nil {
			t.Fatal(res.Err)
		}
		r.cut(r.nodes)
		c.answer(y)
		r.same()
		for i := range 8 {
			a.attach(fmt.Sprint("a", i))
		}
		r.distinct()
	})
	t.Run("somebody reaches it", func(t *testing.T) {
		r := divided(t, "a", "b", "c")
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		a.apart[c], c.apart[a] = true, true
		r.tellPeers()
		wantError(t, a.answer(a.remove(false, c)).Err, ErrRefused, "b reaches c")
		wantError(t, a.answer(a.remove(true, c)).Err, ErrRefused, "b reaches c")
		r.pass(15 * time.Second)
		if c.attach("x"); len(b.core.takeover.fences) > 0 {
			t.Error("fences left")
		}
	})
}

// One who promised restarts and still knows.
func TestRemovePromiseSurvives(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	block := c.anyBlock()
	r.stop(c)
	r.held = func(from, _ *node, body Body) bool { _, ok := body.(FencePromise); return ok && from == b }
	x := a.remove(false, c)
	r.until("b promised", func() bool { return len(b.core.takeover.fences) == 1 })
	r.stop(b)
	r.held = nil
	r.start(b)
	reg := b.core.ring.Register(block)
	late := Register{Owner: b.id(), Giver: c.id(), Version: reg.Version + 1}
	b.core.mergeRuns([]Run{{block, 1, late}})
	if b.core.ring.Register(block) == late {
		t.Error("b took a register that it had promised not to take")
	}
	r.release()
	if res := a.answer(x); res.Err != nil {
		t.Fatal(res.Err)
	}
	r.same()
}

// Answers to an earlier attempt, and news that one is over, say nothing about
// the next one.
func TestRemoveLateMessages(t *testing.T) {
	r := divided(t, "a", "b", "c", "d")
	a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
	r.stop(d)
	r.cut([]*node{a, b}, []*node{c})
	var late []flight
	r.held = func(_, to *node, body Body) bool {
		switch body.(type) {
		case FenceOver, FenceAsk:
			return to == b
		}
		return false
	}
	wantError(t, a.answer(a.remove(false, d)).Err, ErrRefused, "b and c are")
	late, r.stopped, r.held = r.stopped, nil, nil
	x := a.remove(false, d)
	r.until("b promised", func() bool { return len(b.core.takeover.fences) == 1 })
	fences := fmt.Sprint(b.core.takeover.fences)
	for _, f := range late {
		b.step(messageEvent{f.from.id(), f.data})
	}
	if got := fmt.Sprint(b.core.takeover.fences); got != fences {
		t.Errorf("fences were %s and are %s", fences, got)
	}
	wantError(t, a.answer(x).Err, ErrRefused, "c is out of reach")
	r.cut(r.nodes)
	if res := a.answer(a.remove(false, d)); res.Err != nil {
		t.Fatal(res.Err)
	}
	r.same()
}

func TestRemoveCancelled(t *testing.T) {
	r := divided(t, "a", "b", "c", "d")
	a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
	r.stop(c, d)
	x := a.remove(false, d)
	y := a.remove(false, c)
	r.pass(time.Second)
	if !strings.Contains(a.waits[x], "asking c what d gave") {
		t.Errorf("waits for %q", a.waits[x])
	}
	a.step(cancelEvent{x})
	wantError(t, a.answer(x).Err, errCancelled)
	wantError(t, a.answer(y).Err, ErrRefused, "d is out of reach")
	r.pass(time.Second)
	if len(a.core.takeover.fences)+len(b.core.takeover.fences) > 0 {
		t.Error("fences left")
	}
	a.answer(a.remove(false, c, d))
	r.same()
}

// A seed that never came can be removed by its name.
func TestRemoveUnmetSeed(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	for _, n := range r.nodes {
		n.cfg.Mode, _ = ParseMode(fmt.Sprintf("seed=%s,%s,%s", a.cfg.Name, b.cfg.Name, c.cfg.Name))
	}
	a.unknown[c], b.unknown[c] = true, true
	r.start(a, b)
	a.prime()
	b.prime()
	r.same()
	unmet := placeholder(c.cfg.Name)
	share := uint64(a.core.ring.Count(unmet))
	x := a.ask(func(tk ticket) event { return removeEvent{Ticket: tk, Peers: idsOf(unmet)} })
	a.wantTaken(x, share)
	r.same()
	if n := b.core.ring.Count(unmet); n > 0 {
		t.Errorf("%d blocks wait for a host that never came", n)
	}
	clear(a.unknown)
	clear(b.unknown)
	r.start(c)
	c.attach("x")
	r.same()
	r.distinct()
}

func idsOf[T any](list ...T) []T { return list }
