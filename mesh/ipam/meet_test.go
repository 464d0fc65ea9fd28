package ipam

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/mesh/ipam/ring"
)

// alone starts hosts that never met, each with its own ring if it divides.
func alone(t *testing.T, names ...string) *rig {
	r := newRig(t, names...)
	for _, a := range r.nodes {
		for _, b := range r.nodes {
			a.unknown[b] = a != b
		}
	}
	r.start(r.nodes...)
	return r
}

func (r *rig) meet(nodes ...*node) {
	for _, a := range nodes {
		for _, b := range nodes {
			delete(a.unknown, b)
		}
	}
	r.tellPeers()
	r.pass(3 * time.Second)
}

func TestMeetNoRing(t *testing.T) {
	r := alone(t, "a", "b")
	a, b := r.nodes[0], r.nodes[1]
	one := a.attach("x")
	r.meet(a, b)
	r.same()
	if two := b.attach("y"); one == two {
		t.Errorf("both have %s", one)
	}
}

// Nobody uses anything yet: the smaller id wins.
func TestMeetBothUnused(t *testing.T) {
	r := alone(t, "a", "b")
	a, b := r.nodes[0], r.nodes[1]
	a.prime()
	b.prime()
	want := a.core.ring.ID()
	if b.core.ring.ID().Compare(want) < 0 {
		want = b.core.ring.ID()
	}
	r.meet(a, b)
	r.same()
	if a.core.ring.ID() != want {
		t.Error("the larger id won")
	}
	a.attach("x")
	b.attach("y")
	r.distinct()
}

// The side that uses nothing adopts the other, whatever the ids.
func TestMeetOneUnused(t *testing.T) {
	for i := range 2 {
		r := alone(t, "a", "b")
		used, unused := r.nodes[i], r.nodes[1-i]
		used.attach("x")
		unused.prime()
		want := used.core.ring.ID()
		r.meet(r.nodes...)
		r.same()
		if used.core.ring.ID() != want {
			t.Error("the ring that is used was given up")
		}
		unused.attach("y")
		r.distinct()
	}
}

// Both use addresses: both go on, and say so, until one side ends.
func TestMeetBothUsed(t *testing.T) {
	r := alone(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	a.attach("x")
	b.attach("y")
	r.meet(a, c) // c adopts a's
	c.attach("z")
	r.meet(b, c) // and is where the two meet
	r.meet(a, b, c)
	if a.core.ring.ID() == b.core.ring.ID() || c.core.ring.ID() != a.core.ring.ID() {
		t.Fatal("rings were merged")
	}
	for n, other := range map[*node]string{a: "b", c: "b"} {
		if got := n.core.ringConflict(); !strings.HasPrefix(got, other+" divided") || !strings.Contains(got, "weft reset") {
			t.Errorf("%s says %q", n.name, got)
		}
		logged := 0
		for _, l := range n.logs {
			if strings.Contains(l, "address range divided twice") {
				logged++
			}
		}
		if logged != 1 {
			t.Errorf("%s logged it %d times", n.name, logged)
		}
	}
	a.attach("more")
	b.attach("more")

	// The remedy: the containers of one side end.
	for _, key := range []string{"y", "more"} {
		b.answer(b.ask(func(tk ticket) event { return releaseEvent{Ticket: tk, Key: key} }))
	}
	r.pass(5 * time.Second)
	r.same()
	if a.core.ringConflict()+b.core.ringConflict() != "" {
		t.Error("the conflict is still told")
	}
	b.attach("y")
	r.distinct()
}

// Of two that share the other ring the one that gives addresses in it is named,
// whatever their order: it divided the range, the other one merely joined.
func TestMeetNamesWhoUses(t *testing.T) {
	for i := range 3 {
		r := alone(t, "a", "b", "c")
		user, other, joiner := r.nodes[i], r.nodes[(i+1)%3], r.nodes[(i+2)%3]
		for j := range 2 {
			user.attach(strconv.Itoa(j))
		}
		r.meet(user, joiner)
		other.attach("y")
		r.meet(r.nodes...)
		r.pass(2 * meetLook)
		if joiner.core.ring.ID() != user.core.ring.ID() || other.core.ring.ID() == user.core.ring.ID() {
			t.Fatalf("%s uses addresses: unexpected rings", user.name)
		}
		if got := other.core.ringConflict(); !strings.HasPrefix(got, user.name+" divided") {
			t.Errorf("%s uses addresses, %s joined it; %s says %q", user.name, joiner.name, other.name, got)
		}
	}
}

// A host leaves a ring in which it gave blocks away, and comes back to it by
// way of somebody who did not hear of that: it asks everybody first.
func TestMeetBackAgain(t *testing.T) {
	r := divided(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	old := a.core.ring
	given := a.anyBlock()
	stale := old.AllRuns()
	r.cut([]*node{a, b}, []*node{c})
	a.give(given, b)
	r.pass(time.Second)
	r.cut([]*node{a}, []*node{b}, []*node{c})

	// a moves to another ring, as nothing is used in this one.
	other := ring.NewDivision(ring.ID{15: 1}, a.core.geo, idsOf(b.id()))
	a.core.moveTo(other, "test")
	a.step(tickEvent{})
	if a.core.sureness.unproven {
		t.Error("unsure in a ring in which it never had anything")
	}
	back := ring.New(old.ID(), a.core.geo)
	back.MergeRuns(stale, nil)
	a.core.moveTo(back, "test")
	a.step(tickEvent{})
	if !a.core.sureness.unproven {
		t.Fatal("it trusts what c says of its own blocks")
	}
	r.cut([]*node{a, c}, []*node{b})
	a.attach("x") // from c's
	if addr := a.core.keys["x"][0]; a.core.ring.Owner(int(addr.As4()[3])) == a.id() && a.core.sureness.fresh.Empty() {
		t.Errorf("it gave %s of its own", addr)
	}
	r.cut(r.nodes)
	r.pass(15 * time.Second)
	r.same()
	if a.core.sureness.unproven || a.core.ring.Owner(given) != b.id() {
		t.Errorf("unsure %v, block of b is %s's", a.core.sureness.unproven, a.core.title(a.core.ring.Owner(given)))
	}
	r.distinct()
}

// Another range is no ring at all.
func TestMeetOtherRange(t *testing.T) {
	r := alone(t, "a")
	a := r.nodes[0]
	r2 := newRig(t, "x", "b")
	b := r2.nodes[1]
	b.r = r
	b.cfg.Range = b.cfg.Range.Masked()
	b.cfg.Range, _ = b.cfg.Range.Addr().Prefix(20)
	r.nodes = append(r.nodes, b)
	r.start(b)
	one, two := a.attach("x"), b.attach("y")
	r.meet(a, b)
	r.pass(20 * time.Second)
	if one != two || a.core.ring.ID() == b.core.ring.ID() {
		t.Error("expected two allocators that have nothing to do with each other")
	}
	if a.core.ringConflict() != "" {
		t.Error(a.core.ringConflict())
	}
}
