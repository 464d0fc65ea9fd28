package wire

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
)

// Keys of the replicated entries that each host publishes.
const (
	EntryInfo     = "i"  // an Info
	EntryAttached = "a/" // followed by the group's first address in hexadecimal: Group
)

// IsEntry reports whether the entry of the mesh with that key is one of an
// allocator.
func IsEntry(key string) bool { return key == EntryInfo || strings.HasPrefix(key, EntryAttached) }

// entryFormat is the first byte of each entry.
const entryFormat = 1

// Info is what a host says of its part of the address space.
type Info struct {
	Role    Role
	Range   netip.Prefix // zero only if Role is [RoleOff]
	Ring    ring.ID      // zero: none
	Blocks  int          // that it owns
	Free    int          // of them wholly free
	FreeIPs uint64       // addresses in its blocks that it may hand out
	Local   uint64       // addresses of the range that its containers have
	Leaving bool         // it hands over what it has
}

func (n *Info) fields(c *Coder) {
	format := byte(entryFormat)
	c.octet(&format)
	c.Must(format == entryFormat)
	c.role(&n.Role)
	if n.Role == RoleOff {
		c.Must(*n == Info{Role: RoleOff})
		return
	}
	c.Prefix(&n.Range)
	c.RingID(&n.Ring)
	c.int(&n.Blocks, space.MaxBlocks)
	c.int(&n.Free, space.MaxBlocks)
	c.Uint(&n.FreeIPs)
	c.Uint(&n.Local)
	c.Flag(&n.Leaving)
	c.Must(n.Free <= n.Blocks)
}

// Marshal returns the value of the entry [EntryInfo]. A host without an
// allocator publishes Info{Role: RoleOff}, so that nobody counts on its vote.
func (n Info) Marshal() ([]byte, error) {
	c := &Coder{}
	n.fields(c)
	return c.buf, c.err
}

// ParseInfo reads the value of an entry [EntryInfo].
func ParseInfo(b []byte) (Info, error) {
	c := &Coder{reading: true, buf: b}
	var n Info
	n.fields(c)
	if err := c.done(); err != nil {
		return Info{}, fmt.Errorf("info entry: %w", err)
	}
	return n, nil
}

// GroupSize is how many addresses the entry of a [Group] covers at most.
const GroupSize = 16

// Group is the addresses of a host's containers within one group of
// neighbouring addresses.
type Group struct {
	Base  netip.Addr // a multiple of GroupSize
	Items []Item     // ascending by offset, at least one
}

// Item is one address of a [Group].
type Item struct {
	Offset uint8 // from Base, below GroupSize
	Label  string
}

// GroupBase returns the base of the group that addr is in, see [Group].
func GroupBase(addr netip.Addr) netip.Addr {
	b := addr.AsSlice()
	if len(b) == 0 {
		return addr
	}
	b[len(b)-1] &^= GroupSize - 1
	base, _ := netip.AddrFromSlice(b)
	return base
}

// CodeItems codes what is in a group whose base is known, in both directions.
func (a *Group) CodeItems(c *Coder) {
	c.Must(a.Base.IsValid() && a.Base == GroupBase(a.Base))
	byOffset := func(x, y Item) int { return int(x.Offset) - int(y.Offset) }
	set(c, &a.Items, GroupSize, 2, byOffset, func(_, i *Item) {
		c.octet(&i.Offset)
		c.Must(i.Offset < GroupSize)
		c.Text(&i.Label)
	})
	c.Must(len(a.Items) > 0)
}

// AttachedKey returns the key of the entry of a group.
func AttachedKey(base netip.Addr) string { return EntryAttached + hex.EncodeToString(base.AsSlice()) }

// Marshal returns the entry, key and value.
func (a Group) Marshal() (string, []byte, error) {
	c := &Coder{buf: []byte{entryFormat}}
	a.CodeItems(c)
	return AttachedKey(a.Base), c.buf, c.err
}

// ParseGroup reads an entry whose key begins with "a/".
func ParseGroup(key string, value []byte) (Group, error) {
	var a Group
	digits, ok := strings.CutPrefix(key, EntryAttached)
	b, err := hex.DecodeString(digits)
	if base, is := netip.AddrFromSlice(b); is {
		a.Base = base
	}
	c := &Coder{reading: true, buf: value}
	format := byte(0)
	c.octet(&format)
	c.Must(format == entryFormat && ok && err == nil && key == AttachedKey(a.Base) && !a.Base.Is4In6())
	a.CodeItems(c)
	if err := c.done(); err != nil {
		return Group{}, fmt.Errorf("attached entry %q: %w", key, err)
	}
	return a, nil
}
