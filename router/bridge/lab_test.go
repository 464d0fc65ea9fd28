package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
	"github.com/weftnet/weft/router/vxlan"
)

// The lab: hosts A and B, a stranger on their underlay, and on each host a
// container on the switch and one on a bridge of another container network.
//
//	container A ── weft ─┐                            ┌─ weft ── container B
//	  10.32.0.10         A ══════ weft-wg (no ══════ B      10.32.0.20
//	neighbour ── other ──┤         encryption)       ├── other ── neighbour
//	  172.18.0.10        └─ eth0 ─── stranger ─ eth0 ─┘
//	                      192.0.2.1   .9          .2
//
// weft-wg is a veth pair without neighbour resolution: like WireGuard it
// carries what is routed into it, unlike WireGuard it does not check sources.
type lab struct {
	t        *testing.T
	a, b     *host
	stranger *kernel.Kernel
}

type host struct {
	*kernel.Kernel
	bridge    *Bridge
	cfg       Config
	container *kernel.Kernel // on the switch
	neighbour *kernel.Kernel // on the other container network
	underlay  netip.Addr
}

const (
	vni    = 0x77667
	marker = "marked by the forger"
)

var (
	dns         = netip.MustParseAddr("169.254.67.83")
	strangerIP  = netip.MustParseAddr("192.0.2.9")
	neighbourIP = netip.MustParseAddr("172.18.0.10")
)

func testConfig(n int) Config {
	return Config{
		Name: "weft", MAC: kernel.MAC{0x02, 0, 0, 0, 0, byte(n)}, MTU: 1370, DNS: dns,
		Overlay:   netip.MustParseAddr(fmt.Sprintf("fd77:6566:7400::%d", n)),
		WireGuard: "weft-wg", VXLAN: "weft-vx", Port: 6784, RelayPort: 6783, VXLANPort: 6785, GossipPort: 6786,
	}
}

func containerIP(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 32, 0, byte(10 * n)}) }

// newLab builds it; omitA and omitB are the rules left out on each host.
func newLab(t *testing.T, omitA, omitB []string) *lab {
	t.Helper()
	l := &lab{t: t, stranger: freshIn(t)}
	l.a, l.b = newHost(t, 1, omitA), newHost(t, 2, omitB)
	ok(t, l.stranger.AddBridge("lan", kernel.MAC{0x02, 9, 9, 9, 9, 9}, 1500))
	ok(t, l.stranger.SetUp("lan", true))
	ok(t, l.stranger.AddAddr("lan", netip.PrefixFrom(strangerIP, 24), true))
	ok(t, l.stranger.AddAddr("lan", netip.MustParsePrefix("2001:db8::9/64"), true))
	for i, h := range []*host{l.a, l.b} {
		name := fmt.Sprintf("to%d", i+1)
		ok(t, l.stranger.AddVeth(name, 1500, h.Kernel, "eth0", kernel.MAC{}))
		ok(t, l.stranger.SetMaster(name, "lan"))
		ok(t, l.stranger.SetUp(name, true))
		ok(t, h.SetUp("eth0", true))
		ok(t, h.AddAddr("eth0", netip.PrefixFrom(h.underlay, 24), true))
		ok(t, h.AddAddr("eth0", netip.MustParsePrefix(fmt.Sprintf("2001:db8::%d/64", i+1)), true))
	}
	same := kernel.MAC{0x02, 0, 0, 0xee, 0, 1}
	ok(t, l.a.AddVeth("weft-wg", 1444, l.b.Kernel, "weft-wg", same))
	ok(t, l.a.SetMAC("weft-wg", same))
	for _, h := range []*host{l.a, l.b} {
		l.run(h, "ip link set weft-wg arp off up")
		ok(t, h.AddAddr("weft-wg", netip.PrefixFrom(h.cfg.Overlay, 128), true))
		ok(t, h.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(l.other(h).cfg.Overlay, 128), Link: "weft-wg"}))
		v := vxlan.New(h.Kernel, nil)
		ok(t, v.Set(fdb.Config{
			Name: "weft-vx", Bridge: "weft", VNI: vni, Port: 6785, Local: h.cfg.Overlay, MTU: 1370,
			Remotes: []fdb.Remote{{Overlay: l.other(h).cfg.Overlay}},
		}))
	}
	l.settle()
	return l
}

// settle waits until frames pass everywhere: a port forwards a moment after its
// link came up, and a host takes what is for an IPv6 address a moment after it
// has that.
func (l *lab) settle() {
	l.t.Helper()
	for _, own := range []struct {
		k *kernel.Kernel
		a string
	}{
		{l.a.Kernel, l.a.cfg.Overlay.String()},
		{l.b.Kernel, l.b.cfg.Overlay.String()},
		{l.a.Kernel, "2001:db8::1"},
		{l.b.Kernel, "2001:db8::2"},
		{l.stranger, "2001:db8::9"},
		{l.a.Kernel, "fd00:18::1"},
		{l.b.Kernel, "fd00:18::1"},
		{l.a.neighbour, "fd00:18::10"},
		{l.b.neighbour, "fd00:18::10"},
	} {
		for end := deadline(true); ; {
			if _, err := own.k.RouteTo(netip.MustParseAddr(own.a)); errors.Is(err, fs.ErrNotExist) {
				break // it is our own
			}
			if time.Now().After(end) {
				l.t.Fatalf("nobody takes what is for %s", own.a)
			}
		}
	}
	hello := []byte("are you there? are you there? are you there?")
	for n, way := range []struct {
		from     *kernel.Kernel
		fromLink string
		to       *kernel.Kernel
		toLink   string
	}{
		{l.a.container, "weft0", l.b.container, "weft0"},
		{l.b.container, "weft0", l.a.container, "weft0"},
		{l.a.neighbour, "eth0", l.a.Kernel, "other"},
		{l.b.neighbour, "eth0", l.b.Kernel, "other"},
		{l.a.Kernel, "eth0", l.stranger, "lan"},
		{l.b.Kernel, "eth0", l.stranger, "lan"},
	} {
		s := l.sniff(way.to, way.toLink)
		for i := 0; ; i++ {
			l.inject(way.from, way.fromLink, append([]byte{
				0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 7, 7, 7, 7, byte(n), 0x88, 0xb5,
			}, hello...))
			if s.waitFor(hello, 50*time.Millisecond) {
				break
			}
			if i == 400 {
				l.t.Fatal("no frames pass in the lab")
			}
		}
	}
}

func (l *lab) other(h *host) *host {
	if h == l.a {
		return l.b
	}
	return l.a
}

func newHost(t *testing.T, n int, omit []string) *host {
	t.Helper()
	h := &host{
		Kernel: freshIn(t), container: freshIn(t), neighbour: freshIn(t),
		cfg: testConfig(n), underlay: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}),
	}
	// The strictest host and the most talkative: forwarding for Docker, and
	// reverse path filtering.
	ok(t, h.SetSysctl("net/ipv4/ip_forward", "1"))
	ok(t, h.SetSysctl("net/ipv6/conf/all/forwarding", "1"))
	ok(t, h.SetSysctl("net/ipv4/conf/all/rp_filter", "1"))
	h.bridge = New(Deps{Kernel: h.Kernel, Omit: omit})
	ok(t, h.bridge.Set(t.Context(), h.cfg))
	ok(t, h.AddBridge("other", kernel.MAC{0x02, 0, 0, 0, 1, byte(n)}, 1500))
	ok(t, h.SetUp("other", true))
	ok(t, h.AddAddr("other", netip.MustParsePrefix("172.18.0.1/24"), true))
	ok(t, h.AddAddr("other", netip.MustParsePrefix("fd00:18::1/64"), true))
	h.plug(t, h.neighbour, "vethother", "other", "eth0", netip.PrefixFrom(neighbourIP, 24))
	ok(t, h.neighbour.AddAddr("eth0", netip.MustParsePrefix("fd00:18::10/64"), true))
	ok(t, h.neighbour.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("172.18.0.1"), Link: "eth0"}))
	ok(t, h.neighbour.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00:18::1"), Link: "eth0"}))
	h.plug(t, h.container, "wv1", "weft", "weft0", netip.PrefixFrom(containerIP(n), 12))
	ok(t, h.container.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(dns, 32), Link: "weft0", Scope: kernel.ScopeLink}))
	return h
}

func (h *host) plug(t *testing.T, guest *kernel.Kernel, name, bridge, inside string, addr netip.Prefix) {
	t.Helper()
	ok(t, h.AddVeth(name, 1370, guest, inside, kernel.MAC{}))
	if bridge == "weft" {
		ok(t, h.SetSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1"))
	}
	ok(t, h.SetMaster(name, bridge))
	ok(t, h.SetUp(name, true))
	ok(t, guest.SetUp(inside, true))
	ok(t, guest.AddAddr(inside, addr, true))
}

// run types a command on a host.
func (l *lab) run(k interface{ Do(func() error) error }, command string) string {
	l.t.Helper()
	out, err := shell(k, command)
	if err != nil {
		l.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

func shell(k interface{ Do(func() error) error }, command string) (string, error) {
	var out []byte
	err := k.Do(func() (err error) {
		out, err = exec.Command("sh", "-c", command).CombinedOutput()
		return err
	})
	return string(out), err
}

// local is this process's own namespace, for looking only.
type local struct{}

func (local) Do(f func() error) error { return f() }

// freshIn is a namespace whose IPv6 addresses work at once.
func freshIn(t *testing.T) *kernel.Kernel {
	t.Helper()
	k := kerneltest.Fresh(t)
	for _, which := range []string{"all", "default"} {
		ok(t, k.SetSysctl("net/ipv6/conf/"+which+"/accept_dad", "0"))
	}
	return k
}

// listen opens a UDP socket on all addresses of a namespace.
func (l *lab) listen(k *kernel.Kernel, port int) *net.UDPConn {
	l.t.Helper()
	var c *net.UDPConn
	ok(l.t, k.Do(func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
		return err
	}))
	l.t.Cleanup(func() { _ = c.Close() })
	return c
}

// send sends one datagram; from may be the zero value. What cannot be sent is
// not received either, so the error does not matter.
func (l *lab) send(k *kernel.Kernel, from, to netip.AddrPort, payload []byte) {
	_ = k.Do(func() error {
		var local *net.UDPAddr
		if from.IsValid() {
			local = net.UDPAddrFromAddrPort(from)
		}
		c, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.Write(payload)
		return err
	})
}

// received waits for the marker, long when it is expected, and returns who
// sent it.
func received(c *net.UDPConn, expected bool) (from netip.AddrPort, ok bool) {
	return receivedText(c, marker, expected)
}

func receivedText(c *net.UDPConn, text string, expected bool) (from netip.AddrPort, ok bool) {
	_ = c.SetReadDeadline(deadline(expected))
	b := make([]byte, 2000)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return from, false
		}
		if bytes.Contains(b[:n], []byte(text)) {
			return netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), true
		}
	}
}

func deadline(expected bool) time.Time { return time.Now().Add(patience(expected)) }

func patience(expected bool) time.Duration {
	if expected {
		return 20 * time.Second
	}
	return 150 * time.Millisecond
}

// sniffer sees every frame of an interface.
type sniffer struct{ fd int }

func (l *lab) sniff(k *kernel.Kernel, link string) *sniffer {
	l.t.Helper()
	s := &sniffer{}
	i, err := k.Link(link)
	ok(l.t, err)
	ok(l.t, k.Do(func() (err error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all&0xffff); err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: all & 0xffff})
	}))
	l.t.Cleanup(func() { _ = unix.Close(s.fd) })
	return s
}

// saw waits for a frame that contains what, long when it is expected.
func (s *sniffer) saw(what []byte, expected bool) bool { return s.waitFor(what, patience(expected)) }

func (s *sniffer) waitFor(what []byte, d time.Duration) bool {
	end := time.Now().Add(d)
	b := make([]byte, 65536)
	for {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		tv := unix.NsecToTimeval(left.Nanoseconds())
		_ = unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		n, from, err := unix.Recvfrom(s.fd, b, 0)
		if err != nil {
			continue
		}
		if ll, isLL := from.(*unix.SockaddrLinklayer); isLL && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if bytes.Contains(b[:n], what) {
			return true
		}
	}
}

// inject sends a frame as the container does.
func (l *lab) inject(k *kernel.Kernel, link string, frame []byte) {
	l.t.Helper()
	i, err := k.Link(link)
	ok(l.t, err)
	ok(l.t, k.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Halen: 6})
	}))
}

// forgedVXLAN is what a forger puts into a UDP datagram: a frame to everybody.
func forgedVXLAN() []byte {
	b := []byte{0x08, 0, 0, 0, vni >> 16 & 0xff, vni >> 8 & 0xff, vni & 0xff, 0}
	b = append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 6, 6, 6, 6, 6, 0x88, 0xb5)
	return append(b, marker+strings.Repeat(".", 60)...)
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func to(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
