package fdb

import (
	"fmt"
	"testing"
)

func BenchmarkLookup(b *testing.B) {
	for _, macs := range []int{10, 1000, 10_000} {
		for _, kind := range []string{"learnt", "known", "miss"} {
			b.Run(fmt.Sprintf("macs=%d/%s", macs, kind), func(b *testing.B) {
				table, first := filled(macs, 500), 0
				switch kind {
				case "known":
					var known []Known
					for n := range macs {
						known = append(known, Known{MAC: mac(n), At: overlay(n%500 + 1)})
					}
					table.Set(table.Remotes(), known)
				case "miss":
					first = 1 << 20
				}
				b.ReportAllocs()
				n := 0
				for b.Loop() {
					if n++; n == macs {
						n = 0
					}
					table.Lookup(mac(first + n))
				}
			})
		}
	}
}

func BenchmarkLearn(b *testing.B) {
	for _, macs := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("macs=%d", macs), func(b *testing.B) {
			table := filled(macs, 500)
			list := table.Remotes()
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n++; n == macs {
					n = 0
				}
				table.Learn(mac(n), list[n%500].Overlay)
			}
		})
	}
}

func BenchmarkLocal(b *testing.B) {
	table := filled(10_000, 500)
	for b.Loop() {
		table.Local(mac(1 << 20))
	}
}

func BenchmarkSweep(b *testing.B) {
	table := filled(10_000, 500)
	for b.Loop() {
		table.Sweep()
	}
}

func BenchmarkSet(b *testing.B) {
	table := filled(10_000, 500)
	list := table.Remotes()
	var known []Known
	for n := range 10_000 {
		known = append(known, Known{MAC: mac(1<<20 + n), At: overlay(n%500 + 1)})
	}
	for b.Loop() {
		table.Set(list, known)
	}
}
