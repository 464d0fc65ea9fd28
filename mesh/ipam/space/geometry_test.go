package space

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func mustGeometry(t testing.TB, r string) Geometry {
	t.Helper()
	g, err := NewGeometry(netip.MustParsePrefix(r))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGeometry(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want string // blocks × size: first block, second block, last block
		ips  uint64
	}{
		{"10.32.0.0/12", "4096 × 256: 10.32.0.0/24 10.32.1.0/24 10.47.255.0/24", 1 << 20},
		{"10.47.1.2/12", "4096 × 256: 10.32.0.0/24 10.32.1.0/24 10.47.255.0/24", 1 << 20},
		{"10.0.0.0/8", "4096 × 4096: 10.0.0.0/20 10.0.16.0/20 10.255.240.0/20", 1 << 24},
		{"0.0.0.0/0", "4096 × 1048576: 0.0.0.0/12 0.16.0.0/12 255.240.0.0/12", 1 << 32},
		{"10.0.0.0/19", "4096 × 2: 10.0.0.0/31 10.0.0.2/31 10.0.31.254/31", 1 << 13},
		{"10.0.0.0/20", "4096 × 1: 10.0.0.0/32 10.0.0.1/32 10.0.15.255/32", 1 << 12},
		{"10.0.0.0/21", "2048 × 1: 10.0.0.0/32 10.0.0.1/32 10.0.7.255/32", 1 << 11},
		{"10.0.0.0/24", "256 × 1: 10.0.0.0/32 10.0.0.1/32 10.0.0.255/32", 256},
		{"10.0.0.4/30", "4 × 1: 10.0.0.4/32 10.0.0.5/32 10.0.0.7/32", 4},
		{"10.0.0.4/31", "2 × 1: 10.0.0.4/32 10.0.0.5/32 10.0.0.5/32", 2},
		{"255.255.255.255/32", "1 × 1: 255.255.255.255/32 - 255.255.255.255/32", 1},
		{"fd00:1:2:3::/64", "4096 × 4503599627370496: fd00:1:2:3::/76 fd00:1:2:3:10::/76 fd00:1:2:3:fff0::/76", 1<<64 - 1},
		{"fd00:1:2::/48", "4096 × 18446744073709551615: fd00:1:2::/60 fd00:1:2:10::/60 fd00:1:2:fff0::/60", 1<<64 - 1},
		{"fd00::/52", "4096 × 18446744073709551615: fd00::/64 fd00:0:0:1::/64 fd00:0:0:fff::/64", 1<<64 - 1},
		{"::/0", "4096 × 18446744073709551615: ::/12 10::/12 fff0::/12", 1<<64 - 1},
		{"fd00::/120", "256 × 1: fd00::/128 fd00::1/128 fd00::ff/128", 256},
		{"fd00::/128", "1 × 1: fd00::/128 - fd00::/128", 1},
	} {
		g := mustGeometry(t, tt.in)
		second := "-"
		if g.Blocks() > 1 {
			second = g.Prefix(1).String()
		}
		got := fmt.Sprintf("%d × %d: %s %s %s", g.Blocks(), g.Size(), g.Prefix(0), second, g.Prefix(g.Blocks()-1))
		if got != tt.want || g.IPs() != tt.ips {
			t.Errorf("%s: %s, %d addresses, want %s, %d addresses", tt.in, got, g.IPs(), tt.want, tt.ips)
		}
		if want := netip.MustParsePrefix(tt.in).Masked(); g.Range() != want {
			t.Errorf("%s: range %s, want %s", tt.in, g.Range(), want)
		}
	}
}

func TestGeometryRefused(t *testing.T) {
	for _, r := range []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104")} {
		if g, err := NewGeometry(r); err == nil {
			t.Errorf("%s: taken as %s", r, g.Range())
		}
	}
}

func TestSpan(t *testing.T) {
	for _, tt := range []struct{ in, subnet, want string }{
		{"10.32.0.0/12", "10.32.0.0/12", "0-4095"},
		{"10.32.0.0/12", "10.0.0.0/8", "0-4095"},
		{"10.32.0.0/12", "10.32.0.0/11", "0-4095"},
		{"10.48.0.0/12", "10.32.0.0/11", "0-4095"},
		{"10.32.0.0/12", "0.0.0.0/0", "0-4095"},
		{"10.32.0.0/12", "10.33.2.0/24", "258-258"},
		{"10.32.0.0/12", "10.33.2.77/24", "258-258"},
		{"10.32.0.0/12", "10.33.2.0/23", "258-259"},
		{"10.32.0.0/12", "10.33.0.0/16", "256-511"},
		{"10.32.0.0/12", "10.33.2.64/26", "258-258"},
		{"10.32.0.0/12", "10.47.255.255/32", "4095-4095"},
		{"10.32.0.0/12", "10.48.0.0/16", "none"},
		{"10.32.0.0/12", "fd00::/64", "none"},
		{"10.0.0.0/29", "10.0.0.4/30", "4-7"},
		{"fd00:1:2::/48", "fd00:1:2:30::/60", "3-3"},
		{"fd00:1:2::/48", "fd00:1:2:3f::/64", "3-3"},
		{"fd00:1:2::/48", "fd00:1:2:8000::/49", "2048-4095"},
		{"::/0", "8000::/1", "2048-4095"},
	} {
		first, last, ok := mustGeometry(t, tt.in).Span(netip.MustParsePrefix(tt.subnet))
		got := "none"
		if ok {
			got = fmt.Sprintf("%d-%d", first, last)
		}
		if got != tt.want {
			t.Errorf("%s in %s: blocks %s, want %s", tt.subnet, tt.in, got, tt.want)
		}
	}
	if _, _, ok := mustGeometry(t, "10.32.0.0/12").Span(netip.Prefix{}); ok {
		t.Error("the invalid prefix spans blocks")
	}
}

// TestUsable names the addresses of a subnet that may be handed out.
func TestUsable(t *testing.T) {
	for _, tt := range []struct{ in, subnet, want string }{
		{"10.32.0.0/12", "10.32.0.0/12", "10.32.0.1-10.47.255.254 (1048574)"},
		{"10.32.0.0/12", "10.0.0.0/8", "10.32.0.1-10.47.255.254 (1048574)"},
		{"10.32.0.0/12", "10.32.1.0/24", "10.32.1.1-10.32.1.254 (254)"},
		{"10.32.0.0/12", "10.32.1.99/24", "10.32.1.1-10.32.1.254 (254)"},
		{"10.32.0.0/12", "10.32.0.0/31", "10.32.0.1-10.32.0.1 (1)"}, // the range's network address
		{"10.32.0.0/12", "10.32.0.0/32", "none"},
		{"10.32.0.0/12", "10.32.1.0/31", "10.32.1.0-10.32.1.1 (2)"},
		{"10.32.0.0/12", "10.32.1.0/32", "10.32.1.0-10.32.1.0 (1)"},
		{"10.32.0.0/12", "10.47.255.254/31", "10.47.255.254-10.47.255.254 (1)"},
		{"10.32.0.0/12", "10.48.0.0/24", "none"},
		{"10.0.0.4/30", "10.0.0.4/30", "10.0.0.5-10.0.0.6 (2)"},
		{"10.0.0.4/31", "10.0.0.0/24", "10.0.0.4-10.0.0.5 (2)"},
		{"10.0.0.0/31", "10.0.0.0/24", "10.0.0.1-10.0.0.1 (1)"},
		{"10.0.0.4/32", "10.0.0.4/32", "10.0.0.4-10.0.0.4 (1)"},
		{"fd00::/64", "fd00::/64", "fd00::1-fd00::ffff:ffff:ffff:ffff (18446744073709551615)"},
		{"fd00::/48", "fd00::/48", "fd00::1-fd00::ffff:ffff:ffff:ffff:ffff (18446744073709551615)"},
		{"fd00::/127", "fd00::/127", "fd00::-fd00::1 (2)"},
		{"::/0", "::/0", "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff (18446744073709551615)"},
	} {
		g, subnet := mustGeometry(t, tt.in), netip.MustParsePrefix(tt.subnet)
		got := "none"
		lo, hi, ok := g.window(subnet)
		if ok {
			a, b := g.Addr(lo), g.Addr(hi)
			got = fmt.Sprintf("%s-%s (%d)", a, b, g.Usable(subnet))
			if g.Reserved(a, subnet) || g.Reserved(b, subnet) {
				t.Errorf("%s in %s: an end of %s is reserved", tt.subnet, tt.in, got)
			}
			for _, out := range []netip.Addr{a.Prev(), b.Next()} {
				if inside := g.Contains(out) && subnet.Contains(out); g.Reserved(out, subnet) != inside {
					t.Errorf("%s in %s: reserved(%s) is %v", tt.subnet, tt.in, out, !inside)
				}
			}
		} else if n := g.Usable(subnet); n != 0 {
			t.Errorf("%s in %s: %d usable without a window", tt.subnet, tt.in, n)
		}
		if got != tt.want {
			t.Errorf("%s in %s: usable %s, want %s", tt.subnet, tt.in, got, tt.want)
		}
	}
}

// anyRange draws a range of either family with at least the given number of
// fixed bits.
func anyRange(rt *rapid.T, min4, min6 int) netip.Prefix {
	if rapid.Bool().Draw(rt, "IPv6") {
		b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "address")
		b[0] = 0xfd // an IPv4 address in IPv6 clothes is refused
		return netip.PrefixFrom(netip.AddrFrom16([16]byte(b)), rapid.IntRange(min6, 128).Draw(rt, "bits")).Masked()
	}
	b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(rt, "address")
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(b)), rapid.IntRange(min4, 32).Draw(rt, "bits")).Masked()
}

// addrIn draws an address of p.
func addrIn(rt *rapid.T, p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	fill := rapid.SliceOfN(rapid.Byte(), len(b), len(b)).Draw(rt, "offset")
	for i := range b {
		fixed := min(max(p.Bits()-8*i, 0), 8)
		b[i] |= fill[i] & byte(0xff>>fixed)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func TestBlocksTileTheRange(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := anyRange(rt, 0, 0)
		g, err := NewGeometry(r)
		if err != nil {
			rt.Fatal(err)
		}
		a := addrIn(rt, r)
		b, ok := g.Block(a)
		if !ok || b < 0 || b >= g.Blocks() {
			rt.Fatalf("%s: block %d of %d, %v", a, b, g.Blocks(), ok)
		}
		if p := g.Prefix(b); !p.Contains(a) || p != p.Masked() || p.Addr() != g.First(b) {
			rt.Fatalf("%s is in block %d, %s", a, b, p)
		}
		if g.First(b).Compare(a) > 0 || g.Last(b).Compare(a) < 0 {
			rt.Fatalf("%s is in block %d, %s to %s", a, b, g.First(b), g.Last(b))
		}
		if g.Addr(NumOf(a)) != a {
			rt.Fatalf("%s became %s", a, g.Addr(NumOf(a)))
		}
		if b == 0 && g.First(b) != r.Addr() {
			rt.Fatalf("block 0 of %s begins at %s", r, g.First(b))
		}
		if b+1 < g.Blocks() {
			if g.Last(b).Next() != g.First(b+1) {
				rt.Fatalf("block %d ends at %s, the next begins at %s", b, g.Last(b), g.First(b+1))
			}
		} else if next := g.Last(b).Next(); next.IsValid() && r.Contains(next) {
			rt.Fatalf("the last block of %s ends at %s", r, g.Last(b))
		}
		if next := g.Last(g.Blocks() - 1).Next(); next.IsValid() {
			if _, ok := g.Block(next); ok {
				rt.Fatalf("%s, after the range, is in a block", next)
			}
		}
		sub := netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(rt, "subnet")).Masked()
		first, last, ok := g.Span(sub)
		if !ok || first > b || last < b {
			rt.Fatalf("%s spans blocks %d to %d, %v, without %d", sub, first, last, ok, b)
		}
		for _, x := range []int{first, last} {
			if !g.Prefix(x).Overlaps(sub) {
				rt.Fatalf("%s spans block %s", sub, g.Prefix(x))
			}
		}
		if first > 0 && g.Prefix(first-1).Overlaps(sub) || last+1 < g.Blocks() && g.Prefix(last+1).Overlaps(sub) {
			rt.Fatalf("%s spans more blocks than %d to %d", sub, first, last)
		}
	})
}

func (n Num) big() *big.Int {
	b := new(big.Int).SetUint64(n.Hi)
	return b.Lsh(b, 64).Or(b, new(big.Int).SetUint64(n.Lo))
}

func TestNum(t *testing.T) {
	wrap := new(big.Int).Lsh(big.NewInt(1), 128)
	rapid.Check(t, func(rt *rapid.T) {
		part := rapid.OneOf(rapid.Uint64(), rapid.SampledFrom([]uint64{0, 1, 1<<64 - 1}))
		a := Num{part.Draw(rt, "a.hi"), part.Draw(rt, "a.lo")}
		b := Num{part.Draw(rt, "b.hi"), part.Draw(rt, "b.lo")}
		k := rapid.UintRange(0, 130).Draw(rt, "shift")
		for _, x := range []struct {
			op   string
			got  Num
			want *big.Int
		}{
			{"+", a.Add(b), new(big.Int).Add(a.big(), b.big())},
			{"-", a.Sub(b), new(big.Int).Sub(a.big(), b.big())},
			{"<<", a.Shl(k), new(big.Int).Lsh(a.big(), k)},
			{">>", a.Shr(k), new(big.Int).Rsh(a.big(), k)},
		} {
			if x.want.Mod(x.want, wrap).Cmp(x.got.big()) != 0 {
				rt.Fatalf("%x %s %x (or %d) = %x, want %x", a.big(), x.op, b.big(), k, x.got.big(), x.want)
			}
		}
		if a.Less(b) != (a.big().Cmp(b.big()) < 0) {
			rt.Fatalf("%x less than %x: %v", a.big(), b.big(), a.Less(b))
		}
	})
}

// members returns the blocks of s that a loop over all blocks finds.
func members(s *BlockSet) []int {
	var list []int
	for b := range MaxBlocks {
		if s.Has(b) {
			list = append(list, b)
		}
	}
	return list
}

func TestBlockSet(t *testing.T) {
	block := rapid.OneOf(rapid.IntRange(0, MaxBlocks-1), rapid.SampledFrom([]int{0, 1, 62, 63, 64, 127, 128, 4032, 4094, 4095}))
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(label string) (BlockSet, map[int]bool) {
			list := rapid.SliceOfN(block, 0, 40).Draw(rt, label)
			m := make(map[int]bool)
			for _, b := range list {
				m[b] = true
			}
			return BlockSetOf(list...), m
		}
		a, am := draw("a")
		b, bm := draw("b")
		x, y := block.Draw(rt, "first"), block.Draw(rt, "last")
		n := rapid.IntRange(0, 50).Draw(rt, "n")
		if gone := block.Draw(rt, "removed"); true {
			a.Remove(gone)
			delete(am, gone)
		}
		same := func(op string, got BlockSet, want func(int) bool) {
			rt.Helper()
			var list []int
			for i := range MaxBlocks {
				if want(i) {
					list = append(list, i)
				}
			}
			if !slices.Equal(members(&got), list) || !slices.Equal(slices.Collect(got.All()), list) ||
				got.Len() != len(list) || got.Empty() != (len(list) == 0) {
				rt.Fatalf("%s: %v, len %d, want %v", op, members(&got), got.Len(), list)
			}
		}
		same("a", a, func(i int) bool { return am[i] })
		or, and, not, clip := a, a, a, a
		or.Or(&b)
		same("or", or, func(i int) bool { return am[i] || bm[i] })
		and.And(&b)
		same("and", and, func(i int) bool { return am[i] && bm[i] })
		not.AndNot(&b)
		same("and not", not, func(i int) bool { return am[i] && !bm[i] })
		clip.Clip(x, y)
		same("clip", clip, func(i int) bool { return am[i] && x <= i && i <= y })
		list := members(&a)
		top := BlockSetOf(list[max(0, len(list)-n):]...)
		same("highest", a.Highest(n), top.Has)
		for i := range a.All() { // a loop may end early
			if i != list[0] {
				rt.Fatalf("first of %v is %d", list, i)
			}
			break
		}
	})
}
