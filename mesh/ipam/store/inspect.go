package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
)

// The file format of bbolt, as far as it takes to see that a file is whole.
// Numbers are in the order of the machine.
//
//	pages of one size; page 0 and 1 are metas, the valid one with the higher
//	txid counts
//	page      id u64, flags u16, count u16, overflow u32 (pages more), content
//	meta      magic u32, version u32, page size u32, flags u32, root bucket,
//	          freelist u64, number of pages u64, txid u64, FNV-1a of the above
//	bucket    root page u64 (0: the page follows), sequence u64
//	branch    count × (pos u32, key size u32, page u64), keys
//	leaf      count × (flags u32, pos u32, key size u32, value size u32), keys
//	          and values; pos counts from the element itself
//	freelist  count × u64; a count of 65,535 says that the first u64 is it
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltBranch     = 0x01
	boltLeaf       = 0x02
	boltFreelist   = 0x10
	boltHeader     = 16
	boltElement    = 16
	boltBucket     = 16
	boltMeta       = 64
	boltNoFreelist = math.MaxUint64
	boltDepth      = 32 // of trees; a real one is 4 or 5 deep
	minPage        = 1 << 10
	maxPage        = 1 << 16
)

// inspection looks through a database without mapping it: bbolt itself trusts
// lengths and page numbers, and a wrong one ends the process or runs in a
// circle. Its own check has the same trust, and a goroutine where nobody can
// catch a fault.
type inspection struct {
	file     io.ReaderAt
	pageSize uint64
	pages    uint64
	seen     []bool // by page: found in a tree or the freelist
}

// inspect returns an error that wraps errDamaged if the file of that size is
// not a whole database. Contents are not looked at.
func inspect(file io.ReaderAt, size int64) error {
	v := inspection{file: file}
	m, err := v.meta(size)
	if err != nil {
		return err
	}
	v.pageSize, v.pages = uint64(m.pageSize), m.pages
	switch have := uint64(size) / v.pageSize; {
	case size > 2*maxDatabase:
		return damaged("%d bytes", size)
	case v.pages < 2 || v.pages > have:
		return damaged("truncated: %d of %d pages", have, v.pages)
	}
	v.seen = make([]bool, v.pages)
	v.seen[0], v.seen[1] = true, true
	if err := v.tree(m.root, nil, nil, 0); err != nil {
		return err
	}
	return v.freelist(m.freelist)
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errDamaged}, args...)...)
}

type boltMetaPage struct {
	pageSize                    uint32
	root, freelist, pages, txid uint64
}

// meta returns the meta that counts.
func (v *inspection) meta(size int64) (boltMetaPage, error) {
	first, ok, err := v.readMeta(0)
	if err != nil {
		return first, err
	}
	if ok {
		second, ok, err := v.readMeta(int64(first.pageSize))
		switch {
		case err != nil || !ok || second.txid <= first.txid:
			return first, err
		case second.pageSize != first.pageSize:
			return first, damaged("pages of two sizes")
		}
		return second, nil
	}
	// Where the second begins depends on the page size.
	for at := int64(minPage); at <= maxPage && at < size; at *= 2 {
		second, ok, err := v.readMeta(at)
		if ok && int64(second.pageSize) != at {
			err = damaged("pages of %d bytes at %d", second.pageSize, at)
		}
		if ok || err != nil {
			return second, err
		}
	}
	return first, damaged("it does not begin like a database")
}

// readMeta reads the meta page at an offset. One that is cut off or does not
// match its checksum is not ok; an error means that nothing can be read.
func (v *inspection) readMeta(at int64) (m boltMetaPage, ok bool, err error) {
	b := make([]byte, boltHeader+boltMeta)
	if _, err := v.file.ReadAt(b, at); err != nil {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return m, false, err
	}
	b = b[boltHeader:]
	u32, u64 := binary.NativeEndian.Uint32, binary.NativeEndian.Uint64
	m = boltMetaPage{pageSize: u32(b[8:]), root: u64(b[16:]), freelist: u64(b[32:]), pages: u64(b[40:]), txid: u64(b[48:])}
	h := fnv.New64a()
	h.Write(b[:56])
	ok = u32(b) == boltMagic && u32(b[4:]) == boltVersion && u64(b[56:]) == h.Sum64()
	if ok && (m.pageSize < minPage || m.pageSize > maxPage || m.pageSize&(m.pageSize-1) != 0) {
		err = damaged("pages of %d bytes", m.pageSize)
	}
	return m, ok, err
}

// boltPage is one page with those that continue it.
type boltPage struct {
	id    uint64 // for messages
	flags uint16
	count int
	data  []byte // header included
}

// page reads a page that nothing else refers to.
func (v *inspection) page(id uint64) (boltPage, error) {
	if id < 2 || id >= v.pages || v.seen[id] {
		return boltPage{}, damaged("page %d is missing or used twice", id)
	}
	var h [boltHeader]byte
	if _, err := v.file.ReadAt(h[:], int64(id*v.pageSize)); err != nil {
		return boltPage{}, fmt.Errorf("read page %d: %w", id, err)
	}
	more := uint64(binary.NativeEndian.Uint32(h[12:]))
	if binary.NativeEndian.Uint64(h[:]) != id || id+more >= v.pages {
		return boltPage{}, damaged("page %d is something else", id)
	}
	for i := id; i <= id+more; i++ {
		if v.seen[i] {
			return boltPage{}, damaged("page %d is used twice", i)
		}
		v.seen[i] = true
	}
	data := make([]byte, (more+1)*v.pageSize)
	if _, err := v.file.ReadAt(data, int64(id*v.pageSize)); err != nil {
		return boltPage{}, fmt.Errorf("read page %d: %w", id, err)
	}
	return newBoltPage(id, data), nil
}

func newBoltPage(id uint64, data []byte) boltPage {
	return boltPage{
		id:    id,
		flags: binary.NativeEndian.Uint16(data[8:]),
		count: int(binary.NativeEndian.Uint16(data[10:])),
		data:  data,
	}
}

// tree looks at the page and all below it. Keys must be in [low, high), nil
// being no bound.
func (v *inspection) tree(id uint64, low, high []byte, depth int) error {
	p, err := v.page(id)
	if err != nil {
		return err
	}
	switch {
	case depth > boltDepth:
		return damaged("page %d: too deep", id)
	case p.flags == boltLeaf:
		return v.leaf(p, low, high, depth)
	case p.flags != boltBranch || p.count == 0:
		return damaged("page %d: no tree", id)
	}
	keys := make([][]byte, p.count+1)
	keys[p.count] = high
	below := make([]uint64, p.count)
	for i := range p.count {
		e := p.element(i)
		if e == nil {
			return damaged("page %d: cut off", id)
		}
		u32 := binary.NativeEndian.Uint32
		if keys[i] = slice(e, u32(e), u32(e[4:])); keys[i] == nil {
			return damaged("page %d: key outside", id)
		}
		below[i] = binary.NativeEndian.Uint64(e[8:])
	}
	for i := range p.count {
		if !within(keys[i], low, high) || i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 {
			return damaged("page %d: keys out of order", id)
		}
	}
	for i := range p.count {
		if err := v.tree(below[i], keys[i], keys[i+1], depth+1); err != nil {
			return err
		}
	}
	return nil
}

// leaf looks at keys and values, and into buckets.
func (v *inspection) leaf(p boltPage, low, high []byte, depth int) error {
	var prev []byte
	for i := range p.count {
		e := p.element(i)
		if e == nil {
			return damaged("page %d: cut off", p.id)
		}
		u32 := binary.NativeEndian.Uint32
		flags, pos, size := u32(e), u32(e[4:]), u32(e[8:])
		key := slice(e, pos, size)
		if key == nil || size > math.MaxUint32-pos {
			return damaged("page %d: key outside", p.id)
		}
		value := slice(e, pos+size, u32(e[12:]))
		if value == nil || flags > 1 {
			return damaged("page %d: value outside", p.id)
		}
		if !within(key, low, high) || i > 0 && bytes.Compare(prev, key) >= 0 {
			return damaged("page %d: keys out of order", p.id)
		}
		prev = key
		if flags == 1 {
			if err := v.bucket(p.id, value, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket looks at a bucket, which has a tree of its own or is a leaf in place.
func (v *inspection) bucket(id uint64, value []byte, depth int) error {
	if len(value) < boltBucket {
		return damaged("page %d: bucket cut off", id)
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return v.tree(root, nil, nil, depth)
	}
	value = value[boltBucket:]
	if len(value) < boltHeader || depth > boltDepth {
		return damaged("page %d: bucket cut off", id)
	}
	p := newBoltPage(id, value)
	if p.flags != boltLeaf {
		return damaged("page %d: bucket without leaf", id)
	}
	return v.leaf(p, nil, nil, depth)
}

// freelist looks at the list of free pages.
func (v *inspection) freelist(id uint64) error {
	if id == boltNoFreelist {
		return nil
	}
	p, err := v.page(id)
	if err != nil {
		return err
	}
	ids, count := p.data[boltHeader:], uint64(p.count)
	if p.count == math.MaxUint16 {
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if p.flags != boltFreelist || count > uint64(len(ids)/8) {
		return damaged("page %d: no list of free pages", id)
	}
	last := uint64(1)
	for i := range count {
		free := binary.NativeEndian.Uint64(ids[8*i:])
		if free <= last || free >= v.pages || v.seen[free] {
			return damaged("page %d is free and used", free)
		}
		last = free
	}
	return nil
}

// element returns the i-th element and all behind it, which its positions
// refer to, nil if it is not there.
func (p boltPage) element(i int) []byte {
	from := boltHeader + i*boltElement
	if from+boltElement > len(p.data) {
		return nil
	}
	return p.data[from:]
}

// slice returns size bytes of e from pos on, nil if they are not there.
func slice(e []byte, pos, size uint32) []byte {
	if pos < boltElement || uint64(pos)+uint64(size) > uint64(len(e)) {
		return nil
	}
	return e[pos : uint64(pos)+uint64(size)]
}

func within(key, low, high []byte) bool {
	return bytes.Compare(key, low) >= 0 && (high == nil || bytes.Compare(key, high) < 0)
}
