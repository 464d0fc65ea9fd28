package vxlan_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
	"github.com/weftnet/weft/router/vxlan"
)

// two are two hosts on one wire, each with a switch and a container whose
// frames the test sends and sees:
//
//	here: weft0 ─ wv1 ─ weft ─ weft-vx ═══ weft-vx ─ weft ─ wv1 ─ weft0 :far
type two struct {
	port      [2]*vxlan.Port
	host      [2]*kernel.Kernel
	container [2]*socket
	marks     byte
}

const here, far = 0, 1

// Of the containers.
var hereMAC, farMAC = mac(1), mac(2)

func newTwo(t *testing.T) *two {
	t.Helper()
	w := new(two)
	w.host = [2]*kernel.Kernel{kerneltest.Fresh(t), kerneltest.Fresh(t)}
	ok(t, w.host[here].AddVeth("wire", 1500, w.host[far], "wire", kernel.MAC{}))
	for i, h := range w.host {
		ok(t, h.SetUp("wire", true))
		for _, n := range [][]byte{{1}, {2, 3}}[i] { // the far host has two addresses
			ok(t, h.AddAddr("wire", netip.PrefixFrom(remote(n), 64), true))
		}
		ok(t, h.AddBridge("weft", kernel.MAC{2, byte(i)}, 1370))
		ok(t, h.SetSysctl("net/ipv6/conf/weft/disable_ipv6", "1"))
		ok(t, h.SetUp("weft", true))
		w.port[i] = vxlan.New(h, nil)
		w.container[i] = newContainer(t, h, "wv1", []kernel.MAC{hereMAC, farMAC}[i])
	}
	w.set(t)
	ok(t, w.port[far].Set(fdb.Config{
		Name: "weft-vx", Bridge: "weft", VNI: 7, Port: 6785, Local: remote(2), MTU: 1370, Remotes: []fdb.Remote{{Overlay: remote(1)}},
	}))
	// Until the wire is ready.
	for deadline := time.Now().Add(10 * time.Second); ; {
		w.container[here].send(t, w.mark())
		if _, found := w.container[far].until(t, w.marks, 100*time.Millisecond); found {
			return w
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing passes")
		}
	}
}

// set says what this host knows.
func (w *two) set(t *testing.T, known ...fdb.Known) {
	t.Helper()
	ok(t, w.port[here].Set(knowing(known...)))
}

// mark is a frame that nothing else looks like.
func (w *two) mark() []byte {
	w.marks++
	return append(append(bytes.Repeat([]byte{0xff}, 6), hereMAC[:]...), 0x88, 0xb5, w.marks)
}

// pass sends a frame from our container and returns whether it got to the other
// one, and the frames that came back. What is expected to happen is waited for:
// the queues of a kernel's processors know no common order. What is not has not
// happened when a frame that was sent after it has passed.
func (w *two) pass(t *testing.T, frame []byte, passes, answer bool) (passed bool, back [][]byte) {
	t.Helper()
	w.container[here].drain(t)
	w.container[here].send(t, frame)
	for _, f := range w.marked(t) {
		passed = passed || bytes.Equal(f, frame)
	}
	for passes && !passed {
		f := w.container[far].receive(t, 10*time.Second)
		if f == nil {
			break
		}
		passed = bytes.Equal(f, frame)
	}
	if answer {
		if f := w.container[here].receive(t, 10*time.Second); f != nil {
			back = append(back, f)
		}
	}
	return passed, append(back, w.container[here].drain(t)...)
}

// marked sends a mark and returns what got to the other container before it. A
// full queue on the way may lose marks as well.
func (w *two) marked(t *testing.T) (seen [][]byte) {
	t.Helper()
	mark := w.mark()
	for range 50 {
		w.container[here].send(t, mark)
		more, found := w.container[far].until(t, w.marks, 200*time.Millisecond)
		if seen = append(seen, more...); found {
			return seen
		}
	}
	t.Fatal("the mark did not pass")
	return nil
}

// socket sends and receives frames at an interface.
type socket struct{ fd int }

func newContainer(t *testing.T, host *kernel.Kernel, port string, m kernel.MAC) *socket {
	t.Helper()
	guest := kerneltest.Fresh(t)
	ok(t, guest.SetSysctl("net/ipv6/conf/default/disable_ipv6", "1"))
	ok(t, host.AddVeth(port, 1370, guest, "weft0", m))
	ok(t, host.SetSysctl("net/ipv6/conf/"+port+"/disable_ipv6", "1"))
	ok(t, guest.SetUp("weft0", true))
	ok(t, host.SetMaster(port, "weft"))
	ok(t, host.SetUp(port, true))
	l, err := guest.Link("weft0")
	ok(t, err)
	s := new(socket)
	ok(t, guest.Do(func() error {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		var err error
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: l.Index, Protocol: all})
	}))
	t.Cleanup(func() { _ = unix.Close(s.fd) })
	return s
}

func (s *socket) send(t *testing.T, frame []byte) {
	t.Helper()
	_, err := unix.Write(s.fd, frame)
	ok(t, err)
}

// receive waits for one frame that others sent.
func (s *socket) receive(t *testing.T, wait time.Duration) []byte {
	t.Helper()
	b := make([]byte, 2000)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, int(wait/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		ok(t, err)
		if n == 0 {
			return nil
		}
		n, from, err := unix.Recvfrom(s.fd, b, 0)
		ok(t, err)
		if l, is := from.(*unix.SockaddrLinklayer); !is || l.Pkttype != unix.PACKET_OUTGOING {
			return b[:n]
		}
	}
}

// until collects what comes before a mark, other marks left out.
func (s *socket) until(t *testing.T, mark byte, wait time.Duration) (seen [][]byte, found bool) {
	t.Helper()
	for {
		b := s.receive(t, wait)
		if b == nil {
			return seen, false
		}
		if len(b) <= 14 || b[12] != 0x88 || b[13] != 0xb5 {
			seen = append(seen, b)
		} else if b[14] == mark { // or a former one, that was late
			return seen, true
		}
	}
}

func (s *socket) drain(t *testing.T) (seen [][]byte) {
	t.Helper()
	for b := s.receive(t, 0); b != nil; b = s.receive(t, 0) {
		seen = append(seen, b)
	}
	return seen
}

// arp is a question or an announcement to all.
func arp(op byte, from kernel.MAC, sender, target string) []byte {
	b := append(bytes.Repeat([]byte{0xff}, 6), from[:]...)
	b = append(append(b, 8, 6, 0, 1, 8, 0, 6, 4, 0, op), from[:]...)
	b = append(b, netip.MustParseAddr(sender).AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, netip.MustParseAddr(target).AsSlice()...)
}

// solicit is a neighbour solicitation; its checksum does not matter to a switch.
func solicit(from kernel.MAC, target string) []byte {
	a := netip.MustParseAddr(target).As16()
	b := append([]byte{0x33, 0x33, 0xff, a[13], a[14], a[15]}, from[:]...)
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255)
	b = append(b, make([]byte, 16)...) // unspecified: it asks whether the address is taken
	b = append(b, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a[13], a[14], a[15])
	return append(append(b, 135, 0, 0, 0, 0, 0, 0, 0), a[:]...)
}

// Questions about known attachments are answered here and do not leave the
// host; everything else of the kind does.
func TestAnswersOfLinux(t *testing.T) {
	w := newTwo(t)
	w.set(t, attached(2, 2, "10.32.0.9", "fd00::9"))
	for _, tt := range []struct {
		name           string
		frame          []byte
		passes, answer bool
	}{
		{"question", arp(1, hereMAC, "10.32.0.1", "10.32.0.9"), false, true},
		{"probe", arp(1, hereMAC, "0.0.0.0", "10.32.0.9"), false, true},
		{"question about unknown", arp(1, hereMAC, "10.32.0.1", "10.32.0.77"), true, false},
		{"probe of unknown", arp(1, hereMAC, "0.0.0.0", "10.32.0.77"), true, false},
		{"announcement by a request", arp(1, hereMAC, "10.32.0.1", "10.32.0.1"), true, false},
		{"announcement by a reply", arp(2, hereMAC, "10.32.0.1", "10.32.0.1"), true, false},
		{"taking over", arp(2, hereMAC, "10.32.0.9", "10.32.0.9"), true, false},
		{"IPv6 probe", solicit(hereMAC, "fd00::9"), true, false},
		{"IPv6 probe of unknown", solicit(hereMAC, "fd00::77"), true, false},
	} {
		passed, back := w.pass(t, tt.frame, tt.passes, tt.answer)
		if passed != tt.passes || (len(back) == 1) != tt.answer || len(back) > 1 {
			t.Errorf("%s: passed %v, came back %x", tt.name, passed, back)
		}
		if tt.answer && len(back) == 1 {
			want := fmt.Sprintf("%x%x0806000108000604%04x%x%x%x", hereMAC[:], farMAC[:], 2, farMAC[:], tt.frame[38:42], hereMAC[:])
			if got := fmt.Sprintf("%x", back[0]); got[:len(want)] != want {
				t.Errorf("%s: answer %s, want %s", tt.name, got, want)
			}
		}
	}
	// A storm of questions.
	const storm = 1000
	w.container[far].drain(t)
	for range storm {
		w.container[here].send(t, arp(1, hereMAC, "10.32.0.1", "10.32.0.9"))
	}
	if seen := w.marked(t); len(seen) > 0 {
		t.Errorf("%d of %d questions left the host", len(seen), storm)
	}
	// When nothing is known any more, all are forwarded.
	w.set(t)
	if passed, back := w.pass(t, arp(1, hereMAC, "10.32.0.1", "10.32.0.9"), true, false); !passed || len(back) > 0 {
		t.Errorf("after it went: passed %v, came back %x", passed, back)
	}
}

// announce sends a frame from a container of our host until the bridge has
// learnt from it at which port that is: a port forwards a moment after its link
// came up.
func (w *two) announce(t *testing.T, s *socket, port string, frame []byte) {
	t.Helper()
	l, err := w.host[here].Link(port)
	ok(t, err)
	for range 1000 {
		s.send(t, frame)
		list, err := w.host[here].BridgeFDB("weft")
		ok(t, err)
		for _, e := range list {
			if e.Port == l.Index && e.MAC == kernel.MAC(frame[6:12]) {
				return
			}
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Fatal("the bridge does not learn")
}

// A known attachment that moves to our host is reached there at once, although
// we were told otherwise, and stays reachable when that is repaired.
func TestMoveHere(t *testing.T) {
	w := newTwo(t)
	w.set(t, attached(2, 2, "10.32.0.9"))
	moved := newContainer(t, w.host[here], "wv2", farMAC)
	w.announce(t, moved, "wv2", arp(2, farMAC, "10.32.0.9", "10.32.0.9"))
	for range 2 {
		to := append(append(append([]byte(nil), farMAC[:]...), hereMAC[:]...), 0x88, 0xb6, 1, 2, 3)
		passed, _ := w.pass(t, to, false, false)
		got := moved.receive(t, 10*time.Second)
		for got != nil && !bytes.Equal(got, to) {
			got = moved.receive(t, 10*time.Second)
		}
		if passed || got == nil {
			t.Errorf("frame to where it was: %v, where it is: %v", passed, got != nil)
		}
		if repaired, err := w.port[here].Check(); len(repaired) > 0 || err != nil {
			t.Errorf("check: %q, %v", repaired, err)
		}
	}
	// Its old place does not answer for it any more: the question is open.
	if _, back := w.pass(t, arp(1, hereMAC, "10.32.0.1", "10.32.0.9"), false, false); len(back) > 0 {
		t.Errorf("came back: %x", back)
	}
	// And when its new place is known to all, it is not elsewhere.
	w.set(t)
	isTold(t, w.host[here])
}

// Frames from a known MAC that come from another host are dropped, until it is
// known there.
func TestKnownElsewhere(t *testing.T) {
	w := newTwo(t)
	frame := append(append(append([]byte(nil), hereMAC[:]...), farMAC[:]...), 0x88, 0xb6, 1, 2, 3)
	arrives := func(expected bool) (seen bool) {
		w.container[here].drain(t)
		w.container[far].send(t, frame)
		other := bytes.Clone(frame)
		copy(other[6:], []byte{2, 0xcc, 0, 0, 0, 1}) // not known, and passes
		w.container[far].send(t, other)
		for last := false; !last || expected && !seen; {
			b := w.container[here].receive(t, 10*time.Second)
			if b == nil {
				if last {
					return false
				}
				t.Fatal("nothing came")
			}
			seen = seen || bytes.Equal(b, frame)
			last = last || bytes.Equal(b, other)
		}
		return seen
	}
	if !arrives(true) {
		t.Error("not known: a frame was dropped")
	}
	w.set(t, attached(2, 3)) // it came from 2
	if arrives(false) {
		t.Error("known elsewhere: a frame passed")
	}
	w.set(t, attached(2, 2))
	if !arrives(true) {
		t.Error("known there: a frame was dropped")
	}
}

// Ten thousand known attachments.
func BenchmarkKnown(b *testing.B) {
	h := kerneltest.Fresh(b)
	ok(b, h.AddBridge("weft", bridgeMAC, 1370))
	ok(b, h.SetUp("weft", true))
	many := make([]fdb.Known, 10_000)
	for i := range many {
		many[i] = fdb.Known{MAC: fdb.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}, At: remote(byte(2 + i%2)), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 40, byte(i >> 8), byte(i)})}}
	}
	p := vxlan.New(h, nil)
	began := time.Now()
	ok(b, p.Set(knowing(many...)))
	b.Logf("the first Set took %s", time.Since(began).Round(time.Millisecond))
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			repaired, err := p.Check()
			if ok(b, err); len(repaired) > 0 {
				b.Fatal(repaired)
			}
		}
	})
	b.Run("one more", func(b *testing.B) {
		n := 0
		for b.Loop() {
			n++
			ok(b, p.Set(knowing(many[:len(many)-n%2]...)))
		}
	})
}
