package ipam

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weftnet/weft/crypto"
)

// Keys of stored values; those that end in a slash are followed by what the
// value is about.
const (
	keyMeta    = "meta" // storedMeta
	keyRing    = "ring" // storedRing
	keyVote    = "v"    // storedVote
	keyBlocks  = "b/"   // block: storedBlock
	keyLocals  = "l/"   // address: storedLocal
	keyLeases  = "x/"   // address: storedLease
	keyFences  = "f/"   // target/initiator: storedFence
	keyRemoved = "r/"   // identity: storedRemoved
	keyKnown   = "k/"   // identity/base: storedKnown
	keyLastOps = "o/"   // identity: storedOp
)

// stored is a value of the store that knows its key, and so itself.
type stored interface {
	key() string
	value(c *coder)
}

type (
	// storedMeta is what the other values depend on.
	storedMeta struct {
		Self   crypto.Identity
		Name   crypto.Name
		Range  netip.Prefix
		Boot   uint32 // starts of this host so far, the upper half of ops
		Unsure bool   // what this host gave away is not known for certain, see sure.go
	}

	// storedRing says that there is a ring; its registers are storedBlocks.
	storedRing struct {
		ID    RingID
		Range netip.Prefix
	}

	// storedBlock is the register of a block.
	storedBlock struct {
		Block    int
		Register Register
	}

	// storedLocal is an address that a container of this host has, or had
	// until it died just now.
	storedLocal struct {
		Lease
		Dying bool
	}

	// storedLease is an address of our blocks that another host has.
	storedLease struct{ Granted }

	// storedFence is a fence that is pending.
	storedFence struct{ Fence }

	// storedRemoved is a host that was removed, and what people called it.
	storedRemoved struct {
		Removed
		Name     crypto.Name
		Nickname string
	}

	// storedVote is what this host promised and accepted as a voter.
	storedVote struct {
		Range      netip.Prefix
		Promised   Ballot
		Electorate []crypto.Identity // of Promised, ascending
		Accepted   Ballot            // of Proposal, zero: nothing
		Proposal   Proposal
	}

	// storedKnown is a group of addresses that a peer last said it uses.
	storedKnown struct {
		Peer crypto.Identity
		Group
	}

	// storedOp is the highest op of a host's that we ever saw.
	storedOp struct {
		Host crypto.Identity
		Op   uint64
	}
)

func (storedMeta) key() string      { return keyMeta }
func (storedRing) key() string      { return keyRing }
func (storedVote) key() string      { return keyVote }
func (s storedBlock) key() string   { return keyBlocks + fmt.Sprintf("%04d", s.Block) }
func (s storedLocal) key() string   { return keyLocals + s.Addr.String() }
func (s storedLease) key() string   { return keyLeases + s.Addr.String() }
func (s storedFence) key() string   { return keyFences + s.Target.String() + "/" + s.Initiator.String() }
func (s storedRemoved) key() string { return keyRemoved + s.Peer.String() }
func (s storedKnown) key() string   { return keyKnown + s.Peer.String() + "/" + s.Base.String() }
func (s storedOp) key() string      { return keyLastOps + s.Host.String() }

func (s *storedMeta) value(c *coder) {
	c.id(&s.Self)
	c.raw(s.Name[:])
	c.prefix(&s.Range)
	boot := uint64(s.Boot)
	c.uint(&boot)
	s.Boot = uint32(boot)
	c.must(uint64(s.Boot) == boot)
	c.flag(&s.Unsure)
}

func (s *storedRing) value(c *coder) {
	c.ring(&s.ID)
	c.must(!s.ID.IsZero())
	c.prefix(&s.Range)
}

func (s *storedBlock) value(c *coder) { c.register(&s.Register) }

func (s *storedLocal) value(c *coder) {
	c.uint(&s.Op)
	c.holder(&s.Key, &s.Label)
	c.flag(&s.Dying)
}

func (s *storedLease) value(c *coder) {
	c.id(&s.Host)
	c.uint(&s.Op)
	c.holder(&s.Key, &s.Label)
}

func (s *storedFence) value(c *coder) { c.uint(&s.Epoch) }

func (s *storedRemoved) value(c *coder) {
	c.uint(&s.Epoch)
	c.raw(s.Name[:])
	c.text(&s.Nickname)
}

func (s *storedVote) value(c *coder) {
	c.prefix(&s.Range)
	if c.err == nil {
		var err error
		if c.geo, err = newGeometry(s.Range); err != nil {
			c.fail(err)
		}
	}
	s.Promised.fields(c)
	c.ids(&s.Electorate)
	s.Accepted.fields(c)
	s.Proposal.fields(c)
	c.must((s.Accepted.Round == 0) == s.Proposal.Ring.IsZero())
}

func (s *storedKnown) value(c *coder) { s.items(c) }
func (s *storedOp) value(c *coder)    { c.uint(&s.Op) }

// encodeStored returns the write that keeps s. It fails only on what is not
// valid.
func encodeStored(s stored) (write, error) {
	c := &coder{detail: withLabels}
	s.value(c)
	if c.err != nil {
		return write{}, fmt.Errorf("encode %s: %w", s.key(), c.err)
	}
	return write{Key: s.key(), Value: c.buf}, nil
}

// parseStored returns the value of a key as a pointer to one of the types
// above.
func parseStored(key string, value []byte) (stored, error) {
	s, err := parseKey(key)
	if err != nil {
		return nil, fmt.Errorf("stored key %q: %w", key, err)
	}
	c := &coder{reading: true, buf: value, detail: withLabels}
	s.value(c)
	if err := c.done(); err != nil || s.key() != key {
		return nil, fmt.Errorf("stored value of %q: %w", key, errStored)
	}
	return s, nil
}

var errStored = errors.New("not understood")

// parseKey returns a value of the type that the key says, with what the key
// says of it. It need not be strict: parseStored compares the keys.
func parseKey(key string) (stored, error) {
	prefix, rest, found := strings.Cut(key, "/")
	if !found {
		switch key {
		case keyMeta:
			return &storedMeta{}, nil
		case keyRing:
			return &storedRing{}, nil
		case keyVote:
			return &storedVote{}, nil
		}
		return nil, errStored
	}
	first, second, _ := strings.Cut(rest, "/")
	switch prefix + "/" {
	case keyBlocks:
		n, err := strconv.Atoi(first)
		if err == nil && (n < 0 || n >= maxBlocks) {
			err = errStored
		}
		return &storedBlock{Block: n}, err
	case keyLocals:
		a, err := parseAddr(first)
		return &storedLocal{Lease: Lease{Addr: a}}, err
	case keyLeases:
		a, err := parseAddr(first)
		return &storedLease{Granted{Lease: Lease{Addr: a}}}, err
	case keyFences:
		var f Fence
		err := errors.Join(f.Target.UnmarshalText([]byte(first)), f.Initiator.UnmarshalText([]byte(second)))
		return &storedFence{f}, err
	case keyRemoved:
		var r Removed
		err := r.Peer.UnmarshalText([]byte(first))
		return &storedRemoved{Removed: r}, err
	case keyKnown:
		var k storedKnown
		a, err := parseAddr(second)
		if err == nil && a != groupBase(a) {
			err = errStored
		}
		k.Base = a
		return &k, errors.Join(err, k.Peer.UnmarshalText([]byte(first)))
	case keyLastOps:
		var o storedOp
		err := o.Host.UnmarshalText([]byte(first))
		return &o, err
	}
	return nil, errStored
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && (a.Zone() != "" || a.Is4In6()) {
		err = errStored
	}
	return a, err
}

// Keys of the replicated entries that each host publishes.
const (
	EntryInfo     = "i"  // Info
	entryAttached = "a/" // followed by the group's first address in hexadecimal: Group
)

// entryFormat is the first byte of each entry.
const entryFormat = 1

// Info is what a host says of its part of the address space.
type Info struct {
	Role    Role
	Range   netip.Prefix // zero only if Role is [RoleOff]
	Ring    RingID       // zero: none
	Blocks  int          // that it owns
	Free    int          // of them wholly free
	FreeIPs uint64       // addresses in its blocks that it may hand out
	Local   uint64       // addresses of the range that its containers have
	Leaving bool         // it hands over what it has
}

func (n *Info) fields(c *coder) {
	format := byte(entryFormat)
	c.octet(&format)
	c.must(format == entryFormat)
	c.role(&n.Role)
	if n.Role == RoleOff {
		c.must(*n == Info{Role: RoleOff})
		return
	}
	c.prefix(&n.Range)
	c.ring(&n.Ring)
	c.int(&n.Blocks, maxBlocks)
	c.int(&n.Free, maxBlocks)
	c.uint(&n.FreeIPs)
	c.uint(&n.Local)
	c.flag(&n.Leaving)
	c.must(n.Free <= n.Blocks)
}

// Marshal returns the value of the entry [EntryInfo]. A host without an
// allocator publishes Info{Role: RoleOff}, so that nobody counts on its vote.
func (n Info) Marshal() ([]byte, error) {
	c := &coder{}
	n.fields(c)
	return c.buf, c.err
}

// ParseInfo reads the value of an entry [EntryInfo].
func ParseInfo(b []byte) (Info, error) {
	c := &coder{reading: true, buf: b}
	var n Info
	n.fields(c)
	if err := c.done(); err != nil {
		return Info{}, fmt.Errorf("info entry: %w", err)
	}
	return n, nil
}

// groupSize is how many addresses the entry of a [Group] covers at most.
const groupSize = 16

// Group is the addresses of a host's containers within one group of
// neighbouring addresses.
type Group struct {
	Base  netip.Addr // a multiple of groupSize
	Items []Item     // ascending by offset, at least one
}

// Item is one address of a [Group].
type Item struct {
	Offset uint8 // from Base, below groupSize
	Label  string
}

// groupBase returns the base of the group that addr is in.
func groupBase(addr netip.Addr) netip.Addr {
	b := addr.AsSlice()
	if len(b) == 0 {
		return addr
	}
	b[len(b)-1] &^= groupSize - 1
	base, _ := netip.AddrFromSlice(b)
	return base
}

func (a *Group) items(c *coder) {
	c.must(a.Base.IsValid() && a.Base == groupBase(a.Base))
	byOffset := func(x, y Item) int { return int(x.Offset) - int(y.Offset) }
	set(c, &a.Items, groupSize, 2, byOffset, func(_, i *Item) {
		c.octet(&i.Offset)
		c.must(i.Offset < groupSize)
		c.text(&i.Label)
	})
	c.must(len(a.Items) > 0)
}

// attachedKey returns the key of the entry of a group.
func attachedKey(base netip.Addr) string { return entryAttached + hex.EncodeToString(base.AsSlice()) }

// Marshal returns the entry, key and value.
func (a Group) Marshal() (string, []byte, error) {
	c := &coder{buf: []byte{entryFormat}}
	a.items(c)
	return attachedKey(a.Base), c.buf, c.err
}

// ParseGroup reads an entry whose key begins with "a/".
func ParseGroup(key string, value []byte) (Group, error) {
	var a Group
	digits, ok := strings.CutPrefix(key, entryAttached)
	b, err := hex.DecodeString(digits)
	if base, is := netip.AddrFromSlice(b); is {
		a.Base = base
	}
	c := &coder{reading: true, buf: value}
	format := byte(0)
	c.octet(&format)
	c.must(format == entryFormat && ok && err == nil && key == attachedKey(a.Base) && !a.Base.Is4In6())
	a.items(c)
	if err := c.done(); err != nil {
		return Group{}, fmt.Errorf("attached entry %q: %w", key, err)
	}
	return a, nil
}
