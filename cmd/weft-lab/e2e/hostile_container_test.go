package e2e

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// fromSwitch: containers on the switch forge frames, in datagrams to the hosts
// that carry them.
func (s *siege) fromSwitch(t *testing.T) {
	neighbour := s.host.attach("neighbour", "10.32.0.3")
	mac := macOf(t, s.host.Place, "weft")
	// Without the rules, reverse path filtering would do their work by chance.
	s.host.sh("echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/weft/rp_filter")
	linkLocal := netip.MustParseAddr("fe80::57")
	ours := netip.MustParseAddr("2001:db8:1::57")
	port := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, vxlanPort) }
	from := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 600) }
	closed := []wall{{n: s.host, rules: []string{"switch-input"}, ipv6: true}}
	overlay := []wall{{n: s.host, rules: []string{"switch-input", "overlay-origin"}, ipv6: true}}
	// Where bridged packets pass through the firewall, the other host has a say.
	leaving := wall{n: s.peer, rules: []string{"overlay-origin", "overlay-leak-late"}}
	local := func(n *node) wall { return wall{n: n, rules: []string{"names-local"}} }
	for _, by := range []struct {
		where           string
		box             *box
		overlay, server []wall
	}{
		{"container of this host", neighbour, overlay, closed},
		{"container of another host", s.friend, append(overlay, leaving), append(closed, local(s.host), local(s.peer))},
	} {
		w := openWire(t, by.box.Place, "weft0")
		shot := func(d datagram) func(string) error { return s.forge(w, mac, d) }
		attacks := []attack{
			{
				name: "overlay address", walls: by.overlay,
				shoot: shot(datagram{src: from(ours), dst: port(s.host.overlay())}),
			},
			{
				name: "overlay address, in the name of a peer", walls: by.overlay,
				shoot: shot(datagram{src: from(s.peer.overlay()), dst: port(s.host.overlay())}),
			},
			{
				name: "underlay address", walls: closed,
				shoot: shot(datagram{src: from(ours), dst: port(s.host.Addr6())}),
			},
			{
				name: "underlay address, in pieces", walls: closed,
				shoot: shot(datagram{src: from(ours), dst: port(s.host.Addr6()), pieces: true}),
			},
			{
				name: "all nodes", walls: closed,
				shoot: shot(datagram{src: from(linkLocal), dst: port(netip.IPv6LinkLocalAllNodes())}),
			},
			{
				name: "loopback", holds: "the kernel takes nothing from outside that is for its loopback",
				shoot: shot(datagram{src: from(ours), dst: port(netip.IPv6Loopback())}),
			},
			{
				name: "IPv4", walls: closed, ear: s.datagrams,
				shoot: shot(datagram{src: from(by.box.addr), dst: port(s.host.Addr())}),
			},
			{
				name: "IPv4, the name server's address", walls: by.server, ear: s.datagrams,
				shoot: shot(datagram{src: from(by.box.addr), dst: port(resolver())}),
			},
		}
		t.Run(by.where, func(t *testing.T) { s.fend(t, attacks) })
	}

	// An exposed host leads containers out of the switch, under its address.
	t.Run("exposed", func(t *testing.T) {
		s.peer.must("expose", "10.32.0.202/12")
		s.friend.route(t, "10.32.0.202")
		a := s.asRoot(t, s.friend.Place)
		s.fend(t, []attack{{
			name: "IPv4, by way of another host", ear: s.datagrams, shoot: a.from4(600, s.host.Addr()),
			walls: []wall{{n: s.host, rules: []string{"vxlan-origin"}}},
		}})
		s.host.must("expose", "10.32.0.201/12")
		neighbour.route(t, "10.32.0.201")
		b := s.asRoot(t, neighbour.Place)
		s.fend(t, []attack{
			{
				name: "IPv4, its own host", walls: closed, ear: s.datagrams,
				shoot: b.from4(600, s.host.Addr()),
			},
			{
				name: "overlay address", walls: overlay,
				shoot: s.forge(openWire(t, neighbour.Place, "weft0"), mac, datagram{src: from(ours), dst: port(s.host.overlay())}),
			},
			{
				name: "underlay address", walls: closed,
				shoot: s.forge(openWire(t, s.friend.Place, "weft0"), mac, datagram{src: from(ours), dst: port(s.host.Addr6())}),
			},
		})
	})
}

// route gives the container a default route.
func (b *box) route(t testing.TB, via string) {
	t.Helper()
	if r := b.Run(t.Context(), "ip", "route", "add", "default", "via", via); r.Err != nil {
		t.Fatal(r)
	}
}

// foreignNetwork makes what another container engine would: a bridge with a
// container on it that reaches the outside by masquerade, over IPv4 and IPv6.
func (n *node) foreignNetwork(name string) *box {
	n.c.t.Helper()
	b := n.start(name)
	n.sh(`set -e
		ip link add other type bridge
		ip addr add 172.18.0.1/24 dev other
		ip addr add fd00:18::1/64 dev other nodad
		ip link set other up
		ip link add vother type veth peer name eth0 netns ` + b.Ref()[len("pid:"):] + `
		ip link set vother master other up
		for f in ipv4/ip_forward ipv4/conf/all/forwarding ipv6/conf/all/forwarding; do echo 1 > /proc/sys/net/$f; done
		nft 'table inet other { chain post { type nat hook postrouting priority srcnat;
			ip saddr 172.18.0.0/24 oifname != "other" masquerade; ip6 saddr fd00:18::/64 oifname != "other" masquerade; }; }'`)
	r := b.Run(n.c.t.Context(), "sh", "-c", `set -e
		ip addr add 172.18.0.10/24 dev eth0
		ip addr add fd00:18::10/64 dev eth0 nodad
		ip link set eth0 up
		ip route add default via 172.18.0.1
		ip route add default via fd00:18::1`)
	if r.Err != nil {
		n.c.t.Fatal(r)
	}
	return b
}

// fromOtherNetwork: containers of other networks of the hosts, which masquerade
// what they send, forge frames.
func (s *siege) fromOtherNetwork(t *testing.T) {
	host, underlay := s.host.overlay(), s.host.Addr6()
	gateway := netip.MustParseAddr("fd00:18::1")
	hostWall := func(rules ...string) wall { return wall{n: s.host, rules: rules} }
	port := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, vxlanPort) }

	here := s.host.foreignNetwork("here")
	wireHere := openWire(t, here.Place, "eth0")
	macHere := macOf(t, s.host.Place, "other")
	a := s.asRoot(t, here.Place)
	linkLocal := scopedNodes(t, here.Place)
	overlay := []wall{hostWall("vxlan-origin", "overlay-origin")}
	origin := []wall{hostWall("vxlan-origin")}
	t.Run("this host", func(t *testing.T) {
		s.fend(t, []attack{
			{name: "overlay address", walls: overlay, shoot: a.from6(600, host)},
			{name: "overlay address, any port", walls: overlay, shoot: a.from6(40000, host)},
			{
				name: "overlay address, in the name of a peer", walls: overlay,
				shoot: s.forge(wireHere, macHere, datagram{src: netip.AddrPortFrom(s.peer.overlay(), 600), dst: port(host)}),
			},
			{
				name: "overlay address, in pieces", walls: overlay,
				shoot: s.forge(wireHere, macHere, datagram{src: netip.MustParseAddrPort("[fd00:18::10]:600"), dst: port(host), pieces: true}),
			},
			{name: "underlay address", walls: origin, shoot: a.from6(601, underlay)},
			{name: "gateway", walls: origin, shoot: a.from6(602, gateway)},
			{name: "all nodes", walls: origin, shoot: a.from6(603, linkLocal)},
			{name: "IPv4", walls: origin, ear: s.datagrams, shoot: a.from4(600, s.host.Addr())},
			{name: "IPv4, gateway", walls: origin, ear: s.datagrams, shoot: a.from4(601, netip.MustParseAddr("172.18.0.1"))},
		})
	})

	there := s.peer.foreignNetwork("there")
	b := s.asRoot(t, there.Place)
	wireThere := openWire(t, there.Place, "eth0")
	macThere := macOf(t, s.peer.Place, "other")
	leave := wall{n: s.peer, rules: []string{"vxlan-origin", "overlay-origin", "tunnel-forward"}}
	tunnel := []wall{leave}
	out := wall{n: s.peer, rules: []string{"vxlan-origin"}}
	t.Run("another host", func(t *testing.T) {
		s.fend(t, []attack{
			{name: "overlay address", walls: tunnel, shoot: b.from6(600, host)},
			{
				name: "overlay address, in the name of its host", walls: tunnel,
				shoot: s.forge(wireThere, macThere, datagram{src: netip.AddrPortFrom(s.peer.overlay(), 600), dst: port(host)}),
			},
			{
				name: "overlay address, any port", walls: append(slices.Clone(tunnel), hostWall("vxlan-source-port")),
				shoot: b.from6(40000, host),
			},
			{name: "underlay address", walls: []wall{out, hostWall("vxlan-origin")}, shoot: b.from6(601, underlay)},
			{
				name: "IPv4", walls: []wall{out, hostWall("vxlan-origin")}, ear: s.datagrams,
				shoot: b.from4(600, s.host.Addr()),
			},
		})
	})
}

// scopedNodes is all nodes at eth0 of a place.
func scopedNodes(t testing.TB, p *lab.Place) netip.Addr {
	t.Helper()
	a, err := p.Scoped(netip.IPv6LinkLocalAllNodes(), "eth0")
	if err != nil {
		t.Fatal(err)
	}
	return a
}
