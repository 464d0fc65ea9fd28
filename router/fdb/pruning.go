package fdb

import "net/netip"

// Overhear reads a multicast frame of our own bridge for what silences members
// on other hosts. [Table.Members] does that by itself.
func (t *Table) Overhear(frame []byte) {
	to, src, kind, rest, ok := ether(frame)
	if !ok || to[0]&1 == 0 {
		return
	}
	t.overhear(kind, rest, src)
}

// overhear takes what a container of our own has said: it silences those of other
// hosts, too.
func (t *Table) overhear(kind uint16, rest []byte, src MAC) {
	if m := parseMessage(kind, rest); m.kind == isOld || m.kind == isHidden {
		t.groups.heard(m, src, here)
	}
}

// mayReport says whether what a header of IPv6 is followed by can be MLD, or lead
// to it.
func mayReport(next byte) bool {
	return next == protoICMP6 || next == protoFragment || next == protoRouting || next == protoDestination
}

// Pruning is who gets which multicast frames, of all at one moment: what
// [Table.Members] says frame by frame.
type Pruning struct {
	Flood  bool         // all remotes get everything; there is nothing else then
	Always []netip.Addr // remotes that get every group. Do not change it
	// Groups are those that others want, too, and who these are; an empty list
	// stands for all remotes.
	Groups map[netip.Addr][]netip.Addr
}

// Pruning says who gets what. It takes a moment when there are many groups.
func (t *Table) Pruning() Pruning {
	g := &t.groups
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.floodsAll() {
		return Pruning{Flood: true}
	}
	p := Pruning{Always: g.always, Groups: make(map[netip.Addr][]netip.Addr)}
	for a, e := range g.groups {
		if e.old != 0 {
			p.Groups[a] = nil
			continue
		}
		var others []netip.Addr
		for at := range e.hosts {
			if !g.remotes[at].flooded {
				others = append(others, at)
			}
		}
		if others != nil {
			p.Groups[a] = others
		}
	}
	return p
}

// Changes is a number that is another one whenever [Table.Pruning] may say
// something else than before.
func (t *Table) Changes() uint64 {
	t.groups.mu.Lock()
	defer t.groups.mu.Unlock()
	return t.groups.changes
}
