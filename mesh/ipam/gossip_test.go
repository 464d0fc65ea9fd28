package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// hashes reports whether all cores have the same registers.
func (b *bench) agreed() bool {
	for _, w := range b.cores {
		if w.core.ring == nil || w.core.ring.Hash() != b.cores[0].core.ring.Hash() {
			return false
		}
	}
	return true
}

func TestNewsSpreads(t *testing.T) {
	b := newBench(t, "10.32.0.0/22", "consensus", "consensus", "consensus", "consensus", "consensus")
	b.startAll()
	h0, h1 := b.cores[0], b.cores[1]
	h0.got(h0.allocate("a", ""))
	want(t, "after the division", b.agreed(), true)

	// One block: a broadcast says it all.
	for len(h1.core.keys) == 0 || h1.core.ring.Count(h1.id) == 205 {
		h1.got(h1.allocate(fmt.Sprint("b", len(h1.core.keys)), ""))
	}
	want(t, "after a donation", b.agreed(), true)

	// Everything in pieces: a broadcast only points to it.
	owned := h0.core.ring.Owned(h0.id)
	for block := range owned.All() {
		if h0.core.used.UsedIn(block) == 0 {
			h0.core.giveBlock(block, b.cores[1+block%4].id)
		}
	}
	asked := 0
	b.spy = func(_, to *wired, m wire.Message) bool {
		if st, ok := m.Body.(wire.State); ok && to == h0 && st.Wanted != 0 {
			asked++
		}
		return true
	}
	h0.step(tickEvent{})
	b.deliver()
	want(t, "after many", b.agreed(), true)
	if asked == 0 {
		t.Error("nobody asked")
	}

	// All broadcasts are lost.
	b.spy = func(_, _ *wired, m wire.Message) bool {
		st, ok := m.Body.(wire.State)
		return !ok || st.Re != 0
	}
	owned = h1.core.ring.Owned(h1.id)
	for block := range owned.All() {
		if h1.core.used.UsedIn(block) == 0 {
			h1.core.giveBlock(block, h0.id)
			break
		}
	}
	h1.step(tickEvent{})
	want(t, "at first", b.agreed(), false)
	b.run(2 * time.Minute)
	want(t, "after a while", b.agreed(), true)
}

func TestStrangeMessages(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("a", ""))
	before := maps.Clone(h0.disk)
	h0.step(messageEvent{h1.id, []byte{wire.MessageByte, 1, 2}})
	h0.step(messageEvent{h1.id, []byte{wire.MessageByte}})
	want(t, "lines", strings.Count(strings.Join(h0.logs, "\n"), "not understood"), 1)

	// Somebody whom the mesh does not know.
	h0.step(messageEvent{crypto.Identity{77}, h1.core.pack(wire.Want{Op: 99, Subnet: b.space, Key: "k"})})
	want(t, "known", h0.core.peers[crypto.Identity{77}] == nil, true)

	// Another range.
	other, err := newCore(coreConfig{Self: h1.id, Name: h1.id.Name(), Range: netip.MustParsePrefix("10.99.0.0/24")}, nil, true, b.now)
	if err != nil {
		t.Fatal(err)
	}
	h0.step(messageEvent{h1.id, other.pack(wire.Want{Op: 1 << 60, Subnet: netip.MustParsePrefix("10.99.0.0/24"), Key: "k"})})
	wantText(t, "log", strings.Join(h0.logs, "\n"), "another address range")
	want(t, "stored", len(h0.disk), len(before))
	wantText(t, "warning", strings.Join(h0.core.status().Warnings, "\n"), "host1 has the address range 10.99.0.0/24")
	h0.step(messageEvent{h1.id, h1.core.pack(wire.Held{UpTo: h1.core.nextOp()})})
	want(t, "warnings", len(h0.core.status().Warnings), 0)
}

// Peers that the mesh does not know any more are forgotten, unless they have
// space.
func TestUnlisted(t *testing.T) {
	_, h0, h1 := pair(t, "10.32.0.0/24")
	h0.step(peersEvent{})
	want(t, "peers", len(h0.core.peers), 0)
	h0.step(h0.peersEvent())
	h0.b.run(time.Second)
	h0.got(h0.allocate("a", ""))
	h0.step(peersEvent{})
	want(t, "owners", h0.core.peers[h1.id] != nil, true)
	want(t, "alive", h0.core.alive(h1.id), false)
	s := h0.core.status()
	if len(s.Shares) != 2 || s.Shares[1].Known || s.Shares[1].Reachable {
		t.Errorf("%+v", s.Shares)
	}
}

func TestReminder(t *testing.T) {
	b := newBench(t, "10.32.0.0/24", "consensus", "consensus")
	for _, w := range b.cores {
		w.cfg.ReclaimAfter = time.Hour
	}
	b.startAll()
	h0, h1 := b.cores[0], b.cores[1]
	h0.got(h0.allocate("a", ""))
	h1.stop()
	b.meet()
	b.run(59 * time.Minute)
	want(t, "warnings", len(h0.core.status().Warnings), 0)
	b.run(2 * time.Minute)
	wantText(t, "warnings", strings.Join(h0.core.status().Warnings, "\n"), "if it is gone: weft rmpeer host1")
	wantText(t, "log", strings.Join(h0.logs, "\n"), "out of reach for long")
	h1.start(nil)
	b.meet()
	want(t, "warnings", len(h0.core.status().Warnings), 0)
}

// What others attached is remembered over their death and our restart.
func TestKnownAttachments(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h1.got(h1.allocate("a", ""))
	b.run(15 * time.Second)
	h1.stop()
	h0.stop()
	h0.start(nil)
	b.meet()
	list := h0.core.attachedOf([]crypto.Identity{h1.id})
	if len(list) != 1 || list[0].Label != "box a" || list[0].Addr != netip.MustParseAddr("10.32.0.128") {
		t.Errorf("%+v", list)
	}
	h1.start(nil) // without its container
	b.meet()
	b.run(time.Minute)
	if list = h0.core.attachedOf([]crypto.Identity{h1.id}); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	for key := range h0.disk {
		if strings.HasPrefix(key, "k/") {
			t.Errorf("%s is still stored", key)
		}
	}
}

// A value that nobody understands is dropped, and the rest is not believed
// without asking.
func TestStoredNonsense(t *testing.T) {
	b, h0, _ := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("a", ""))
	h0.stop()
	h0.disk["l/10.32.0.77"] = []byte{0xff}
	h0.disk["nonsense"] = nil
	h0.start(nil)
	want(t, "unproven", h0.core.sureness.unproven, true)
	wantText(t, "log", strings.Join(h0.logs, "\n"), "values not understood were dropped")
	_, kept := h0.disk["nonsense"]
	want(t, "kept", kept, false)
	b.meet()
	b.run(5 * time.Second)
	want(t, "unproven", h0.core.sureness.unproven, false)

	// A ring with a hole is not one.
	h0.stop()
	delete(h0.disk, "b/0003")
	h0.start(nil)
	want(t, "ring", h0.core.ring == nil, true)
	b.meet()
	b.run(5 * time.Second)
	want(t, "agreed", b.agreed(), true)
}
