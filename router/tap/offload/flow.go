package offload

import (
	"encoding/binary"
	"math/bits"
)

// class is what can be said of the flow of a frame.
type class uint8

const (
	single  class = iota // it has none that could be coalesced
	unclear              // it may be of any flow between its addresses
	flow                 // addresses, protocol and ports are where they usually are
)

// packet is what Join has to know of a frame. What is not said by its class and
// fits is not set.
type packet struct {
	class     class
	v4        bool
	proto     byte
	fits      bool  // it can be part of a super-frame, as far as can be seen from itself
	push      bool  // as the last one
	congested bool  // as the first one: CWR is set
	l4, head  int32 // where the header of TCP or UDP and the payload are
	id        uint16
	seq       uint32
}

// look reads the headers of a frame.
func look(frame []byte) (p packet) {
	if len(frame) < ethLen+ip4Len {
		return p
	}
	h := (*[ethLen + ip4Len]byte)(frame)
	switch binary.BigEndian.Uint16(h[12:]) {
	case typeIPv4:
		ip := (*[ip4Len]byte)(h[ethLen:])
		if p.proto = ip[9]; p.proto != protoTCP && p.proto != protoUDP {
			return p
		}
		const fragment, dontFragment = 0x3fff, 0x4000
		p.v4, p.l4 = true, ethLen+ip4Len
		off := binary.BigEndian.Uint16(ip[6:])
		if ip[0] != 0x45 || off&fragment != 0 || len(frame) < ethLen+ip4Len+4 {
			p.class = unclear
			return p
		}
		p.class = flow
		p.id = binary.BigEndian.Uint16(ip[4:])
		if int(binary.BigEndian.Uint16(ip[2:])) != len(frame)-ethLen || off&^dontFragment != 0 || fold(sum20(ip)) != 0xffff {
			return p
		}
	case typeIPv6:
		if len(frame) < ethLen+ip6Len {
			return p
		}
		ip := (*[ip6Len]byte)(frame[ethLen:])
		p.l4 = ethLen + ip6Len
		const hopByHop, routing, fragment, destination = 0, 43, 44, 60
		switch p.proto = ip[6]; p.proto {
		default:
			return p
		case hopByHop, routing, fragment, destination:
			p.class = unclear
			return p
		case protoTCP, protoUDP:
		}
		if len(frame) < ethLen+ip6Len+4 {
			p.class = unclear
			return p
		}
		p.class = flow
		if int(binary.BigEndian.Uint16(ip[4:])) != len(frame)-ethLen-ip6Len || ip[0]>>4 != 6 {
			return p
		}
	default:
		return p
	}
	l4 := frame[p.l4:]
	if p.proto == protoUDP {
		p.head = p.l4 + udpLen
		p.fits = len(l4) > udpLen && int(binary.BigEndian.Uint16(l4[4:])) == len(l4) && binary.BigEndian.Uint16(l4[udpCheck:]) != 0
		return p
	}
	if len(l4) <= tcpLen {
		return p
	}
	t := (*[tcpLen]byte)(l4)
	n := int32(t[12]>>4) * 4
	p.head = p.l4 + n
	p.seq = binary.BigEndian.Uint32(t[4:])
	p.push = t[13]&flagPSH != 0
	p.congested = t[13]&flagCWR != 0
	p.fits = n >= tcpLen && int(n) < len(l4) && t[13]&^(flagPSH|flagECE|flagCWR) == flagACK
	return p
}

// addresses says where they are in the frame, source and destination.
func addresses(v4 bool) (from, to int) {
	if v4 {
		return ethLen + 12, ethLen + ip4Len
	}
	return ethLen + 8, ethLen + ip6Len
}

// sum20 is add for an IPv4 header without options.
func sum20(ip *[ip4Len]byte) uint64 {
	s, c := bits.Add64(binary.LittleEndian.Uint64(ip[:]), binary.LittleEndian.Uint64(ip[8:]), 0)
	s, c = bits.Add64(s, uint64(binary.LittleEndian.Uint32(ip[16:])), c)
	return s + c
}

// hash mixes addresses and ports.
func hash(p *packet, frame []byte) uint32 {
	const odd = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	var x uint64
	if p.v4 {
		k := (*[12]byte)(frame[ethLen+12:])
		x = binary.LittleEndian.Uint64(k[:]) ^ uint64(binary.LittleEndian.Uint32(k[8:]))*odd
	} else {
		k := (*[36]byte)(frame[ethLen+8:])
		for i := 0; i < 32; i += 8 {
			x = bits.RotateLeft64(x, 29)*odd ^ binary.LittleEndian.Uint64(k[i:])
		}
		x ^= uint64(binary.LittleEndian.Uint32(k[32:])) * odd
	}
	return uint32(x * odd >> 32)
}
