package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

var (
	testName  = crypto.Name{2, 0, 0, 0, 0, 5}
	testRange = netip.MustParsePrefix("10.32.0.0/24")
	testRing  = ring.ID{0: 0xee, 15: 0xff}
)

// hostID returns an identity of 32 equal bytes.
func hostID(b byte) crypto.Identity {
	return crypto.Identity(bytes.Repeat([]byte{b}, crypto.IdentitySize))
}

func hosts(bs ...byte) (list []crypto.Identity) {
	for _, b := range bs {
		list = append(list, hostID(b))
	}
	return list
}

// lastByte returns the address of the range that ends so.
func lastByte(b byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 32, 0, b}) }

// halves returns the registers of the whole range.
func halves() []ring.Run {
	return []ring.Run{{First: 0, Count: 128, Register: ring.Register{Owner: hostID(1), Version: 1}}, {First: 128, Count: 128, Register: ring.Register{Owner: hostID(2), Version: 1}}}
}

func bytesOf(t testing.TB, digits string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sameRecord(t *testing.T, want, got Record) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
}

func storedCases() []struct {
	in    Record
	key   string
	value string // blanks are for the reader
} {
	id := func(b string) string { return strings.Repeat(b, 32) }
	return []struct {
		in    Record
		key   string
		value string
	}{
		{
			&Meta{hostID(1), testName, testRange, 300, true},
			"meta", id("01") + "020000000005 04 0a200000 18 ac02 01",
		},
		{&Ring{testRing, testRange}, "ring", "ee" + strings.Repeat("00", 14) + "ff 04 0a200000 18"},
		{&Block{7, ring.Register{Owner: hostID(1), Giver: hostID(2), Epoch: 3, Version: 4}}, "b/0007", id("01") + id("02") + "03 04"},
		{&Local{wire.Lease{Addr: lastByte(9), Op: 1 << 32, Key: "docker:1", Label: "web"}, true}, "l/10.32.0.9", "8080808010 08 646f636b65723a31 03 776562 01"},
		{&Lease{wire.Granted{Host: hostID(3), Lease: wire.Lease{Addr: lastByte(9), Op: 5, Key: "", Label: "web"}}}, "x/10.32.0.9", id("03") + "05 00 03 776562"},
		{&Fence{wire.Fence{Target: hostID(1), Initiator: hostID(2), Epoch: 9}}, "f/" + id("01") + "/" + id("02"), "09"},
		{&Removed{wire.Removed{Peer: hostID(1), Epoch: 9}, testName, "host2"}, "r/" + id("01"), "09 020000000005 05 686f737432"},
		{
			&Vote{Range: testRange, Promised: wire.Ballot{Round: 1, Proposer: hostID(1)}, Electorate: hosts(1, 2)},
			"v", "04 0a200000 18 01" + id("01") + "02" + id("01") + id("02") + "00" + strings.Repeat("00", 16),
		},
		{
			&Vote{testRange, wire.Ballot{Round: 1, Proposer: hostID(1)}, hosts(1), wire.Ballot{Round: 1, Proposer: hostID(1)}, wire.Proposal{Ring: ring.ID{9}, Runs: halves()}},
			"v", "04 0a200000 18 01" + id("01") + "01" + id("01") + "01" + id("01") + "09" + strings.Repeat("00", 15) +
				"02 00 8001" + id("01") + id("00") + "00 01 00 8001" + id("02") + id("00") + "00 01",
		},
		{
			&Known{hostID(1), wire.Group{Base: lastByte(16), Items: []wire.Item{{Offset: 2, Label: "a"}, {Offset: 15, Label: ""}}}},
			"k/" + id("01") + "/10.32.0.16", "02 02 01 61 0f 00",
		},
		{&Op{hostID(1), math.MaxUint64}, "o/" + id("01"), "ffffffffffffffffff01"},
	}
}

func TestStoredValues(t *testing.T) {
	for _, tt := range storedCases() {
		want := bytesOf(t, tt.value)
		b, err := Encode(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		if key := tt.in.key(); key != tt.key || !bytes.Equal(b, want) {
			t.Errorf("encoded %T:\n got %s %x\nwant %s %x", tt.in, key, b, tt.key, want)
		}
		got, err := Parse(tt.key, want)
		if err != nil {
			t.Fatal(err)
		}
		sameRecord(t, tt.in, got)
		for i := range want {
			if _, err := Parse(tt.key, want[:i]); err == nil {
				t.Errorf("the first %d of %d bytes of %s are taken", i, len(want), tt.key)
			}
		}
		if _, err := Parse(tt.key, append(want, 0)); err == nil {
			t.Errorf("a byte too many of %s is taken", tt.key)
		}
	}
}

func TestStoredRefused(t *testing.T) {
	id := strings.Repeat("01", 32)
	block := strings.Repeat("01", 64) + "00 01"
	for _, tt := range []struct{ key, value string }{
		{"", ""},
		{"z", ""},
		{"meta/", strings.Repeat("00", 40)},
		{"b/", block},
		{"b/7", block},
		{"b/00007", block},
		{"b/-001", block},
		{"b/4096", block},
		{"b/0007/", block},
		{"b/0007", strings.Repeat("00", 66)},
		{"l/", "00 00 00"},
		{"l/10.32.0.09", "00 00 00"},
		{"l/fe80::1%eth0", "00 00 00"},
		{"l/::ffff:10.0.0.1", "00 00 00"},
		{"l/10.32.0.9", "00 01 0a 00"},
		{"f/" + id, "00"},
		{"f/" + id + "/" + id + "/", "00"},
		{"o/" + strings.Repeat("AB", 32), "00"},
		{"k/" + id + "/10.32.0.1", "01 00 00"},
		{"k/" + id + "/10.32.0.0", "00"},
		{"k/" + id + "/10.32.0.0", "01 10 00"},
		{"ring", strings.Repeat("00", 16) + "04 0a200000 18"},
	} {
		if s, err := Parse(tt.key, bytesOf(t, tt.value)); err == nil {
			t.Errorf("%q is taken: %+v", tt.key, s)
		} else if !errors.Is(err, errRecord) && tt.key != "" && !strings.Contains(err.Error(), tt.key) {
			t.Errorf("%q: error does not name it: %v", tt.key, err)
		}
	}
	for _, s := range []Record{
		&Meta{}, &Ring{}, &Block{}, &Vote{Range: testRange, Accepted: wire.Ballot{Round: 1, Proposer: hostID(1)}},
		&Known{Group: wire.Group{Base: lastByte(0)}},
	} {
		if b, err := Encode(s); err == nil {
			t.Errorf("%T is written: %x", s, b)
		}
	}
}

func FuzzParseStored(f *testing.F) {
	for _, tt := range storedCases() {
		f.Add(tt.key, bytesOf(f, tt.value))
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		s, err := Parse(key, value)
		if err != nil {
			return
		}
		b, err := Encode(s)
		if err != nil || s.key() != key || !bytes.Equal(b, value) {
			t.Errorf("parsed  %q %x\nwritten %q %x, %v", key, value, s.key(), b, err)
		}
	})
}
