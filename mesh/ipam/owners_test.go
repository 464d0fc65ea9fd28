package ipam

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// chain returns three hosts of which the last, which was just started, does not
// reach the first as long as the result is true; an address of the first one
// is "10.32.0.77".
func chain(t *testing.T) (b *bench, h0, h2 *wired, away *bool) {
	t.Helper()
	b = newBench(t, "10.32.0.0/16", "", "", "")
	h0, h2, away = b.cores[0], b.cores[2], new(bool)
	b.startAll()
	h0.got(h0.allocate("a", ""))
	b.run(2 * time.Second)
	h2.stop()
	b.meet()
	b.run(20 * time.Second)
	*away = true
	b.cut = func(from, to *wired) bool { return *away && (from == h0 && to == h2 || from == h2 && to == h0) }
	h2.start(nil)
	b.meet()
	return b, h0, h2, away
}

// An owner to whom the way is still being found is waited for, and asked as
// soon as it is there.
func TestClaimMeetsOwner(t *testing.T) {
	b, h0, h2, away := chain(t)
	tk := h2.claim("c", "10.32.0.77")
	b.run(2 * time.Second)
	want(t, "reason", h2.waiting(tk), "looking for host0 for up to 15 s: 10.32.0.77 is in its space")
	if s := h2.core.status(); len(s.Pending) != 1 || !s.Pending[0].Claim || s.Pending[0].Why != h2.waiting(tk) {
		t.Errorf("pending: %+v", s.Pending)
	}
	heard := false
	b.spy = func(from, _ *wired, m wire.Message) bool { // what it waits for then is said
		if _, ok := m.Body.(wire.Want); ok && from == h2 {
			want(t, "reason at the owner", h2.waits[tk], "asking host0 for 10.32.0.77")
			heard = true
		}
		return true
	}
	*away = false
	b.meet()
	h2.got(tk)
	want(t, "asked", heard, true)
	want(t, "lent", h0.core.leased[netip.MustParseAddr("10.32.0.77")].Host, h2.id)

	// Now that it was met, its loss is one.
	h0.stop()
	b.meet()
	begun := b.now
	tk = h2.claim("c", "10.32.0.78")
	if r := h2.answers[tk]; !errors.Is(r.Err, ErrUnreachable) {
		t.Errorf("after %v: %+v, waits: %s", b.now.Sub(begun), r, h2.waits[tk])
	}
}

// One that does not come is not waited for longer, whoever asks when.
func TestClaimOwnerNeverMet(t *testing.T) {
	b, _, h2, _ := chain(t)
	begun := b.now
	tk := h2.claim("c", "10.32.0.77")
	b.run(metWithin - time.Second)
	wantText(t, "early", h2.waiting(tk), "looking for host0")
	if strings.Contains(h2.waiting(tk), "rmpeer") {
		t.Errorf("told to remove a host that may be on its way: %s", h2.waiting(tk))
	}
	gave := h2.claim("d", "10.32.0.78")
	h2.step(cancelEvent{gave})
	want(t, "cancelled", h2.answers[gave].Err, errCancelled)
	b.run(2 * time.Second)
	err := h2.answers[tk].Err
	if !errors.Is(err, ErrUnreachable) {
		t.Fatalf("after %v: %v, waits: %s", b.now.Sub(begun), err, h2.waits[tk])
	}
	wantText(t, "late", err.Error(), "10.32.0.77 is in the space of host0, which is out of reach; choose another address, or 'weft rmpeer host0' if it is gone")
	again := h2.claim("c", "10.32.0.77")
	if !errors.Is(h2.answers[again].Err, ErrUnreachable) {
		t.Errorf("again: %+v, waits: %s", h2.answers[again], h2.waits[again])
	}
	want(t, "requests", len(h2.core.requests.list)+len(h2.core.requests.asks), 0)
}

// A host that is heard of later has its time from then; one that the mesh
// forgot has none.
func TestAwaited(t *testing.T) {
	const never = "never"
	until := func(c *core, owner crypto.Identity, at time.Time) string {
		if u := c.awaited(owner); !u.IsZero() {
			return u.Sub(at).String()
		}
		return never
	}
	b, h0, h1 := pair(t, "10.32.0.0/16")
	c := h0.core
	start := b.now
	late, unlisted, other := crypto.Identity{9}, crypto.Identity{8}, crypto.Identity{7}
	h0.got(h0.allocate("a", ""))
	want(t, "a mate", until(c, h1.id, start), never)
	want(t, "nobody", until(c, other, start), never)

	// It is listed for the first time a minute after the start, and owns
	// blocks, too.
	b.run(time.Minute)
	heard := b.now
	e := h0.peersEvent()
	e.Peers = append(e.Peers, Peer{ID: late, Name: late.Name()})
	h0.step(e)
	give := func(to crypto.Identity) (block int) {
		owned := c.ring.Owned(h0.id)
		for block = range owned.All() {
			break
		}
		c.now = b.now
		c.giveBlock(block, to)
		h0.step(tickEvent{})
		return block
	}
	give(late)
	block := give(unlisted)
	want(t, "just listed", until(c, late, heard), metWithin.String())
	want(t, "only named", until(c, unlisted, heard), metWithin.String())
	b.run(5 * time.Second)
	give(unlisted)
	h0.step(e) // said again
	want(t, "still listed", until(c, late, heard), metWithin.String())
	want(t, "named again", until(c, unlisted, heard), metWithin.String())

	// Without blocks it is forgotten.
	for b := range c.geo.Blocks() {
		if reg := c.ring.Register(b); reg.Owner == unlisted {
			reg.Owner, reg.Giver, reg.Version = h1.id, unlisted, reg.Version+1
			c.setRegister(b, reg)
		}
	}
	h0.step(tickEvent{})
	want(t, "owner of the block", c.ring.Owner(block), h1.id)
	want(t, "without blocks", until(c, unlisted, heard), never)

	// It leaves for good: the mesh does not list it any more.
	h0.step(h0.peersEvent())
	want(t, "left", until(c, late, heard), never)

	// At the next start it is as new as everybody else who is away.
	h0.stop()
	b.run(time.Minute)
	h0.start(nil)
	want(t, "after a start", until(h0.core, h1.id, b.now), metWithin.String())
	want(t, "after a start, unlisted", until(h0.core, late, b.now), metWithin.String())
}

// A seed of whom only the name is known is waited for, too.
func TestClaimSeedNeverMet(t *testing.T) {
	b := newBench(t, "10.32.0.0/16", "seed=02:00:00:00:00:01,02:00:00:00:00:02")
	h0 := b.cores[0]
	h0.start(nil)
	b.meet()
	b.run(meetGrace + time.Second)
	tk := h0.claim("c", "10.32.0.77")
	b.run(time.Second)
	wantText(t, "early", h0.waiting(tk), "looking for 02:00:00:00:00:0")
	b.run(metWithin)
	if !errors.Is(h0.answers[tk].Err, ErrUnreachable) {
		t.Errorf("got %+v, waits: %s", h0.answers[tk], h0.waits[tk])
	}
}

// Nobody is told to remove hosts that may just not have been met.
func TestAllocateOwnerNeverMet(t *testing.T) {
	b, _, h2, _ := chain(t)
	const subnet = "10.32.0.64/28" // of one block, which host0 has
	tk := h2.allocate("c", subnet)
	b.run(5 * time.Second)
	want(t, "early", h2.waiting(tk), "all addresses of 10.32.0.64/28 that are in reach are in use; out of reach: host0")
	b.run(metWithin)
	want(t, "late", h2.waiting(tk), "all addresses of 10.32.0.64/28 that are in reach are in use; out of reach: host0; if gone: weft rmpeer host0")
}
