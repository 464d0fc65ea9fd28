package vxlan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/router/fdb"
)

// maxEntries bounds the multicast entries of the device, one per group and
// remote. Groups that do not fit are flooded.
const maxEntries = 1 << 16

// lists is who gets which multicast group, in the form that the kernel is told.
type lists struct {
	always  map[netip.Addr]bool                // remotes that get a group of which nothing is said
	groups  map[netip.Addr]map[netip.Addr]bool // by group: the remotes that get it, all of them
	flooded map[netip.Addr]bool                // groups that all remotes get
}

func newLists() lists {
	return lists{
		always: make(map[netip.Addr]bool), groups: make(map[netip.Addr]map[netip.Addr]bool), flooded: make(map[netip.Addr]bool),
	}
}

// makeLists is pure. p does not flood everything.
func makeLists(p fdb.Pruning) lists {
	l := newLists()
	for _, a := range p.Always {
		l.always[a] = true
	}
	// Those that few want first: they are more, and gain more.
	order := slices.SortedFunc(maps.Keys(p.Groups), func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(len(p.Groups[a]), len(p.Groups[b])), a.Compare(b))
	})
	entries := 0
	for _, g := range order {
		n := len(p.Groups[g]) + len(p.Always)
		if len(p.Groups[g]) == 0 || entries+n > maxEntries {
			l.flooded[g] = true
			continue
		}
		entries += n
		to := maps.Clone(l.always)
		for _, a := range p.Groups[g] {
			to[a] = true
		}
		l.groups[g] = to
	}
	return l
}

// set notes that a remote gets a group, or not.
func (l lists) set(group, at netip.Addr, on bool) {
	switch m := l.groups[group]; {
	case on && m == nil:
		l.groups[group] = map[netip.Addr]bool{at: true}
	case on:
		m[at] = true
	default:
		if delete(m, at); len(m) == 0 {
			delete(l.groups, group)
		}
	}
}

// equal compares what can be read from a device: what is flooded is not.
func (l lists) equal(m lists) bool {
	return maps.Equal(l.always, m.always) && maps.EqualFunc(l.groups, m.groups, maps.Equal[map[netip.Addr]bool])
}

// writer is told what is to be changed, in order.
type writer interface {
	always(at netip.Addr, on bool) error        // a remote gets a group of which nothing is said
	member(group, at netip.Addr, on bool) error // a remote gets a group; the first and last one changes who else does
	flood(group netip.Addr, on bool) error      // all remotes get a group, whatever else is said
}

// counter is a writer that changes nothing, and fails beyond changeMost.
type counter int

func (c *counter) always(netip.Addr, bool) error             { return c.step() }
func (c *counter) member(netip.Addr, netip.Addr, bool) error { return c.step() }
func (c *counter) flood(netip.Addr, bool) error              { return nil }

func (c *counter) step() error {
	if *c++; *c > changeMost {
		return errEnough
	}
	return nil
}

// change goes from have to want. No remote misses a frame meanwhile that it gets
// before and afterwards: what is added comes first, and a group is flooded while
// it is in between being listed and not. The writer may change have as it does
// what it is told.
func change(have, want lists, w writer) error {
	for a := range want.always {
		if !have.always[a] {
			if err := w.always(a, true); err != nil {
				return err
			}
		}
	}
	groups := maps.Clone(have.groups)
	maps.Copy(groups, want.groups)
	for _, m := range []map[netip.Addr]bool{have.flooded, want.flooded} {
		for g := range m {
			groups[g] = nil
		}
	}
	for _, g := range slices.SortedFunc(maps.Keys(groups), netip.Addr.Compare) {
		if err := changeGroup(g, have, want, w); err != nil {
			return err
		}
	}
	for a := range have.always {
		if !want.always[a] {
			if err := w.always(a, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func changeGroup(g netip.Addr, have, want lists, w writer) error {
	from, to := have.groups[g], want.groups[g]
	was, is := have.flooded[g], want.flooded[g]
	between := (from == nil) != (to == nil)
	if !was && (is || between) {
		if err := w.flood(g, true); err != nil {
			return err
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(to), netip.Addr.Compare) {
		if !from[a] {
			if err := w.member(g, a, true); err != nil {
				return err
			}
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(from), netip.Addr.Compare) {
		if !to[a] {
			if err := w.member(g, a, false); err != nil {
				return err
			}
		}
	}
	if !is && (was || between) {
		return w.flood(g, false)
	}
	return nil
}
