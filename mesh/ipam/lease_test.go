package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/mesh/ipam/wire"
)

func TestBlocksAndLeases(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/28") // 16 blocks of one address
	want(t, "first", h0.got(h0.allocate("a", "")), "10.32.0.1/28")
	want(t, "shares", h1.core.ring.Count(h1.id), 8)
	for i := range 13 {
		h0.got(h0.allocate(fmt.Sprint("b", i), ""))
	}
	full := h0.allocate("more", "")
	b.run(4 * time.Second)
	want(t, "reason", h0.waiting(full), "all addresses of 10.32.0.0/28 are in use")
	h0.release("b12")
	h0.got(full)
	for _, w := range b.cores {
		want(t, "hash", w.core.ring.Hash(), h0.core.ring.Hash())
	}
	// In a range with blocks of many addresses one is lent.
	b, h0, h1 = pair(t, "10.32.0.0/16") // blocks of 16
	subnet := "10.32.0.0/28"
	want(t, "own", h0.got(h0.allocate("a", subnet)), "10.32.0.1/28")
	leased := h1.got(h1.allocate("b", subnet))
	want(t, "lent", leased, "10.32.0.2/28")
	want(t, "at the owner", h0.core.leased[netip.MustParseAddr("10.32.0.2")].Host, h1.id)
	want(t, "next", h0.got(h0.allocate("c", subnet)), "10.32.0.3/28")
	h1.release("b")
	b.run(time.Second)
	want(t, "after the release", h0.got(h0.allocate("d", subnet)), "10.32.0.2/28")
}

func TestClaims(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	h0.got(h0.allocate("a", ""))
	want(t, "outside", h0.got(h0.claim("x", "192.168.1.1")), "")
	h0.got(h0.claim("x", "10.32.0.77"))
	h0.got(h0.claim("x", "10.32.0.77")) // again
	err := h0.failed(h0.claim("y", "10.32.0.77"))
	wantText(t, "here", err.Error(), "address 10.32.0.77 is held by container box x of this host")
	err = h1.failed(h1.claim("y", "10.32.0.77"))
	wantText(t, "there", err.Error(), "address 10.32.0.77 is held by container box x of host0")
	if !errors.Is(err, ErrConflict) {
		t.Errorf("%v is no ErrConflict", err)
	}
	h1.got(h1.claim("y", "10.32.0.78"))
	err = h0.failed(h0.claim("x", "10.32.0.78"))
	wantText(t, "lent", err.Error(), "box y of host1")

	// The owner is out of reach.
	b.cut = func(_, _ *wired) bool { return true }
	b.meet()
	err = h1.failed(h1.claim("z", "10.32.0.79"))
	wantText(t, "cut", err.Error(), "10.32.0.79 is in the space of host0, which is out of reach; choose another address, or 'weft rmpeer host0' if it is gone")
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v is no ErrUnreachable", err)
	}
	h1.got(h1.claim("z", "10.32.200.1")) // our own half
	h1.release("y")
	b.cut = nil
	b.meet()
	b.run(30 * time.Second) // the owner hears of the release
	h0.got(h0.claim("x", "10.32.0.78"))
}

func TestCancelLeavesNothing(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	subnet := "10.32.0.0/28"
	h0.got(h0.allocate("a", subnet))
	gives := 0
	b.spy = func(_, _ *wired, m wire.Message) bool {
		g, ok := m.Body.(wire.Give)
		if ok && g.Addr.IsValid() {
			gives++
		}
		return !ok // the answer is lost
	}
	waits := h1.allocate("b", subnet)
	claims := h1.claim("b", "10.32.0.9")
	b.run(2500 * time.Millisecond)
	if gives < 2 {
		t.Fatalf("the address was lent %d times", gives)
	}
	for _, c := range []ticket{waits, claims} {
		h1.step(cancelEvent{c})
		want(t, "cancelled", h1.answers[c].Err, errCancelled)
	}
	want(t, "still lent", len(h0.core.leased) > 0, true)
	b.spy = nil
	b.run(45 * time.Second)
	want(t, "lent after a while", len(h0.core.leased), 0)
	want(t, "held", len(h1.core.local), 0)
	want(t, "requests", len(h1.core.requests.list)+len(h1.core.requests.asks)+len(h1.core.requests.searches), 0)
}

// A lease that arrives when nobody waits any more goes back at once.
func TestLateGive(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	subnet := "10.32.0.0/28"
	h0.got(h0.allocate("a", subnet))
	var late []wire.Message
	b.spy = func(_, _ *wired, m wire.Message) bool {
		if g, ok := m.Body.(wire.Give); ok && g.Addr.IsValid() {
			late = append(late, m)
			return false
		}
		return true
	}
	waits := h1.allocate("b", subnet)
	b.run(500 * time.Millisecond)
	h1.step(cancelEvent{waits})
	b.spy = nil
	for _, m := range late {
		data, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		h1.step(messageEvent{h0.id, data})
	}
	b.deliver()
	want(t, "lent", len(h0.core.leased), 0)
}

// A Want that is doubled or comes late brings nothing twice.
func TestDoubledWants(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	h0.got(h0.allocate("a", "10.32.0.0/28"))
	h0.core.step(b.now, messageEvent{h1.id, h1.core.pack(wire.Want{Op: h1.core.nextOp(), Subnet: netip.MustParsePrefix("10.32.0.0/17"), Key: "k", Label: "l"})})
	out := h0.core.take()
	had := h0.core.ring.Count(h0.id)
	h0.carryOut(out)
	data := h1.core.pack(wire.Want{Op: h1.core.lastOp(), Subnet: netip.MustParsePrefix("10.32.0.0/17"), Key: "k", Label: "l"})
	h0.step(messageEvent{h1.id, data})
	want(t, "blocks", h0.core.ring.Count(h0.id), had)
	b.run(time.Second)
	want(t, "at the other", h1.core.ring.Count(h0.id), had)
}
