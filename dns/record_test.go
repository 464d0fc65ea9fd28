package dns

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var compareAddr = cmpopts.EquateComparable(netip.Addr{})

// TestRecordBytes fixes the format: changing it strands the names of hosts of
// another version.
func TestRecordBytes(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   Record
		want string // hexadecimal; blanks separate the fields
	}{
		{
			"ipv4",
			Record{Hostname: "web.weft.internal.", Container: "c0ffee", Addr: netip.MustParseAddr("10.32.0.1")},
			"01 04 0a200001 12 7765622e776566742e696e7465726e616c2e 06 633066666565",
		},
		{
			"ipv6, case kept, no container",
			Record{Hostname: "A.b.", Addr: netip.MustParseAddr("fd00::1")},
			"01 10 fd000000000000000000000000000001 04 412e622e 00",
		},
		{
			"container in UTF-8",
			Record{Hostname: "x.", Container: "ü", Addr: netip.MustParseAddr("0.0.0.0")},
			"01 04 00000000 02 782e 02 c3bc",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want, err := hex.DecodeString(strings.ReplaceAll(tt.want, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			got, err := tt.in.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("Marshal: got %x, want %x", got, want)
			}
			back, err := Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.in, back, compareAddr); diff != "" {
				t.Errorf("Parse (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRecordRefused(t *testing.T) {
	good := Record{Hostname: "web.weft.internal.", Container: "c0ffee", Addr: netip.MustParseAddr("10.32.0.1")}
	for _, tt := range []struct {
		change func(*Record)
		want   string
	}{
		{func(r *Record) { r.Hostname = "" }, "name is empty"},
		{func(r *Record) { r.Hostname = "web" }, "final dot"},
		{func(r *Record) { r.Hostname = "a b." }, `" " is not allowed`},
		{func(r *Record) { r.Addr = netip.Addr{} }, "no address"},
		{func(r *Record) { r.Addr = netip.MustParseAddr("::ffff:10.0.0.1") }, "written as IPv6"},
		{func(r *Record) { r.Addr = netip.MustParseAddr("fe80::1%eth0") }, "zone"},
		{func(r *Record) { r.Container = strings.Repeat("x", 256) }, "at most 255"},
		{func(r *Record) { r.Container = "\x1b[2J" }, "not printable"},
		{func(r *Record) { r.Container = "\xff" }, "not printable"},
	} {
		r := good
		tt.change(&r)
		_, err := r.Marshal()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Marshal(%+v): got error %v, want %q in it", r, err, tt.want)
		}
	}
}

func TestParseRefused(t *testing.T) {
	good, err := Record{Hostname: "a.", Container: "c", Addr: netip.MustParseAddr("10.0.0.1")}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := Parse(good[:n]); err == nil {
			t.Errorf("the first %d of %d bytes were accepted", n, len(good))
		}
	}
	for name, b := range map[string][]byte{
		"trailing byte":       append(bytes.Clone(good), 0),
		"other format":        append([]byte{2}, good[1:]...),
		"address of 5 bytes":  {1, 5, 1, 2, 3, 4, 5, 2, 'a', '.', 0},
		"mapped IPv4 address": append(append([]byte{1, 16}, netip.MustParseAddr("::ffff:10.0.0.1").AsSlice()...), 2, 'a', '.', 0),
		"huge":                make([]byte, MaxRecordSize+1),
	} {
		if r, err := Parse(b); err == nil {
			t.Errorf("%s was accepted: %+v", name, r)
		}
	}
}

// drawRecord draws a record below domain from few enough names that they meet.
func drawRecord(t *rapid.T, domain string) Record {
	label := rapid.StringMatching(`[abAB]{1,2}`)
	name := domain
	for range rapid.IntRange(0, 3).Draw(t, "labels") {
		name = label.Draw(t, "label") + "." + name
	}
	a := netip.AddrFrom4([4]byte{10, 32, 0, byte(rapid.IntRange(1, 5).Draw(t, "host"))})
	if rapid.Bool().Draw(t, "ipv6") {
		a = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(rapid.IntRange(1, 5).Draw(t, "host"))})
	}
	return Record{Hostname: name, Container: rapid.StringMatching(`[a-z]{0,3}`).Draw(t, "container"), Addr: a}
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawRecord(t, "Weft.Internal.")
		b, err := in.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		out, err := Parse(b)
		if err != nil || out != in {
			t.Fatalf("got %+v, %v; want %+v", out, err, in)
		}
	})
}

// FuzzParse: what parses gives the same bytes back, and costs no more memory
// than it has bytes (the two strings).
func FuzzParse(f *testing.F) {
	for _, r := range []Record{
		{Hostname: "web.weft.internal.", Container: "c0ffee", Addr: netip.MustParseAddr("10.32.0.1")},
		{Hostname: "A.b.", Addr: netip.MustParseAddr("fd00::1")},
	} {
		b, err := r.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{1, 4, 10, 0, 0, 1, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		if len(r.Hostname)+len(r.Container) > len(b) {
			t.Errorf("%d bytes became %+v", len(b), r)
		}
		back, err := r.Marshal()
		if err != nil {
			t.Fatalf("parsed, but cannot be written: %v", err)
		}
		if !bytes.Equal(back, b) {
			t.Errorf("got %x back for %x", back, b)
		}
	})
}
