package topology

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
)

// world is a network of hosts that report their links, and are bound where
// Binds says.
type world struct {
	rand    *rand.Rand
	rtt     []map[int]time.Duration // of links that stand, by both ends
	bound   []map[int]bool          // where each host is bound
	reports []Report                // as published last
}

func newWorld(n int, seed uint64) *world {
	w := &world{rand: rand.New(rand.NewPCG(seed, 0)), reports: make([]Report, n)}
	for i := range n {
		w.rtt = append(w.rtt, make(map[int]time.Duration))
		w.bound = append(w.bound, make(map[int]bool))
		w.publish(i)
	}
	return w
}

func (w *world) link(a, b int) {
	if a != b {
		d := time.Duration(100+w.rand.IntN(50_000)) * time.Microsecond
		w.rtt[a][b], w.rtt[b][a] = d, d
	}
}

func (w *world) cut(a, b int) {
	for _, e := range [][2]int{{a, b}, {b, a}} {
		delete(w.rtt[e[0]], e[1])
		delete(w.bound[e[0]], e[1])
	}
}

// publish replaces a host's report; those that others have are not touched.
func (w *world) publish(i int) {
	r := Report{Owner: id(i), Seq: w.reports[i].Seq + 1}
	for peer, d := range w.rtt[i] {
		r.Links = append(r.Links, Link{Peer: id(peer), State: Direct, RTT: d, Bound: w.bound[i][peer]})
	}
	w.reports[i] = r.byPeer()
}

// at returns what Build would for another self.
func (g *Graph) at(self int, reports []Report) *Graph {
	other := *g
	other.self, other.links = self, reports[self].Links
	return &other
}

// bind binds every host where it should be, again and again until none wants
// to be elsewhere, and returns how often that took. All hosts publish.
func (w *world) bind(t testing.TB, most int) (rounds int) {
	t.Helper()
	for i := range w.reports {
		w.publish(i)
	}
	for changed := true; changed; rounds++ {
		if rounds == 10 {
			t.Fatal("hosts do not agree where to be bound")
		}
		changed = false
		g := Build(id(0), w.reports)
		for i := range w.reports {
			bound := make(map[int]bool)
			for _, x := range g.at(i, w.reports).Binds(most) {
				bound[number(x)] = true
				changed = changed || !w.bound[i][number(x)]
			}
			changed = changed || len(bound) != len(w.bound[i])
			w.bound[i] = bound
		}
		for i := range w.reports {
			w.publish(i)
		}
	}
	return rounds
}

// neighbours returns with whom each host has a link.
func (w *world) neighbours() [][]int {
	out := make([][]int, len(w.rtt))
	for i, m := range w.rtt {
		out[i] = slices.Collect(maps.Keys(m))
	}
	return out
}

// distances counts the hops from a host to all that it is joined with; 0: it
// is not, or is the host itself.
func distances(neighbours [][]int, from int) []int {
	far, queue := make([]int, len(neighbours)), []int{from}
	for i := 0; i < len(queue); i++ {
		for _, peer := range neighbours[queue[i]] {
			if far[peer] == 0 && peer != from {
				far[peer] = far[queue[i]] + 1
				queue = append(queue, peer)
			}
		}
	}
	return far
}

// checkAll fails unless there is a route between any two hosts that links join
// over others. It returns how many pairs there are with a link of their own,
// and how many of those have a route besides.
func (w *world) checkAll(t *testing.T) (linked, spare int) {
	t.Helper()
	g, neighbours := Build(id(0), w.reports), w.neighbours()
	for dst := range w.reports {
		s := g.search(dst)
		for _, _, ok := s.settle(); ok; _, _, ok = s.settle() {
		}
		for self, far := range distances(neighbours, dst) {
			if far == 0 {
				continue
			}
			ok := slices.ContainsFunc(g.hosts[self].edges, func(e edge) bool {
				return e.out && e.to != dst && s.nodes[e.to].cost > 0 && !s.passes(e.to, self)
			})
			switch {
			case far == 1 && ok:
				linked, spare = linked+1, spare+1
			case far == 1:
				linked++
			case !ok:
				t.Fatalf("no route from %d to %d, %d hops away", self, dst, far)
			}
		}
	}
	return linked, spare
}

// checkSome fails unless packets of every host for dst arrive, or end where
// they begin, when hosts pass them on one after the other, each by its own
// graph of the same reports; and unless routes are what these reports allow and
// what would happen. (It looks at the routes of a quarter of the hosts.)
func (w *world) checkSome(t *testing.T, dst int) {
	t.Helper()
	g := Build(id(0), w.reports)
	naive := newTwin(id(0), w.reports)
	next := make(map[int]int) // what every relay does
	for u := range w.reports {
		if naive.bound(id(dst), id(u)) {
			next[u] = dst
		} else if x, ok := g.at(u, w.reports).Next(id(dst)); ok {
			next[u] = number(x)
		}
	}
	for self := range w.reports {
		for seen, at := map[int]bool{}, self; at != dst; at = next[at] {
			if seen[at] {
				t.Fatalf("a packet of %d for %d comes back to %d", self, dst, at)
			}
			if _, ok := next[at]; !ok && at != self {
				t.Fatalf("a packet of %d for %d ends at %d", self, dst, at)
			} else if !ok {
				break
			}
			seen[at] = true
		}
		if (self+dst)%4 > 0 {
			continue
		}
		firsts := make(map[crypto.Identity]bool)
		for _, r := range g.at(self, w.reports).Relays(id(dst), 3) {
			if firsts[r.Via[0]] {
				t.Fatalf("two routes by one first relay: %s", show([]Route{r}))
			}
			firsts[r.Via[0]] = true
			hops := append(slices.Clone(r.Via), id(dst))
			from, seen := id(self), map[crypto.Identity]bool{id(self): true}
			for i, to := range hops {
				_, _, _, edge := naive.edge(from, to)
				ok := naive.bound(from, to) || naive.bound(to, from)
				if i == 0 {
					ok = naive.bound(from, to)
				} else if next[number(from)] != number(to) {
					t.Fatalf("route %s of %d to %d: %d sends to %d", show([]Route{r}), self, dst, number(from), next[number(from)])
				}
				if !edge || !ok || seen[to] {
					t.Fatalf("route %s of %d to %d: hop %d: edge %v, bound %v, seen %v",
						show([]Route{r}), self, dst, i, edge, ok, seen[to])
				}
				from, seen[to] = to, true
			}
		}
	}
}

// graphs of every kind.
func (w *world) draw(kind string) {
	n := len(w.rtt)
	switch kind {
	case "chain":
		for i := 1; i < n; i++ {
			w.link(i, i-1)
		}
	case "ring":
		for i := range n {
			w.link(i, (i+1)%n)
		}
	case "star":
		for i := 1; i < n; i++ {
			w.link(0, i)
		}
	case "star of stars":
		for i := 1; i < n; i++ {
			w.link(i, max(0, i-30)%30)
		}
	case "two sites joined by one host":
		for i := range n {
			for j := range i {
				if i == 1 || i%2 == j%2 || j == 0 {
					w.link(i, j)
				}
			}
		}
	case "hubs": // who has many gets more
		ends := []int{0}
		for i := 1; i < n; i++ {
			for range 2 {
				to := ends[w.rand.IntN(len(ends))]
				w.link(i, to)
				ends = append(ends, i, to)
			}
		}
	case "sparse", "medium", "dense":
		for i := 1; i < n; i++ {
			w.link(i, w.rand.IntN(i))
		}
		for range n * map[string]int{"sparse": 1, "medium": 9, "dense": 30}[kind] {
			w.link(w.rand.IntN(n), w.rand.IntN(n))
		}
	case "full":
		for i := range n {
			for j := range i {
				w.link(i, j)
			}
		}
	}
}

// In any connected graph everybody has a route to everybody, soon.
func TestAnyGraph(t *testing.T) {
	for _, kind := range []string{
		"chain", "ring", "star", "star of stars", "two sites joined by one host", "hubs", "sparse", "medium", "dense", "full",
	} {
		t.Run(kind, func(t *testing.T) {
			n := 120
			if kind == "chain" {
				n = MaxRelays + 2
			}
			w := newWorld(n, 1)
			w.draw(kind)
			rounds := w.bind(t, 16)
			linked, spare := w.checkAll(t)
			if (kind == "full" || kind == "dense") && spare < linked {
				t.Errorf("of %d pairs with a link only %d have a route besides", linked, spare)
			}
			w.checkSome(t, w.rand.IntN(n))
			most, sum := 0, 0
			for _, b := range w.bound {
				most, sum = max(most, len(b)), sum+len(b)
			}
			t.Logf("%d of %d pairs with a link have a route besides; %d rounds, bound at %.1f relays, at most at %d", spare, linked, rounds, float64(sum)/float64(n), most)
		})
	}
}

// 200 hosts, 100 cuts and heals at random. After each, while some reports are
// old, no packet goes in circles or over what nobody confirms; when they are
// new, everybody whom links join has a route.
func TestCutsAndHeals(t *testing.T) {
	for kind, events := range map[string]int{"sparse": 100, "medium": 10} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(200, 7)
			w.draw(kind)
			w.bind(t, 16)
			var down [][2]int
			rounds, moved := 0, 0
			for range events {
				// A few links at once; a host may lose all.
				var touched []int
				for range 1 + w.rand.IntN(3) {
					if len(down) > 0 && w.rand.IntN(2) == 0 {
						i := w.rand.IntN(len(down))
						w.link(down[i][0], down[i][1])
						touched = append(touched, down[i][:]...)
						down = slices.Delete(down, i, i+1)
						continue
					}
					a := w.rand.IntN(len(w.rtt))
					if len(w.rtt[a]) == 0 {
						continue
					}
					b := number(w.reports[a].Links[w.rand.IntN(len(w.reports[a].Links))].Peer)
					if _, ok := w.rtt[a][b]; ok {
						w.cut(a, b)
						down = append(down, [2]int{a, b})
						touched = append(touched, a, b)
					}
				}
				for _, i := range touched {
					if w.rand.IntN(3) > 0 {
						w.publish(i) // the others are late
					}
				}
				w.checkSome(t, w.rand.IntN(len(w.rtt)))
				before := slices.Clone(w.bound)
				rounds += w.bind(t, 16)
				moved += differ(before, w.bound)
				w.checkAll(t)
				w.checkSome(t, w.rand.IntN(len(w.rtt)))
			}
			t.Logf("after each cut or heal %.1f rounds, %.1f binds added or dropped by 200 hosts", float64(rounds)/float64(events), float64(moved)/float64(events))
		})
	}
}

// differ counts what is in one and not in the other.
func differ(a, b []map[int]bool) (n int) {
	for i := range a {
		for x := range a[i] {
			if !b[i][x] {
				n++
			}
		}
		for x := range b[i] {
			if !a[i][x] {
				n++
			}
		}
	}
	return n
}

// Hosts whose measurements differ by less than a relay costs send nothing in
// circles, although no two have the same reports.
func TestHostsThatDiffer(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(60, seed)
			w.draw("sparse")
			w.bind(t, 16)
			graphs := make([]*Graph, len(w.reports))
			for i := range graphs {
				own := slices.Clone(w.reports)
				for j, r := range own {
					r.Links = slices.Clone(r.Links)
					for k := range r.Links {
						r.Links[k].RTT += time.Duration(w.rand.IntN(100)) * time.Microsecond
					}
					own[j] = r
				}
				graphs[i] = Build(id(i), own)
			}
			for dst := range graphs {
				next := make(map[int]int)
				for u, g := range graphs {
					if x, ok := g.Next(id(dst)); ok {
						next[u] = number(x)
					}
				}
				for self := range graphs {
					seen := make(map[int]bool)
					for at, ok := self, true; ok && at != dst; at, ok = follow(next, at) {
						if seen[at] {
							t.Fatalf("a packet of %d for %d comes back to %d", self, dst, at)
						}
						seen[at] = true
					}
				}
			}
		})
	}
}

func follow(next map[int]int, at int) (int, bool) { to, ok := next[at]; return to, ok }
