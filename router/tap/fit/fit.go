// Package fit says what is done about frames that do not fit a path: who sent
// one is told with ICMP, and TCP is told beforehand how large its segments may
// be.
//
// It is pure: it reads and writes the bytes that it is given, allocates nothing
// and holds no state. What a path carries, how often somebody is told, and what
// becomes of the frame itself is its callers' business.
package fit

import "encoding/binary"

// Sizes and numbers of Ethernet, IP and what it carries.
const (
	addresses = 12 // of Ethernet: destination and source
	etherType = 2
	tagLength = 4 // IEEE 802.1Q
	maxTags   = 2

	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
	typeTag  = 0x8100 // IEEE 802.1Q
	typeTag2 = 0x88a8 // the outer one of two

	header4 = 20 // IPv4 without options
	header6 = 40
	icmp    = 8 // of both versions: type, code, checksum, four bytes

	protoICMP   = 1
	protoTCP    = 6
	protoICMPv6 = 58

	// IPv6 extension headers (RFC 8200).
	hopByHop    = 0
	routing     = 43
	fragment    = 44
	authentic   = 51
	destination = 60
)

// network returns where the IP header of a frame begins and its kind; 0 for
// everything that is not IP, or too short to say.
func network(frame []byte) (at int, kind uint16) {
	at = addresses
	for range maxTags + 1 {
		if len(frame) < at+etherType {
			return 0, 0
		}
		kind = binary.BigEndian.Uint16(frame[at:])
		switch kind {
		case typeIPv4, typeIPv6:
			return at + etherType, kind
		case typeTag, typeTag2:
			at += tagLength
		default:
			return 0, 0
		}
	}
	return 0, 0
}

// packet4 returns an IPv4 packet's header and what follows it, as far as it is
// in the frame; nil when the header is damaged. length is that of the packet.
func packet4(b []byte) (header, rest []byte, length int) {
	if len(b) < header4 || b[0]>>4 != 4 {
		return nil, nil, 0
	}
	n, length := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if n < header4 || length < n || len(b) < n || fold(sum(0, b[:n])) != 0xffff {
		return nil, nil, 0
	}
	return b[:n], b[n:min(len(b), length)], length
}

// packet6 returns an IPv6 packet's last header and what follows its extension
// headers, as far as it is in the frame; ok is false when it is damaged, and for
// fragments but the first. length is that of the packet.
func packet6(b []byte) (proto byte, rest []byte, length int, ok bool) {
	if len(b) < header6 || b[0]>>4 != 6 {
		return 0, nil, 0, false
	}
	payload := int(binary.BigEndian.Uint16(b[4:]))
	if payload == 0 { // nothing, or a jumbogram
		return 0, nil, 0, false
	}
	length = header6 + payload
	proto, rest = b[6], b[header6:min(len(b), length)]
	for {
		n := 0
		switch proto {
		case hopByHop, routing, destination:
			if len(rest) >= 2 {
				n = (int(rest[1]) + 1) * 8
			}
		case authentic:
			if len(rest) >= 2 {
				n = (int(rest[1]) + 2) * 4
			}
		case fragment:
			const offset = 0xfff8
			if len(rest) >= 8 && binary.BigEndian.Uint16(rest[2:])&offset == 0 {
				n = 8
			}
		default:
			return proto, rest, length, true
		}
		if n == 0 || n > len(rest) {
			return 0, nil, 0, false
		}
		proto, rest = rest[0], rest[n:]
	}
}

// sum adds the 16-bit words of b to s (RFC 1071). A last odd byte counts as the
// upper half of a word.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		s += uint32(b[0]) << 8
	}
	return s
}

// fold makes a 16-bit sum of one.
func fold(s uint32) uint16 {
	s = s&0xffff + s>>16
	return uint16(s + s>>16)
}
