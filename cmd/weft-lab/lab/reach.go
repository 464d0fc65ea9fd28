package lab

import (
	"cmp"
	"slices"
	"strings"
)

// Reaches says whether packets that a host sends first arrive at another one,
// as far as the topology and the faults tell, and by what way or why not. What
// answers go along is not asked: behind a NAT they come back.
func (t Topology) Reaches(faults []Fault, from, to string) (ok bool, why string) {
	a, ok1 := t.host(from)
	b, ok2 := t.host(to)
	if !ok1 || !ok2 || from == to {
		return false, "no such pair"
	}
	if lost(faults, from, to, "") {
		return false, "cut"
	}
	type stop struct {
		at     HostSpec
		behind map[string]bool // the networks to which it passes packets on
		by     []string        // the routers so far
	}
	start := stop{at: a, behind: a.networks()}
	met := map[string]bool{from: true}
	wall := ""
	for queue := []stop{start}; len(queue) > 0; queue = queue[1:] {
		here := queue[0]
		for _, x := range t.Hosts {
			n := t.sharedBy(here.behind, x, func(n string) bool { return !lost(faults, here.at.Name, x.Name, n) })
			switch {
			case n == "" || met[x.Name]:
			case x.Name == to && b.admits(n):
				if len(here.by) == 0 {
					return true, "on " + n
				}
				return true, "by " + strings.Join(here.by, ", ")
			case x.Name == to:
				wall = cmp.Or(wall, "the edge of "+to)
			case !x.Forward || len(here.by) == 0 && !a.Forward && a.Gateway != x.Name:
			default:
				met[x.Name] = true
				next := stop{at: x, behind: x.networks(), by: append(slices.Clip(here.by), x.Name)}
				if !x.admits(n) {
					next.behind = map[string]bool{n: true}
				}
				queue = append(queue, next)
			}
		}
	}
	return false, cmp.Or(wall, "no way")
}

// lost says whether everything from one host to another is, on that network, or
// on all of them when network is empty.
func lost(faults []Fault, from, to, network string) bool {
	return slices.ContainsFunc(faults, func(f Fault) bool {
		return f.Percent == 100 && (f.Network == "" || f.Network == network) && (f.From == "" || f.From == from) && (f.To == "" || f.To == to)
	})
}

// networks returns the set of networks that a host is on.
func (h HostSpec) networks() map[string]bool {
	out := map[string]bool{}
	for _, l := range h.Links {
		out[l.Network] = true
	}
	return out
}

// admits says whether the host takes, or leads on, packets that nobody asked for
// and that come from a network.
func (h HostSpec) admits(network string) bool {
	switch {
	case h.Firewall && !h.Forward:
		return false
	case h.NAT != nil, h.Firewall:
		return network != h.outsideNetwork()
	}
	return true
}

// sharedBy returns a network of the set that x is on and that is good, or "".
func (t Topology) sharedBy(set map[string]bool, x HostSpec, good func(string) bool) string {
	for _, l := range x.Links {
		if set[l.Network] && good(l.Network) {
			return l.Network
		}
	}
	return ""
}
