package tap

import (
	"bytes"
	"runtime/debug"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/tap/offload"
)

// FuzzUnwrap: whatever comes out of a tunnel, nothing is read beyond it, and
// what is accepted is what kernel VXLAN would take, byte for byte.
func FuzzUnwrap(f *testing.F) {
	q := newPlane(config(1, 2))
	f.Add(packetOf(2, 1, frameOf(macHere, macThere, 100)))
	f.Add(packetOf(2, 1, nil))
	f.Add([]byte{0x60})
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, why := q.unwrap(slices.Clip(b))
		if (why == fine) != (frame != nil) {
			t.Fatalf("frame %x, reason %d", frame, why)
		}
		if why != fine {
			return
		}
		if &frame[0] != &b[outerLen] || len(frame) != len(b)-outerLen || len(frame) < ethernetLen {
			t.Fatalf("frame of %d bytes from %d", len(frame), len(b))
		}
		if b[6] != protoUDP || be.Uint16(b[42:]) != 6785 || be.Uint16(b[40:])&^511 != 512 || b[48]&8 == 0 ||
			be.Uint32(b[52:])>>8 != 0x123456 || [16]byte(b[24:]) != overlay(1).As16() {
			t.Fatalf("accepted %x", b[:outerLen])
		}
	})
}

// FuzzWrite gives any two packets to Write: frames reach the bridge, packets
// the TUN device, and nothing panics.
func FuzzWrite(f *testing.F) {
	h, frame := trial(offload.GSOTCPv4)
	list, err := segments(h, frame)
	ok(f, err)
	f.Add(list[0], list[1], true)
	f.Add(frameOf(macHere, macThere, 10), []byte{}, true)
	f.Add([]byte{0x45, 0}, []byte{0x60, 0}, false)
	p := newFakePort(f, config(1, 2))
	go drain(p.bridge)
	go drain(int(p.tun.kernel.Fd()))
	f.Fuzz(func(t *testing.T, a, b []byte, wrapped bool) {
		if len(a) > 2000 || len(b) > 2000 {
			return
		}
		if wrapped {
			a, b = packetOf(2, 1, a), packetOf(2, 1, b)
		}
		p.write(t, a, b)
	})
}

// drain takes what comes until the other end is closed.
func drain(fd int) {
	b := make([]byte, largest)
	for {
		n, err := unix.Read(fd, b)
		if err == nil && n == 0 || err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return
		}
		if err != nil {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		}
	}
}

// FuzzRead has any frame come from the bridge.
func FuzzRead(f *testing.F) {
	for _, kind := range []uint8{offload.GSOTCPv4, offload.GSOTCPv6, offload.GSOUDP} {
		h, frame := trial(kind)
		b := make([]byte, offload.HeaderLen)
		h.Put(b)
		f.Add(append(b, frame...))
	}
	f.Add(append(make([]byte, offload.HeaderLen), frameOf(macAll, macHere, 0)...))
	c := config(1, 2, 3)
	c.Remotes[0].Whole = 700
	p := New(Options{})
	p.table.Set(c.Remotes, nil)
	p.plane.Store(newPlane(c))
	var o outbound
	o.init(p)
	buf := make([]byte, 1<<16)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) == 0 || len(raw) > largest {
			return
		}
		o.have = copy(o.raw, raw)
		o.begin()
		for o.busy() {
			if n := o.next(buf[offsetWG:]); n > 0 && (n < outerLen+ethernetLen || n > 1<<16-offsetWG) {
				t.Fatalf("packet of %d bytes", n)
			}
		}
	})
}

// rounds are what benchmarks repeat: a super-frame of 64 kB from the bridge to
// packets, the way back, and a frame of 64 bytes each way. They return how many
// bytes they moved.
var rounds = map[string]func(testing.TB) func() int{"read": readBulk, "write": writeBulk, "small": bothSmall}

func readBulk(t testing.TB) func() int {
	p := newFakePort(t, config(1, 2))
	h, frame := bulk()
	raw := make([]byte, offload.HeaderLen)
	h.Put(raw)
	raw = append(raw, frame...)
	bufs, sizes := room(batch)
	return func() int {
		_, err := unix.Write(p.bridge, raw)
		ok(t, err)
		if n, err := p.dev.Read(bufs, sizes, offsetWG); err != nil || n < 40 {
			t.Fatal(n, err)
		}
		return len(frame)
	}
}

func writeBulk(t testing.TB) func() int {
	p := newFakePort(t, config(1, 2))
	h, frame := bulk()
	list, err := segments(h, frame)
	ok(t, err)
	var good, bufs [][]byte
	for _, s := range list {
		good = append(good, append(make([]byte, offsetWG), packetOf(2, 1, s)...))
		bufs = append(bufs, make([]byte, len(good[0])))
	}
	buf := make([]byte, largest)
	return func() int {
		for i, g := range good { // what was written is no more what it was
			bufs[i] = bufs[i][:len(g)]
			copy(bufs[i], g)
		}
		_, err := p.dev.Write(bufs, offsetWG)
		ok(t, err)
		if n, err := unix.Read(p.bridge, buf); err != nil || n != len(frame)+offload.HeaderLen {
			t.Fatal(n, err)
		}
		return len(frame)
	}
}

func bothSmall(t testing.TB) func() int {
	p := newFakePort(t, config(1, 2))
	raw := append(make([]byte, offload.HeaderLen), frameOf(macThere, macHere, 50)...)
	bufs, sizes := room(batch)
	back := [][]byte{append(make([]byte, offsetWG), packetOf(2, 1, frameOf(macHere, macThere, 50))...)}
	buf := make([]byte, largest)
	return func() int {
		_, err := unix.Write(p.bridge, raw)
		ok(t, err)
		if n, err := p.dev.Read(bufs, sizes, offsetWG); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		_, err = p.dev.Write(back, offsetWG)
		ok(t, err)
		_, err = unix.Read(p.bridge, buf)
		ok(t, err)
		return 128
	}
}

// room is what wireguard-go gives to Read.
func room(n int) (bufs [][]byte, sizes []int) {
	for range n {
		bufs = append(bufs, make([]byte, 1<<16))
	}
	return bufs, make([]int, n)
}

// bulk is a super-frame as a stream over the switch has it.
func bulk() (offload.Header, []byte) {
	h, frame := trial(offload.GSOTCPv4)
	copy(frame, macThere[:])
	frame = append(frame[:54], bytes.Repeat([]byte{3, 1, 4, 1}, 15500)...)
	be.PutUint16(frame[16:], uint16(len(frame)-14))
	be.PutUint16(frame[24:], 0)
	be.PutUint16(frame[24:], ^checksum(0, frame[14:34]))
	be.PutUint16(frame[50:], checksum(6+uint32(len(frame)-34), frame[26:34]))
	h.GSOSize = 1318
	return h, frame
}

// BenchmarkPort includes what the kernel takes for the system calls, and those
// of the test: each frame crosses a socket.
func BenchmarkPort(b *testing.B) {
	for name, begin := range rounds {
		b.Run(name, func(b *testing.B) {
			f := begin(b)
			b.ReportAllocs()
			for b.Loop() {
				b.SetBytes(int64(f()))
			}
		})
	}
}

// TestNoAllocations: none for a packet, once everything was used.
func TestNoAllocations(t *testing.T) {
	if info, _ := debug.ReadBuildInfo(); slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector empties pools at random")
	}
	for name, begin := range rounds {
		f := begin(t)
		if n := testing.AllocsPerRun(1000, func() { f() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
