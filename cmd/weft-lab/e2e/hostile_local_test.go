package e2e

import (
	"net/netip"
	"testing"
)

// fromLocal: an unprivileged process of a host forges frames for containers of
// this host and of another one, with every trick that needs no privilege.
func (s *siege) fromLocal(t *testing.T) {
	index := func(link string) int {
		i, err := s.host.Index(link)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	scoped := func(n *node, a netip.Addr, link string) netip.Addr {
		a, err := n.Scoped(a, link)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	// at is an address with a port that anybody may send from, and with that
	// of the switch ports.
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }
	port := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, vxlanPort) }
	everybody := netip.IPv6LinkLocalAllNodes()
	host, peer := s.host.overlay(), s.peer.overlay()
	any6 := at(netip.IPv6Unspecified())

	here := s.asNobody(t, s.host)
	local := []wall{{n: s.host, rules: []string{"vxlan-local-sender", "vxlan-origin"}}}
	localOverlay := []wall{{n: s.host, rules: []string{"vxlan-local-sender", "vxlan-origin", "overlay-leak", "overlay-leak-late", "overlay-origin"}}}
	looped := []wall{{n: s.host, rules: []string{"vxlan-local-sender", "tunnel-only-us", "vxlan-source-port", "overlay-origin"}}}
	t.Run("this host", func(t *testing.T) {
		s.fend(t, []attack{
			{name: "overlay address", walls: local, shoot: here.from6(40000, host)},
			{name: "loopback", walls: local, shoot: here.from6(40001, netip.IPv6Loopback())},
			{name: "underlay address", walls: local, shoot: here.from6(40002, s.host.Addr6())},
			{name: "lowest port", walls: local, shoot: here.from6(1024, host)},
			{
				name: "in the name of a peer", walls: local,
				shoot: here.shot(u6(at(peer), foreign), port(host), nil, 0),
			},
			{
				name: "in the name of a peer, by packet", walls: local,
				shoot: here.shot(u6(any6, foreign), port(host), inName(peer, 0), 0),
			},
			{
				name: "in the name of a stranger, by packet", walls: local,
				shoot: here.shot(u6(any6, foreign), port(host), inName(s.stranger.Addr6(), 0), 0),
			},
			{
				name: "through the tunnel's device", walls: local,
				shoot: here.shot(u6(any6, through("weft-wg")), port(host), nil, 0),
			},
			{
				name: "through the tunnel's device, by packet", walls: local,
				shoot: here.shot(u6(any6, foreign), port(host), inName(peer, index("weft-wg")), 0),
			},
			{
				name: "through the bridge", holds: "there is no IPv6 on the bridge",
				shoot: here.shot(u6(any6, foreign), port(host), inName(peer, index("weft")), 0),
			},
			{
				name: "all nodes of the network", walls: local,
				shoot: here.shot(u6(any6, loopMulticast(index("eth0"))), port(scoped(s.host, everybody, "eth0")), nil, 0),
			},
			{
				name: "all nodes of the network, in the name of a peer", walls: localOverlay,
				shoot: here.shot(u6(at(peer), foreign, loopMulticast(index("eth0"))), port(scoped(s.host, everybody, "eth0")), nil, 0),
			},
			{
				name: "all nodes of the tunnel", walls: looped,
				shoot: here.shot(u6(at(host), loopMulticast(index("weft-wg"))), port(scoped(s.host, everybody, "weft-wg")), nil, 0),
			},
			{
				name: "IPv4 loopback", walls: local, ear: s.datagrams,
				shoot: here.from4(40003, netip.AddrFrom4([4]byte{127, 0, 0, 1})),
			},
			{name: "IPv4", walls: local, ear: s.datagrams, shoot: here.from4(40004, s.host.Addr())},
		})
	})

	there := s.asNobody(t, s.peer)
	leaving := wall{n: s.peer, rules: []string{"vxlan-local-sender"}}
	coming := wall{n: s.host, rules: []string{"vxlan-source-port"}}
	tunnel := []wall{leaving, coming}
	underlay := []wall{leaving, {n: s.host, rules: []string{"vxlan-origin"}}}
	t.Run("another host", func(t *testing.T) {
		s.fend(t, []attack{
			{name: "overlay address", walls: tunnel, shoot: there.from6(40000, host)},
			{
				name: "overlay address, in pieces", walls: tunnel,
				shoot: there.shot(u6(any6, inPieces), port(host), nil, 1350),
			},
			{
				name: "overlay address, in another name", holds: "WireGuard takes from a peer only what the peer's own address sent",
				shoot: there.shot(u6(at(host), foreign), port(host), nil, 0),
			},
			{
				name: "overlay address, by way of itself", holds: "a host follows no routing headers unless it is told to",
				shoot: there.shot(u6(any6, routed(host, host)), port(host), nil, 0),
			},
			{name: "underlay address", walls: underlay, shoot: there.from6(40001, s.host.Addr6())},
			{
				name: "all nodes of the network", walls: underlay,
				shoot: there.shot(u6(any6), port(scoped(s.peer, everybody, "eth0")), nil, 0),
			},
			{name: "IPv4", walls: underlay, ear: s.datagrams, shoot: there.from4(40002, s.host.Addr())},
		})
	})
}
