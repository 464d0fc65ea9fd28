package fdb

import (
	"encoding/binary"
	"net/netip"
)

const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2

	// Neighbour discovery (RFC 4861).
	solicitation  = 135
	advertisement = 136
	neighbourLen  = 24 // type, code, checksum, flags, target
	optionLen     = 8  // a link-layer address of Ethernet
	optionSource  = 1
	optionTarget  = 2
	hopsLocal     = 255
)

// broadcast is the address of everybody.
var broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Answer writes to dst, as an Ethernet frame for our bridge, the ARP reply or
// the neighbour advertisement (RFC 826, 4861) to a question about the address
// of a known attachment that came from our bridge; n is its length, at most
// 86. When ok is false the frame is no such question, or dst is too short: it
// is to be forwarded like any other. It allocates nothing.
//
// A probe whether the address is taken (RFC 5227, 4862) is answered: it is.
// Announcements, what the owner itself asks, questions to one host only, and
// frames with a VLAN tag are forwarded; so are questions about link-local
// addresses.
func (t *Table) Answer(frame, dst []byte) (n int, ok bool) {
	to, from, kind, rest, ok := ether(frame)
	if !ok || to[0]&1 == 0 || !unicast(from) {
		return 0, false
	}
	switch kind {
	case typeARP:
		if to == broadcast {
			n = t.answerARP(from, rest, dst)
		}
	case typeIP6:
		n = t.answerND(to, from, rest, dst)
	}
	if n > 0 {
		t.answered.Add(1)
	}
	return n, n > 0
}

// owner is who has an address, if that is another host's attachment.
func (t *Table) owner(a netip.Addr, asker MAC) (m MAC, ok bool) {
	m = t.state.Load().owners[a]
	return m, m != MAC{} && m != asker
}

func (t *Table) answerARP(from MAC, b, dst []byte) int {
	if len(b) < arpLen || len(dst) < etherLen+arpLen ||
		[6]byte(b) != [6]byte{0, 1, 8, 0, 6, 4} || binary.BigEndian.Uint16(b[6:]) != arpRequest {
		return 0
	}
	sender, target := [4]byte(b[14:]), [4]byte(b[24:])
	if MAC(b[8:]) != from || sender == target {
		return 0
	}
	m, ok := t.owner(netip.AddrFrom4(target), from)
	if !ok {
		return 0
	}
	d := putEther(dst, from, m, typeARP)
	copy(d, b[:6])
	binary.BigEndian.PutUint16(d[6:], arpReply)
	copy(d[8:], m[:])
	copy(d[14:], target[:])
	copy(d[18:], from[:])
	copy(d[24:], sender[:])
	return etherLen + arpLen
}

func (t *Table) answerND(to, from MAC, b, dst []byte) int {
	const length = neighbourLen + optionLen
	p, ok := ip6(b)
	if !ok || p.options || p.proto != protoICMP6 || p.hops != hopsLocal || len(p.body) < neighbourLen ||
		p.body[0] != solicitation || p.body[1] != 0 || len(dst) < etherLen+ip6Len+length {
		return 0
	}
	target := netip.AddrFrom16([16]byte(p.body[8:]))
	src := netip.AddrFrom16([16]byte(p.src))
	if target.IsMulticast() || src.IsMulticast() || src == target ||
		[16]byte(p.dst) != solicitedNode(target) || to != groupMAC6(p.dst) || !p.sound() {
		return 0
	}
	source, ok := sourceOption(p.body[neighbourLen:])
	probe := src.IsUnspecified()
	if !ok || probe != (source == MAC{}) || !probe && source != from {
		return 0
	}
	m, ok := t.owner(target, from)
	if !ok {
		return 0
	}
	// A probe has no address to answer to. Override stays off, as for any
	// answer in place of another: what the owner itself says counts more.
	flags, whom, mac := byte(0x40), p.src, from
	if probe {
		all := [16]byte{0: 0xff, 1: 0x02, 15: 1}
		flags, whom, mac = 0, all[:], groupMAC6(all[:])
	}
	d := putEther(dst, mac, m, typeIP6)
	putIP6(d, protoICMP6, hopsLocal, length, target.As16(), [16]byte(whom))
	d = d[ip6Len:][:length]
	clear(d)
	d[0], d[4] = advertisement, flags
	copy(d[8:], p.body[8:24])
	d[24], d[25] = optionTarget, 1
	copy(d[26:], m[:])
	a := target.As16()
	binary.BigEndian.PutUint16(d[2:], ^fold(sum(d, pseudo(a[:], whom, length))))
	return etherLen + ip6Len + length
}

// sourceOption finds the sender's link-layer address among the options of a
// solicitation; zero when it is not there. ok is false when they are broken.
func sourceOption(b []byte) (m MAC, ok bool) {
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || int(b[1])*8 > len(b) {
			return MAC{}, false
		}
		if b[0] == optionSource {
			if b[1] != 1 {
				return MAC{}, false
			}
			m = MAC(b[2:])
		}
		b = b[int(b[1])*8:]
	}
	return m, true
}

// solicitedNode is the group in which questions about an address are asked
// (RFC 4291, section 2.7.1).
func solicitedNode(a netip.Addr) [16]byte {
	b := a.As16()
	return [16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]}
}

// groupMAC4 and groupMAC6 are the Ethernet addresses of IP groups (RFC 1112,
// section 6.4; RFC 2464, section 7).
func groupMAC4(g []byte) MAC { return MAC{0x01, 0x00, 0x5e, g[1] & 0x7f, g[2], g[3]} }

func groupMAC6(g []byte) MAC { return MAC{0x33, 0x33, g[12], g[13], g[14], g[15]} }

// putEther writes a header and returns what follows it.
func putEther(b []byte, dst, src MAC, kind uint16) []byte {
	copy(b, dst[:])
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], kind)
	return b[etherLen:]
}

func putIP6(b []byte, proto, hops byte, length int, src, dst [16]byte) {
	clear(b[:8])
	b[0], b[6], b[7] = 0x60, proto, hops
	binary.BigEndian.PutUint16(b[4:], uint16(length))
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
}
