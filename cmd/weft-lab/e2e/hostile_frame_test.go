package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

const (
	vxlanPort = 6785
	// markedType is the EtherType of what tests send: one for experiments.
	markedType = 0x88b5
)

// markedFrame is a broadcast that carries a text.
func markedFrame(text string) []byte {
	f := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 6, 6, 6, 6, 6, markedType >> 8, markedType & 0xff}
	f = append(f, text...)
	return append(f, make([]byte, max(1, 60-len(f)))...)
}

// textOf reads a marked frame; "" is what any other one gives.
func textOf(frame []byte) string {
	if len(frame) < 14 || binary.BigEndian.Uint16(frame[12:]) != markedType {
		return ""
	}
	text, _, _ := bytes.Cut(frame[14:], []byte{0})
	return string(text)
}

// vxlan is what a forger puts into a datagram: a marked frame with the network
// identifier of the cluster.
func (s *siege) vxlan(text string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, s.cluster.vni<<8)
	return append(b, markedFrame(text)...)
}

// datagram is the headers of a forged UDP datagram.
type datagram struct {
	src, dst netip.AddrPort
	// Over IPv6 only.
	noChecksum bool
	options    bool // a destination options header stands before the UDP header
	pieces     bool // in two fragments, the second one with most of the frame
}

// packets makes the IP packets.
func (d datagram) packets(payload []byte) [][]byte {
	u := binary.BigEndian.AppendUint16(nil, d.src.Port())
	u = binary.BigEndian.AppendUint16(u, d.dst.Port())
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(payload)))
	u = append(append(u, 0, 0), payload...)
	src, dst := d.src.Addr().WithZone(""), d.dst.Addr().WithZone("")
	if dst.Is4() {
		return [][]byte{ip4Packet(udp, src, dst, u, 6)}
	}
	if !d.noChecksum {
		sumSegment(udp, src, dst, u, 6)
	}
	next := byte(udp)
	if d.options {
		u = append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, u...) // PadN
		next = 60
	}
	if !d.pieces {
		return [][]byte{ip6Packet(src, dst, next, u)}
	}
	const cut = 16 // the UDP header and that of VXLAN
	first := append([]byte{next, 0, 0, 1, 0, 0, 0x57, 0x46}, u[:cut]...)
	rest := append([]byte{next, 0, 0, cut, 0, 0, 0x57, 0x46}, u[cut:]...)
	return [][]byte{ip6Packet(src, dst, 44, first), ip6Packet(src, dst, 44, rest)}
}

// sumSegment puts the checksum of a segment where it belongs.
func sumSegment(proto byte, src, dst netip.Addr, segment []byte, at int) {
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(segment)))
	pseudo = append(pseudo, 0, 0, 0, proto)
	binary.BigEndian.PutUint16(segment[at:], internetChecksum(append(pseudo, segment...)))
}

// ip4Packet makes a packet of a segment whose checksum is at that offset.
func ip4Packet(proto byte, src, dst netip.Addr, segment []byte, at int) []byte {
	sumSegment(proto, src, dst, segment, at)
	h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(segment)))
	h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], internetChecksum(h))
	return append(h, segment...)
}

// ethernet makes the frame of an IP packet.
func ethernet(to, from net.HardwareAddr, packet []byte) []byte {
	ethertype := []byte{0x86, 0xdd}
	if packet[0]>>4 == 4 {
		ethertype = []byte{0x08, 0x00}
	}
	return bytes.Join([][]byte{to, from, ethertype, packet}, nil)
}

func ip6Packet(src, dst netip.Addr, next byte, body []byte) []byte {
	h := []byte{0x60, 0, 0, 0, 0, 0, next, 64}
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	return append(append(append(h, src.AsSlice()...), dst.AsSlice()...), body...)
}

func internetChecksum(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		sum += uint32(v) << (8 * (1 - uint(i)%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return 0xffff // zero would mean that there is none
	}
	return ^uint16(sum)
}

// wire is an interface on which frames are made up.
type wire struct {
	fd, index int
	mac       net.HardwareAddr
}

// openWire opens an interface of a place for sending until the test ends.
func openWire(t testing.TB, p *lab.Place, link string) *wire {
	t.Helper()
	l, err := p.Netlink().LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{index: l.Attrs().Index, mac: l.Attrs().HardwareAddr}
	err = p.Do(func() error {
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(w.fd) })
	return w
}

func (w *wire) send(frame []byte) error {
	return unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index, Halen: 6})
}

// forge returns a shot that forges frames in datagrams on this wire, to the
// machine with that hardware address.
func (s *siege) forge(w *wire, mac net.HardwareAddr, d datagram) func(string) error {
	return func(text string) error {
		var errs []error
		for _, p := range d.packets(s.vxlan(text)) {
			errs = append(errs, w.send(ethernet(mac, w.mac, p)))
		}
		return errors.Join(errs...)
	}
}

// macOf returns the hardware address of an interface.
func macOf(t testing.TB, p *lab.Place, link string) net.HardwareAddr {
	t.Helper()
	l, err := p.Netlink().LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().HardwareAddr
}

// hearFrames listens for marked frames that come to an interface.
func hearFrames(t testing.TB, p *lab.Place, link string) *ear {
	t.Helper()
	e := newEar()
	eachFrame(t, p, link, func(frame []byte) {
		if text := textOf(frame); text != "" {
			e.hear(text)
		}
	})
	return e
}

// eachFrame calls f, from a goroutine, for every frame that comes to an interface
// until the test ends. The frame is valid during the call only.
func eachFrame(t testing.TB, p *lab.Place, link string, f func(frame []byte)) {
	t.Helper()
	index, err := p.Index(link)
	if err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd := -1
	err = p.Do(func() error {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: all})
	})
	if err != nil {
		t.Fatal(fmt.Errorf("%s: listen on %s: %w", p.Name(), link, err))
	}
	file := os.NewFile(uintptr(fd), "frames")
	t.Cleanup(func() { _ = file.Close() })
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 1<<16)
		for closed := error(nil); closed == nil; {
			closed = raw.Read(func(fd uintptr) bool {
				n, from, err := unix.Recvfrom(int(fd), buf, 0)
				if errors.Is(err, unix.EAGAIN) {
					return false
				}
				if sa, ok := from.(*unix.SockaddrLinklayer); ok && err == nil && sa.Pkttype != unix.PACKET_OUTGOING {
					f(buf[:n])
				}
				return true
			})
		}
	}()
}

// hearDatagrams listens for VXLAN datagrams at a port of a place, over "udp4" or
// "udp6" or, as "udp", both.
func (e *ear) hearDatagrams(t testing.TB, p *lab.Place, network string, port int) {
	t.Helper()
	var u *net.UDPConn
	err := p.Do(func() (err error) {
		u, err = net.ListenUDP(network, &net.UDPAddr{Port: port})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, _, err := u.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && n > 8 {
				e.hear(textOf(buf[8:n]))
			}
		}
	}()
}
