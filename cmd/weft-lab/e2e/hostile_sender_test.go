package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// nobody is what an unprivileged process of a place may do: a thread of user
// 65534, without capabilities.
type nobody struct {
	p     *lab.Place
	calls chan func()
}

const nobodyID = 65534

func newNobody(t testing.TB, p *lab.Place) *nobody {
	t.Helper()
	n := &nobody{p: p, calls: make(chan func())}
	ready, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		// The thread is not used again afterwards. These calls are for it
		// alone: those of the syscall package would change all threads.
		_ = p.Do(func() error {
			var err error
			for _, c := range [][4]uintptr{
				{unix.SYS_SETGROUPS, 0, 0, 0},
				{unix.SYS_SETRESGID, nobodyID, nobodyID, nobodyID},
				{unix.SYS_SETRESUID, nobodyID, nobodyID, nobodyID},
			} {
				if _, _, errno := unix.RawSyscall(c[0], c[1], c[2], c[3]); errno != 0 {
					err = errors.Join(err, errno)
				}
			}
			ready <- err
			for f := range n.calls {
				f()
			}
			return nil
		})
	}()
	if err := <-ready; err != nil {
		t.Fatalf("become nobody: %v", err)
	}
	t.Cleanup(func() { close(n.calls); <-done })
	n.check(t)
	return n
}

// do runs f on the thread.
func (n *nobody) do(f func() error) error {
	done := make(chan error, 1)
	n.calls <- func() { done <- f() }
	return <-done
}

// check shows that this is no root in disguise.
func (n *nobody) check(t testing.TB) {
	t.Helper()
	if port := n.unprivilegedPort(); port < 1024 {
		t.Fatalf("on this machine everybody may send from port %d", port)
	}
	forbidden := map[string]func() error{
		"frames":            func() error { return openAndClose(unix.AF_PACKET, unix.SOCK_RAW) },
		"packets":           func() error { return openAndClose(unix.AF_INET6, unix.SOCK_RAW) },
		"a privileged port": func() error { return closing(u6(netip.AddrPortFrom(netip.IPv6Unspecified(), 600))()) },
	}
	for what, f := range forbidden {
		if err := n.do(f); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
			t.Fatalf("nobody may have %s: %v", what, err)
		}
	}
}

func (n *nobody) unprivilegedPort() int {
	text := readProc(n.p, "sys/net/ipv4/ip_unprivileged_port_start")
	port, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return port
}

func openAndClose(family, kind int) error {
	return closing(unix.Socket(family, kind, unix.IPPROTO_UDP))
}

func closing(fd int, err error) error {
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

// opener opens a UDP socket in the namespace, and with the rights, of the
// thread it runs on.
type opener func() (fd int, err error)

// u6 opens an IPv6 socket bound to an address; the options are set before.
func u6(bind netip.AddrPort, options ...func(fd int) error) opener {
	alone := func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1) }
	return udpSocket(unix.AF_INET6, sockaddr(bind), append(options, alone))
}

// u4 is u6 for IPv4.
func u4(bind netip.AddrPort, options ...func(fd int) error) opener {
	return udpSocket(unix.AF_INET, sockaddr(bind), options)
}

func udpSocket(family int, bind unix.Sockaddr, options []func(fd int) error) opener {
	return func() (int, error) {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return -1, err
		}
		for _, o := range options {
			if err := o(fd); err != nil {
				_ = unix.Close(fd)
				return -1, fmt.Errorf("option: %w", err)
			}
		}
		if err := unix.Bind(fd, bind); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("bind: %w", err)
		}
		return fd, nil
	}
}

// sockaddr is an address as the kernel takes it; zones are numbers.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	zone, _ := strconv.ParseUint(a.Addr().Zone(), 10, 32)
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: uint32(zone)}
}

// The options of a socket that need no privilege.

// foreign lets a socket bind to an address that is not the host's.
func foreign(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1) }

// through makes packets leave by an interface.
func through(link string) func(int) error {
	return func(fd int) error { return unix.BindToDevice(fd, link) }
}

// loopMulticast sends multicast by an interface, and to this host as well.
func loopMulticast(index int) func(int) error {
	return func(fd int) error {
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 1),
		)
	}
}

// inPieces makes fragments of what is longer than the smallest packet that
// IPv6 wants to see whole.
func inPieces(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU, 1280) }

// routed puts a routing header, of segment routing, into packets: their last
// stop comes first in it.
func routed(last, first netip.Addr) func(int) error {
	return func(fd int) error {
		h := []byte{0, 4, 4, 1, 1, 0, 0, 0}
		h = append(append(h, last.AsSlice()...), first.AsSlice()...)
		return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, string(h))
	}
}

// sender is an attacker with ordinary sockets.
type sender struct {
	s *siege
	t testing.TB
	// open runs what opens sockets, send what sends.
	open, send func(func() error) error
}

// asNobody attacks from an unprivileged process of a host.
func (s *siege) asNobody(t testing.TB, n *node) sender {
	who := newNobody(t, n.Place)
	return sender{s, t, who.do, who.do}
}

// asRoot attacks from inside a place, with every right there.
func (s *siege) asRoot(t testing.TB, p *lab.Place) sender {
	return sender{s, t, p.Do, func(f func() error) error { return f() }}
}

// shot returns a shot of VXLAN datagrams by a socket, which stays open until
// the test ends. Control is ancillary data, or nil; size is how long a datagram
// is at least.
func (a sender) shot(o opener, to netip.AddrPort, control []byte, size int) func(string) error {
	fd := -1
	a.t.Cleanup(func() {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	})
	at := sockaddr(to)
	return func(text string) error {
		if fd < 0 {
			var opened int
			err := a.open(func() (err error) {
				opened, err = o()
				return err
			})
			if err != nil {
				return err
			}
			fd = opened
		}
		payload := a.s.vxlan(text)
		payload = append(payload, make([]byte, max(0, size-len(payload)))...)
		return a.send(func() error {
			_, err := unix.SendmsgN(fd, payload, control, at, 0)
			return err
		})
	}
}

// from6 and from4 are plain shots from a port.
func (a sender) from6(port uint16, to netip.Addr) func(string) error {
	return a.shot(u6(netip.AddrPortFrom(netip.IPv6Unspecified(), port)), netip.AddrPortFrom(to, vxlanPort), nil, 0)
}

func (a sender) from4(port uint16, to netip.Addr) func(string) error {
	return a.shot(u4(netip.AddrPortFrom(netip.IPv4Unspecified(), port)), netip.AddrPortFrom(to, vxlanPort), nil, 0)
}

// inName is ancillary data that asks for a source address and an interface.
func inName(src netip.Addr, index int) []byte {
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: src.As16(), Ifindex: uint32(index)})
}

// readProc reads a line below /proc as the place sees it.
func readProc(p *lab.Place, path string) string {
	var text string
	_ = p.Do(func() error {
		b, err := os.ReadFile("/proc/" + path)
		text = strings.TrimSpace(string(b))
		return err
	})
	return text
}
