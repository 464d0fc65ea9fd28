package fit

import "encoding/binary"

// What may be told, in bytes.
const (
	least4 = 576  // a path is taken for no narrower (RFC 791, RFC 1191)
	least6 = 1280 // nor by IPv6 (RFC 8200)

	most4 = 576  // of a message (RFC 1812, 4.3.2.3)
	most6 = 1280 // RFC 4443, 2.4 (c)

	timeToLive = 64

	ports = 8 // what the sender knows a packet by: the first bytes after its headers
)

// MaxTooBig is the length of the longest frame that [TooBig] writes, in bytes.
const MaxTooBig = addresses + maxTags*tagLength + etherType + most6

// TooBig writes the frame that tells the sender of another one that IP packets
// of no more than mtu bytes pass. It comes from where the frame was to go to:
// ICMP "fragmentation needed" (RFC 1191) or ICMPv6 "packet too big" (RFC 4443).
// A frame with VLAN tags is answered with the same tags, and for each of them
// with 4 bytes less.
//
// dst should have [MaxTooBig] bytes, and is not to overlap frame. ok is false,
// and nothing is to be sent, when nobody can be told: the packet fits, is not
// IP, is damaged, may be fragmented on its way, is a fragment but the first, is
// an ICMP error, comes from or goes to no single host, or the MTU is less than
// 576 (IPv6: 1280). IPv6 allows to tell about packets to groups (RFC 4443, 2.4
// (e.3)), but such a message would have no address to come from.
//
// Of a frame that the kernel left to us to cut up the first bytes are enough, at
// least its headers and 8 bytes more.
func TooBig(dst, frame []byte, mtu int) (n int, ok bool) {
	at, kind := network(frame)
	if at == 0 || frame[0]&1 != 0 || frame[6]&1 != 0 {
		return 0, false
	}
	mtu -= at - addresses - etherType // the tags
	packet := frame[at:]
	var length int
	header, most := header4, most4
	if kind == typeIPv4 {
		length = tellable4(packet, mtu)
	} else {
		length, header, most = tellable6(packet, mtu), header6, most6
	}
	if length == 0 {
		return 0, false
	}
	quoted := min(length, most-header-icmp, len(packet))
	n = at + header + icmp + quoted
	if len(dst) < n {
		return 0, false
	}
	dst = dst[:n]
	copy(dst, frame[6:12])
	copy(dst[6:], frame[:6])
	copy(dst[addresses:at], frame[addresses:at])
	out := dst[at:]
	clear(out[:header+icmp])
	copy(out[header+icmp:], packet[:quoted])
	if kind == typeIPv4 {
		write4(out, packet, mtu)
	} else {
		write6(out, packet, mtu)
	}
	return n, true
}

// tellable4 returns the length of an IPv4 packet whose sender can be told; 0:
// it cannot.
func tellable4(b []byte, mtu int) int {
	header, rest, length := packet4(b)
	if header == nil || length <= mtu || mtu < least4 {
		return 0
	}
	const dontFragment, offset = 0x4000, 0x1fff
	if flags := binary.BigEndian.Uint16(header[6:]); flags&dontFragment == 0 || flags&offset != 0 {
		return 0
	}
	if !single4(header[12:16]) || !single4(header[16:20]) || [4]byte(header[12:16]) == [4]byte(header[16:20]) {
		return 0
	}
	if len(rest) < ports || header[9] == protoICMP && isError4(rest[0]) {
		return 0
	}
	return length
}

// tellable6 is tellable4 for IPv6.
func tellable6(b []byte, mtu int) int {
	proto, rest, length, ok := packet6(b)
	if !ok || length <= mtu || mtu < least6 {
		return 0
	}
	if !single6(b[8:24]) || !single6(b[24:40]) || [16]byte(b[8:24]) == [16]byte(b[24:40]) {
		return 0
	}
	const redirect = 137
	if len(rest) < ports || proto == protoICMPv6 && (rest[0] < 128 || rest[0] == redirect) {
		return 0
	}
	return length
}

// isError4 says whether a kind of ICMP message is an error (RFC 1122, 3.2.2).
func isError4(kind byte) bool {
	switch kind {
	case 3, 4, 5, 11, 12: // unreachable, quench, redirect, time exceeded, parameter problem
		return true
	}
	return false
}

// single4 says whether an address can be one host's on the switch.
func single4(a []byte) bool { return a[0] != 0 && a[0] != 127 && a[0] < 224 }

// single6 is single4 for IPv6: neither a group, nor unspecified, nor the loopback.
func single6(a []byte) bool {
	return a[0] != 0xff && ([15]byte(a[:15]) != [15]byte{} || a[15] > 1)
}

// write4 writes the headers of a message about a packet before what it quotes.
// out is zero there.
func write4(out, packet []byte, mtu int) {
	const internetControl, dontFragment = 0xc0, 0x4000
	out[0], out[1], out[8], out[9] = 0x45, internetControl, timeToLive, protoICMP
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	binary.BigEndian.PutUint16(out[6:], dontFragment)
	copy(out[12:16], packet[16:20])
	copy(out[16:20], packet[12:16])
	binary.BigEndian.PutUint16(out[10:], ^fold(sum(0, out[:header4])))
	message := out[header4:]
	message[0], message[1] = 3, 4
	binary.BigEndian.PutUint16(message[6:], uint16(mtu))
	binary.BigEndian.PutUint16(message[2:], ^fold(sum(0, message)))
}

// write6 is write4 for IPv6.
func write6(out, packet []byte, mtu int) {
	out[0], out[6], out[7] = 0x60, protoICMPv6, timeToLive
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-header6))
	copy(out[8:24], packet[24:40])
	copy(out[24:40], packet[8:24])
	message := out[header6:]
	message[0] = 2
	binary.BigEndian.PutUint32(message[4:], uint32(mtu))
	pseudo := sum(uint32(len(message))+protoICMPv6, out[8:40])
	binary.BigEndian.PutUint16(message[2:], ^fold(sum(pseudo, message)))
}
