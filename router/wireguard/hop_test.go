package wireguard

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/router/kernel"
)

// TestHopOfOldRoutes gives the routes that an earlier release left the common
// hop, and does not take them away first.
func TestHopOfOldRoutes(t *testing.T) {
	d, wg, links := openFake(t)
	set(t, d, config(peer(2), peer(3)))
	must(t, links.ReplaceRoute(kernel.Route{Dst: netip.PrefixFrom(overlay(2), 128), Link: name, MTU: 1444}))
	text(wg, links)
	set(t, d, config(peer(2), peer(3)))
	compare(t, "changes", text(wg, links), "ip route replace fd77:6566:7400::200/128 via fe80::1 dev weft-wg mtu 1444")
}

// TestOneNeighbour wants the kernel to keep one neighbour for all peers, however
// many it has sent something to, and the routes to be as they were but for that.
func TestOneNeighbour(t *testing.T) {
	if !alone(t) {
		return
	}
	k, err := kernel.New()
	must(t, err)
	d, err := Open(Options{Name: name, Mode: Userspace, Links: k})
	must(t, err)
	defer func() { must(t, d.Close()) }()
	var peers []Peer
	for b := byte(2); b < 52; b++ {
		p := peer(b)
		p.MTU = 1300
		peers = append(peers, p)
	}
	c := config(peers...)
	set(t, d, c)
	s, err := net.ListenUDP("udp6", &net.UDPAddr{IP: own.AsSlice()})
	must(t, err)
	defer s.Close()
	for _, p := range peers {
		if _, err := s.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(p.Overlay, 9)); err != nil {
			t.Errorf("to %s: %v", p.Overlay, err)
		}
	}
	out := run(t, "ip", "-6", "neigh", "show", "dev", name, "nud", "all")
	var others []string
	for line := range strings.Lines(out) {
		// waitUsable may ask before the kernel takes what is for own itself.
		if !strings.HasPrefix(line, own.String()+" ") {
			others = append(others, line)
		}
	}
	if len(others) != 1 || !strings.HasPrefix(others[0], "fe80::1 ") {
		t.Errorf("neighbours of %d peers:\n%s", len(peers), out)
	}
	out = run(t, "ip", "-6", "route", "get", overlay(9).String())
	for _, want := range []string{"dev " + name, "src " + own.String(), "mtu 1300"} {
		if !strings.Contains(out, want) {
			t.Errorf("the route lacks %q: %s", want, out)
		}
	}
}
