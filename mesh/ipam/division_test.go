package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
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

func ids(n ...byte) []crypto.Identity {
	list := make([]crypto.Identity, len(n))
	for i := range n {
		list[i][0] = n[i]
	}
	return list
}

func id(n byte) crypto.Identity { return ids(n)[0] }

func TestVoter(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	geo, _ := newGeometry(netip.MustParsePrefix("10.0.0.0/28"))
	ring := func(n byte) Proposal { return Proposal{RingID{n}, deal(geo, ids(n), 1)} }
	low, high := Ballot{1, id(1)}, Ballot{1, id(2)}
	abc, abcd, abe := ids(1, 2, 3), ids(1, 2, 3, 4), ids(1, 2, 5)
	known := ids(1, 2)
	var v voter

	steps := []struct {
		name  string
		after time.Duration
		ask   Body
		known []crypto.Identity
		want  string
	}{
		{"knows somebody else", 0, Prepare{low, ids(1, 3)}, known, "nack of {0 0}"},
		{"first", 0, Prepare{low, abc}, known, "promise"},
		{"the same again", 0, Prepare{low, abc}, known, "promise"},
		{"higher", 0, Prepare{high, abc}, known, "promise"},
		{"lower", 0, Prepare{low, abc}, known, "nack of {1 2}"},
		{"accept of the lower", 0, Accept{low, abc, ring(1)}, known, "nack of {1 2}"},
		{"another electorate", 9 * time.Second, Prepare{Ballot{2, id(1)}, abe}, known, "nack of {1 2}"},
		{"a larger one", 0, Prepare{Ballot{3, id(1)}, abcd}, known, "promise"},
		{"accept after it met somebody", 0, Accept{Ballot{3, id(1)}, abcd, ring(1)}, ids(1, 2, 9), "nack of {3 1}"},
		{"accept", 0, Accept{Ballot{3, id(1)}, abcd, ring(1)}, known, "accepted"},
		{"a higher one learns of it", 0, Prepare{Ballot{4, id(2)}, abcd}, known, "promise with ring 1"},
		{"the electorate is bound", 9 * time.Second, Prepare{Ballot{5, id(1)}, abe}, known, "nack of {4 2}"},
		{"but not for ever", time.Second, Prepare{Ballot{5, id(1)}, abe}, known, "promise with ring 1"},
	}
	for _, s := range steps {
		now = now.Add(s.after)
		var answer Body
		switch m := s.ask.(type) {
		case Prepare:
			answer = v.prepare(now, m, s.known)
		case Accept:
			answer = v.accept(now, m, s.known)
		}
		var got string
		switch m := answer.(type) {
		case Promise:
			if got = "promise"; !m.Proposal.Ring.IsZero() {
				got = fmt.Sprintf("promise with ring %d", m.Proposal.Ring[0])
			}
		case Accepted:
			got = "accepted"
		case Nack:
			got = fmt.Sprintf("nack of {%d %d}", m.Seen.Round, m.Seen.Proposer[0])
		}
		if got != s.want {
			t.Fatalf("%s: %s, want %s", s.name, got, s.want)
		}
	}
}

// Proposers and voters that do what they like, in any order and with any
// loss, decide one ring, as long as all have one electorate.
func TestVotesAgree(t *testing.T) {
	geo, _ := newGeometry(netip.MustParsePrefix("10.0.0.0/28"))
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		n := 1 + rnd.IntN(5)
		all := make([]crypto.Identity, n)
		for i := range all {
			all[i] = id(byte(i + 1))
		}
		voters := make([]voter, n)
		proposers := make([]*proposer, n)
		type letter struct {
			voter, proposer int
			body            Body
		}
		var post []letter
		decided := make(map[RingID]bool)
		var round uint64
		used := make(map[Ballot]bool)
		now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		for step := range 400 {
			now = now.Add(time.Duration(rnd.IntN(2000)) * time.Millisecond)
			if rnd.IntN(20) == 0 {
				i := rnd.IntN(n)
				if round += uint64(rnd.IntN(2)); round == 0 || used[Ballot{round, all[i]}] {
					round++ // a ballot is never used twice
				}
				used[Ballot{round, all[i]}] = true
				proposers[i] = newProposer(now, Ballot{round, all[i]}, all, n)
				for v := range n {
					post = append(post, letter{v, i, Prepare{proposers[i].ballot, all}})
				}
			}
			if len(post) == 0 {
				continue
			}
			k := rnd.IntN(len(post))
			l := post[k]
			if rnd.IntN(10) != 0 { // else it comes twice
				post = slices.Delete(post, k, k+1)
			}
			if rnd.IntN(5) == 0 {
				continue
			}
			v, p := &voters[l.voter], proposers[l.proposer]
			switch m := l.body.(type) {
			case Prepare:
				post = append(post, letter{l.voter, l.proposer, v.prepare(now, m, all)})
			case Accept:
				post = append(post, letter{l.voter, l.proposer, v.accept(now, m, all)})
			case Promise:
				p.promise(all[l.voter], m)
				if quorum, _ := p.promised(func(crypto.Identity) bool { return true }); quorum && p.proposal.Ring.IsZero() {
					ask := p.choose(geo, RingID{byte(step), byte(step >> 8), byte(l.proposer), 1})
					for v := range n {
						post = append(post, letter{v, l.proposer, ask})
					}
				}
			case Accepted:
				if p.accepted(all[l.voter], m) {
					decided[p.proposal.Ring] = true
				}
			}
		}
		if len(decided) > 1 {
			t.Fatalf("seed %d: %d rings were decided", seed, len(decided))
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
		if n.disk[keyVote] != nil {
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
	r.held = func(from, to *node, body Body) bool {
		if p, ok := body.(Prepare); ok && to == b && len(p.Electorate) == 2 {
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
		r.held = func(_, _ *node, body Body) bool { _, ok := body.(Accept); return ok }
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
		r.held = func(_, to *node, body Body) bool {
			_, ask := body.(Accept)
			_, done := body.(Accepted)
			return ask && to == c || done
		}
		a.allocate("x")
		r.until("b accepts", func() bool { return b.core.division.voter.accepted.Round > 0 })
		chosen := b.core.division.voter.proposal.Ring
		r.held, r.stopped = nil, nil
		r.stop(a)
		// b restarts and remembers.
		r.stop(b)
		r.start(b)
		c.attach("y")
		if c.core.ring.id != chosen {
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
	if got := a.core.ring.Count(placeholder(c.cfg.Name)); got != 256-first || got < 85 {
		t.Errorf("%d blocks wait for c", got)
	}
	r.start(c)
	c.attach("w")
	r.same()
	if got := a.core.ring.Count(placeholder(c.cfg.Name)); got != 0 {
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
