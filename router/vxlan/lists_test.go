package vxlan_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/vxlan"
)

// sketch is what the kernel does with what it is told, and who may not lose a
// frame meanwhile.
type sketch struct {
	always  map[netip.Addr]bool
	groups  map[netip.Addr]map[netip.Addr]bool
	flooded map[netip.Addr]bool
	check   func()
}

func (d *sketch) Always(at netip.Addr, on bool) error { return d.put(d.always, at, on) }
func (d *sketch) Flood(g netip.Addr, on bool) error   { return d.put(d.flooded, g, on) }

func (d *sketch) Member(g, at netip.Addr, on bool) error {
	if d.groups[g] == nil {
		d.groups[g] = map[netip.Addr]bool{}
	}
	err := d.put(d.groups[g], at, on)
	if len(d.groups[g]) == 0 {
		delete(d.groups, g) // then it is like one of which nothing is said
	}
	return err
}

func (d *sketch) put(m map[netip.Addr]bool, a netip.Addr, on bool) error {
	if on == m[a] {
		return fmt.Errorf("%s: told %v twice", a, on)
	}
	if on {
		m[a] = true
	} else {
		delete(m, a)
	}
	d.check()
	return nil
}

// gets says whether a remote gets a group.
func (d *sketch) gets(g, at netip.Addr) bool {
	switch {
	case d.flooded[g]:
		return true
	case len(d.groups[g]) > 0:
		return d.groups[g][at]
	}
	return d.always[at]
}

// Whatever changes, who wants a group before and after the change gets it at
// every step, and in the end those get it who are to, and nobody else.
func TestListsLoseNothing(t *testing.T) {
	groups := []netip.Addr{addr("239.1.1.1"), addr("239.1.1.2"), addr("ff05::1")}
	hosts := []netip.Addr{remote(2), remote(3), remote(4)}
	draw := rapid.Custom(func(t *rapid.T) fdb.Pruning {
		p := fdb.Pruning{Groups: map[netip.Addr][]netip.Addr{}}
		var others []netip.Addr
		for _, h := range hosts {
			if rapid.Bool().Draw(t, "always") {
				p.Always = append(p.Always, h)
			} else {
				others = append(others, h)
			}
		}
		for _, g := range groups {
			switch rapid.IntRange(0, 2).Draw(t, "group") {
			case 0:
				p.Groups[g] = nil // all
			case 1:
				if len(others) > 0 {
					p.Groups[g] = others[:rapid.IntRange(1, len(others)).Draw(t, "members")]
				}
			}
		}
		return p
	})
	wants := func(p fdb.Pruning, g, h netip.Addr) bool {
		others, said := p.Groups[g]
		if said && len(others) == 0 {
			return true
		}
		return slices.Contains(p.Always, h) || slices.Contains(others, h)
	}
	rapid.Check(t, func(t *rapid.T) {
		d := &sketch{map[netip.Addr]bool{}, map[netip.Addr]map[netip.Addr]bool{}, map[netip.Addr]bool{}, func() {}}
		have, was := vxlan.NewLists(), fdb.Pruning{}
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			is := draw.Draw(t, "pruning")
			want := vxlan.MakeLists(is)
			d.check = func() {
				for _, g := range groups {
					for _, h := range hosts {
						if wants(was, g, h) && wants(is, g, h) && !d.gets(g, h) {
							t.Fatalf("%s does not get %s on the way from %v to %v", h, g, was, is)
						}
					}
				}
			}
			if err := vxlan.Change(have, want, d); err != nil {
				t.Fatal(err)
			}
			for _, g := range groups {
				for _, h := range hosts {
					if d.gets(g, h) != wants(is, g, h) {
						t.Fatalf("%s gets %s: %v, after %v", h, g, d.gets(g, h), is)
					}
				}
			}
			have, was = want, is
		}
	})
}

// There is room for so many entries; groups beyond are flooded, those first that
// most hosts want.
func TestListsAreBounded(t *testing.T) {
	p := fdb.Pruning{Groups: map[netip.Addr][]netip.Addr{}}
	for i := range 9 {
		p.Always = append(p.Always, remote(byte(100+i)))
	}
	group := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{239, 1, byte(i >> 8), byte(i)}) }
	const many = 7000 // of ten entries each
	for i := range many {
		p.Groups[group(i)] = []netip.Addr{remote(2)}
	}
	wide := addr("239.2.0.1")
	p.Groups[wide] = []netip.Addr{remote(2), remote(3), remote(4)}
	l := vxlan.MakeLists(p)
	const room = 1 << 16
	if n := len(l.Groups()); n != room/10 || len(l.Flooded()) != many+1-n || !l.Flooded()[wide] {
		t.Errorf("%d groups are listed, %d flooded", n, len(l.Flooded()))
	}
	for g := range l.Groups() {
		if l.Flooded()[g] {
			t.Errorf("%s is both", g)
		}
	}
	if !maps.Equal(l.Groups()[group(0)], l.Groups()[group(1)]) {
		t.Error("groups that the same hosts want differ")
	}
}
