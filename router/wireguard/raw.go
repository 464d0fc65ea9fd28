package wireguard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// rawPort sends UDP packets from WireGuard's port, and receives those of them
// that are none of WireGuard's, without owning the port: the kernel's
// WireGuard does, and its socket cannot be used. To the in-process one it
// lends what an ordinary socket gives only for all packets or for none: a
// packet that is not fragmented, or one that is.
type rawPort struct {
	// Constant.

	receive func(from netip.AddrPort, to netip.Addr, b []byte) // nil: it only sends
	log     *slog.Logger

	mu     sync.Mutex // guards what follows
	port   uint16     // 0: not known yet
	mark   uint32
	v4, v6 *rawSocket // nil: not needed yet, or not to be had
	failed error      // of the last attempt to receive, to log it once
	closed bool
}

// flow is where packets go to and which address they come from.
type flow struct {
	to    netip.AddrPort
	scope uint32     // interface of a link-local to
	from  netip.Addr // zero: the kernel chooses
}

// set follows the device's port and mark, and begins to receive where it can.
// What it cannot is tried again by the next set: a device without probes is
// better than none.
func (p *rawPort) set(port uint16, mark uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.port, p.mark = port, mark
	var err error
	for _, s := range []*rawSocket{p.v4, p.v6} {
		if s != nil {
			err = errors.Join(err, s.set(p))
		}
	}
	if p.receive != nil {
		for _, ipv6 := range []bool{false, true} {
			if _, oerr := p.openLocked(ipv6); !errors.Is(oerr, unix.EAFNOSUPPORT) {
				err = errors.Join(err, oerr)
			}
		}
	}
	if err != nil && (p.failed == nil || p.failed.Error() != err.Error()) {
		p.log.Warn("probes cannot be received", "port", port, "err", err)
	}
	p.failed = err
	return nil
}

// openLocked returns the socket of one protocol, opened if need be.
func (p *rawPort) openLocked(ipv6 bool) (*rawSocket, error) {
	s := &p.v4
	if ipv6 {
		s = &p.v6
	}
	if *s != nil {
		return *s, nil
	}
	switch {
	case p.closed:
		return nil, net.ErrClosed
	case p.port == 0:
		return nil, errors.New("the device has no port yet")
	}
	opened, err := openRaw(ipv6, p)
	if err != nil {
		return nil, fmt.Errorf("open raw socket: %w", err)
	}
	*s = opened
	return opened, nil
}

// send sends packets along f. An error is that of the last packet that could
// not be sent.
func (p *rawPort) send(f flow, packets [][]byte, o SendOptions) error {
	p.mu.Lock()
	s, err := p.openLocked(f.to.Addr().Is6())
	port, mark := p.port, p.mark
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if zone := f.to.Addr().Zone(); zone != "" {
		i, err := net.InterfaceByName(zone)
		if err != nil {
			return err
		}
		f.scope = uint32(i.Index)
	}
	err = s.send(f, port, mark, packets, o)
	if f.from.IsValid() && sourceGone(err) {
		f.from = netip.Addr{}
		err = s.send(f, port, mark, packets, o)
	}
	return err
}

// sourceGone says that a send may work from another address.
func sourceGone(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENETUNREACH)
}

// close ends the sockets and waits for what receives.
func (p *rawPort) close() error {
	p.mu.Lock()
	p.closed = true
	v4, v6 := p.v4, p.v6
	p.v4, p.v6 = nil, nil
	p.mu.Unlock()
	var err error
	for _, s := range []*rawSocket{v4, v6} {
		if s != nil {
			err = errors.Join(err, s.conn.Close())
			s.receiving.Wait()
		}
	}
	return err
}

// sourceTo is the address from which this host sends to dst.
func sourceTo(dst netip.Addr, mark uint32) (netip.Addr, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
	}}
	const discard = "9" // nothing is sent
	c, err := d.Dial("udp", net.JoinHostPort(dst.String(), discard))
	if err != nil {
		return netip.Addr{}, err
	}
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), c.Close()
}

// rawSocket is a raw UDP socket (raw(7)) of one protocol.
type rawSocket struct {
	// Constant after openRaw.

	conn      *net.IPConn
	raw       syscall.RawConn
	ipv6      bool
	receiving sync.WaitGroup

	mu sync.Mutex // of those who send: the option says how for the whole socket
}

func openRaw(ipv6 bool, p *rawPort) (*rawSocket, error) {
	s := &rawSocket{ipv6: ipv6}
	network, address := "ip4:"+strconv.Itoa(unix.IPPROTO_UDP), "0.0.0.0"
	if ipv6 {
		network, address = "ip6:"+strconv.Itoa(unix.IPPROTO_UDP), "::"
	}
	var config net.ListenConfig
	config.Control = func(_, _ string, c syscall.RawConn) error {
		s.raw = c
		return s.configure(p)
	}
	c, err := config.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	s.conn = c.(*net.IPConn)
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.conn.Close())
	}
	if p.receive != nil {
		s.receiving.Go(func() { s.run(p.receive) })
	}
	return s, nil
}

// configure makes the socket deaf to path MTUs: as long as it is not, a forged
// "fragmentation needed" about any UDP packet counts for it.
func (s *rawSocket) configure(p *rawPort) error {
	if s.ipv6 {
		// The kernel computes the checksum, at that offset, and checks it. What it
		// received comes without the header that says for which of our addresses.
		err := control(s.raw, func(fd int) error {
			return errors.Join(
				unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, 6),
				unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
			)
		})
		if err != nil {
			return fmt.Errorf("set checksum and addresses: %w", err)
		}
	}
	return errors.Join(s.set(p), control(s.raw, func(fd int) error { return s.discover(fd, unix.IP_PMTUDISC_OMIT) }))
}

// set follows the port and the mark.
func (s *rawSocket) set(p *rawPort) error {
	program := refuseAll
	if p.receive != nil {
		program = signalsTo(p.port, s.ipv6)
	}
	return control(s.raw, func(fd int) error {
		prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
			return fmt.Errorf("attach filter: %w", err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(p.mark)); err != nil {
			return fmt.Errorf("set firewall mark: %w", err)
		}
		return nil
	})
}

// discover says what is done about path MTUs; IPv4 and IPv6 have the same
// values for it.
func (s *rawSocket) discover(fd, how int) error {
	level, name := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if s.ipv6 {
		level, name = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	if err := unix.SetsockoptInt(fd, level, name, how); err != nil {
		return fmt.Errorf("set path MTU discovery: %w", err)
	}
	return nil
}

// send sends packets from a port. The socket heeds routes' MTUs (DONT) or sets
// the bit (PROBE) for no longer than that.
func (s *rawSocket) send(f flow, port uint16, mark uint32, packets [][]byte, o SendOptions) error {
	if !s.ipv6 && !f.from.IsValid() {
		// The checksum covers the source; the kernel computes none here.
		var err error
		if f.from, err = sourceTo(f.to.Addr(), mark); err != nil {
			return err
		}
	}
	how := unix.IP_PMTUDISC_DONT
	if o.DontFragment {
		how = unix.IP_PMTUDISC_PROBE
	}
	to := s.sockaddr(f)
	var options [64]byte
	oob := s.options(options[:0], f, o)
	s.mu.Lock()
	defer s.mu.Unlock()
	var last error
	err := control(s.raw, func(fd int) error { return s.discover(fd, how) })
	if err != nil {
		return err
	}
	for _, b := range packets {
		header := udpHeader(f, port, b)
		var serr error
		err := s.raw.Write(func(fd uintptr) bool {
			_, serr = unix.SendmsgBuffers(int(fd), [][]byte{header[:], b}, oob, to, unix.MSG_DONTWAIT)
			return !errors.Is(serr, unix.EAGAIN)
		})
		if err = errors.Join(err, serr); err != nil {
			last = fmt.Errorf("sendmsg: %w", err)
		}
	}
	return errors.Join(last, control(s.raw, func(fd int) error { return s.discover(fd, unix.IP_PMTUDISC_OMIT) }))
}

func (s *rawSocket) sockaddr(f flow) unix.Sockaddr {
	if s.ipv6 {
		return &unix.SockaddrInet6{Addr: f.to.Addr().As16(), ZoneId: f.scope}
	}
	return &unix.SockaddrInet4{Addr: f.to.Addr().As4()}
}

// options appends the control messages: source address and TTL.
func (s *rawSocket) options(b []byte, f flow, o SendOptions) []byte {
	switch {
	case f.from.Is4():
		b = append(b, unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: f.from.As4()})...)
	case f.from.Is6():
		b = append(b, unix.PktInfo6(&unix.Inet6Pktinfo{Addr: f.from.As16(), Ifindex: f.scope})...)
	}
	if o.TTL == 0 {
		return b
	}
	level, name := int32(unix.IPPROTO_IP), int32(unix.IP_TTL)
	if s.ipv6 {
		level, name = unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT
	}
	return appendControl(b, level, name, binary.NativeEndian.AppendUint32(nil, uint32(o.TTL)))
}

func control(c syscall.RawConn, f func(fd int) error) error {
	var ferr error
	err := c.Control(func(fd uintptr) { ferr = f(int(fd)) })
	return errors.Join(err, ferr)
}
