package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/router/kernel"
)

// text is everything that was changed, WireGuard's part first.
func text(wg *fakeWG, links interface{ TakeChanges() []string }) []string {
	return append(wg.take(), links.TakeChanges()...)
}

func set(t testing.TB, d *Device, c Config) {
	t.Helper()
	if err := d.Set(c); err != nil {
		t.Fatal(err)
	}
}

func compare(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got)\n%s", what, d)
	}
}

func TestSet(t *testing.T) {
	d, wg, links := openFake(t)
	links.TakeChanges()
	set(t, d, config(peer(2)))
	compare(t, "first", text(wg, links),
		"wg set private-key AAEB listen-port 6784 fwmark 0x77650000",
		"wg set peer oqKi preshared-key AgIC persistent-keepalive 25 allowed-ips fd77:6566:7400::200/128",
		"ip link set weft-wg mtu 1444",
		"ip addr add fd77:6566:7400::1/128 dev weft-wg",
		"ip link set weft-wg up",
		"ip route replace fd77:6566:7400::200/128 via fe80::1 dev weft-wg mtu 1444",
	)

	set(t, d, config(peer(2)))
	compare(t, "again", text(wg, links))

	three := peer(3)
	three.Endpoint, three.PresharedKey, three.Keepalive, three.MTU = two, [32]byte{}, 0, 0
	set(t, d, config(three))
	compare(t, "another peer: added before the first goes", text(wg, links),
		"wg set peer o6Oj endpoint [2001:db8::2]:6784 allowed-ips fd77:6566:7400::300/128",
		"wg set peer oqKi remove",
		"ip route replace fd77:6566:7400::300/128 via fe80::1 dev weft-wg",
		"ip route del fd77:6566:7400::200/128 via fe80::1 dev weft-wg mtu 1444",
	)

	// What one may want to change of a peer, and of the device.
	three.PresharedKey, three.Keepalive, three.MTU = key(7), 25*time.Second, 1300
	c := config(three)
	c.ListenPort, c.FwMark, c.MTU = 7000, 0, 1400
	set(t, d, c)
	compare(t, "changes", text(wg, links),
		"wg set listen-port 7000 fwmark 0x0",
		"wg set peer o6Oj update-only preshared-key BwcH persistent-keepalive 25",
		"ip link set weft-wg mtu 1400",
		"ip route replace fd77:6566:7400::300/128 via fe80::1 dev weft-wg mtu 1300",
	)
	three.PresharedKey, three.Keepalive = [32]byte{}, 0
	c.Peers[0] = three
	set(t, d, c)
	compare(t, "taken back", text(wg, links), "wg set peer o6Oj update-only preshared-key AAAA persistent-keepalive 0")
}

// WireGuard follows a peer that moves; only a new wish overrides that.
func TestSetLeavesRoamedEndpoint(t *testing.T) {
	d, wg, links := openFake(t)
	p := peer(2)
	p.Endpoint = one
	set(t, d, config(p))
	text(wg, links)

	elsewhere := netip.MustParseAddrPort("198.51.100.9:40000")
	wg.roam(p.PublicKey, elsewhere)
	set(t, d, config(p))
	compare(t, "roamed", text(wg, links))

	if err := d.SetEndpoint(p.PublicKey, two); err != nil {
		t.Fatal(err)
	}
	text(wg, links)
	set(t, d, config(p))
	compare(t, "set by hand", text(wg, links))

	p.Endpoint = netip.AddrPort{}
	set(t, d, config(p))
	compare(t, "no wish", text(wg, links))

	p.Endpoint = one
	set(t, d, config(p))
	compare(t, "a new wish", text(wg, links), "wg set peer oqKi update-only endpoint 192.0.2.1:6784")

	d, _ = takeOver(t, links, wg)
	wg.roam(p.PublicKey, elsewhere)
	set(t, d, config(p))
	compare(t, "after a restart", text(wg, links))
	p.Endpoint = two
	set(t, d, config(p))
	compare(t, "a new wish after a restart", text(wg, links), "wg set peer oqKi update-only endpoint [2001:db8::2]:6784")

	// An address that came as IPv4 in IPv6 is the same one.
	p.Endpoint = netip.AddrPortFrom(netip.AddrFrom16(one.Addr().As16()), one.Port())
	set(t, d, config(p))
	compare(t, "mapped", text(wg, links), "wg set peer oqKi update-only endpoint 192.0.2.1:6784")
	p.Endpoint = one
	set(t, d, config(p))
	compare(t, "unmapped", text(wg, links))
}

func TestSetSweepsWhatADeadPredecessorLeft(t *testing.T) {
	d, wg, links := openFake(t)
	set(t, d, config(peer(2), peer(3)))
	wg.peer(public(3)).AllowedIPs = append(wg.peer(public(3)).AllowedIPs, net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)})
	must(t, links.AddAddr(name, netip.MustParsePrefix("10.9.9.9/24"), false))
	must(t, links.AddAddr(name, netip.MustParsePrefix("fe80::5/64"), false))
	must(t, links.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("fd77:6566:7400::/48"), Link: name}))
	must(t, links.AddBridge("br0", kernel.MAC{}, 1500))
	must(t, links.SetUp("br0", true))
	must(t, links.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("10.1.0.0/16"), Link: "br0"}))
	must(t, links.SetSysctl("net/ipv6/conf/default/disable_ipv6", "1"))
	text(wg, links)

	d, _ = takeOver(t, links, wg)
	set(t, d, config(peer(3)))
	compare(t, "swept", text(wg, links),
		"wg set peer o6Oj update-only allowed-ips fd77:6566:7400::300/128",
		"wg set peer oqKi remove",
		"ip route del fd77:6566:7400::200/128 via fe80::1 dev weft-wg mtu 1444",
		"ip route del fd77:6566:7400::/48 dev weft-wg",
		"ip addr del 10.9.9.9/24 dev weft-wg",
		"ip addr del fe80::5/64 dev weft-wg",
	)
	set(t, d, config(peer(3)))
	compare(t, "again", text(wg, links))
}

// Something took away what Set had made.
func TestSetRepairs(t *testing.T) {
	d, wg, links := openFake(t)
	set(t, d, config(peer(2)))
	text(wg, links)

	must(t, links.SetUp(name, false)) // takes address and route along
	links.TakeChanges()
	set(t, d, config(peer(2)))
	compare(t, "down", text(wg, links),
		"ip addr add fd77:6566:7400::1/128 dev weft-wg",
		"ip link set weft-wg up",
		"ip route replace fd77:6566:7400::200/128 via fe80::1 dev weft-wg mtu 1444",
	)

	must(t, links.DelLink(name))
	wg.dev = wgtypes.Device{}
	text(wg, links)
	set(t, d, config(peer(2)))
	compare(t, "deleted", text(wg, links),
		"wg set private-key AAEB listen-port 6784 fwmark 0x77650000",
		"wg set peer oqKi preshared-key AgIC persistent-keepalive 25 allowed-ips fd77:6566:7400::200/128",
		"ip link add weft-wg mtu 1444 type wireguard",
		"ip addr add fd77:6566:7400::1/128 dev weft-wg",
		"ip link set weft-wg up",
		"ip route replace fd77:6566:7400::200/128 via fe80::1 dev weft-wg mtu 1444",
	)
}

func TestSetTurnsIPv6OnForItselfOnly(t *testing.T) {
	d, wg, links := openFake(t)
	for _, which := range []string{"all", "default", name} {
		must(t, links.SetSysctl("net/ipv6/conf/"+which+"/disable_ipv6", "1"))
	}
	text(wg, links)
	set(t, d, config())
	compare(t, "changes", links.TakeChanges(),
		"ip link set weft-wg mtu 1444",
		"sysctl -w net/ipv6/conf/weft-wg/disable_ipv6=0",
		"ip addr add fd77:6566:7400::1/128 dev weft-wg",
		"ip link set weft-wg up",
	)
}

func TestSetMTU(t *testing.T) {
	for _, c := range []struct{ device, peer, wantDevice, wantRoute int }{
		{1444, 1444, 1444, 1444},
		{1444, 0, 1444, 0},
		{1444, 9000, 1444, 1444},
		{1444, 1000, 1444, 1280},
		{1000, 1000, 1280, 1280}, // below that an interface loses IPv6
		{9000, 1400, 9000, 1400},
	} {
		d, _, links := openFake(t)
		p := peer(2)
		p.MTU = c.peer
		cfg := config(p)
		cfg.MTU = c.device
		set(t, d, cfg)
		l, err := links.Link(name)
		must(t, err)
		routes, err := links.Routes(0)
		must(t, err)
		i := slices.IndexFunc(routes, func(r kernel.Route) bool { return r.Dst.Addr() == p.Overlay })
		if l.MTU != c.wantDevice || routes[i].MTU != c.wantRoute {
			t.Errorf("device %d, peer %d: device has %d, route %d; want %d and %d",
				c.device, c.peer, l.MTU, routes[i].MTU, c.wantDevice, c.wantRoute)
		}
	}
}

// wgctrl splits calls of more than 32 peers, and not well.
func TestSetManyPeers(t *testing.T) {
	d, wg, _ := openFake(t)
	var peers []Peer
	for i := range 100 {
		peers = append(peers, peer(byte(100+i)))
	}
	set(t, d, config(peers...)) // the fake refuses larger calls
	if n := len(wg.take()); n != 1+4 {
		t.Errorf("%d calls for 100 peers, want 1 for the device and 4", n)
	}
	if n := len(wg.dev.Peers); n != 100 {
		t.Errorf("%d peers, want 100", n)
	}
	set(t, d, config(peers[50:]...))
	if n := len(wg.take()); n != 2 {
		t.Errorf("%d calls for 50 removals, want 2", n)
	}
	if n := len(wg.dev.Peers); n != 50 {
		t.Errorf("%d peers, want 50", n)
	}
}

func TestSetRefuses(t *testing.T) {
	d, wg, links := openFake(t)
	links.TakeChanges()
	with := func(f func(*Config)) Config {
		c := config(peer(2))
		f(&c)
		return c
	}
	for _, c := range []struct {
		want string
		in   Config
	}{
		{"no private key", with(func(c *Config) { c.PrivateKey = [32]byte{} })},
		{"no port", with(func(c *Config) { c.ListenPort = 0 })},
		{"address 10.0.0.1 is not IPv6", with(func(c *Config) { c.Address = netip.MustParseAddr("10.0.0.1") })},
		{"peer fd77:6566:7400::200 has no key", with(func(c *Config) { c.Peers[0].PublicKey = [32]byte{} })},
		{"peer with overlay address 10.0.0.1: not IPv6", with(func(c *Config) { c.Peers[0].Overlay = netip.MustParseAddr("10.0.0.1") })},
		{"peer fd77:6566:7400::200: keepalive of 1.5s", with(func(c *Config) { c.Peers[0].Keepalive = 1500 * time.Millisecond })},
		{"peer fd77:6566:7400::200 has our own key", with(func(c *Config) { c.Peers[0].PublicKey = wgtypes.Key(c.PrivateKey).PublicKey() })},
		{"peer fd77:6566:7400::1: its overlay address is given twice", with(func(c *Config) { c.Peers[0].Overlay = c.Address })},
		{"peer fd77:6566:7400::300: its key is given twice", with(func(c *Config) {
			c.Peers = append(c.Peers, peer(3))
			c.Peers[1].PublicKey = c.Peers[0].PublicKey
		})},
	} {
		err := d.Set(c.in)
		if want := "set device weft-wg: " + c.want; err == nil || err.Error() != want {
			t.Errorf("got error %v, want %s", err, want)
		}
	}
	compare(t, "nothing changed", text(wg, links))
}

func TestSetFailures(t *testing.T) {
	d, wg, links := openFake(t)
	for _, err := range []error{unix.EADDRINUSE, errors.New("read: wguser: errno=-98")} {
		wg.err = err
		err = d.Set(config())
		if err == nil || !strings.Contains(err.Error(), "UDP port 6784 is taken by another program") {
			t.Errorf("port in use: %v", err)
		}
	}
	// Whatever fails, the next Set finishes the work.
	set(t, d, config(peer(2), peer(3)))
	want, err := links.Link(name)
	must(t, err)
	for n := 1; ; n++ {
		d, wg, links := openFake(t)
		links.FailCall(n, unix.EIO)
		err := d.Set(config(peer(2), peer(3)))
		if err == nil {
			if n < 10 {
				t.Fatalf("only %d calls could fail", n)
			}
			break
		}
		if !errors.Is(err, unix.EIO) {
			t.Errorf("call %d: %v", n, err)
		}
		set(t, d, config(peer(2), peer(3)))
		got, lerr := links.Link(name)
		must(t, lerr)
		routes, rerr := links.Routes(0)
		must(t, rerr)
		want.Index = got.Index
		if got != want || len(wg.dev.Peers) != 2 || len(routes) != 3 {
			t.Errorf("call %d failed: link %+v, %d peers, routes %v", n, got, len(wg.dev.Peers), routes)
		}
	}
}

// From any state to any other, and then nothing more to do.
func TestSetReachesAnything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d, wg, links := openFake(t)
		for range rapid.IntRange(1, 6).Draw(rt, "sets") {
			var c Config
			for _, b := range rapid.SliceOfDistinct(rapid.ByteRange(0, 60), rapid.ID).Draw(rt, "peers") {
				p := peer(b)
				p.Overlay = overlay(b + rapid.ByteRange(0, 1).Draw(rt, "shift")*100)
				p.PresharedKey = key(rapid.ByteRange(0, 2).Draw(rt, "psk"))
				p.Keepalive = time.Duration(rapid.IntRange(0, 2).Draw(rt, "keepalive")) * time.Second
				if rapid.Bool().Draw(rt, "endpoint") {
					p.Endpoint = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, b}), 1)
				}
				c.Peers = append(c.Peers, p)
			}
			c = config(c.Peers...)
			c.ListenPort += uint16(rapid.IntRange(0, 1).Draw(rt, "port"))
			if err := d.Set(c); err != nil {
				rt.Fatal(err)
			}
			if err := reached(c, wg); err != nil {
				rt.Fatal(err)
			}
			wg.take()
			links.TakeChanges()
			if err := d.Set(c); err != nil {
				rt.Fatal(err)
			}
			if got := text(wg, links); len(got) > 0 {
				rt.Fatalf("the same again changes %q", got)
			}
			if rapid.Bool().Draw(rt, "restart") {
				d, _ = takeOver(t, links, wg)
			}
		}
	})
}

func reached(c Config, wg *fakeWG) error {
	if len(wg.dev.Peers) != len(c.Peers) || wg.dev.ListenPort != int(c.ListenPort) || wg.dev.PrivateKey != clamp(c.PrivateKey) {
		return fmt.Errorf("%d peers, port %d", len(wg.dev.Peers), wg.dev.ListenPort)
	}
	for _, p := range c.Peers {
		is := wg.peer(p.PublicKey)
		if is == nil || is.PresharedKey != wgtypes.Key(p.PresharedKey) || is.PersistentKeepaliveInterval != p.Keepalive ||
			len(is.AllowedIPs) != 1 || is.AllowedIPs[0].String() != p.Overlay.String()+"/128" {
			return fmt.Errorf("peer %s is %+v", p.Overlay, is)
		}
		if p.Endpoint.IsValid() && is.Endpoint == nil {
			return fmt.Errorf("peer %s has no endpoint", p.Overlay)
		}
	}
	return nil
}

func TestClosed(t *testing.T) {
	d, _, links := openFake(t)
	set(t, d, config(peer(2)))
	must(t, d.Close())
	must(t, d.Close())
	_, err := d.Peers()
	for what, err := range map[string]error{
		"set": d.Set(config()), "re-add": d.Readd(peer(2)), "initiate": d.Initiate(public(2)),
		"endpoint": d.SetEndpoint(public(2), one), "peers": err,
	} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := links.Link(name); err != nil {
		t.Errorf("the kernel device must stay: %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
