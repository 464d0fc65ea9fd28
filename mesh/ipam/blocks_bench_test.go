package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
)

// filledSpace returns a space with n used addresses: the lowest ones, or, as worst
// case, every other one.
func filledSpace(tb testing.TB, r string, n int, scattered bool) *space {
	s := newSpace(mustGeometry(tb, r))
	a := s.geo.First(0)
	for range n {
		if a = a.Next(); scattered {
			a = a.Next()
		}
		if !s.Use(a) {
			tb.Fatalf("%s is used", a)
		}
	}
	return s
}

// BenchmarkSpace hands one address out and takes another, random one back
// while a number of them is used: the usual case, in which the used ones are
// mostly neighbours; and the worst, in which none are and a random one is
// taken back and used again.
func BenchmarkSpace(b *testing.B) {
	for _, r := range []string{"10.32.0.0/12", "fd00::/64"} {
		for _, scattered := range []bool{false, true} {
			for _, n := range []int{10, 1_000, 100_000} {
				b.Run(fmt.Sprintf("range=%s/scattered=%v/used=%d", r, scattered, n), func(b *testing.B) {
					benchmarkSpace(b, netip.MustParsePrefix(r), scattered, n)
				})
			}
		}
	}
}

func benchmarkSpace(b *testing.B, subnet netip.Prefix, scattered bool, n int) {
	s := filledSpace(b, subnet.String(), n, scattered)
	blocks := allBlocks(s.geo)
	var list []netip.Addr
	for a := subnet.Addr(); len(list) < n; a = a.Next() {
		if s.Used(a) {
			list = append(list, a)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		i := rnd.IntN(n)
		next, ok := s.LowestFree(blocks, subnet)
		if scattered {
			next = list[i]
			ok = ok && s.Free(next) && s.Use(next)
		} else {
			ok = ok && s.Use(next) && s.Free(list[i])
		}
		if !ok {
			b.Fatalf("%s", next)
		}
		list[i] = next
	}
}

// BenchmarkSpaceMemory measures what 100,000 used addresses cost.
func BenchmarkSpaceMemory(b *testing.B) {
	for _, scattered := range []bool{false, true} {
		b.Run(fmt.Sprintf("scattered=%v", scattered), func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var s *space
			for b.Loop() {
				s = filledSpace(b, "10.32.0.0/12", 100_000, scattered)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc)-float64(before.HeapAlloc), "bytes")
			runtime.KeepAlive(s)
		})
	}
}

// BenchmarkRing measures what becomes of registers that arrive.
func BenchmarkRing(b *testing.B) {
	g := mustGeometry(b, "10.32.0.0/12")
	r := newDivision(RingID{1}, g, testHosts(100))
	runs := r.AllRuns()
	b.Run("adopt", func(b *testing.B) {
		for b.Loop() {
			newRing(RingID{1}, g).MergeRuns(runs, nil)
		}
	})
	b.Run("merge what is known", func(b *testing.B) {
		for b.Loop() {
			r.MergeRuns(runs, nil)
		}
	})
	b.Run("merge a gift", func(b *testing.B) {
		for n := uint64(2); b.Loop(); n++ {
			r.Merge(int(n%4096), Register{Owner: testHost(int(n % 100)), Version: n})
		}
	})
	b.Run("owners", func(b *testing.B) {
		for b.Loop() {
			r.Owners()
		}
	})
}
