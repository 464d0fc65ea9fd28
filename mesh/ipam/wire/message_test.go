package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
)

// wireID is the identity of 32 equal bytes.
func wireID(b byte) crypto.Identity {
	return crypto.Identity(bytes.Repeat([]byte{b}, crypto.IdentitySize))
}

func wireIDs(bs ...byte) []crypto.Identity {
	ids := make([]crypto.Identity, len(bs))
	for i, b := range bs {
		ids[i] = wireID(b)
	}
	return ids
}

var (
	wireRange = netip.MustParsePrefix("10.32.0.0/24")
	wireRing  = ring.ID{0: 0xee, 15: 0xff}
)

func wireAddr(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 32, 0, last}) }

// wireAll is a division of the range.
func wireAll() []ring.Run {
	return []ring.Run{{First: 0, Count: 128, Register: ring.Register{Owner: wireID(1), Version: 1}}, {First: 128, Count: 128, Register: ring.Register{Owner: wireID(2), Version: 1}}}
}

// hexIDs is a table of identities of 32 equal bytes.
func hexIDs(bs ...string) string {
	s := fmt.Sprintf("%02x", len(bs))
	for _, b := range bs {
		s += " " + strings.Repeat(b, 32)
	}
	return s
}

// wireCases: the header up to the range is the same in all but the kind.
func wireCases() []wireCase {
	return []wireCase{
		{
			"digest",
			Digest{Exchange: 300, Hash: 0x1122334455667788, Groups: [ring.Groups]uint64{63: 1}, Pending: []Fence{{wireID(2), wireID(1), 5}}},
			"01", hexIDs("02", "01") + " ac02 1122334455667788 " + strings.Repeat("00", 63*8) + " 0000000000000001 01 00 01 05",
		},
		{
			"empty state",
			State{},
			"02", "00 00 00 0000000000000000 00 00 00 00 00 00 00 00 00",
		},
		{
			"state",
			State{
				Re:      7,
				Runs:    []ring.Run{{First: 2, Count: 3, Register: ring.Register{Owner: wireID(1), Giver: wireID(2), Epoch: 1, Version: 4}}, {First: 9, Count: 1, Register: ring.Register{Owner: wireID(2), Version: 1}}},
				Wanted:  5,
				LastOp:  1 << 32,
				Against: []Fence{{wireID(1), wireID(3), 2}},
				Pending: []Fence{{wireID(2), wireID(1), 3}},
				Removed: []Removed{{wireID(4), 9}},
				Held:    Held{UpTo: 128, Open: []uint64{5, 6}, Full: true, Blocks: []space.Span{{First: 2, Count: 3}, {First: 7, Count: 1}}, Held: []Lease{{wireAddr(4), 3, "k", "l"}, {wireAddr(5), 0, "", ""}}},
			},
			"02", hexIDs("01", "02", "00", "03", "04") + " 07 02 02 03 00 01 01 04 04 01 01 02 00 01 0000000000000005 8080808010 " +
				"01 00 03 02 01 01 00 03 01 04 09 8001 02 05 06 01 02 02 03 02 01 02 04 03 01 6b 01 6c 01 00 00 00 00",
		},
		{
			"want any",
			Want{Op: 1<<32 | 2, Subnet: netip.MustParsePrefix("10.32.0.64/26"), Key: "docker:1", Label: "web", Unsure: true},
			"03", "00 8280808010 1a 40 00 08 646f636b65723a31 03 776562 01",
		},
		{
			"want one",
			Want{Op: 1, Subnet: wireRange, Addr: wireAddr(0)},
			"03", "00 01 18 00 01 00 00 00 00",
		},
		{"nothing given", Give{Op: 9}, "04", "00 09 00 00 00"},
		{"busy", Give{Op: 9, Busy: true}, "04", "00 09 00 00 01"},
		{"lease given", Give{Op: 9, Addr: wireAddr(200)}, "04", "00 09 00 01 c801 00"},
		{
			"block given",
			Give{Op: 9, Runs: []ring.Run{{First: 255, Count: 1, Register: ring.Register{Owner: wireID(1), Giver: wireID(2), Epoch: 0, Version: 2}}}},
			"04", hexIDs("01", "02") + " 09 01 ff01 01 00 01 00 02 00 00",
		},
		{
			"held",
			Held{UpTo: 3, Dropped: []netip.Addr{wireAddr(1), wireAddr(255)}},
			"05", "00 03 00 00 00 02 01 fe01",
		},
		{
			"conflict",
			Conflict{Op: 1, Addr: wireAddr(9), Host: wireID(7), Key: "é", Label: "x"},
			"06", hexIDs("07") + " 01 09 00 02 c3a9 01 78",
		},
		{
			"prepare",
			Prepare{Ballot{2, wireID(1)}, wireIDs(1, 2)},
			"07", hexIDs("01", "02") + " 02 00 02 00 01",
		},
		{
			"promise of nothing",
			Promise{Ballot: Ballot{2, wireID(1)}, Known: wireIDs(2)},
			"08", hexIDs("01", "02") + " 02 00 01 01 00 " + strings.Repeat("00", 16),
		},
		{
			"promise",
			Promise{Ballot{2, wireID(1)}, wireIDs(2), Ballot{1, wireID(2)}, Proposal{ring.ID{1}, wireAll()}},
			"08", hexIDs("01", "02", "00") + " 02 00 01 01 01 01 01" + strings.Repeat("00", 15) + " 02 00 8001 00 02 00 01 00 8001 01 02 00 01",
		},
		{
			"nack",
			Nack{Ballot{2, wireID(1)}, Ballot{3, wireID(2)}, wireIDs(1)},
			"09", hexIDs("01", "02") + " 02 00 03 01 01 00",
		},
		{"off", Off{RoleObserver}, "0a", "00 02"},
		{
			"accept",
			Accept{Ballot{2, wireID(1)}, wireIDs(1, 2), Proposal{ring.ID{1}, wireAll()}},
			"0b", hexIDs("01", "02", "00") + " 02 00 02 00 01 01" + strings.Repeat("00", 15) + " 02 00 8001 00 02 00 01 00 8001 01 02 00 01",
		},
		{"accepted", Accepted{Ballot{2, wireID(1)}}, "0c", hexIDs("01") + " 02 00"},
		{"elect", Elect{}, "0d", "00"},
		{"fence", FenceAsk{1, wireIDs(3), 4}, "0e", hexIDs("03") + " 01 01 00 04"},
		{
			"fence promised",
			FencePromise{
				1, 3,
				[]ring.Run{{First: 0, Count: 256, Register: ring.Register{Owner: wireID(3), Version: 1}}},
				wireIDs(1, 2),
				[]Removed{{wireID(5), 2}},
				[]Granted{{wireID(1), Lease{Addr: wireAddr(7), Label: "a"}}, {wireID(3), Lease{Addr: wireAddr(7)}}},
				[]Lease{{wireAddr(8), 1, "k", ""}},
			},
			"0f", hexIDs("03", "00", "01", "02", "05") + " 01 03 01 00 8002 00 01 00 01 02 02 03 01 04 02 02 02 07 00 00 01 61 00 00 00 00 00 01 08 01 01 6b 00",
		},
		{"fence refused, alive", FenceRefuse{1, RefuseAlive, wireID(3), 2}, "10", hexIDs("03") + " 01 01 00 02"},
		{"fence refused, busy", FenceRefuse{1, RefuseBusy, crypto.Identity{}, 2}, "10", "00 01 02 02"},
		{
			"fence over",
			FenceOver{1, wireIDs(3), 4, true, []ring.Run{{First: 0, Count: 1, Register: ring.Register{Owner: wireID(1), Giver: wireID(1), Epoch: 4, Version: 2}}}},
			"11", hexIDs("03", "01") + " 01 01 00 04 01 01 00 01 01 01 04 02",
		},
		{
			"hand over",
			HandOver{1, []ring.Run{{First: 0, Count: 1, Register: ring.Register{Owner: wireID(1), Giver: wireID(2), Epoch: 0, Version: 2}}}, []Granted{{wireID(4), Lease{wireAddr(0), 6, "k", "l"}}}},
			"12", hexIDs("01", "02", "04") + " 01 01 00 01 00 01 00 02 01 02 00 06 01 6b 01 6c",
		},
		{"handed over", HandedOver{1, true}, "13", "00 01 01"},
	}
}

type wireCase struct {
	name string
	body Body
	kind string
	want string // from the table of identities on; blanks are for the reader
}

func (c wireCase) bytes(t testing.TB) []byte { return wireBytes(t, c.kind, c.want) }

func (c wireCase) message() Message { return Message{Ring: wireRing, Range: wireRange, Body: c.body} }

func wireBytes(t testing.TB, kind, rest string) []byte {
	t.Helper()
	s := "41" + kind + "ee" + strings.Repeat("00", 14) + "ff" + "04 0a200000 18" + rest
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func equalWire(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
}

func TestWire(t *testing.T) {
	for _, tt := range wireCases() {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.bytes(t)
			got, err := tt.message().Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("Marshal:\n got %x\nwant %x", got, want)
			}
			m, err := ParseMessage(want)
			if err != nil {
				t.Fatal(err)
			}
			equalWire(t, tt.message(), m)
			for i := range want {
				if _, err := ParseMessage(want[:i]); err == nil {
					t.Errorf("the first %d of %d bytes are taken", i, len(want))
				}
			}
			if _, err := ParseMessage(append(want, 0)); err == nil {
				t.Error("a byte too many is taken")
			}
		})
	}
}

func TestWireRefused(t *testing.T) {
	zeros := func(n int) string { return strings.Repeat("00", n) }
	for _, tt := range []struct{ name, kind, rest string }{
		{"unknown kind", "14", "00"},
		{"kind 0", "00", "00"},
		{"identity that nobody uses", "13", hexIDs("01") + "01 01"},
		{"identity twice in the table", "0d", hexIDs("01", "01") + "02 00 01"},
		{"identities not in order of use", "07", hexIDs("02", "01") + "02 01 02 00 01"},
		{"identity outside the table", "0c", hexIDs("01") + "02 01"},
		{"more identities than bytes", "0d", "ff1f 00"},
		{"4,097 identities", "0d", "8120" + zeros(4097*32) + "00"},
		{"long uvarint", "13", "00 8100 01"},
		{"uvarint of 65 bits", "13", "00 ffffffffffffffffff03 01"},
		{"uvarint of 129 bits", "13", "00 ffffffffffffffffffffffffffffffffffff07 01"},
		{"endless uvarint", "13", "00" + strings.Repeat("80", 40)},
		{"flag of 2", "13", "00 01 02"},
		{"address behind the range", "04", "00 09 00 01 8002 00"},
		{"address far behind the range", "04", "00 09 00 01 ffffffffffffffffff01 00"},
		{"list runs out of the range", "05", "00 03 00 00 00 02 01 ff01"},
		{"address twice", "05", "00 03 00 00 00 02 01 00"},
		{"op twice", "05", "00 03 02 04 04 00 00 00"},
		{"ops descend", "05", "00 03 02 05 04 00 00 00"},
		{"identities descend", "0d", hexIDs("02", "01") + "02 00 01"},
		{"subnet wider than the range", "03", "00 01 17 00 00 00 00 00"},
		{"subnet with host bits", "03", "00 01 1a 41 00 00 00 00"},
		{"subnet longer than an address", "03", "00 01 21 00 00 00 00 00"},
		{"key with a control character", "03", "00 01 18 00 00 01 0a 00 00"},
		{"key that is not UTF-8", "03", "00 01 18 00 00 01 ff 00 00"},
		{"label longer than the rest", "03", "00 01 18 00 00 00 05 00"},
		{"blocks and an address", "04", hexIDs("01", "02") + "09 01 ff01 01 00 01 00 02 01 01 00"},
		{"blocks beyond the range", "04", hexIDs("01", "02") + "09 01 ff01 02 00 01 00 02 00 00"},
		{"run of no blocks", "04", hexIDs("01", "02") + "09 01 01 00 00 01 00 02 00 00"},
		{"neighbours with one register", "04", hexIDs("01", "02") + "09 02 00 01 00 01 00 02 00 01 00 01 00 02 00 00"},
		{"block without owner", "04", hexIDs("00") + "09 01 00 01 00 00 00 02 00 00"},
		{"ballot 0 with a proposer", "0c", hexIDs("01") + "00 00"},
		{"ballot 1 without one", "0c", hexIDs("00") + "01 00"},
		{"accepted without ring", "08", hexIDs("01") + "02 00 00 01 00" + zeros(16)},
		{"ring with blocks missing", "0b", hexIDs("01", "00") + "02 00 00 01" + zeros(15) + "01 00 7f 00 01 00 01"},
		{"accept of no ring", "0b", hexIDs("01") + "02 00 00" + zeros(16)},
		{"role 0", "0a", "00 00"},
		{"role 4", "0a", "00 04"},
		{"refusal 0", "10", "00 01 00 02"},
		{"refusal 5", "10", "00 01 05 02"},
		{"nobody is alive", "10", hexIDs("00") + "01 01 00 02"},
		{"granted twice to one", "12", hexIDs("01") + "01 00 02 00 05 00 00 00 00 00 00 00 00"},
	} {
		if m, err := ParseMessage(wireBytes(t, tt.kind, tt.rest)); err == nil {
			t.Errorf("%s is taken: %+v", tt.name, m)
		} else if !errors.Is(err, errWire) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for name, s := range map[string]string{
		"first byte":       "42 13" + zeros(16) + "04 0a200000 18 00 01 01",
		"range of 5 bytes": "41 13" + zeros(16) + "05 0a20000000 18 00 01 01",
		"host bits":        "41 13" + zeros(16) + "04 0a200001 18 00 01 01",
		"33 bits":          "41 13" + zeros(16) + "04 0a200000 21 00 01 01",
		"IPv4 in IPv6":     "41 13" + zeros(16) + "10" + zeros(10) + "ffff 0a200000 78 00 01 01",
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if m, err := ParseMessage(b); err == nil {
			t.Errorf("%s is taken: %+v", name, m)
		}
	}
	if _, err := ParseMessage(make([]byte, MaxMessage+1)); err == nil {
		t.Error("a megabyte and a byte is taken")
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, tt := range wireCases() {
		f.Add(tt.bytes(f))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		got, err := m.Marshal()
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("parsed  %x\nwritten %x, %v", b, got, err)
		}
	})
}
