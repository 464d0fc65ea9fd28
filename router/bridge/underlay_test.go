package bridge

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
)

// forgery is the start of a packet that the host is said to have sent. The
// sockets of the lab's host believe what they are told, as those of the
// kernel's WireGuard do.
type forgery struct {
	name     string
	embedded func(src, dst netip.Addr) []byte
	ipv6     bool
}

func udp4(words int, port uint16) func(src, dst netip.Addr) []byte {
	return func(src, dst netip.Addr) []byte {
		b := make([]byte, 4*words+8)
		b[0], b[8], b[9] = 0x40|byte(words), 64, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(b[2:], 1400)
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		for i := 20; i < 4*words; i++ {
			b[i] = 1 // no operation
		}
		binary.BigEndian.PutUint16(b[4*words:], port)
		binary.BigEndian.PutUint16(b[4*words+2:], 6784)
		return b
	}
}

// udp6 has extension headers, each of eight bytes.
func udp6(port uint16, extensions ...byte) func(src, dst netip.Addr) []byte {
	return func(src, dst netip.Addr) []byte {
		b := make([]byte, 40+8*len(extensions)+8)
		b[0], b[7] = 0x60, 64
		binary.BigEndian.PutUint16(b[4:], 1360)
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		chain := append(slices.Clone(extensions), unix.IPPROTO_UDP)
		b[6] = chain[0]
		for i := range extensions {
			b[40+8*i] = chain[i+1]
		}
		end := b[len(b)-8:]
		binary.BigEndian.PutUint16(end, port)
		binary.BigEndian.PutUint16(end[2:], 6784)
		return b
	}
}

// A message about what a path carries changes nothing when it is about our
// ports, in whatever form; without the rules it does.
func TestForgedMTU(t *testing.T) {
	t.Parallel()
	forgeries := []forgery{
		{"WireGuard port", udp4(5, 6784), false},
		{"relay port", udp4(5, 6783), false},
		{"IPv6, WireGuard port", udp6(6784), true},
		{"IPv6, relay port", udp6(6783), true},
		{"IPv6, fragment", udp6(6784, 44), true},
		{"IPv6, destination options", udp6(6784, 60), true},
		{"IPv6, relay port, hop-by-hop", udp6(6783, 0), true},
		{"IPv6, two headers", udp6(6784, 60, 60), true},
		{"IPv6, fragment with destination options", udp6(6784, 44, 60), true},
	}
	for words := 6; words <= 15; words++ {
		forgeries = append(forgeries, forgery{fmt.Sprintf("%d words of header", words), udp4(words, 6784), false})
	}
	others := []forgery{
		{"another port", udp4(5, 7000), false},
		{"IPv6, another port", udp6(7000), true},
		{"IPv6, fragment of another port", udp6(7000, 44), true},
		{"IPv6, another port, destination options", udp6(7000, 60), true},
		{"IPv6, another port, hop-by-hop", udp6(7000, 0), true},
		{"IPv6, another port, two headers", udp6(7000, 43, 60), true},
		{"IPv6, another port, fragment with destination options", udp6(7000, 44, 60), true},
		{"IPv6, another port, three headers", udp6(7000, 0, 44, 60), true},
	}
	with, without := newLab(t, nil, nil), newLab(t, nil, []string{"forged-mtu"})
	for _, l := range []*lab{with, without} {
		for _, port := range []int{6783, 6784, 7000} {
			l.listen(l.b.Kernel, port)
		}
	}
	all := append(slices.Clone(forgeries), others...)
	about := func(i int) netip.Addr {
		if all[i].ipv6 {
			return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 0x100+i))
		}
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
	}
	for i, f := range all {
		with.forge(f, about(i))
		without.forge(f, about(i))
	}
	for i, f := range all {
		if !without.learnt(about(i), true) {
			t.Errorf("%s: without the rules it was not believed either: the test shows nothing", f.name)
		}
		if i >= len(forgeries) && !with.learnt(about(i), true) {
			t.Errorf("%s: it was not believed, and it is none of ours", f.name)
		}
	}
	// What came last has been believed by now, so these would have been too.
	for i, f := range forgeries {
		if with.learnt(about(i), false) {
			t.Errorf("%s: it was believed", f.name)
		}
	}
}

// forge makes the stranger tell host B that its packet to dst was too large.
func (l *lab) forge(f forgery, dst netip.Addr) {
	l.t.Helper()
	src, kind, protocol := l.b.underlay, byte(3), unix.IPPROTO_ICMP
	domain := unix.AF_INET
	var at unix.Sockaddr = &unix.SockaddrInet4{Addr: src.As4()}
	if f.ipv6 {
		src, kind, protocol, domain = netip.MustParseAddr("2001:db8::2"), 2, unix.IPPROTO_ICMPV6, unix.AF_INET6
		at = &unix.SockaddrInet6{Addr: src.As16()}
	}
	b := append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, f.embedded(src, dst)...)
	if f.ipv6 {
		binary.BigEndian.PutUint32(b[4:], 1290) // the kernel adds the checksum
	} else {
		b[1] = 4
		binary.BigEndian.PutUint16(b[6:], 600)
		var sum uint32
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		sum = sum&0xffff + sum>>16
		binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	}
	ok(l.t, l.stranger.Do(func() error {
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Sendto(fd, b, 0, at)
	}))
}

// learnt says whether host B has an MTU of its own for dst; it waits for one
// that is expected.
func (l *lab) learnt(dst netip.Addr, expected bool) bool {
	l.t.Helper()
	for end := deadline(expected); ; {
		if strings.Contains(l.run(l.b, "ip route get "+dst.String()), "mtu ") {
			return true
		}
		if !expected || time.Now().After(end) {
			return false
		}
	}
}

// A quiet address is not heard, but its signals are, and everybody else.
func TestQuiet(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil, nil)
	inbox := l.listen(l.b.Kernel, 6784)
	arrives := func(from, to netip.AddrPort, payload string, expected bool) {
		t.Helper()
		l.send(l.stranger, from, to, []byte(payload))
		if _, arrived := receivedText(inbox, payload, expected); arrived != expected {
			t.Errorf("%q from %s: arrived %t", payload, from, arrived)
		}
	}
	for _, a := range []struct{ from, to netip.Addr }{
		{strangerIP, l.b.underlay},
		{netip.MustParseAddr("2001:db8::9"), netip.MustParseAddr("2001:db8::2")},
	} {
		from, other, dst := to(a.from, 7000), to(a.from, 7001), to(a.to, 6784)
		long := time.Hour
		arrives(from, dst, "\x04before", true)
		ok(t, quieten(t, l.b.bridge, from, long))
		arrives(from, dst, "\x04quiet", false)
		arrives(from, dst, "\x57signal", true)
		arrives(other, dst, "\x04other port", true)
		repaired, err := l.b.bridge.CheckAfter(t.Context(), kernel.FirewallChanged)
		ok(t, err)
		if len(repaired) > 0 {
			t.Errorf("taken for damage: %q", repaired)
		}
		arrives(from, dst, "\x04still quiet", false)
		ok(t, quieten(t, l.b.bridge, from, 0))
		arrives(from, dst, "\x04ended", true)
		// A new time replaces an old one, also a longer one.
		ok(t, quieten(t, l.b.bridge, from, long))
		ok(t, quieten(t, l.b.bridge, from, time.Second))
		heard := false
		for end := time.Now().Add(20 * time.Second); !heard && time.Now().Before(end); {
			l.send(l.stranger, from, dst, []byte("\x04after"))
			_, heard = receivedText(inbox, "\x04after", false)
		}
		if !heard {
			t.Errorf("%s stays quiet", from)
		}
	}
}
