package tap

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
	"github.com/weftnet/weft/router/tap/offload"
)

// fakePort is a port without a kernel: the test holds the other ends.
type fakePort struct {
	*Port
	kernel *kerneltest.Fake
	dev    *composite
	tun    *fakeTUN
	bridge int // where the bridge would be: frames with offload headers
}

func newFakePort(t testing.TB, c fdb.Config) *fakePort {
	f := &fakePort{kernel: kerneltest.New("host"), bridge: -1}
	ok(t, f.kernel.AddBridge(c.Bridge, kernel.MAC{0x02, 0xbb}, c.MTU))
	f.Port = New(Options{Kernel: f.kernel})
	f.works = func() abilities { return abilities{tcp: true, udp: true} }
	f.open = func(_ Kernel, name string) (*file, error) {
		if _, err := f.kernel.Link(name); err != nil {
			if err := f.kernel.AddTUN(name, 1500); err != nil {
				return nil, err
			}
		}
		a, b := socketpair(t)
		f.bridge = b
		t.Cleanup(func() { _ = unix.Close(b) })
		return &file{fd: a, fake: true}, nil
	}
	f.tun = newFakeTUN(t)
	f.dev = f.Wrap(f.tun).(*composite)
	ok(t, f.Set(c))
	t.Cleanup(func() {
		_ = f.dev.Close()
		_ = f.Close()
	})
	// Queries would come between what the tests send.
	f.stop()
	f.stop = func() {}
	for f.fromPort(t, 0) != nil { // those of the start
	}
	return f
}

// toPort sends a frame to the port as the bridge would.
func (f *fakePort) toPort(t testing.TB, h offload.Header, frame []byte) {
	t.Helper()
	b := make([]byte, offload.HeaderLen)
	h.Put(b)
	_, err := unix.Write(f.bridge, append(b, frame...))
	ok(t, err)
}

// fromPort is a frame that the port gave to the bridge; nil when none came in
// so many milliseconds.
func (f *fakePort) fromPort(t testing.TB, wait int) []byte {
	t.Helper()
	if !readable(t, f.bridge, time.Duration(wait)*time.Millisecond) {
		return nil
	}
	b := make([]byte, largest)
	n, err := unix.Read(f.bridge, b)
	ok(t, err)
	return b[:n]
}

// readable waits until there is something to read.
func readable(t testing.TB, fd int, wait time.Duration) bool {
	t.Helper()
	for end := time.Now().Add(wait); ; {
		left := max(time.Until(end), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int((left+time.Millisecond-1)/time.Millisecond))
		if !errors.Is(err, unix.EINTR) {
			ok(t, err)
			return n > 0
		}
	}
}

// read is one call of Read, which must not wait for long.
func (f *fakePort) read(t testing.TB) (packets [][]byte) {
	t.Helper()
	bufs, sizes := make([][]byte, f.dev.BatchSize()), make([]int, f.dev.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	done := make(chan error, 1)
	go func() {
		n, err := f.dev.Read(bufs, sizes, offsetWG)
		for i := range n {
			packets = append(packets, bufs[i][offsetWG:offsetWG+sizes[i]])
		}
		done <- err
	}()
	select {
	case err := <-done:
		ok(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("nothing to read")
	}
	return packets
}

func (f *fakePort) write(t testing.TB, packets ...[]byte) {
	t.Helper()
	var bufs [][]byte
	for _, p := range packets {
		bufs = append(bufs, append(make([]byte, offsetWG), p...))
	}
	n, err := f.dev.Write(bufs, offsetWG)
	ok(t, err)
	if n != len(packets) {
		t.Errorf("%d of %d packets written", n, len(packets))
	}
}

// packetOf is what host from sends to host to for a frame.
func packetOf(from, to byte, frame []byte) []byte {
	h := outerHeader(config(from), overlay(to))
	r := remote{head: h}
	b := make([]byte, outerLen+len(frame))
	copy(b[outerLen:], frame)
	r.wrap(b, len(frame), 700, 0)
	return b
}

var (
	macHere  = [6]byte{0x02, 0xcc, 0, 0, 0, 1}
	macThere = [6]byte{0x02, 0xcc, 0, 0, 0, 2}
	macAll   = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// frameOf is a frame that is no IP.
func frameOf(dst, src [6]byte, n int) []byte {
	b := append(append(append([]byte(nil), dst[:]...), src[:]...), 0x88, 0xb5)
	return append(b, bytes.Repeat([]byte{7}, n)...)
}
