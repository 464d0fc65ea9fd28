package ring

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/space"
)

// testHost returns the nth of some identities, in ascending order from 1 on.
func testHost(n int) crypto.Identity { return crypto.Identity{byte(n >> 8), byte(n), 0xaa} }

func testHosts(n int) []crypto.Identity {
	var list []crypto.Identity
	for i := range n {
		list = append(list, testHost(i+1))
	}
	return list
}

func geometry(t testing.TB, r string) space.Geometry {
	t.Helper()
	g, err := space.NewGeometry(netip.MustParsePrefix(r))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestPlaceholder(t *testing.T) {
	name := crypto.Name{0x7a, 0x3e, 0, 0, 0, 1}
	p := Placeholder(name)
	if want := strings.Repeat("00", 26) + "7a3e00000001"; p.String() != want {
		t.Errorf("placeholder %s, want %s", p, want)
	}
	if got, ok := PlaceholderName(p); !ok || got != name {
		t.Errorf("name %s, %v", got, ok)
	}
	almost := p
	almost[25] = 1
	for _, id := range []crypto.Identity{{}, testHost(1), almost} {
		if got, ok := PlaceholderName(id); ok {
			t.Errorf("%s stands for %s", id, got)
		}
	}
}

// TestRegisterOrder lists registers of which each beats all before it.
func TestRegisterOrder(t *testing.T) {
	order := []Register{
		{},
		{Owner: Placeholder(crypto.Name{2})},
		{Owner: testHost(1)},
		{Owner: testHost(1), Giver: testHost(2)},
		{Owner: testHost(2)},
		{Owner: testHost(1), Version: 1},
		{Owner: testHost(1), Version: 2},
		{Owner: testHost(9), Giver: testHost(9), Version: 1 << 63},
		{Owner: testHost(1), Epoch: 1},
		{Owner: testHost(1), Epoch: 1, Version: 1},
		{Owner: testHost(1), Epoch: 1 << 63},
	}
	for i, a := range order {
		for j, b := range order {
			if a.Beats(b) != (i > j) || a.Compare(b) != cmp.Compare(i, j) {
				t.Errorf("%+v beats %+v: %v, compare %d", a, b, a.Beats(b), a.Compare(b))
			}
		}
	}
}

func TestDeal(t *testing.T) {
	for _, tt := range []struct {
		in     string
		owners int
		want   string // blocks per owner
	}{
		{"10.32.0.0/12", 0, "[]"},
		{"10.32.0.0/12", 1, "[4096]"},
		{"10.32.0.0/12", 2, "[2048 2048]"},
		{"10.32.0.0/12", 3, "[1365 1365 1366]"},
		{"10.32.0.0/12", 5, "[819 819 819 819 820]"},
		{"10.0.0.0/30", 3, "[1 1 2]"},
		{"10.0.0.0/30", 4, "[1 1 1 1]"},
		{"10.0.0.0/31", 3, "[0 1 1]"},
		{"10.0.0.0/32", 2, "[0 1]"},
		{"fd00::/48", 4, "[1024 1024 1024 1024]"},
	} {
		g := geometry(t, tt.in)
		owners := testHosts(tt.owners)
		shuffled := append(slices.Clone(owners), owners...)
		slices.Reverse(shuffled)
		r := NewDivision(ID{1}, g, shuffled)
		got := []int{}
		for _, o := range owners {
			got = append(got, r.Count(o))
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("%s among %d: %v, want %s", tt.in, tt.owners, got, tt.want)
		}
		if r.Complete() != (tt.owners > 0) {
			t.Errorf("%s among %d: complete is %v", tt.in, tt.owners, r.Complete())
		}
		// Contiguous, ascending by owner, version 1, nobody's gift.
		runs := r.AllRuns()
		for i, run := range runs {
			if run.Register != (Register{Owner: run.Register.Owner, Version: 1}) {
				t.Errorf("%s among %d: %+v", tt.in, tt.owners, run)
			}
			if i > 0 && runs[i-1].Register.Owner.Compare(run.Register.Owner) >= 0 {
				t.Errorf("%s among %d: shares are not in order", tt.in, tt.owners)
			}
		}
		if len(runs) > tt.owners {
			t.Errorf("%s among %d: %d runs", tt.in, tt.owners, len(runs))
		}
	}
}

func TestSeedRing(t *testing.T) {
	g := geometry(t, "10.32.0.0/12")
	a, b, c := crypto.Name{2, 0, 0, 0, 0, 1}, crypto.Name{2, 0, 0, 0, 0, 2}, crypto.Name{0, 0, 0, 0, 0, 3}
	one := NewSeed(g, []crypto.Name{a, b, c})
	two := NewSeed(g, []crypto.Name{c, a, a, b})
	if one.id != two.id || one.Hash() != two.Hash() || one.id.IsZero() || one.Hash() == 0 {
		t.Errorf("rings %s and %s, hashes %x and %x", one.id, two.id, one.Hash(), two.Hash())
	}
	// What other versions of the program compute, too.
	if want := "a50098b7b4e669786273de73fd9437b8"; one.id.String() != want {
		t.Errorf("id %s, want %s", one.id, want)
	}
	var got []string
	for _, run := range one.AllRuns() {
		name, _ := PlaceholderName(run.Register.Owner)
		got = append(got, fmt.Sprintf("%d+%d %s %d.%d", run.First, run.Count, name, run.Register.Epoch, run.Register.Version))
	}
	want := []string{
		"0+1365 00:00:00:00:00:03 0.0", "1365+1365 02:00:00:00:00:01 0.0", "2730+1366 02:00:00:00:00:02 0.0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, other := range []*Ring{
		NewSeed(g, []crypto.Name{a, b}),
		NewSeed(geometry(t, "10.32.0.0/13"), []crypto.Name{a, b, c}),
	} {
		if other.id == one.id || other.id.Compare(one.id) != -one.id.Compare(other.id) {
			t.Errorf("other seeds or range: rings %s and %s", other.id, one.id)
		}
	}
	// The host called a is met: it writes its identity over its placeholder.
	for block := range 4096 {
		if one.Owner(block) == Placeholder(a) {
			one.Merge(block, Register{Owner: testHost(1), Version: 1})
		}
	}
	if one.Count(Placeholder(a)) != 0 || one.Count(testHost(1)) != 1365 || len(one.Owners()) != 3 {
		t.Errorf("owners %v", one.Owners())
	}
}

func TestMergeRuns(t *testing.T) {
	r := New(ID{1}, geometry(t, "10.0.0.0/29"))
	mine := Register{Owner: testHost(1), Version: 1}
	for _, run := range []Run{
		{-1, 3, mine},
		{0, -1, mine},
		{8, 1, mine},
		{1 << 62, 1 << 62, mine},
		{0, 8, Register{Version: 7}}, // nobody's
		{0, 8, Register{}},
	} {
		if s := r.MergeRuns([]Run{run}, nil); !s.Empty() || r.Hash() != 0 {
			t.Errorf("%+v changed %v", run, slices.Collect(s.All()))
		}
	}
	if s := r.MergeRuns([]Run{{6, 1 << 62, mine}}, nil); s != space.BlockSetOf(6, 7) {
		t.Errorf("changed %v", slices.Collect(s.All()))
	}
	s := r.MergeRuns([]Run{{0, 8, mine}}, func(block int, reg Register) bool { return block%2 == 0 && reg == mine })
	if s != space.BlockSetOf(0, 2, 4) {
		t.Errorf("changed %v", slices.Collect(s.All()))
	}
	if r.Complete() {
		t.Error("complete with unknown blocks")
	}
	if s := r.Owned(testHost(1)); s != space.BlockSetOf(0, 2, 4, 6, 7) {
		t.Errorf("owned %v", slices.Collect(s.All()))
	}
	if s := r.Owned(testHost(2)); !s.Empty() || r.Count(testHost(2)) != 0 {
		t.Error("a stranger owns blocks")
	}
}

func TestOwnersIn(t *testing.T) {
	r := NewDivision(ID{1}, geometry(t, "10.32.0.0/12"), testHosts(3))
	for _, tt := range []struct{ subnet, want string }{
		{"10.32.0.0/12", "1:1365 2:1365 3:1366"},
		{"10.0.0.0/8", "1:1365 2:1365 3:1366"},
		{"10.32.7.0/24", "1:1"},
		{"10.32.7.128/25", "1:1"},
		{"10.37.85.0/23", "1:1 2:1"}, // blocks 1364 and 1365
		{"10.47.0.0/16", "3:256"},
		{"10.48.0.0/16", ""},
	} {
		var got []string
		for _, s := range r.OwnersIn(netip.MustParsePrefix(tt.subnet)) {
			got = append(got, fmt.Sprintf("%d:%d", s.Owner[1], s.Blocks))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, want %s", tt.subnet, got, tt.want)
		}
	}
}

func registers() *rapid.Generator[Register] {
	return rapid.Custom(func(rt *rapid.T) Register {
		return Register{
			Owner:   testHost(rapid.IntRange(0, 4).Draw(rt, "owner") + 1),
			Giver:   rapid.SampledFrom([]crypto.Identity{{}, testHost(1), testHost(2)}).Draw(rt, "giver"),
			Epoch:   rapid.Uint64Range(0, 2).Draw(rt, "epoch"),
			Version: rapid.Uint64Range(0, 3).Draw(rt, "version"),
		}
	})
}

func runsIn(blocks int) *rapid.Generator[Run] {
	return rapid.Custom(func(rt *rapid.T) Run {
		first := rapid.IntRange(0, blocks-1).Draw(rt, "first")
		return Run{first, rapid.IntRange(1, min(200, blocks-first)).Draw(rt, "count"), registers().Draw(rt, "register")}
	})
}

func anyRing(rt *rapid.T, g space.Geometry, label string) *Ring {
	r := New(ID{1}, g)
	r.MergeRuns(rapid.SliceOfN(runsIn(g.Blocks()), 0, 20).Draw(rt, label), nil)
	return r
}

// merged returns a new ring of what all of rings know.
func merged(rings ...*Ring) *Ring {
	m := New(rings[0].id, rings[0].geo)
	for _, r := range rings {
		m.MergeRuns(r.AllRuns(), nil)
	}
	return m
}

func sameRing(a, b *Ring) bool {
	return slices.Equal(a.regs, b.regs) && a.groups == b.groups && a.Hash() == b.Hash() &&
		maps.EqualFunc(a.owned, b.owned, func(x, y *space.BlockSet) bool { return *x == *y })
}

func smallOrLarge(rt *rapid.T, t testing.TB) space.Geometry {
	return geometry(t, rapid.SampledFrom([]string{"10.0.0.0/32", "10.0.0.0/30", "10.0.0.0/25", "10.32.0.0/12", "fd00::/48"}).Draw(rt, "range"))
}

func TestMergeLaws(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := smallOrLarge(rt, t)
		a, b, c := anyRing(rt, g, "a"), anyRing(rt, g, "b"), anyRing(rt, g, "c")
		if !sameRing(merged(a, b), merged(b, a)) {
			rt.Error("not commutative")
		}
		if !sameRing(merged(merged(a, b), c), merged(a, merged(b, c))) {
			rt.Error("not associative")
		}
		if !sameRing(merged(a, a), a) || !sameRing(merged(a, b, b, a), merged(a, b)) {
			rt.Error("not idempotent")
		}
		if again := merged(a, b); !isEmpty(again.MergeRuns(b.AllRuns(), nil)) {
			rt.Error("old registers are news")
		}
	})
}

func isEmpty(s space.BlockSet) bool { return s.Empty() }

// TestRingTwin compares a ring with the plainest thing that could do the same.
func TestRingTwin(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := smallOrLarge(rt, t)
		r, twin := New(ID{1}, g), make([]Register, g.Blocks())
		for _, run := range rapid.SliceOfN(runsIn(g.Blocks()), 0, 40).Draw(rt, "runs") {
			var want space.BlockSet
			for b := run.First; b < run.First+run.Count; b++ {
				if x, y := run.Register, twin[b]; x.Epoch > y.Epoch || x.Epoch == y.Epoch && (x.Version > y.Version || x.Version == y.Version &&
					slices.Compare(slices.Concat(x.Owner[:], x.Giver[:]), slices.Concat(y.Owner[:], y.Giver[:])) > 0) {
					twin[b] = x
					want.Add(b)
				}
			}
			if got := r.MergeRuns([]Run{run}, nil); got != want {
				rt.Fatalf("%+v changed %v, want %v", run, slices.Collect(got.All()), slices.Collect(want.All()))
			}
		}
		fresh := New(ID{2}, g)
		owned := make(map[crypto.Identity]*space.BlockSet)
		for b, reg := range twin {
			if r.Register(b) != reg || r.Owner(b) != reg.Owner {
				rt.Fatalf("block %d: %+v, want %+v", b, r.Register(b), reg)
			}
			fresh.Merge(b, reg)
			if reg.IsZero() {
				continue
			}
			if owned[reg.Owner] == nil {
				owned[reg.Owner] = new(space.BlockSet)
			}
			owned[reg.Owner].Add(b)
		}
		// The hashes are those of a ring that was never anything else.
		if !sameRing(r, fresh) {
			rt.Fatal("hashes or index depend on the order of merges")
		}
		if !maps.EqualFunc(r.owned, owned, func(x, y *space.BlockSet) bool { return *x == *y }) {
			rt.Fatal("owned blocks differ")
		}
		total := 0
		for _, s := range r.Owners() {
			if s.Blocks != owned[s.Owner].Len() || s.Blocks != r.Count(s.Owner) || r.Owned(s.Owner) != *owned[s.Owner] {
				rt.Fatalf("%s has %d blocks", s.Owner, s.Blocks)
			}
			total += s.Blocks
		}
		if r.Complete() != (total == g.Blocks()) {
			rt.Fatalf("complete is %v with %d of %d blocks", r.Complete(), total, g.Blocks())
		}
		// Runs are as long as possible and say everything.
		runs := r.AllRuns()
		back := New(ID{1}, g)
		back.MergeRuns(runs, nil)
		if !sameRing(r, back) {
			rt.Fatal("runs lose something")
		}
		for i := 1; i < len(runs); i++ {
			a, b := runs[i-1], runs[i]
			if a.First+a.Count > b.First || a.First+a.Count == b.First && a.Register == b.Register {
				rt.Fatalf("runs %+v and %+v", a, b)
			}
		}
	})
}

// TestDifferingGroups exchanges only the groups that differ.
func TestDifferingGroups(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := smallOrLarge(rt, t)
		a, b := anyRing(rt, g, "a"), anyRing(rt, g, "b")
		if rapid.Bool().Draw(rt, "nearly the same") {
			b = merged(a)
			b.MergeRuns([]Run{runsIn(g.Blocks()).Draw(rt, "news")}, nil)
		}
		mask := a.Differing(b.Groups())
		if mask != b.Differing(a.Groups()) || (mask == 0) != (a.Hash() == b.Hash()) {
			rt.Fatalf("groups %x and %x", mask, b.Differing(a.Groups()))
		}
		per := max(1, g.Blocks()/Groups)
		for blk := range g.Blocks() {
			if a.regs[blk] != b.regs[blk] && mask&(1<<(blk/per)) == 0 {
				rt.Fatalf("block %d differs, its group does not", blk)
			}
		}
		fromA, fromB := a.GroupRuns(mask), b.GroupRuns(mask)
		for _, run := range fromA {
			if mask&(1<<(run.First/per)) == 0 || mask&(1<<((run.First+run.Count-1)/per)) == 0 {
				rt.Fatalf("run %+v is in none of the groups %x", run, mask)
			}
		}
		want := merged(a, b)
		a.MergeRuns(fromB, nil)
		b.MergeRuns(fromA, nil)
		if !sameRing(a, want) || !sameRing(b, want) {
			rt.Fatal("an exchange of groups is not a merge")
		}
		if n := bits.OnesCount64(a.Differing([Groups]uint64{})); n > g.Blocks() {
			rt.Fatalf("%d groups of %d blocks", n, g.Blocks())
		}
	})
}

// TestOneBlockDiffers is the usual case: one group travels, not the ring.
func TestOneBlockDiffers(t *testing.T) {
	g := geometry(t, "10.32.0.0/12")
	a := NewDivision(ID{1}, g, testHosts(3))
	b := merged(a)
	b.Merge(70, Register{Owner: testHost(2), Giver: testHost(1), Version: 2})
	if mask := a.Differing(b.Groups()); mask != 1<<1 {
		t.Errorf("groups %x differ", mask)
	}
	if runs := b.GroupRuns(1 << 1); len(runs) != 3 {
		t.Errorf("runs %+v", runs)
	}
}

// BenchmarkRing measures what becomes of registers that arrive.
func BenchmarkRing(b *testing.B) {
	g := geometry(b, "10.32.0.0/12")
	r := NewDivision(ID{1}, g, testHosts(100))
	runs := r.AllRuns()
	b.Run("adopt", func(b *testing.B) {
		for b.Loop() {
			New(ID{1}, g).MergeRuns(runs, nil)
		}
	})
	b.Run("merge what is known", func(b *testing.B) {
		for b.Loop() {
			r.MergeRuns(runs, nil)
		}
	})
	b.Run("merge a gift", func(b *testing.B) {
		for n := uint64(2); b.Loop(); n++ {
			r.Merge(int(n%4096), Register{Owner: testHost(int(n % 100)), Version: n})
		}
	})
	b.Run("owners", func(b *testing.B) {
		for b.Loop() {
			r.Owners()
		}
	})
}
