package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAloneGivesAtOnce(t *testing.T) {
	b := newBench(t, "10.32.0.0/24", "consensus")
	a := b.cores[0]
	a.start(nil)
	early := a.allocate("k0", "")
	wantText(t, "before the peers are known", a.waiting(early), "list of known hosts")
	b.meet()
	want(t, "first", a.got(early), "10.32.0.1/24")
	// No time passes, nobody is asked.
	second := a.allocate("k1", "")
	want(t, "second", a.answers[second].Addr.String(), "10.32.0.2/24")
	want(t, "the same again", a.got(a.allocate("k1", "")), "10.32.0.2/24")
	want(t, "in a subnet", a.got(a.allocate("k1", "10.32.0.64/26")), "10.32.0.65/26")
	want(t, "in the last subnet", a.got(a.allocate("k2", "10.32.0.252/30")), "10.32.0.253/30")
	want(t, "and the last in it", a.got(a.allocate("k3", "10.32.0.252/30")), "10.32.0.254/30")
	full := a.allocate("k4", "10.32.0.252/30")
	b.run(5 * time.Second)
	wantText(t, "full", a.waiting(full), "all addresses of 10.32.0.252/30 are in use")
	want(t, "state", a.core.status().State, "waiting for IP(s) to become available")
	a.release("k2")
	want(t, "after a release", a.got(full), "10.32.0.253/30")
	want(t, "state", a.core.status().State, "ready")
	for _, s := range []string{"10.33.0.0/24", "10.0.0.0/8"} {
		if err := a.failed(a.allocate("k5", s)); !errors.Is(err, ErrRange) {
			t.Errorf("in %s: %v", s, err)
		}
	}
}

func TestGraceOfTheDead(t *testing.T) {
	b := newBench(t, "10.32.0.0/24", "consensus")
	a := b.cores[0]
	a.start(nil)
	b.meet()
	for i := range 3 {
		a.got(a.allocate(fmt.Sprint("k", i), ""))
	}
	a.step(diedEvent{"k0"})
	a.step(diedEvent{"k1"})
	b.run(29 * time.Second)
	want(t, "comes back", a.got(a.allocate("k1", "")), "10.32.0.2/24") // 8 s later
	want(t, "the dead one's", a.got(a.allocate("k9", "")), "10.32.0.1/24")
	b.run(time.Minute)
	want(t, "k1 lives on", len(a.core.keys["k1"]), 1)

	// A start in which one of them is not there any more, and one has another key.
	a.stop()
	a.start(map[string]Found{
		"k2":  {"box", []netip.Addr{netip.MustParseAddr("10.32.0.3")}},
		"new": {"box", []netip.Addr{netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("10.32.0.77")}},
	})
	b.meet()
	want(t, "still k1's", a.got(a.allocate("x0", "")), "10.32.0.4/24")
	b.run(31 * time.Second)
	want(t, "k1's", a.got(a.allocate("x1", "")), "10.32.0.2/24")
	want(t, "found", a.core.local[netip.MustParseAddr("10.32.0.77")].Key, "new")
	want(t, "renamed", a.core.local[netip.MustParseAddr("10.32.0.1")].Key, "new")
	want(t, "k9 has nothing", len(a.core.keys["k9"]), 0)
}

func TestMove(t *testing.T) {
	b := newBench(t, "10.32.0.0/24", "consensus")
	a := b.cores[0]
	a.start(nil)
	b.meet()
	a.got(a.allocate("old", ""))
	one, other := netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("10.32.0.9")
	a.step(diedEvent{"old"})
	a.begin(func(t ticket) event { return moveEvent{t, "old", "new", "box", []netip.Addr{one, other}} })
	b.run(time.Minute)
	want(t, "holder", a.core.local[one].Key, "new")
	want(t, "of the other", a.core.local[other].Key, "")
}

func TestOtherRangeForgets(t *testing.T) {
	b := newBench(t, "10.32.0.0/24", "consensus")
	a := b.cores[0]
	a.start(nil)
	b.meet()
	a.got(a.allocate("a", ""))
	a.stop()
	a.cfg.Range = netip.MustParsePrefix("10.40.0.0/24")
	a.start(map[string]Found{"b": {"box", []netip.Addr{netip.MustParseAddr("10.40.0.1")}}})
	b.meet()
	wantText(t, "log", strings.Join(a.logs, "\n"), "address space forgotten")
	want(t, "next", a.got(a.allocate("c", "")), "10.40.0.2/24")
	for key := range a.disk {
		if strings.HasPrefix(key, "l/10.32.") {
			t.Errorf("%s is still stored", key)
		}
	}
}

func TestDuplicatesAreListed(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("a", ""))
	b.cut = func(_, _ *wired) bool { return true }
	b.meet()
	mine := netip.MustParsePrefix(h1.got(h1.allocate("b", ""))).Addr()
	// host0 finds a container with that address: its state was lost, say.
	h0.step(adoptEvent{Live: map[string]Found{"a": {"box a", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}, "c": {"box c", []netip.Addr{mine}}}})
	b.run(2 * time.Second)
	b.cut = nil
	b.meet()
	b.run(5 * time.Second)
	for _, w := range b.cores {
		s := w.core.status()
		if len(s.Duplicates) != 1 || s.Duplicates[0].Addr != mine || len(s.Duplicates[0].Holders) != 2 {
			t.Fatalf("host%d: %+v", w.n, s.Duplicates)
		}
		wantText(t, "log", strings.Join(w.logs, "\n"), "address used twice")
	}
	s := h0.core.status()
	if len(s.Pending) != 1 || !s.Pending[0].Claim || s.Pending[0].Why != "container box b of host1" {
		t.Errorf("pending: %+v", s.Pending)
	}
	h1.release("b")
	b.run(40 * time.Second)
	want(t, "duplicates", len(h0.core.status().Duplicates), 0)
	want(t, "pending", len(h0.core.status().Pending), 0)
	wantText(t, "log", strings.Join(h0.logs, "\n"), "no longer used twice")
}

func TestStatus(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	want(t, "state", h0.core.status().State, "idle")
	h0.got(h0.allocate("a", ""))
	h1.got(h1.allocate("b", ""))
	b.run(3 * time.Second)
	s := h0.core.status()
	if len(s.Shares) != 2 || !s.Shares[0].Self || s.Shares[0].IPs != 128 || s.Shares[0].Active != 1 || s.Shares[1].Active != 1 ||
		s.Shares[1].Nickname != "host1" || !s.Shares[1].Reachable || !s.Shares[1].Known || s.Shares[0].Token != netip.MustParseAddr("10.32.0.0") {
		t.Errorf("shares: %+v", s.Shares)
	}
	h1.stop()
	b.meet()
	s = h0.core.status()
	if s.Shares[1].Reachable || s.UnreachablePeers != 1 || s.UnreachableIPs != 128 {
		t.Errorf("%+v", s)
	}
	for i := range 130 {
		h0.allocate(fmt.Sprint("c", i), "")
	}
	b.run(4 * time.Second)
	s = h0.core.status()
	want(t, "state", s.State, "waiting for IP(s) to become available")
	wantText(t, "why", s.Pending[0].Why, "all addresses of 10.32.0.0/24 that are in reach are in use; out of reach: host1; if gone: weft rmpeer host1")
	want(t, "pending", len(s.Pending), 130-126)
	if !slices.IsSortedFunc(s.Pending, func(a, b Pending) int { return cmp.Compare(a.Since.UnixNano(), b.Since.UnixNano()) }) {
		t.Error("pending requests are not in order")
	}
}
