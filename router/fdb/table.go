// Package fdb decides where the frames of a switch port go.
package fdb

import (
	"net/netip"
	"time"
)

// Options of a table; zero values mean the defaults.
type Options struct {
	Limit     int              // learnt entries; 0: 65,536
	PerRemote int              // learnt entries of one remote; 0: a quarter of Limit
	Age       time.Duration    // of learnt entries; 0: 5 minutes
	Now       func() time.Time // nil: time.Now
}

// Table is where every address is. Safe for concurrent use.
type Table struct{}

// New returns an empty table.
func New(o Options) *Table { return &Table{} }

// Set replaces remotes and known attachments.
func (t *Table) Set(remotes []Remote, known []Known) {}

// Learn notes the source of a frame that came from a remote.
func (t *Table) Learn(m MAC, from netip.Addr) {}

// Local notes the source of a frame that came from our bridge.
func (t *Table) Local(m MAC) {}

// Lookup says at which remote an address is.
func (t *Table) Lookup(m MAC) (netip.Addr, bool) { return netip.Addr{}, false }

// Sweep ages.
func (t *Table) Sweep() {}

// Remotes is the immutable list last given to Set.
func (t *Table) Remotes() []Remote { return nil }

// Answer writes the reply to a question about a known attachment.
func (t *Table) Answer(frame, dst []byte) (n int, ok bool) { return 0, false }

// Snoop reads membership reports that came from a remote.
func (t *Table) Snoop(frame []byte, from netip.Addr) {}

// Members says which remotes want a multicast frame from our bridge.
func (t *Table) Members(frame []byte) (list []netip.Addr, flood bool) { return nil, true }

// Stats of the table.
func (t *Table) Stats() Stats { return Stats{} }

// Stats are counts and counters of a table.
type Stats struct {
	Known, Learnt, Groups int    // entries now
	Moves                 uint64 // learnt entries that changed their remote
	Refused               uint64 // not learnt: a limit was reached
	Astray                uint64 // frames of a known MAC that came from another host
	Answered              uint64 // ARP and neighbour solicitations answered here
}

// Queries writes general queries.
func Queries(dst4, dst6 []byte, src MAC) (n4, n6 int) { return 0, 0 }
