package topology

import (
	"cmp"
	"math/bits"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
)

const (
	bindAll     = 8 // with no more neighbours we are bound at all of them
	bindNearest = 3

	// A neighbour is nearer than one at which we are bound when it is so by
	// both: otherwise a wobbling round trip would move us.
	bindCloser = 10 * time.Millisecond
	bindShare  = 70 // per cent
)

// Binds returns the neighbours at whose relays we should be bound, by
// identity: all that we reach directly when they are few. Otherwise
//
//   - for each peer behind a neighbour, one neighbour that we have in common
//     with it. Both ends choose the same, so both are bound there. None of
//     these is ever left out: there may be no other way to that peer. As every
//     host does so, there is a route wherever there are edges;
//   - up to most in all: the three nearest; one for each peer that we reach
//     directly now; a second one for each; and those where we are bound
//     already.
//
// The same reports give the same answer, and as long as hosts are bound where
// it says, changes elsewhere rarely change it.
func (g *Graph) Binds(most int) []crypto.Identity {
	direct := slices.DeleteFunc(slices.Clone(g.links), func(l Link) bool { return l.State != Direct })
	var chosen []crypto.Identity
	add := func(limit int, list []crypto.Identity) {
		for _, id := range list {
			if len(chosen) < limit && !slices.Contains(chosen, id) {
				chosen = append(chosen, id)
			}
		}
	}
	if len(direct) <= bindAll {
		add(bindAll, nearest(direct, bindAll))
	} else {
		behind, beside := g.common()
		add(len(direct), g.byUse(behind, 0))
		add(most, nearest(direct, bindNearest))
		add(most, g.byUse(beside, 0))
		add(most, g.byUse(behind, 1))
		add(most, g.byUse(beside, 1))
		bound := slices.DeleteFunc(direct, func(l Link) bool { return !l.Bound })
		add(most, nearest(bound, len(bound)))
	}
	slices.SortFunc(chosen, crypto.Identity.Compare)
	return chosen
}

// nearest returns the n nearest ends of links.
func nearest(links []Link, n int) []crypto.Identity {
	far := func(l Link) time.Duration {
		rtt := cmp.Or(l.RTT, unmeasured)
		if l.Bound {
			rtt = min(rtt*bindShare/100, rtt-bindCloser)
		}
		return rtt
	}
	links = slices.SortedFunc(slices.Values(links), func(a, b Link) int {
		return cmp.Or(cmp.Compare(far(a), far(b)), byPeer(a, b))
	})
	var out []crypto.Identity
	for _, l := range links[:min(n, len(links))] {
		out = append(out, l.Peer)
	}
	return out
}

// shared is up to two neighbours that we have in common with a peer, the best
// first, by their place in our edges.
type shared struct {
	n    int
	by   [2]int
	rank [2]int
}

// common returns what we share with the peers that we do not reach directly,
// and with those that we do. The order is one that both ends agree on: where
// both are bound already, and then by standing.
func (g *Graph) common() (behind, beside []shared) {
	edges := g.hosts[g.self].edges
	rank := make([]int, len(edges))
	order := make([]int, len(edges))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return g.byStanding(edges[a].to, edges[b].to) })
	for place, i := range order {
		rank[i] = place
	}
	peers := make([]shared, len(g.hosts))
	for i, e := range edges {
		for _, f := range g.hosts[e.to].edges {
			r := rank[i]
			if !e.out || !f.in {
				r += len(edges)
			}
			peers[f.to].add(i, r)
		}
	}
	for to, s := range peers {
		if to == g.self || s.n == 0 {
			continue
		}
		if _, ok := g.edge(g.self, to); ok {
			beside = append(beside, s)
		} else {
			behind = append(behind, s)
		}
	}
	return behind, beside
}

func (s *shared) add(by, rank int) {
	switch {
	case s.n == 0 || rank < s.rank[0]:
		s.by, s.rank = [2]int{by, s.by[0]}, [2]int{rank, s.rank[0]}
	case s.n == 1 || rank < s.rank[1]:
		s.by[1], s.rank[1] = by, rank
	}
	s.n = min(s.n+1, 2)
}

// byStanding orders hosts, the best relay first, by what everybody knows of
// them and what seldom changes: the NAT before them, how many neighbours they
// have, roughly, and who they are.
func (g *Graph) byStanding(a, b int) int {
	nat := [...]int{NATNone: 0, NATUnknown: 1, NATEndpointIndependent: 2, NATSymmetric: 3}
	x, y := g.hosts[a], g.hosts[b]
	return cmp.Or(nat[x.nat]-nat[y.nat], bits.Len(uint(len(y.edges)))-bits.Len(uint(len(x.edges))), a-b)
}

// byUse returns the neighbours that are the best (0) or the second best (1)
// for some peer, those that are so for many first.
func (g *Graph) byUse(peers []shared, which int) []crypto.Identity {
	edges := g.hosts[g.self].edges
	uses := make([]int, len(edges))
	var used []int
	for _, s := range peers {
		if which >= s.n {
			continue
		}
		i := s.by[which]
		if uses[i]++; uses[i] == 1 {
			used = append(used, i)
		}
	}
	slices.SortFunc(used, func(a, b int) int { return cmp.Or(uses[b]-uses[a], g.byStanding(edges[a].to, edges[b].to)) })
	out := make([]crypto.Identity, len(used))
	for i, u := range used {
		out[i] = g.hosts[edges[u].to].identity
	}
	return out
}
