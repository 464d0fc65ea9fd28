package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/crypto"
)

// twin does what Graph does as the sentences say it, with maps, and looks at
// everything as often as it needs to.
type twin struct {
	self    crypto.Identity
	reports map[crypto.Identity]Report
}

func newTwin(self crypto.Identity, reports []Report) twin {
	w := twin{self, make(map[crypto.Identity]Report)}
	for _, r := range reports {
		w.reports[r.Owner] = r
	}
	return w
}

func (w twin) says(from, to crypto.Identity) (Link, bool) {
	for _, l := range w.reports[from].Links {
		if l.Peer == to && l.State == Direct && from != to {
			return l, true
		}
	}
	return Link{}, false
}

// edge: only when both list it, at the worse round trip and the lesser MTU.
func (w twin) edge(a, b crypto.Identity) (rtt time.Duration, mtu int, ipv4, ok bool) {
	x, okX := w.says(a, b)
	y, okY := w.says(b, a)
	rtt = max(x.RTT, y.RTT)
	if rtt == 0 {
		rtt = 100 * time.Millisecond
	}
	mtu = min(x.MTU, y.MTU)
	if mtu == 0 {
		mtu = max(x.MTU, y.MTU)
	}
	return rtt, mtu, x.Endpoint.Addr().Is4() || y.Endpoint.Addr().Is4(), okX && okY
}

func (w twin) bound(who, at crypto.Identity) bool {
	l, _ := w.says(who, at)
	_, _, _, ok := w.edge(who, at)
	return ok && l.Bound
}

type hop struct {
	cost time.Duration
	next crypto.Identity
}

// ways returns what every relay does with packets for dst.
func (w twin) ways(dst crypto.Identity) map[crypto.Identity]hop {
	ways := make(map[crypto.Identity]hop)
	for u := range w.reports {
		if rtt, _, _, ok := w.edge(u, dst); ok && w.bound(dst, u) {
			ways[u] = hop{rtt + 5*time.Millisecond, dst}
		}
	}
	for changed := true; changed; {
		changed = false
		for u := range w.reports {
			if u == dst || ways[u].next == dst {
				continue
			}
			for v, h := range ways {
				rtt, _, _, ok := w.edge(u, v)
				if !ok || !w.bound(u, v) && !w.bound(v, u) {
					continue
				}
				n := hop{rtt + 5*time.Millisecond + h.cost, v}
				if old, ok := ways[u]; !ok || n.cost < old.cost || n.cost == old.cost && n.next.Compare(old.next) < 0 {
					ways[u], changed = n, true
				}
			}
		}
	}
	return ways
}

func (w twin) relays(dst crypto.Identity, n int) []Route {
	ways := w.ways(dst)
	type choice struct {
		Route
		cost time.Duration
	}
	var all []choice
	for b := range w.reports {
		if b == dst || w.self == dst || !w.bound(w.self, b) || ways[b].cost == 0 {
			continue
		}
		rtt, _, _, _ := w.edge(w.self, b)
		c := choice{cost: rtt + ways[b].cost}
		payload := 0
		for from, at := w.self, b; ; from, at = at, ways[at].next {
			rtt, mtu, ipv4, _ := w.edge(from, at)
			c.RTT += rtt
			if mtu > 0 {
				fits := mtu - 48
				if ipv4 {
					fits = mtu - 28
				}
				if payload == 0 || fits < payload {
					payload = fits
				}
			}
			if at == dst {
				break
			}
			c.Via = append(c.Via, at)
		}
		if _, _, ipv4, _ := w.edge(w.self, b); payload > 0 && ipv4 {
			c.MTU = payload + 28
		} else if payload > 0 {
			c.MTU = payload + 48
		}
		if !slices.Contains(c.Via, w.self) {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b choice) int {
		return cmp.Or(cmp.Compare(a.cost, b.cost), a.Via[0].Compare(b.Via[0]))
	})
	var out []Route
	for _, c := range all[:min(n, len(all))] {
		out = append(out, c.Route)
	}
	return out
}

func (w twin) next(dst crypto.Identity) (crypto.Identity, bool) {
	h, ok := w.ways(dst)[w.self]
	if !ok || h.next == dst || w.self == dst {
		return crypto.Identity{}, false
	}
	return h.next, true
}

// drawReports draws what up to most hosts say, much of it contradictory.
func drawReports(t *rapid.T, most int) []Report {
	n := rapid.IntRange(1, most).Draw(t, "hosts")
	var reports []Report
	for i := range n {
		reports = append(reports, Report{Owner: id(i), NAT: NATKind(rapid.IntRange(0, 3).Draw(t, "NAT"))})
	}
	link := func(from, to int) {
		l := Link{
			Peer:  id(to),
			State: rapid.SampledFrom([]LinkState{Direct, Direct, Direct, Direct, Relayed, Pending}).Draw(t, "state"),
			Bound: rapid.Bool().Draw(t, "bound"),
			RTT:   time.Duration(rapid.SampledFrom([]int{0, 1, 1, 2, 2, 3, 3, 8, 50, 500}).Draw(t, "rtt")) * time.Millisecond,
			MTU:   rapid.SampledFrom([]int{0, 576, 1280, 1480, 1500, 9000}).Draw(t, "mtu"),
		}
		switch rapid.IntRange(0, 2).Draw(t, "family") {
		case 1:
			l.Endpoint = netip.MustParseAddrPort("192.0.2.1:1")
		case 2:
			l.Endpoint = netip.MustParseAddrPort("[2001:db8::1]:1")
		}
		reports[from].Links = append(reports[from].Links, l)
	}
	density := rapid.IntRange(1, 8).Draw(t, "density")
	for a := range n {
		for b := range a {
			switch d := rapid.IntRange(0, 9).Draw(t, "edge"); {
			case d < density:
				link(a, b)
				link(b, a)
			case d == 9: // one of them alone says so
				link(a, b)
			}
		}
	}
	return reports
}

func TestTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		reports := drawReports(t, 10)
		self := id(rapid.IntRange(0, len(reports)).Draw(t, "self")) // perhaps without a report
		n := rapid.IntRange(0, 4).Draw(t, "n")
		g, w := Build(self, reports), newTwin(self, reports)
		for i := range len(reports) + 1 {
			if d := gocmp.Diff(w.relays(id(i), n), g.Relays(id(i), n)); d != "" {
				t.Fatalf("relays of %d (-twin +graph):\n%s", i, d)
			}
			want, wantOK := w.next(id(i))
			if got, ok := g.Next(id(i)); got != want || ok != wantOK {
				t.Fatalf("next to %d: %v %v, want %v %v", i, got, ok, want, wantOK)
			}
		}
	})
}

// Neither the order of reports nor that of links matters.
func TestOrderOfReports(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		reports := drawReports(t, 14)
		var mixed []Report
		for _, r := range rapid.Permutation(reports).Draw(t, "reports") {
			r.Links = rapid.Permutation(r.Links).Draw(t, "links")
			mixed = append(mixed, r)
		}
		a, b := Build(id(0), reports), Build(id(0), mixed)
		for i := range reports {
			if d := gocmp.Diff(a.Relays(id(i), 3), b.Relays(id(i), 3)); d != "" {
				t.Fatal(d)
			}
		}
		if d := gocmp.Diff(a.Binds(10), b.Binds(10)); d != "" {
			t.Fatal(d)
		}
	})
}

// net draws a network in one line: "1-2 5" is an edge of 5 ms between hosts 1
// and 2 who are bound at each other, "1>2 5" one on which only 1 is bound,
// "1=2 5" one on which nobody is.
func net(lines ...string) []Report {
	all := make(map[int]*Report)
	report := func(i int) *Report {
		if all[i] == nil {
			all[i] = &Report{Owner: id(i)}
		}
		return all[i]
	}
	for _, line := range lines {
		var a, b, ms int
		var kind rune
		if _, err := fmt.Sscanf(line, "%d%c%d %d", &a, &kind, &b, &ms); err != nil {
			panic(line + ": " + err.Error())
		}
		rtt := time.Duration(ms) * time.Millisecond
		report(a).Links = append(report(a).Links, Link{Peer: id(b), State: Direct, RTT: rtt, Bound: kind != '='})
		report(b).Links = append(report(b).Links, Link{Peer: id(a), State: Direct, RTT: rtt, Bound: kind == '-'})
	}
	var out []Report
	for _, r := range all {
		out = append(out, *r)
	}
	return out
}

func number(x crypto.Identity) int { return int(x[1])<<8 | int(x[2]) }

func show(routes []Route) string {
	s := ""
	for _, r := range routes {
		for _, v := range r.Via {
			s += fmt.Sprintf("%d ", number(v))
		}
		s += fmt.Sprintf("%v; ", r.RTT)
	}
	return s
}

// Routes from host 1 to host 9.
func TestRoutes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
		next  int // of 1's relay towards 9; 0: none
	}{
		{"chain", []string{"1-2 1", "2-9 1"}, "2 2ms; ", 2},
		{"longer chain", []string{"1-2 1", "2-3 1", "3-4 1", "4-9 1"}, "2 3 4 4ms; ", 2},
		{"direct is no route", []string{"1-9 1"}, "", 0},
		{"beside the direct one", []string{"1-9 1", "1-2 3", "2-9 3"}, "2 6ms; ", 0},
		{"nobody there", []string{"1-2 1", "3-9 1"}, "", 0},
		{"we are not bound", []string{"2>1 1", "2-9 1"}, "", 2},
		{"it is not bound", []string{"1-2 1", "2>9 1"}, "", 0},
		{"nobody is bound between", []string{"1-2 1", "2=3 1", "3-9 1"}, "", 0},
		{"the first is bound at the second", []string{"1-2 1", "2>3 1", "3-9 1"}, "2 3 3ms; ", 2},
		{"the second is bound at the first", []string{"1-2 1", "3>2 1", "3-9 1"}, "2 3 3ms; ", 2},
		{"best first", []string{"1-2 9", "2-9 9", "1-3 1", "3-9 1", "1-4 5", "4-9 5"}, "3 2ms; 4 10ms; 2 18ms; ", 3},
		{"fewer relays", []string{"1-2 1", "2-3 1", "3-9 1", "1-4 3", "4-9 4"}, "4 7ms; 2 3 3ms; ", 4},
		{"more relays when that pays", []string{"1-2 1", "2-3 1", "3-9 1", "1-4 5", "4-9 5"}, "2 3 3ms; 4 10ms; ", 2},
		{"alike: the smaller identity", []string{"1-3 1", "3-9 1", "1-2 1", "2-9 1"}, "2 2ms; 3 2ms; ", 2},
		{"alike: the smaller identity, though it is farther", []string{"1-2 1", "2-9 3", "1-3 3", "3-9 1"}, "2 4ms; 3 4ms; ", 2},
		{"its relay would come back to us", []string{"1-2 1", "2-9 1", "1-3 1"}, "2 2ms; ", 2},
		{"the relay sends straight there", []string{"1-2 1", "2-9 90", "2-3 1", "3-9 1"}, "2 91ms; ", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := Build(id(1), net(tt.lines...))
			if got := show(g.Relays(id(9), 3)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if next, ok := g.Next(id(9)); ok != (tt.next != 0) || ok && number(next) != tt.next {
				t.Errorf("next %d %v, want %d", number(next), ok, tt.next)
			}
		})
	}
}

func TestRouteMTU(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[2001:db8::1]:1")
	type side struct {
		mtu int
		ep  netip.AddrPort
	}
	for _, tt := range []struct {
		name                       string
		first, firstBack, last, lb side
		want                       int
	}{
		{"IPv4", side{1500, v4}, side{1500, v4}, side{1400, v4}, side{1400, v4}, 1400},
		{"lesser of both ends", side{1500, v4}, side{1400, v4}, side{1500, v4}, side{1500, v4}, 1400},
		{"as IPv4 what fits IPv6", side{1500, v4}, side{1500, v4}, side{1500, v6}, side{1500, v6}, 1480},
		{"as IPv6 what fits IPv4", side{1500, v6}, side{1500, v6}, side{1400, v4}, side{1400, v4}, 1420},
		{"one hop not measured", side{0, v4}, side{0, v4}, side{1400, v4}, side{1400, v4}, 1400},
		{"one end measured", side{0, v4}, side{1300, v4}, side{1400, v4}, side{0, v4}, 1300},
		{"one end knows the family", side{1300, v4}, side{1300, netip.AddrPort{}}, side{1500, v4}, side{1500, v4}, 1300},
		{"none measured", side{0, v4}, side{0, v4}, side{0, v4}, side{0, v4}, 0},
		{"a lie: less than any host takes", side{1500, v4}, side{1500, v4}, side{1, v4}, side{1, v4}, 576},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := func(to int, s side) Link {
				return Link{Peer: id(to), State: Direct, Bound: true, RTT: time.Millisecond, MTU: s.mtu, Endpoint: s.ep}
			}
			g := Build(id(1), []Report{
				{Owner: id(1), Links: []Link{l(2, tt.first)}},
				{Owner: id(2), Links: []Link{l(1, tt.firstBack), l(3, tt.last)}},
				{Owner: id(3), Links: []Link{l(2, tt.lb)}},
			})
			routes := g.Relays(id(3), 1)
			if len(routes) != 1 || routes[0].MTU != tt.want {
				t.Errorf("got %+v, want MTU %d", routes, tt.want)
			}
		})
	}
}

// A route has at most MaxRelays relays; one more is none.
func TestLongestRoute(t *testing.T) {
	for _, extra := range []int{0, 1} {
		var lines []string
		last := MaxRelays + 1 + extra
		for i := range last {
			lines = append(lines, fmt.Sprintf("%d-%d 1", i, i+1))
		}
		g := Build(id(0), net(lines...))
		routes := g.Relays(id(last), 1)
		if _, ok := g.Next(id(last)); len(routes) != 1-extra || ok {
			t.Errorf("%d relays: %s, %v", last-1, show(routes), ok)
		}
		if _, ok := g.Next(id(last - 1 - extra)); !ok {
			t.Errorf("%d relays: no next hop", last-1)
		}
	}
}
