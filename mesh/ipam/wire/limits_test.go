package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
)

// What is not valid must not leave this host: nobody would understand it.
func TestWireNotWritten(t *testing.T) {
	other := netip.MustParseAddr("10.33.0.1")
	for name, body := range map[string]Body{
		"nothing":               nil,
		"pointer":               &Off{RoleOff},
		"lease outside":         Held{Held: []Lease{{Addr: other}}},
		"no lease":              Held{Held: []Lease{{}}},
		"IPv6":                  Conflict{Addr: netip.MustParseAddr("fd00::1")},
		"subnet outside":        Want{Subnet: netip.MustParsePrefix("10.33.0.0/26")},
		"no subnet":             Want{},
		"wide subnet":           Want{Subnet: netip.MustParsePrefix("10.32.0.0/23")},
		"overlapping runs":      Give{Runs: []ring.Run{{First: 0, Count: 2, Register: ring.Register{Owner: wireID(1)}}, {First: 1, Count: 2, Register: ring.Register{Owner: wireID(2)}}}},
		"block 256":             Give{Runs: []ring.Run{{First: 256, Count: 1, Register: ring.Register{Owner: wireID(1)}}}},
		"negative block":        Give{Runs: []ring.Run{{First: -1, Count: 2, Register: ring.Register{Owner: wireID(1)}}}},
		"negative run":          Give{Runs: []ring.Run{{First: 5, Count: -1, Register: ring.Register{Owner: wireID(1)}}}},
		"no owner":              Give{Runs: []ring.Run{{First: 0, Count: 1, Register: ring.Register{}}}},
		"two answers":           Give{Addr: wireAddr(1), Busy: true},
		"no role":               Off{},
		"no reason":             FenceRefuse{},
		"ring with holes":       Accept{Proposal: Proposal{Ring: wireRing, Runs: wireAll()[:1]}},
		"more than 4,096 peers": Nack{Known: manyIDs(MaxPeers + 1)},
	} {
		if b, err := (Message{Range: wireRange, Body: body}).Marshal(); err == nil {
			t.Errorf("%s is written: %x", name, b)
		}
	}
	if _, err := (Message{Body: Off{RoleOff}}).Marshal(); err == nil {
		t.Error("written without a range")
	}
}

func manyIDs(n int) []crypto.Identity {
	ids := make([]crypto.Identity, n)
	for i := range ids {
		ids[i] = crypto.Identity{byte(i >> 8), byte(i), 1}
	}
	return ids
}

// The writer puts sets in order, once each, joins runs, and makes text of
// what is none; what it was given stays as it was.
func TestWireOrder(t *testing.T) {
	in := State{
		Runs: []ring.Run{{First: 4, Count: 1, Register: ring.Register{Owner: wireID(1)}}, {First: 2, Count: 2, Register: ring.Register{Owner: wireID(1)}}},
		Held: Held{
			Open:    []uint64{3, 1, 3},
			Held:    []Lease{{Addr: wireAddr(9), Key: "a\nb\xff"}, {Addr: wireAddr(3), Label: strings.Repeat("é", 200)}},
			Dropped: []netip.Addr{wireAddr(2), wireAddr(1), wireAddr(2)},
		},
	}
	before := fmt.Sprint(in)
	b, err := Message{Range: netip.MustParsePrefix("10.32.0.77/24"), Body: in}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if after := fmt.Sprint(in); after != before {
		t.Errorf("what was written is now %s, was %s", after, before)
	}
	m, err := ParseMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	equalWire(t, Message{Range: wireRange, Body: State{
		Runs: []ring.Run{{First: 2, Count: 3, Register: ring.Register{Owner: wireID(1)}}},
		Held: Held{
			Open:    []uint64{1, 3},
			Held:    []Lease{{Addr: wireAddr(3), Label: strings.Repeat("é", 127)}, {Addr: wireAddr(9), Key: "a?b?"}},
			Dropped: []netip.Addr{wireAddr(1), wireAddr(2)},
		},
	}}, m)
}

// IPv6 is the same arithmetic with larger numbers.
func TestWireIPv6(t *testing.T) {
	in := Message{Range: netip.MustParsePrefix("fd00:1::/48"), Body: Held{Full: true, Held: []Lease{
		{Addr: netip.MustParseAddr("fd00:1::")},
		{Addr: netip.MustParseAddr("fd00:1:0:8000::7"), Op: math.MaxUint64},
		{Addr: netip.MustParseAddr("fd00:1:0:ffff:ffff:ffff:ffff:ffff")},
	}}}
	b, err := in.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	equalWire(t, in, m)
	whole := Message{Range: netip.MustParsePrefix("::/0"), Body: Held{Dropped: []netip.Addr{
		netip.IPv6Unspecified(), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
	}}}
	if b, err = whole.Marshal(); err != nil {
		t.Fatal(err)
	}
	if m, err = ParseMessage(b); err != nil {
		t.Fatal(err)
	}
	equalWire(t, whole, m)
}

// manyLeases are n addresses with the holders that Docker makes.
func manyLeases(n int) []Lease {
	leases := make([]Lease, n)
	a := netip.MustParseAddr("10.32.0.1")
	for i := range leases {
		leases[i] = Lease{a, 7<<32 | uint64(i), "docker:" + strings.Repeat("0123456789abcdef", 4), fmt.Sprintf("container %d", i)}
		a = a.Next()
	}
	return leases
}

// What is too large loses who holds the addresses, never an address.
func TestWireTooLarge(t *testing.T) {
	for _, tt := range []struct {
		n          int
		key, label bool
	}{{5_000, true, true}, {13_000, true, false}, {MaxAddresses, false, false}} {
		in := Message{Range: netip.MustParsePrefix("10.32.0.0/12"), Body: FencePromise{Held: manyLeases(tt.n)}}
		b, err := in.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		m, err := ParseMessage(b)
		if err != nil {
			t.Fatal(err)
		}
		held := m.Body.(FencePromise).Held
		if len(held) != tt.n || held[tt.n-1].Op != 7<<32|uint64(tt.n-1) {
			t.Errorf("%d of %d addresses, the last %+v", len(held), tt.n, held[len(held)-1])
		}
		if got := held[0]; (got.Key != "") != tt.key || (got.Label != "") != tt.label {
			t.Errorf("of %d addresses, the first is %+v", tt.n, got)
		}
	}
	_, err := Message{Range: netip.MustParsePrefix("10.32.0.0/12"), Body: Held{Held: manyLeases(MaxAddresses + 1)}}.Marshal()
	if !errors.Is(err, errTooLarge) {
		t.Errorf("65,537 addresses: %v", err)
	}
}

// A small change must go to everybody in one datagram, with a digest that
// fits when it is not small.
func TestWireCastsAreSmall(t *testing.T) {
	r := netip.MustParsePrefix("10.32.0.0/12")
	one, err := Message{Ring: wireRing, Range: r, Body: State{Runs: []ring.Run{{First: 17, Count: 4, Register: ring.Register{Owner: wireID(1), Giver: wireID(2), Epoch: 3, Version: 99}}}}}.Marshal()
	if err != nil || len(one) > 150 {
		t.Errorf("one run: %d bytes, %v", len(one), err)
	}
	d := Digest{Hash: math.MaxUint64}
	for i := range d.Groups {
		d.Groups[i] = math.MaxUint64
	}
	digest, err := Message{Ring: wireRing, Range: r, Body: d}.Marshal()
	if err != nil || len(digest) > 600 {
		t.Errorf("digest: %d bytes, %v", len(digest), err)
	}
	t.Logf("one run %d bytes, digest %d bytes", len(one), len(digest))
}

// parseCost returns the bytes that parsing b allocates.
func parseCost(b []byte) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := ParseMessage(b)
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(m)
	runtime.KeepAlive(err)
	return after.TotalAlloc - before.TotalAlloc
}

// A megabyte of a stranger costs a bounded number of ours.
func TestWireAllocation(t *testing.T) {
	const limit = 16 << 20
	r := netip.MustParsePrefix("10.32.0.0/12")
	granted := make([]Granted, MaxAddresses)
	leases := manyLeases(MaxAddresses)
	for i := range granted {
		granted[i] = Granted{wireID(byte(i)), leases[i]}
	}
	for name, body := range map[string]Body{
		"leases":  Held{Held: leases},
		"granted": HandOver{Leases: granted},
		"peers":   Nack{Known: manyIDs(MaxPeers)},
	} {
		b, err := Message{Range: r, Body: body}.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if cost := parseCost(b); cost > limit {
			t.Errorf("%s: %d bytes for a message of %d", name, cost, len(b))
		}
	}
	// A list that claims the limit in a large message that is nothing else.
	junk := append(wireBytes(t, "05", "00 03 00 00 ffff03"), bytes.Repeat([]byte{0x80}, MaxMessage/2)...)
	if cost := parseCost(junk); cost > limit {
		t.Errorf("junk costs %d bytes", cost)
	}
}
