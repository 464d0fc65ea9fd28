package bridge

import (
	"net"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/vxlan"
)

// Every rule that keeps something out, tried by the thing itself: with the
// rules nothing arrives, and without those named it does. Where two rules
// stand in one way, each is left out alone as well, and the other must hold.
func TestWalls(t *testing.T) {
	const port = 9999 // a service of the host, on all addresses
	payload := []byte(marker)
	overlayB := netip.MustParseAddr("fd77:6566:7400::2")
	underlayB := netip.MustParseAddr("2001:db8::2")
	// service returns an attempt to reach a UDP socket.
	service := func(where func(*lab) *kernel.Kernel, at uint16, attempt func(*lab)) func(*testing.T, *lab, bool) bool {
		return func(t *testing.T, l *lab, expected bool) bool {
			c := l.listen(where(l), int(at))
			attempt(l)
			_, arrived := received(c, expected)
			return arrived
		}
	}
	// frame returns an attempt to make a container see a frame.
	frame := func(attempt func(*lab)) func(*testing.T, *lab, bool) bool {
		return func(t *testing.T, l *lab, expected bool) bool {
			s := l.sniff(l.b.container, "weft0")
			attempt(l)
			return s.saw(payload, expected)
		}
	}
	hostB := func(l *lab) *kernel.Kernel { return l.b.Kernel }
	routeToB := func(l *lab, k *kernel.Kernel, link string, dst netip.Addr, via string) {
		ok(l.t, k.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(dst, dst.BitLen()), Via: netip.MustParseAddr(via), Link: link}))
	}
	tests := []struct {
		name         string
		try          func(*testing.T, *lab, bool) bool
		omitA, omitB []string
	}{
		{
			name: "underlay to a service at the overlay address",
			try: service(hostB, port, func(l *lab) {
				routeToB(l, l.stranger, "lan", overlayB, "2001:db8::2")
				l.send(l.stranger, netip.AddrPort{}, to(overlayB, port), payload)
			}),
			omitB: []string{"overlay-origin"},
		},
		{
			name: "underlay with a forged overlay source",
			try: service(hostB, port, func(l *lab) {
				src := netip.MustParseAddr("fd77:6566:7400::1")
				ok(l.t, l.stranger.AddAddr("lan", netip.PrefixFrom(src, 128), true))
				// What the receiver answers to a neighbour solicitation goes into
				// its tunnel.
				eth0, err := l.b.Link("eth0")
				ok(l.t, err)
				l.run(l.stranger, "ip neigh replace "+underlayB.String()+" dev lan lladdr "+eth0.MAC.String())
				l.send(l.stranger, to(src, 0), to(underlayB, port), payload)
			}),
			omitB: []string{"overlay-origin"},
		},
		{
			name: "peer to a service at the overlay address",
			try: service(hostB, port, func(l *lab) {
				l.send(l.a.Kernel, netip.AddrPort{}, to(overlayB, port), payload)
			}),
			omitB: []string{"tunnel-input"},
		},
		{
			name: "peer through the tunnel to another address of the host",
			try: service(hostB, 6786, func(l *lab) {
				ok(l.t, l.a.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(underlayB, 128), Link: "weft-wg"}))
				l.send(l.a.Kernel, to(l.a.cfg.Overlay, 0), to(underlayB, 6786), payload)
			}),
			omitB: []string{"tunnel-only-us"},
		},
		{
			name: "peer through the tunnel by IPv4",
			try: service(hostB, 6786, func(l *lab) {
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/all/rp_filter", "0"))
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/weft-wg/rp_filter", "0"))
				ok(l.t, l.a.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(l.b.underlay, 32), Link: "weft-wg"}))
				l.send(l.a.Kernel, to(l.a.underlay, 0), to(l.b.underlay, 6786), payload)
			}),
			omitB: []string{"tunnel-only-us"},
		},
		{
			name: "peer through the tunnel to a container of another network",
			try: service(func(l *lab) *kernel.Kernel { return l.b.neighbour }, port, func(l *lab) {
				dst := netip.MustParseAddr("fd00:18::10")
				ok(l.t, l.a.DelRoute(kernel.Route{Dst: netip.MustParsePrefix("fd00:18::/64"), Link: "other"}))
				ok(l.t, l.a.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(dst, 128), Link: "weft-wg"}))
				l.send(l.a.Kernel, to(l.a.cfg.Overlay, 0), to(dst, port), payload)
			}),
			omitB: []string{"tunnel-only-us", "tunnel-forward", "overlay-leak-late"},
		},
		{
			name: "forged frame from the underlay to the underlay address",
			try: frame(func(l *lab) {
				l.send(l.stranger, to(netip.MustParseAddr("2001:db8::9"), 600), to(underlayB, 6785), forgedVXLAN())
			}),
			omitB: []string{"vxlan-origin"},
		},
		{
			name: "forged frame from the underlay to the overlay address",
			try: frame(func(l *lab) {
				routeToB(l, l.stranger, "lan", overlayB, "2001:db8::2")
				l.send(l.stranger, to(netip.MustParseAddr("2001:db8::9"), 600), to(overlayB, 6785), forgedVXLAN())
			}),
			omitB: []string{"vxlan-origin", "overlay-origin"},
		},
		{
			name: "forged frame from an unprivileged process of a peer",
			try: frame(func(l *lab) {
				l.send(l.a.Kernel, to(l.a.cfg.Overlay, 40000), to(overlayB, 6785), forgedVXLAN())
			}),
			omitA: []string{"vxlan-local-sender"},
			omitB: []string{"vxlan-source-port"},
		},
		{
			name: "forged frame from an unprivileged process of this host",
			try: frame(func(l *lab) {
				l.send(l.b.Kernel, to(overlayB, 40000), to(overlayB, 6785), forgedVXLAN())
			}),
			omitB: []string{"vxlan-local-sender", "vxlan-origin"},
		},
		{
			name: "forged frame from a container behind masquerade",
			try: frame(func(l *lab) {
				l.run(l.a, `nft 'add table ip6 docker; add chain ip6 docker post { type nat hook postrouting priority 100; }; add rule ip6 docker post ip6 saddr fd00:18::/64 oifname != "other" masquerade'`)
				l.send(l.a.neighbour, to(netip.MustParseAddr("fd00:18::10"), 600), to(overlayB, 6785), forgedVXLAN())
			}),
			omitA: []string{"overlay-origin", "vxlan-origin", "tunnel-forward"},
		},
		{
			// The bridge answers questions that come out of a tunnel, too. Who
			// learns from that sends the frames of that container here.
			name: "answer for a container of a third host, to another host",
			try: func(t *testing.T, l *lab, expected bool) bool {
				x := kernel.MAC{0x02, 0xab, 0xcd, 0xef, 0x01, 0x09}
				third := netip.MustParseAddr("fd77:6566:7400::3")
				v := vxlan.New(l.a.Kernel, nil)
				ok(t, v.Set(fdb.Config{
					Name: "weft-vx", Bridge: "weft", VNI: vni, Port: 6785, Local: l.a.cfg.Overlay, MTU: 1370,
					Remotes: []fdb.Remote{{Overlay: l.b.cfg.Overlay}, {Overlay: third}},
					Known:   []fdb.Known{{MAC: fdb.MAC(x), At: third, Addrs: []netip.Addr{netip.MustParseAddr("10.32.0.9")}}},
				}))
				s := l.sniff(l.b.container, "weft0")
				for range 3 {
					_, _ = shell(l.b.container, "ping -c 1 -W 0.1 10.32.0.9")
					if s.saw(x[:], expected) {
						return true
					}
				}
				return false
			},
			omitA: []string{"vxlan-local-sender"}, // the kernel's own answers have no mark
		},
		{
			name: "host without its tunnel sends in clear",
			try: func(t *testing.T, l *lab, expected bool) bool {
				ok(t, l.b.DelLink("weft-wg"))
				ok(t, l.b.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("2001:db8::9"), Link: "eth0"}))
				s := l.sniff(l.stranger, "lan")
				l.send(l.b.Kernel, netip.AddrPort{}, to(l.a.cfg.Overlay, 6786), payload)
				return s.saw(payload, expected)
			},
			omitB: []string{"overlay-leak", "overlay-leak-late"},
		},
		{
			name: "peer opens a connection from the port of gossip",
			try: func(t *testing.T, l *lab, expected bool) bool {
				at := echo(t, l.b.Kernel, netip.AddrPortFrom(l.b.cfg.Overlay, port))
				return reaches(l.a.Kernel, netip.AddrPortFrom(l.a.cfg.Overlay, l.a.cfg.GossipPort), at, expected)
			},
			omitB: []string{"tunnel-input"},
		},
		{
			name: "container to a service of its host, at the address of the name server",
			try: service(hostB, port, func(l *lab) {
				l.send(l.b.container, netip.AddrPort{}, to(dns, port), payload)
			}),
			omitB: []string{"switch-input"},
		},
		{
			name: "container to a service of its host, at the underlay address",
			try: service(hostB, port, func(l *lab) {
				// Strict reverse path filtering would hide the missing rule.
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/all/rp_filter", "0"))
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/weft/rp_filter", "0"))
				routeViaBridge(l, l.b, l.b.underlay)
				l.send(l.b.container, netip.AddrPort{}, to(l.b.underlay, port), payload)
			}),
			omitB: []string{"switch-input"},
		},
		{
			name: "container of another host to a service of the host",
			try: service(hostB, port, func(l *lab) {
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/all/rp_filter", "0"))
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/weft/rp_filter", "0"))
				ok(l.t, l.a.container.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(l.b.underlay, 32), Link: "weft0"}))
				l.run(l.a.container, "ip neigh replace "+l.b.underlay.String()+" dev weft0 lladdr "+l.b.cfg.MAC.String())
				l.send(l.a.container, netip.AddrPort{}, to(l.b.underlay, port), payload)
			}),
			omitB: []string{"switch-input"},
		},
		{
			name: "container through its host to the underlay",
			try: service(func(l *lab) *kernel.Kernel { return l.stranger }, port, func(l *lab) {
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/all/rp_filter", "0"))
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/weft/rp_filter", "0"))
				routeViaBridge(l, l.b, strangerIP)
				l.send(l.b.container, netip.AddrPort{}, to(strangerIP, port), payload)
			}),
			omitB: []string{"switch-forward"},
		},
		{
			name: "another container network to a container, in the name server's name",
			try: service(func(l *lab) *kernel.Kernel { return l.b.container }, port, func(l *lab) {
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/all/rp_filter", "0"))
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/other/rp_filter", "0"))
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/other/accept_local", "1"))
				ok(l.t, l.b.neighbour.AddAddr("lo", netip.PrefixFrom(dns, 32), true))
				l.send(l.b.neighbour, to(dns, 5353), to(containerIP(2), port), payload)
			}),
			omitB: []string{"switch-forward"},
		},
		{
			name: "host to a container, in the name server's name",
			try: service(func(l *lab) *kernel.Kernel { return l.b.container }, port, func(l *lab) {
				l.send(l.b.Kernel, to(dns, 5353), to(containerIP(2), port), payload)
			}),
			omitB: []string{"switch-output"},
		},
		{
			name: "container whose port is not on the bridge",
			try: service(hostB, port, func(l *lab) {
				ok(l.t, l.b.SetMaster("wv1", ""))
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/all/rp_filter", "0"))
				ok(l.t, l.b.SetSysctl("net/ipv4/conf/wv1/rp_filter", "0"))
				wv, err := l.b.Link("wv1")
				ok(l.t, err)
				ok(l.t, l.b.container.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(l.b.underlay, 32), Link: "weft0"}))
				l.run(l.b.container, "ip neigh replace "+l.b.underlay.String()+" dev weft0 lladdr "+wv.MAC.String())
				l.send(l.b.container, netip.AddrPort{}, to(l.b.underlay, port), payload)
			}),
			omitB: []string{"loose-port"},
		},
		{
			name: "underlay to the name server",
			try: service(hostB, 53, func(l *lab) {
				// The lab's uplinks are veths, as those of containers are; a
				// macvlan on top looks like neither.
				l.run(l.b, "ip link add link eth0 name up0 type macvlan mode bridge && ip link set up0 up && ip addr add 198.51.100.2/24 dev up0")
				ok(l.t, l.stranger.AddAddr("lan", netip.MustParsePrefix("198.51.100.9/24"), true))
				routeToB(l, l.stranger, "lan", dns, "198.51.100.2")
				l.send(l.stranger, to(netip.MustParseAddr("198.51.100.9"), 0), to(dns, 53), payload)
			}),
			omitB: []string{"names-origin"},
		},
		{
			name: "ARP about the name server crosses the tunnel",
			try: frame(func(l *lab) {
				arp := []byte{
					0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 6, 6, 6, 6, 6, 0x08, 0x06,
					0, 1, 8, 0, 6, 4, 0, 1, 0x02, 6, 6, 6, 6, 6, 10, 32, 0, 10, 0, 0, 0, 0, 0, 0, 169, 254, 67, 83,
				}
				l.inject(l.a.container, "weft0", append(arp, marker...))
			}),
			omitA: []string{"names-local"},
			omitB: []string{"names-local"},
		},
		{
			name: "packet in the name server's name crosses the tunnel",
			try: frame(func(l *lab) {
				ip := []byte{
					0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 6, 6, 6, 6, 6, 0x08, 0x00,
					0x45, 0, 0, 40, 0, 0, 0, 0, 64, 253, 0x82, 0x54, 169, 254, 67, 83, 10, 32, 0, 20,
				}
				l.inject(l.a.container, "weft0", append(ip, marker...))
			}),
			omitA: []string{"names-local"},
			omitB: []string{"names-local"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.try(t, newLab(t, nil, nil), false) {
				t.Errorf("arrived")
			}
			if !tt.try(t, newLab(t, tt.omitA, tt.omitB), true) {
				t.Errorf("without %q and %q it did not arrive either: the test shows nothing", tt.omitA, tt.omitB)
			}
			if len(tt.omitA)+len(tt.omitB) == 1 {
				return
			}
			for i := range tt.omitA {
				if tt.try(t, newLab(t, tt.omitA[i:i+1], nil), false) {
					t.Errorf("%s of the sender held alone", tt.omitA[i])
				}
			}
			for i := range tt.omitB {
				if tt.try(t, newLab(t, nil, tt.omitB[i:i+1]), false) {
					t.Errorf("%s of the receiver held alone", tt.omitB[i])
				}
			}
		})
	}
}

// reaches tries to open a TCP connection.
func reaches(k *kernel.Kernel, from, to netip.AddrPort, expected bool) bool {
	return k.Do(func() error {
		d := net.Dialer{Timeout: patience(expected), LocalAddr: net.TCPAddrFromAddrPort(from)}
		c, err := d.Dial("tcp", to.String())
		if err != nil {
			return err
		}
		return c.Close()
	}) == nil
}

// routeViaBridge makes the container of a host take the host's bridge for a
// router.
func routeViaBridge(l *lab, h *host, dst netip.Addr) {
	ok(l.t, h.container.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(dst, 32), Link: "weft0"}))
	l.run(h.container, "ip neigh replace "+dst.String()+" dev weft0 lladdr "+h.cfg.MAC.String())
}
