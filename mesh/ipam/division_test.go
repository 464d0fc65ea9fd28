package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

func TestMode(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", "consensus"},
		{"consensus", "consensus"},
		{"consensus=3", "consensus=3"},
		{"observer", "observer"},
		{"seed=::2,::1", "seed=00:00:00:00:00:01,00:00:00:00:00:02"},
		{"seed=7a:00:00:00:00:01", "seed=7a:00:00:00:00:01"},
		{"seed=::1,::1", "seed=00:00:00:00:00:01"},
		{"consensus=", ""},
		{"consensus=0", ""},
		{"consensus=-1", ""},
		{"consensus=x", ""},
		{"consensus=5000", ""},
		{"observer=1", ""},
		{"seed", ""},
		{"seed=", ""},
		{"seed=::1,", ""},
		{"seed=nobody", ""},
		{"leader", ""},
	} {
		m, err := ParseMode(tt.in)
		switch {
		case tt.want == "" && err == nil:
			t.Errorf("%q: no error", tt.in)
		case tt.want != "" && (err != nil || m.String() != tt.want):
			t.Errorf("%q: %q, %v, want %q", tt.in, m, err, tt.want)
		}
	}
}

func TestDivideAlone(t *testing.T) {
	r := newRig(t, "a")
	a := r.nodes[0]
	r.start(a)
	if a.core.ring != nil {
		t.Fatal("divided before anybody needed it")
	}
	if got := a.attach("x"); got != netip.MustParseAddr("10.32.0.1") || a.blocks() != 256 {
		t.Errorf("got %s and %d blocks", got, a.blocks())
	}
}

// A host that names another, or ever met one, never divides alone.
func TestDivideNotAlone(t *testing.T) {
	r := newRig(t, "a", "b")
	a, b := r.nodes[0], r.nodes[1]
	a.unknown[b], b.unknown[a] = true, true
	a.targets = 1
	r.start(a, b)
	x := a.allocate("x")
	r.pass(30 * time.Second)
	if a.core.ring != nil {
		t.Fatal("divided alone although another host was named")
	}
	if got, want := a.waits[x], "awaiting consensus (quorum: 2, known: 1)"; got != want {
		t.Errorf("waits for %q, want %q", got, want)
	}
	a.targets = 0
	clear(a.unknown)
	clear(b.unknown)
	r.tellPeers()
	a.answer(x)
	r.same()
	if a.blocks() != 128 || b.blocks() != 128 {
		t.Errorf("shares %d and %d", a.blocks(), b.blocks())
	}
}

func TestDivideThree(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	r.start(r.nodes...)
	r.nodes[1].prime()
	r.same()
	for _, n := range r.nodes {
		if n.blocks() < 85 {
			t.Errorf("%s has %d blocks", n.name, n.blocks())
		}
		if n.disk["v"] != nil {
			t.Errorf("%s remembers its vote", n.name)
		}
	}
}

// All propose at once, and there is one ring.
func TestDivideAllAtOnce(t *testing.T) {
	for seed := range 20 {
		r := newRig(t, "a", "b", "c", "d", "e")
		for _, n := range r.nodes {
			n.cfg.Seed[0] ^= byte(seed)
		}
		r.start(r.nodes...)
		var asked []ticket
		for i, n := range r.nodes {
			asked = append(asked, n.allocate(fmt.Sprint("x", i)))
		}
		for i, n := range r.nodes {
			n.answer(asked[i])
		}
		r.same()
		r.distinct()
	}
}

// Four hosts with one launch list, two of them on each side of a cut: neither
// side is a majority, although neither knows how many there are.
func TestDivideHalves(t *testing.T) {
	r := newRig(t, "a", "b", "c", "d")
	for i, n := range r.nodes {
		n.targets = 2
		for j, m := range r.nodes {
			if i/2 != j/2 {
				n.unknown[m] = true
			}
		}
	}
	r.start(r.nodes...)
	x, y := r.nodes[0].allocate("x"), r.nodes[2].allocate("y")
	r.pass(20 * time.Second)
	for _, n := range r.nodes {
		if n.core.ring != nil {
			t.Fatalf("%s divided with half of the hosts", n.name)
		}
		n.targets = 0
		clear(n.unknown)
	}
	r.tellPeers()
	r.nodes[0].answer(x)
	r.nodes[2].answer(y)
	r.same()
	r.distinct()
}

// a and c know only b, which knows both. What b says makes each of them ask
// the other, too.
func TestDivideDisjointLists(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	a.unknown[c], c.unknown[a] = true, true
	r.start(a, b, c)
	r.held = func(from, to *node, body wire.Body) bool {
		if p, ok := body.(wire.Prepare); ok && to == b && len(p.Electorate) == 2 {
			t.Log(from.name, "asks b for a vote among two")
		}
		return false
	}
	x, y := a.allocate("x"), c.allocate("y")
	a.answer(x)
	c.answer(y)
	r.same()
	if p := a.core.ring; p.Count(a.id())+p.Count(b.id())+p.Count(c.id()) != 256 {
		t.Error("blocks belong to somebody else")
	}
	clear(a.unknown)
	clear(c.unknown)
	r.tellPeers()
	r.distinct()
}

func TestDivideConsensusN(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	for _, n := range r.nodes {
		n.cfg.Mode = Mode{Voters: 3}
	}
	a.unknown[b], a.unknown[c] = true, true
	r.start(a)
	x := a.allocate("x")
	r.pass(20 * time.Second)
	if a.core.ring != nil || !strings.Contains(a.waits[x], "quorum: 2, known: 1") {
		t.Fatalf("ring %v, waits for %q", a.core.ring, a.waits[x])
	}
	delete(a.unknown, b)
	r.start(b)
	a.answer(x)
	delete(a.unknown, c)
	r.start(c)
	r.same()
}

// The proposer dies after its quorum promised, and after one voter accepted.
func TestDivideProposerDies(t *testing.T) {
	t.Run("after the promises", func(t *testing.T) {
		r := newRig(t, "a", "b", "c")
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		r.start(a, b, c)
		r.held = func(_, _ *node, body wire.Body) bool { _, ok := body.(wire.Accept); return ok }
		a.allocate("x")
		r.until("a proposes", func() bool { return len(r.stopped) > 0 })
		r.held, r.stopped = nil, nil
		r.stop(a)
		b.attach("y")
		r.start(a)
		r.same()
		c.attach("z")
		r.distinct()
	})
	t.Run("after one accepted", func(t *testing.T) {
		r := newRig(t, "a", "b", "c")
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		r.start(a, b, c)
		r.held = func(_, to *node, body wire.Body) bool {
			_, ask := body.(wire.Accept)
			_, done := body.(wire.Accepted)
			return ask && to == c || done
		}
		a.allocate("x")
		r.until("b accepts", func() bool { return b.core.division.voter.Accepted.Round > 0 })
		chosen := b.core.division.voter.Proposal.Ring
		r.held, r.stopped = nil, nil
		r.stop(a)
		// b restarts and remembers.
		r.stop(b)
		r.start(b)
		c.attach("y")
		if c.core.ring.ID() != chosen {
			t.Error("a ring that had perhaps been decided was replaced")
		}
		r.start(a)
		r.same()
	})
}

// A voter that was restored from an old copy of its disk does not vote before
// it was told by everybody what it may have forgotten.
func TestDivideOldCopy(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	r.start(a, b, c)
	r.stop(b, c)
	b.boot(false)
	r.tellPeers()
	x := a.allocate("x")
	r.pass(20 * time.Second)
	if a.core.ring != nil {
		t.Fatal("divided with the vote of a host that may have forgotten another one")
	}
	r.start(c)
	a.answer(x)
	r.same()
}

func TestDivideSeed(t *testing.T) {
	r := newRig(t, "a", "b", "c", "d")
	a, b, c, d := r.nodes[0], r.nodes[1], r.nodes[2], r.nodes[3]
	seeds := []crypto.Name{b.cfg.Name, a.cfg.Name, c.cfg.Name}
	for _, n := range r.nodes {
		n.cfg.Mode = Mode{Kind: ModeSeed, Seeds: seeds}
	}
	r.start(a, b, d)
	r.cut([]*node{a}, []*node{b, d})
	one, two := a.attach("x"), b.attach("y")
	if one == two {
		t.Fatalf("both have %s", one)
	}
	d.attach("z") // not a seed: from b
	r.cut(r.nodes)
	r.same()
	r.distinct()
	first := a.blocks() + b.blocks() + d.blocks()
	if got := a.core.ring.Count(ring.Placeholder(c.cfg.Name)); got != 256-first || got < 85 {
		t.Errorf("%d blocks wait for c", got)
	}
	r.start(c)
	c.attach("w")
	r.same()
	if got := a.core.ring.Count(ring.Placeholder(c.cfg.Name)); got != 0 {
		t.Errorf("%d blocks still wait for c", got)
	}
	r.distinct()
}

func TestDivideObserver(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	c.cfg.Mode = Mode{Kind: ModeObserver}
	r.start(c)
	x := c.allocate("x")
	r.pass(15 * time.Second)
	if c.core.ring != nil {
		t.Fatal("an observer divided the range")
	}
	r.start(a, b)
	c.answer(x)
	r.same()
	if c.core.ring.Count(a.id()) == 0 || c.core.ring.Count(b.id()) == 0 {
		t.Error("a voter got no share")
	}
}
