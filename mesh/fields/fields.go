// Package fields takes fields of known length from the front of a message. It
// does not know any message, and does not write.
package fields

import "encoding/binary"

// Reader takes fields from Left. After the first that is missing it is Short for
// good, and every field is zero: so a decoder needs one check, behind the last.
// Nothing is allocated for a field but by [Reader.Array] of what is missing.
type Reader struct {
	Left  []byte
	Short bool
}

// Take returns the next n bytes, which share memory with the message; nil when
// there are fewer.
func (r *Reader) Take(n int) []byte {
	if r.Short || len(r.Left) < n {
		r.Short = true
		return nil
	}
	b := r.Left[:n:n]
	r.Left = r.Left[n:]
	return b
}

// Array is like Take but always n bytes long, to be turned into an array.
func (r *Reader) Array(n int) []byte {
	if b := r.Take(n); b != nil {
		return b
	}
	return make([]byte, n)
}

// Byte takes one byte.
func (r *Reader) Byte() byte { return r.Array(1)[0] }

// Uint16 takes two bytes in network order.
func (r *Reader) Uint16() uint16 { return binary.BigEndian.Uint16(r.Array(2)) }

// Uint32 takes four bytes in network order.
func (r *Reader) Uint32() uint32 { return binary.BigEndian.Uint32(r.Array(4)) }

// Uint64 takes eight bytes in network order.
func (r *Reader) Uint64() uint64 { return binary.BigEndian.Uint64(r.Array(8)) }
