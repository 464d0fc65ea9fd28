package offload

import "encoding/binary"

// What both directions look at in the headers.
const (
	ethLen = 14
	tagLen = 4
	ip4Len = 20 // without options
	ip6Len = 40
	tcpLen = 20 // without options
	udpLen = 8

	typeIPv4     = 0x0800
	typeIPv6     = 0x86dd
	typeTag      = 0x8100 // 802.1Q
	typeOuterTag = 0x88a8 // 802.1ad

	protoTCP = 6
	protoUDP = 17

	tcpCheck = 16 // where the checksum is
	udpCheck = 6

	flagFIN = 0x01
	flagPSH = 0x08
	flagACK = 0x10
	flagECE = 0x40
	flagCWR = 0x80

	maxPacket = 65535 // bytes of an IP packet
	maxTags   = 8     // VLAN tags that are looked through: as many as Linux does
)

// kind is how segments differ from their frame.
type kind uint8

const (
	none    kind = iota // there are none
	plain               // not at all
	partial             // in the checksum
	tcp
	udp
	udpBare // without a checksum
)

// Cut gives the segments of one frame that came from a TAP. The zero value is
// ready; it is used again for the next frame. Not for concurrent use.
type Cut struct {
	frame []byte // borrowed
	err   error
	kind  kind

	// Constant after Start.

	v4    bool
	flags uint16 // of TCP, with the length of its header
	l3    int    // where the IP header is in the frame
	l4    int    // where the one of TCP or UDP is; of a partial checksum: where its sum begins
	head  int    // where the payload is; of a partial checksum: where that is
	size  int    // bytes of payload of each segment but the last
	sum3  uint32 // of the IPv4 header without length, ID and checksum
	sum4  uint32 // of pseudo header and header without lengths, sequence number, flags and checksum

	// Of the next segment.

	at  int // its payload
	seq uint32
	id  uint16
}

// Start begins with the next frame, whose Ethernet header is at its beginning,
// and checks all of its headers. The frame is borrowed until Next has said
// ok=false or until the next Start. After an error there are no segments.
//
// As in Linux it is the length of the frame that counts, not the one in its IP
// header, and a checksum that is needed is trusted to have the sum of the
// pseudo header in its place (virtio 1.2 section 5.1.6.2).
func (c *Cut) Start(h Header, frame []byte) error {
	c.frame, c.kind = frame, none
	k, err := c.start(h, frame)
	if c.err = err; err != nil {
		c.frame = nil
		return err
	}
	c.kind = k
	return nil
}

func (c *Cut) start(h Header, frame []byte) (kind, error) {
	if len(frame) < ethLen {
		return none, ErrShort
	}
	start, check := int(h.CsumStart), int(h.CsumStart)+int(h.CsumOffset)
	needed := h.Flags&NeedsChecksum != 0
	if needed && check+2 > len(frame) {
		return none, ErrChecksum
	}
	var proto byte
	var field int
	switch h.GSOType {
	case GSONone:
		c.l4, c.head = start, check
		if needed {
			return partial, nil
		}
		return plain, nil
	case GSOTCPv4, GSOTCPv6, GSOTCPv4 | GSOECN, GSOTCPv6 | GSOECN:
		proto, field = protoTCP, tcpCheck
	case GSOUDP:
		proto, field = protoUDP, udpCheck
	default:
		return none, ErrGSOType
	}
	if h.GSOSize == 0 {
		return none, ErrGSOSize
	}
	bare, err := c.find(frame, proto)
	if err != nil {
		return none, err
	}
	if proto == protoTCP && c.v4 != (h.GSOType&^GSOECN == GSOTCPv4) {
		return none, ErrHeaders
	}
	if needed && (start != c.l4 || check != c.l4+field) {
		return none, ErrChecksum
	}
	if !needed && !bare {
		return none, ErrHeaders // the address that the checksum is about may be in an option
	}
	if min(c.head+int(h.GSOSize), len(frame))-c.l3 > maxPacket {
		return none, ErrHeaders
	}
	c.at, c.size = c.head, int(h.GSOSize)
	return c.sum(frame, proto, needed), nil
}

// find looks through VLAN tags, IPv4 options and IPv6 extension headers for
// the header of proto; bare is when there is none of the latter two.
func (c *Cut) find(frame []byte, proto byte) (bare bool, err error) {
	l3 := ethLen
	t := binary.BigEndian.Uint16(frame[l3-2:])
	for n := 0; (t == typeTag || t == typeOuterTag) && n < maxTags && l3+tagLen <= len(frame); n++ {
		l3 += tagLen
		t = binary.BigEndian.Uint16(frame[l3-2:])
	}
	ip := frame[l3:]
	var n int
	switch t {
	case typeIPv4:
		const fragment = 0x3fff // more of them, or an offset
		if len(ip) < ip4Len {
			return false, ErrShort
		}
		n = int(ip[0]&0x0f) * 4
		if ip[0]>>4 != 4 || n < ip4Len || ip[9] != proto || binary.BigEndian.Uint16(ip[6:])&fragment != 0 {
			return false, ErrHeaders
		}
		c.v4, bare = true, n == ip4Len
	case typeIPv6:
		const hopByHop, routing, destination = 0, 43, 60 // options
		if len(ip) < ip6Len {
			return false, ErrShort
		}
		if ip[0]>>4 != 6 {
			return false, ErrHeaders
		}
		next := ip[6]
		n = ip6Len
		for next == hopByHop || next == routing || next == destination {
			if n+8 > len(ip) {
				return false, ErrShort
			}
			next, n = ip[n], n+8+8*int(ip[n+1])
		}
		if next != proto {
			return false, ErrHeaders
		}
		c.v4, bare = false, n == ip6Len
	default:
		return false, ErrHeaders
	}
	c.l3, c.l4 = l3, l3+n
	c.head = c.l4 + udpLen
	if proto == protoTCP {
		if len(frame) < c.l4+tcpLen {
			return false, ErrShort
		}
		c.head = c.l4 + int(frame[c.l4+12]>>4)*4
		if c.head < c.l4+tcpLen {
			return false, ErrHeaders
		}
	}
	if len(frame) < c.head {
		return false, ErrShort
	}
	return bare, nil
}

// sum adds up what all segments have in common.
func (c *Cut) sum(frame []byte, proto byte, needed bool) kind {
	ip, l4 := frame[c.l3:c.l4], frame[c.l4:c.head]
	addresses := ip[8:]
	if c.v4 {
		addresses = ip[12:ip4Len]
		c.id = binary.BigEndian.Uint16(ip[4:])
		c.sum3 = uint32(fold(add(add(add(0, ip[:2]), ip[6:10]), ip[12:])))
	}
	pseudo := uint32(proto)
	check := l4[udpCheck:]
	if proto == protoTCP {
		check = l4[tcpCheck:]
	}
	if needed { // it is there, with the length, which is taken out
		pseudo = uint32(binary.BigEndian.Uint16(check)) + uint32(^uint16(len(frame)-c.l4))
	} else {
		pseudo += uint32(fold(add(0, addresses)))
	}
	ports := add(0, l4[:4])
	if proto == protoUDP {
		c.sum4 = pseudo + uint32(fold(ports))
		if binary.BigEndian.Uint16(check) == 0 {
			return udpBare
		}
		return udp
	}
	c.seq = binary.BigEndian.Uint32(l4[4:])
	c.flags = binary.BigEndian.Uint16(l4[12:])
	c.sum4 = pseudo + uint32(fold(add(add(add(ports, l4[8:12]), l4[14:16]), l4[18:])))
	return tcp
}

// Next writes the next segment to dst: an Ethernet frame of n bytes with
// complete checksums. When there is no other, ok is false and n is 0. So it is
// when dst is too small: that ends the frame, and Err says so.
func (c *Cut) Next(dst []byte) (n int, ok bool) {
	switch c.kind {
	case none:
		return 0, false
	case plain, partial:
		return c.whole(dst)
	case tcp, udp, udpBare:
	}
	end := min(c.at+c.size, len(c.frame))
	payload := c.frame[c.at:end]
	n = c.head + len(payload)
	if n > len(dst) {
		return c.stop(ErrBuffer)
	}
	dst = dst[:n]
	var sum4 uint32
	if c.kind != udpBare {
		sum4 = c.sum4 + uint32(fold(add(0, payload))) // and then copy: in one go both take longer
	}
	copy(dst, c.frame[:c.head])
	copy(dst[c.head:], payload)
	ip := dst[c.l3:]
	if c.v4 {
		h := (*[ip4Len]byte)(ip)
		binary.BigEndian.PutUint16(h[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(h[4:], c.id)
		binary.BigEndian.PutUint16(h[10:], ^fold32(c.sum3+uint32(len(ip))+uint32(c.id)))
		c.id++
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ip6Len))
	}
	l4 := dst[c.l4:]
	if c.kind == tcp {
		h := (*[tcpLen]byte)(l4)
		flags := c.flags
		if end < len(c.frame) {
			flags &^= flagFIN | flagPSH
		}
		sum4 += uint32(len(l4)) + c.seq>>16 + c.seq&0xffff + uint32(flags)
		binary.BigEndian.PutUint32(h[4:], c.seq)
		binary.BigEndian.PutUint16(h[12:], flags)
		binary.BigEndian.PutUint16(h[tcpCheck:], ^fold32(sum4))
		c.seq += uint32(len(payload))
		c.flags &^= flagCWR
	} else {
		h := (*[udpLen]byte)(l4)
		binary.BigEndian.PutUint16(h[4:], uint16(len(l4)))
		if c.kind == udp {
			sum4 += 2 * uint32(len(l4)) // it is in the pseudo header, too
			binary.BigEndian.PutUint16(h[udpCheck:], notZero(^fold32(sum4)))
		}
	}
	if c.at = end; end == len(c.frame) {
		c.kind, c.frame = none, nil
	}
	return n, true
}

// whole is Next for a frame that is not a super-frame.
func (c *Cut) whole(dst []byte) (n int, ok bool) {
	n = len(c.frame)
	if n > len(dst) {
		return c.stop(ErrBuffer)
	}
	copy(dst, c.frame)
	if c.kind == partial {
		sum := ^fold(add(0, c.frame[c.l4:]))
		binary.BigEndian.PutUint16(dst[c.head:], notZero(sum)) // whatever it is: others take both for 0
	}
	c.kind, c.frame = none, nil
	return n, true
}

func (c *Cut) stop(err error) (n int, ok bool) {
	c.kind, c.frame, c.err = none, nil, err
	return 0, false
}

// notZero is a checksum for UDP, where 0 means that there is none (RFC 768).
func notZero(sum uint16) uint16 {
	if sum == 0 {
		return 0xffff
	}
	return sum
}

// Len is the length in bytes of the longest segment to come without its
// Ethernet header: of its IP packet if that is what it is. A VLAN tag counts,
// since it takes room on a path. It is 0 when there is no other segment.
func (c *Cut) Len() int {
	switch c.kind {
	case none:
		return 0
	case plain, partial:
		return len(c.frame) - ethLen
	case tcp, udp, udpBare:
	}
	return c.head + min(c.size, len(c.frame)-c.at) - ethLen
}

// Err is nil, or why there is no other segment: what Start returned, or
// [ErrBuffer].
func (c *Cut) Err() error { return c.err }
