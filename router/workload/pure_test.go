package workload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/router/api"
)

// drawPrefix favours what lies close together.
func drawPrefix(t *rapid.T, name string) netip.Prefix {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24|rapid.Uint32Range(0, 0x3ff).Draw(t, name+"-low")|
		rapid.SampledFrom([]uint32{0, 1 << 20, 0xffff0000 & 0x00ffffff}).Draw(t, name+"-high"))
	return netip.PrefixFrom(netip.AddrFrom4(b), rapid.IntRange(1, 32).Draw(t, name+"-bits"))
}

// span is the naive view of a subnet: the numbers of its first and last
// address.
func span(p netip.Prefix) (first, last uint64) {
	a := p.Addr().As4()
	n := uint64(binary.BigEndian.Uint32(a[:]))
	size := uint64(1) << (32 - p.Bits())
	first = n / size * size
	return first, first + size - 1
}

func TestCheckAddressTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPrefix(t, "p")
		first, last := span(p)
		a := p.Addr().As4()
		n := uint64(binary.BigEndian.Uint32(a[:]))
		want := p.Bits() >= 31 || n != first && n != last
		if err := checkAddress(p); (err == nil) != want {
			t.Fatalf("checkAddress(%s) = %v, want allowed: %v", p, err, want)
		} else if err != nil && !errors.Is(err, api.ErrUsage) {
			t.Fatalf("class of %v", err)
		}
	})
}

func TestCheckSubnetsTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.Custom(func(t *rapid.T) netip.Prefix { return drawPrefix(t, "p") })
		held := rapid.SliceOfN(draw, 0, 3).Draw(t, "held")
		asked := rapid.SliceOfN(draw, 0, 3).Draw(t, "asked")
		want := true
		for _, a := range asked {
			for _, b := range slices.Concat(held, asked) {
				af, al := span(a)
				bf, bl := span(b)
				if (af != bf || al != bl) && af <= bl && bf <= al {
					want = false
				}
			}
		}
		if err := checkSubnets(held, asked); (err == nil) != want {
			t.Fatalf("checkSubnets(%v, %v) = %v, want allowed: %v", held, asked, err, want)
		}
	})
}

func TestSetsTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, rapid.ByteRange(0, 5).Draw(t, "b")}), 24)
		}), 0, 5)
		a, b := draw.Draw(t, "a"), draw.Draw(t, "b")
		keepA, keepB := slices.Clone(a), slices.Clone(b)
		for i := range 6 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 24)
			inA, inB := slices.Contains(a, p), slices.Contains(b, p)
			if slices.Contains(union(a, b), p) != (inA || inB) || slices.Contains(without(a, b), p) != (inA && !inB) {
				t.Fatalf("%v of %v and %v", p, a, b)
			}
		}
		if !slices.Equal(a, keepA) || !slices.Equal(b, keepB) {
			t.Fatal("an argument was changed")
		}
	})
}

func TestAutoName(t *testing.T) {
	tests := []struct {
		name, host, domain string
		want               string
	}{
		{"web", "0123456789ab", "", "web.weft.internal."},
		{"web", "", "", "web.weft.internal."},
		{"web", "shop", "", "web.weft.internal."},
		{"web", "shop.weft.internal", "", "shop.weft.internal."},
		{"web", "shop", "weft.internal", "shop.weft.internal."},
		{"web", "Shop.Weft.Internal.", "", "Shop.Weft.Internal."},
		{"web", "a.b.weft.internal", "", "a.b.weft.internal."},
		{"web", "shop.example.com", "", ""},
		{"web", "shop", "example.com", ""},
		{"web", "weft.internal", "", ""},
		{"web", "shop.notweft.internal", "", ""},
		{"my_web.1", "x", "", "my_web.1.weft.internal."},
		{strings.Repeat("a", 64), "x", "", ""},
		{strings.Repeat("a", 63), "x", "", strings.Repeat("a", 63) + ".weft.internal."},
		{"web", "bad name.weft.internal", "", ""},
	}
	for _, tt := range tests {
		got := autoName(Container{Name: tt.name, Hostname: tt.host, Domainname: tt.domain}, testDomain)
		if got != tt.want {
			t.Errorf("autoName(%q, %q, %q) = %q, want %q", tt.name, tt.host, tt.domain, got, tt.want)
		}
	}
	if got := autoName(Container{Name: "web"}, ""); got != "" {
		t.Errorf("without a domain: %q", got)
	}
}

func TestParseFQDN(t *testing.T) {
	tests := []struct{ in, want string }{
		{"web.weft.internal", "web.weft.internal."},
		{"web.weft.internal.", "web.weft.internal."},
		{"Web.WEFT.internal", "Web.WEFT.internal."},
		{"web", "web.weft.internal."},
		{"web.", ""},
		{"weft.internal", ""},
		{"web.example.com", ""},
		{"webweft.internal", ""},
		{"", ""},
		{"a..weft.internal", ""},
	}
	for _, tt := range tests {
		got, err := parseFQDN(tt.in, testDomain)
		if got != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, api.ErrUsage) {
			t.Errorf("parseFQDN(%q) = %q, %v, want %q", tt.in, got, err, tt.want)
		}
	}
}

func TestNames(t *testing.T) {
	a1, a2 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	list := []name{{"Web.weft.internal.", a1, true}, {"www.weft.internal.", a1, false}, {"Web.weft.internal.", a2, true}}
	if got := withNames(list, []name{{"WEB.weft.internal.", a1, false}}); len(got) != 3 {
		t.Errorf("the same name in another case was added: %v", got)
	}
	for _, tt := range []struct {
		full  string
		addrs []netip.Addr
		want  int
	}{
		{"", nil, 0},
		{"web.WEFT.internal.", nil, 1},
		{"", []netip.Addr{a1}, 1},
		{"web.weft.internal.", []netip.Addr{a2}, 2},
		{"other.weft.internal.", nil, 3},
	} {
		if got := withoutNames(list, tt.full, tt.addrs); len(got) != tt.want {
			t.Errorf("withoutNames(%q, %v) = %v", tt.full, tt.addrs, got)
		}
	}
	got, changed := renamed(list, "shop.weft.internal.")
	want := []name{{"shop.weft.internal.", a1, true}, {"www.weft.internal.", a1, false}, {"shop.weft.internal.", a2, true}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || !changed {
		t.Errorf("renamed: %v\n%s", changed, diff)
	}
	if got, changed := renamed(list, ""); !changed || len(got) != 1 {
		t.Errorf("renamed to nothing: %v, %v", got, changed)
	}
	if _, changed := renamed(got, "shop.weft.internal."); changed {
		t.Error("renamed twice")
	}
}

func TestParseStartTime(t *testing.T) {
	const fields = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 123456 20 21\n"
	for _, comm := range []string{"(sleep)", "(a b)", "(a) S 1 2 ()", "())"} {
		got, err := parseStartTime("4711 " + comm + fields)
		if err != nil || got != 123456 {
			t.Errorf("%s: %d, %v", comm, got, err)
		}
	}
	for _, s := range []string{"", "1 (x)", "1 x" + fields[:10], "1 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x"} {
		if _, err := parseStartTime(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

// FuzzParseStartTime wants what the kernel writes to be read whatever a program
// is called, and anything else to be read as by who takes one byte at a time.
func FuzzParseStartTime(f *testing.F) {
	f.Add("1 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19", "sleep", uint64(123456))
	f.Add("1 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 18446744073709551616", ") S 1 (", uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, s, program string, start uint64) {
		stat := fmt.Sprintf("4711 (%s) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 %d 20 21\n", program, start)
		if got, err := parseStartTime(stat); err != nil || got != start {
			t.Errorf("%q: %d, %v", stat, got, err)
		}
		for _, stat := range []string{s, stat + s} {
			want, ok := slowStartTime(stat)
			if got, err := parseStartTime(stat); got != want || (err == nil) != ok {
				t.Errorf("%q: %d, %v; want %d, %v", stat, got, err, want, ok)
			}
		}
	})
}

// slowStartTime is the naive twin: the twentieth word behind the last parenthesis.
func slowStartTime(stat string) (start uint64, ok bool) {
	var words []string
	closed, within := false, false
	for _, r := range stat {
		switch {
		case r == ')':
			words, closed, within = nil, true, false
		case unicode.IsSpace(r):
			within = false
		case !within:
			words, within = append(words, string(r)), true
		default:
			words[len(words)-1] += string(r)
		}
	}
	if !closed || len(words) < 20 {
		return 0, false
	}
	n := new(big.Int)
	for _, r := range words[19] {
		if r < '0' || r > '9' {
			return 0, false
		}
		n.Add(n.Mul(n, big.NewInt(10)), big.NewInt(int64(r-'0')))
	}
	return n.Uint64(), n.IsUint64()
}

// FuzzState wants what was read to be what is written again.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"format":1,"boot":"b","containers":[{"key":"docker:1","label":"1","ns":{"id":"4:1","cookie":2},"path":"/p","addresses":["10.0.0.1/8"],"names":[{"hostname":"a.","addr":"10.0.0.1","auto":true}]}],"exposed":[{"address":"10.0.0.2/8","masquerade":true}]}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"containers":[{"key":"a","ns":{"id":"1"},"adding":[""]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		once, err := s.bytes()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseState(once)
		if err != nil {
			t.Fatalf("what was written is not read: %v\n%s", err, once)
		}
		if twice, _ := again.bytes(); string(twice) != string(once) {
			t.Fatalf("written twice, differently:\n%s\n%s", once, twice)
		}
	})
}
