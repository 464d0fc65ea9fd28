package space

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// allBlocks returns the blocks of g.
func allBlocks(g Geometry) *BlockSet {
	var s BlockSet
	for b := range g.Blocks() {
		s.Add(b)
	}
	return &s
}

// takeNext uses the next n lowest free addresses.
func takeNext(s *Usage, blocks *BlockSet, subnet string, n int) (got []string) {
	for range n {
		a, ok := s.LowestFree(blocks, netip.MustParsePrefix(subnet))
		if !ok {
			return append(got, "none")
		}
		if !s.Use(a) {
			return append(got, a.String()+" twice")
		}
		got = append(got, a.String())
	}
	return got
}

func TestLowestFree(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		blocks   []int // nil: all
		used     []string
		subnet   string
		n        int
		want     string
	}{
		{"first", "10.32.0.0/12", nil, nil, "10.32.0.0/12", 3, "[10.32.0.1 10.32.0.2 10.32.0.3]"},
		{"gap", "10.32.0.0/12", nil, []string{"10.32.0.1", "10.32.0.3"}, "10.32.0.0/12", 2, "[10.32.0.2 10.32.0.4]"},
		{"own block", "10.32.0.0/12", []int{3, 9}, nil, "10.32.0.0/12", 2, "[10.32.3.0 10.32.3.1]"},
		{"subnet", "10.32.0.0/12", nil, nil, "10.33.2.0/24", 2, "[10.33.2.1 10.33.2.2]"},
		{"subnet in part of a block", "10.32.0.0/12", nil, []string{"10.33.2.65"}, "10.33.2.64/29", 6, "[10.33.2.66 10.33.2.67 10.33.2.68 10.33.2.69 10.33.2.70 none]"},
		{"subnet of others", "10.32.0.0/12", []int{3}, nil, "10.33.2.0/24", 1, "[none]"},
		{"no blocks", "10.32.0.0/12", []int{}, nil, "10.32.0.0/12", 1, "[none]"},
		{"subnet outside", "10.32.0.0/12", nil, nil, "10.64.0.0/16", 1, "[none]"},
		{"other family", "10.32.0.0/12", nil, nil, "fd00::/64", 1, "[none]"},
		{"next block", "10.0.0.0/19", []int{0, 2}, nil, "10.0.0.0/19", 3, "[10.0.0.1 10.0.0.4 10.0.0.5]"},
		{"/32 subnet", "10.32.0.0/12", nil, nil, "10.32.1.0/32", 2, "[10.32.1.0 none]"},
		{"/31 subnet", "10.32.0.0/12", nil, nil, "10.32.1.0/31", 3, "[10.32.1.0 10.32.1.1 none]"},
		{"range of 1", "10.0.0.9/32", nil, nil, "10.0.0.0/24", 2, "[10.0.0.9 none]"},
		{"range of 2", "10.0.0.8/31", nil, nil, "10.0.0.8/31", 3, "[10.0.0.8 10.0.0.9 none]"},
		{"range of 4", "10.0.0.8/30", nil, nil, "10.0.0.8/30", 3, "[10.0.0.9 10.0.0.10 none]"},
		{"half a range of 4", "10.0.0.8/30", []int{0, 3}, nil, "10.0.0.8/30", 1, "[none]"},
		{"IPv6 of 1", "fd00::9/128", nil, nil, "fd00::/64", 2, "[fd00::9 none]"},
		{"IPv6 of 2", "fd00::8/127", nil, nil, "fd00::/64", 3, "[fd00::8 fd00::9 none]"},
		{"IPv6 of 4", "fd00::8/126", nil, nil, "fd00::/64", 4, "[fd00::9 fd00::a fd00::b none]"},
		{"IPv6 /64", "fd00::/64", []int{0, 1}, []string{"fd00::2"}, "fd00::/64", 2, "[fd00::1 fd00::3]"},
		{"IPv6 /48", "fd00::/48", []int{1}, []string{"fd00:0:0:10::"}, "fd00::/48", 2, "[fd00:0:0:10::1 fd00:0:0:10::2]"},
		{"IPv6 /48, across 64 bits", "fd00::/48", nil, []string{"fd00:0:0:5:ffff:ffff:ffff:ffff"}, "fd00:0:0:5:ffff:ffff:ffff:fffc/126", 3, "[fd00::5:ffff:ffff:ffff:fffd fd00::5:ffff:ffff:ffff:fffe none]"},
		{"end of all addresses", "255.255.255.252/30", nil, nil, "0.0.0.0/0", 3, "[255.255.255.253 255.255.255.254 none]"},
		{"end of all IPv6 addresses", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126", nil, nil, "::/0", 4, "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffd ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff none]"},
	} {
		g := mustGeometry(t, tt.in)
		s := NewUsage(g)
		for _, u := range tt.used {
			s.Use(netip.MustParseAddr(u))
		}
		blocks := allBlocks(g)
		if tt.blocks != nil {
			b := BlockSetOf(tt.blocks...)
			blocks = &b
		}
		if got := fmt.Sprint(takeNext(s, blocks, tt.subnet, tt.n)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestUseOutside(t *testing.T) {
	s := NewUsage(mustGeometry(t, "10.0.0.0/24"))
	for _, a := range []netip.Addr{{}, netip.MustParseAddr("10.0.1.0"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("::ffff:10.0.0.1")} {
		if s.Use(a) || s.Free(a) || s.Used(a) || s.Len() != 0 {
			t.Errorf("%s is in the space", a)
		}
	}
}

func TestWhollyFree(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		used     []string
		subnet   string
		want     string
	}{
		{"all", "10.32.0.0/29", nil, "10.32.0.0/29", "[1 2 3 4 5 6]"}, // the network address is of no use
		{"some", "10.32.0.0/29", []string{"10.32.0.2"}, "10.32.0.0/29", "[1 3 4 5 6]"},
		{"subnet", "10.32.0.0/12", []string{"10.33.2.9"}, "10.33.2.0/23", "[259]"},
		{"block larger than the subnet", "10.32.0.0/12", nil, "10.33.2.8/29", "[258]"},
		{"used outside of the subnet", "10.32.0.0/12", []string{"10.33.2.100"}, "10.33.2.8/29", "[]"},
		{"subnet without a usable address", "10.32.0.0/12", nil, "10.32.0.0/32", "[]"},
		{"outside", "10.32.0.0/12", nil, "10.64.0.0/24", "[]"},
		{"one", "10.0.0.9/32", nil, "10.0.0.0/24", "[0]"},
		{"IPv6", "fd00::/48", []string{"fd00:0:0:10::1"}, "fd00:0:0::/59", "[0]"},
	} {
		g := mustGeometry(t, tt.in)
		s := NewUsage(g)
		for _, u := range tt.used {
			s.Use(netip.MustParseAddr(u))
		}
		got := s.WhollyFree(allBlocks(g), netip.MustParsePrefix(tt.subnet))
		if list := append([]int{}, members(&got)...); fmt.Sprint(list) != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, list, tt.want)
		}
	}
}

// check fails when the intervals are not as add and remove promise.
func (v *intervals) check() error {
	var last *interval
	for c, chunk := range v.chunks {
		if len(chunk) == 0 || len(chunk) > maxChunk {
			return fmt.Errorf("chunk %d has %d intervals", c, len(chunk))
		}
		if c > 0 && len(chunk)+len(v.chunks[c-1]) < maxChunk/2 {
			return fmt.Errorf("chunks %d and %d have %d and %d intervals", c-1, c, len(v.chunks[c-1]), len(chunk))
		}
		for i := range chunk {
			at := &chunk[i]
			if at.hi.Less(at.lo) {
				return fmt.Errorf("interval %v is upside down", *at)
			}
			if last != nil && !last.hi.Add(Num{Lo: 1}).Less(at.lo) {
				return fmt.Errorf("no gap between %v and %v", *last, *at)
			}
			last = at
		}
	}
	return nil
}

// TestSpaceTwin compares a space with a map.
func TestSpaceTwin(t *testing.T) {
	ranges := []string{
		"10.0.0.9/32", "10.0.0.8/31", "10.0.0.8/30", "10.0.0.0/26", "10.0.0.0/18", "10.32.0.0/12", "255.255.255.224/27",
		"fd00::/126", "fd00::/120", "fd00::/114", "fd00:1::/64", "fd00:1::/48", "::/0",
	}
	rapid.Check(t, func(rt *rapid.T) {
		r := netip.MustParsePrefix(rapid.SampledFrom(ranges).Draw(rt, "range"))
		g := mustGeometry(t, r.String())
		s, twin := NewUsage(g), make(map[netip.Addr]bool)

		// Operations keep to a few small parts of the range, so that they
		// meet; the twin looks only there.
		var spots []netip.Addr
		for _, start := range []netip.Addr{r.Addr(), g.First(g.Blocks() / 2), addrIn(rt, r), g.Last(g.Blocks() - 1)} {
			for range 4 {
				if start.Prev().IsValid() && r.Contains(start.Prev()) {
					start = start.Prev()
				}
			}
			for a := start; len(spots) < 64 && a.IsValid() && r.Contains(a); a = a.Next() {
				spots = append(spots, a)
				if len(spots)%16 == 0 {
					break
				}
			}
		}
		addr := rapid.SampledFrom(spots)
		subnet := func() netip.Prefix {
			a := addr.Draw(rt, "in")
			return netip.PrefixFrom(a, rapid.IntRange(max(0, r.Bits()-2), a.BitLen()).Draw(rt, "bits")).Masked()
		}
		rt.Repeat(map[string]func(*rapid.T){
			"use": func(rt *rapid.T) {
				a := addr.Draw(rt, "address")
				if s.Use(a) == twin[a] {
					rt.Fatalf("use(%s) with used = %v", a, twin[a])
				}
				twin[a] = true
			},
			"free": func(rt *rapid.T) {
				a := addr.Draw(rt, "address")
				if s.Free(a) != twin[a] {
					rt.Fatalf("free(%s) with used = %v", a, twin[a])
				}
				delete(twin, a)
			},
			"lowest": func(rt *rapid.T) {
				var blocks BlockSet
				for range rapid.IntRange(0, 5).Draw(rt, "blocks") {
					b, _ := g.Block(addr.Draw(rt, "of"))
					blocks.Add(b)
				}
				p := subnet()
				got, ok := s.LowestFree(&blocks, p)
				want, found := naiveLowest(g, &blocks, p, twin)
				if got != want || ok != found {
					rt.Fatalf("lowest free of %v in %s: %s %v, want %s %v", members(&blocks), p, got, ok, want, found)
				}
				for b := range blocks.All() {
					one := BlockSetOf(b)
					_, usable := naiveLowest(g, &one, p, nil)
					want := usable && !slices.ContainsFunc(spots, func(a netip.Addr) bool { x, _ := g.Block(a); return x == b && twin[a] })
					if got := s.WhollyFree(&one, p); got.Has(b) != want || got.Len() > 1 {
						rt.Fatalf("block %d wholly free in %s: %v, want %v", b, p, got.Has(b), want)
					}
				}
			},
			"": func(rt *rapid.T) {
				if err := s.used.check(); err != nil {
					rt.Fatal(err)
				}
				var counts uint64
				for b := range s.touched.All() {
					counts += s.UsedIn(b)
				}
				if s.Len() != len(twin) || counts != uint64(len(twin)) {
					rt.Fatalf("%d used, %d in blocks, want %d", s.Len(), counts, len(twin))
				}
				for _, a := range spots {
					if s.Used(a) != twin[a] {
						rt.Fatalf("used(%s) is %v", a, s.Used(a))
					}
				}
				for b := range g.Blocks() {
					if s.full.Has(b) != (s.UsedIn(b) == g.Size()) {
						rt.Fatalf("block %d has %d of %d used, full: %v", b, s.UsedIn(b), g.Size(), s.full.Has(b))
					}
				}
			},
		})
	})
}

// naiveLowest looks at one address after the other.
func naiveLowest(g Geometry, blocks *BlockSet, p netip.Prefix, used map[netip.Addr]bool) (netip.Addr, bool) {
	never := func(a netip.Addr) bool {
		for _, x := range []netip.Prefix{g.Range(), p.Masked()} {
			if x.Addr().BitLen()-x.Bits() < 2 {
				continue
			}
			// The next address after the last one is outside or does not exist.
			if a == x.Addr() || a.Is4() && !x.Contains(a.Next()) {
				return true
			}
		}
		return false
	}
	for b := range blocks.All() {
		a := g.First(b)
		if g.Prefix(b).Contains(p.Masked().Addr()) {
			a = p.Masked().Addr()
		}
		for ; a.IsValid() && g.Prefix(b).Contains(a) && p.Contains(a); a = a.Next() {
			if !used[a] && !never(a) {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// TestManyIntervals drives intervals through splitting and joining chunks.
func TestManyIntervals(t *testing.T) {
	const size = 20_000
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		rnd := rand.New(rand.NewPCG(seed, 0))
		base := Num{1, 1<<64 - size/2} // across the border of the halves
		var v intervals
		in := make([]bool, size)
		flip := func(i int, want bool) {
			n := base.Add(Num{Lo: uint64(i)})
			do := v.remove
			if want {
				do = v.add
			}
			if do(n) == (in[i] == want) {
				rt.Fatalf("%d to %v with %v", i, want, in[i])
			}
			in[i] = want
		}
		verify := func(when string) {
			rt.Helper()
			if err := v.check(); err != nil {
				rt.Fatalf("%s: %v", when, err)
			}
			gap := size
			for i := size - 1; i >= 0; i-- {
				n := base.Add(Num{Lo: uint64(i)})
				if v.has(n) != in[i] {
					rt.Fatalf("%s: has(%d) is %v", when, i, v.has(n))
				}
				if !in[i] {
					gap = i
				}
				got, ok := v.gap(n, base.Add(Num{Lo: size - 1}))
				if ok != (gap < size) || ok && got != base.Add(Num{Lo: uint64(gap)}) {
					rt.Fatalf("%s: gap from %d at %v, %v, want %d", when, i, got.Sub(base), ok, gap)
				}
			}
		}
		verify("empty")
		for i := 0; i < size; i += 2 {
			flip(i, true)
		}
		verify("every other, ascending")
		switch rapid.SampledFrom([]string{"up", "down", "any"}).Draw(rt, "way back") {
		case "up":
			for i := 0; i < size*9/10; i += 2 {
				flip(i, false)
			}
		case "down":
			for i := size - 2; i > size/10; i -= 2 {
				flip(i, false)
			}
		default:
			for _, i := range rnd.Perm(size / 2)[:size*9/20] {
				flip(2*i, false)
			}
		}
		verify("thinned out")
		for range 3 * size {
			i := rnd.IntN(size)
			flip(i, !in[i])
		}
		verify("stirred")
		for _, i := range rnd.Perm(size) {
			if !in[i] {
				flip(i, true)
			}
		}
		verify("full")
		if len(v.chunks) != 1 || len(v.chunks[0]) != 1 {
			rt.Fatalf("%d chunks when full", len(v.chunks))
		}
		for _, i := range rnd.Perm(size) {
			flip(i, false)
		}
		verify("empty again")
		if len(v.chunks) != 0 {
			rt.Fatalf("%d chunks when empty", len(v.chunks))
		}
	})
}
