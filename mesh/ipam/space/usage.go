package space

import (
	"math/bits"
	"net/netip"
	"slices"
	"sort"
)

// Usage knows which addresses of a range are used, whoever owns them and
// whatever for. It is pure and does not know who owns a block: the sets of
// blocks that it is asked about say that.
//
// An address costs nothing where it has used neighbours on both sides, since
// runs of used addresses are stored, not addresses; looking for a free one
// takes time that grows with the logarithm of the runs.
type Usage struct {
	// Constant after NewUsage.
	geo Geometry

	// Owned by whoever owns the usage.
	used    intervals
	counts  []uint64 // used addresses by block
	touched BlockSet // blocks with used addresses
	full    BlockSet // blocks without free addresses
	total   int      // used addresses
}

// NewUsage returns the usage of a range of which every address is free.
func NewUsage(g Geometry) *Usage {
	return &Usage{geo: g, counts: make([]uint64, g.Blocks())}
}

// Use marks addr as used. It returns false, and does nothing, when addr was
// used already or is outside the range.
func (s *Usage) Use(addr netip.Addr) bool {
	block, ok := s.geo.Block(addr)
	if !ok || !s.used.add(NumOf(addr)) {
		return false
	}
	s.total++
	s.counts[block]++
	s.touched.Add(block)
	// Where Size is not exact, nobody counts that far.
	if s.counts[block] == s.geo.Size() {
		s.full.Add(block)
	}
	return true
}

// Free marks addr as free. It returns false, and does nothing, when addr was
// free already or is outside the range.
func (s *Usage) Free(addr netip.Addr) bool {
	block, ok := s.geo.Block(addr)
	if !ok || !s.used.remove(NumOf(addr)) {
		return false
	}
	s.total--
	s.counts[block]--
	s.full.Remove(block)
	if s.counts[block] == 0 {
		s.touched.Remove(block)
	}
	return true
}

// Used reports whether addr is used.
func (s *Usage) Used(addr netip.Addr) bool {
	return s.geo.Contains(addr) && s.used.has(NumOf(addr))
}

// Len returns the number of used addresses.
func (s *Usage) Len() int { return s.total }

// UsedIn returns the number of used addresses in a block.
func (s *Usage) UsedIn(block int) uint64 { return s.counts[block] }

// LowestFree returns the lowest address of subnet that is in one of the
// blocks, not used, and not [Geometry.Reserved]; false when there is none.
func (s *Usage) LowestFree(blocks *BlockSet, subnet netip.Prefix) (netip.Addr, bool) {
	lo, hi, ok := s.geo.window(subnet)
	if !ok {
		return netip.Addr{}, false
	}
	first, last := s.geo.blockOf(lo), s.geo.blockOf(hi)
	for i := first >> 6; i <= last>>6; i++ {
		for w := blocks[i] &^ s.full[i] & wordMask(i, first, last); w != 0; w &= w - 1 {
			block := i<<6 + bits.TrailingZeros64(w)
			from, to := s.geo.first(block), s.geo.last(block)
			if from.Less(lo) {
				from = lo
			}
			if hi.Less(to) {
				to = hi
			}
			// Only in the first and the last block can there be none: the
			// others are in the window as a whole and have room.
			if n, ok := s.used.gap(from, to); ok {
				return s.geo.Addr(n), true
			}
		}
	}
	return netip.Addr{}, false
}

// WhollyFree returns those of the blocks of which no address is used and at
// least one could be handed out in subnet: what can be given away to somebody
// who wants an address there.
func (s *Usage) WhollyFree(blocks *BlockSet, subnet netip.Prefix) BlockSet {
	lo, hi, ok := s.geo.window(subnet)
	if !ok {
		return BlockSet{}
	}
	free := *blocks
	free.AndNot(&s.touched)
	free.Clip(s.geo.blockOf(lo), s.geo.blockOf(hi))
	return free
}

// intervals is a set of numbers, stored as the intervals of neighbours in it.
// The intervals are kept in ascending order and in chunks, so that putting one
// in between moves few others. The zero value is empty.
type intervals struct {
	chunks [][]interval // no chunk is empty or longer than maxChunk
}

// interval is the numbers from lo to hi, both included. Between two intervals
// of a set there is a gap.
type interval struct{ lo, hi Num }

const maxChunk = 256

// place finds an interval in its chunk.
type place struct{ chunk, i int }

// find returns the place of the last interval that begins at n or before, and
// false when there is none.
func (v *intervals) find(n Num) (place, bool) {
	c := sort.Search(len(v.chunks), func(c int) bool { return n.Less(v.chunks[c][0].lo) }) - 1
	if c < 0 {
		return place{}, false
	}
	chunk := v.chunks[c]
	return place{c, sort.Search(len(chunk), func(i int) bool { return n.Less(chunk[i].lo) }) - 1}, true
}

func (v *intervals) at(p place) *interval { return &v.chunks[p.chunk][p.i] }

// next returns the place after p, and false at the end.
func (v *intervals) next(p place) (place, bool) {
	if p.i++; p.i < len(v.chunks[p.chunk]) {
		return p, true
	}
	return place{p.chunk + 1, 0}, p.chunk+1 < len(v.chunks)
}

func (v *intervals) has(n Num) bool {
	p, ok := v.find(n)
	return ok && !v.at(p).hi.Less(n)
}

// gap returns the lowest number from lo to hi that is not in the set.
func (v *intervals) gap(lo, hi Num) (Num, bool) {
	p, ok := v.find(lo)
	if !ok || v.at(p).hi.Less(lo) {
		return lo, true
	}
	end := v.at(p).hi
	return end.Add(Num{Lo: 1}), end.Less(hi)
}

// add returns false when n is in the set.
func (v *intervals) add(n Num) bool {
	one := Num{Lo: 1}
	p, before := v.find(n)
	if before && !v.at(p).hi.Less(n) {
		return false
	}
	q, after := place{}, len(v.chunks) > 0
	if before {
		q, after = v.next(p)
	}
	joinsBefore := before && v.at(p).hi.Add(one) == n
	joinsAfter := after && n.Add(one) == v.at(q).lo
	switch {
	case joinsBefore && joinsAfter:
		v.at(p).hi = v.at(q).hi
		v.remove1(q)
	case joinsBefore:
		v.at(p).hi = n
	case joinsAfter:
		v.at(q).lo = n
	case before:
		v.insert(place{p.chunk, p.i + 1}, interval{n, n})
	default:
		v.insert(place{}, interval{n, n})
	}
	return true
}

// remove returns false when n is not in the set.
func (v *intervals) remove(n Num) bool {
	one := Num{Lo: 1}
	p, ok := v.find(n)
	if !ok || v.at(p).hi.Less(n) {
		return false
	}
	switch at := v.at(p); {
	case at.lo == at.hi:
		v.remove1(p)
	case at.lo == n:
		at.lo = n.Add(one)
	case at.hi == n:
		at.hi = n.Sub(one)
	default:
		upper := interval{n.Add(one), at.hi}
		at.hi = n.Sub(one)
		v.insert(place{p.chunk, p.i + 1}, upper)
	}
	return true
}

// insert puts x before p and halves the chunk when it has become too long.
func (v *intervals) insert(p place, x interval) {
	if len(v.chunks) == 0 {
		v.chunks = [][]interval{{x}}
		return
	}
	chunk := slices.Insert(v.chunks[p.chunk], p.i, x)
	if len(chunk) > maxChunk {
		upper := slices.Clone(chunk[maxChunk/2:])
		chunk = slices.Clone(chunk[:maxChunk/2])
		v.chunks = slices.Insert(v.chunks, p.chunk+1, upper)
	}
	v.chunks[p.chunk] = chunk
}

// remove1 removes the interval at p, and joins its chunk with a neighbour
// when both have become short, so that there are never many short ones.
func (v *intervals) remove1(p place) {
	chunk := slices.Delete(v.chunks[p.chunk], p.i, p.i+1)
	v.chunks[p.chunk] = chunk
	if len(chunk) == 0 {
		v.chunks = slices.Delete(v.chunks, p.chunk, p.chunk+1)
		return
	}
	v.join(p.chunk)
	v.join(p.chunk - 1)
}

// join makes one chunk of chunk c and the one after it, if there are both and
// they are short.
func (v *intervals) join(c int) {
	if c < 0 || c+1 >= len(v.chunks) || len(v.chunks[c])+len(v.chunks[c+1]) >= maxChunk/2 {
		return
	}
	v.chunks[c] = append(v.chunks[c], v.chunks[c+1]...)
	v.chunks = slices.Delete(v.chunks, c+1, c+2)
}
