package bridge

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
)

// segmentTo connects a container to another one and returns the size of the
// segments that it may send, less the 12 bytes of timestamps.
func segmentTo(t *testing.T, from, to *kernel.Kernel, at netip.Addr, limit int) (size int) {
	t.Helper()
	family, local, remote := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{}), unix.Sockaddr(&unix.SockaddrInet6{Addr: at.As16(), Port: 80})
	if at.Is4() {
		family, local, remote = unix.AF_INET, &unix.SockaddrInet4{}, &unix.SockaddrInet4{Addr: at.As4(), Port: 80}
	}
	open := func(k *kernel.Kernel, then func(fd int) error) {
		ok(t, k.Do(func() error {
			fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = unix.Close(fd) })
			if limit > 0 {
				if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, limit); err != nil {
					return err
				}
			}
			return then(fd)
		}))
	}
	var listener int
	open(to, func(fd int) error {
		listener = fd
		if err := unix.Bind(fd, local); err != nil {
			return err
		}
		name, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		switch name := name.(type) {
		case *unix.SockaddrInet4:
			remote.(*unix.SockaddrInet4).Port = name.Port
		case *unix.SockaddrInet6:
			remote.(*unix.SockaddrInet6).Port = name.Port
		}
		return unix.Listen(fd, 1)
	})
	both := [2]int{}
	open(from, func(fd int) (err error) {
		if err = unix.Connect(fd, remote); err == nil {
			both[0], err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG)
		}
		return err
	})
	fd, _, err := unix.Accept(listener)
	ok(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	both[1], err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	ok(t, err)
	if both[0] != both[1] {
		t.Errorf("segments of %d bytes one way, %d the other", both[0], both[1])
	}
	return both[0]
}

// One host alone bounds the segments of both directions, of connections both
// ways, and makes none larger; frames within a host are left alone.
func TestSegments(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil, nil)
	second := l.secondContainer(l.a)
	v6 := func(n int) netip.Addr { return netip.MustParseAddr("fd00:77::" + strconv.Itoa(n)) }
	for i, k := range []*kernel.Kernel{l.a.container, l.b.container, second} {
		ok(t, k.AddAddr("weft0", netip.PrefixFrom(v6(i+1), 64), true))
	}
	const timestamps = 12
	check := func(what string, limit, want4, want6 int) {
		t.Helper()
		for _, c := range []struct {
			from, to *kernel.Kernel
			v4, v6   netip.Addr
		}{
			{l.a.container, l.b.container, containerIP(2), v6(2)},
			{l.b.container, l.a.container, containerIP(1), v6(1)},
		} {
			if got := segmentTo(t, c.from, c.to, c.v4, limit) + timestamps; got != want4 {
				t.Errorf("%s, IPv4: %d bytes, want %d", what, got, want4)
			}
			if got := segmentTo(t, c.from, c.to, c.v6, limit) + timestamps; got != want6 {
				t.Errorf("%s, IPv6: %d bytes, want %d", what, got, want6)
			}
		}
	}
	check("no bound", 0, 1330, 1310)
	c := l.a.cfg
	c.MSS = 1000
	ok(t, l.a.bridge.Set(t.Context(), c))
	check("bound", 0, 1000, 980)
	check("smaller ones", 900, 900, 900)
	if got := segmentTo(t, l.a.container, second, v6(3), 0) + timestamps; got != 1310 {
		t.Errorf("within a host: %d bytes", got)
	}
	// What is quiet stays so when this changes.
	from := netip.MustParseAddrPort("192.0.2.2:6784")
	ok(t, quieten(t, l.a.bridge, from, 30e9))
	c.MSS = 0
	ok(t, l.a.bridge.Set(t.Context(), c))
	check("none again", 0, 1330, 1310)
	if out := l.run(l.a, "nft list set inet weft "+quietIPv4); !strings.Contains(out, "192.0.2.2 . 6784") {
		t.Errorf("the quiet address is gone:\n%s", out)
	}
	c.MSS = minMSS - 1
	if err := l.a.bridge.Set(t.Context(), c); err == nil {
		t.Error("segments of nearly nothing")
	}
}
