// Package ring is what one host knows of who owns each block of the range: a
// register for each block, which merge in any order, and the rings that hosts
// begin with.
//
// Owners are identities, or placeholders for hosts that were only named. The
// package does not decide who may write a register, nor which ring is the right
// one of two; it keeps and sends nothing, and reads no clock. A [Ring] is not
// safe for concurrent use.
package ring

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/space"
)

// Placeholder returns the owner that stands for the host called name in a
// seed ring, until that host is met: 26 zero bytes and the name.
func Placeholder(name crypto.Name) crypto.Identity {
	var id crypto.Identity
	copy(id[len(id)-len(name):], name[:])
	return id
}

// PlaceholderName returns the name that owner stands for, and false when
// owner is an identity or zero.
func PlaceholderName(owner crypto.Identity) (crypto.Name, bool) {
	name := crypto.Name(owner[len(owner)-len(crypto.Name{}):])
	return name, !name.IsZero() && Placeholder(name) == owner
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

// ID tells rings apart. The zero value means no ring.
type ID [16]byte

// IsZero reports whether id means no ring.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders ids bytewise.
func (id ID) Compare(o ID) int { return slices.Compare(id[:], o[:]) }

// String returns the id in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Groups is the number of groups of neighbouring blocks with a hash each.
const Groups = 64

// Run is Count neighbouring blocks, from First on, with the same register. A
// list of runs is in ascending order and does not overlap.
type Run struct {
	First, Count int
	Register     Register
}

// Share is what one owner has of a subnet or of the whole ring.
type Share struct {
	Owner  crypto.Identity // perhaps a placeholder
	Blocks int             // blocks with addresses in the subnet
}

// Ring is one host's knowledge of who owns each block. Merging registers is
// commutative, associative and idempotent, so hosts that heard the same
// registers, in any order, have the same ring.
type Ring struct {
	// Constant after New.
	id  ID
	geo space.Geometry

	// Owned by whoever owns the ring; only put writes them, and all of them
	// at once.
	regs   []Register                          // by block
	sums   []uint64                            // by block, see Register.sum; 0: nothing known
	groups [Groups]uint64                      // exclusive or of the sums of a group
	owned  map[crypto.Identity]*space.BlockSet // no empty sets
}

// New returns a ring of which no register is known.
func New(id ID, g space.Geometry) *Ring {
	return &Ring{
		id:    id,
		geo:   g,
		regs:  make([]Register, g.Blocks()),
		sums:  make([]uint64, g.Blocks()),
		owned: make(map[crypto.Identity]*space.BlockSet),
	}
}

// NewDivision returns the ring of a first division: blocks in equal
// contiguous shares for owners in order of identity, version 1.
func NewDivision(id ID, g space.Geometry, owners []crypto.Identity) *Ring {
	r := New(id, g)
	r.MergeRuns(Deal(g, owners, 1), nil)
	return r
}

// NewSeed returns the ring that every host makes which was launched with the
// same range and the same names, in any order: equal contiguous shares for
// placeholders in order of their names, version 0.
func NewSeed(g space.Geometry, names []crypto.Name) *Ring {
	owners := make([]crypto.Identity, len(names))
	for i, n := range names {
		owners[i] = Placeholder(n)
	}
	r := New(seedID(g.Range(), names), g)
	r.MergeRuns(Deal(g, owners, 0), nil)
	return r
}

// seedID returns the id of the seed ring of a range, host bits zero, and
// names in any order.
func seedID(r netip.Prefix, names []crypto.Name) ID {
	sorted := slices.Clone(names)
	slices.SortFunc(sorted, func(a, b crypto.Name) int { return slices.Compare(a[:], b[:]) })
	b := append([]byte("weft ring"), r.String()...)
	for _, n := range slices.Compact(sorted) {
		b = append(b, n[:]...)
	}
	h := sha256.Sum256(b)
	return ID(h[:len(ID{})])
}

// Deal cuts the blocks of g into contiguous shares that differ by one block
// at most, for owners in ascending order; an owner named twice counts once.
// Of more owners than blocks some get nothing.
func Deal(g space.Geometry, owners []crypto.Identity, version uint64) []Run {
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

// ID returns what tells the ring apart from others.
func (r *Ring) ID() ID { return r.id }

// Register returns what is known of a block.
func (r *Ring) Register(block int) Register { return r.regs[block] }

// Owner returns the owner of a block: an identity, a placeholder, or zero
// when nothing is known.
func (r *Ring) Owner(block int) crypto.Identity { return r.regs[block].Owner }

// Merge takes reg for block if it beats what is known, and reports whether it
// did. A register without owner is never taken.
func (r *Ring) Merge(block int, reg Register) (changed bool) {
	if reg.Owner.IsZero() || !reg.Beats(r.regs[block]) {
		return false
	}
	r.put(block, reg)
	return true
}

// MergeRuns merges all registers of runs that allow, unless nil, returns true
// for, and returns the blocks that changed. What lies outside the ring is
// left out.
func (r *Ring) MergeRuns(runs []Run, allow func(block int, reg Register) bool) (changed space.BlockSet) {
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

func (r *Ring) put(block int, reg Register) {
	if old := r.regs[block].Owner; old != reg.Owner {
		if set := r.owned[old]; set != nil {
			set.Remove(block)
			if set.Empty() {
				delete(r.owned, old)
			}
		}
		if r.owned[reg.Owner] == nil {
			r.owned[reg.Owner] = new(space.BlockSet)
		}
		r.owned[reg.Owner].Add(block)
	}
	sum := reg.sum(block)
	r.groups[r.group(block)] ^= r.sums[block] ^ sum
	r.regs[block], r.sums[block] = reg, sum
}

// group returns the group of a block. Small rings have fewer groups than 64.
func (r *Ring) group(block int) int { return block / r.groupSize() }

func (r *Ring) groupSize() int { return max(1, len(r.regs)/Groups) }

// Hash returns a hash of all registers: equal for rings with equal registers.
// A ring of which nothing is known has hash 0.
func (r *Ring) Hash() uint64 {
	var h uint64
	for _, g := range r.groups {
		h ^= g
	}
	return h
}

// Groups returns the hash of each group of neighbouring blocks; groups that a
// small ring does not have are 0.
func (r *Ring) Groups() [Groups]uint64 { return r.groups }

// Differing returns the groups whose hash is another than in groups, those of
// a ring with the same geometry: bit i stands for group i.
func (r *Ring) Differing(groups [Groups]uint64) uint64 {
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
func (r *Ring) GroupRuns(mask uint64) []Run {
	var s space.BlockSet
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
func (r *Ring) Runs(blocks *space.BlockSet) []Run {
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
func (r *Ring) AllRuns() []Run {
	all := r.geo.All()
	return r.Runs(&all)
}

// Complete reports whether something is known of every block.
func (r *Ring) Complete() bool { return !slices.ContainsFunc(r.regs, Register.IsZero) }

// Owned returns a copy of the set of blocks that owner has.
func (r *Ring) Owned(owner crypto.Identity) space.BlockSet {
	if set := r.owned[owner]; set != nil {
		return *set
	}
	return space.BlockSet{}
}

// Count returns the number of blocks that owner has.
func (r *Ring) Count(owner crypto.Identity) int {
	if set := r.owned[owner]; set != nil {
		return set.Len()
	}
	return 0
}

// Owners returns everybody who owns a block, placeholders included, ascending.
func (r *Ring) Owners() []Share { return r.OwnersIn(r.geo.Range()) }

// OwnersIn returns everybody who owns a block with addresses in subnet,
// placeholders included, and how many, in ascending order of owners.
func (r *Ring) OwnersIn(subnet netip.Prefix) []Share {
	first, last, ok := r.geo.Span(subnet)
	if !ok {
		return nil
	}
	var shares []Share
	for owner, set := range r.owned {
		if n := set.LenIn(first, last); n > 0 {
			shares = append(shares, Share{owner, n})
		}
	}
	slices.SortFunc(shares, func(a, b Share) int { return a.Owner.Compare(b.Owner) })
	return shares
}

// JoinRuns returns runs in ascending order and as long as possible.
func JoinRuns(runs []Run) []Run {
	sorted := slices.Clone(runs)
	slices.SortStableFunc(sorted, func(a, b Run) int { return cmp.Compare(a.First, b.First) })
	joined := sorted[:0]
	for _, r := range sorted {
		if n := len(joined) - 1; n >= 0 && joined[n].First+joined[n].Count == r.First && joined[n].Register == r.Register {
			joined[n].Count += r.Count
			continue
		}
		joined = append(joined, r)
	}
	return joined
}
