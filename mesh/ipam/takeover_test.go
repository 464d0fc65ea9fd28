package ipam

import (
	"fmt"
	"testing"
	"time"

	"github.com/weftnet/weft/mesh/ipam/wire"
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

	wantError(t, a.answer(a.remove(false, c)).Err, ErrRefused, "c counts as alive", "stop it first")
	wantError(t, a.answer(a.remove(true, c)).Err, ErrRefused, "c counts as alive")
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
	if len(a.core.takeover.fences) > 0 {
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
	r.held = func(from, _ *node, body wire.Body) bool {
		switch body.(type) {
		case wire.State, wire.Digest:
			return from == c
		}
		return false
	}
	r.cut(r.nodes)
	if a.core.ring.Count(c.id())+b.core.ring.Count(c.id()) > 0 {
		t.Fatal("a or b knows what c has")
	}
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
			r.held = func(from, to *node, body wire.Body) bool {
				switch body.(type) {
				case wire.Give, wire.State, wire.Digest:
					return from == c
				}
				return false
			}
			b.allocate("late")
			r.until("c gives", func() bool {
				for _, f := range r.stopped {
					m, _ := wire.ParseMessage(f.data)
					if g, ok := m.Body.(wire.Give); ok && (len(g.Runs) > 0 || g.Addr.IsValid()) {
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
			r.held = func(from, to *node, body wire.Body) bool { _, ok := body.(wire.FencePromise); return ok }
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
	r.held = func(_, to *node, body wire.Body) bool { _, ok := body.(wire.FenceOver); return ok && to == b }
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

// A holder that has not heard who owns the block says that it holds nothing of
// the new owner's. That ends nothing.
func TestRemoveLeaseUnheard(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	addr := b.lent(c, "x")
	b.lent(a, "y") // so that it has something to say
	r.stop(c)
	r.held = func(_, to *node, body wire.Body) bool {
		switch body.(type) {
		case wire.FenceOver, wire.State, wire.Digest:
			return to == b
		}
		return false
	}
	if res := a.answer(a.remove(false, c)); res.Err != nil {
		t.Fatal(res.Err)
	}
	for range 7 {
		r.pass(10 * time.Second)
		if g := a.core.leased[addr]; g.Host != b.id() {
			t.Fatalf("%s is %+v", addr, g)
		}
	}
	r.held, r.stopped = nil, nil
	r.same()
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

// b asks a, whose answer is under way when a begins on its own. Only one of
// them may go on, since neither knows of what the other would write.
func TestRemoveYields(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	had := uint64(c.blocks())
	r.stop(c)
	r.held = func(from, to *node, body wire.Body) bool {
		switch body.(type) {
		case wire.FencePromise:
			return true
		case wire.FenceOver, wire.State, wire.Digest:
			return to == b
		}
		return false
	}
	x := b.remove(false, c)
	r.pass(5 * time.Millisecond) // a promised
	if len(r.stopped) != 1 {     // of a
		t.Fatalf("%d promises", len(r.stopped))
	}
	// For a moment a does not see that b is at it.
	a.apart[b], b.apart[a] = true, true
	r.tellPeers()
	y := a.remove(false, c)
	a.apart[b], b.apart[a] = false, false
	r.tellPeers()
	r.pass(1500 * time.Millisecond) // a asks again, and b hears it
	r.release()
	first, second := a.answer(y), b.answer(x)
	if first.Err != nil || second.Err != nil || first.Taken[0].IPs+second.Taken[0].IPs != had {
		t.Errorf("a took %+v, b took %+v", first, second)
	}
	r.same()
}

// What only others saw the target use is kept, too.
func TestRemoveKeepsWhatOthersSaw(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	r.cut([]*node{a}, []*node{b, c})
	addr := c.attach("x")
	r.pass(2 * time.Second)
	r.stop(c)
	r.cut(r.nodes)
	if res := a.answer(a.remove(false, c)); res.Err != nil {
		t.Fatal(res.Err)
	}
	if g := a.core.leased[addr]; g.Host != c.id() || g.Label != "x" {
		t.Errorf("%s is %+v", addr, g)
	}
	_ = b
}
