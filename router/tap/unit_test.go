package tap

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/tap/offload"
)

func TestFrameOut(t *testing.T) {
	f := newFakePort(t, config(1, 2, 3))
	frame := frameOf(macAll, macHere, 50)
	f.toPort(t, offload.Header{}, frame)
	got := f.read(t)
	if len(got) != 2 {
		t.Fatalf("broadcast to two remotes: %d packets", len(got))
	}
	for i, p := range got {
		to := netip.AddrFrom16([16]byte(p[24:]))
		if want := overlay(byte(i + 2)); to != want {
			t.Errorf("packet %d goes to %s, want %s", i, to, want)
		}
		source := be.Uint16(p[40:])
		if source < 512 || source > 1023 {
			t.Errorf("source port %d", source)
		}
		want := packetOf(1, byte(i+2), frame)
		be.PutUint16(want[40:], source)
		if !bytes.Equal(p, want) {
			t.Errorf("packet\n%x, want\n%x", p, want)
		}
	}
	// What a remote is known for goes there only.
	f.write(t, packetOf(3, 1, frameOf(macHere, macThere, 10)))
	if b := f.fromPort(t, 10_000); !bytes.Equal(b[offload.HeaderLen:], frameOf(macHere, macThere, 10)) {
		t.Errorf("came in: %x", b)
	}
	f.toPort(t, offload.Header{}, frameOf(macThere, macHere, 50))
	if got := f.read(t); len(got) != 1 || netip.AddrFrom16([16]byte(got[0][24:])) != overlay(3) {
		t.Errorf("to a learnt address: %d packets", len(got))
	}
	if s := f.Stats(); s.SentFrames != 3 || s.Flooded != 1 || s.ReceivedFrames != 1 || s.Learnt != 1 {
		t.Errorf("%+v", s)
	}
}

// Every kind of bad packet is dropped for its reason; none reaches the TUN
// device, where the host's own stack is.
func TestBadPackets(t *testing.T) {
	good := packetOf(2, 1, frameOf(macHere, macThere, 100))
	for reason, change := range map[string]func(b []byte) []byte{
		"source-port": func(b []byte) []byte { be.PutUint16(b[40:], 1024); return b },
		"length":      func(b []byte) []byte { return b[:len(b)-1] },
		"vni":         func(b []byte) []byte { b[53]++; return b },
		"short":       func([]byte) []byte { return packetOf(2, 1, make([]byte, 13)) },
		"long":        func([]byte) []byte { return packetOf(2, 1, frameOf(macHere, macThere, testMTU+5)) },
		"sender":      func([]byte) []byte { return packetOf(2, 1, frameOf(macHere, macAll, 100)) },
	} {
		t.Run(reason, func(t *testing.T) {
			f := newFakePort(t, config(1, 2))
			f.write(t, change(bytes.Clone(good)))
			if n := f.Stats().Dropped[reason]; n != 1 {
				t.Errorf("dropped %v", f.Stats().Dropped)
			}
			f.write(t, good)
			if b := f.fromPort(t, 10_000); b == nil {
				t.Error("the good one did not come")
			}
			if b := f.fromPort(t, 0); b != nil {
				t.Errorf("given to the bridge: %x", b)
			}
			_ = f.tun.kernel.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if n, err := f.tun.kernel.Read(make([]byte, 2000)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("given to the TUN device: %d bytes, %v", n, err)
			}
		})
	}
}

// What is not for the switch goes through the TUN device, both ways.
func TestPacketsOfTUN(t *testing.T) {
	f := newFakePort(t, config(1, 2))
	others := map[string][]byte{"IPv4": append([]byte{0x45}, make([]byte, 30)...), "short": {0x60, 0, 0}}
	for what, change := range map[string]func(b []byte){
		"not UDP":       func(b []byte) { b[6] = 58 },
		"other port":    func(b []byte) { b[43]++ },
		"other address": func(b []byte) { b[39]++ },
	} {
		b := packetOf(2, 1, frameOf(macHere, macThere, 100))
		change(b)
		others[what] = b
	}
	buf := make([]byte, 2000)
	for what, p := range others {
		f.write(t, p)
		n, err := f.tun.kernel.Read(buf)
		ok(t, err)
		if !bytes.Equal(buf[:n], p) {
			t.Errorf("%s: %x", what, buf[:n])
		}
		_, err = f.tun.kernel.Write(p)
		ok(t, err)
		if got := f.read(t); len(got) != 1 || !bytes.Equal(got[0], p) {
			t.Errorf("%s: read %x", what, got)
		}
	}
}

// While frames keep coming, the TUN device has its turn.
func TestTurns(t *testing.T) {
	f := newFakePort(t, config(1, 2))
	_, err := f.tun.kernel.Write([]byte{0x45, 1, 2, 3})
	ok(t, err)
	for i := range 2 * fair {
		f.toPort(t, offload.Header{}, frameOf(macAll, macHere, 50))
		if got := f.read(t); got[0][0] == 0x45 {
			t.Logf("after %d frames", i)
			return
		}
	}
	t.Error("never")
}

// Read waits for frames that come later, from a device that is made later, and
// ends when the device is closed.
func TestWaits(t *testing.T) {
	f := newFakePort(t, config(1, 2))
	bufs, sizes := [][]byte{make([]byte, 1<<16)}, make([]int, 1)
	type result struct {
		n   int
		err error
	}
	results := make(chan result)
	go func() {
		for {
			n, err := f.dev.Read(bufs, sizes, offsetWG)
			results <- result{n, err}
			if err != nil {
				return
			}
		}
	}()
	expect := func(what string) {
		t.Helper()
		select {
		case r := <-results:
			if r.n != 1 || r.err != nil {
				t.Fatalf("%s: %d, %v", what, r.n, r.err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not read", what)
		}
	}
	for range 100 {
		f.toPort(t, offload.Header{}, frameOf(macThere, macHere, 50))
		expect("a frame")
		_, err := f.tun.kernel.Write([]byte{0x45})
		ok(t, err)
		expect("a packet")
	}
	// Somebody deletes the device; another takes its place.
	ok(t, f.kernel.DelLink("weft-vx"))
	repaired, err := f.Check()
	ok(t, err)
	if len(repaired) != 1 || repaired[0] != "device weft-vx was gone" {
		t.Errorf("repaired %q", repaired)
	}
	f.toPort(t, offload.Header{}, frameOf(macThere, macHere, 50))
	expect("a frame of the new device")
	ok(t, f.dev.Close())
	if r := <-results; !errors.Is(r.err, os.ErrClosed) {
		t.Errorf("after close: %v", r.err)
	}
	// The port goes on without: the next device is wrapped as the first was.
	tun := newFakeTUN(t)
	f.tun, f.dev = tun, f.Wrap(tun).(*composite)
	f.toPort(t, offload.Header{}, frameOf(macThere, macHere, 50))
	if got := f.read(t); len(got) != 1 {
		t.Errorf("read %d packets", len(got))
	}
}

// A super-frame of more segments than a batch is finished by the next Read.
func TestLongSuperFrame(t *testing.T) {
	f := newFakePort(t, config(1, 2))
	h, frame := trial(offload.GSOTCPv4)
	h.GSOSize = 20
	want, err := segments(h, frame)
	ok(t, err)
	f.toPort(t, h, frame)
	f.toPort(t, offload.Header{}, frameOf(macThere, macHere, 50))
	var got [][]byte
	first := len(f.read(t))
	f.toPort(t, h, frame)
	for len(got) < len(want)-first+1+len(want) {
		got = append(got, f.read(t)...)
	}
	if first != batch {
		t.Errorf("%d packets at first", first)
	}
	for i, w := range append(append(want[first:len(want):len(want)], frameOf(macThere, macHere, 50)), want...) {
		if i >= len(got) || !bytes.Equal(got[i][outerLen:], w) {
			t.Fatalf("packet %d is another", i)
		}
	}
}

// Frames of a stream are one super-frame for the bridge.
func TestJoined(t *testing.T) {
	f := newFakePort(t, config(1, 2))
	for _, kind := range []uint8{offload.GSOTCPv4, offload.GSOTCPv6, offload.GSOUDP} {
		h, frame := trial(kind)
		list, err := segments(h, frame)
		ok(t, err)
		var packets [][]byte
		for _, s := range list {
			packets = append(packets, packetOf(2, 1, s))
		}
		f.write(t, packets...)
		b := f.fromPort(t, 10_000)
		var g offload.Header
		ok(t, g.Parse(b))
		if g.GSOType != kind || g.GSOSize != trySize || !bytes.Equal(b[offload.HeaderLen:], frame) {
			t.Errorf("kind %d: header %+v, %d bytes of %d", kind, g, len(b), len(frame))
		}
	}
	f.joins.Store(false)
	h, frame := trial(offload.GSOTCPv4)
	list, _ := segments(h, frame)
	for _, s := range list {
		f.write(t, packetOf(2, 1, s))
		if b := f.fromPort(t, 10_000); !bytes.Equal(b[offload.HeaderLen:], s) {
			t.Error("without offloads: a frame is another")
		}
	}
}

// Questions about known attachments do not leave the host.
func TestAnswers(t *testing.T) {
	c := config(1, 2)
	there := netip.MustParseAddr("10.9.0.2")
	c.Known = []fdb.Known{{MAC: macThere, At: overlay(2), Addrs: []netip.Addr{there}}}
	f := newFakePort(t, c)
	ask := append(append(append([]byte(nil), macAll[:]...), macHere[:]...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	ask = append(append(ask, macHere[:]...), 10, 9, 0, 1, 0, 0, 0, 0, 0, 0)
	ask = append(ask, there.AsSlice()...)
	f.toPort(t, offload.Header{}, ask)
	f.toPort(t, offload.Header{}, frameOf(macThere, macHere, 9))
	if got := f.read(t); len(got) != 1 || len(got[0]) != outerLen+ethernetLen+9 {
		t.Errorf("%d packets left, the first of %d bytes", len(got), len(got[0]))
	}
	b := f.fromPort(t, 10_000)
	if len(b) < offload.HeaderLen+42 || !bytes.Equal(b[offload.HeaderLen:][:12], append(macHere[:], macThere[:]...)) {
		t.Errorf("answer %x", b)
	}
	if s := f.Stats(); s.Answered != 1 || s.SentFrames != 1 {
		t.Errorf("%+v", s)
	}
}

// Senders of what does not pass a narrow path are told, unless they cannot be;
// connections through it are opened with smaller segments, both ways.
func TestNarrow(t *testing.T) {
	c := config(1, 2)
	c.Remotes[0].Whole = 1000
	f := newFakePort(t, c)
	f.write(t, packetOf(2, 1, frameOf(macHere, macThere, 10)))
	_ = f.fromPort(t, 10_000)

	h, super := trial(offload.GSOTCPv4)
	copy(super, append(macThere[:], macHere[:]...))
	be.PutUint16(super[20:], 0x4000) // DF
	be.PutUint16(super[24:], 0)
	be.PutUint16(super[24:], ^checksum(0, super[14:34]))
	list, err := segments(h, super)
	ok(t, err)
	for what, x := range map[string]struct {
		h     offload.Header
		frame []byte
	}{"frame": {frame: list[0]}, "super-frame": {h, super}} {
		f.toPort(t, x.h, x.frame)
		f.toPort(t, offload.Header{}, frameOf(macThere, macHere, 9)) // so that Read ends
		if got := f.read(t); len(got) != 1 {
			t.Errorf("%s: %d packets", what, len(got))
		}
		b := f.fromPort(t, 10_000)
		if len(b) < 70 {
			t.Fatalf("%s: answer %x", what, b)
		}
		icmp := b[offload.HeaderLen+34:]
		if icmp[0] != 3 || icmp[1] != 4 || be.Uint16(icmp[6:]) != 1000 || !bytes.Equal(icmp[8+20:8+28], list[0][34:42]) {
			t.Errorf("%s: answer %x", what, icmp)
		}
	}
	// Without DF the frame goes, in fragments below the tunnel.
	whole := bytes.Clone(list[0])
	be.PutUint16(whole[20:], 0)
	be.PutUint16(whole[24:], 0)
	be.PutUint16(whole[24:], ^checksum(0, whole[14:34]))
	f.toPort(t, offload.Header{}, whole)
	if got := f.read(t); len(got) != 1 || !bytes.Equal(got[0][outerLen:], whole) {
		t.Error("a frame that nobody is told of did not go")
	}

	open := bytes.Clone(list[0][:54])
	open[46], open[47] = 6<<4, 2
	open = append(open, 2, 4, 5, 180)
	be.PutUint16(open[16:], uint16(len(open)-14))
	be.PutUint16(open[24:], 0)
	be.PutUint16(open[24:], ^checksum(0, open[14:34]))
	be.PutUint16(open[50:], 0)
	be.PutUint16(open[50:], ^checksum(6+24, open[26:]))
	f.toPort(t, offload.Header{}, open)
	got := f.read(t)[0][outerLen:]
	if mss := be.Uint16(got[56:]); mss != 960 || checksum(6+24, got[26:]) != 0xffff {
		t.Errorf("segments of %d bytes, checksum %#x", mss, checksum(6+24, got[26:]))
	}
	f.write(t, packetOf(2, 1, append(append([]byte(nil), append(macHere[:], macThere[:]...)...), open[12:]...)))
	back := f.fromPort(t, 10_000)[offload.HeaderLen:]
	if mss := be.Uint16(back[56:]); mss != 960 {
		t.Errorf("the other way: segments of %d bytes", mss)
	}
}

func TestLimiter(t *testing.T) {
	var l limiter
	for _, age := range []time.Duration{0, 0, 5 * time.Second, 5 * time.Second} {
		n := 0
		for l.allow(age) {
			n++
		}
		t.Logf("at %v: %d", age, n)
		if n > perSecond {
			t.Errorf("%d at once", n)
		}
	}
	n := 0
	for age := 10 * time.Second; age < 20*time.Second; age += time.Millisecond {
		if l.allow(age) {
			n++
		}
	}
	if n < 10*perSecond || n > 11*perSecond {
		t.Errorf("%d in ten seconds", n)
	}
}
