package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"os"
	"testing"
)

// FuzzInspect changes bytes of a real database and makes its metas match
// again. What passes the inspection must not upset bbolt.
func FuzzInspect(f *testing.F) {
	sm := newSample(f)
	page := os.Getpagesize()
	for at := range len(sm.file) / page {
		for _, offset := range []int{0, 8, 10, 12, 16, 24, 32, 48} {
			f.Add(uint32(at*page+offset), uint64(1), uint32(at*page+offset+16), uint64(2))
		}
	}
	f.Fuzz(func(t *testing.T, at uint32, v uint64, at2 uint32, v2 uint64) {
		b := bytes.Clone(sm.file)
		for _, c := range []struct {
			at uint32
			v  uint64
		}{{at, v}, {at2, v2}} {
			i := int(c.at) % (len(b) - 8)
			binary.NativeEndian.PutUint64(b[i:], binary.NativeEndian.Uint64(b[i:])^c.v)
		}
		for _, meta := range [][]byte{b[boltHeader:], b[page+boltHeader:]} {
			h := fnv.New64a()
			h.Write(meta[:56])
			binary.NativeEndian.PutUint64(meta[56:], h.Sum64())
		}
		if err := inspect(bytes.NewReader(b), int64(len(b))); err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("inspect: %v", err)
			}
			return
		}
		p := newPlace(t)
		replace(t, p.db, b)
		s := p.open(t)
		loaded(t, s)
		saved(t, s, Write{"l/10.32.1.3", nil}, Write{"z", make([]byte, 6_000)})
		closed(t, s)
	})
}
