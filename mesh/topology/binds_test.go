package topology

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/crypto"
)

func numbers(ids []crypto.Identity) []int {
	var out []int
	for _, x := range ids {
		out = append(out, number(x))
	}
	return out
}

// With few neighbours we are bound at all, before they have said anything.
func TestBindsFew(t *testing.T) {
	r := Report{Owner: id(0)}
	var want []int
	for i := range 8 {
		r.Links = append(r.Links, Link{Peer: id(i + 1), State: Direct})
		want = append(want, i+1)
	}
	r.Links = append(r.Links, Link{Peer: id(20), State: Relayed}, Link{Peer: id(21), State: Pending})
	if d := cmp.Diff(want, numbers(Build(id(0), []Report{r}).Binds(16))); d != "" {
		t.Error(d)
	}
	if got := Build(id(0), nil).Binds(16); got != nil {
		t.Errorf("without a report: %v", got)
	}
}

// Host 0 has the neighbours 1 to 12, the first ones nearer.
func twelve(lines ...string) []Report {
	for i := 1; i <= 12; i++ {
		lines = append(lines, fmt.Sprintf("0=%d %d", i, 20*i))
	}
	return net(lines...)
}

func bindsOf(self int, reports []Report, most int) []int {
	return numbers(Build(id(self), reports).Binds(most))
}

func TestBindsMany(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		most  int
		want  []int
	}{
		{"the nearest", nil, 16, []int{1, 2, 3}},
		{"the only one on the way", []string{"12=20 1"}, 16, []int{1, 2, 3, 12}},
		{"two on the way", []string{"11=20 1", "12=20 1"}, 16, []int{1, 2, 3, 11, 12}},
		{"three on the way", []string{"10=20 1", "11=20 1", "12=20 1"}, 16, []int{1, 2, 3, 10, 11}},
		{"none is left out", []string{"7=20 1", "8=21 1", "9=22 1", "10=23 1", "11=24 1"}, 2, []int{7, 8, 9, 10, 11}},
		{"to whom there is a link now", []string{"11=12 1"}, 16, []int{1, 2, 3, 11, 12}},
		{"no more than that", []string{"11=12 1", "10=20 1", "9=20 1", "9=21 1"}, 5, []int{1, 2, 3, 9, 11}},
		{"where both are bound", []string{"0-10 300", "0-11 300", "0-12 300", "10=20 1", "20-11 1", "20-12 1"}, 5, []int{1, 2, 3, 11, 12}},
		{"where we are bound stays", []string{"0-9 190"}, 16, []int{1, 2, 3, 9}},
		{"not when there are too many", []string{"0-9 190"}, 3, []int{1, 2, 3}},
		{"a little nearer is not nearer", []string{"0-4 65"}, 3, []int{1, 2, 4}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// A line of the case replaces one of the twelve.
			reports := twelve(tt.lines...)
			for i := range reports {
				seen := make(map[crypto.Identity]bool)
				reports[i].Links = slices.DeleteFunc(reports[i].Links, func(l Link) bool {
					twice := seen[l.Peer]
					seen[l.Peer] = true
					return twice
				})
			}
			if d := cmp.Diff(tt.want, bindsOf(0, reports, tt.most)); d != "" {
				t.Errorf("bound at (-want +got):\n%s", d)
			}
		})
	}
}

// Of several neighbours in common the one is chosen that others reach best,
// then the one with more neighbours.
func TestBindsStanding(t *testing.T) {
	for _, tt := range []struct {
		name   string
		nat    map[int]NATKind
		more   []string
		chosen []int
	}{
		{"identity", nil, nil, []int{9, 10}},
		{"NAT", map[int]NATKind{9: NATSymmetric, 10: NATEndpointIndependent, 11: NATNone}, nil, []int{11, 12}},
		{"unheard of", map[int]NATKind{9: 77, 10: NATEndpointIndependent}, nil, []int{9, 11}},
		{"neighbours", nil, []string{"12=30 1", "12=31 1"}, []int{9, 12}},
		{"a few neighbours more", nil, []string{"9=40 1", "12=30 1"}, []int{9, 10, 12}}, // 10 for nobody but 20
	} {
		t.Run(tt.name, func(t *testing.T) {
			reports := twelve(append(tt.more, "9=20 1", "10=20 1", "11=20 1", "12=20 1")...)
			for i := range reports {
				reports[i].NAT = tt.nat[number(reports[i].Owner)]
			}
			got := slices.DeleteFunc(bindsOf(0, reports, 16), func(x int) bool { return x <= 3 })
			if d := cmp.Diff(tt.chosen, got); d != "" {
				t.Errorf("bound at (-want +got):\n%s", d)
			}
		})
	}
}

// Two hosts with a neighbour in common and no link are bound at the same one,
// wherever hosts are bound now. It is what makes routes exist.
func TestBindsMeet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.IntRange(10, 60).Draw(t, "hosts"), rapid.Uint64().Draw(t, "seed"))
		w.draw(rapid.SampledFrom([]string{"star of stars", "hubs", "sparse", "medium", "dense"}).Draw(t, "kind"))
		share := rapid.IntRange(0, 10).Draw(t, "bound")
		for i := range w.rtt {
			for _, peer := range slices.Sorted(maps.Keys(w.rtt[i])) {
				w.bound[i][peer] = w.rand.IntN(10) < share
			}
			w.publish(i)
		}
		g, most := Build(id(0), w.reports), rapid.IntRange(0, 20).Draw(t, "most")
		binds := make([]map[int]bool, len(w.rtt))
		for i := range binds {
			binds[i] = make(map[int]bool)
			for _, x := range numbers(g.at(i, w.reports).Binds(most)) {
				if _, ok := w.rtt[i][x]; !ok {
					t.Fatalf("%d is to be bound at %d, with which it has no link", i, x)
				}
				binds[i][x] = true
			}
		}
		for a := range binds {
			for b := range a {
				if _, linked := w.rtt[a][b]; linked {
					continue
				}
				common, meet := false, false
				for v := range w.rtt[a] {
					_, ok := w.rtt[b][v]
					common = common || ok
					meet = meet || ok && binds[a][v] && binds[b][v]
				}
				if common && !meet {
					t.Fatalf("%d and %d are bound nowhere in common: %v, %v", a, b, binds[a], binds[b])
				}
			}
		}
	})
}

// Round trips that wobble move hardly anybody who is bound where he should be.
// (One who was not quite near enough may become so once.)
func TestBindsStay(t *testing.T) {
	for _, kind := range []string{"hubs", "medium", "dense", "full"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(100, 3)
			w.draw(kind)
			w.bind(t, 16)
			usual := make([]map[int]time.Duration, len(w.rtt))
			for i, m := range w.rtt {
				usual[i] = maps.Clone(m)
			}
			moved, all := 0, 0
			for range 5 {
				before := slices.Clone(w.bound)
				for a := range usual {
					for _, b := range slices.Sorted(maps.Keys(usual[a])) {
						if d := usual[a][b]; a < b {
							d += time.Duration(w.rand.Int64N(int64(d/5))) - d/10
							w.rtt[a][b], w.rtt[b][a] = d, d
						}
					}
				}
				w.bind(t, 16)
				moved += differ(before, w.bound)
			}
			for _, b := range w.bound {
				all += len(b)
			}
			if t.Logf("%d of %d binds moved", moved, all); moved*100 > all {
				t.Error("more than one in a hundred")
			}
		})
	}
}

// What a member says falsely harms routes with itself in it, and no others.
func TestLiar(t *testing.T) {
	const liar = 5
	honest := func() *world {
		w := newWorld(40, 11)
		w.draw("medium")
		w.bind(t, 16)
		return w
	}
	routes := func(reports []Report) map[[2]int]string {
		out, g := make(map[[2]int]string), Build(id(0), reports)
		for a := range reports {
			for b := range reports {
				out[[2]int{a, b}] = show(g.at(a, reports).Relays(id(b), 3))
			}
		}
		return out
	}
	before := routes(honest().reports)
	for _, tt := range []struct {
		name  string
		lie   func(w *world, r *Report)
		bound bool // routes through the liar may differ
	}{
		{"links that nobody confirms", func(w *world, r *Report) {
			for i := range w.reports {
				if _, ok := w.rtt[liar][i]; !ok && i != liar {
					r.Links = append(r.Links, Link{Peer: id(i), State: Direct, RTT: 1, Bound: true})
				}
			}
		}, false},
		{"10,000 links", func(_ *world, r *Report) {
			for i := range 10_000 {
				r.Links = append(r.Links, Link{Peer: id(1000 + i), State: Direct, RTT: 1, Bound: true})
			}
		}, false},
		{"links twice, and with itself", func(w *world, r *Report) {
			r.Links = append(r.Links, Link{Peer: id(liar), State: Direct, RTT: 1, Bound: true})
			for i := range w.reports {
				r.Links = append(r.Links, Link{Peer: id(i), State: Pending})
			}
			slices.SortStableFunc(r.Links, byPeer)
		}, false},
		{"no time at all", func(_ *world, r *Report) {
			for i := range r.Links {
				r.Links[i].RTT = 0
			}
		}, false},
		{"nonsense", func(_ *world, r *Report) {
			for i := range r.Links {
				r.Links[i].RTT, r.Links[i].MTU = -1<<62, -1<<62
			}
		}, false},
		{"bound everywhere", func(_ *world, r *Report) {
			for i := range r.Links {
				r.Links[i].Bound = true
			}
		}, true},
		{"bound nowhere", func(_ *world, r *Report) {
			for i := range r.Links {
				r.Links[i].Bound = false
			}
		}, true},
		{"for ever", func(_ *world, r *Report) {
			for i := range r.Links {
				r.Links[i].RTT = 1<<63 - 1
			}
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := honest()
			r := &w.reports[liar]
			r.Links = slices.Clone(r.Links)
			tt.lie(w, r)
			after := routes(w.reports)
			for pair, was := range before {
				its := pair[0] == liar || pair[1] == liar || mentions(was, liar) || mentions(after[pair], liar)
				if after[pair] != was && !(tt.bound && its) {
					t.Errorf("%d to %d: %s, was %s", pair[0], pair[1], after[pair], was)
				}
			}
		})
	}
}

// mentions says whether a relay is in the text of show.
func mentions(routes string, relay int) bool {
	return slices.Contains(strings.Fields(routes), fmt.Sprint(relay))
}
