// Package space is the arithmetic of one range of addresses: how it is cut into
// blocks, sets of blocks, and which addresses of it are used.
//
// Every host computes the same from the same range. The package does not know
// who owns a block (that is ring) nor what an address is used for, and it is
// pure: it reads no clock, no file and no socket. A [Usage] and a [BlockSet] that is being
// changed belong to one goroutine; everything else is a value.
package space

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
)

// MaxBlocks is the largest number of blocks in a range. A [BlockSet] has room
// for exactly that many.
const MaxBlocks = 4096

// Geometry says how a range is cut into blocks: at most 4,096 of them, all of
// one size, a power of two of addresses. Every host derives the same blocks
// from the same range. It is a value and never changes; the zero value has no
// blocks.
type Geometry struct {
	prefix netip.Prefix
	base   Num  // the range's first address
	bits   uint // a block has 1<<bits addresses
	blocks int
}

// NewGeometry cuts r, of which host bits are ignored, into blocks. It fails
// on a prefix that is not valid and on IPv4 addresses in IPv6 clothes.
func NewGeometry(r netip.Prefix) (Geometry, error) {
	if !r.IsValid() || r.Addr().Is4In6() {
		return Geometry{}, fmt.Errorf("address range %s: want CIDR notation like 10.32.0.0/12", r)
	}
	r = r.Masked()
	host := uint(r.Addr().BitLen() - r.Bits())
	index := min(host, 12) // bits that number a block: 1<<12 = MaxBlocks
	return Geometry{prefix: r, base: NumOf(r.Addr()), bits: host - index, blocks: 1 << index}, nil
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

// IPsIn returns the number of addresses in n blocks, [math.MaxUint64] where it
// is larger than that.
func (g Geometry) IPsIn(n int) uint64 {
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
	n := hi.Sub(lo)
	if n.Hi > 0 || n.Lo == math.MaxUint64 {
		return math.MaxUint64
	}
	return n.Lo + 1
}

// All returns the set of all blocks.
func (g Geometry) All() BlockSet {
	var s BlockSet
	for i := range s {
		s[i] = wordMask(i, 0, g.blocks-1)
	}
	return s
}

// Contains reports whether addr is inside the range.
func (g Geometry) Contains(addr netip.Addr) bool { return g.prefix.Contains(addr) }

// Block returns the block that addr is in, and false for an address outside
// the range.
func (g Geometry) Block(addr netip.Addr) (block int, ok bool) {
	if !g.Contains(addr) {
		return 0, false
	}
	return g.blockOf(NumOf(addr)), true
}

// Prefix returns the addresses of a block.
func (g Geometry) Prefix(block int) netip.Prefix {
	return netip.PrefixFrom(g.First(block), g.prefix.Addr().BitLen()-int(g.bits))
}

// First returns the lowest address of a block.
func (g Geometry) First(block int) netip.Addr { return g.Addr(g.first(block)) }

// Last returns the highest address of a block.
func (g Geometry) Last(block int) netip.Addr { return g.Addr(g.last(block)) }

// Span returns the first and the last block that have addresses in subnet;
// every block between them has, too. It returns false when none has.
func (g Geometry) Span(subnet netip.Prefix) (first, last int, ok bool) {
	if !subnet.IsValid() || !g.prefix.Overlaps(subnet) {
		return 0, 0, false
	}
	if subnet.Bits() <= g.prefix.Bits() {
		return 0, g.blocks - 1, true
	}
	lo := NumOf(subnet.Masked().Addr())
	return g.blockOf(lo), g.blockOf(lo.Add(hostMask(subnet))), true
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
	n := NumOf(addr)
	return !ok || n.Less(lo) || hi.Less(n)
}

// window returns the lowest and highest address of subnet that may be handed
// out, false when there is none.
func (g Geometry) window(subnet netip.Prefix) (lo, hi Num, ok bool) {
	if !subnet.IsValid() || !g.prefix.Overlaps(subnet) {
		return Num{}, Num{}, false
	}
	// One of the two lies inside the other, so this is their intersection.
	lo, hi = usable(g.prefix)
	l, h := usable(subnet.Masked())
	if lo.Less(l) {
		lo = l
	}
	if h.Less(hi) {
		hi = h
	}
	return lo, hi, !hi.Less(lo)
}

// usable returns the lowest and highest address of p, whose host bits are
// zero, that are not reserved in it.
func usable(p netip.Prefix) (lo, hi Num) {
	lo = NumOf(p.Addr())
	hi = lo.Add(hostMask(p))
	if p.Addr().BitLen()-p.Bits() < 2 {
		return lo, hi
	}
	lo = lo.Add(Num{Lo: 1})
	if p.Addr().Is4() {
		hi = hi.Sub(Num{Lo: 1})
	}
	return lo, hi
}

func (g Geometry) blockOf(n Num) int { return int(n.Sub(g.base).Shr(g.bits).Lo) }

func (g Geometry) first(block int) Num {
	return g.base.Add(Num{Lo: uint64(block)}.Shl(g.bits))
}

func (g Geometry) last(block int) Num {
	return g.first(block).Add(Num{Lo: 1}.Shl(g.bits).Sub(Num{Lo: 1}))
}

// Addr returns the address of the range's family with the number n, see
// [NumOf].
func (g Geometry) Addr(n Num) netip.Addr {
	if g.prefix.Addr().Is4() {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(n.Lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.Hi)
	binary.BigEndian.PutUint64(b[8:], n.Lo)
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
func hostMask(p netip.Prefix) Num {
	return Num{Lo: 1}.Shl(uint(p.Addr().BitLen() - p.Bits())).Sub(Num{Lo: 1})
}

// Num is an address as an unsigned number of 128 bits. Arithmetic wraps.
type Num struct{ Hi, Lo uint64 }

// NumOf returns the number of an address: its bytes, the first one highest.
// That of the zero Addr is 0.
func NumOf(a netip.Addr) Num {
	if a.Is4() {
		b := a.As4()
		return Num{Lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return Num{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// Add returns n + m.
func (n Num) Add(m Num) Num {
	lo, carry := bits.Add64(n.Lo, m.Lo, 0)
	hi, _ := bits.Add64(n.Hi, m.Hi, carry)
	return Num{hi, lo}
}

// Sub returns n - m.
func (n Num) Sub(m Num) Num {
	lo, borrow := bits.Sub64(n.Lo, m.Lo, 0)
	hi, _ := bits.Sub64(n.Hi, m.Hi, borrow)
	return Num{hi, lo}
}

// Less reports whether n < m.
func (n Num) Less(m Num) bool { return n.Hi < m.Hi || n.Hi == m.Hi && n.Lo < m.Lo }

// shl and shr rely on Go's shifts by 64 and more giving 0, the unsigned
// underflow of k-64 and 64-k included.

// Shl returns n with k zero bits put behind its lowest one.
func (n Num) Shl(k uint) Num {
	return Num{n.Hi<<k | n.Lo<<(k-64) | n.Lo>>(64-k), n.Lo << k}
}

// Shr returns n without its k lowest bits.
func (n Num) Shr(k uint) Num {
	return Num{n.Hi >> k, n.Lo>>k | n.Hi>>(k-64) | n.Hi<<(64-k)}
}
