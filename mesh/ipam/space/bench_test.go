package space

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
)

// filledSpace returns a space with n used addresses: the lowest ones, or, as worst
// case, every other one.
func filledSpace(tb testing.TB, r string, n int, scattered bool) *Usage {
	s := NewUsage(mustGeometry(tb, r))
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
			var s *Usage
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
