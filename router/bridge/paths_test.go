package bridge

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/kernel"
)

// narrow makes A's way to B as narrow as the device would: packets of so many
// bytes pass inside the tunnel.
func (l *lab) narrow(told int) {
	l.t.Helper()
	h := l.a
	h.cfg.Told = told
	ok(l.t, h.bridge.Set(l.t.Context(), h.cfg))
	for i, way := range []struct {
		mark uint32
		mtu  int
	}{{WholeMark, 1440}, {FrameMark, told}} {
		table, dst := 6786-i, netip.PrefixFrom(l.b.cfg.Overlay, 128)
		ok(l.t, h.ReplaceRoute(kernel.Route{Dst: dst, Link: "weft-wg", Table: table, MTU: way.mtu}))
		if l.run(h, fmt.Sprintf("ip -6 rule show pref %d", 781-i)) == "" {
			ok(l.t, h.AddRule(kernel.Rule{Priority: 781 - i, Mark: way.mark, Mask: FrameMask, Table: table, SuppressPrefix: -1, IPv6: true}))
		}
	}
	ok(l.t, h.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(l.b.cfg.Overlay, 128), Link: "weft-wg", MTU: max(1280, told)}))
	_, _ = shell(h.container, "ip route flush cache; ip -6 route flush cache")
}

// ping returns what ping in A's container says, which waits long for an answer
// that is expected.
func (l *lab) ping(args string, expected bool) string {
	l.t.Helper()
	wait := map[bool]string{true: "20", false: "1"}[expected]
	out, _ := shell(l.a.container, "ping -c 1 -W "+wait+" "+args)
	return out
}

const answered = " 1 received"

// Who can be told that a packet is too big is told, and everything else passes.
func TestTold(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil, nil)
	ok(t, l.a.container.AddAddr("weft0", netip.MustParsePrefix("fd00:77::1/64"), true))
	ok(t, l.b.container.AddAddr("weft0", netip.MustParsePrefix("fd00:77::2/64"), true))
	v4, v6 := containerIP(2).String(), "fd00:77::2"
	l.ping(v4, true) // resolves
	for _, tc := range []struct {
		inner        int // what passes whole
		told4, told6 bool
	}{{1369, true, true}, {1280, true, true}, {1278, true, false}, {858, true, false}, {576, true, false}} {
		l.narrow(tc.inner + 70)
		check := func(what, args, want string) {
			t.Helper()
			if out := l.ping(args, true); !strings.Contains(out, want) {
				t.Errorf("%d bytes pass whole: %s: want %q:\n%s", tc.inner, what, want, out)
			}
		}
		check("large, may be cut", "-M dont -s 10000 "+v4, answered)
		check("full, may be cut", fmt.Sprintf("-M dont -s %d %s", 1370-28, v4), answered)
		check("as large as passes whole", fmt.Sprintf("-M do -s %d %s", tc.inner-28, v4), answered)
		check("one byte more", fmt.Sprintf("-M do -s %d %s", tc.inner-27, v4), fmt.Sprintf("Frag needed and DF set (mtu = %d)", tc.inner))
		if tc.told6 {
			check("IPv6, one byte more", fmt.Sprintf("-M do -s %d %s", tc.inner-47, v6), fmt.Sprintf("Packet too big: mtu=%d", tc.inner))
			check("IPv6, told already", "-s 10000 "+v6, answered)
		} else {
			check("IPv6, cannot be told", fmt.Sprintf("-s %d %s", 1370-48, v6), answered)
		}
		check("told already", "-s 10000 "+v4, answered)
	}
	if out := l.run(l.a, "ip -6 route get "+l.b.cfg.Overlay.String()); strings.Contains(out, "expires") {
		t.Errorf("the host believes itself that its own packets were too large:\n%s", out)
	}
	out := l.run(l.a, "nft list table inet weft-paths")
	ok(t, l.a.bridge.Set(t.Context(), testConfig(1)))
	if left, err := shell(l.a, "nft list table inet weft-paths"); err == nil {
		t.Errorf("no path is narrow, and there is still\n%s", left)
	}
	if !strings.Contains(out, "weft-whole") {
		t.Errorf("this table cannot have worked:\n%s", out)
	}
}

// Without the rule, what cannot be told is lost.
func TestUntoldIsLost(t *testing.T) {
	t.Parallel()
	l := newLab(t, []string{"too-big-whole"}, nil)
	l.ping(containerIP(2).String(), true)
	l.narrow(1280)
	if out := l.ping("-M dont -s 10000 "+containerIP(2).String(), false); strings.Contains(out, answered) {
		t.Errorf("it passes all the same: the rule does nothing\n%s", out)
	}
}

// Nobody makes the way to a peer narrower by saying so.
func TestForgedOverlayMTU(t *testing.T) {
	t.Parallel()
	for _, omit := range [][]string{nil, {"forged-overlay-mtu"}} {
		l := newLab(t, nil, omit)
		l.listen(l.b.Kernel, 6786)
		peer := l.a.cfg.Overlay
		l.forge(forgery{ipv6: true, embedded: func(_, dst netip.Addr) []byte {
			return udp6(6786)(l.b.cfg.Overlay, dst)
		}}, peer)
		if believed := l.learnt(peer, omit != nil); believed != (omit != nil) {
			t.Errorf("without %q: believed %t", omit, believed)
		}
	}
}

// A packet that gets another route on its way out does not leave the tunnel.
func TestLateLeak(t *testing.T) {
	t.Parallel()
	for _, omit := range [][]string{nil, {"overlay-leak-late"}} {
		l := newLab(t, omit, nil)
		l.run(l.a, `nft -f - <<E
table ip6 elsewhere {
	chain out {
		type route hook output priority mangle
		udp dport 6785 meta mark set 0x99
	}
}
E
ip -6 rule add pref 100 fwmark 0x99 lookup 99
ip -6 route add default via 2001:db8::9 dev eth0 table 99`)
		s := l.sniff(l.stranger, "lan")
		secret := []byte("between containers only")
		frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 7, 7, 7, 0x88, 0xb5}, secret...)
		l.inject(l.a.container, "weft0", append(frame, make([]byte, 64)...))
		if leaked := s.saw(secret, omit != nil); leaked != (omit != nil) {
			t.Errorf("without %q: leaked %t", omit, leaked)
		}
	}
}

// What is cut is counted for each way, through all changes of the rules.
func TestFragmented(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil, nil)
	a, b := to(strangerIP, 6784), to(netip.MustParseAddr("2001:db8::9"), 6784)
	c := l.a.cfg
	count := func(want map[netip.AddrPort]uint64) {
		t.Helper()
		got, err := l.a.bridge.countFragmented(t.Context())
		ok(t, err)
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
	set := func(cuts map[netip.AddrPort]int) {
		t.Helper()
		c.Cuts = cuts
		ok(t, l.a.bridge.Set(t.Context(), c))
	}
	send := func(to netip.AddrPort, first byte, size int) {
		from := netip.AddrPortFrom(netip.IPv4Unspecified(), 6784)
		if to.Addr().Is6() {
			from = netip.AddrPortFrom(netip.IPv6Unspecified(), 6784)
		}
		l.send(l.a.Kernel, from, to, append([]byte{first}, make([]byte, size-1)...))
	}
	count(nil)
	set(map[netip.AddrPort]int{a: 1000, b: 1300})
	count(map[netip.AddrPort]uint64{a: 0, b: 0})
	send(a, 4, 1000-28)              // fits
	send(a, 4, 1001-28)              // does not
	send(a, 4, 1400)                 // nor this
	send(a, 0x57, 1400)              // a signal
	send(to(strangerIP, 1), 4, 1400) // elsewhere
	send(b, 4, 1300-48)
	send(b, 4, 1301-48)
	count(map[netip.AddrPort]uint64{a: 2, b: 1})
	repaired, err := l.a.bridge.Check(t.Context())
	ok(t, err)
	if len(repaired) > 0 {
		t.Errorf("what was counted is taken for damage: %q", repaired)
	}
	set(map[netip.AddrPort]int{a: 1200, b: 1300})
	send(a, 4, 1100)
	send(a, 4, 1300)
	count(map[netip.AddrPort]uint64{a: 3, b: 1})
	// Somebody takes the rules away.
	l.run(l.a, "nft delete table inet weft-paths")
	repaired, err = l.a.bridge.CheckAfter(t.Context(), kernel.FirewallChanged)
	ok(t, err)
	if d := cmp.Diff([]string{"nftables rules of weft were changed or gone"}, repaired); d != "" {
		t.Error(d)
	}
	send(a, 4, 1300)
	count(map[netip.AddrPort]uint64{a: 4, b: 1})
	set(map[netip.AddrPort]int{b: 1300})
	count(map[netip.AddrPort]uint64{b: 1})
	set(nil)
	count(nil)
	// Quiet addresses do not depend on it.
	from := to(netip.MustParseAddr("192.0.2.2"), 6784)
	ok(t, quieten(t, l.a.bridge, from, time.Minute))
	set(map[netip.AddrPort]int{a: 1000})
	if out := l.run(l.a, "nft list set inet weft "+quietIPv4); !strings.Contains(out, "192.0.2.2 . 6784") {
		t.Errorf("the quiet address is gone:\n%s", out)
	}
}

func FuzzReadCounters(f *testing.F) {
	f.Add([]byte(`{"nftables": [{"metainfo": {}}, {"rule": {"comment": "192.0.2.1:6784", "expr": [{"counter": {"packets": 3, "bytes": 9}}]}}]}`))
	f.Add([]byte(`{"nftables": [{"rule": {"comment": "[2001:db8::1]:6784", "expr": [{"drop": null}]}}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, list []byte) {
		n, err := readCounters(list)
		if err == nil && len(n) > len(list) {
			t.Errorf("%d counters in %d bytes", len(n), len(list))
		}
	})
}
