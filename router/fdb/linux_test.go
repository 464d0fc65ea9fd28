package fdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// linux is a container, in a namespace of its own, whose frames go to the test.
type linux struct {
	guest *kernel.Kernel
	fd    int // frames at the other end of its interface
}

func newLinux(t *testing.T) *linux {
	t.Helper()
	c := &linux{guest: kerneltest.Fresh(t)}
	host := kerneltest.Fresh(t)
	for _, err := range []error{
		host.AddVeth("wv1", 1500, c.guest, "weft0", kernel.MAC(asker)),
		host.SetSysctl("net/ipv6/conf/wv1/disable_ipv6", "1"),
		host.SetUp("wv1", true),
		c.guest.SetUp("weft0", true),
		c.guest.AddAddr("weft0", netip.MustParsePrefix("10.32.0.1/24"), true),
		c.guest.AddAddr("weft0", netip.MustParsePrefix("fd00::1/64"), true),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := host.Link("wv1")
	if err != nil {
		t.Fatal(err)
	}
	err = host.Do(func() (err error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return unix.Bind(c.fd, &unix.SockaddrLinklayer{Ifindex: l.Index, Protocol: all})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(c.fd) })
	return c
}

// frames gives every frame of the container to f until that is satisfied.
func (c *linux) frames(t *testing.T, what string, f func(frame []byte) (done bool)) {
	t.Helper()
	b, deadline := make([]byte, 2000), time.Now().Add(20*time.Second)
	for {
		left := time.Until(deadline)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, int(max(left/time.Millisecond, 0)))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("%s: nothing of the kind came: %v", what, err)
		}
		n, from, err := unix.Recvfrom(c.fd, b, 0)
		if err != nil {
			t.Fatal(err)
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if f(b[:n]) {
			return
		}
	}
}

func (c *linux) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := unix.Write(c.fd, frame); err != nil {
		t.Fatal(err)
	}
}

// Linux asks, believes the answers, and sends to the owner.
func TestLinuxBelieves(t *testing.T) {
	c, table := newLinux(t), answering()
	dst := make([]byte, 100)
	for _, to := range []string{"10.32.0.9:7", "[fd00::9]:7"} {
		var conn net.Conn
		err := c.guest.Do(func() (err error) {
			conn, err = net.Dial("udp", to)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		asked := 0
		c.frames(t, to, func(frame []byte) bool {
			if n, ok := table.Answer(frame, dst); ok {
				asked++
				c.send(t, dst[:n])
			}
			return MAC(frame) == owner && bytes.HasSuffix(frame, []byte("hello"))
		})
		if asked == 0 {
			t.Errorf("%s: not asked", to)
		}
		_ = conn.Close()
	}
}

// Linux does not take an IPv6 address that a known attachment has.
func TestLinuxFindsItTaken(t *testing.T) {
	c, table := newLinux(t), answering()
	dst := make([]byte, 100)
	// So long it waits for an objection.
	if err := c.guest.SetSysctl("net/ipv6/neigh/weft0/retrans_time_ms", "20000"); err != nil {
		t.Fatal(err)
	}
	if err := c.guest.AddAddr("weft0", netip.MustParsePrefix("fd00::9/64"), false); err != nil {
		t.Fatal(err)
	}
	c.frames(t, "probe", func(frame []byte) bool {
		n, ok := table.Answer(frame, dst)
		if ok {
			c.send(t, dst[:n])
		}
		return ok
	})
	// While it is not sure an address cannot be used, nor when it is taken.
	for deadline := time.Now().Add(20 * time.Second); ; {
		err := c.guest.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(fd) }()
			return unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr("fd00::9").As16()})
		})
		if err == nil {
			t.Fatal("the address was taken twice")
		}
		flags := c.flags(t, netip.MustParseAddr("fd00::9"))
		if flags&unix.IFA_F_DADFAILED != 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("flags %#x", flags)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// flags of an IPv6 address, as /proc says them.
func (c *linux) flags(t *testing.T, a netip.Addr) (flags int) {
	t.Helper()
	err := c.guest.Do(func() error {
		fd, err := unix.Open("/proc/thread-self/net/if_inet6", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		b := make([]byte, 4096)
		n, err := unix.Read(fd, b)
		for line := range bytes.Lines(b[:max(n, 0)]) {
			if fields := bytes.Fields(line); len(fields) == 6 && bytes.Equal(fields[0], hexOf(a)) {
				for _, digit := range fields[4] {
					flags = flags<<4 | bytes.IndexByte([]byte("0123456789abcdef"), digit)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return flags
}

func hexOf(a netip.Addr) []byte {
	var b []byte
	for _, x := range a.AsSlice() {
		b = append(b, "0123456789abcdef"[x>>4], "0123456789abcdef"[x&15])
	}
	return b
}

// Linux answers our queries for what it has joined, with records that say so.
func TestLinuxAnswersQueries(t *testing.T) {
	c := newLinux(t)
	for _, group := range []string{g4, g6} {
		err := c.guest.Do(func() error {
			i, err := net.InterfaceByName("weft0")
			if err != nil {
				return err
			}
			conn, err := net.ListenMulticastUDP("udp", i, &net.UDPAddr{IP: net.ParseIP(group), Port: 5000})
			if err == nil {
				t.Cleanup(func() { _ = conn.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// What it says without being asked is not enough.
	clock := newClock()
	table := New(Options{Now: clock.now})
	table.Set(remotes(2, 3), nil)
	answerAll(table, 3)
	heard := func(group string) bool {
		table.groups.mu.Lock()
		defer table.groups.mu.Unlock()
		return table.groups.groups[netip.MustParseAddr(group)] != nil
	}
	c.frames(t, "announcements", func(frame []byte) bool {
		table.Snoop(frame, overlay(2))
		return heard(g4) && heard(g6)
	})
	clock.seconds(membership)
	table.Sweep()
	clock.seconds(1)
	table.Sweep()
	if heard(g4) || heard(g6) {
		t.Error("remembered for too long")
	}
	answerAll(table, 3)
	q4, q6 := make([]byte, 90), make([]byte, 90)
	n4, n6 := Queries(q4, q6, owner)
	hurry(q4[:n4])
	hurry(q6[:n6])
	c.send(t, q4[:n4])
	c.send(t, q6[:n6])
	c.frames(t, "answers", func(frame []byte) bool {
		table.Snoop(frame, overlay(2))
		table.groups.mu.Lock()
		answered := table.groups.remotes[overlay(2)].first != 0
		table.groups.mu.Unlock()
		return heard(g4) && heard(g6) && answered // an announcement may come a second time
	})
	clock.seconds(settling + 1)
	table.Sweep()
	goes(t, table, data(g4), 2)
	goes(t, table, data(g6), 2)
	goes(t, table, data("239.77.77.77"))
	if n := slices.IndexFunc(table.Remotes(), func(r Remote) bool { return table.groups.remotes[r.Overlay].flooded }); n >= 0 {
		t.Errorf("remote %d is flooded", n)
	}
}

// hurry lets a query be answered within a tenth of a second.
func hurry(frame []byte) {
	if frame[12] == 0x86 {
		binary.BigEndian.PutUint16(frame[etherLen+ip6Len+8+4:], 100)
		seal(frame)
		return
	}
	q := frame[etherLen+24:]
	q[1], q[2], q[3] = 1, 0, 0
	binary.BigEndian.PutUint16(q[2:], ^fold(sum(q, 0)))
}
