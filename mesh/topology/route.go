package topology

import (
	"cmp"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
)

// Relays returns up to n routes from here to dst, best first, each by another
// first relay. dst is never among the relays, nor are we. There are none to
// ourselves, or to somebody unknown.
//
// A route is what the relays would really do with our packets if they knew the
// same reports: behind the first one it is they who decide.
func (g *Graph) Relays(dst crypto.Identity, n int) []Route {
	to, ok := g.find(dst)
	if !ok || to == g.self || n <= 0 {
		return nil
	}
	var waiting []edge // to where we are bound, the nearest first, until settled
	for _, e := range g.hosts[g.self].edges {
		if e.out && e.to != to {
			waiting = append(waiting, e)
		}
	}
	slices.SortFunc(waiting, func(a, b edge) int { return cmp.Compare(a.rtt, b.rtt) })
	type choice struct {
		first edge
		cost  time.Duration
	}
	var choices []choice // the best first
	t := g.search(to)
	for len(waiting) > 0 {
		at, left, ok := t.settle()
		// Relays are settled by cost: who is not yet is no better than this one
		// would be behind the nearest that we wait for.
		if !ok || len(choices) >= n && choices[n-1].cost < left+waiting[0].rtt {
			break
		}
		i := slices.IndexFunc(waiting, func(e edge) bool { return e.to == at })
		if i < 0 {
			continue
		}
		if first := waiting[i]; !t.passes(at, g.self) {
			choices = append(choices, choice{first, first.rtt + left})
			slices.SortFunc(choices, func(a, b choice) int {
				return cmp.Or(cmp.Compare(a.cost, b.cost), a.first.to-b.first.to)
			})
		}
		waiting = slices.Delete(waiting, i, i+1)
	}
	var routes []Route
	for _, c := range choices[:min(n, len(choices))] {
		routes = append(routes, t.route(c.first))
	}
	return routes
}

// Next returns where our relay passes packets for dst on when dst is not bound
// here: the first relay after us on the best route. When every host has the
// same reports, packets that follow it from host to host reach dst and visit
// nobody twice. It is false when there is no such relay, and when dst says
// that it is bound here.
func (g *Graph) Next(dst crypto.Identity) (first crypto.Identity, ok bool) {
	to, ok := g.find(dst)
	if !ok || to == g.self {
		return crypto.Identity{}, false
	}
	for t := g.search(to); ; {
		at, _, ok := t.settle()
		if ok && at != g.self {
			continue
		}
		if !ok || t.nodes[at].next == t.dst {
			return crypto.Identity{}, false
		}
		return g.hosts[t.nodes[at].next].identity, true
	}
}

// search is Dijkstra's search from a destination outwards over the relays. It
// settles one after the other, the nearest first.
//
// A relay at which the destination is bound sends straight there, whatever
// that costs: it does not look for anything better.
type search struct {
	g     *Graph
	dst   int32
	nodes []node    // by number
	heap  []reached // a binary heap, the nearest on top
}

// node is a host as a relay.
type node struct {
	cost   time.Duration // what is left from it, itself included; 0: not reached
	next   int32         // the hop after it
	relays int32         // on the way, itself included
}

// reached is a relay with what it was reached at: one that was reached at less
// later is in the heap again.
type reached struct {
	cost time.Duration
	at   int32
}

func (a reached) before(b reached) bool {
	return a.cost < b.cost || a.cost == b.cost && a.at < b.at
}

func (g *Graph) search(dst int) *search {
	t := &search{g: g, dst: int32(dst), nodes: make([]node, len(g.hosts)), heap: make([]reached, 0, len(g.hosts))}
	for _, e := range g.hosts[dst].edges {
		if e.out {
			t.nodes[e.to] = node{e.rtt + hopCost, t.dst, 1}
			t.push(reached{e.rtt + hopCost, int32(e.to)})
		}
	}
	return t
}

// settle returns the next relay of which it is known how it reaches the
// destination, and what is left from there.
func (t *search) settle() (at int, left time.Duration, ok bool) {
	for len(t.heap) > 0 {
		top := t.pop()
		if top.cost > t.nodes[top.at].cost {
			continue
		}
		for _, s := range t.g.hosts[top.at].relaying {
			t.reach(s, top.at)
		}
		return int(top.at), top.cost, true
	}
	return 0, 0, false
}

// reach goes back from a relay that was settled to one before it. Of equal
// ways it takes the one by the smaller identity, so that all hosts take the
// same.
func (t *search) reach(s span, from int32) {
	before, after := &t.nodes[s.to], t.nodes[from]
	if s.to == t.dst || after.relays == MaxRelays || before.cost > 0 && before.next == t.dst {
		return
	}
	cost := after.cost + s.cost
	switch {
	case before.cost == 0 || cost < before.cost:
		t.push(reached{cost, s.to})
	case cost > before.cost || from > before.next:
		return
	}
	*before = node{cost, from, after.relays + 1}
}

// passes reports whether the way from a settled relay leads through host.
func (t *search) passes(relay, host int) bool {
	for at := int32(relay); at != t.dst; at = t.nodes[at].next {
		if at == int32(host) {
			return true
		}
	}
	return false
}

// route returns the whole route by its first hop.
func (t *search) route(first edge) Route {
	r := Route{Via: make([]crypto.Identity, 0, t.nodes[first.to].relays)}
	payload := 0
	for e := first; ; e, _ = t.g.edge(e.to, int(t.nodes[e.to].next)) {
		r.RTT += e.rtt
		if e.mtu > 0 {
			payload = lesser(payload, max(1, e.mtu-e.headers()))
		}
		if e.to == int(t.dst) {
			break
		}
		r.Via = append(r.Via, t.g.hosts[e.to].identity)
	}
	if payload > 0 {
		r.MTU = payload + first.headers()
	}
	return r
}

func (t *search) push(r reached) {
	h := append(t.heap, r)
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h[i].before(h[up]) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
	t.heap = h
}

func (t *search) pop() reached {
	h := t.heap
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			break
		}
		if down+1 < last && h[down+1].before(h[down]) {
			down++
		}
		if !h[down].before(h[i]) {
			break
		}
		h[i], h[down] = h[down], h[i]
		i = down
	}
	t.heap = h
	return top
}
