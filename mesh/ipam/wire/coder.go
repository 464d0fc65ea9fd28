package wire

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
)

// detail is how much is said of who holds a lease.
type detail int

const (
	bare       detail = iota // the address and its op
	withKeys                 // and the key
	withLabels               // and the label
)

// Coder writes values one behind the other, or reads them: every method takes a
// pointer, and what is written and what is read cannot drift apart. After the
// first error nothing happens any more, and what is read is zero. It is made by
// [Encode] and [Decode], and not safe for concurrent use.
type Coder struct {
	reading bool
	buf     []byte
	err     error

	// For messages. Without a table identities are written in full.
	geo    space.Geometry
	detail detail
	table  []crypto.Identity       // in order of first use
	index  map[crypto.Identity]int // places in table; nil: there is no table
	used   int                     // of table, when reading
}

// Encode returns what fields writes: values that are no message, with identities
// in full. It returns the first error.
func Encode(fields func(c *Coder)) ([]byte, error) {
	c := &Coder{detail: withLabels}
	fields(c)
	return c.buf, c.err
}

// Decode makes fields read b, all of it. It fails on anything that [Encode]
// would not have written. What is read shares no memory with b.
func Decode(b []byte, fields func(c *Coder)) error {
	c := &Coder{reading: true, buf: b, detail: withLabels}
	fields(c)
	return c.done()
}

func newWriter(geo space.Geometry, d detail) *Coder {
	return &Coder{geo: geo, detail: d, index: make(map[crypto.Identity]int)}
}

// finish returns the message whose body was written.
func (c *Coder) finish(m Message) []byte {
	h := Coder{buf: make([]byte, 0, 64+len(c.table)*crypto.IdentitySize+len(c.buf))}
	h.buf = append(h.buf, MessageByte, byte(m.Body.kind()))
	h.RingID(&m.Ring)
	r := c.geo.Range()
	h.Prefix(&r)
	h.buf = binary.AppendUvarint(h.buf, uint64(len(c.table)))
	for i := range c.table {
		h.ID(&c.table[i])
	}
	return append(h.buf, c.buf...)
}

// newReader reads all of a message but its body.
func newReader(b []byte) (*Coder, Message, kind, error) {
	var m Message
	if len(b) < 2 || len(b) > MaxMessage || b[0] != MessageByte {
		return nil, m, 0, errWire
	}
	c := &Coder{reading: true, buf: b[2:]}
	c.RingID(&m.Ring)
	c.Prefix(&m.Range)
	table := make([]crypto.Identity, c.count(0, MaxPeers, crypto.IdentitySize))
	for i := range table {
		c.ID(&table[i])
	}
	if c.err == nil {
		c.geo, c.err = space.NewGeometry(m.Range)
	}
	c.index = make(map[crypto.Identity]int, len(table))
	for i, id := range table {
		c.index[id] = i
	}
	c.table = table
	c.Must(len(c.index) == len(table))
	return c, m, kind(b[1]), c.err
}

// done returns the error of reading, an error too if something is left.
func (c *Coder) done() error {
	c.Must(len(c.buf) == 0 && c.used == len(c.table))
	return c.err
}

func (c *Coder) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// Must makes sure of what holds in each valid value: it fails unless ok.
func (c *Coder) Must(ok bool) {
	switch {
	case ok:
	case c.reading:
		c.fail(errWire)
	default:
		c.fail(errors.New("fields contradict each other"))
	}
}

// take reads n bytes, which it does not copy.
func (c *Coder) take(n int) []byte {
	if c.err != nil || n > len(c.buf) {
		c.Must(false)
		return nil
	}
	b := c.buf[:n:n]
	c.buf = c.buf[n:]
	return b
}

// Raw codes b as it is.
func (c *Coder) Raw(b []byte) {
	if c.reading {
		copy(b, c.take(len(b)))
		return
	}
	c.buf = append(c.buf, b...)
}

// octet codes a byte.
func (c *Coder) octet(v *byte) {
	b := [1]byte{*v}
	c.Raw(b[:])
	*v = b[0]
}

// Flag codes a bool as a byte, 0 or 1.
func (c *Coder) Flag(v *bool) {
	var b byte
	if *v {
		b = 1
	}
	c.octet(&b)
	c.Must(b <= 1)
	*v = b == 1
}

func (c *Coder) hash(v *uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], *v)
	c.Raw(b[:])
	*v = binary.BigEndian.Uint64(b[:])
}

// RingID codes the id of a ring.
func (c *Coder) RingID(v *ring.ID) { c.Raw(v[:]) }

// Uint codes a number as a minimal uvarint.
func (c *Coder) Uint(v *uint64) {
	n := space.Num{Lo: *v}
	c.num(&n)
	c.Must(n.Hi == 0)
	*v = n.Lo
}

func (c *Coder) int(v *int, limit int) {
	n := uint64(*v)
	c.Uint(&n)
	c.Must(n <= uint64(limit))
	if c.err == nil {
		*v = int(n)
	}
}

// num codes a minimal uvarint of up to 128 bits: 7 bits to the byte, the
// lowest first.
func (c *Coder) num(v *space.Num) {
	if !c.reading {
		n := *v
		for ; n.Hi > 0 || n.Lo >= 0x80; n = n.Shr(7) {
			c.buf = append(c.buf, byte(n.Lo)|0x80)
		}
		c.buf = append(c.buf, byte(n.Lo))
		return
	}
	*v = space.Num{}
	for shift := uint(0); c.err == nil; shift += 7 {
		var b byte
		c.octet(&b)
		part := space.Num{Lo: uint64(b & 0x7f)}
		moved := part.Shl(shift)
		// Nothing may fall off the top, and the last byte must be needed.
		c.Must(shift < 128 && moved.Shr(shift) == part && (b != 0 || shift == 0))
		*v = space.Num{Hi: v.Hi | moved.Hi, Lo: v.Lo | moved.Lo}
		if b < 0x80 {
			break
		}
	}
	if c.err != nil {
		*v = space.Num{}
	}
}

// count codes the length of a list. When reading, items of at least size
// bytes each must follow, so that no more is allocated than was sent.
func (c *Coder) count(n, limit, size int) int {
	if !c.reading {
		if n > limit {
			c.fail(fmt.Errorf("%w: %d items of at most %d", errTooLarge, n, limit))
		}
	}
	c.int(&n, limit)
	if c.reading && (c.err != nil || n > len(c.buf)/size) {
		c.Must(false)
		return 0
	}
	return n
}

// list codes the items of a list one by one.
func list[T any](c *Coder, s *[]T, limit, size int, item func(i int, v *T)) {
	n := c.count(len(*s), limit, size)
	if c.reading {
		*s = nil
		if n > 0 {
			*s = make([]T, n)
		}
	}
	for i := 0; i < len(*s) && c.err == nil; i++ {
		item(i, &(*s)[i])
	}
	if c.reading && c.err != nil {
		*s = nil
	}
}

// set codes a list in strictly ascending order. The writer sorts a copy and
// keeps one of several equal items.
func set[T any](c *Coder, s *[]T, limit, size int, compare func(a, b T) int, item func(prev *T, v *T)) {
	if !c.reading {
		sorted := slices.Clone(*s)
		slices.SortStableFunc(sorted, compare)
		sorted = slices.CompactFunc(sorted, func(a, b T) bool { return compare(a, b) == 0 })
		s = &sorted
	}
	list(c, s, limit, size, func(i int, v *T) {
		var prev *T
		if i > 0 {
			prev = &(*s)[i-1]
		}
		item(prev, v)
		c.Must(c.err != nil || prev == nil || compare(*prev, *v) < 0)
	})
}

// Text codes a string of at most MaxText bytes that can be shown to people:
// UTF-8 without control characters. The writer makes it so.
func (c *Coder) Text(v *string) {
	if !c.reading {
		s := Printable(*v)
		c.buf = binary.AppendUvarint(c.buf, uint64(len(s)))
		c.buf = append(c.buf, s...)
		return
	}
	s := string(c.take(c.count(0, MaxText, 1)))
	c.Must(s == Printable(s))
	if c.err != nil {
		s = ""
	}
	*v = s
}

// Printable returns s with a question mark for each byte sequence that is not
// text, cut to MaxText bytes.
func Printable(s string) string {
	clean := func(r rune) bool { return r != utf8.RuneError && !unicode.IsControl(r) }
	if strings.ContainsFunc(s, func(r rune) bool { return !clean(r) }) {
		s = strings.Map(func(r rune) rune {
			if clean(r) {
				return r
			}
			return '?'
		}, s)
	}
	if len(s) > MaxText {
		s = strings.ToValidUTF8(s[:MaxText], "")
	}
	return s
}

// ID codes an identity, by its place in the table if there is one.
func (c *Coder) ID(v *crypto.Identity) {
	if c.index == nil {
		c.Raw(v[:])
		return
	}
	i := c.used
	if !c.reading {
		var ok bool
		if i, ok = c.index[*v]; !ok {
			i = len(c.table)
			c.index[*v] = i
			c.table = append(c.table, *v)
		}
		if len(c.table) > MaxPeers {
			c.fail(fmt.Errorf("%w: more than %d identities", errTooLarge, MaxPeers))
		}
	}
	c.int(&i, MaxPeers)
	if !c.reading {
		return
	}
	// In order of first use: the next new one, or one that was there.
	if c.err != nil || i > c.used || i >= len(c.table) {
		c.Must(false)
		return
	}
	c.used = max(c.used, i+1)
	*v = c.table[i]
}

func (c *Coder) addrs(v *[]netip.Addr) {
	set(c, v, MaxAddresses, 1, netip.Addr.Compare, func(prev, a *netip.Addr) {
		c.addr(a, c.after(valueOf(prev)))
	})
}

// IDs codes a set of at most [MaxPeers] identities.
func (c *Coder) IDs(v *[]crypto.Identity) {
	set(c, v, MaxPeers, 1, crypto.Identity.Compare, func(_, id *crypto.Identity) { c.ID(id) })
}

func (c *Coder) ops(v *[]uint64) {
	set(c, v, MaxOpen, 1, cmp.Compare, func(_, op *uint64) { c.Uint(op) })
}

func valueOf[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
