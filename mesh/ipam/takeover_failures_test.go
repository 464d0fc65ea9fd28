package ipam

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// The initiator dies in every state.
func TestRemoveInitiatorDies(t *testing.T) {
	for _, state := range []string{"asked", "promised", "taken"} {
		for _, back := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, back %v", state, back), func(t *testing.T) {
				r := divided(t, "a", "b", "c", "d")
				a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
				had := d.blocks()
				r.stop(d)
				r.held = func(from, to *node, body wire.Body) bool {
					switch body.(type) {
					case wire.FenceAsk:
						return state == "asked" && to == c
					case wire.FencePromise:
						return state == "promised" && from == c
					case wire.FenceOver, wire.State, wire.Digest:
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
		r.held = func(_, to *node, body wire.Body) bool { _, ok := body.(wire.FenceAsk); return ok }
		x := a.remove(false, c)
		r.pass(100 * time.Millisecond)
		r.held, r.stopped = nil, nil
		r.start(c)
		wantError(t, a.answer(x).Err, ErrRefused, "c counts as alive")
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
		r.held = func(from, _ *node, body wire.Body) bool { _, ok := body.(wire.FencePromise); return ok && from == b }
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
	r.held = func(from, _ *node, body wire.Body) bool { _, ok := body.(wire.FencePromise); return ok && from == b }
	x := a.remove(false, c)
	r.until("b promised", func() bool { return len(b.core.takeover.fences) == 1 })
	r.stop(b)
	r.held = nil
	r.start(b)
	reg := b.core.ring.Register(block)
	late := ring.Register{Owner: b.id(), Giver: c.id(), Version: reg.Version + 1}
	b.core.mergeRuns([]ring.Run{{First: block, Count: 1, Register: late}})
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
	r.held = func(_, to *node, body wire.Body) bool {
		switch body.(type) {
		case wire.FenceOver, wire.FenceAsk:
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
	unmet := ring.Placeholder(c.cfg.Name)
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

// That a host was removed, and is back, is known to all in any order of news.
func TestRemovedIsANumber(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	r.stop(c)
	if res := a.answer(a.remove(false, c)); res.Err != nil {
		t.Fatal(res.Err)
	}
	old := a.core.removedPeers()
	if len(old) != 1 || old[0].Peer != c.id() || old[0].Epoch%2 != 0 || !b.core.removed(c.id()) {
		t.Fatalf("removed: %v", old)
	}
	r.held = func(_, _ *node, body wire.Body) bool { _, ok := body.(wire.State); return ok }
	r.start(c)
	if a.core.removed(c.id()) || b.core.removed(c.id()) {
		t.Error("c is seen and counts as removed")
	}
	if c.core.sureness.unproven {
		t.Error("c knows already that it was removed")
	}
	r.release()
	if !c.core.sureness.unproven && len(c.core.missing()) > 0 {
		t.Error("c does not mind that it was removed")
	}
	r.stop(c)
	b.core.learnRemoved(old)
	b.step(tickEvent{})
	if b.core.removed(c.id()) {
		t.Error("an old message made c removed again")
	}
	// b is restored from a copy of before c came back.
	delete(b.core.takeover.gone, c.id())
	b.core.learnRemoved(old)
	if !b.core.removed(c.id()) {
		t.Error("b did not learn that c was removed")
	}
	b.core.learnRemoved(a.core.removedPeers())
	if b.core.removed(c.id()) {
		t.Error("b did not learn that c came back")
	}
}

// A host that was removed, and had given away what nobody knows of, asks all
// others before it gives anything.
func TestRemovedIsUnsure(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	r.stop(c)
	if res := a.answer(a.remove(false, c)); res.Err != nil {
		t.Fatal(res.Err)
	}
	r.cut([]*node{a}, []*node{b, c})
	r.start(c)
	r.pass(2 * time.Second)
	if !c.core.sureness.unproven {
		t.Error("c trusts what it knows, although a was not heard")
	}
	r.cut(r.nodes)
	r.pass(15 * time.Second)
	if c.core.sureness.unproven {
		t.Errorf("c is still not sure: %s", c.core.unprovenReason())
	}
}

// Two hosts took space over from each other, and a third one heard the end of
// neither. The fence with the higher epoch is lifted first, and none before
// all is known that was taken.
func TestRemoveEachOther(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	ofA, ofB := a.anyBlock(), b.anyBlock()
	begin := func() {
		c.core.putFence(wire.Fence{Target: a.id(), Initiator: b.id(), Epoch: 100})
		c.core.putFence(wire.Fence{Target: b.id(), Initiator: a.id(), Epoch: 200})
	}
	over := func(from, target *node, epoch uint64, taken bool, block int) int {
		m := wire.FenceOver{Targets: idsOf(target.id()), Epoch: epoch, Taken: taken}
		if taken {
			m.Runs = []ring.Run{{First: block, Count: 1, Register: ring.Register{Owner: from.id(), Giver: from.id(), Epoch: epoch, Version: 9}}}
		}
		c.core.receiveTakeover(from.id(), wire.Message{Ring: c.core.ring.ID(), Range: c.core.geo.Range(), Body: m})
		return len(c.core.takeover.fences)
	}
	begin()
	if n := over(b, a, 100, false, 0); n != 1 {
		t.Errorf("given up: %d fences left, want 1", n)
	}
	if n := over(a, b, 200, false, 0); n != 0 {
		t.Errorf("given up: %d fences left, want 0", n)
	}
	begin()
	if n := over(b, a, 100, true, ofA); n != 2 || c.core.ring.Owner(ofA) != a.id() {
		t.Errorf("the lower one first: %d fences left, want 2", n)
	}
	if n := over(a, b, 200, true, ofB); n != 1 || c.core.ring.Owner(ofB) != a.id() {
		t.Errorf("the higher one: %d fences left, want 1", n)
	}
	if n := over(b, a, 100, true, ofA); n != 0 || c.core.ring.Owner(ofA) != b.id() {
		t.Errorf("the lower one again: %d fences left, want 0", n)
	}
}
