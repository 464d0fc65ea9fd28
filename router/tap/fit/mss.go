package fit

import "encoding/binary"

// ClampMSS bounds what a TCP segment that opens a connection says of the
// segments it wants (RFC 9293, 3.7.1), in bytes, and says whether it changed
// anything. It raises nothing. 0 is no bound; a segment that says nothing is
// left alone.
//
// The checksum must be whole, not left to an interface to finish; it is brought
// up to date (RFC 1624), so one that was wrong stays wrong.
func ClampMSS(frame []byte, mss4, mss6 int) bool {
	at, kind := network(frame)
	if at == 0 {
		return false
	}
	var segment []byte
	bound := mss4
	if kind == typeIPv4 {
		header, rest, _ := packet4(frame[at:])
		const offset = 0x1fff
		if header == nil || header[9] != protoTCP || binary.BigEndian.Uint16(header[6:])&offset != 0 {
			return false
		}
		segment = rest
	} else {
		proto, rest, _, ok := packet6(frame[at:])
		if !ok || proto != protoTCP {
			return false
		}
		segment, bound = rest, mss6
	}
	if bound <= 0 || bound > 0xffff {
		return false
	}
	return clamp(segment, uint16(bound))
}

// clamp does it to a TCP segment.
func clamp(b []byte, bound uint16) (changed bool) {
	const header, syn, rst = 20, 0x02, 0x04
	if len(b) < header || b[13]&(syn|rst) != syn {
		return false
	}
	end := int(b[12]>>4) * 4
	if end < header || end > len(b) {
		return false
	}
	const endOfList, padding, maximum, length = 0, 1, 2, 4
	for i := header; i < end; {
		switch b[i] {
		case endOfList:
			return changed
		case padding:
			i++
			continue
		}
		if i+1 >= end || b[i+1] < 2 || i+int(b[i+1]) > end {
			return changed
		}
		if b[i] == maximum && b[i+1] == length && binary.BigEndian.Uint16(b[i+2:]) > bound {
			put(b, i+2, bound)
			changed = true
		}
		i += int(b[i+1])
	}
	return changed
}

// put writes a 16-bit value into a TCP segment at any place, also across two of
// the words that the checksum is made of.
func put(b []byte, at int, value uint16) {
	const checksum = 16
	was := binary.BigEndian.Uint16(b[at:])
	binary.BigEndian.PutUint16(b[at:], value)
	if at%2 == 1 { // the bytes have changed places in the sum
		was, value = was>>8|was<<8, value>>8|value<<8
	}
	s := uint32(^binary.BigEndian.Uint16(b[checksum:])) + uint32(^was) + uint32(value)
	binary.BigEndian.PutUint16(b[checksum:], ^fold(s))
}
