package kerneltest_test

import (
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// namespace is every method that the fake shares with the kernel.
type namespace interface {
	kernel.Guest
	kerneltest.World
	Do(f func() error) error
	Close() error
	Link(name string) (kernel.Link, error)
	AddBridge(name string, mac kernel.MAC, mtu int) error
	AddVXLAN(name string, v kernel.VXLAN) error
	AddWireGuard(name string, mtu int) error
	AddVeth(host string, mtu int, guest kernel.Guest, guestName string, guestMAC kernel.MAC) error
	DelLink(name string) error
	SetUp(name string, up bool) error
	SetMTU(name string, mtu int) error
	SetMAC(name string, mac kernel.MAC) error
	SetMaster(name, master string) error
	SetAlias(name, alias string) error
	AddAddr(link string, p netip.Prefix, nodad bool) error
	DelAddr(link string, p netip.Prefix) error
	ReplaceRoute(r kernel.Route) error
	RouteTo(dst netip.Addr) (kernel.Route, error)
	DelRoute(r kernel.Route) error
	AddRule(r kernel.Rule) error
	DelRule(r kernel.Rule) error
	AddBridgeFDB(port string, m kernel.MAC) error
	DelBridgeFDB(port string, m kernel.MAC) error
	AddNeighbour(link string, n kernel.Neighbour) error
	DelNeighbour(link string, a netip.Addr) error
	SetProxyARP(port string, on bool) error
	AddFDB(link string, f kernel.FDB) error
	DelFDB(link string, f kernel.FDB) error
	Sysctl(key string) (string, error)
	SetSysctl(key, value string) error
	Announce(link string, a netip.Addr) error
	AddMDB(link string, e kernel.MDB) error
	DelMDB(link string, e kernel.MDB) error
	Deafen(link string) error
	Divert(from, to string, except []netip.Addr) (kernel.Diversion, error)
	Overhear(link string, protocol uint16, filter []unix.SockFilter) (kernel.Ear, error)
	SendFrames(links []int, frames ...[]byte) error
}

var (
	_ namespace = (*kernel.Kernel)(nil)
	_ namespace = (*kerneltest.Fake)(nil)
)

var (
	mac    = kernel.MAC{0x02, 1, 2, 3, 4, 5}
	macA   = kernel.MAC{0x02, 0xaa, 0, 0, 0, 1}
	macB   = kernel.MAC{0x02, 0xbb, 0, 0, 0, 1}
	any6   = netip.MustParsePrefix("fd77:6566:7400::1/128")
	addr   = netip.MustParsePrefix("10.32.0.1/12")
	single = netip.MustParsePrefix("169.254.67.83/32")
	peer   = netip.MustParseAddr("fd77:6566:7400::2")
	peer2  = netip.MustParseAddr("fd77:6566:7400::3")
)

// twin does something to a host and a container, and says how both look
// afterwards.
type twin struct {
	name string
	do   func(t *testing.T, host, guest namespace)
	host string
	in   string // the container
}

func TestTwins(t *testing.T) {
	tests := append(told(), []twin{
		{
			name: "nothing",
			do:   func(*testing.T, namespace, namespace) {},
		},
		{
			name: "bridge",
			do: func(t *testing.T, host, _ namespace) {
				ok(t, host.AddBridge("weft", mac, 1370))
				is(t, host.AddBridge("weft", mac, 1370), fs.ErrExist)
				ok(t, host.SetUp("weft", true))
				ok(t, host.SetAlias("weft", "the switch"))
				ok(t, host.AddAddr("weft", addr, false))
				is(t, host.AddAddr("weft", addr, false), fs.ErrExist)
				ok(t, host.AddAddr("weft", single, false))
				l, err := host.Link("weft")
				ok(t, err)
				if !l.Up || l.Kind != "bridge" || l.MAC != mac || l.MTU != 1370 {
					t.Errorf("link: %+v", l)
				}
			},
			host: `
				ip link add weft address 02:01:02:03:04:05 mtu 1370 type bridge
				ip link set weft alias "the switch"
				ip link set weft up
				ip addr add 10.32.0.1/12 dev weft
				ip addr add 169.254.67.83/32 dev weft`,
		},
		{
			name: "missing link",
			do: func(t *testing.T, host, guest namespace) {
				_, err := host.Link("weft")
				is(t, err, fs.ErrNotExist)
				_, err = host.Addrs("weft")
				is(t, err, fs.ErrNotExist)
				_, err = host.FDB("weft")
				is(t, err, fs.ErrNotExist)
				ok(t, host.DelLink("weft"))
				is(t, host.SetUp("weft", true), fs.ErrNotExist)
				is(t, host.SetMTU("weft", 1370), fs.ErrNotExist)
				is(t, host.SetMAC("weft", mac), fs.ErrNotExist)
				is(t, host.SetMaster("weft", ""), fs.ErrNotExist)
				is(t, host.SetMaster("lo", "weft"), fs.ErrNotExist)
				is(t, host.SetAlias("weft", "x"), fs.ErrNotExist)
				is(t, host.AddAddr("weft", addr, false), fs.ErrNotExist)
				is(t, host.DelAddr("weft", addr), fs.ErrNotExist)
				is(t, host.AddFDB("weft", kernel.FDB{Dst: peer}), fs.ErrNotExist)
				is(t, host.DelFDB("weft", kernel.FDB{Dst: peer}), fs.ErrNotExist)
				is(t, host.ReplaceRoute(kernel.Route{Dst: addr, Link: "weft"}), fs.ErrNotExist)
				is(t, host.DelRoute(kernel.Route{Dst: addr, Link: "weft"}), fs.ErrNotExist)
				is(t, host.DelRule(kernel.Rule{Priority: 6783, From: single, Table: 6783, SuppressPrefix: -1}), fs.ErrNotExist)
				is(t, host.Announce("weft", addr.Addr()), fs.ErrNotExist)
				_, err = host.Sysctl("net/ipv6/conf/weft/disable_ipv6")
				is(t, err, fs.ErrNotExist)
				is(t, host.SetSysctl("net/ipv6/conf/weft/disable_ipv6", "1"), fs.ErrNotExist)
			},
		},
		{
			name: "veth",
			do: func(t *testing.T, host, guest namespace) {
				ok(t, host.AddBridge("weft", mac, 1370))
				ok(t, host.AddVeth("wv1", 1370, guest, "weft0", macA))
				is(t, host.AddVeth("wv1", 1370, guest, "weft1", macA), fs.ErrExist)
				is(t, host.AddVeth("wv2", 1370, guest, "weft0", macA), fs.ErrExist)
				ok(t, host.SetMAC("wv1", macB))
				ok(t, host.SetMaster("wv1", "weft"))
				ok(t, host.SetUp("wv1", true))
				ok(t, guest.AddAddr("weft0", addr, false))
				ok(t, guest.SetUp("weft0", true))
				ok(t, guest.ReplaceRoute(kernel.Route{Dst: single, Link: "weft0", Scope: kernel.ScopeLink}))
				ok(t, guest.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("224.0.0.0/4"), Link: "weft0"}))
				ok(t, guest.Announce("weft0", addr.Addr()))
				outer, err := host.Link("wv1")
				ok(t, err)
				inner, err := guest.Link("weft0")
				ok(t, err)
				if outer.PeerIndex != inner.Index || inner.PeerIndex != outer.Index || inner.MAC != macA {
					t.Errorf("ends do not know each other: %+v %+v", outer, inner)
				}
			},
			host: `
				ip link add weft address 02:01:02:03:04:05 mtu 1370 type bridge
				ip link add wv1 address 02:bb:00:00:00:01 mtu 1370 type veth
				ip link set wv1 master weft
				ip link set wv1 up`,
			in: `
				ip link add weft0 address 02:aa:00:00:00:01 mtu 1370 type veth
				ip link set weft0 up
				ip addr add 10.32.0.1/12 dev weft0
				ip route add 169.254.67.83/32 dev weft0 scope link
				ip route add 224.0.0.0/4 dev weft0`,
		},
		{
			name: "deleting one end deletes the other, deleting the bridge frees its ports",
			do: func(t *testing.T, host, guest namespace) {
				ok(t, host.AddBridge("weft", mac, 1370))
				ok(t, host.AddVeth("wv1", 1370, guest, "weft0", macA))
				ok(t, host.AddVeth("wv2", 1370, guest, "weft1", macA))
				ok(t, host.SetMAC("wv2", macB))
				ok(t, host.SetMaster("wv2", "weft"))
				ok(t, guest.DelLink("weft0"))
				ok(t, host.DelLink("weft"))
			},
			host: `ip link add wv2 address 02:bb:00:00:00:01 mtu 1370 type veth`,
			in:   `ip link add weft1 address 02:aa:00:00:00:01 mtu 1370 type veth`,
		},
		{
			name: "a link set down loses its routes and its IPv6 addresses",
			do: func(t *testing.T, host, guest namespace) {
				ok(t, host.AddVeth("wv1", 1370, guest, "weft0", macA))
				ok(t, host.SetMAC("wv1", macB))
				is(t, guest.ReplaceRoute(kernel.Route{Dst: single, Link: "weft0"}), unix.ENETDOWN)
				ok(t, guest.SetUp("weft0", true))
				ok(t, guest.AddAddr("weft0", addr, false))
				ok(t, guest.AddAddr("weft0", any6, true))
				ok(t, guest.ReplaceRoute(kernel.Route{Dst: single, Link: "weft0"}))
				ok(t, guest.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(peer, 128), Link: "weft0", MTU: 1400}))
				ok(t, guest.SetUp("weft0", false))
				is(t, guest.Announce("weft0", addr.Addr()), unix.ENETDOWN)
			},
			host: `ip link add wv1 address 02:bb:00:00:00:01 mtu 1370 type veth`,
			in: `
				ip link add weft0 address 02:aa:00:00:00:01 mtu 1370 type veth
				ip addr add 10.32.0.1/12 dev weft0`,
		},
		{
			name: "routes",
			do: func(t *testing.T, host, guest namespace) {
				ok(t, host.AddBridge("weft", mac, 1370))
				ok(t, host.SetUp("weft", true))
				ok(t, host.AddAddr("weft", addr, false))
				ok(t, host.AddAddr("weft", any6, true))
				ok(t, host.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Link: "weft", Table: 6783, Scope: kernel.ScopeLink}))
				p := netip.PrefixFrom(peer, 128)
				ok(t, host.ReplaceRoute(kernel.Route{Dst: p, Link: "weft", MTU: 1400}))
				ok(t, host.ReplaceRoute(kernel.Route{Dst: p, Link: "weft", MTU: 1380, Src: any6.Addr()}))
				ok(t, host.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("192.0.2.0/24"), Via: netip.MustParseAddr("10.32.0.9"), Link: "weft"}))
				gone := kernel.Route{Dst: netip.PrefixFrom(peer2, 128), Link: "weft"}
				ok(t, host.ReplaceRoute(gone))
				ok(t, host.DelRoute(gone))
				is(t, host.DelRoute(gone), fs.ErrNotExist)
				ok(t, host.AddRule(kernel.Rule{Priority: 6783, From: single, SuppressPrefix: 0}))
				ok(t, host.AddRule(kernel.Rule{Priority: 6784, From: single, Table: 6783, SuppressPrefix: -1}))
				is(t, host.AddRule(kernel.Rule{Priority: 6784, From: single, Table: 6783, SuppressPrefix: -1}), fs.ErrExist)
				ok(t, host.AddRule(kernel.Rule{Priority: 7000, Mark: 1, Mask: 0xff, Table: 6783, SuppressPrefix: -1, IPv6: true}))
				ok(t, host.AddRule(kernel.Rule{Priority: 7000, DestPort: 53, Table: 6783, SuppressPrefix: -1}))
				r := kernel.Rule{Priority: 7001, From: any6, Table: 6783, SuppressPrefix: -1}
				ok(t, host.AddRule(r))
				ok(t, host.DelRule(r))
				is(t, host.DelRule(r), fs.ErrNotExist)
			},
			host: `
				ip link add weft address 02:01:02:03:04:05 mtu 1370 type bridge
				ip link set weft up
				ip addr add 10.32.0.1/12 dev weft
				ip addr add fd77:6566:7400::1/128 dev weft
				ip rule add priority 6783 from 169.254.67.83/32 lookup main suppress_prefixlength 0
				ip rule add priority 6784 from 169.254.67.83/32 lookup 6783
				ip rule add priority 7000 dport 53 lookup 6783
				ip -6 rule add priority 7000 fwmark 0x1/0xff lookup 6783
				ip route add 192.0.2.0/24 via 10.32.0.9 dev weft
				ip route add fd77:6566:7400::2/128 dev weft src fd77:6566:7400::1 mtu 1380
				ip route add 0.0.0.0/0 dev weft table 6783 scope link`,
		},
		{
			name: "ways",
			do: func(t *testing.T, host, guest namespace) {
				ok(t, host.AddVeth("eth0", 1500, guest, "eth0", macA))
				ok(t, host.SetMAC("eth0", mac))
				ok(t, guest.SetUp("eth0", true)) // a bridge without ports has no carrier
				ok(t, host.SetUp("eth0", true))
				ok(t, host.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24"), false))
				ok(t, host.AddAddr("eth0", netip.MustParsePrefix("2001:db8::1/64"), true))
				_, err := host.RouteTo(netip.MustParseAddr("203.0.113.7"))
				is(t, err, fs.ErrNotExist)
				_, err = host.RouteTo(peer)
				is(t, err, fs.ErrNotExist)
				for _, way := range []struct{ prefix, via, beyond, near, src string }{
					{"0.0.0.0/0", "192.0.2.254", "203.0.113.7", "192.0.2.9", "192.0.2.1"},
					{"::/0", "2001:db8::fe", "2001:db8:7::7", "2001:db8::9", "2001:db8::1"},
				} {
					via, src := netip.MustParseAddr(way.via), netip.MustParseAddr(way.src)
					ok(t, host.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix(way.prefix), Via: via, Link: "eth0"}))
					for dst, via := range map[string]netip.Addr{way.beyond: via, way.near: {}} {
						a := netip.MustParseAddr(dst)
						want := kernel.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Via: via, Link: "eth0", Src: src}
						got, err := host.RouteTo(a)
						ok(t, err)
						if got != want {
							t.Errorf("way to %s: %+v, want %+v", dst, got, want)
						}
						got.Table, got.MTU, got.MTULock, got.OnLink = 6784, 1290, true, via.IsValid()
						ok(t, host.ReplaceRoute(got))
						routes, err := host.Routes(6784)
						ok(t, err)
						if !slices.Contains(routes, got) {
							t.Errorf("written %+v, read %+v", got, routes)
						}
						// A way of another table is none without a rule.
						if again, err := host.RouteTo(a); err != nil || again != want {
							t.Errorf("way to %s by the other table: %+v, %v", dst, again, err)
						}
					}
				}
				ok(t, host.AddRule(kernel.Rule{Priority: 782, Mark: 1, Mask: 0xffffffff, Table: 6784, SuppressPrefix: -1}))
			},
			host: `
				ip link add eth0 address 02:01:02:03:04:05 mtu 1500 type veth
				ip link set eth0 up
				ip addr add 192.0.2.1/24 dev eth0
				ip addr add 2001:db8::1/64 dev eth0
				ip rule add priority 782 fwmark 0x1/0xffffffff lookup 6784
				ip route add 0.0.0.0/0 via 192.0.2.254 dev eth0
				ip route add ::/0 via 2001:db8::fe dev eth0
				ip route add 192.0.2.9/32 dev eth0 table 6784 src 192.0.2.1 mtu lock 1290
				ip route add 2001:db8:7::7/128 via 2001:db8::fe dev eth0 onlink table 6784 src 2001:db8::1 mtu lock 1290
				ip route add 2001:db8::9/128 dev eth0 table 6784 src 2001:db8::1 mtu lock 1290
				ip route add 203.0.113.7/32 via 192.0.2.254 dev eth0 onlink table 6784 src 192.0.2.1 mtu lock 1290`,
			in: `
				ip link add eth0 address 02:aa:00:00:00:01 mtu 1500 type veth
				ip link set eth0 up`,
		},
		{
			name: "connected routes",
			do: func(t *testing.T, host, _ namespace) {
				ok(t, host.AddBridge("weft", mac, 1370))
				ok(t, host.SetUp("weft", true))
				ok(t, host.AddAddr("weft", addr, false))
				routes, err := host.Routes(0)
				ok(t, err)
				want := kernel.Route{Dst: addr.Masked(), Link: "weft", Src: addr.Addr(), Scope: kernel.ScopeLink, Proto: 2}
				if len(routes) == 0 || routes[0] != want {
					t.Errorf("routes: %+v, want %+v first", routes, want)
				}
			},
			host: `
				ip link add weft address 02:01:02:03:04:05 mtu 1370 type bridge
				ip link set weft up
				ip addr add 10.32.0.1/12 dev weft`,
		},
		{
			name: "vxlan",
			do: func(t *testing.T, host, _ namespace) {
				ok(t, host.AddVXLAN("weft-vx", kernel.VXLAN{
					VNI: 0xabcdef, Port: 6785, PortLow: 512, PortHigh: 1023, Local: any6.Addr(), MTU: 1370, Learning: true, Limit: 1000,
				}))
				ok(t, host.SetMAC("weft-vx", macA))
				ok(t, host.AddFDB("weft-vx", kernel.FDB{Dst: peer, Permanent: true}))
				ok(t, host.AddFDB("weft-vx", kernel.FDB{Dst: peer, Permanent: true}))
				ok(t, host.AddFDB("weft-vx", kernel.FDB{Dst: peer2, Permanent: true}))
				ok(t, host.AddFDB("weft-vx", kernel.FDB{MAC: macB, Dst: peer, Permanent: true}))
				ok(t, host.AddFDB("weft-vx", kernel.FDB{MAC: macB, Dst: peer2, Permanent: true}))
				ok(t, host.AddFDB("weft-vx", kernel.FDB{MAC: mac, Dst: peer2}))
				ok(t, host.DelFDB("weft-vx", kernel.FDB{Dst: peer2}))
				ok(t, host.DelFDB("weft-vx", kernel.FDB{Dst: peer2}))
				ok(t, host.DelFDB("weft-vx", kernel.FDB{MAC: macA, Dst: peer2}))
			},
			host: `
				ip link add weft-vx address 02:aa:00:00:00:01 mtu 1370 type vxlan id 11259375 dstport 6785 srcport 512 1023 local fd77:6566:7400::1 udp6zerocsumtx udp6zerocsumrx maxaddress 1000
				bridge fdb append 00:00:00:00:00:00 dev weft-vx dst fd77:6566:7400::2
				bridge fdb append 02:01:02:03:04:05 dev weft-vx dst fd77:6566:7400::3 dynamic
				bridge fdb append 02:bb:00:00:00:01 dev weft-vx dst fd77:6566:7400::3`,
		},
		{
			name: "IPv6 off",
			do: func(t *testing.T, host, _ namespace) {
				ok(t, host.AddBridge("weft", mac, 1370))
				ok(t, host.AddAddr("weft", any6, true))
				ok(t, host.SetSysctl("net/ipv6/conf/weft/disable_ipv6", "1"))
				is(t, host.AddAddr("weft", any6, true), unix.EACCES)
				v, err := host.Sysctl("net/ipv6/conf/weft/disable_ipv6")
				ok(t, err)
				if v != "1" {
					t.Errorf("disable_ipv6 = %q", v)
				}
			},
			host: `ip link add weft address 02:01:02:03:04:05 mtu 1370 type bridge`,
		},
		{
			name: "bad names and ports",
			do: func(t *testing.T, host, guest namespace) {
				for _, name := range []string{"sixteen-letters-", "a/b", "a b", "."} {
					if host.AddBridge(name, mac, 1370) == nil && name != "." {
						t.Errorf("made bridge %q", name)
					}
				}
				ok(t, host.DelLink("."))
				ok(t, host.AddVeth("wv1", 1370, guest, "weft0", macA))
				ok(t, host.AddVeth("wv2", 1370, guest, "weft1", macA))
				is(t, host.SetMaster("wv1", "wv2"), unix.EOPNOTSUPP)
				ok(t, host.DelLink("wv1"))
				ok(t, host.DelLink("wv2"))
			},
		},
	}...)
	for _, tt := range tests {
		run := func(t *testing.T, host, guest namespace) {
			tt.do(t, host, guest)
			for _, side := range []struct {
				name string
				ns   namespace
				want string
			}{{"host", host, tt.host}, {"container", guest, tt.in}} {
				got, err := kerneltest.Print(side.ns)
				ok(t, err)
				if diff := cmp.Diff(lines(side.want), lines(got)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", side.name, diff)
				}
			}
		}
		t.Run(tt.name+"/fake", func(t *testing.T) {
			host := kerneltest.New("host")
			run(t, host, host.Namespace("container"))
		})
		t.Run(tt.name+"/linux", func(t *testing.T) {
			run(t, kerneltest.Fresh(t), kerneltest.Fresh(t))
		})
	}
}

func lines(s string) []string {
	var out []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}
