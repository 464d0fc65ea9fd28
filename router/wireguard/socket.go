package wireguard

import (
	"context"
	"encoding/binary"
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
	"golang.zx2c4.com/wireguard/conn"
)

const (
	socketBuffer = 7 << 20 // bytes, each way
	maxSegments  = 64      // of one coalesced packet, by the kernel's rules
	nameSize     = unix.SizeofSockaddrInet6
	controlSize  = 128
)

// socket is one UDP socket of a bind.
type socket struct {
	// Constant after listen.

	conn *net.UDPConn
	raw  syscall.RawConn
	port uint16
	ipv6 bool
	gro  bool // packets may come coalesced

	gso atomic.Bool // packets may be sent coalesced
	out sync.Pool   // of *outgoing
}

// listen opens a socket on all addresses.
func listen(network string, port uint16) (*socket, error) {
	s := &socket{ipv6: network == "udp6", out: sync.Pool{New: func() any { return new(outgoing) }}}
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

// configure makes the socket deaf to path MTUs that it could learn, which a
// stranger can forge. OMIT, not INTERFACE: what exceeds the interface's own MTU
// is fragmented there instead of refused (as the kernel's WireGuard does).
func (s *socket) configure() error {
	options := []struct{ level, name, value int }{
		{unix.IPPROTO_IP, unix.IP_PKTINFO, 1},
		{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_OMIT},
	}
	if s.ipv6 {
		options = []struct{ level, name, value int }{
			{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_OMIT},
		}
	}
	for _, o := range options {
		if err := s.set(o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set socket option %d/%d: %w", o.level, o.name, err)
		}
	}
	// The rest is speed. What is forced exceeds the system's limit.
	for _, name := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = s.set(unix.SOL_SOCKET, name, socketBuffer)
	}
	_, err := s.get(unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	s.gso.Store(err == nil)
	// A kernel that cannot tell (before 5.12) had faults in it.
	_ = s.set(unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	on, err := s.get(unix.IPPROTO_UDP, unix.UDP_GRO)
	s.gro = err == nil && on == 1
	return nil
}

func (s *socket) set(level, name, value int) error {
	var operr error
	err := s.raw.Control(func(fd uintptr) { operr = unix.SetsockoptInt(int(fd), level, name, value) })
	return errors.Join(err, operr)
}

func (s *socket) get(level, name int) (value int, err error) {
	var operr error
	err = s.raw.Control(func(fd uintptr) { value, operr = unix.GetsockoptInt(int(fd), level, name) })
	return value, errors.Join(err, operr)
}

// Close ends the socket and whoever waits on it.
func (s *socket) Close() error { return s.conn.Close() }

// message is the kernel's struct mmsghdr.
type message struct {
	unix.Msghdr
	n uint32 // bytes received
}

// outgoing is what one send needs; it is kept for the next.
type outgoing struct {
	messages [conn.IdealBatchSize]message
	pieces   [conn.IdealBatchSize]unix.Iovec
	control  [conn.IdealBatchSize][controlSize]byte
	name     [nameSize]byte
}

// send sends packets to e, coalesced where they can be. One that exceeds the
// interface's MTU goes alone, in fragments, and does not take others with it.
func (s *socket) send(bufs [][]byte, e *endpoint) error {
	o := s.out.Get().(*outgoing)
	defer func() {
		clear(o.pieces[:min(len(bufs), len(o.pieces))]) // they keep no packet alive
		s.out.Put(o)
	}()
	src, gso := e.source(), s.gso.Load()
	var last error
	for left := bufs; len(left) > 0; {
		groups := o.fill(left[:min(len(left), len(o.pieces))], e, src, gso)
		sent, err := s.write(o.messages[:groups])
		for _, m := range o.messages[:sent] {
			left = left[m.Iovlen:]
		}
		if err == nil {
			continue
		}
		// It is the first of the rest that failed.
		coalesced := o.messages[sent].Iovlen > 1
		switch {
		case src.IsValid() && sourceGone(err):
			src = netip.Addr{}
		case coalesced && errors.Is(err, unix.EIO): // the interface computes no checksums
			s.gso.Store(false)
			gso = false
		case coalesced && tooLarge(err):
			gso = false
		case tooLarge(err):
			last = err
			left = left[1:]
		default:
			return err
		}
	}
	return last
}

// sourceGone says that a send may work from another address.
func sourceGone(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENETUNREACH)
}

// tooLarge says that a packet exceeds the interface's MTU. Kernels before 6.14
// say EINVAL when it is one of several.
func tooLarge(err error) bool {
	return errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL)
}

// fill makes messages of packets and returns how many.
func (o *outgoing) fill(bufs [][]byte, e *endpoint, src netip.Addr, gso bool) (groups int) {
	limit := 1
	if gso {
		limit = maxSegments
	}
	name := putName(o.name[:], e)
	for done := 0; done < len(bufs); groups++ {
		n := coalesce(bufs[done:], limit)
		for i, b := range bufs[done : done+n] {
			p := &o.pieces[done+i]
			p.Base = unsafe.SliceData(b)
			p.SetLen(len(b))
		}
		control := putSource(o.control[groups][:0], src, e.scope)
		if n > 1 {
			control = putSegmentSize(control, len(bufs[done]))
		}
		h := &o.messages[groups].Msghdr
		*h = unix.Msghdr{Name: &name[0], Namelen: uint32(len(name)), Iov: &o.pieces[done]}
		h.SetIovlen(n)
		if len(control) > 0 {
			h.Control = &control[0]
			h.SetControllen(len(control))
		}
		done += n
	}
	return groups
}

// maxPayload is the largest UDP payload that both protocols carry.
const maxPayload = 65535 - 20 - 8

// coalesce returns how many of the first packets can be sent as one: all of
// the first one's size, but the last may be shorter.
func coalesce(bufs [][]byte, limit int) int {
	size := len(bufs[0])
	total := size
	n := 1
	for n < min(len(bufs), limit) && len(bufs[n-1]) == size {
		next := len(bufs[n])
		if next == 0 || next > size || total+next > maxPayload {
			break
		}
		total += next
		n++
	}
	return n
}

// write sends messages and returns how many it sent before the error.
func (s *socket) write(m []message) (sent int, err error) {
	for sent < len(m) && err == nil {
		var n int
		var errno unix.Errno
		err = s.raw.Write(func(fd uintptr) bool {
			n, errno = batch(unix.SYS_SENDMMSG, fd, m[sent:])
			return errno != unix.EAGAIN
		})
		if err == nil && errno != 0 {
			err = fmt.Errorf("sendmmsg: %w", errno)
		}
		sent += n
	}
	return sent, err
}

// batch is recvmmsg(2) or sendmmsg(2), without waiting.
func batch(call, fd uintptr, m []message) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(m))), uintptr(len(m)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// receiver is the receiving side of a socket, for one goroutine.
type receiver struct {
	s        *socket
	messages [conn.IdealBatchSize]message
	pieces   [conn.IdealBatchSize]unix.Iovec
	names    [conn.IdealBatchSize][nameSize]byte
	control  [conn.IdealBatchSize][controlSize]byte
	last     *endpoint // most packets come from where the one before came from
}

func newReceiver(s *socket) *receiver { return &receiver{s: s, last: new(endpoint)} }

// receive is a [conn.ReceiveFunc]. Coalesced packets are read into the last
// few buffers and cut up into all of them, in order.
func (r *receiver) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	first := 0
	bufs = bufs[:min(len(bufs), len(r.messages))]
	if r.s.gro {
		first = len(bufs) - max(1, len(bufs)/maxSegments)
	}
	n, err := r.read(bufs[first:])
	if err != nil {
		return 0, err
	}
	done := 0
	for i := range n {
		packet := bufs[first+i][:r.messages[i].n]
		to, segment := parseControl(r.control[i][:r.messages[i].Controllen])
		e := r.from(r.names[i][:r.messages[i].Namelen], to)
		if segment <= 0 {
			segment = max(1, len(packet))
		}
		// A buffer is written only after it was read: there are at most
		// maxSegments pieces of a packet, and what is too much is dropped.
		for cut := 0; (cut < len(packet) || cut == 0) && done <= first+i; cut += segment {
			sizes[done] = copy(bufs[done], packet[cut:min(cut+segment, len(packet))])
			eps[done] = e
			done++
		}
	}
	return done, nil
}

// read waits for packets and takes as many as there are.
func (r *receiver) read(bufs [][]byte) (int, error) {
	m := r.messages[:len(bufs)]
	for i, b := range bufs {
		p := &r.pieces[i]
		p.Base = unsafe.SliceData(b)
		p.SetLen(len(b))
		h := &m[i].Msghdr
		*h = unix.Msghdr{Name: &r.names[i][0], Namelen: nameSize, Iov: p, Control: &r.control[i][0]}
		h.SetIovlen(1)
		h.SetControllen(controlSize)
	}
	var n int
	var errno unix.Errno
	err := r.s.raw.Read(func(fd uintptr) bool {
		n, errno = batch(unix.SYS_RECVMMSG, fd, m)
		return errno != unix.EAGAIN
	})
	if err == nil && errno != 0 {
		err = fmt.Errorf("recvmmsg: %w", errno)
	}
	return n, err
}

// from is the endpoint of a packet that came from name and was sent to to.
func (r *receiver) from(name []byte, to netip.Addr) *endpoint {
	dst, scope := parseName(name)
	if e := r.last; e.dst == dst && e.scope == scope && e.source() == to {
		return e
	}
	r.last = &endpoint{dst: dst, scope: scope, src: to}
	return r.last
}

// putName writes a struct sockaddr into b, which is large enough.
func putName(b []byte, e *endpoint) []byte {
	binary.BigEndian.PutUint16(b[2:], e.dst.Port())
	if a := e.dst.Addr(); a.Is4() {
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
		binary.NativeEndian.PutUint32(b[24:], e.scope)
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
