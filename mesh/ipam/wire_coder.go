package ipam

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
)

// detail is how much is said of who holds a lease.
type detail int

const (
	bare       detail = iota // the address and its op
	withKeys                 // and the key
	withLabels               // and the label
)

// coder writes values to the end of buf, or reads them from its front: every
// method takes a pointer, and what is written and what is read cannot drift
// apart. After the first error nothing happens any more, and what is read is
// zero.
type coder struct {
	reading bool
	buf     []byte
	err     error

	// For messages. Without a table identities are written in full.
	geo    Geometry
	detail detail
	table  []crypto.Identity       // in order of first use
	index  map[crypto.Identity]int // places in table; nil: there is no table
	used   int                     // of table, when reading
}

func newWriter(geo Geometry, d detail) *coder {
	return &coder{geo: geo, detail: d, index: make(map[crypto.Identity]int)}
}

// finish returns the message whose body was written.
func (c *coder) finish(m Message) []byte {
	h := coder{buf: make([]byte, 0, 64+len(c.table)*crypto.IdentitySize+len(c.buf))}
	h.buf = append(h.buf, MessageByte, byte(m.Body.kind()))
	h.ring(&m.Ring)
	r := c.geo.Range()
	h.prefix(&r)
	h.buf = binary.AppendUvarint(h.buf, uint64(len(c.table)))
	for i := range c.table {
		h.id(&c.table[i])
	}
	return append(h.buf, c.buf...)
}

// newReader reads all of a message but its body.
func newReader(b []byte) (*coder, Message, kind, error) {
	var m Message
	if len(b) < 2 || len(b) > MaxMessage || b[0] != MessageByte {
		return nil, m, 0, errWire
	}
	c := &coder{reading: true, buf: b[2:]}
	c.ring(&m.Ring)
	c.prefix(&m.Range)
	table := make([]crypto.Identity, c.count(0, maxPeers, crypto.IdentitySize))
	for i := range table {
		c.id(&table[i])
	}
	if c.err == nil {
		c.geo, c.err = newGeometry(m.Range)
	}
	c.index = make(map[crypto.Identity]int, len(table))
	for i, id := range table {
		c.index[id] = i
	}
	c.table = table
	c.must(len(c.index) == len(table))
	return c, m, kind(b[1]), c.err
}

// done returns the error of reading, an error too if something is left.
func (c *coder) done() error {
	c.must(len(c.buf) == 0 && c.used == len(c.table))
	return c.err
}

func (c *coder) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// must makes sure of what holds in each valid value.
func (c *coder) must(ok bool) {
	switch {
	case ok:
	case c.reading:
		c.fail(errWire)
	default:
		c.fail(errors.New("fields contradict each other"))
	}
}

// take reads n bytes, which it does not copy.
func (c *coder) take(n int) []byte {
	if c.err != nil || n > len(c.buf) {
		c.must(false)
		return nil
	}
	b := c.buf[:n:n]
	c.buf = c.buf[n:]
	return b
}

// raw codes b as it is.
func (c *coder) raw(b []byte) {
	if c.reading {
		copy(b, c.take(len(b)))
		return
	}
	c.buf = append(c.buf, b...)
}

func (c *coder) octet(v *byte) {
	b := [1]byte{*v}
	c.raw(b[:])
	*v = b[0]
}

func (c *coder) flag(v *bool) {
	var b byte
	if *v {
		b = 1
	}
	c.octet(&b)
	c.must(b <= 1)
	*v = b == 1
}

func (c *coder) hash(v *uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], *v)
	c.raw(b[:])
	*v = binary.BigEndian.Uint64(b[:])
}

func (c *coder) ring(v *RingID) { c.raw(v[:]) }

func (c *coder) uint(v *uint64) {
	n := num{lo: *v}
	c.num(&n)
	c.must(n.hi == 0)
	*v = n.lo
}

func (c *coder) int(v *int, limit int) {
	n := uint64(*v)
	c.uint(&n)
	c.must(n <= uint64(limit))
	if c.err == nil {
		*v = int(n)
	}
}

// num codes a minimal uvarint of up to 128 bits: 7 bits to the byte, the
// lowest first.
func (c *coder) num(v *num) {
	if !c.reading {
		n := *v
		for ; n.hi > 0 || n.lo >= 0x80; n = n.shr(7) {
			c.buf = append(c.buf, byte(n.lo)|0x80)
		}
		c.buf = append(c.buf, byte(n.lo))
		return
	}
	*v = num{}
	for shift := uint(0); c.err == nil; shift += 7 {
		var b byte
		c.octet(&b)
		part := num{lo: uint64(b & 0x7f)}
		moved := part.shl(shift)
		// Nothing may fall off the top, and the last byte must be needed.
		c.must(shift < 128 && moved.shr(shift) == part && (b != 0 || shift == 0))
		*v = num{v.hi | moved.hi, v.lo | moved.lo}
		if b < 0x80 {
			break
		}
	}
	if c.err != nil {
		*v = num{}
	}
}

// count codes the length of a list. When reading, items of at least size
// bytes each must follow, so that no more is allocated than was sent.
func (c *coder) count(n, limit, size int) int {
	if !c.reading {
		if n > limit {
			c.fail(fmt.Errorf("%w: %d items of at most %d", errTooLarge, n, limit))
		}
	}
	c.int(&n, limit)
	if c.reading && (c.err != nil || n > len(c.buf)/size) {
		c.must(false)
		return 0
	}
	return n
}

// list codes the items of a list one by one.
func list[T any](c *coder, s *[]T, limit, size int, item func(i int, v *T)) {
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
func set[T any](c *coder, s *[]T, limit, size int, compare func(a, b T) int, item func(prev *T, v *T)) {
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
		c.must(c.err != nil || prev == nil || compare(*prev, *v) < 0)
	})
}

// text codes a string of at most maxText bytes that can be shown to people:
// UTF-8 without control characters. The writer makes it so.
func (c *coder) text(v *string) {
	if !c.reading {
		s := printable(*v)
		c.buf = binary.AppendUvarint(c.buf, uint64(len(s)))
		c.buf = append(c.buf, s...)
		return
	}
	s := string(c.take(c.count(0, maxText, 1)))
	c.must(s == printable(s))
	if c.err != nil {
		s = ""
	}
	*v = s
}

// printable returns s with a question mark for each byte sequence that is not
// text, cut to maxText bytes.
func printable(s string) string {
	clean := func(r rune) bool { return r != utf8.RuneError && !unicode.IsControl(r) }
	if strings.ContainsFunc(s, func(r rune) bool { return !clean(r) }) {
		s = strings.Map(func(r rune) rune {
			if clean(r) {
				return r
			}
			return '?'
		}, s)
	}
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

// id codes an identity, by its place in the table if there is one.
func (c *coder) id(v *crypto.Identity) {
	if c.index == nil {
		c.raw(v[:])
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
		if len(c.table) > maxPeers {
			c.fail(fmt.Errorf("%w: more than %d identities", errTooLarge, maxPeers))
		}
	}
	c.int(&i, maxPeers)
	if !c.reading {
		return
	}
	// In order of first use: the next new one, or one that was there.
	if c.err != nil || i > c.used || i >= len(c.table) {
		c.must(false)
		return
	}
	c.used = max(c.used, i+1)
	*v = c.table[i]
}

func (c *coder) addrs(v *[]netip.Addr) {
	set(c, v, maxAddresses, 1, netip.Addr.Compare, func(prev, a *netip.Addr) {
		c.addr(a, c.after(valueOf(prev)))
	})
}

func (c *coder) ids(v *[]crypto.Identity) {
	set(c, v, maxPeers, 1, crypto.Identity.Compare, func(_, id *crypto.Identity) { c.id(id) })
}

func (c *coder) ops(v *[]uint64) {
	set(c, v, maxOpen, 1, cmp.Compare, func(_, op *uint64) { c.uint(op) })
}

func valueOf[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
