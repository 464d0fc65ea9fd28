package path

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

var (
	pingA = netip.MustParseAddr("fd77:6566:7400::a")
	pingB = netip.MustParseAddr("fd77:6566:7400::b")
)

// pingRig is two hosts on one wire, a pinger on the first and its replies.
type pingRig struct {
	a, b    *kernel.Kernel
	p       *Pinger
	replies chan pingGot
	done    chan error // of Run
}

type pingGot struct {
	peer   netip.Addr
	number uint64
	at     time.Time
}

func newPingRig(t *testing.T) *pingRig {
	t.Helper()
	r := &pingRig{a: kerneltest.Fresh(t), b: kerneltest.Fresh(t)}
	r.wire(t)
	r.open(t)
	return r
}

// open opens the pinger and runs it until the end of the test.
func (r *pingRig) open(t *testing.T) {
	t.Helper()
	r.replies, r.done = make(chan pingGot, 1000), make(chan error, 1)
	if err := r.a.Do(func() (err error) {
		r.p, err = OpenPinger(pingA, "tun", func(peer netip.Addr, number uint64, at time.Time) {
			r.replies <- pingGot{peer, number, at}
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { r.done <- r.p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
	})
}

// wire connects the hosts: link "tun" on the first, "eth" on the second.
func (r *pingRig) wire(t *testing.T) {
	t.Helper()
	err := errors.Join(
		r.a.AddVeth("tun", 1500, r.b, "eth", kernel.MAC{}),
		askAgainSoon(r.a, "tun"), askAgainSoon(r.b, "eth"),
		r.a.SetUp("tun", true), r.b.SetUp("eth", true),
		r.a.AddAddr("tun", netip.PrefixFrom(pingA, 64), true), r.b.AddAddr("eth", netip.PrefixFrom(pingB, 64), true),
	)
	if err != nil {
		t.Fatal(err)
	}
}

// askAgainSoon shortens what a first question who is there costs when it is
// too early.
func askAgainSoon(k *kernel.Kernel, link string) error {
	return k.SetSysctl("net/ipv6/neigh/"+link+"/retrans_time_ms", "50")
}

func (r *pingRig) send(peer netip.Addr, number uint64) error {
	return r.a.Do(func() error { return r.p.Send(peer, number) })
}

// badNumber is of replies that must not be believed.
const badNumber = 666

// want pings until there is a reply: the wire may take a moment, and replies to
// former pings with it.
func (r *pingRig) want(t *testing.T, number uint64) {
	t.Helper()
	begin, deadline := time.Now(), time.After(10*time.Second)
	for {
		if err := r.send(pingB, number); err != nil {
			t.Logf("ping: %v", err)
		}
		select {
		case got := <-r.replies:
			if got.peer != pingB || got.number == badNumber || got.at.After(time.Now()) {
				t.Fatalf("got %+v, want number %#x of %v", got, number, pingB)
			}
			if got.number == number && got.at.After(begin) {
				return
			}
		case <-time.After(200 * time.Millisecond):
		case <-deadline:
			t.Fatal("no reply")
		}
	}
}

func TestPing(t *testing.T) {
	r := newPingRig(t)
	for _, number := range []uint64{0, 1, 0xffff, 0x10000, 1<<64 - 1} {
		r.want(t, number)
	}
}

// TestPingLinkComesBack: while the link is gone a ping is an error, and when it
// is there again pings work again, also if nobody noticed.
func TestPingLinkComesBack(t *testing.T) {
	r := newPingRig(t)
	r.want(t, 1)
	for round := range uint64(4) {
		if err := r.a.DelLink("tun"); err != nil {
			t.Fatal(err)
		}
		for range round {
			if err := r.send(pingB, 2); !errors.Is(err, unix.ENODEV) {
				t.Fatalf("without the link: %v", err)
			}
		}
		r.wire(t)
		if err := r.send(pingB, 3); err != nil {
			t.Fatalf("with a new link: %v", err)
		}
		r.want(t, 10+round)
	}
}

// TestPingOpenedEarly: the link may come later than the pinger.
func TestPingOpenedEarly(t *testing.T) {
	r := &pingRig{a: kerneltest.Fresh(t), b: kerneltest.Fresh(t)}
	r.open(t)
	if err := r.send(pingB, 1); !errors.Is(err, unix.ENODEV) {
		t.Fatalf("without the link: %v", err)
	}
	r.wire(t)
	r.want(t, 2)
}

// TestPingAddressComesBack: the same for the address.
func TestPingAddressComesBack(t *testing.T) {
	r := newPingRig(t)
	r.want(t, 1)
	if err := r.a.DelAddr("tun", netip.PrefixFrom(pingA, 64)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := r.send(pingB, 2); err == nil {
			t.Fatal("sent without an address")
		}
	}
	if err := r.a.AddAddr("tun", netip.PrefixFrom(pingA, 64), true); err != nil {
		t.Fatal(err)
	}
	r.want(t, 3)
}

// TestPingNoRoute: a peer that there is no way to is an error, and others are
// reached as before.
func TestPingNoRoute(t *testing.T) {
	r := newPingRig(t)
	if err := r.send(netip.MustParseAddr("2001:db8::1"), 1); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("got %v, want %v", err, unix.ENETUNREACH)
	}
	r.want(t, 2)
}

// TestPingForeignReplies: only an answer of that peer to that ping counts.
func TestPingForeignReplies(t *testing.T) {
	r := newPingRig(t)
	r.want(t, 1)

	raw := r.raw(t, r.b, pingB)
	for _, change := range []func(b []byte) []byte{
		func(b []byte) []byte { b[0] = pingRequest; return b },
		func(b []byte) []byte { b[0] = 1; return b },
		func(b []byte) []byte { b[1] = 1; return b },
		func(b []byte) []byte { b[4]++; return b },
		func(b []byte) []byte { b[pingHeader]++; return b },       // number
		func(b []byte) []byte { b[pingHeader+8]++; return b },     // tag
		func([]byte) []byte { return r.packet(pingA, badNumber) }, // of another
		func(b []byte) []byte { return b[:pingSize-1] },           // short
		func(b []byte) []byte { return append(b, 0) },             // long
		func(b []byte) []byte { return append(b, b...) },          // much too long
		func([]byte) []byte { return make([]byte, pingHeader) },   // empty
		func([]byte) []byte { return r.packet(pingB, 7) },         // as it should be
	} {
		if _, err := raw.WriteTo(change(r.packet(pingB, badNumber)), &net.IPAddr{IP: pingA.AsSlice()}); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.After(10 * time.Second)
	for {
		select {
		case got := <-r.replies:
			switch got.number {
			case 7:
				return
			case 1: // a late one
			default:
				t.Fatalf("believed number %#x", got.number)
			}
		case <-deadline:
			t.Fatal("the good reply is not believed")
		}
	}
}

// raw opens another ICMPv6 socket on one of the hosts.
func (r *pingRig) raw(t *testing.T, k *kernel.Kernel, a netip.Addr) (c *net.IPConn) {
	t.Helper()
	if err := k.Do(func() (err error) {
		c, err = net.ListenIP("ip6:58", &net.IPAddr{IP: a.AsSlice()})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// packet is the reply to a ping that may never have been sent.
func (r *pingRig) packet(peer netip.Addr, number uint64) []byte {
	b := make([]byte, pingSize)
	b[0] = pingReply
	binary.BigEndian.PutUint16(b[4:], r.p.id)
	binary.BigEndian.PutUint64(b[pingHeader:], number)
	copy(b[pingHeader+8:], r.p.tag(peer, number))
	return b
}

// TestPingOtherLink: a reply that did not come by the link is not seen, since
// any neighbour on another link can claim an overlay address.
func TestPingOtherLink(t *testing.T) {
	r := newPingRig(t)
	r.want(t, 1)
	detour := kernel.Route{Dst: netip.PrefixFrom(pingA, 128), Via: netip.MustParseAddr("fd00::a"), Link: "eth2"}
	err := errors.Join(
		r.a.AddVeth("other", 1500, r.b, "eth2", kernel.MAC{}), askAgainSoon(r.a, "other"), askAgainSoon(r.b, "eth2"), r.a.SetUp("other", true), r.b.SetUp("eth2", true),
		r.a.AddAddr("other", netip.MustParsePrefix("fd00::a/64"), true), r.b.AddAddr("eth2", netip.MustParsePrefix("fd00::b/64"), true),
		r.b.ReplaceRoute(detour),
	)
	if err != nil {
		t.Fatal(err)
	}
	// The forger may use the other wire only, also before that one is up.
	forger, witness := r.raw(t, r.b, pingB), r.raw(t, r.a, pingA)
	c, err := forger.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "eth2") }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	// Whoever listens on all links sees it.
	b := make([]byte, 1500)
	for deadline := time.Now().Add(10 * time.Second); b[0] != pingReply || binary.BigEndian.Uint64(b[pingHeader:]) != badNumber; {
		if time.Now().After(deadline) {
			t.Fatal("the forged reply does not arrive")
		}
		if _, err := forger.WriteTo(r.packet(pingB, badNumber), &net.IPAddr{IP: pingA.AsSlice()}); err != nil {
			t.Log(err)
		}
		if err := witness.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := witness.ReadFrom(b); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if err := r.b.DelRoute(detour); err != nil {
		t.Fatal(err)
	}
	r.want(t, 8)
}

func TestPingClose(t *testing.T) {
	r := newPingRig(t)
	for range 2 {
		if err := r.p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	err := <-r.done // Run ends; once more for the clean-up
	r.done <- err
	if err := r.send(pingB, 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
}

// TestPingCloseWithoutSocket: Run ends also while the link is gone.
func TestPingCloseWithoutSocket(t *testing.T) {
	r := newPingRig(t)
	if err := r.a.DelLink("tun"); err != nil {
		t.Fatal(err)
	}
	if err := r.send(pingB, 1); err == nil {
		t.Fatal("sent without a link")
	}
	if err := r.p.Close(); err != nil {
		t.Fatal(err)
	}
	err := <-r.done
	r.done <- err
}

func TestOpenPingerErrors(t *testing.T) {
	for _, self := range []string{"", "192.0.2.1", "::ffff:192.0.2.1", "::", "ff02::1"} {
		a, _ := netip.ParseAddr(self)
		if p, err := OpenPinger(a, "", nil); err == nil {
			p.Close()
			t.Errorf("opened at %q", self)
		}
	}
}

// FuzzPingReply: a reply is believed if its tag is ours, and nothing panics.
func FuzzPingReply(f *testing.F) {
	r := pingRig{p: &Pinger{id: 7}}
	f.Add(r.packet(pingB, 9), uint64(9))
	f.Add([]byte{pingReply}, uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, number uint64) {
		if got, ok := r.p.parse(pingB, b); ok && string(b[pingHeader:pingTagEnd]) != string(r.packet(pingB, got)[pingHeader:pingTagEnd]) {
			t.Fatalf("believed %x", b)
		}
		good := r.packet(pingB, number)
		if got, ok := r.p.parse(pingB, good); !ok || got != number {
			t.Fatalf("read %d, %v from %x", got, ok, good)
		}
		if len(b) > 0 && len(b) <= pingTagEnd-pingHeader {
			changed := r.packet(pingB, number)
			copy(changed[pingTagEnd-len(b):], b)
			if got, ok := r.p.parse(pingB, changed); ok && got == number && string(changed) != string(good) {
				t.Fatalf("believed a changed tag %x", changed)
			}
		}
	})
}
