package wireguard

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// uplink gives an imagined host a way out by both protocols.
func uplink(t *testing.T, links *kerneltest.Fake) {
	t.Helper()
	must(t, links.AddBridge("eth0", kernel.MAC{}, 1500))
	must(t, links.SetUp("eth0", true))
	for _, a := range []string{"198.51.100.1/24", "2001:db8:9::1/64"} {
		must(t, links.AddAddr("eth0", netip.MustParsePrefix(a), true))
	}
	gateway(t, links, "198.51.100.254", "2001:db8:9::fe")
}

func gateway(t *testing.T, links *kerneltest.Fake, v4, v6 string) {
	t.Helper()
	must(t, links.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(v4), Link: "eth0"}))
	must(t, links.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr(v6), Link: "eth0"}))
}

func TestSetNarrow(t *testing.T) {
	d, wg, links := openFake(t)
	uplink(t, links)
	p, q := peer(2), peer(3)
	p.Endpoint, q.Endpoint = one, two
	set(t, d, config(p, q))
	text(wg, links)

	// A path that is as wide as the interface needs nothing: fragments are made
	// by the latter's MTU.
	p.PathMTU, q.PathMTU = 1500, 1500
	set(t, d, config(p, q))
	compare(t, "wide", text(wg, links))

	// With a wider one beside it, too.
	must(t, links.AddBridge("eth1", kernel.MAC{}, 9000))
	must(t, links.SetUp("eth1", true))
	links.TakeChanges()
	set(t, d, config(p, q))
	compare(t, "wide, beside a wider one", text(wg, links))

	p.PathMTU, q.PathMTU = 700, 1300
	set(t, d, config(p, q))
	compare(t, "narrow", text(wg, links),
		"wg set fwmark 0x77650000", // the kernel's WireGuard looks again
		"ip route replace 192.0.2.1/32 via 198.51.100.254 dev eth0 onlink table 6784 src 198.51.100.1 mtu lock 700",
		"ip route replace 2001:db8::2/128 via 2001:db8:9::fe dev eth0 onlink table 6784 src 2001:db8:9::1 mtu lock 1300",
		"ip rule add priority 782 fwmark 0x77650000/0xffffffff lookup 6784",
		"ip -6 rule add priority 782 fwmark 0x77650000/0xffffffff lookup 6784",
	)
	set(t, d, config(p, q))
	compare(t, "again", text(wg, links))

	// The route follows the peer, wherever it went, and the way there.
	wg.roam(p.PublicKey, netip.MustParseAddrPort("198.51.100.9:40000"))
	gateway(t, links, "198.51.100.253", "2001:db8:9::fd")
	links.TakeChanges()
	repaired, err := d.Check()
	must(t, err)
	compare(t, "words", repaired, "the route for fragments to 198.51.100.9 was missing")
	compare(t, "moved", text(wg, links),
		"wg set fwmark 0x77650000",
		"ip route replace 198.51.100.9/32 dev eth0 table 6784 src 198.51.100.1 mtu lock 700",
		"ip route replace 2001:db8::2/128 via 2001:db8:9::fd dev eth0 onlink table 6784 src 2001:db8:9::1 mtu lock 1300",
		"ip route del 192.0.2.1/32 via 198.51.100.254 dev eth0 onlink table 6784 src 198.51.100.1 mtu lock 700",
	)

	// Two peers at one address, behind one relay maybe: the narrower counts.
	must(t, d.SetEndpoint(p.PublicKey, netip.AddrPortFrom(two.Addr(), 6783)))
	p.PathMTU = 1290
	text(wg, links)
	set(t, d, config(p, q))
	compare(t, "together", text(wg, links),
		"wg set fwmark 0x77650000",
		"ip route replace 2001:db8::2/128 via 2001:db8:9::fd dev eth0 onlink table 6784 src 2001:db8:9::1 mtu lock 1290",
		"ip route del 198.51.100.9/32 dev eth0 table 6784 src 198.51.100.1 mtu lock 700",
		"ip rule del priority 782 fwmark 0x77650000/0xffffffff lookup 6784",
	)

	// What was measured elsewhere says nothing about where a peer is now.
	p.PathEndpoint = netip.AddrPortFrom(two.Addr(), 6783)
	set(t, d, config(p, q))
	wg.roam(p.PublicKey, one)
	text(wg, links)
	repaired, err = d.Check()
	must(t, err)
	compare(t, "not damaged", repaired)
	compare(t, "elsewhere", text(wg, links))

	// A predecessor with another mark, and nobody narrow now.
	must(t, links.AddRule(kernel.Rule{Priority: 782, Mark: 1, Mask: 0xff, Table: 6784, SuppressPrefix: -1}))
	links.TakeChanges()
	d, _ = takeOver(t, links, wg)
	p.PathMTU, q.PathMTU = 0, 0
	set(t, d, config(p, q))
	compare(t, "wide again", text(wg, links),
		"wg set fwmark 0x77650000",
		"ip route del 2001:db8::2/128 via 2001:db8:9::fd dev eth0 onlink table 6784 src 2001:db8:9::1 mtu lock 1290",
		"ip rule del priority 782 fwmark 0x1/0xff lookup 6784",
		"ip -6 rule del priority 782 fwmark 0x77650000/0xffffffff lookup 6784",
	)
}

// Where there is no way, there is no packet either; without a mark the routes
// would be everybody's.
func TestSetNarrowCannot(t *testing.T) {
	d, wg, links := openFake(t)
	p := peer(2)
	p.Endpoint, p.PathMTU = one, 700
	text(wg, links)
	set(t, d, config(p))
	for _, c := range text(wg, links) {
		if strings.Contains(c, "table 6784") || strings.Contains(c, "ip rule") {
			t.Errorf("no way: %s", c)
		}
	}
	uplink(t, links)
	links.TakeChanges()
	c := config(p)
	c.FwMark = 0
	set(t, d, c)
	compare(t, "no mark", text(wg, links), "wg set fwmark 0x0")
}

func TestRemoveNarrow(t *testing.T) {
	d, wg, links := openFake(t)
	uplink(t, links)
	p := peer(2)
	p.Endpoint, p.PathMTU = one, 700
	set(t, d, config(p))
	text(wg, links)
	must(t, Remove(links, name))
	compare(t, "removed", text(wg, links),
		"ip link del weft-wg",
		"ip rule del priority 782 fwmark 0x77650000/0xffffffff lookup 6784",
		"ip route del 192.0.2.1/32 via 198.51.100.254 dev eth0 onlink table 6784 src 198.51.100.1 mtu lock 700",
	)
	must(t, Remove(links, name))
	compare(t, "removed again", text(wg, links))
	links.FailCall(2, unix.EIO)
	if err := Remove(links, name); !errors.Is(err, unix.EIO) {
		t.Errorf("a failure: %v", err)
	}
}

// Only what is too large, only to that endpoint, goes another way.
func TestDoorLimits(t *testing.T) {
	sent := &sentBind{}
	d := &door{Bind: sent, raw: &rawPort{}} // without a port it only fails
	narrow, wide := &endpoint{dst: two}, &endpoint{dst: one}
	d.limit(map[netip.AddrPort]limit{two: {mtu: 1300, routed: true}})
	fits, large := make([]byte, 1300-48), make([]byte, 1300-47)
	for _, c := range []struct {
		to   conn.Endpoint
		bufs [][]byte
		want string
	}{
		{wide, [][]byte{large, fits}, "[2]"},
		{narrow, [][]byte{fits, fits}, "[2]"},
		{narrow, [][]byte{large, large}, "[] failed"},
		{narrow, [][]byte{fits, large, large, fits, fits, large}, "[1 2] failed"},
		{memoryEndpoint(two), [][]byte{large}, "[1]"}, // no kernel, no fragments
	} {
		sent.batches = nil
		got := ""
		if err := d.Send(c.bufs, c.to); err != nil {
			got = " failed"
		}
		if got = fmt.Sprint(sent.batches) + got; got != c.want {
			t.Errorf("%d packets to %s: batches %s, want %s", len(c.bufs), where(c.to), got, c.want)
		}
	}
	if n := d.counter(two).Load(); n != 1 {
		t.Errorf("%d packets counted, but one left", n)
	}
	// Where no route says so the interface does; it is counted all the same.
	d.limit(map[netip.AddrPort]limit{two: {mtu: 1300}})
	sent.batches = nil
	must(t, d.Send([][]byte{fits, large, large}, narrow))
	if n := d.counter(two).Load(); n != 3 || fmt.Sprint(sent.batches) != "[1 2]" {
		t.Errorf("%d packets counted, want 3; batches %v", n, sent.batches)
	}
	d.limit(nil)
	must(t, d.Send([][]byte{large}, narrow))
	if d.counter(two) != nil {
		t.Error("somebody counts")
	}
}

// sentBind notes how many packets it was told to send.
type sentBind struct {
	conn.Bind
	batches []int
}

func (b *sentBind) Send(bufs [][]byte, _ conn.Endpoint) error {
	b.batches = append(b.batches, len(bufs))
	return nil
}

// Two hosts, and on the way a hop that drops what is too large for it and says
// nothing: with the path's MTU known everything arrives, whatever its size.
func TestNarrowPath(t *testing.T) {
	if !alone(t) {
		return
	}
	a, b := startHost(t), startHost(t)
	run(t, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	for i, h := range []*remote{a, b} {
		hop, dev := fmt.Sprintf("hop%d", i+1), fmt.Sprintf("end%d", i+1)
		run(t, "ip", "link", "add", hop, "type", "veth", "peer", dev)
		run(t, "ip", "link", "set", dev, "netns", fmt.Sprint(h.pid))
		run(t, "ip", "addr", "add", fmt.Sprintf("10.0.%d.1/24", i+1), "dev", hop)
		run(t, "ip", "-6", "addr", "add", fmt.Sprintf("2001:db8:%d::1/64", i+1), "dev", hop, "nodad")
		run(t, "ip", "link", "set", hop, "up")
		h.run("ip", "addr", "add", fmt.Sprintf("10.0.%d.2/24", i+1), "dev", dev)
		h.run("ip", "-6", "addr", "add", fmt.Sprintf("2001:db8:%d::2/64", i+1), "dev", dev, "nodad")
		// A veth hands over coalesced packets as they are.
		h.run("ip", "link", "set", dev, "gso_max_segs", "1", "up")
		h.run("ip", "route", "add", "default", "via", fmt.Sprintf("10.0.%d.1", i+1))
		h.run("ip", "-6", "route", "add", "default", "via", fmt.Sprintf("2001:db8:%d::1", i+1))
	}
	kind := map[Mode]string{Kernel: "wireguard", Userspace: "tun"}[hostMode()]
	if got := a.run("ip", "-d", "link", "show", name); !strings.Contains(got, kind) {
		t.Fatalf("the device is no %s:\n%s", kind, got)
	}
	run(t, "nft", `table inet narrow {
		chain forward {
			type filter hook forward priority filter
			meta nfproto ipv4 meta length > 700 drop
			meta nfproto ipv6 meta length > 1300 drop
		}
	}`)
	for _, c := range []struct {
		ends [2]string
		mtu  int
	}{
		{[2]string{"10.0.1.2", "10.0.2.2"}, 700},
		{[2]string{"2001:db8:1::2", "2001:db8:2::2"}, 1300},
	} {
		ends := [2]netip.AddrPort{}
		for i, e := range c.ends {
			ends[i] = netip.AddrPortFrom(netip.MustParseAddr(e), 6784)
		}
		testNarrowPath(t, a, b, ends, c.mtu)
	}
}

func testNarrowPath(t *testing.T, a, b *remote, ends [2]netip.AddrPort, mtu int) {
	t.Helper()
	cfg := func(i, pathMTU int) *Config {
		own, other := clamp(key(byte(i+1))), clamp(key(byte(2-i)))
		return &Config{
			PrivateKey: own, ListenPort: 6784, MTU: 1444, Address: overlay(byte(i + 1)), FwMark: 7,
			Peers: []Peer{
				{PublicKey: other.PublicKey(), Overlay: overlay(byte(2 - i)), MTU: 1360, Endpoint: ends[1-i], PathMTU: pathMTU},
				// Somebody else, for whom the rules are there already.
				{PublicKey: public(9), Overlay: overlay(9), Endpoint: netip.AddrPortFrom(ends[1-i].Addr().Next(), 6784), PathMTU: mtu},
			},
		}
	}
	// ping waits long for an answer that must come.
	ping := func(from *remote, to netip.Addr, size string, must bool) bool {
		wait := map[bool]string{true: "20", false: "1"}[must]
		out := from.run("sh", "-c", "ping -6 -c 1 -W "+wait+" -s "+size+" "+to.String()+" || echo lost")
		return !strings.Contains(out, "lost")
	}
	for i, h := range []*remote{a, b} {
		h.tell(order{Set: cfg(i, 0)})
	}
	p := cfg(0, 0).Peers[0]
	a.tell(order{Readd: &p})
	waitFor(t, "a tunnel", func() bool { return ping(a, overlay(2), "8", false) })
	if ping(a, overlay(2), "1200", false) {
		t.Error("a large packet got through: the hop is not narrow, the test shows nothing")
	}
	for i, h := range []*remote{a, b} {
		h.tell(order{Set: cfg(i, mtu)})
	}
	for _, size := range []string{"8", fmt.Sprint(mtu - 200), "1200", "1300", "9000"} {
		if !ping(a, overlay(2), size, true) || !ping(b, overlay(1), size, true) {
			t.Errorf("to %s: a ping of %s bytes got lost", ends[1], size)
		}
	}
	to := ends[1].Addr()
	if got := a.run("ip", "route", "get", to.String(), "mark", "7"); !strings.Contains(got, fmt.Sprintf("mtu lock %d", mtu)) {
		t.Errorf("our packets: %s", got)
	}
	if got := a.run("ip", "route", "get", to.String()); strings.Contains(got, "mtu") {
		t.Errorf("others' packets: %s", got)
	}

	// Probes find out the same, whatever is set.
	for size, arrives := range map[int]bool{mtu: true, mtu + 1: false, 1500: false} {
		probe := append([]byte("W"), make([]byte, size-headers(to)-1)...)
		a.tell(order{Send: &parcel{At: ends[1], B: probe, Options: SendOptions{DontFragment: true}}})
		after := []byte("What comes after it")
		a.tell(order{Send: &parcel{At: ends[1], B: after}})
		got := b.tell(order{Next: true}).Signal
		if arrives {
			if !bytes.Equal(got.B, probe) || got.At != ends[0] {
				t.Errorf("a probe of %d bytes: %d came from %s", size, len(got.B)+headers(to), got.At)
			}
			got = b.tell(order{Next: true}).Signal
		}
		if !bytes.Equal(got.B, after) {
			t.Errorf("after a probe of %d bytes came %q", size, got.B)
		}
	}
	// An answer goes back to where the probe came from.
	b.tell(order{Send: &parcel{At: ends[0], B: []byte("Well"), Options: SendOptions{TTL: 5}}})
	if got := a.tell(order{Next: true}).Signal; got.At != ends[1] || string(got.B) != "Well" {
		t.Errorf("the answer: %+v", got)
	}

	for i, h := range []*remote{a, b} {
		c := cfg(i, 0)
		c.Peers = c.Peers[:1]
		h.tell(order{Set: c})
		if got := h.run("sh", "-c", "ip rule; ip -6 rule; ip route show table 6784; ip -6 route show table 6784 2>&1 || true"); strings.Contains(got, "6784") || strings.Contains(got, "lock") {
			t.Errorf("left behind: %s", got)
		}
	}
}
