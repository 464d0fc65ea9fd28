package ipam

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"net/netip"
)

// maxBlocks is the largest number of blocks in a range. A [blockSet] has room
// for exactly that many.
const maxBlocks = 4096

// Geometry says how a range is cut into blocks: at most 4,096 of them, all of
// one size, a power of two of addresses. Every host derives the same blocks
// from the same range. It is a value and never changes; the zero value has no
// blocks.
type Geometry struct {
	prefix netip.Prefix
	base   num  // the range's first address
	bits   uint // a block has 1<<bits addresses
	blocks int
}

// newGeometry cuts r, of which host bits are ignored, into blocks. It fails
// on a prefix that is not valid and on IPv4 addresses in IPv6 clothes.
func newGeometry(r netip.Prefix) (Geometry, error) {
	if !r.IsValid() || r.Addr().Is4In6() {
		return Geometry{}, fmt.Errorf("address range %s: want CIDR notation like 10.32.0.0/12", r)
	}
	r = r.Masked()
	host := uint(r.Addr().BitLen() - r.Bits())
	index := min(host, 12) // bits that number a block: 1<<12 = maxBlocks
	return Geometry{prefix: r, base: toNum(r.Addr()), bits: host - index, blocks: 1 << index}, nil
}

// Range returns the range, host bits zero.
func (g Geometry) Range() netip.Prefix { return g.prefix }

// Blocks returns the number of blocks, from 1 to 4,096 and a power of two.
func (g Geometry) Blocks() int { return g.blocks }

// Size returns the number of addresses in a block, [math.MaxUint64] where it
// is larger than that.
func (g Geometry) Size() uint64 { return power(g.bits) }

// IPs returns the number of addresses in the range, those that are never
// handed out included, [math.MaxUint64] where it is larger than that.
func (g Geometry) IPs() uint64 {
	return power(g.bits + uint(bits.TrailingZeros(uint(g.blocks))))
}

// ipsIn returns the number of addresses in n blocks, saturating.
func (g Geometry) ipsIn(n int) uint64 {
	size := g.Size()
	if total := uint64(n) * size; n == 0 || total/uint64(n) == size {
		return total
	}
	return ^uint64(0)
}

// Usable returns how many addresses of subnet may be handed out: those inside
// the range that are not [Geometry.Reserved].
func (g Geometry) Usable(subnet netip.Prefix) uint64 {
	lo, hi, ok := g.window(subnet)
	if !ok {
		return 0
	}
	n := hi.sub(lo)
	if n.hi > 0 || n.lo == math.MaxUint64 {
		return math.MaxUint64
	}
	return n.lo + 1
}

// Contains reports whether addr is inside the range.
func (g Geometry) Contains(addr netip.Addr) bool { return g.prefix.Contains(addr) }

// Block returns the block that addr is in, and false for an address outside
// the range.
func (g Geometry) Block(addr netip.Addr) (block int, ok bool) {
	if !g.Contains(addr) {
		return 0, false
	}
	return g.blockOf(toNum(addr)), true
}

// Prefix returns the addresses of a block.
func (g Geometry) Prefix(block int) netip.Prefix {
	return netip.PrefixFrom(g.First(block), g.prefix.Addr().BitLen()-int(g.bits))
}

// First returns the lowest address of a block.
func (g Geometry) First(block int) netip.Addr { return g.addr(g.first(block)) }

// Last returns the highest address of a block.
func (g Geometry) Last(block int) netip.Addr { return g.addr(g.last(block)) }

// Span returns the first and the last block that have addresses in subnet;
// every block between them has, too. It returns false when none has.
func (g Geometry) Span(subnet netip.Prefix) (first, last int, ok bool) {
	if !subnet.IsValid() || !g.prefix.Overlaps(subnet) {
		return 0, 0, false
	}
	if subnet.Bits() <= g.prefix.Bits() {
		return 0, g.blocks - 1, true
	}
	lo := toNum(subnet.Masked().Addr())
	return g.blockOf(lo), g.blockOf(lo.add(hostMask(subnet))), true
}

// Reserved reports whether addr is one that is never handed out in subnet:
// the network or broadcast address of subnet or of the range. Prefixes of one
// or two addresses have none. In IPv6 only the first address is reserved: it
// belongs to the routers (RFC 4291, 2.6.1).
func (g Geometry) Reserved(addr netip.Addr, subnet netip.Prefix) bool {
	if !g.Contains(addr) || !subnet.Contains(addr) {
		return false
	}
	lo, hi, ok := g.window(subnet)
	n := toNum(addr)
	return !ok || n.less(lo) || hi.less(n)
}

// window returns the lowest and highest address of subnet that may be handed
// out, false when there is none.
func (g Geometry) window(subnet netip.Prefix) (lo, hi num, ok bool) {
	if !subnet.IsValid() || !g.prefix.Overlaps(subnet) {
		return num{}, num{}, false
	}
	// One of the two lies inside the other, so this is their intersection.
	lo, hi = usable(g.prefix)
	l, h := usable(subnet.Masked())
	if lo.less(l) {
		lo = l
	}
	if h.less(hi) {
		hi = h
	}
	return lo, hi, !hi.less(lo)
}

// usable returns the lowest and highest address of p, whose host bits are
// zero, that are not reserved in it.
func usable(p netip.Prefix) (lo, hi num) {
	lo = toNum(p.Addr())
	hi = lo.add(hostMask(p))
	if p.Addr().BitLen()-p.Bits() < 2 {
		return lo, hi
	}
	lo = lo.add(num{lo: 1})
	if p.Addr().Is4() {
		hi = hi.sub(num{lo: 1})
	}
	return lo, hi
}

func (g Geometry) blockOf(n num) int { return int(n.sub(g.base).shr(g.bits).lo) }

func (g Geometry) first(block int) num {
	return g.base.add(num{lo: uint64(block)}.shl(g.bits))
}

func (g Geometry) last(block int) num {
	return g.first(block).add(num{lo: 1}.shl(g.bits).sub(num{lo: 1}))
}

// addr is the inverse of toNum for the range's family.
func (g Geometry) addr(n num) netip.Addr {
	if g.prefix.Addr().Is4() {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(n.lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	return netip.AddrFrom16(b)
}

// power returns 1<<exp, or the largest number where that does not fit.
func power(exp uint) uint64 {
	if exp > 63 {
		return math.MaxUint64
	}
	return 1 << exp
}

// hostMask returns the last address of p minus the first.
func hostMask(p netip.Prefix) num {
	return num{lo: 1}.shl(uint(p.Addr().BitLen() - p.Bits())).sub(num{lo: 1})
}

// num is an address as an unsigned number of 128 bits. Arithmetic wraps.
type num struct{ hi, lo uint64 }

func toNum(a netip.Addr) num {
	if a.Is4() {
		b := a.As4()
		return num{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return num{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (n num) add(m num) num {
	lo, carry := bits.Add64(n.lo, m.lo, 0)
	hi, _ := bits.Add64(n.hi, m.hi, carry)
	return num{hi, lo}
}

func (n num) sub(m num) num {
	lo, borrow := bits.Sub64(n.lo, m.lo, 0)
	hi, _ := bits.Sub64(n.hi, m.hi, borrow)
	return num{hi, lo}
}

func (n num) compare(m num) int {
	if c := cmp.Compare(n.hi, m.hi); c != 0 {
		return c
	}
	return cmp.Compare(n.lo, m.lo)
}

func (n num) less(m num) bool { return n.hi < m.hi || n.hi == m.hi && n.lo < m.lo }

// shl and shr rely on Go's shifts by 64 and more giving 0, the unsigned
// underflow of k-64 and 64-k included.
func (n num) shl(k uint) num {
	return num{n.hi<<k | n.lo<<(k-64) | n.lo>>(64-k), n.lo << k}
}

func (n num) shr(k uint) num {
	return num{n.hi >> k, n.lo>>k | n.hi>>(k-64) | n.hi<<(64-k)}
}

// blockSet is a set of blocks. It is a value: assigning copies it, and two of
// them compare with ==. The zero value is empty.
type blockSet [maxBlocks / 64]uint64

// Add puts block into the set.
func (s *blockSet) Add(block int) { s[block>>6] |= 1 << (block & 63) }

// Remove takes block out of the set.
func (s *blockSet) Remove(block int) { s[block>>6] &^= 1 << (block & 63) }

// Has reports whether block is in the set.
func (s *blockSet) Has(block int) bool { return s[block>>6]&(1<<(block&63)) != 0 }

// Len returns the number of blocks in the set.
func (s *blockSet) Len() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// Empty reports whether no block is in the set.
func (s *blockSet) Empty() bool { return *s == blockSet{} }

// Or adds all blocks of o.
func (s *blockSet) Or(o *blockSet) {
	for i := range s {
		s[i] |= o[i]
	}
}

// And keeps only what is in o, too.
func (s *blockSet) And(o *blockSet) {
	for i := range s {
		s[i] &= o[i]
	}
}

// AndNot removes all blocks of o.
func (s *blockSet) AndNot(o *blockSet) {
	for i := range s {
		s[i] &^= o[i]
	}
}

// Clip keeps only the blocks from first to last, both included.
func (s *blockSet) Clip(first, last int) {
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
func (s *blockSet) All() iter.Seq[int] {
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
func (s *blockSet) Highest(n int) blockSet {
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
func (s *blockSet) Spans() []Span {
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

// setOf returns the set of the given blocks.
func setOf(blocks ...int) blockSet {
	var s blockSet
	for _, b := range blocks {
		s.Add(b)
	}
	return s
}
