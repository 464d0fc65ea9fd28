package fields

import (
	"bytes"
	"testing"
)

func TestReader(t *testing.T) {
	whole := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18}
	read := func(r *Reader) (byte, uint16, uint32, uint64, []byte) {
		return r.Byte(), r.Uint16(), r.Uint32(), r.Uint64(), r.Take(3)
	}
	r := Reader{Left: whole}
	a, b, c, d, e := read(&r)
	if a != 1 || b != 0x0203 || c != 0x04050607 || d != 0x08090a0b0c0d0e0f || !bytes.Equal(e, whole[15:]) || r.Short || len(r.Left) != 0 {
		t.Errorf("%x %x %x %x %x, %+v", a, b, c, d, e, r)
	}
	// What is behind a field that is missing is missing, too, though it would fit.
	for n := range whole {
		r := Reader{Left: whole[:n]}
		_, _, _, d, e := read(&r)
		if !r.Short || n < 15 && d != 0 || e != nil {
			t.Errorf("%d bytes: %x %x, %+v", n, d, e, r)
		}
		if left := len(r.Left); r.Byte() != 0 || len(r.Left) != left {
			t.Errorf("%d bytes: something is taken after the end", n)
		}
	}
}
