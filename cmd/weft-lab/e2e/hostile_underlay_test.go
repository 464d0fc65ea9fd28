package e2e

import (
	"net/netip"
	"testing"
)

// fromUnderlay: another machine on the network of the hosts forges frames.
func (s *siege) fromUnderlay(t *testing.T) {
	eth := openWire(t, s.stranger.Place, "eth0")
	mac := macOf(t, s.host.Place, "eth0")
	linkLocal, err := s.host.LinkLocal("eth0")
	if err != nil {
		t.Fatal(err)
	}
	strangers, err := s.stranger.LinkLocal("eth0")
	if err != nil {
		t.Fatal(err)
	}
	port := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, vxlanPort) }
	// From a port that switches send from.
	from := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 600) }
	me, overlay := s.stranger.Addr6(), s.host.overlay()
	origin := []wall{{n: s.host, rules: []string{"vxlan-origin"}}}
	both := []wall{{n: s.host, rules: []string{"vxlan-origin", "overlay-origin"}}}
	shot := func(d datagram) func(string) error { return s.forge(eth, mac, d) }
	s.fend(t, []attack{
		{
			name: "underlay address", walls: origin,
			shoot: shot(datagram{src: from(me), dst: port(s.host.Addr6())}),
		},
		{
			name: "underlay address, any port", walls: origin,
			shoot: shot(datagram{src: netip.AddrPortFrom(me, 40000), dst: port(s.host.Addr6())}),
		},
		{
			name: "underlay address, in the name of a peer", walls: origin,
			shoot: shot(datagram{src: from(s.peer.Addr6()), dst: port(s.host.Addr6())}),
		},
		{
			name: "underlay address, without checksum", walls: origin,
			shoot: shot(datagram{src: from(me), dst: port(s.host.Addr6()), noChecksum: true}),
		},
		{
			name: "underlay address, behind options", walls: origin,
			shoot: shot(datagram{src: from(me), dst: port(s.host.Addr6()), options: true}),
		},
		{
			name: "underlay address, in pieces", walls: origin,
			shoot: shot(datagram{src: from(me), dst: port(s.host.Addr6()), pieces: true}),
		},
		{
			name: "underlay address, in the name of a peer inside the tunnel", walls: both,
			shoot: shot(datagram{src: from(s.peer.overlay()), dst: port(s.host.Addr6())}),
		},
		{
			name: "link-local address", walls: origin,
			shoot: shot(datagram{src: from(strangers), dst: port(linkLocal)}),
		},
		{
			name: "all nodes", walls: origin,
			shoot: shot(datagram{src: from(strangers), dst: port(netip.IPv6LinkLocalAllNodes())}),
		},
		{
			name: "overlay address", walls: both,
			shoot: shot(datagram{src: from(me), dst: port(overlay)}),
		},
		{
			name: "overlay address, in the name of a peer", walls: both,
			shoot: shot(datagram{src: from(s.peer.overlay()), dst: port(overlay)}),
		},
		{
			name: "overlay address, in pieces", walls: both,
			shoot: shot(datagram{src: from(s.peer.overlay()), dst: port(overlay), pieces: true}),
		},
		{
			name: "overlay address, in its own name", walls: both,
			shoot: shot(datagram{src: from(overlay), dst: port(overlay)}),
		},
		// The kernel's port has no ears for IPv4. A program that has must not
		// hear anything either.
		{
			name: "IPv4", walls: origin, ear: s.datagrams,
			shoot: shot(datagram{src: from(s.stranger.Addr()), dst: port(s.host.Addr())}),
		},
		{
			name: "IPv4, in the name of a peer", walls: origin, ear: s.datagrams,
			shoot: shot(datagram{src: from(s.peer.Addr()), dst: port(s.host.Addr())}),
		},
		{
			name: "IPv4, to the frames", holds: "the switch port listens on IPv6 only",
			shoot: shot(datagram{src: from(s.stranger.Addr()), dst: port(s.host.Addr())}),
		},
	})
}
