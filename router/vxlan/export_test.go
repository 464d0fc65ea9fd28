package vxlan

import (
	"net/netip"
	"time"

	"github.com/weftnet/weft/router/fdb"
)

// Clock replaces the clock of a port that was not set yet, which looks at it at
// Sweep alone. It asks the containers once, and again after a step.
func (p *Port) Clock(now func() time.Time, step time.Duration) { p.now, p.sweepTime = now, step }

// Sweep lets the time pass that the clock says; false: nothing is pruned here.
func (p *Port) Sweep() bool {
	p.mu.Lock()
	g := p.multicast.pruner
	p.mu.Unlock()
	if g != nil {
		g.sweep()
	}
	return g != nil
}

// Changes is another number when something was heard that matters.
func (p *Port) Changes() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.multicast.pruner; g != nil {
		return g.table.Load().Changes()
	}
	return 0
}

// Settled says whether the kernel was told all that was heard.
func (p *Port) Settled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.multicast.pruner
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.behind && g.seen.Load() == g.table.Load().Changes()
}

// Lists are who gets which group.
type Lists struct{ lists }

// Groups and Flooded are what is listed and what is not.
func (l Lists) Groups() map[netip.Addr]map[netip.Addr]bool { return l.groups }
func (l Lists) Flooded() map[netip.Addr]bool               { return l.flooded }

// MakeLists, NewLists and OwnVNI are what they are inside.
func MakeLists(p fdb.Pruning) Lists { return Lists{makeLists(p)} }
func NewLists() Lists               { return Lists{newLists()} }
func OwnVNI(vni uint32) uint32      { return ownVNI(vni) }

// Writer is a writer.
type Writer interface {
	Always(at netip.Addr, on bool) error
	Member(group, at netip.Addr, on bool) error
	Flood(group netip.Addr, on bool) error
}

// Change goes from one to the other.
func Change(have, want Lists, w Writer) error {
	return change(have.lists, want.lists, writing{w.Always, w.Flood, w.Member})
}

// writing is a writer made of functions.
type writing struct {
	toAlways, toFlood func(a netip.Addr, on bool) error
	toMember          func(group, at netip.Addr, on bool) error
}

func (w writing) always(at netip.Addr, on bool) error        { return w.toAlways(at, on) }
func (w writing) flood(group netip.Addr, on bool) error      { return w.toFlood(group, on) }
func (w writing) member(group, at netip.Addr, on bool) error { return w.toMember(group, at, on) }
