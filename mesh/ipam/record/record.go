// Package record is what an allocator keeps on its disk: the records, and the
// key and the value of each.
//
// It does not know the file, which is the business of store, nor when a record
// is written or what follows from it.
package record

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// Keys of records; those that end in a slash are followed by what the
// value is about.
const (
	keyMeta    = "meta" // Meta
	keyRing    = "ring" // Ring
	keyVote    = "v"    // Vote
	keyBlocks  = "b/"   // block: Block
	keyLocals  = "l/"   // address: Local
	keyLeases  = "x/"   // address: Lease
	keyFences  = "f/"   // target/initiator: Fence
	keyRemoved = "r/"   // identity: Removed
	keyKnown   = "k/"   // identity/base: Known
	keyLastOps = "o/"   // identity: Op
)

// Record is one thing that is kept: a pointer to one of the types below.
type Record interface {
	key() string
	value(c *wire.Coder)
}

type (
	// Meta is what the other values depend on.
	Meta struct {
		Self   crypto.Identity
		Name   crypto.Name
		Range  netip.Prefix
		Boot   uint32 // starts of this host so far, the upper half of ops
		Unsure bool   // what this host gave away is not known for certain
	}

	// Ring says that there is a ring; its registers are in [Block].
	Ring struct {
		ID    ring.ID
		Range netip.Prefix
	}

	// Block is the register of a block.
	Block struct {
		Block    int
		Register ring.Register
	}

	// Local is an address that a container of this host has, or had
	// until it died just now.
	Local struct {
		wire.Lease
		Dying bool
	}

	// Lease is an address of our blocks that another host has.
	Lease struct{ wire.Granted }

	// Fence is a fence that is pending.
	Fence struct{ wire.Fence }

	// Removed is a host that was removed, and what people called it.
	Removed struct {
		wire.Removed
		Name     crypto.Name
		Nickname string
	}

	// Vote is what this host promised and accepted as a voter.
	Vote struct {
		Range      netip.Prefix
		Promised   wire.Ballot
		Electorate []crypto.Identity // of Promised, ascending
		Accepted   wire.Ballot       // of Proposal, zero: nothing
		Proposal   wire.Proposal
	}

	// Known is a group of addresses that a peer last said it uses.
	Known struct {
		Peer crypto.Identity
		wire.Group
	}

	// Op is the highest op of a host's that we ever saw.
	Op struct {
		Host crypto.Identity
		Op   uint64
	}
)

func (Meta) key() string      { return keyMeta }
func (Ring) key() string      { return keyRing }
func (Vote) key() string      { return keyVote }
func (s Block) key() string   { return keyBlocks + fmt.Sprintf("%04d", s.Block) }
func (s Local) key() string   { return keyLocals + s.Addr.String() }
func (s Lease) key() string   { return keyLeases + s.Addr.String() }
func (s Fence) key() string   { return keyFences + s.Target.String() + "/" + s.Initiator.String() }
func (s Removed) key() string { return keyRemoved + s.Peer.String() }
func (s Known) key() string   { return keyKnown + s.Peer.String() + "/" + s.Base.String() }
func (s Op) key() string      { return keyLastOps + s.Host.String() }

func (s *Meta) value(c *wire.Coder) {
	c.ID(&s.Self)
	c.Raw(s.Name[:])
	c.Prefix(&s.Range)
	boot := uint64(s.Boot)
	c.Uint(&boot)
	s.Boot = uint32(boot)
	c.Must(uint64(s.Boot) == boot)
	c.Flag(&s.Unsure)
}

func (s *Ring) value(c *wire.Coder) {
	c.RingID(&s.ID)
	c.Must(!s.ID.IsZero())
	c.Prefix(&s.Range)
}

func (s *Block) value(c *wire.Coder) { c.Register(&s.Register) }

func (s *Local) value(c *wire.Coder) {
	c.Uint(&s.Op)
	c.Holder(&s.Key, &s.Label)
	c.Flag(&s.Dying)
}

func (s *Lease) value(c *wire.Coder) {
	c.ID(&s.Host)
	c.Uint(&s.Op)
	c.Holder(&s.Key, &s.Label)
}

func (s *Fence) value(c *wire.Coder) { c.Uint(&s.Epoch) }

func (s *Removed) value(c *wire.Coder) {
	c.Uint(&s.Epoch)
	c.Raw(s.Name[:])
	c.Text(&s.Nickname)
}

func (s *Vote) value(c *wire.Coder) {
	c.Space(&s.Range)
	s.Promised.Code(c)
	c.IDs(&s.Electorate)
	s.Accepted.Code(c)
	s.Proposal.Code(c)
	c.Must((s.Accepted.Round == 0) == s.Proposal.Ring.IsZero())
}

func (s *Known) value(c *wire.Coder) { s.CodeItems(c) }
func (s *Op) value(c *wire.Coder)    { c.Uint(&s.Op) }

// Key returns the key that s is kept under.
func Key(s Record) string { return s.key() }

// Encode returns the value that is kept under the key of s, see [Key]. It fails
// only on what is not valid.
func Encode(s Record) ([]byte, error) {
	b, err := wire.Encode(s.value)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", s.key(), err)
	}
	return b, nil
}

// Parse returns what was kept under a key. It fails on anything that [Encode]
// would not have written, and then names the key.
func Parse(key string, value []byte) (Record, error) {
	s, err := parseKey(key)
	if err != nil {
		return nil, fmt.Errorf("stored key %q: %w", key, err)
	}
	if err := wire.Decode(value, s.value); err != nil || s.key() != key {
		return nil, fmt.Errorf("stored value of %q: %w", key, errRecord)
	}
	return s, nil
}

var errRecord = errors.New("not understood")

// parseKey returns a record of the type that the key says, with what the key
// says of it. It need not be strict: Parse compares the keys.
func parseKey(key string) (Record, error) {
	prefix, rest, found := strings.Cut(key, "/")
	if !found {
		switch key {
		case keyMeta:
			return &Meta{}, nil
		case keyRing:
			return &Ring{}, nil
		case keyVote:
			return &Vote{}, nil
		}
		return nil, errRecord
	}
	first, second, _ := strings.Cut(rest, "/")
	switch prefix + "/" {
	case keyBlocks:
		n, err := strconv.Atoi(first)
		if err == nil && (n < 0 || n >= space.MaxBlocks) {
			err = errRecord
		}
		return &Block{Block: n}, err
	case keyLocals:
		a, err := parseAddr(first)
		return &Local{Lease: wire.Lease{Addr: a}}, err
	case keyLeases:
		a, err := parseAddr(first)
		return &Lease{wire.Granted{Lease: wire.Lease{Addr: a}}}, err
	case keyFences:
		var f wire.Fence
		err := errors.Join(f.Target.UnmarshalText([]byte(first)), f.Initiator.UnmarshalText([]byte(second)))
		return &Fence{f}, err
	case keyRemoved:
		var r wire.Removed
		err := r.Peer.UnmarshalText([]byte(first))
		return &Removed{Removed: r}, err
	case keyKnown:
		var k Known
		a, err := parseAddr(second)
		if err == nil && a != wire.GroupBase(a) {
			err = errRecord
		}
		k.Base = a
		return &k, errors.Join(err, k.Peer.UnmarshalText([]byte(first)))
	case keyLastOps:
		var o Op
		err := o.Host.UnmarshalText([]byte(first))
		return &o, err
	}
	return nil, errRecord
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && (a.Zone() != "" || a.Is4In6()) {
		err = errRecord
	}
	return a, err
}
