package topology

import (
	"cmp"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
)

const (
	// hopCost is added per relay: of two routes that take about as long, the
	// one with fewer relays is better, for the relays too. It also lets hosts
	// differ: as long as they do so by less about what is left to a peer, no
	// packet comes back.
	hopCost = 5 * time.Millisecond

	// unmeasured is the round trip of an edge that neither end has measured:
	// worse than most, so that silence wins nothing.
	unmeasured = 100 * time.Millisecond
)

// Graph is what follows from the reports for one host. It is immutable and
// safe for concurrent use.
type Graph struct {
	self  int // our number
	hosts []host
	links []Link // of our own report
}

// host is a node of the graph. Hosts are numbered by identity, so that the
// smaller number is the smaller identity.
type host struct {
	identity crypto.Identity
	nat      NATKind
	edges    []edge // by to
	relaying []span // those of them on which either end is bound at the other
}

// edge is one direction of an edge.
type edge struct {
	to     int
	rtt    time.Duration
	mtu    int  // 0: not known
	ipv4   bool // it is known that packets go over IPv4
	out    bool // the owner is bound at to
	in     bool // to is bound at the owner
	agreed bool // both ends list it; the others do not outlive Build
}

// span is what a search needs of an edge: it looks at all again and again.
type span struct {
	to   int32
	cost time.Duration // with that of the relay at the far end
}

// Build makes self's graph of what hosts say of their links, itself among
// them. Of several reports of one owner the last counts. The reports are not
// changed and must not be while the graph is in use.
func Build(self crypto.Identity, reports []Report) *Graph {
	latest := make(map[crypto.Identity]Report, len(reports)+1)
	latest[self] = Report{Owner: self}
	for _, r := range reports {
		latest[r.Owner] = r
	}
	g := &Graph{hosts: make([]host, 0, len(latest)), links: latest[self].Links}
	for id, r := range latest {
		h := host{identity: id, nat: r.NAT}
		if r.NAT > NATSymmetric {
			h.nat = NATUnknown
		}
		g.hosts = append(g.hosts, h)
	}
	slices.SortFunc(g.hosts, func(a, b host) int { return a.identity.Compare(b.identity) })
	g.self, _ = g.find(self)
	for i := range g.hosts {
		g.hosts[i].edges = g.claims(latest[g.hosts[i].identity])
	}
	g.agree()
	return g
}

// find returns a host's number.
func (g *Graph) find(id crypto.Identity) (int, bool) {
	return slices.BinarySearchFunc(g.hosts, id, func(h host, id crypto.Identity) int { return h.identity.Compare(id) })
}

// claims returns the direct links of a report with hosts that made one too.
func (g *Graph) claims(r Report) []edge {
	links := r.Links
	if !slices.IsSortedFunc(links, byPeer) { // it is not from Parse
		links = slices.SortedFunc(slices.Values(links), byPeer)
	}
	edges := make([]edge, 0, min(len(links), len(g.hosts)))
	to := 0
	for i, l := range links {
		for to < len(g.hosts) && g.hosts[to].identity.Compare(l.Peer) < 0 {
			to++
		}
		if to == len(g.hosts) {
			break
		}
		if l.Peer == g.hosts[to].identity && l.Peer != r.Owner && l.State == Direct && (i == 0 || l.Peer != links[i-1].Peer) {
			edges = append(edges, edge{
				to: to, rtt: wholeRTT(max(0, l.RTT)), mtu: believable(l.MTU), ipv4: l.Endpoint.Addr().Unmap().Is4(), out: l.Bound,
			})
		}
	}
	return edges
}

// agree keeps the edges that both ends list.
func (g *Graph) agree() {
	// Both lists are by number: while from grows, the place where a host lists
	// it only moves forward.
	next := make([]int, len(g.hosts))
	for from := range g.hosts {
		for i := range g.hosts[from].edges {
			e := &g.hosts[from].edges[i]
			if e.to < from {
				continue // seen from its other end
			}
			back, n := g.hosts[e.to].edges, next[e.to]
			for n < len(back) && back[n].to < from {
				n++
			}
			next[e.to] = n
			if n < len(back) && back[n].to == from {
				join(e, &back[n])
			}
		}
	}
	for i := range g.hosts {
		h := &g.hosts[i]
		h.edges = slices.DeleteFunc(h.edges, func(e edge) bool { return !e.agreed })
		for _, e := range h.edges {
			if e.out || e.in {
				h.relaying = append(h.relaying, span{int32(e.to), e.rtt + hopCost})
			}
		}
	}
}

// join makes one edge of what its two ends say.
func join(a, b *edge) {
	a.agreed, b.agreed = true, true
	a.in, b.in = b.out, a.out
	a.rtt = cmp.Or(max(a.rtt, b.rtt), unmeasured)
	a.mtu = lesser(a.mtu, b.mtu)
	a.ipv4 = a.ipv4 || b.ipv4
	b.rtt, b.mtu, b.ipv4 = a.rtt, a.mtu, a.ipv4
}

// lesser returns the lesser of two sizes of which 0 is not known.
func lesser(a, b int) int {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// headers returns the bytes around what an edge carries. When the protocol is
// not known, IPv6 leaves less and so is what can be relied on.
func (e edge) headers() int {
	if e.ipv4 {
		return signal.HeadersIPv4
	}
	return signal.HeadersIPv6
}

// edge returns the edge between two hosts.
func (g *Graph) edge(from, to int) (edge, bool) {
	i, ok := slices.BinarySearchFunc(g.hosts[from].edges, to, func(e edge, to int) int { return e.to - to })
	if !ok {
		return edge{}, false
	}
	return g.hosts[from].edges[i], true
}

// leastMTU is what every IPv4 host takes (RFC 791). A member that claims less
// would make others cut their packets to pieces.
const leastMTU = 576

// believable returns the MTU that a report says a link has; 0: not known.
func believable(mtu int) int {
	if mtu <= 0 {
		return 0
	}
	return max(mtu, leastMTU)
}
