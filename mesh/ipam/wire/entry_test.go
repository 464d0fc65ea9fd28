package wire

import (
	"bytes"
	"encoding/hex"
	"math"
	"net/netip"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func infoCases() []struct {
	in   Info
	want string
} {
	return []struct {
		in   Info
		want string
	}{
		{Info{Role: RoleOff}, "01 03"},
		{Info{Role: RoleObserver, Range: wireRange}, "01 02 04 0a200000 18" + strings.Repeat("00", 16) + "00 00 00 00 00"},
		{
			Info{RoleVoter, wireRange, wireRing, 256, 200, 300, 5, true},
			"01 01 04 0a200000 18 ee" + strings.Repeat("00", 14) + "ff 8002 c801 ac02 05 01",
		},
		{
			Info{Role: RoleVoter, Range: netip.MustParsePrefix("fd00::/48"), FreeIPs: math.MaxUint64},
			"01 01 10 fd00" + strings.Repeat("00", 14) + "30" + strings.Repeat("00", 16) + "00 00 ffffffffffffffffff01 00 00",
		},
	}
}

func TestInfo(t *testing.T) {
	for _, tt := range infoCases() {
		want := unhex(t, tt.want)
		got, err := tt.in.Marshal()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("Marshal:\n got %x, %v\nwant %x", got, err, want)
		}
		n, err := ParseInfo(want)
		if err != nil || n != tt.in {
			t.Errorf("ParseInfo: %+v, %v, want %+v", n, err, tt.in)
		}
		for i := range want {
			if _, err := ParseInfo(want[:i]); err == nil {
				t.Errorf("the first %d of %d bytes are taken", i, len(want))
			}
		}
	}
	for name, s := range map[string]string{
		"format 2":            "02 03",
		"role 0":              "01 00",
		"more after off":      "01 03 00",
		"more free than own":  "01 01 04 0a200000 18" + strings.Repeat("00", 16) + "01 02 00 00 00",
		"4,097 blocks":        "01 01 04 0a200000 18" + strings.Repeat("00", 16) + "8120 02 00 00 00",
		"range of host bits":  "01 01 04 0a200001 18" + strings.Repeat("00", 16) + "00 00 00 00 00",
		"voter without range": "01 01 00 ff" + strings.Repeat("00", 16) + "00 00 00 00 00",
	} {
		if n, err := ParseInfo(unhex(t, s)); err == nil {
			t.Errorf("%s is taken: %+v", name, n)
		}
	}
	for _, n := range []Info{{}, {Role: RoleVoter}, {Role: RoleOff, Local: 1}} {
		if b, err := n.Marshal(); err == nil {
			t.Errorf("%+v is written: %x", n, b)
		}
	}
}

func FuzzParseInfo(f *testing.F) {
	for _, tt := range infoCases() {
		f.Add(unhex(f, tt.want))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParseInfo(b)
		if err != nil {
			return
		}
		if got, err := n.Marshal(); err != nil || !bytes.Equal(got, b) {
			t.Errorf("parsed  %x\nwritten %x, %v", b, got, err)
		}
	})
}

func groupCases() []struct {
	in    Group
	key   string
	value string
} {
	return []struct {
		in    Group
		key   string
		value string
	}{
		{Group{wireAddr(0), []Item{{0, ""}}}, "a/0a200000", "01 01 00 00"},
		{Group{wireAddr(240), []Item{{1, "web"}, {15, "db"}}}, "a/0a2000f0", "01 02 01 03 776562 0f 02 6462"},
		{Group{netip.MustParseAddr("fd00::10"), []Item{{3, ""}}}, "a/fd000000000000000000000000000010", "01 01 03 00"},
	}
}

func TestGroup(t *testing.T) {
	for _, tt := range groupCases() {
		want := unhex(t, tt.value)
		key, got, err := tt.in.Marshal()
		if err != nil || key != tt.key || !bytes.Equal(got, want) {
			t.Errorf("Marshal:\n got %s %x, %v\nwant %s %x", key, got, err, tt.key, want)
		}
		g, err := ParseGroup(tt.key, want)
		if err != nil {
			t.Fatal(err)
		}
		equalWire(t, tt.in, g)
	}
	for _, tt := range []struct{ name, key, value string }{
		{"another key", "b/0a200000", "01 01 00 00"},
		{"no base", "a/", "01 01 00 00"},
		{"base of 3 bytes", "a/0a2000", "01 01 00 00"},
		{"base within a group", "a/0a200001", "01 01 00 00"},
		{"capital digits", "a/0A200000", "01 01 00 00"},
		{"IPv4 in IPv6", "a/00000000000000000000ffff0a200000", "01 01 00 00"},
		{"format 2", "a/0a200000", "02 01 00 00"},
		{"nothing in it", "a/0a200000", "01 00"},
		{"offset 16", "a/0a200000", "01 01 10 00"},
		{"offset twice", "a/0a200000", "01 02 01 00 01 00"},
		{"17 items", "a/0a200000", "01 11" + strings.Repeat("0000", 17)},
		{"control character", "a/0a200000", "01 01 00 01 1b"},
		{"more behind", "a/0a200000", "01 01 00 00 00"},
	} {
		if g, err := ParseGroup(tt.key, unhex(t, tt.value)); err == nil {
			t.Errorf("%s is taken: %+v", tt.name, g)
		}
	}
	for _, g := range []Group{{}, {Base: wireAddr(0)}, {wireAddr(1), []Item{{0, ""}}}, {wireAddr(0), []Item{{16, ""}}}} {
		if key, b, err := g.Marshal(); err == nil {
			t.Errorf("%+v is written: %s %x", g, key, b)
		}
	}
	if got := GroupBase(wireAddr(0xab)); got != wireAddr(0xa0) {
		t.Errorf("base of .171 is %v", got)
	}
}

func FuzzParseAttached(f *testing.F) {
	for _, tt := range groupCases() {
		f.Add(tt.key, unhex(f, tt.value))
	}
	f.Fuzz(func(t *testing.T, key string, b []byte) {
		g, err := ParseGroup(key, b)
		if err != nil {
			return
		}
		again, got, err := g.Marshal()
		if err != nil || again != key || !bytes.Equal(got, b) {
			t.Errorf("parsed  %q %x\nwritten %q %x, %v", key, b, again, got, err)
		}
	})
}
