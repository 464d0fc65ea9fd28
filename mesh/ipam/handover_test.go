package ipam

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/mesh/ipam/wire"
)

func (n *node) handOver() ticket {
	return n.ask(func(t ticket) event { return handOverEvent{t} })
}

// lent makes n hold an address of owner's blocks.
func (n *node) lent(owner *node, key string) netip.Addr {
	n.r.t.Helper()
	owned := owner.core.ring.Owned(owner.id())
	addr, ok := owner.core.used.LowestFree(&owned, owner.core.geo.Range())
	if !ok {
		n.r.t.Fatalf("%s has nothing free", owner.name)
	}
	res := n.answer(n.ask(func(t ticket) event { return claimEvent{Ticket: t, Key: key, Label: key, Addr: addr} }))
	if res.Err != nil {
		n.r.t.Fatal(res.Err)
	}
	return addr
}

func TestHandOver(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	addr := b.lent(a, "x")
	own := a.attach("own")
	foreign := a.lent(c, "foreign")
	r.pass(2 * time.Second)
	had := uint64(a.blocks())
	res := a.answer(a.handOver())
	if res.Err != nil || res.IPs != had || res.To != b.id() && res.To != c.id() {
		t.Fatalf("%+v", res)
	}
	r.pass(time.Second)
	to := r.node(res.To)
	if a.blocks() != 0 || to.blocks() < int(had)*2 {
		t.Errorf("a has %d blocks, %s %d", a.blocks(), to.name, to.blocks())
	}
	if g, ok := to.core.leased[addr]; to == c && (!ok || g.Host != b.id() || g.Key != "x") {
		t.Errorf("%s is kept as %+v", addr, g)
	}
	if len(a.core.local)+len(a.core.leased) != 0 {
		t.Errorf("a keeps %v and %v", a.core.local, a.core.leased)
	}
	for _, n := range []*node{b, c} {
		for _, free := range []netip.Addr{own, foreign} {
			if g, leased := n.core.leased[free]; leased {
				t.Errorf("%s keeps %s for %+v", n.name, free, g)
			}
		}
		if len(n.core.handOver.offers) > 0 {
			t.Errorf("%s has offers left", n.name)
		}
	}
	r.same()
	if res := a.answer(a.handOver()); res.Err != nil || res.IPs != 0 {
		t.Errorf("again: %+v", res)
	}
}

func TestHandOverNobody(t *testing.T) {
	t.Run("no ring", func(t *testing.T) {
		r := newRig(t, "a")
		r.start(r.nodes...)
		if res := r.nodes[0].answer(r.nodes[0].handOver()); res.Err != nil || res.IPs != 0 {
			t.Errorf("%+v", res)
		}
	})
	t.Run("nobody ever", func(t *testing.T) {
		r := newRig(t, "a")
		r.start(r.nodes...)
		r.nodes[0].attach("x")
		if res := r.nodes[0].answer(r.nodes[0].handOver()); res.Err != nil || res.IPs != 0 {
			t.Errorf("%+v", res)
		}
	})
	t.Run("nobody in reach", func(t *testing.T) {
		r := divided(t, "a", "b")
		a, b := r.nodes[0], r.nodes[1]
		used := a.attach("x")
		r.stop(b)
		wantError(t, a.answer(a.handOver()).Err, errNobodyTakes, "--force")
		if a.blocks() != 128 || a.core.local[used].Key != "x" {
			t.Error("something was given away all the same")
		}
		a.attach("y")
	})
}

// What the host was given and has not heard of goes along.
func TestHandOverUnheardGift(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b := r.nodes[0], r.nodes[1]
	block := b.anyBlock()
	r.held = func(_, to *node, body wire.Body) bool { _, ok := body.(wire.State); return ok && to == a }
	b.give(block, a)
	r.pass(100 * time.Millisecond)
	r.held, r.stopped = nil, nil
	if a.core.ring.Owner(block) == a.id() {
		t.Fatal("a knows already")
	}
	if res := a.answer(a.handOver()); res.Err != nil {
		t.Fatal(res.Err)
	}
	r.same()
	if n := b.core.ring.Count(a.id()); n > 0 {
		t.Errorf("%d blocks belong to a host that is about to go", n)
	}
}

// One that does not answer is left for the next one, and keeps nothing.
func TestHandOverNext(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	addr := c.lent(a, "x")
	b.give(b.anyBlock(), c) // c has most, and is asked first
	r.pass(time.Second)
	addr2 := b.lent(a, "y")
	r.held = func(from, _ *node, body wire.Body) bool { _, ok := body.(wire.HandedOver); return ok && from == c }
	x := a.handOver()
	r.until("c keeps the leases", func() bool { _, ok := c.core.leased[addr2]; return ok })
	if !c.core.offered(addr2) {
		t.Error("they are not known as an offer")
	}
	res := a.answer(x)
	if res.Err != nil || res.To != b.id() {
		t.Fatalf("%+v", res)
	}
	r.release() // now its answer comes
	r.pass(time.Second)
	if g := b.core.leased[addr]; g.Host != c.id() {
		t.Errorf("%s at b: %+v", addr, g)
	}
	if _, left := c.core.leased[addr2]; left || len(c.core.handOver.offers) > 0 {
		t.Error("c still keeps what it was offered")
	}
	r.same()
	r.distinct()
}

// The peer learns that it has the blocks before it is told, the giver dies, or
// the peer restarts: it knows what is leased.
func TestHandOverHalfSaid(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for _, dies := range []bool{false, true} {
			t.Run(fmt.Sprintf("restart %v, giver dies %v", restart, dies), func(t *testing.T) {
				r := divided(t, "a", "b", "c")
				a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
				b.give(b.anyBlock(), c)
				r.pass(time.Second)
				addr := b.lent(a, "x")
				final := func(body wire.Body) bool {
					m, ok := body.(wire.HandOver)
					return ok && m.Runs[0].Register.Owner == c.id()
				}
				r.held = func(_, to *node, body wire.Body) bool {
					_, state := body.(wire.State)
					return final(body) || state && dies && to == c || state && restart
				}
				x := a.handOver()
				r.until("a gave", func() bool { return a.blocks() == 0 })
				if restart {
					r.stop(c)
					r.start(c)
				}
				if dies {
					r.stop(a)
				} else {
					r.pass(100 * time.Millisecond)
				}
				r.held, r.stopped = nil, nil
				if !dies {
					if res := a.answer(x); res.Err != nil {
						t.Fatal(res.Err)
					}
				} else {
					r.start(a)
				}
				r.same()
				if g := c.core.leased[addr]; g.Host != b.id() {
					t.Errorf("%s at c: %+v", addr, g)
				}
				for i := range 8 {
					c.attach(fmt.Sprint("c", i))
				}
				r.distinct()
				if n := len(c.core.handOver.offers); n > 0 {
					t.Errorf("%d offers left", n)
				}
			})
		}
	}
}

// That the receiver kept the offer does not say that it has the gift.
func TestHandOverLateAnswer(t *testing.T) {
	r := divided(t, "a", "b")
	a, b := r.nodes[0], r.nodes[1]
	var acks []flight
	r.held = func(_, to *node, body wire.Body) bool {
		m, ok := body.(wire.HandOver)
		_, ack := body.(wire.HandedOver)
		return ok && m.Runs[0].Register.Owner == b.id() || ack && len(acks) == 0
	}
	x := a.handOver()
	r.until("b answered", func() bool { return len(r.stopped) > 0 })
	acks, r.stopped = r.stopped, nil
	r.until("a gave", func() bool { return a.blocks() == 0 })
	for _, f := range acks {
		a.step(messageEvent{f.from.id(), f.data})
	}
	wantError(t, a.answer(x).Err, ErrUnreachable, "did not confirm")
}

// Until the receiver has the blocks it keeps what is leased in them, whatever
// the holders tell it, since they tell what it has.
func TestHandOverOfferLasts(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	b.give(b.anyBlock(), c)
	r.pass(time.Second)
	addr := b.lent(a, "x")
	b.lent(c, "y") // so that b has something to say to c
	r.held = func(from, _ *node, body wire.Body) bool { _, ok := body.(wire.HandedOver); return ok && from == c }
	a.handOver()
	r.until("c keeps the leases", func() bool { _, ok := c.core.leased[addr]; return ok })
	r.held, r.stopped = nil, nil
	r.stop(a)
	r.pass(70 * time.Second)
	if g := c.core.leased[addr]; g.Host != b.id() {
		t.Errorf("%s at c: %+v", addr, g)
	}
}

// An offer of which nothing came is forgotten, also after a restart.
func TestHandOverVoid(t *testing.T) {
	for _, restart := range []bool{false, true} {
		r := divided(t, "a", "b", "c")
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		b.give(b.anyBlock(), c)
		r.pass(time.Second)
		addr := b.lent(a, "x")
		r.held = func(from, _ *node, body wire.Body) bool { _, ok := body.(wire.HandedOver); return ok && from == c }
		x := a.handOver()
		r.until("c keeps the leases", func() bool { _, ok := c.core.leased[addr]; return ok })
		a.step(cancelEvent{x})
		wantError(t, a.answer(x).Err, errCancelled)
		if restart {
			r.stop(c)
			r.start(c)
		}
		r.held, r.stopped = nil, nil
		r.until("c forgets", func() bool { _, ok := c.core.leased[addr]; return !ok })
		if a.blocks() != 85 && a.blocks() != 86 {
			t.Errorf("a has %d blocks", a.blocks())
		}
		a.attach("y")
		r.pass(40 * time.Second)
		if g := a.core.leased[addr]; g.Host != b.id() {
			t.Errorf("%s at a: %+v", addr, g)
		}
		r.same()
		r.distinct()
	}
}

// A part that was given and not confirmed stays given. This host's containers
// keep what they have, and asking again asks the same peer.
func TestHandOverUnconfirmed(t *testing.T) {
	r := divided(t, "a", "b")
	a, b := r.nodes[0], r.nodes[1]
	used := a.attach("x")
	r.held = func(_, _ *node, body wire.Body) bool {
		m, ok := body.(wire.HandOver)
		return ok && m.Runs[0].Register.Owner == b.id()
	}
	wantError(t, a.answer(a.handOver()).Err, ErrUnreachable, "did not confirm")
	if a.blocks() != 0 || a.core.local[used].Key != "x" {
		t.Errorf("%d blocks, %s is %+v", a.blocks(), used, a.core.local[used])
	}
	r.held, r.stopped = nil, nil
	r.pass(5 * time.Second)
	if g := b.core.leased[used]; g.Host != a.id() {
		t.Errorf("%s at b: %+v", used, g)
	}
	if res := a.answer(a.handOver()); res.Err != nil || res.To != b.id() {
		t.Errorf("%+v", res)
	}
	r.pass(time.Second)
	if len(b.core.leased) > 0 {
		t.Errorf("b keeps %v", b.core.leased)
	}
	r.same()
}

// A host that may have forgotten what it gave away hands nothing over.
func TestHandOverUnsure(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	r.stop(a, c)
	a.boot(false)
	r.tellPeers()
	r.pass(2 * time.Second)
	wantError(t, a.answer(a.handOver()).Err, errNobodyTakes, "c (out of reach) must first say")
	r.start(c)
	r.pass(2 * time.Second)
	if res := a.answer(a.handOver()); res.Err != nil {
		t.Fatal(res.Err)
	}
	r.same()
	_ = b
}
