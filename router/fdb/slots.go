package fdb

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

// A word is a MAC (48 bits) and the index of a remote (16 bits), so that one
// atomic load gives both. MACs of zero mark what is no entry.
const (
	empty   = 0 // never used: a search ends here
	deleted = 1 // was used: a search goes on
)

func key(m MAC) uint64 {
	return uint64(m[0])<<40 | uint64(m[1])<<32 | uint64(m[2])<<24 | uint64(m[3])<<16 | uint64(m[4])<<8 | uint64(m[5])
}

// unicast says whether a frame can honestly come from this address.
func unicast(m MAC) bool { return m[0]&1 == 0 && m != MAC{} }

// slots is a hash table of words with open addressing. Whoever adds or removes
// holds the table's mutex; whoever searches, or notes that an entry was seen,
// needs no lock. At most half of it is in use, so searches are short. It does
// not grow: it is replaced.
type slots struct {
	// Constant after newSlots. The keys are random: nobody outside can choose
	// addresses that collide.

	k0, k1, k2, mask uint64

	// Atomic.

	word  []atomic.Uint64
	seen  []atomic.Uint32 // tick, of each word
	live  atomic.Int64    // entries
	count []atomic.Int64  // of each remote

	// Guarded by the mutex of the table.

	used int // entries and deleted ones
}

// newSlots has room for so many entries, with some to spare.
func newSlots(entries, remotes int) *slots {
	size := uint64(1) << bits.Len64(uint64(max(entries, 64)*3-1))
	return &slots{
		k0: rand.Uint64(), k1: rand.Uint64() | 1, k2: rand.Uint64() | 1, mask: size - 1,
		word: make([]atomic.Uint64, size), seen: make([]atomic.Uint32, size), count: make([]atomic.Int64, remotes),
	}
}

// start is where the search for an address begins. One multiplication is not
// enough for addresses at regular distances.
func (s *slots) start(key uint64) uint64 {
	high, low := bits.Mul64(key^s.k0, s.k1)
	high, low = bits.Mul64(high^low^s.k0, s.k2)
	return (high ^ low) & s.mask
}

// find returns the slot of an address, which is not zero.
func (s *slots) find(key uint64) (at int, id uint16, ok bool) {
	for i := s.start(key); ; i++ {
		switch w := s.word[i&s.mask].Load(); {
		case w>>16 == key:
			return int(i & s.mask), uint16(w), true
		case w == empty:
			return 0, 0, false
		}
	}
}

// room says whether one more entry may be added.
func (s *slots) room() bool { return 2*(s.used+1) <= len(s.word) }

// full says whether no more may be learnt, in all or from one remote.
func (s *slots) full(id uint16, limit, share int64) bool {
	return s.live.Load() >= limit || s.count[id].Load() >= share
}

// add adds an entry that is not there yet; there must be room.
func (s *slots) add(key uint64, id uint16, tick uint32) {
	for i := s.start(key); ; i++ {
		at := i & s.mask
		w := s.word[at].Load()
		if w != empty && w != deleted {
			continue
		}
		if w == empty {
			s.used++
		}
		s.seen[at].Store(tick)
		s.word[at].Store(key<<16 | uint64(id))
		s.live.Add(1)
		s.count[id].Add(1)
		return
	}
}

func (s *slots) remove(at int) {
	id := uint16(s.word[at].Load())
	s.word[at].Store(deleted)
	s.live.Add(-1)
	s.count[id].Add(-1)
}

func (s *slots) move(at int, to uint16, tick uint32) {
	w := s.word[at].Load()
	s.seen[at].Store(tick)
	s.word[at].Store(w>>16<<16 | uint64(to))
	s.count[uint16(w)].Add(-1)
	s.count[to].Add(1)
}

// touch notes that an entry was seen. Most calls only read.
func (s *slots) touch(at int, tick uint32) {
	if s.seen[at].Load() != tick {
		s.seen[at].Store(tick)
	}
}

// copied returns a table with the entries of s that keep says, under the index
// that it gives them, and with room for more.
func (s *slots) copied(remotes int, keep func(key uint64, id uint16) (uint16, bool)) *slots {
	c := newSlots(int(s.live.Load())+1, remotes)
	for i := range s.word {
		w := s.word[i].Load()
		if w == empty || w == deleted {
			continue
		}
		if id, ok := keep(w>>16, uint16(w)); ok {
			c.add(w>>16, id, s.seen[i].Load())
		}
	}
	return c
}
