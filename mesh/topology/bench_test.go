package topology

import (
	"fmt"
	"testing"
)

// A change anywhere makes everybody do this: a graph, where to be bound, a few
// routes to everybody, and where to pass on for everybody.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{200, 1000} {
		for _, kind := range []string{"sparse", "medium", "full"} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				w := newWorld(n, 1)
				w.draw(kind)
				w.bind(b, 16)
				g := Build(id(7), w.reports)
				measure := func(what string, f func()) {
					b.Run(what, func(b *testing.B) {
						b.ReportAllocs()
						for b.Loop() {
							f()
						}
					})
				}
				measure("Build", func() { Build(id(7), w.reports) })
				measure("Relays of one", func() { g.Relays(id(n-1), 3) })
				measure("Relays of all", func() {
					for i := range n {
						g.Relays(id(i), 3)
					}
				})
				measure("Next of all", func() {
					for i := range n {
						g.Next(id(i))
					}
				})
				measure("Binds", func() { g.Binds(16) })
			})
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{10, 200, 500} {
		raw, err := Sign(testKey(), Report{Links: links(n)})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%d links, %d bytes", n, len(raw)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
