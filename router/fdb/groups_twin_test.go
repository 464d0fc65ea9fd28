package fdb

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever hosts do, everybody who answered a query gets the group for as long
// as RFC 3376 says, and one who left without being wanted does not.
func TestGroupsTwin(t *testing.T) {
	all := []string{g4, "239.1.2.4", g6, gN}
	type wish struct {
		at    int
		who   MAC
		group string
	}
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		table := New(Options{Now: c.now})
		table.Set(remotes(2, 3, 4), nil)
		wishes := map[wish]time.Time{}
		answered := map[int][2]time.Time{}
		since := map[int]time.Time{2: c.at, 3: c.at, 4: c.at}
		drawWish := rapid.Custom(func(t *rapid.T) wish {
			at := rapid.IntRange(2, 4).Draw(t, "at")
			return wish{at, mac(at*10 + rapid.IntRange(0, 1).Draw(t, "who")), rapid.SampledFrom(all).Draw(t, "group")}
		})
		say := func(w wish, kind byte) {
			sender := "10.32.0.1"
			if netip.MustParseAddr(w.group).Is6() {
				sender = "fe80::1"
			}
			table.Snoop(report(w.who, sender, rec{kind: kind, group: w.group}), overlay(w.at))
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				w := drawWish.Draw(t, "wish")
				say(w, toExclude)
				wishes[w] = c.at
			},
			"leave": func(t *rapid.T) {
				w := drawWish.Draw(t, "wish")
				say(w, toInclude)
				delete(wishes, w)
			},
			"answer": func(t *rapid.T) {
				w := drawWish.Draw(t, "wish")
				say(w, recordExclude)
				wishes[w] = c.at
				if _, ok := since[w.at]; !ok {
					since[w.at] = c.at
				}
				a, ok := answered[w.at]
				if !ok && c.at.Sub(since[w.at]) <= unheard*time.Second {
					return
				}
				if !ok {
					a[0] = c.at
				}
				answered[w.at] = [2]time.Time{a[0], c.at}
			},
			"pass": func(t *rapid.T) {
				c.seconds(time.Duration(rapid.IntRange(0, 200).Draw(t, "seconds")))
				table.Sweep()
				for w, at := range wishes {
					if c.at.Sub(at) > membership*time.Second {
						delete(wishes, w)
					}
				}
				for n, a := range answered {
					if c.at.Sub(a[1]) > membership*time.Second {
						delete(answered, n)
						delete(since, n)
					}
				}
			},
			"": func(t *rapid.T) {
				for _, g := range all {
					var want []netip.Addr
					flooded := 0
					for n := 2; n <= 4; n++ {
						a, ok := answered[n]
						flood := !ok || c.at.Sub(a[0]) <= settling*time.Second
						if flood {
							flooded++
						}
						for w := range wishes {
							flood = flood || w.at == n && w.group == g
						}
						if flood {
							want = append(want, overlay(n))
						}
					}
					list, flood := table.Members(data(g))
					if flood {
						if flooded != 3 {
							t.Fatalf("%s is flooded, want %v", g, want)
						}
						continue
					}
					list = slices.SortedFunc(slices.Values(list), netip.Addr.Compare)
					if !slices.Equal(list, want) {
						t.Fatalf("%s goes to %v, want %v", g, list, want)
					}
				}
			},
		})
	})
}
