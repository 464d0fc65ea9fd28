package ipam

import (
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/mesh/ipam/wire"
)

// reboot stops hosts and starts them without a mark, as a power cut does.
func reboot(b *bench, hosts ...*wired) {
	for _, w := range hosts {
		w.stop()
	}
	for _, w := range hosts {
		w.proven, w.cfg.Patience = false, patience
		w.start(nil)
	}
	b.meet()
}

// After a power cut with one host dead the others give addresses, and say what
// they risk; a host that is only late is not taken for dead.
func TestPowerCutWithOneDead(t *testing.T) {
	b := newBench(t, "10.32.0.0/16", "", "", "")
	h0, h1, h2 := b.cores[0], b.cores[1], b.cores[2]
	b.startAll()
	h0.got(h0.allocate("a", ""))
	b.run(2 * time.Second)
	h2.stop()
	reboot(b, h0, h1)
	tk := h0.allocate("b", "")
	b.run(10 * time.Second)
	wantText(t, "early", h0.waiting(tk), "looking for host2 for up to 30 s")
	if strings.Contains(h0.waiting(tk), "rmpeer") {
		t.Errorf("told to remove a host that may be on its way: %s", h0.waiting(tk))
	}
	b.run(25 * time.Second)
	h0.got(tk)
	want(t, "still unproven", h0.core.sureness.unproven, true)
	wantText(t, "log", strings.Join(h0.logs, "\n"), "addresses are given at risk")
	wantText(t, "warning", strings.Join(h0.core.warnings(), "\n"), "host2 (out of reach) could not say")

	// The dead one comes back, and with it certainty.
	h2.start(nil)
	b.meet()
	b.run(3 * time.Second)
	want(t, "unproven", h0.core.sureness.unproven, false)
	want(t, "bold", h0.core.sureness.bold, false)
}

// A host that is alive and never answers does not stop the others.
func TestMuteHost(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	h0.got(h0.allocate("a", ""))
	b.run(2 * time.Second)
	h0.stop()
	h0.cfg.Patience = patience
	h0.start(nil)
	deaf := true
	b.spy = func(from, _ *wired, _ wire.Message) bool { return !deaf || from != h1 }
	b.meet()
	tk := h0.allocate("b", "")
	b.run(5 * time.Second)
	wantText(t, "reason", h0.waiting(tk), "comparing addresses with host1")
	b.run(8 * time.Second)
	wantText(t, "reason", h0.waiting(tk), "host1 in reach, but not answering")
	b.run(10 * time.Second)
	h0.got(tk)

	deaf = false
	b.run(15 * time.Second)
	want(t, "alone", h0.core.sureness.alone, false)
	want(t, "must meet", h0.core.sureness.mustMeet, false)
}

// Who owns blocks belongs to "everybody", however silent it is.
func TestMuteOwnerCounts(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	h0.got(h0.allocate("a", ""))
	b.run(2 * time.Second)
	h0.stop()
	h0.proven, h0.cfg.Patience = false, 0
	h0.start(nil)
	b.spy = func(from, _ *wired, _ wire.Message) bool { return from != h1 }
	clear(h1.entries) // its disk has been full since its start: it says nothing at all
	b.meet()
	b.run(time.Minute)
	want(t, "unproven", h0.core.sureness.unproven, true)
}
