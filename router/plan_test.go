package router

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/tunnel"
)

// host returns a host whose identity is made from one byte.
func host(b byte) Host {
	return Host{
		Key: crypto.KeyFromSeed([32]byte{b}), Keys: crypto.Secret{9}.Keys("test"),
		Port: 6783, MTU: 1370, DNS: DNSAddress,
	}
}

// peerOf returns how others see such a host.
func peerOf(t *testing.T, b byte, nickname string) mesh.Peer {
	t.Helper()
	k := crypto.KeyFromSeed([32]byte{b})
	ep := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, b}), 6784)
	a, err := advert.Sign(k, advert.Advert{
		Identity: k.Identity(), Name: k.Identity().Name(), Nickname: nickname, Boot: 1, Seq: 1,
		WireGuard: k.WireGuardPublic(), Endpoints: []netip.AddrPort{ep}, HelloPort: 6783,
		Datapath: advert.Userspace, Version: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	return mesh.Peer{Signed: a, Alive: true, Candidates: []netip.AddrPort{ep}}
}

func TestPlan(t *testing.T) {
	h := host(1)
	live, dead, standing := peerOf(t, 2, "live"), peerOf(t, 3, "dead"), peerOf(t, 4, "standing")
	dead.Alive, standing.Alive = false, false
	view := mesh.View{Peers: []mesh.Peer{live, dead, standing}}
	way := func(id crypto.Identity) tunnel.Way {
		w := tunnel.Way{Up: id == standing.Identity, MTU: 1440, Whole: 1370, Told: 1370}
		if w.Up {
			// A search goes on: who is told now remembers for long.
			w.Whole, w.Told = 1100, 1300
			w.HopMTU, w.PathMTU, w.Endpoint = 1450, 1450, netip.MustParseAddrPort("192.0.2.9:6784")
		}
		return w
	}
	there := fdb.Known{MAC: fdb.MAC{2, 1}, At: live.Identity.Overlay()}
	p := makePlan(h, view, []fdb.Known{there, {MAC: fdb.MAC{2, 2}, At: dead.Identity.Overlay()}}, exposure{}, way)

	if got := len(p.wireguard.Peers); got != 3 {
		t.Errorf("%d tunnels; every known peer gets one", got)
	}
	for i, peer := range p.wireguard.Peers {
		want := view.Peers[i].Identity
		if peer.Overlay != want.Overlay() || peer.PresharedKey != h.Keys.PresharedKey(h.Key.Identity(), want) {
			t.Errorf("peer %d: wrong overlay address or preshared key", i)
		}
		if peer.MTU != 1440 {
			t.Errorf("peer %d: route MTU %d; 1440, 32 and 28 make 1500", i, peer.MTU)
		}
		if peer.Endpoint.IsValid() {
			t.Errorf("peer %d has an endpoint: that is the path machine's business", i)
		}
	}
	want := []fdb.Remote{{Overlay: live.Identity.Overlay(), Whole: 1370}, {Overlay: standing.Identity.Overlay(), Whole: 1300}}
	if want[1].Overlay.Less(want[0].Overlay) {
		want[0], want[1] = want[1], want[0]
	}
	if d := cmp.Diff(want, p.port.Remotes, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("remotes (-want +got):\n%s", d)
	}
	if len(p.port.Known) != 1 || !p.port.Known[0].Equal(there) {
		t.Errorf("known %v; want what is attached where frames are sent to", p.port.Known)
	}
	if p.bridge.Told != 1370 || p.bridge.MSS != 1260 {
		t.Errorf("told %d, MSS %d; 1300 bytes pass whole", p.bridge.Told, p.bridge.MSS)
	}
	if d := cmp.Diff(map[netip.AddrPort]int{netip.MustParseAddrPort("192.0.2.9:6784"): 1450}, p.bridge.Cuts, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("what is cut, for the kernel's WireGuard (-want +got):\n%s", d)
	}
	h.Userspace = true
	if u := makePlan(h, view, nil, exposure{}, way); u.bridge.Told != 1370 || u.bridge.Cuts != nil {
		t.Errorf("wireguard-go: told %d, cuts %v", u.bridge.Told, u.bridge.Cuts)
	}
	if p.wireguard.MTU != 1444 || p.port.MTU != 1370 || p.bridge.MTU != 1370 {
		t.Errorf("MTU: device %d, vxlan %d, bridge %d", p.wireguard.MTU, p.port.MTU, p.bridge.MTU)
	}
	if p.wireguard.ListenPort != 6784 {
		t.Errorf("WireGuard's port is %d", p.wireguard.ListenPort)
	}
}

func TestBridgeMACIsUnicastAndNotThePeerName(t *testing.T) {
	for b := range byte(50) {
		id := crypto.KeyFromSeed([32]byte{b}).Identity()
		m := bridgeMAC(id)
		if m[0]&1 != 0 || m[0]&2 == 0 || m == kernel.MAC(id.Name()) {
			t.Errorf("bridge MAC %s of peer %s", m, id.Name())
		}
	}
}

func TestUnderlayEndpoints(t *testing.T) {
	prefix := netip.MustParsePrefix
	links := []addressed{
		{kernel.Link{Name: "lo"}, []netip.Prefix{prefix("127.0.0.1/8"), prefix("::1/128")}},
		{kernel.Link{Name: "eth0"}, []netip.Prefix{
			prefix("2001:db8::5/64"), prefix("fe80::1/64"), prefix("192.0.2.5/24"), prefix("10.0.0.5/8"),
		}},
	}
	given := []netip.Addr{netip.MustParseAddr("203.0.113.9")}
	got := underlayEndpoints(links, given, 6784)
	want := []netip.AddrPort{
		netip.MustParseAddrPort("203.0.113.9:6784"), netip.MustParseAddrPort("10.0.0.5:6784"),
		netip.MustParseAddrPort("192.0.2.5:6784"), netip.MustParseAddrPort("[2001:db8::5]:6784"),
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestOutward(t *testing.T) {
	var names []string
	for _, l := range outward([]kernel.Link{
		{Name: "lo", Up: true},
		{Name: "eth0", Up: true},
		{Name: "eth1"},
		{Name: "docker0", Up: true},
		{Name: "br-0123456789ab", Up: true},
		{Name: "br-lan", Up: true},
		{Name: "weft", Up: true, Index: 7},
		{Name: "weft-wg", Up: true},
		{Name: "wv0123", Up: true, Master: 7},
	}) {
		names = append(names, l.Name)
	}
	if d := cmp.Diff([]string{"lo", "eth0", "br-lan"}, names); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// No other host is in a subnet of the switch, or has our address in a container
// network; but it may be a virtual machine there.
func TestInside(t *testing.T) {
	var got []netip.Prefix
	for _, l := range [][]string{
		{BridgeName, "10.32.0.1/12", "169.254.67.83/32", "fe80::1/64", "fd00:1::7/64"},
		{"docker0", "172.17.0.1/16"},
		{"virbr0", "192.168.122.1/24"},
	} {
		var addrs []netip.Prefix
		for _, a := range l[1:] {
			addrs = append(addrs, netip.MustParsePrefix(a))
		}
		got = append(got, inside(l[0], addrs)...)
	}
	var want []netip.Prefix
	for _, p := range []string{"10.32.0.0/12", "fd00:1::/64", "172.17.0.1/32", "192.168.122.1/32"} {
		want = append(want, netip.MustParsePrefix(p))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The switch is as large as the narrowest underlay lets it be, and never
// smaller than that of the hosts with an ordinary one.
func TestSwitchMTU(t *testing.T) {
	link := func(name, addr string, mtu int) addressed {
		return addressed{kernel.Link{Name: name, MTU: mtu}, []netip.Prefix{netip.MustParsePrefix(addr)}}
	}
	lo := link("lo", "127.0.0.1/8", 65536)
	const ordinary = 1370
	for _, tc := range []struct {
		name  string
		links []addressed
		want  int
	}{
		{"nothing", nil, ordinary},
		{"ordinary", []addressed{lo, link("eth0", "192.0.2.1/24", 1500)}, ordinary},
		{"jumbo", []addressed{lo, link("eth0", "192.0.2.1/24", 9000)}, 8858},
		{"one of two", []addressed{link("eth0", "192.0.2.1/24", 9000), link("eth1", "198.51.100.1/24", 1500)}, ordinary},
		{"a narrow one does not narrow the switch", []addressed{link("ppp0", "192.0.2.1/24", 1492)}, ordinary},
	} {
		if got := switchMTU(tc.links); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestKnown(t *testing.T) {
	h, other, third := host(1), peerOf(t, 2, "other"), peerOf(t, 3, "third")
	entry := func(owner crypto.Identity, b byte, addr string) mesh.Entry {
		key, value, err := fdb.Attachment{MAC: fdb.MAC{2, b}, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return mesh.Entry{Owner: owner, Key: key, Value: value}
	}
	broken := mesh.Entry{Owner: other.Identity, Key: fdb.EntryPrefix + "nonsense"}
	name := mesh.Entry{Owner: other.Identity, Key: "n/web"}
	list, bad := known(h.Key.Identity(), []mesh.Entry{
		name, broken, entry(other.Identity, 1, "10.32.0.1"), entry(h.Key.Identity(), 2, "10.32.0.2"),
		entry(other.Identity, 3, "10.32.0.3"), entry(third.Identity, 3, "10.32.0.4"), // one of them lies
		entry(third.Identity, 4, "10.32.0.2"), // and this one wants our container's address
	})
	want := []fdb.Known{
		{MAC: fdb.MAC{2, 1}, At: other.Identity.Overlay(), Addrs: []netip.Addr{netip.MustParseAddr("10.32.0.1")}},
		{MAC: fdb.MAC{2, 4}, At: third.Identity.Overlay()},
	}
	if !slices.EqualFunc(list, want, fdb.Known.Equal) || bad != 1 {
		t.Errorf("known %v, %d bad; want %v", list, bad, want)
	}
}
