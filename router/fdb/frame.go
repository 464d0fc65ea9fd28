package fdb

import "encoding/binary"

// Lengths and numbers of RFC 791, 826, 8200 and 894.
const (
	etherLen = 14
	ip4Len   = 20
	ip6Len   = 40

	typeIP4 = 0x0800
	typeARP = 0x0806
	typeIP6 = 0x86dd

	protoHopByHop    = 0
	protoIGMP        = 2
	protoRouting     = 43
	protoFragment    = 44
	protoICMP6       = 58
	protoDestination = 60
	protoPIM         = 103

	typeTag, typeServiceTag = 0x8100, 0x88a8
)

// ether splits a frame; ok is false for what is too short to be one.
func ether(frame []byte) (dst, src MAC, kind uint16, rest []byte, ok bool) {
	if len(frame) < etherLen {
		return MAC{}, MAC{}, 0, nil, false
	}
	return MAC(frame), MAC(frame[6:]), binary.BigEndian.Uint16(frame[12:]), frame[etherLen:], true
}

// withoutPriority takes VLAN tags away that are of no VLAN: hosts take such a
// frame for one without.
func withoutPriority(kind uint16, b []byte) (uint16, []byte) {
	for (kind == typeTag || kind == typeServiceTag) && len(b) >= 4 && binary.BigEndian.Uint16(b)&0xfff == 0 {
		kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	return kind, b
}

// packet is a checked IP packet that is no fragment: its lengths fit.
type packet struct {
	v6       bool
	src, dst []byte
	proto    byte // of body, after a hop-by-hop header
	hops     byte
	body     []byte
	options  bool // IPv6 only: there was a hop-by-hop header
}

func ip(kind uint16, b []byte) (p packet, ok bool) {
	switch kind {
	case typeIP4:
		return ip4(b)
	case typeIP6:
		return ip6(b)
	}
	return packet{}, false
}

func ip4(b []byte) (p packet, ok bool) {
	if len(b) < ip4Len || b[0]>>4 != 4 {
		return packet{}, false
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if head < ip4Len || total < head || total > len(b) || fold(sum(b[:head], 0)) != 0xffff {
		return packet{}, false
	}
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 { // more fragments, or an offset
		return packet{}, false
	}
	return packet{src: b[12:16], dst: b[16:20], proto: b[9], hops: b[8], body: b[head:total]}, true
}

func ip6(b []byte) (p packet, ok bool) {
	if len(b) < ip6Len || b[0]>>4 != 6 {
		return packet{}, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n > len(b)-ip6Len {
		return packet{}, false
	}
	p = packet{v6: true, src: b[8:24], dst: b[24:40], proto: b[6], hops: b[7], body: b[ip6Len : ip6Len+n]}
	if p.proto == protoHopByHop {
		if len(p.body) < 8 {
			return packet{}, false
		}
		n := (int(p.body[1]) + 1) * 8
		if n > len(p.body) {
			return packet{}, false
		}
		p.proto, p.body, p.options = p.body[0], p.body[n:], true
	}
	return p, true
}

// sound says whether the checksum of an IGMP or ICMPv6 message is right.
func (p packet) sound() bool {
	if !p.v6 {
		return fold(sum(p.body, 0)) == 0xffff
	}
	return fold(sum(p.body, pseudo(p.src, p.dst, len(p.body)))) == 0xffff
}

// pseudo is the sum of the header that ICMPv6 checksums cover as well (RFC
// 8200, section 8.1).
func pseudo(src, dst []byte, n int) uint32 {
	return sum(dst, sum(src, uint32(n)+protoICMP6))
}

// sum adds 16-bit words, not yet folded (RFC 1071). It cannot overflow for as
// much as an IP packet holds.
func sum(b []byte, s uint32) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) > 0 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
