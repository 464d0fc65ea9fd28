package ipam

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/crypto"
)

// placeholder returns the owner that stands for the host called name in a
// seed ring, until that host is met: 26 zero bytes and the name.
func placeholder(name crypto.Name) crypto.Identity {
	var id crypto.Identity
	copy(id[len(id)-len(name):], name[:])
	return id
}

// placeholderName returns the name that owner stands for, and false when
// owner is an identity or zero.
func placeholderName(owner crypto.Identity) (crypto.Name, bool) {
	name := crypto.Name(owner[len(owner)-len(crypto.Name{}):])
	return name, !name.IsZero() && placeholder(name) == owner
}

// Register says who owns a block. The zero value is that of a block of which
// nothing is known; every other register beats it.
type Register struct {
	Owner crypto.Identity // whose block it is; in a seed ring perhaps a placeholder
	Giver crypto.Identity // who wrote the register, zero at the first division
	// Epoch is raised by taking a block from a peer that is gone, Version by
	// every giving away.
	Epoch, Version uint64
}

// IsZero reports whether nothing is known of the block.
func (r Register) IsZero() bool { return r == Register{} }

// Compare orders registers of one block: by epoch, version, and, so that all
// hosts agree even where two registers should never have been equal, by owner
// and giver.
func (r Register) Compare(o Register) int {
	return cmp.Or(
		cmp.Compare(r.Epoch, o.Epoch),
		cmp.Compare(r.Version, o.Version),
		r.Owner.Compare(o.Owner),
		r.Giver.Compare(o.Giver),
	)
}

// Beats reports whether r replaces o in a merge.
func (r Register) Beats(o Register) bool { return r.Compare(o) > 0 }

// sum hashes the register of a block.
func (r Register) sum(block int) uint64 {
	b := make([]byte, 0, 96)
	b = binary.BigEndian.AppendUint16(b, uint16(block))
	b = append(b, r.Owner[:]...)
	b = append(b, r.Giver[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Epoch)
	b = binary.BigEndian.AppendUint64(b, r.Version)
	h := sha256.Sum256(b)
	return binary.BigEndian.Uint64(h[:])
}

// RingID tells rings apart. The zero value means no ring.
type RingID [16]byte

// IsZero reports whether id means no ring.
func (id RingID) IsZero() bool { return id == RingID{} }

// Compare orders ids bytewise.
func (id RingID) Compare(o RingID) int { return slices.Compare(id[:], o[:]) }

// String returns the id in hexadecimal.
func (id RingID) String() string { return hex.EncodeToString(id[:]) }

// ringGroups is the number of groups of neighbouring blocks with a hash each.
const ringGroups = 64

// share is what one owner has of a subnet or of the whole ring.
type share struct {
	Owner  crypto.Identity // perhaps a placeholder
	Blocks int             // blocks with addresses in the subnet
}

// ring is one host's knowledge of who owns each block. Merging registers is
// commutative, associative and idempotent, so hosts that heard the same
// registers, in any order, have the same ring.
type ring struct {
	// Constant after newRing.
	id  RingID
	geo Geometry

	// Owned by whoever owns the ring; only put writes them, and all of them
	// at once.
	regs   []Register                    // by block
	sums   []uint64                      // by block, see Register.sum; 0: nothing known
	groups [ringGroups]uint64            // exclusive or of the sums of a group
	owned  map[crypto.Identity]*blockSet // no empty sets
}

// newRing returns a ring of which no register is known.
func newRing(id RingID, g Geometry) *ring {
	return &ring{
		id:    id,
		geo:   g,
		regs:  make([]Register, g.Blocks()),
		sums:  make([]uint64, g.Blocks()),
		owned: make(map[crypto.Identity]*blockSet),
	}
}

// newDivision returns the ring of a first division: blocks in equal
// contiguous shares for owners in order of identity, version 1.
func newDivision(id RingID, g Geometry, owners []crypto.Identity) *ring {
	r := newRing(id, g)
	r.MergeRuns(deal(g, owners, 1), nil)
	return r
}

// seedRing returns the ring that every host makes which was launched with the
// same range and the same names, in any order: equal contiguous shares for
// placeholders in order of their names, version 0.
func seedRing(g Geometry, names []crypto.Name) *ring {
	owners := make([]crypto.Identity, len(names))
	for i, n := range names {
		owners[i] = placeholder(n)
	}
	r := newRing(seedRingID(g.Range(), names), g)
	r.MergeRuns(deal(g, owners, 0), nil)
	return r
}

// seedRingID returns the id of the seed ring of a range, host bits zero, and
// names in any order.
func seedRingID(r netip.Prefix, names []crypto.Name) RingID {
	sorted := slices.Clone(names)
	slices.SortFunc(sorted, func(a, b crypto.Name) int { return slices.Compare(a[:], b[:]) })
	b := append([]byte("weft ring"), r.String()...)
	for _, n := range slices.Compact(sorted) {
		b = append(b, n[:]...)
	}
	h := sha256.Sum256(b)
	return RingID(h[:len(RingID{})])
}

// deal cuts the blocks of g into contiguous shares that differ by one block
// at most, for owners in ascending order; an owner named twice counts once.
// Of more owners than blocks some get nothing.
func deal(g Geometry, owners []crypto.Identity, version uint64) []Run {
	sorted := slices.Clone(owners)
	slices.SortFunc(sorted, crypto.Identity.Compare)
	sorted = slices.Compact(sorted)
	runs := make([]Run, 0, len(sorted))
	for i, owner := range sorted {
		from, to := i*g.Blocks()/len(sorted), (i+1)*g.Blocks()/len(sorted)
		if from < to {
			runs = append(runs, Run{from, to - from, Register{Owner: owner, Version: version}})
		}
	}
	return runs
}

// Register returns what is known of a block.
func (r *ring) Register(block int) Register { return r.regs[block] }

// Owner returns the owner of a block: an identity, a placeholder, or zero
// when nothing is known.
func (r *ring) Owner(block int) crypto.Identity { return r.regs[block].Owner }

// Merge takes reg for block if it beats what is known, and reports whether it
// did. A register without owner is never taken.
func (r *ring) Merge(block int, reg Register) (changed bool) {
	if reg.Owner.IsZero() || !reg.Beats(r.regs[block]) {
		return false
	}
	r.put(block, reg)
	return true
}

// MergeRuns merges all registers of runs that allow, unless nil, returns true
// for, and returns the blocks that changed. What lies outside the ring is
// left out.
func (r *ring) MergeRuns(runs []Run, allow func(block int, reg Register) bool) (changed blockSet) {
	for _, run := range runs {
		if run.First < 0 || run.Count < 0 || run.First >= len(r.regs) {
			continue
		}
		for block := run.First; block-run.First < run.Count && block < len(r.regs); block++ {
			if (allow == nil || allow(block, run.Register)) && r.Merge(block, run.Register) {
				changed.Add(block)
			}
		}
	}
	return changed
}

func (r *ring) put(block int, reg Register) {
	if old := r.regs[block].Owner; old != reg.Owner {
		if set := r.owned[old]; set != nil {
			set.Remove(block)
			if set.Empty() {
				delete(r.owned, old)
			}
		}
		if r.owned[reg.Owner] == nil {
			r.owned[reg.Owner] = new(blockSet)
		}
		r.owned[reg.Owner].Add(block)
	}
	sum := reg.sum(block)
	r.groups[r.group(block)] ^= r.sums[block] ^ sum
	r.regs[block], r.sums[block] = reg, sum
}

// group returns the group of a block. Small rings have fewer groups than 64.
func (r *ring) group(block int) int { return block / r.groupSize() }

func (r *ring) groupSize() int { return max(1, len(r.regs)/ringGroups) }

// Hash returns a hash of all registers: equal for rings with equal registers.
// A ring of which nothing is known has hash 0.
func (r *ring) Hash() uint64 {
	var h uint64
	for _, g := range r.groups {
		h ^= g
	}
	return h
}

// Groups returns the hash of each group of neighbouring blocks; groups that a
// small ring does not have are 0.
func (r *ring) Groups() [ringGroups]uint64 { return r.groups }

// Differing returns the groups whose hash is another than in groups, those of
// a ring with the same geometry: bit i stands for group i.
func (r *ring) Differing(groups [ringGroups]uint64) uint64 {
	var mask uint64
	for i := range groups {
		if groups[i] != r.groups[i] {
			mask |= 1 << i
		}
	}
	return mask
}

// GroupRuns returns the registers of the groups in mask, see Differing and
// Runs. Groups that the ring does not have add nothing.
func (r *ring) GroupRuns(mask uint64) []Run {
	var s blockSet
	size := r.groupSize()
	for ; mask != 0; mask &= mask - 1 {
		g := bits.TrailingZeros64(mask)
		for b := g * size; b < min((g+1)*size, len(r.regs)); b++ {
			s.Add(b)
		}
	}
	return r.Runs(&s)
}

// Runs returns the registers of the given blocks, as few and as long runs as
// possible, ascending. Blocks of which nothing is known are left out.
func (r *ring) Runs(blocks *blockSet) []Run {
	var runs []Run
	for b := range blocks.All() {
		if b >= len(r.regs) || r.regs[b].IsZero() {
			continue
		}
		if n := len(runs) - 1; n >= 0 && runs[n].First+runs[n].Count == b && runs[n].Register == r.regs[b] {
			runs[n].Count++
			continue
		}
		runs = append(runs, Run{b, 1, r.regs[b]})
	}
	return runs
}

// AllRuns returns all registers that are known, see Runs.
func (r *ring) AllRuns() []Run {
	all := r.blocks()
	return r.Runs(&all)
}

// blocks returns the set of all blocks of the ring.
func (r *ring) blocks() blockSet {
	var s blockSet
	for i := range s {
		s[i] = wordMask(i, 0, len(r.regs)-1)
	}
	return s
}

// Complete reports whether something is known of every block.
func (r *ring) Complete() bool { return !slices.ContainsFunc(r.regs, Register.IsZero) }

// Owned returns a copy of the set of blocks that owner has.
func (r *ring) Owned(owner crypto.Identity) blockSet {
	if set := r.owned[owner]; set != nil {
		return *set
	}
	return blockSet{}
}

// Count returns the number of blocks that owner has.
func (r *ring) Count(owner crypto.Identity) int {
	if set := r.owned[owner]; set != nil {
		return set.Len()
	}
	return 0
}

// Owners returns everybody who owns a block, placeholders included, ascending.
func (r *ring) Owners() []share { return r.OwnersIn(r.geo.Range()) }

// OwnersIn returns everybody who owns a block with addresses in subnet,
// placeholders included, and how many, in ascending order of owners.
func (r *ring) OwnersIn(subnet netip.Prefix) []share {
	first, last, ok := r.geo.Span(subnet)
	if !ok {
		return nil
	}
	var shares []share
	for owner, set := range r.owned {
		n := 0
		for i := first >> 6; i <= last>>6; i++ {
			n += bits.OnesCount64(set[i] & wordMask(i, first, last))
		}
		if n > 0 {
			shares = append(shares, share{owner, n})
		}
	}
	slices.SortFunc(shares, func(a, b share) int { return a.Owner.Compare(b.Owner) })
	return shares
}
