package ipam

import (
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// A host that was set up anew under its old name, with seeds, does not use the
// share of that name before it asked somebody: others have parts of it.
func TestSeedNewIdentity(t *testing.T) {
	for _, meets := range []bool{true, false} {
		r := newRig(t, "a", "b", "a2")
		a, b, again := r.nodes[0], r.nodes[1], r.nodes[2]
		again.cfg.Name = a.cfg.Name
		seeds := []crypto.Name{a.cfg.Name, b.cfg.Name}
		for _, n := range r.nodes {
			n.cfg.Mode = Mode{Kind: ModeSeed, Seeds: seeds}
		}
		for _, n := range []*node{a, b} {
			n.unknown[again], again.unknown[n] = true, true
		}
		r.start(a, b)
		first := a.attach("x")
		b.attach("y")
		r.same()
		block, _ := a.core.geo.Block(first)
		r.stop(a)
		if res := b.answer(b.remove(false, a)); res.Err != nil {
			t.Fatal(res.Err)
		}
		again.targets = 1
		r.start(again)
		x := again.allocate("z")
		r.pass(5 * time.Second)
		if _, got := again.answers[x]; got || again.core.ring == nil || again.blocks() > 0 {
			t.Fatalf("before it met anybody it got %+v, and has %d blocks", again.answers[x], again.blocks())
		}
		if !meets {
			again.answer(x)
			if r.now.After(again.core.now.Add(15 * time.Second)) {
				t.Error("alone it waited for too long")
			}
			continue
		}
		delete(again.unknown, b)
		delete(b.unknown, again)
		again.targets = 0
		r.tellPeers()
		if res := again.answer(x); res.Err != nil || res.Addr.Addr() == first {
			t.Errorf("%s was given again, %v", res.Addr, res.Err)
		}
		if owner := again.core.ring.Owner(block); owner != b.id() {
			t.Errorf("the block of %s belongs to %s", first, again.core.title(owner))
		}
		r.same()
	}
}

// The host that owns everything does not throw it away because all others are
// down.
func TestHandOverOthersDown(t *testing.T) {
	r := newRig(t, "a", "b")
	a, b := r.nodes[0], r.nodes[1]
	a.unknown[b] = true
	r.start(a)
	a.attach("x")
	if a.blocks() != 256 {
		t.Fatalf("a has %d blocks", a.blocks())
	}
	delete(a.unknown, b) // listed, and never alive
	r.tellPeers()
	wantError(t, a.answer(a.handOver()).Err, errNobodyTakes, "--force")
	if a.blocks() != 256 || len(a.core.local) != 1 {
		t.Error("something is gone all the same")
	}
	r.stop(a) // the same after a restart
	r.start(a)
	wantError(t, a.answer(a.handOver()).Err, errNobodyTakes, "--force")
}

// A host that is alone beside another ring has nothing to hand over there.
func TestHandOverOtherRing(t *testing.T) {
	r := newRig(t, "a", "b")
	a, b := r.nodes[0], r.nodes[1]
	a.unknown[b], b.unknown[a] = true, true
	r.start(a, b)
	a.attach("x")
	b.attach("y")
	clear(a.unknown)
	clear(b.unknown)
	r.pass(20 * time.Second)
	if res := a.answer(a.handOver()); res.Err != nil || res.IPs != 0 {
		t.Errorf("%+v", res)
	}
}

// A seed that never came is removed by its placeholder.
func TestRemoveSeedThatNeverCame(t *testing.T) {
	r := newRig(t, "a", "b")
	a, b := r.nodes[0], r.nodes[1]
	never := crypto.Name{0xaa, 0, 0, 0, 0, 3}
	for _, n := range r.nodes {
		n.cfg.Mode = Mode{Kind: ModeSeed, Seeds: []crypto.Name{a.cfg.Name, b.cfg.Name, never}}
	}
	r.start(a, b)
	a.prime()
	r.pass(5 * time.Second)
	r.same()
	var target crypto.Identity
	for _, s := range a.core.status().Shares {
		switch {
		case s.Name == never:
			target = s.Owner
			if !s.ID.IsZero() || s.Known {
				t.Errorf("%+v", s)
			}
		case s.Owner != s.ID:
			t.Errorf("%+v", s)
		}
	}
	res := a.answer(a.ask(func(tk ticket) event { return removeEvent{tk, []crypto.Identity{target}, false} }))
	if res.Err != nil || res.Taken[0].IPs < 85 || a.blocks() != 256-b.blocks() {
		t.Errorf("%+v, and a has %d blocks", res, a.blocks())
	}
	r.same()
}

// The mesh may say that a host left for good before we hear to whom it gave
// its space.
func TestLeftBeforeRegisters(t *testing.T) {
	for _, given := range []bool{true, false} {
		r := divided(t, "a", "b", "c")
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		addr := c.lent(a, "x")
		r.held = func(_, to *node, body wire.Body) bool {
			switch body.(type) {
			case wire.State, wire.Held, wire.HandOver, wire.Digest, wire.FenceAsk, wire.FenceOver:
				return to == a
			}
			return false
		}
		if given { // to b, as a reset does
			owned := c.core.ring.Owned(c.id())
			for block := range owned.All() {
				c.give(block, b)
			}
			r.pass(10 * time.Millisecond)
		}
		r.stop(c)
		a.unknown[c], b.unknown[c] = true, true
		r.tellPeers()
		if _, ok := a.core.leased[addr]; !ok {
			t.Fatal("the lease ended before it was known that c gave its space away")
		}
		if !given { // it left by force, and its containers may still be there
			if res := b.answer(b.remove(true, c)); res.Err != nil {
				t.Fatal(res.Err)
			}
		}
		// No more than the registers, and no new list of peers.
		a.step(messageEvent{b.id(), b.core.pack(wire.State{Runs: b.core.ring.AllRuns()})})
		if _, ok := a.core.leased[addr]; ok == given || a.core.ring.Count(c.id()) > 0 {
			t.Errorf("given away %v: lease kept %v", given, ok)
		}
		if given && a.core.peers[c.id()] != nil {
			t.Error("c is still remembered")
		}
		r.held, r.stopped = nil, nil
		r.same()
		r.pass(time.Minute)
		if _, ok := a.core.leased[addr]; ok == given {
			t.Errorf("given away %v: lease kept %v later", given, ok)
		}
	}
}

// A member cannot make others remember hosts that do not exist.
func TestRemovedStrangers(t *testing.T) {
	r := divided(t, "a", "b")
	a, b := r.nodes[0], r.nodes[1]
	stranger := func(i, j int) crypto.Identity { return crypto.Identity{0xee, byte(i), byte(j)} }
	for i := range 5 {
		var list []wire.Removed
		var targets []crypto.Identity
		for j := range 50 {
			list = append(list, wire.Removed{Peer: stranger(i, j), Epoch: uint64(2 + 2*i)})
			targets = append(targets, stranger(i, j))
		}
		epoch := b.core.highestEpoch() + 2
		for _, body := range []wire.Body{
			wire.State{Removed: list},
			wire.FenceAsk{Op: uint64(i), Targets: targets, Epoch: epoch},
		} {
			b.step(messageEvent{a.id(), a.core.pack(body)})
		}
		if n := len(b.core.takeover.fences); n > 50 {
			t.Fatalf("%d fences", n)
		}
		if i == 4 {
			b.step(messageEvent{a.id(), a.core.pack(wire.FenceOver{Op: 4, Targets: targets, Epoch: epoch, Taken: true})})
		}
	}
	if n := len(b.core.takeover.fences) + len(b.core.takeover.gone); n > 0 {
		t.Errorf("%d fences and removals of strangers", n)
	}
}

// Who was removed is forgotten when nothing is left of it.
func TestRemovedForgotten(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	c.attach("x")
	r.pass(12 * time.Second)
	r.stop(c)
	if res := a.answer(a.remove(false, c)); res.Err != nil {
		t.Fatal(res.Err)
	}
	a.unknown[c], b.unknown[c] = true, true // expelled
	r.pass(3 * time.Hour)
	if !a.core.removed(c.id()) || b.core.removed(c.id()) {
		t.Errorf("an address of it is kept by a, which knows %v; b knows %v", a.core.removed(c.id()), b.core.removed(c.id()))
	}
	if res := a.answer(a.remove(true, c)); res.Err != nil || res.Taken[0].Released != 1 {
		t.Fatalf("%+v", res)
	}
	r.pass(3 * time.Hour)
	for _, n := range []*node{a, b} {
		if len(n.core.takeover.gone) > 0 || n.core.peers[c.id()] != nil {
			t.Errorf("%s knows %v", n.name, n.core.takeover.gone)
		}
		for key := range n.disk {
			if strings.HasPrefix(key, "r/") {
				t.Errorf("%s keeps %s", n.name, key)
			}
		}
	}
}

// A host that was set up anew has an old identity that nobody means any more.
func TestOthersAfterReinstall(t *testing.T) {
	r := divided(t, "a", "b", "c", "d")
	a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
	used := c.attach("x")
	r.pass(12 * time.Second)
	r.stop(c)
	if res := a.answer(a.remove(false, c)); res.Err != nil {
		t.Fatal(res.Err)
	}
	for _, n := range r.nodes {
		n.unknown[c] = true
	}
	d.name = c.name // the new host has the old one's nickname
	r.pass(time.Second)
	named := func(list []Peer) (n int) {
		for _, p := range list {
			if p.Nickname == "c" {
				n++
			}
		}
		return n
	}
	s := b.core.status()
	if named(s.Others) != 1 || named(s.Former) != 1 {
		t.Errorf("b: others %v, former %v", s.Others, s.Former)
	}
	if s = a.core.status(); named(s.Others) != 2 {
		t.Errorf("a, which keeps %s, does not know both: %v", used, s.Others)
	}
	want := "weft rmpeer --force " + c.cfg.Name.String()
	if w := strings.Join(s.Warnings, "\n"); !strings.Contains(w, want) {
		t.Errorf("warnings %q do not say %q", w, want)
	}
}

// Addresses of a host that was removed are freed where they are kept.
func TestRemoveByHandElsewhere(t *testing.T) {
	r := divided(t, "a", "b", "c", "d")
	a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
	c.attach("x")
	r.pass(12 * time.Second)
	r.stop(c, d)
	if res := a.answer(a.remove(false, c, d)); res.Err != nil {
		t.Fatal(res.Err)
	}
	r.same()
	wantError(t, b.answer(b.remove(true, c)).Err, ErrRefused, "c was removed before", "on a", "rmpeer --force c")
	wantError(t, b.answer(b.remove(true, d)).Err, ErrRefused, "d was removed before", "on a")
	b.wantTaken(b.remove(false, c), 0)
	if res := a.answer(a.remove(true, c)); res.Err != nil || res.Taken[0].Released != 1 {
		t.Errorf("%+v", res)
	}
	a.wantTaken(a.remove(true, d), 0)
}

// What became of a takeover is asked once in fenceTime, not more often.
func TestInitiatorsAskedOnce(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	r.stop(c)
	asked := 0
	r.held = func(from, _ *node, body wire.Body) bool {
		if d, ok := body.(wire.Digest); ok && from == b && len(d.Pending) > 0 {
			asked++
		}
		_, over := body.(wire.FenceOver)
		return over
	}
	if res := a.answer(a.remove(false, c)); res.Err != nil {
		t.Fatal(res.Err)
	}
	r.pass(60 * time.Second)
	// Besides, one digest in 10 s goes to somebody anyway.
	if asked < 12 || asked > 21 {
		t.Errorf("asked %d times in a minute", asked)
	}
	r.held, r.stopped = nil, nil
	r.until("the fence ends", func() bool { return len(b.core.takeover.fences) == 0 })
}
