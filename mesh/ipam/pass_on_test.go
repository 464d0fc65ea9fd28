package ipam

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/mesh/ipam/wire"
)

// The grace protects against chance: whoever names the address of a dead
// container gets it at once, and the owner of the block knows it as its.
func TestClaimOfTheDead(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	for _, w := range []*wired{h0, h1} {
		w.got(w.claim("old", "10.32.0.5"))
		w.step(diedEvent{"old"})
		want(t, "by chance", w.got(w.allocate("other", "10.32.0.4/30")), "10.32.0.6/30")
		w.got(w.claim("new", "10.32.0.5"))
		b.run(2 * grace)
		want(t, "holder", w.core.local[netip.MustParseAddr("10.32.0.5")].Key, "new")
		if w == h1 {
			want(t, "at the owner", h0.core.leased[netip.MustParseAddr("10.32.0.5")].Key, "new")
		}
		w.release("new")
		w.release("other")
		b.run(time.Second)
	}
}

// Two hosts use one address; when one of them lets it go, it is not free.
func TestDuplicateIsPassedOn(t *testing.T) {
	addr := netip.MustParseAddr("10.32.0.1")
	for _, owner := range []bool{true, false} { // lets go
		b := newBench(t, "10.32.0.0/24", "", "", "")
		h0, h1, h2 := b.cores[0], b.cores[1], b.cores[2]
		b.startAll()
		want(t, "given", h0.got(h0.allocate("a", "")), "10.32.0.1/24")
		b.run(time.Second)
		h1.step(adoptEvent{Live: map[string]Found{"b": {"box b", []netip.Addr{addr}}}})
		b.run(10 * time.Second)
		want(t, "duplicates", len(h0.core.status().Duplicates), 1)
		if owner {
			h0.release("a")
		} else {
			h1.release("b")
		}
		b.run(50 * time.Millisecond)
		for _, w := range []*wired{h0, h2} {
			err := w.failed(w.claim("c", "10.32.0.1"))
			holder := map[bool]string{true: "b of host1", false: "a of"}[owner]
			wantText(t, "claim", err.Error(), holder)
		}
		b.run(time.Minute)
		want(t, "duplicates", len(h0.core.status().Duplicates), 0)
		if owner {
			want(t, "whose", h0.core.leased[addr].Host, h1.id)
			want(t, "pending", len(h1.core.status().Pending), 0)
			h1.release("b")
			b.run(time.Second)
			h2.got(h2.claim("c", "10.32.0.1")) // and now it is
		}
	}
}

// Entries lag behind: of one that dropped the address they prove nothing.
func TestStaleEntryInheritsNothing(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	addr := netip.MustParseAddr("10.32.0.5")
	h0.got(h0.allocate("a", ""))
	h1.got(h1.claim("b", addr.String()))
	b.run(5 * time.Second) // host1's entry has it
	h1.step(releaseEvent{Key: "b"})
	b.deliver()
	h0.core.lookAt(wire.GroupBase(addr))
	h0.step(claimEvent{Ticket: 901, Key: "c", Addr: addr})
	h0.core.lookAt(wire.GroupBase(addr)) // by the entries two use it
	h0.step(releaseEvent{Key: "c"})
	want(t, "leases", len(h0.core.leased), 0)
}

// A host that left for good has no container any more, whatever its last Held
// said.
func TestLeasesOfTheGone(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("a", ""))
	h1.got(h1.claim("b", "10.32.0.5"))
	b.run(time.Second)
	want(t, "leases", len(h0.core.leased), 1)
	b.cut = func(x, y *wired) bool { return x == h1 || y == h1 } // its hand-over was heard, its last Held was not
	h0.step(messageEvent{h1.id, h1.core.pack(wire.Held{UpTo: h1.core.lastOp()})})
	gone := h0.peersEvent()
	gone.Peers = slices.DeleteFunc(gone.Peers, func(p Peer) bool { return p.ID == h1.id })
	for block := range h0.core.geo.Blocks() {
		if reg := h0.core.ring.Register(block); reg.Owner == h1.id {
			reg.Owner, reg.Version = h0.id, reg.Version+1
			h0.core.setRegister(block, reg)
		}
	}
	h0.step(gone)
	want(t, "leases", len(h0.core.leased), 0)
}

// Nothing is given to a host that is handing over: it would be nobody's.
func TestNothingForWhoLeaves(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/28")
	h0.got(h0.allocate("a", ""))
	b.run(2 * time.Second)
	p := h0.core.peer(h1.id)
	p.info.Leaving = true
	blocks, leases := h0.core.ring.Count(h0.id), len(h0.core.leased)
	h0.step(messageEvent{h1.id, h1.core.pack(wire.Want{Op: h1.core.nextOp(), Subnet: netip.MustParsePrefix("10.32.0.0/28"), Key: "x"})})
	if h0.core.ring.Count(h0.id) != blocks || len(h0.core.leased) != leases {
		t.Error("it was given something")
	}
}

// A reason must be true: an owner that does not answer may have addresses.
func TestReasonNamesTheSilent(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/12")
	h0.got(h0.allocate("a", "10.40.5.0/24"))
	b.run(2 * time.Second)
	b.cut = func(x, y *wired) bool { return true } // and yet membership has not noticed
	tk := h1.allocate("b", "10.32.5.0/24")
	b.run(5 * time.Second)
	wantText(t, "reason", h1.waiting(tk), "host0 does not answer; asked again")
	b.cut = nil
	b.run(10 * time.Second)
	h1.got(tk)
}
