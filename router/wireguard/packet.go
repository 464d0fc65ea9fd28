package wireguard

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/signal"
)

// headerSize is that of a UDP header (RFC 768): ports, length, checksum.
const headerSize = 8

// udpHeader is the header of a packet. For IPv4 it is whole; for IPv6 the
// kernel adds the checksum, which it can since it knows the source.
func udpHeader(f flow, port uint16, payload []byte) (h [headerSize]byte) {
	binary.BigEndian.PutUint16(h[0:], port)
	binary.BigEndian.PutUint16(h[2:], f.to.Port())
	size := uint16(headerSize + len(payload)) // too much is refused by the kernel
	binary.BigEndian.PutUint16(h[4:], size)
	if !f.to.Addr().Is4() {
		return h
	}
	src, dst := f.from.As4(), f.to.Addr().As4()
	sum := uint64(unix.IPPROTO_UDP) + uint64(size)
	for _, part := range [][]byte{src[:], dst[:], h[:], payload} {
		sum = addWords(sum, part)
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	c := ^uint16(sum)
	if c == 0 {
		c = 0xffff // zero stands for none
	}
	binary.BigEndian.PutUint16(h[6:], c)
	return h
}

// addWords adds b to a checksum under way (RFC 1071); only the last part may
// be of an odd length.
func addWords(sum uint64, b []byte) uint64 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return sum
}

// appendControl appends a control message (cmsg(3)).
func appendControl(b []byte, level, kind int32, data []byte) []byte {
	m := make([]byte, unix.CmsgSpace(len(data)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&m[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(m[unix.CmsgLen(0):], data)
	return append(b, m...)
}

// refuseAll is the filter of a socket that only sends.
var refuseAll = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}

// signalsTo is the filter (classic BPF) of a socket that receives what is not
// WireGuard's on a port. IPv4 packets come with their IP header, IPv6 ones
// without. What is too short for a question is refused by the kernel.
func signalsTo(port uint16, ipv6 bool) []unix.SockFilter {
	const (
		length = unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH // X = 4 * (byte & 15)
		half   = unix.BPF_LD | unix.BPF_H | unix.BPF_IND
		octet  = unix.BPF_LD | unix.BPF_B | unix.BPF_IND
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret    = unix.BPF_RET | unix.BPF_K
	)
	program := []unix.SockFilter{
		{Code: length, K: 0},
		{Code: half, K: 2}, // destination port
		{Code: equal, K: uint32(port), Jf: 3},
		{Code: octet, K: headerSize},
		{Code: equal, K: signal.First, Jf: 1},
		{Code: ret, K: 0xffff},
		{Code: ret, K: 0},
	}
	if ipv6 {
		program[0] = unix.SockFilter{Code: unix.BPF_LDX | unix.BPF_W | unix.BPF_IMM, K: 0}
	}
	return program
}

// run gives receive what comes until the socket is closed.
func (s *rawSocket) run(receive func(from netip.AddrPort, to netip.Addr, b []byte)) {
	buf, oob := make([]byte, 1<<16), make([]byte, 128)
	for {
		var n, oobn int
		var from unix.Sockaddr
		var rerr error
		err := s.raw.Read(func(fd uintptr) bool {
			n, oobn, _, from, rerr = unix.Recvmsg(int(fd), buf, oob, unix.MSG_DONTWAIT)
			return !errors.Is(rerr, unix.EAGAIN)
		})
		if err != nil { // closed
			return
		}
		if rerr != nil {
			continue // what an ICMP message says of a packet that we sent
		}
		packet, to, ok := buf[:n], receivedAt(oob[:oobn]), true
		if !s.ipv6 {
			packet, to, ok = afterIP(packet)
		}
		port, payload, whole := afterUDP(packet)
		a := sender(from)
		if !ok || !whole || !signal.Is(payload) {
			continue
		}
		for b := range signal.Split(payload) {
			receive(netip.AddrPortFrom(a, port), to, b)
		}
	}
}

// afterIP is what follows the header of an IPv4 packet, and where that says it
// was to go.
func afterIP(b []byte) (packet []byte, to netip.Addr, ok bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil, netip.Addr{}, false
	}
	n := int(b[0]&15) * 4
	if n < 20 || n > len(b) {
		return nil, netip.Addr{}, false
	}
	return b[n:], netip.AddrFrom4([4]byte(b[16:20])), true
}

// receivedAt is the address of ours in the control messages of an IPv6 packet;
// zero: they do not say.
func receivedAt(oob []byte) netip.Addr {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		if h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo {
			return netip.AddrFrom16([16]byte(data[:16]))
		}
		oob = rest
	}
	return netip.Addr{}
}

// afterUDP is the source port and the payload of a UDP packet.
func afterUDP(b []byte) (port uint16, payload []byte, ok bool) {
	if len(b) < headerSize {
		return 0, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n < headerSize || n > len(b) {
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(b), b[headerSize:n], true
}

func sender(a unix.Sockaddr) netip.Addr {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr)
		if i, err := net.InterfaceByIndex(int(a.ZoneId)); a.ZoneId != 0 && err == nil {
			ip = ip.WithZone(i.Name)
		}
		return ip
	}
	return netip.Addr{}
}
