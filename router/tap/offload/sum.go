package offload

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum (RFC 1071) is a sum in ones' complement arithmetic, in
// which words of any size and byte order can be added up as long as it is the
// same for all and the end is folded to 16 bits.

// add adds the bytes of b, which begin at an even offset of what is summed, to
// s. It takes little-endian words; fold puts that right. Two chains of carries
// run side by side: one alone waits for its own result most of the time.
func add(s uint64, b []byte) uint64 {
	var t, c uint64
	for len(b) >= 128 {
		p := (*[128]byte)(b)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[0:]), 0)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[24:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[32:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[40:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[48:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[56:]), c)
		s += c
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[64:]), 0)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[72:]), c)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[80:]), c)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[88:]), c)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[96:]), c)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[104:]), c)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[112:]), c)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[120:]), c)
		t += c
		b = b[128:]
	}
	if len(b) >= 64 {
		p := (*[64]byte)(b)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[0:]), 0)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(p[24:]), c)
		s += c
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[32:]), 0)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[40:]), c)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[48:]), c)
		t, c = bits.Add64(t, binary.LittleEndian.Uint64(p[56:]), c)
		t += c
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), 0)
		s += c
		b = b[8:]
	}
	var rest uint64
	if len(b) >= 4 {
		rest = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		rest += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		rest += uint64(b[0])
	}
	t, c = bits.Add64(t, rest, 0)
	t += c
	s, c = bits.Add64(s, t, 0)
	return s + c
}

// fold gives what add has summed as a 16-bit number in network byte order.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	return bits.ReverseBytes16(fold32(uint32(s)))
}

// fold32 folds a sum of 16-bit numbers.
func fold32(s uint32) uint16 {
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}
