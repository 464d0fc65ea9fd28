package wireguard

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/kernel"
)

func framesConfig(peers ...Peer) Config {
	c := config(peers...)
	c.ToldMark, c.WholeMark, c.FrameMask = 0x57000000, 0x57800000, 0xff800000
	return c
}

// There are more routes to a peer whose path is narrow, and only to such.
func TestSetFrames(t *testing.T) {
	d, wg, links := openFake(t)
	uplink(t, links)
	p, q := peer(2), peer(3)
	set(t, d, framesConfig(p, q))
	text(wg, links)

	p.Told, q.Told = p.MTU, p.MTU
	set(t, d, framesConfig(p, q))
	compare(t, "wide", text(wg, links))

	p.Told = MinTold - 1
	set(t, d, framesConfig(p, q))
	compare(t, "nobody can be told of that", text(wg, links))

	p.Told, q.Told, q.MTU = 1216, 1408, 1440
	set(t, d, framesConfig(p, q))
	compare(t, "narrow", text(wg, links),
		"ip route replace fd77:6566:7400::200/128 via fe80::1 dev weft-wg mtu 1280", // for gossip: IPv6 has no less
		"ip route replace fd77:6566:7400::300/128 via fe80::1 dev weft-wg mtu 1408",
		"ip route replace fd77:6566:7400::200/128 via fe80::1 dev weft-wg table 6786 mtu 1444",
		"ip route replace fd77:6566:7400::200/128 via fe80::1 dev weft-wg table 6785 mtu 1216",
		"ip route replace fd77:6566:7400::300/128 via fe80::1 dev weft-wg table 6786 mtu 1440",
		"ip route replace fd77:6566:7400::300/128 via fe80::1 dev weft-wg table 6785 mtu 1408",
		"ip -6 rule add priority 781 fwmark 0x57800000/0xff800000 lookup 6786",
		"ip -6 rule add priority 780 fwmark 0x57000000/0xff800000 lookup 6785",
	)
	set(t, d, framesConfig(p, q))
	compare(t, "again", text(wg, links))

	// What somebody takes away or changes comes back.
	at := netip.PrefixFrom(p.Overlay, 128)
	must(t, links.DelRoute(kernel.Route{Dst: at, Link: name, Table: 6786}))
	must(t, links.ReplaceRoute(kernel.Route{Dst: at, Link: name, Table: 6785, MTU: 1300}))
	must(t, links.DelRule(kernel.Rule{Priority: 780, Mark: 0x57000000, Mask: 0xff800000, Table: 6785, SuppressPrefix: -1, IPv6: true}))
	links.TakeChanges()
	repaired, err := d.Check()
	must(t, err)
	compare(t, "words", repaired, "a route for frames to fd77:6566:7400::200 was missing", "a rule for frames was missing")
	compare(t, "repaired", text(wg, links),
		"ip route replace fd77:6566:7400::200/128 via fe80::1 dev weft-wg table 6786 mtu 1444",
		"ip route replace fd77:6566:7400::200/128 via fe80::1 dev weft-wg table 6785 mtu 1216",
		"ip -6 rule add priority 780 fwmark 0x57000000/0xff800000 lookup 6785",
	)

	// One is wide again; a successor knows the other one by its routes only.
	d, _ = takeOver(t, links, wg)
	p.Told = p.MTU
	set(t, d, framesConfig(p, q))
	compare(t, "one is wide", text(wg, links),
		"ip route replace fd77:6566:7400::200/128 via fe80::1 dev weft-wg mtu 1444",
		"ip route del fd77:6566:7400::200/128 via fe80::1 dev weft-wg table 6785 mtu 1216",
		"ip route del fd77:6566:7400::200/128 via fe80::1 dev weft-wg table 6786 mtu 1444",
	)
	must(t, Remove(links, name))
	rules, err := links.Rules()
	must(t, err)
	for _, r := range rules {
		if r.Table == toldTable || r.Table == wholeTable {
			t.Errorf("after remove: %+v", r)
		}
	}
}

func TestLeastTold(t *testing.T) {
	p, q, r := peer(2), peer(3), peer(4)
	p.Told, q.Told, r.Told = 1408, 1216, 500
	if n := framesConfig(p, q, r).LeastTold(); n != 1216 {
		t.Errorf("%d", n)
	}
	if n := framesConfig(r).LeastTold(); n != 0 {
		t.Errorf("%d: nobody can be told of less than 576 bytes", n)
	}
	if n := config(p, q).LeastTold(); n != 0 {
		t.Errorf("%d without marks", n)
	}
}

func TestCuts(t *testing.T) {
	p, q, r, s := peer(2), peer(3), peer(4), peer(5)
	p.PathMTU, p.PathEndpoint = 1503, one // 1444 + 32 + 28 need 1504
	q.PathMTU, q.PathEndpoint = 1524, two // and over IPv6 1524
	r.PathMTU = 576                       // of where it is nothing is known
	s.PathMTU, s.PathEndpoint = 1280, one // behind the same relay
	got := config(p, q, r, s).Cuts()
	if d := cmp.Diff(map[netip.AddrPort]int{one: 1280}, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
