package hello

import (
	"net/netip"
	"sync"
	"time"
)

// gate bounds what strangers can cost the listener: connections that have not
// proven anything, in all and per source, and sources that failed often. A
// source is an IPv4 address or an IPv6 /64. Its memory is bounded.
type gate struct {
	// Constant after newGate; tests change them before use.
	maxPending, maxPerSource, maxProven int
	freeFailures                        int           // of a source, before it must wait
	maxWait                             time.Duration // doubling from a second
	forget                              time.Duration // failures are remembered so long

	mu       sync.Mutex
	pending  map[netip.Prefix]int // connections by source, before their proof
	total    int                  // their sum
	proven   int                  // connections after it
	failures *recent[netip.Prefix, failure]
}

type failure struct {
	count int
	last  time.Time
}

func newGate() *gate {
	return &gate{
		maxPending: 64, maxPerSource: 16, maxProven: 64,
		freeFailures: 5, maxWait: 30 * time.Second, forget: 10 * time.Minute,
		pending:  make(map[netip.Prefix]int),
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

// admit asks whether to do any work for a connection. When it answers true,
// leave or prove must follow.
func (g *gate) admit(from netip.Prefix) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= g.maxPending || g.pending[from] >= g.maxPerSource {
		return false
	}
	if f, ok := g.failures.get(from); ok && time.Since(f.last) < g.wait(f.count) {
		return false
	}
	g.total++
	g.pending[from]++
	return true
}

// wait is how long a source waits after so many failures.
func (g *gate) wait(failures int) time.Duration {
	over := failures - g.freeFailures
	if over <= 0 {
		return 0
	}
	return min(time.Second<<min(over-1, 16), g.maxWait)
}

// leave ends an admitted connection that did not prove itself.
func (g *gate) leave(from netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(from)
}

func (g *gate) leaveLocked(from netip.Prefix) {
	g.total--
	if g.pending[from]--; g.pending[from] == 0 {
		delete(g.pending, from)
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
// source: somebody there knows the secret. False means there are too many; the
// connection is ended either way and only true must be followed by done.
func (g *gate) prove(from netip.Prefix) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaveLocked(from)
	g.failures.drop(from)
	if g.proven >= g.maxProven {
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
