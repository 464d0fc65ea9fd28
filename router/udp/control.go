package udp

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	nameSize    = unix.SizeofSockaddrInet6
	controlSize = 128
)

// putSource appends the control message that says which address to send from,
// if any. The route decides on the interface, except to a link-local address.
func putSource(b []byte, src netip.Addr, scope uint32) []byte {
	switch {
	case src.Is4():
		var info [unix.SizeofInet4Pktinfo]byte // interface, source, destination
		a := src.As4()
		copy(info[4:], a[:])
		b = putControl(b, unix.IPPROTO_IP, unix.IP_PKTINFO, info[:])
	case src.Is6():
		var info [unix.SizeofInet6Pktinfo]byte // source, interface
		a := src.As16()
		copy(info[:], a[:])
		binary.NativeEndian.PutUint32(info[16:], scope)
		b = putControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info[:])
	}
	return b
}

// putSegmentSize appends the control message that says where the kernel is to
// cut up the packet.
func putSegmentSize(b []byte, size int) []byte {
	var v [2]byte
	binary.NativeEndian.PutUint16(v[:], uint16(size))
	return putControl(b, unix.IPPROTO_UDP, unix.UDP_SEGMENT, v[:])
}

// putControl appends a control message to b, which has the room.
func putControl(b []byte, level, kind int32, data []byte) []byte {
	start := len(b)
	b = b[:start+unix.CmsgSpace(len(data))]
	clear(b[start:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[start]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[start+unix.CmsgLen(0):], data)
	return b
}

// parseControl reads which of our addresses a packet came to and, when it is
// several, where to cut it up. Zero values stand for what is not said.
func parseControl(b []byte) (to netip.Addr, segment int) {
	for len(b) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			break
		}
		b = rest
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			to = netip.AddrFrom4([4]byte(data[4:8]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			to = netip.AddrFrom16([16]byte(data[:16]))
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			segment = int(binary.NativeEndian.Uint32(data))
		}
	}
	return to, segment
}

// putName writes a struct sockaddr into b, which is large enough.
func putName(b []byte, f *Flow) []byte {
	binary.BigEndian.PutUint16(b[2:], f.Remote.Port())
	if a := f.Remote.Addr(); a.Is4() {
		b = b[:unix.SizeofSockaddrInet4]
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		a4 := a.As4()
		copy(b[4:], a4[:])
		clear(b[8:])
	} else {
		b = b[:unix.SizeofSockaddrInet6]
		binary.NativeEndian.PutUint16(b, unix.AF_INET6)
		a16 := a.As16()
		clear(b[4:8])
		copy(b[8:], a16[:])
		binary.NativeEndian.PutUint32(b[24:], f.Scope)
	}
	return b
}

// parseName reads a struct sockaddr; the zero value when it is of no kind that
// we send to. A zone is an interface's index.
func parseName(b []byte) (a netip.AddrPort, scope uint32) {
	if len(b) < unix.SizeofSockaddrInet4 {
		return a, 0
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET:
		a = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port)
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
		a = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port)
		scope = binary.NativeEndian.Uint32(b[24:])
	}
	return a, scope
}
