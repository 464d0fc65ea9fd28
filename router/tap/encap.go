package tap

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"

	"github.com/weftnet/weft/router/fdb"
)

const (
	ethernetLen = 14
	ipv4Len     = 20
	ipv6Len     = 40
	udpLen      = 8
	vxlanLen    = 8
	outerLen    = ipv6Len + udpLen + vxlanLen

	hopLimit  = 64
	protoTCP  = 6
	protoUDP  = 17
	vxlanFlag = 0x08 // the VNI is there

	// Source ports are below 1024, where no unprivileged process can send
	// from: a host that forwards by its kernel tells a switch from a forger so.
	portLow, portHigh = 512, 1023

	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	typeIPv6 = 0x86dd
)

// outerHeader is what stands before every frame to a remote: IPv6, UDP
// (checksum zero, RFC 6935: the tunnel protects it) and VXLAN (RFC 7348).
// Lengths, source port and congestion bits are put for each packet.
func outerHeader(c fdb.Config, to netip.Addr) (h [outerLen]byte) {
	be := binary.BigEndian
	h[0] = 6 << 4
	h[6], h[7] = protoUDP, hopLimit
	src, dst := c.Local.As16(), to.As16()
	copy(h[8:], src[:])
	copy(h[24:], dst[:])
	be.PutUint16(h[42:], c.Port)
	h[48] = vxlanFlag
	be.PutUint32(h[52:], c.VNI<<8)
	return h
}

// wrap puts the header before a frame of n bytes at b[outerLen:].
func (r *remote) wrap(b []byte, n int, source uint16, ecn byte) {
	h := (*[outerLen]byte)(b)
	*h = r.head
	be := binary.BigEndian
	h[1] = ecn << 4
	be.PutUint16(h[4:], uint16(udpLen+vxlanLen+n))
	be.PutUint16(h[40:], source)
	be.PutUint16(h[44:], uint16(udpLen+vxlanLen+n))
}

// unwrap returns the frame in a packet of a tunnel. Packets that are not for
// the switch are elsewhere's; a reason other than that says why it is dropped.
func (q *plane) unwrap(b []byte) (frame []byte, why reason) {
	be := binary.BigEndian
	if len(b) < ipv6Len+udpLen || b[0]>>4 != 6 || b[6] != protoUDP ||
		be.Uint16(b[42:]) != q.port || [16]byte(b[24:40]) != q.local {
		return nil, elsewhere
	}
	n := len(b) - ipv6Len
	switch source := be.Uint16(b[40:]); {
	case source < portLow || source > portHigh:
		return nil, badSource
	case int(be.Uint16(b[4:])) != n || int(be.Uint16(b[44:])) != n || n < udpLen+vxlanLen:
		return nil, badLength
	case b[48]&vxlanFlag == 0 || be.Uint32(b[52:])>>8 != q.vni:
		return nil, badVNI
	}
	return q.accept(b[outerLen:])
}

// accept says whether the bridge can use a frame.
func (q *plane) accept(frame []byte) ([]byte, reason) {
	switch {
	case len(frame) < ethernetLen:
		return nil, tooShort
	case len(frame) > ethernetLen+vlanLen+q.mtu:
		return nil, tooLong
	case frame[6]&1 != 0 || [6]byte(frame[6:12]) == [6]byte{}:
		return nil, badSender
	}
	return frame, fine
}

const vlanLen = 4

// flow is what all frames of one connection have in common: the source port by
// which routers and network cards spread them, and the congestion bits.
type flow struct {
	seed maphash.Seed
	key  [44]byte
}

// of returns the source port for a frame, at least [ethernetLen] long, and the
// congestion bits of its outer header (RFC 6040). It says no to what calls
// itself IP and is shorter than IP's header; so does the kernel.
func (f *flow) of(frame []byte) (source uint16, ecn byte, whole bool) {
	kind, b := etherType(frame)
	var n int
	switch {
	case kind == typeIPv4 && len(b) < ipv4Len, kind == typeIPv6 && len(b) < ipv6Len:
		return 0, 0, false
	case kind == typeIPv4:
		n = copy(f.key[:], b[12:20])
		f.key[n] = b[9]
		n++
		if head := int(b[0]&15) * 4; binary.BigEndian.Uint16(b[6:])&0x3fff == 0 && hasPorts(b[9]) && len(b) >= head+4 {
			n += copy(f.key[n:], b[head:head+4])
		}
		ecn = b[1] & 3
	case kind == typeIPv6:
		n = copy(f.key[:], b[8:40])
		f.key[n] = b[6]
		n++
		if hasPorts(b[6]) && len(b) >= ipv6Len+4 {
			n += copy(f.key[n:], b[ipv6Len:ipv6Len+4])
		}
		ecn = b[1] >> 4 & 3
	default:
		n = copy(f.key[:], frame[:ethernetLen])
	}
	if ecn == 3 {
		ecn = 2 // what was marked inside is not marked anew outside
	}
	return portLow + uint16(maphash.Bytes(f.seed, f.key[:n])%(portHigh-portLow+1)), ecn, true
}

func hasPorts(proto byte) bool { return proto == protoTCP || proto == protoUDP }

// etherType returns the type behind VLAN tags, and what follows it.
func etherType(frame []byte) (uint16, []byte) {
	kind, b := binary.BigEndian.Uint16(frame[12:]), frame[ethernetLen:]
	for (kind == typeVLAN || kind == typeQinQ) && len(b) >= vlanLen {
		kind, b = binary.BigEndian.Uint16(b[2:]), b[vlanLen:]
	}
	return kind, b
}
