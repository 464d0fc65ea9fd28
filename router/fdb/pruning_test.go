package fdb

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What Pruning says of all groups at once is what Members says frame by frame,
// and when it says something else than before, Changes does, too.
func TestPruningIsMembers(t *testing.T) {
	all := []string{g4, "239.1.2.4", g6, gN}
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		table := New(Options{Now: c.now})
		table.Set(remotes(2, 3, 4), nil)
		hosts := 3
		was, changes := "", uint64(0)
		sender := func(group string) string {
			if netip.MustParseAddr(group).Is6() {
				return "fe80::1"
			}
			return "10.32.0.1"
		}
		t.Repeat(map[string]func(*rapid.T){
			"report": func(t *rapid.T) {
				at, group := rapid.IntRange(2, 4).Draw(t, "at"), rapid.SampledFrom(all).Draw(t, "group")
				kind := rapid.SampledFrom([]byte{recordExclude, toExclude, toInclude}).Draw(t, "kind")
				table.Snoop(report(mac(at), sender(group), rec{kind: kind, group: group}), overlay(at))
			},
			"old": func(t *rapid.T) {
				group := rapid.SampledFrom(all).Draw(t, "group")
				if rapid.Bool().Draw(t, "here") {
					table.Overhear(old(mac(1), sender(group), group))
				} else {
					table.Snoop(old(mac(3), sender(group), group), overlay(3))
				}
			},
			"answer": func(*rapid.T) { answerAll(table, 2, 3, 4) },
			"pass": func(t *rapid.T) {
				c.seconds(time.Duration(rapid.IntRange(0, 200).Draw(t, "seconds")))
				table.Sweep()
			},
			"hosts": func(t *rapid.T) {
				hosts = rapid.IntRange(0, 3).Draw(t, "hosts")
				table.Set(remotes([]int{2, 3, 4}[:hosts]...), nil)
				was = "" // whoever sets looks again
			},
			"": func(t *rapid.T) {
				p := table.Pruning()
				is, n := p.String(), table.Changes()
				if is != was && was != "" && n == changes {
					t.Fatalf("%s after %s, and no change", is, was)
				}
				was, changes = is, n
				for _, g := range all {
					list, flood := table.Members(data(g))
					others, wanted := p.Groups[netip.MustParseAddr(g)]
					want := sorted(append(slices.Clone(others), p.Always...))
					if all := p.Flood || wanted && len(others) == 0; all != flood || !flood && !slices.Equal(sorted(list), want) {
						t.Fatalf("%s goes to %v, %v; all together: %s", g, list, flood, p)
					}
				}
			},
		})
	})
}

// String is the same for two that mean the same.
func (p Pruning) String() string {
	s := fmt.Sprint(p.Flood, sorted(p.Always))
	for _, g := range sorted(slices.Collect(maps.Keys(p.Groups))) {
		s += fmt.Sprint(" ", g, sorted(p.Groups[g]))
	}
	return strings.TrimSpace(s)
}

func sorted(list []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(list), netip.Addr.Compare)
}

// Groups whose last member left while others may be silent are kept for a while,
// and somebody may make many of them.
func TestGroupsWithoutMembersAreBounded(t *testing.T) {
	table, _ := listening(t, 2, 3)
	for i := range maxMembers + 100 {
		g := netip.AddrFrom4([4]byte{239, byte(i >> 16), byte(i >> 8), byte(i)}).String()
		table.Snoop(old(mac(2), "10.32.0.1", g), overlay(2))
		table.Snoop(report(mac(2), "10.32.0.1", rec{kind: toInclude, group: g}), overlay(2))
	}
	if s := table.Stats(); s.Groups > maxMembers {
		t.Errorf("%d groups are kept", s.Groups)
	}
	goes(t, table, data("239.200.0.1"), 0)
}
