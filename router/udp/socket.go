// Package udp moves many UDP packets with few system calls: recvmmsg(2) and
// sendmmsg(2), and coalesced packets (UDP GSO and GRO) where the kernel has
// them.
//
// It owns sockets and their options, and the form of what passes them. It does
// not own a byte of what is in the packets, nor any goroutine: its users read
// in theirs, and never wait for one another.
package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// Batch is how many messages at most go through one system call.
	Batch = 128
	// MaxSegments is how many packets at most the kernel coalesces to one.
	MaxSegments = 64

	bufferSize = 7 << 20 // of a socket in bytes, each way
)

// Flow is the two ends of a packet, as seen from here.
type Flow struct {
	Remote netip.AddrPort // its address has no zone, and is no IPv4 address in an IPv6 one
	Scope  uint32         // interface of a link-local Remote
	Local  netip.Addr     // zero: the kernel chooses
	Single bool           // what is sent along it is not coalesced
}

// Message is what one call of the kernel takes or gives: a packet, or several
// of one size in a row, of which the last may be shorter.
type Message struct {
	Flow    Flow
	Bytes   []byte
	Segment int // size of each packet in bytes; 0: Bytes is one packet
}

// size is that of the first packet.
func (m *Message) size() int {
	if m.Segment <= 0 {
		return len(m.Bytes)
	}
	return min(m.Segment, len(m.Bytes))
}

// Socket is a UDP socket of one protocol on all addresses. It ignores path
// MTUs that it could learn, which a stranger can forge: a packet that exceeds
// the interface's own MTU leaves in fragments. Its methods are safe for
// concurrent use.
type Socket struct {
	// Constant after Listen.

	conn *net.UDPConn
	raw  syscall.RawConn
	port uint16
	ipv6 bool
	gro  bool // packets may come coalesced

	gso atomic.Bool // packets may be sent coalesced
	out sync.Pool   // of *outgoing

	fragments sync.RWMutex // to be written by who changes how all is fragmented
}

// Listen opens a socket for network, which is "udp4" or "udp6", on port; 0
// takes a free one. A host without the protocol gives [unix.EAFNOSUPPORT], a
// port in use [unix.EADDRINUSE].
func Listen(network string, port uint16) (*Socket, error) {
	s := &Socket{ipv6: network == "udp6", out: sync.Pool{New: newOutgoing}}
	var config net.ListenConfig
	config.Control = func(_, _ string, raw syscall.RawConn) error {
		s.raw = raw
		return s.configure()
	}
	c, err := config.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	s.conn = c.(*net.UDPConn)
	s.port = uint16(s.conn.LocalAddr().(*net.UDPAddr).Port)
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// ListenBoth opens what this host has of the two protocols on one port; one of
// the sockets may be nil. Port 0 takes one that is free for both.
func ListenBoth(port uint16) (v4, v6 *Socket, err error) {
	for tries := 0; ; tries++ {
		v4, v6, err = listenBoth(port)
		// The port that IPv4 found free may be taken for IPv6.
		if port != 0 || tries == 100 || !errors.Is(err, unix.EADDRINUSE) {
			return v4, v6, err
		}
	}
}

func listenBoth(port uint16) (v4, v6 *Socket, err error) {
	v4, err = Listen("udp4", port)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil, err
	}
	if v4 != nil {
		port = v4.port
	}
	v6, err6 := Listen("udp6", port)
	if v4 != nil && errors.Is(err6, unix.EAFNOSUPPORT) {
		return v4, nil, nil
	}
	if err6 != nil {
		if v4 != nil {
			err6 = errors.Join(err6, v4.Close())
		}
		return nil, nil, err6
	}
	return v4, v6, nil
}

// configure sets the options. OMIT, not INTERFACE: what exceeds the
// interface's MTU is fragmented instead of refused, as the kernel's WireGuard
// does.
func (s *Socket) configure() error {
	options := []struct{ level, name, value int }{{unix.IPPROTO_IP, unix.IP_PKTINFO, 1}}
	if s.ipv6 {
		options = []struct{ level, name, value int }{
			{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
		}
	}
	if err := s.fragmentBy(unix.IP_PMTUDISC_OMIT); err != nil {
		return err
	}
	for _, o := range options {
		if err := s.SetOption(o.level, o.name, o.value); err != nil {
			return err
		}
	}
	// The rest is speed. What is forced exceeds the system's limit.
	for _, name := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = s.SetOption(unix.SOL_SOCKET, name, bufferSize)
	}
	_, err := s.Option(unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	s.gso.Store(err == nil)
	// A kernel that cannot tell (before 5.12) had faults in it.
	_ = s.SetOption(unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	on, err := s.Option(unix.IPPROTO_UDP, unix.UDP_GRO)
	s.gro = err == nil && on == 1
	return nil
}

// fragmentBy says by which MTU packets are cut: the numbers are the same in
// IPv6.
func (s *Socket) fragmentBy(mode int) error {
	if s.ipv6 {
		return s.SetOption(unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, mode)
	}
	return s.SetOption(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode)
}

// SetOption sets a socket option that is a number (setsockopt(2)).
func (s *Socket) SetOption(level, name, value int) error {
	var operr error
	err := s.raw.Control(func(fd uintptr) { operr = unix.SetsockoptInt(int(fd), level, name, value) })
	if err = errors.Join(err, operr); err != nil {
		return fmt.Errorf("set socket option %d/%d: %w", level, name, err)
	}
	return nil
}

// Option returns a socket option that is a number (getsockopt(2)).
func (s *Socket) Option(level, name int) (value int, err error) {
	var operr error
	err = s.raw.Control(func(fd uintptr) { value, operr = unix.GetsockoptInt(int(fd), level, name) })
	if err = errors.Join(err, operr); err != nil {
		return 0, fmt.Errorf("get socket option %d/%d: %w", level, name, err)
	}
	return value, nil
}

// SetMark sets the firewall mark of what is sent.
func (s *Socket) SetMark(mark uint32) error {
	return s.SetOption(unix.SOL_SOCKET, unix.SO_MARK, int(mark))
}

// Port returns the port that the socket is bound to.
func (s *Socket) Port() uint16 { return s.port }

// Coalesces says whether what is received may be several packets in one, and
// whether what is sent is made so.
func (s *Socket) Coalesces() (received, sent bool) { return s.gro, s.gso.Load() }

// Plain makes packets leave and arrive one by one: it turns UDP GSO and GRO
// off. It is called before there are any.
func (s *Socket) Plain() error {
	s.gso.Store(false)
	if !s.gro {
		return nil
	}
	s.gro = false
	return s.SetOption(unix.IPPROTO_UDP, unix.UDP_GRO, 0)
}

// Close ends the socket; whoever waits on it gets an error that wraps
// [net.ErrClosed].
func (s *Socket) Close() error { return s.conn.Close() }

// header is the kernel's struct mmsghdr.
type header struct {
	unix.Msghdr
	n uint32 // bytes received
}

// call is recvmmsg(2) or sendmmsg(2), without waiting.
func call(number, fd uintptr, h []header) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall6(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(h))), uintptr(len(h)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
