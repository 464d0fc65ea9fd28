package hello

import (
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Each end alone keeps segments small, in both directions.
func TestSegments(t *testing.T) {
	h := New(Config{Key: key(1)})
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	small, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		ln     net.Listener
		bounds bool // the dialler
	}{{"listener", small, false}, {"dialler", plain, true}, {"both", small, true}} {
		t.Cleanup(func() { _ = c.ln.Close() })
		var there net.Conn
		if c.bounds {
			there, err = h.dialer(t.Context(), c.ln.Addr().(*net.TCPAddr).AddrPort())
		} else {
			there, err = net.Dial("tcp", c.ln.Addr().String())
		}
		if err != nil {
			t.Fatal(err)
		}
		here, err := c.ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, conn := range []net.Conn{there, here} {
			if n := maxSegment(t, conn); n > segment {
				t.Errorf("%s: %s sends segments of %d bytes", c.name, netip.MustParseAddrPort(conn.LocalAddr().String()), n)
			}
			_ = conn.Close()
		}
	}
}

func maxSegment(t *testing.T, c net.Conn) (n int) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return n
}
