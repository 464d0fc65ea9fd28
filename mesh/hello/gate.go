package hello

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// gate bounds what strangers can cost the listener: connections that have not
// proven anything, in all and per source, and sources that failed often. A
// source is an IPv4 address or an IPv6 /64. Its memory is bounded.
//
// When all places are taken, a newcomer gets that of the oldest connection of
// the source that has most: with a few addresses a stranger could otherwise
// keep everybody out. A source that has most itself gets no more.
type gate struct {
	// Constant after newGate; tests change them before use.
	maxPending, maxPerSource, maxProven int
	freeFailures                        int           // of a source, before it must wait
	maxWait                             time.Duration // doubling from a second
	forget                              time.Duration // failures are remembered so long
	makeRoom                            bool          // for a newcomer when all places are taken

	mu       sync.Mutex
	pending  map[netip.Prefix][]*place // by source, before their proof, oldest first
	arrived  uint64                    // counts places
	total    int                       // their sum
	proven   int                       // connections after it
	failures *recent[netip.Prefix, failure]
}

// place is an admitted connection. Its fields are the gate's.
type place struct {
	from    netip.Prefix
	arrived uint64
	end     func() // ends the connection at once; any goroutine may call it
	ended   bool   // to make room
}

type failure struct {
	count int
	last  time.Time
}

func newGate() *gate {
	return &gate{
		maxPending: 64, maxPerSource: 16, maxProven: 64,
		freeFailures: 5, maxWait: 30 * time.Second, forget: 10 * time.Minute,
		makeRoom: true,
		pending:  make(map[netip.Prefix][]*place),
		failures: newRecent[netip.Prefix, failure](4096),
	}
}

// source is the part of an address that back-off counts by.
func source(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // zero for no address
	return p
}

// admit asks whether to do any work for a connection. When it returns a place,
// leave or prove must follow. It may end another connection by its end.
func (g *gate) admit(from netip.Prefix, end func()) *place {
	p, victim := g.enter(from, end)
	if victim != nil {
		victim.end()
	}
	return p
}

func (g *gate) enter(from netip.Prefix, end func()) (p, victim *place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.pending[from]) >= g.maxPerSource {
		return nil, nil
	}
	if f, ok := g.failures.get(from); ok && time.Since(f.last) < g.wait(f.count) {
		return nil, nil
	}
	if g.total >= g.maxPending {
		if victim = g.victimLocked(from); victim == nil {
			return nil, nil
		}
		victim.ended = true
		g.removeLocked(victim)
	}
	g.arrived++
	p = &place{from: from, arrived: g.arrived, end: end}
	g.total++
	g.pending[from] = append(g.pending[from], p)
	return p, victim
}

// victimLocked returns the oldest connection of the source that has most, of
// several such sources the one that is oldest of all.
func (g *gate) victimLocked(newcomer netip.Prefix) *place {
	var victim *place
	most := 0
	for _, all := range g.pending {
		if len(all) > most || len(all) == most && all[0].arrived < victim.arrived {
			most, victim = len(all), all[0]
		}
	}
	if !g.makeRoom || len(g.pending[newcomer]) >= most {
		return nil
	}
	return victim
}

// wait is how long a source waits after so many failures.
func (g *gate) wait(failures int) time.Duration {
	over := failures - g.freeFailures
	if over <= 0 {
		return 0
	}
	return min(time.Second<<min(over-1, 16), g.maxWait)
}

// leave ends an admitted connection that did not prove itself, and reports
// whether it was ended to make room.
func (g *gate) leave(p *place) (ended bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(p)
	return p.ended
}

func (g *gate) leaveLocked(p *place) {
	if !p.ended {
		g.removeLocked(p)
	}
}

func (g *gate) removeLocked(p *place) {
	g.total--
	all := g.pending[p.from]
	i := slices.Index(all, p)
	if all = slices.Delete(all, i, i+1); len(all) == 0 {
		delete(g.pending, p.from)
	} else {
		g.pending[p.from] = all
	}
}

// fail counts a failure of a source.
func (g *gate) fail(from netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, _ := g.failures.get(from)
	if time.Since(f.last) > g.forget {
		f.count = 0
	}
	g.failures.put(from, failure{f.count + 1, time.Now()})
}

// prove moves an admitted connection to the proven ones and forgives its
// source: somebody there knows the secret. False means that there are too many,
// or that it was ended meanwhile; the connection is ended either way and only
// true must be followed by done.
func (g *gate) prove(p *place) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(p)
	g.failures.drop(p.from)
	if p.ended || g.proven >= g.maxProven {
		return false
	}
	g.proven++
	return true
}

// done ends a proven connection.
func (g *gate) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proven--
}
