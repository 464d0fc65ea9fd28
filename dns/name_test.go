package dns

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

func TestParseName(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 63)+".", 4)
	for _, tt := range []struct{ in, want, err string }{
		{in: "web", want: "web."},
		{in: "web.", want: "web."},
		{in: "Web.Weft.Internal", want: "Web.Weft.Internal."},
		{in: "_srv-1.0", want: "_srv-1.0."},
		{in: long[2:], want: long[2:]},
		{in: "", err: "empty"},
		{in: ".", err: "empty"},
		{in: ".web", err: "empty label"},
		{in: "web..", err: "empty label"},
		{in: "a..b", err: "empty label"},
		{in: strings.Repeat("a", 64), err: "at most 63"},
		{in: long, err: "at most 254"},
		{in: "we b", err: `" " is not allowed`},
		{in: "*.web", err: `"*" is not allowed`},
		{in: `a\.b`, err: "is not allowed"},
		{in: "bücher", err: "is not allowed"},
	} {
		got, err := ParseName(tt.in)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("ParseName(%q) = %q, %v; want %q, %q", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func TestFold(t *testing.T) {
	for in, want := range map[string]string{"": "", "abc.": "abc.", "aBc.": "abc.", "\u212aelvin": "\u212aelvin", "Z[@`{": "z[@`{"} {
		if got := fold(in); got != want {
			t.Errorf("fold(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestBelow compares with the DNS library, for names that only the wire can
// carry too.
func TestBelow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		label := rapid.StringMatching(`(a|b|\\\.|\\\\|\\000){1,3}`)
		draw := func(what string, most int) string {
			var name strings.Builder
			for range rapid.IntRange(1, most).Draw(t, what) {
				name.WriteString(label.Draw(t, what) + ".")
			}
			return name.String()
		}
		domain := draw("domain", 2)
		name := draw("name", 4)
		if rapid.Bool().Draw(t, "suffix") {
			name += domain
		}
		if got, want := below(name, domain), dns.IsSubDomain(domain, name); got != want {
			t.Fatalf("below(%q, %q) = %v, want %v", name, domain, got, want)
		}
		if got := oneLabel(name); got && dns.CountLabel(name) != 1 {
			t.Fatalf("oneLabel(%q)", name)
		}
	})
	if below("weft.internal.", ".weft.internal.") || below(`a\.weft.internal.`, "weft.internal.") {
		t.Error("a dot inside a label counts")
	}
}

func TestParseReverse(t *testing.T) {
	for _, in := range []string{
		"", ".", "in-addr.arpa.", ".in-addr.arpa.", "1.in-addr.arpa.", "3.2.1.in-addr.arpa.", "5.4.3.2.1.in-addr.arpa.",
		"256.0.0.10.in-addr.arpa.", "01.0.0.10.in-addr.arpa.", "+1.0.0.10.in-addr.arpa.", "x.0.0.10.in-addr.arpa.",
		"1.0.32.10.in-addr.arpa", "ip6.arpa.", "1.ip6.arpa.",
		strings.Repeat("0.", 31) + "ip6.arpa.", strings.Repeat("0.", 33) + "ip6.arpa.", strings.Repeat("g.", 32) + "ip6.arpa.",
		strings.Repeat("0", 63) + ".ip6.arpa.",
	} {
		if a, ok := parseReverse(in); ok {
			t.Errorf("parseReverse(%q) = %v", in, a)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address")
		if rapid.Bool().Draw(t, "ipv4") {
			b = b[:4]
		}
		want, _ := netip.AddrFromSlice(b)
		if want.Is4In6() {
			return // the library writes it as IPv4
		}
		name, err := dns.ReverseAddr(want.String())
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := parseReverse(name); !ok || got != want {
			t.Fatalf("parseReverse(%q) = %v, %v; want %v", name, got, ok, want)
		}
	})
}
