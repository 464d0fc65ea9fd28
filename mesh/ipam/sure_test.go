package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

func TestOutOfContactComparesFirst(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("a", ""))
	b.cut = func(_, _ *wired) bool { return true }
	b.meet()
	// Alone: goes on at once.
	want(t, "alone", h1.answers[h1.allocate("b", "")].Addr.IsValid(), true)
	b.cut = nil
	b.spy = func(_, _ *wired, m wire.Message) bool { _, ok := m.Body.(wire.State); return !ok }
	b.meet()
	waits := h1.allocate("c", "")
	b.run(3 * time.Second)
	wantText(t, "reason", h1.waiting(waits), "comparing addresses with host0")
	b.spy = nil
	b.run(2 * time.Second)
	h1.got(waits)
}

func TestStartAlone(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("a", ""))
	h0.stop()
	h1.stop()
	h0.start(map[string]Found{"a": {"box", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}})
	b.meet()
	waits := h0.allocate("b", "")
	wantText(t, "reason", h0.waiting(waits), "looking for other hosts")
	b.run(9 * time.Second)
	h0.waiting(waits)
	b.run(2 * time.Second)
	h0.got(waits)
	want(t, "twice", h0.core.boot, 2)
}

// A host whose disk is an old copy gives nothing of its own before everybody
// said what it gave away, but it gets an address from those in reach.
func TestOldDisk(t *testing.T) {
	b := newBench(t, "10.32.0.0/22", "consensus", "consensus", "consensus")
	b.startAll()
	h0, h1, h2 := b.cores[0], b.cores[1], b.cores[2]
	h0.got(h0.allocate("a", ""))
	old := maps.Clone(h0.disk)
	// It gives space to host1, which host2 does not hear of.
	b.cut = func(x, y *wired) bool { return x == h2 || y == h2 }
	b.meet()
	for i := 0; h1.core.ring.Count(h0.id) == h2.core.ring.Count(h0.id); i++ {
		h1.got(h1.allocate(fmt.Sprint("b", i), "10.32.0.0/23"))
	}
	h0.stop()
	h0.disk, h0.proven = old, false
	b.cut = func(x, y *wired) bool { return x == h1 || y == h1 }
	h0.start(map[string]Found{"a": {"box", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}})
	b.meet()
	b.run(time.Second)
	first := h0.got(h0.allocate("x", ""))
	fresh := h0.core.sureness.fresh
	block, _ := h0.core.geo.Block(netip.MustParsePrefix(first).Addr())
	want(t, "in a new block", fresh.Has(block), true)
	want(t, "still unproven", h0.core.sureness.unproven, true)
	waits := h0.claim("y", "10.32.0.3")
	b.run(5 * time.Second)
	wantText(t, "reason", h0.waiting(waits), "host1 (out of reach) must first say what this host gave away before it was restarted; if gone: weft rmpeer host1")

	// It does not forget this by another start.
	h0.stop()
	h0.start(map[string]Found{"a": {"box", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}})
	b.meet()
	b.run(time.Second)
	want(t, "unproven after a start", h0.core.sureness.unproven, true)
	b.cut = nil
	b.meet()
	b.run(5 * time.Second)
	want(t, "proven", h0.core.sureness.unproven, false)
	want(t, "ring", h0.core.ring.Hash(), h1.core.ring.Hash())
	if seen := h1.core.peers[h0.id].lastOp; h0.core.lastOp() < seen {
		t.Errorf("op %x, and %x was used before", h0.core.lastOp(), seen)
	}
}

func TestLostDatabase(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	subnet := "10.32.0.0/28"
	h0.got(h0.allocate("a", subnet))
	h1.got(h1.allocate("b", subnet)) // lent by host0
	h0.stop()
	h0.disk, h0.proven = make(map[string][]byte), false
	h0.start(map[string]Found{"a": {"box a", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}})
	b.meet()
	b.run(3 * time.Second)
	want(t, "ring", h0.core.ring.ID(), h1.core.ring.ID())
	want(t, "next", h0.got(h0.allocate("c", subnet)), "10.32.0.3/28")
	err := h1.failed(h1.claim("x", "10.32.0.1"))
	wantText(t, "found", err.Error(), "box a of host0")

	// And the one that has something lent.
	h1.stop()
	h1.disk, h1.proven = make(map[string][]byte), false
	h1.start(map[string]Found{"b": {"box b", []netip.Addr{netip.MustParseAddr("10.32.0.2")}}})
	b.meet()
	b.run(3 * time.Second)
	want(t, "confirmed", len(h1.core.holders.claims), 0)
	err = h0.failed(h0.claim("x", "10.32.0.2"))
	wantText(t, "lent", err.Error(), "box b of host1")
}

// What only an old copy of the database says is not given again to whom it
// once belonged, unless it turns out that it still could be.
func TestOldDiskDoubts(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("kept", ""))
	h0.got(h0.allocate("gone", ""))
	old := maps.Clone(h0.disk)
	h0.release("gone")
	h1.got(h1.claim("new", "10.32.0.2")) // lent by host0
	restart := func() {
		h0.stop()
		h0.disk, h0.proven = maps.Clone(old), false
		h0.start(nil)
	}
	b.cut = func(_, _ *wired) bool { return true }
	restart()
	b.meet()
	waits := h0.allocate("kept", "")
	claims := h0.claim("gone", "10.32.0.2")
	b.run(time.Second)
	wantText(t, "reason", h0.waiting(waits), "looking for other hosts")
	wantText(t, "reason", h0.waiting(claims), "looking for other hosts")
	b.cut = nil
	b.meet()
	b.run(3 * time.Second)
	want(t, "the one that is free", h0.got(waits), "10.32.0.1/24")
	wantText(t, "the other", h0.failed(claims).Error(), "box new of host1")
	b.run(time.Minute)
	want(t, "local", len(h0.core.local), 1)
	want(t, "lent", h0.core.leased[netip.MustParseAddr("10.32.0.2")].Host, h1.id)

	// Nobody is asked for it when nobody else exists.
	b = newBench(t, "10.32.0.0/24", "consensus")
	a := b.cores[0]
	a.start(nil)
	b.meet()
	a.got(a.allocate("x", ""))
	a.got(a.allocate("y", ""))
	a.stop()
	a.proven = false
	a.start(nil)
	b.meet()
	want(t, "after a reboot", a.got(a.allocate("y", "")), "10.32.0.2/24")
}

// A takeover of our space that is going on makes us ask everybody.
func TestFenceAgainstUs(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("a", ""))
	b.cut = func(_, _ *wired) bool { return true }
	b.meet()
	stranger := crypto.Identity{99}
	h1.core.putFence(wire.Fence{Target: h0.id, Initiator: stranger, Epoch: 8})
	b.cut = nil
	b.meet()
	b.run(2 * time.Second)
	want(t, "unproven", h0.core.sureness.unproven, true)
	waits := h0.allocate("b", "")
	b.run(4 * time.Second)
	wantText(t, "reason", h0.waiting(waits), "is taking over the space of this host")
	h1.core.dropFence(wire.Fence{Target: h0.id, Initiator: stranger})
	b.run(2 * time.Second)
	h0.got(waits)
}
