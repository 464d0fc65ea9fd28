package space

import (
	"iter"
	"math/bits"
)

// BlockSet is a set of blocks, which are numbered from 0 to [MaxBlocks]-1. It is
// a value: assigning copies it, and two of them compare with ==. The zero value
// is empty.
type BlockSet [MaxBlocks / 64]uint64

// Add puts block into the set.
func (s *BlockSet) Add(block int) { s[block>>6] |= 1 << (block & 63) }

// Remove takes block out of the set.
func (s *BlockSet) Remove(block int) { s[block>>6] &^= 1 << (block & 63) }

// Has reports whether block is in the set.
func (s *BlockSet) Has(block int) bool { return s[block>>6]&(1<<(block&63)) != 0 }

// Len returns the number of blocks in the set.
func (s *BlockSet) Len() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// LenIn returns the number of blocks in the set from first to last, both
// included.
func (s *BlockSet) LenIn(first, last int) int {
	n := 0
	for i := first >> 6; i <= last>>6; i++ {
		n += bits.OnesCount64(s[i] & wordMask(i, first, last))
	}
	return n
}

// Empty reports whether no block is in the set.
func (s *BlockSet) Empty() bool { return *s == BlockSet{} }

// Or adds all blocks of o.
func (s *BlockSet) Or(o *BlockSet) {
	for i := range s {
		s[i] |= o[i]
	}
}

// And keeps only what is in o, too.
func (s *BlockSet) And(o *BlockSet) {
	for i := range s {
		s[i] &= o[i]
	}
}

// AndNot removes all blocks of o.
func (s *BlockSet) AndNot(o *BlockSet) {
	for i := range s {
		s[i] &^= o[i]
	}
}

// Clip keeps only the blocks from first to last, both included.
func (s *BlockSet) Clip(first, last int) {
	for i := range s {
		s[i] &= wordMask(i, first, last)
	}
}

// wordMask returns the bits of word i that stand for blocks first to last.
func wordMask(i, first, last int) uint64 {
	m := ^uint64(0)
	if from := first - i<<6; from > 0 {
		m <<= uint(from)
	}
	if to := last - i<<6; to < 0 {
		m = 0
	} else if to < 63 {
		m &= 1<<(to+1) - 1
	}
	return m
}

// All yields the blocks in ascending order.
func (s *BlockSet) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range s {
			for ; w != 0; w &= w - 1 {
				if !yield(i<<6 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// Highest returns the n highest blocks of the set, or all where it has fewer.
func (s *BlockSet) Highest(n int) BlockSet {
	out := *s
	drop := s.Len() - n
	for i := range out {
		for ; drop > 0 && out[i] != 0; drop-- {
			out[i] &= out[i] - 1
		}
	}
	return out
}

// Spans returns the neighbouring blocks of the set.
func (s *BlockSet) Spans() []Span {
	var spans []Span
	for b := range s.All() {
		if n := len(spans) - 1; n >= 0 && spans[n].First+spans[n].Count == b {
			spans[n].Count++
			continue
		}
		spans = append(spans, Span{b, 1})
	}
	return spans
}

// BlockSetOf returns the set of the given blocks.
func BlockSetOf(blocks ...int) BlockSet {
	var s BlockSet
	for _, b := range blocks {
		s.Add(b)
	}
	return s
}

// Span is Count neighbouring blocks from First on. A list of spans is in
// ascending order and has a gap between any two.
type Span struct{ First, Count int }
