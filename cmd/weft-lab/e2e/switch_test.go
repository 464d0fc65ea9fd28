package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// watchFrames counts the frames that come to an interface of a place and that
// are what is looked for.
func watchFrames(t testing.TB, p *lab.Place, link string, is func(frame []byte) bool) *atomic.Int64 {
	t.Helper()
	count := &atomic.Int64{}
	eachFrame(t, p, link, func(frame []byte) {
		if is(frame) {
			count.Add(1)
		}
	})
	return count
}

// arpFrame is a broadcast question who has an address.
func arpFrame(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	f = append(f, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	f = append(append(f, mac...), sender.AsSlice()...)
	f = append(append(f, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
	return append(f, make([]byte, 60-len(f))...)
}

// asks says whether a frame is a question who has the address.
func asks(frame []byte, target netip.Addr) bool {
	return len(frame) >= 42 && binary.BigEndian.Uint16(frame[12:]) == 0x0806 && frame[21] == 1 && netip.AddrFrom4([4]byte(frame[38:42])) == target
}

// A storm of questions about addresses that are attached elsewhere does not
// leave the host: it is answered there. Questions about others still reach all.
func TestARPStorm(t *testing.T) {
	parallel(t)
	c := joined(t, 3)
	boxes := c.attachEach()
	whole(c, boxes)
	a, b, bystander := boxes[0], boxes[1], boxes[2]
	nobody := netip.MustParseAddr("10.32.7.7")
	here := func(target netip.Addr) func([]byte) bool { return func(f []byte) bool { return asks(f, target) } }
	heard, passed := watchFrames(t, bystander.Place, "weft0", here(b.addr)), watchFrames(t, bystander.Place, "weft0", here(nobody))
	at := watchFrames(t, b.Place, "weft0", here(b.addr))
	answered := watchFrames(t, a.Place, "weft0", func(f []byte) bool {
		return len(f) >= 42 && binary.BigEndian.Uint16(f[12:]) == 0x0806 && f[21] == 2 && netip.AddrFrom4([4]byte(f[28:32])) == b.addr
	})
	w := openWire(t, a.Place, "weft0")
	question := func(target netip.Addr) {
		if err := w.send(arpFrame(w.mac, a.addr, target)); err != nil && !errors.Is(err, unix.ENOBUFS) {
			t.Fatal(err)
		}
	}
	c.wait("questions are answered on the host", 3*time.Second, func() error {
		before := at.Load()
		question(b.addr)
		rest(t.Context(), 50*time.Millisecond*run.slow())
		if n := at.Load() - before; n > 0 {
			return fmt.Errorf("%d came to the container that was asked about", n)
		}
		return nil
	})
	left, asked, replies := heard.Load(), at.Load(), answered.Load()
	const storm = 2000
	for i := range storm {
		question(b.addr)
		if i%50 == 0 { // a queue of the kernel holds some hundred frames
			rest(t.Context(), 2*time.Millisecond*run.slow())
		}
	}
	question(nobody)
	c.wait("a question that nobody here can answer reaches the others", time.Second, func() error {
		question(nobody)
		rest(t.Context(), 20*time.Millisecond)
		if passed.Load() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	// The container asks now and then by itself whether a neighbour is there,
	// and so does the other one.
	if n := heard.Load() - left + at.Load() - asked; n > storm/100 {
		t.Errorf("%d of %d questions left the host", n, storm)
	}
	c.wait("they are answered", time.Second, func() error {
		if n := answered.Load() - replies; n < storm/4 {
			return fmt.Errorf("%d answers to %d questions", n, storm)
		}
		return nil
	})
	t.Logf("FIGURE %d questions: %d left the host, %d answers", storm, heard.Load()-left+at.Load()-asked, answered.Load()-replies)
}

// multicastGroup is one of those for private use.
var multicastGroup = netip.MustParseAddr("239.77.66.55")

// Frames for a multicast group go to hosts with members only, once these have
// answered our questions, and to a new member as soon as it has joined.
func TestMulticastMembers(t *testing.T) {
	parallelAs(t, idle, 40*time.Second)
	c := joined(t, 3)
	boxes := c.attachEach()
	whole(c, boxes)
	from, member, other := boxes[0], boxes[1], boxes[2]
	join := func(b *box) {
		err := b.Do(func() error {
			i, err := net.InterfaceByName("weft0")
			if err != nil {
				return err
			}
			l, err := net.ListenMulticastUDP("udp4", i, &net.UDPAddr{IP: multicastGroup.AsSlice(), Port: 7755})
			if err == nil {
				t.Cleanup(func() { _ = l.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ours := func(f []byte) bool {
		return len(f) >= 34 && binary.BigEndian.Uint16(f[12:]) == 0x0800 && netip.AddrFrom4([4]byte(f[30:34])) == multicastGroup && f[23] == 17
	}
	atMember, atOther := watchFrames(t, member.Place, "weft0", ours), watchFrames(t, other.n.Place, "weft-vx", ours)
	atOtherBox := watchFrames(t, other.Place, "weft0", ours)
	var conn net.PacketConn
	err := from.Do(func() (err error) { conn, err = net.ListenPacket("udp4", from.addr.String()+":0"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	send := func() {
		if _, err := conn.WriteTo([]byte("to all members"), &net.UDPAddr{IP: multicastGroup.AsSlice(), Port: 7755}); err != nil {
			t.Fatal(err)
		}
	}
	arrives := func(what string, n *atomic.Int64) {
		c.wait(what, 2*time.Second, func() error {
			before := n.Load()
			send()
			rest(t.Context(), 30*time.Millisecond*run.slow())
			if n.Load() == before {
				return errors.New("not yet")
			}
			return nil
		})
	}
	join(member)
	arrives("the member hears the group", atMember)
	if err := from.n.Do(func() error { _, err := net.InterfaceByName("weft-mc"); return err }); run.datapath == "kernel" && err != nil {
		t.Log("NOT TESTED: the kernel floods groups to all hosts; from Linux 6.6 on it does not")
		return
	}
	c.within("hosts without a member are left out", 2*time.Minute, func() error {
		before := atOther.Load()
		send()
		rest(t.Context(), 100*time.Millisecond)
		if n := atOther.Load() - before; n > 0 {
			return fmt.Errorf("%d frames came to a host without a member", n)
		}
		return nil
	})
	before := atMember.Load()
	arrives("the member still hears it", atMember)
	if atMember.Load() == before {
		t.Error("the member hears nothing any more")
	}
	join(other)
	arrives("a new member hears it", atOtherBox)
}
