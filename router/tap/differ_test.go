package tap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
	"github.com/weftnet/weft/router/tap/offload"
	"github.com/weftnet/weft/router/vxlan"
)

// wire is a packet socket on the interface of a container, with offload
// headers: what is sent through it is what the container's kernel would send.
type wire struct {
	fd   int
	vnet bool
}

func newWire(t testing.TB, c *container, vnet bool) *wire {
	t.Helper()
	w := &wire{fd: -1, vnet: vnet}
	l, err := c.Link("eth0")
	ok(t, err)
	ok(t, c.Do(func() (err error) {
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	}))
	t.Cleanup(func() { _ = unix.Close(w.fd) })
	if vnet {
		ok(t, unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	} else {
		ok(t, unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
		ok(t, unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	}
	all := uint16(unix.ETH_P_ALL)
	ok(t, unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: l.Index}))
	return w
}

func (w *wire) send(h offload.Header, frame []byte) error {
	b := make([]byte, offload.HeaderLen, offload.HeaderLen+len(frame))
	h.Put(b)
	for {
		_, err := unix.Write(w.fd, append(b, frame...))
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLOUT}}, 100)
	}
}

// collect takes n frames of the test, or as many as come. No frame comes after
// a pause as long as idle.
func (w *wire) collect(n int, idle time.Duration) (list [][]byte) {
	buf := make([]byte, largest)
	for {
		m, err := unix.Read(w.fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			wait := idle
			if len(list) >= n {
				wait = 30 * time.Millisecond // is it one too many?
			}
			if k, _ := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int(wait/time.Millisecond)); k == 0 {
				return list
			}
			continue
		}
		if err != nil {
			return list
		}
		if m > ethernetLen && buf[6] == 0x06 && buf[7] == 0xdd {
			list = append(list, bytes.Clone(buf[:m]))
		}
	}
}

// noOffloads makes the kernel finish and cut what leaves through a link.
func noOffloads(t testing.TB, k *kernel.Kernel, link string) {
	t.Helper()
	ok(t, k.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		const setSG, setTX, setTSO, setGSO = 0x19, 0x17, 0x1f, 0x24
		for _, cmd := range []uint32{setTSO, setGSO, setTX, setSG} {
			value := [2]uint32{cmd, 0}
			var req struct {
				name [16]byte
				data unsafe.Pointer
				_    [16]byte
			}
			copy(req.name[:], link)
			req.data = unsafe.Pointer(&value)
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 && errno != unix.EOPNOTSUPP {
				return fmt.Errorf("ethtool %#x: %w", cmd, errno)
			}
		}
		return nil
	}))
}

// kernelCouple is couple with the kernel's VXLAN, and no encryption.
func kernelCouple(t testing.TB) (b *kernel.Kernel, x, y *container) {
	hosts := [2]*kernel.Kernel{kerneltest.Fresh(t), kerneltest.Fresh(t)}
	ok(t, hosts[0].AddVeth("under", testMTU+200, hosts[1], "under", kernel.MAC{}))
	var boxes [2]*container
	for i, h := range hosts {
		ok(t, h.SetUp("under", true))
		ok(t, h.AddAddr("under", netip.PrefixFrom(overlay(byte(i+1)), 64), true))
		ok(t, h.AddBridge("weft", kernel.MAC{0x02, 0xbb, 0, 0, 1, byte(i)}, testMTU))
		ok(t, h.SetSysctl("net/ipv6/conf/weft/disable_ipv6", "1"))
		ok(t, h.SetUp("weft", true))
		ok(t, vxlan.New(h, nil).Set(config(byte(i+1), byte(2-i))))
		boxes[i] = attachTo(t, h, "weft", byte(i+1), testMTU)
	}
	return hosts[1], boxes[0], boxes[1]
}

func hello() []byte { return frameOf(macAll, [6]byte{0x06, 0xdd}, 50) }

// until sends until it arrives: links and neighbours take a while.
func until(t testing.TB, w *wire, send func() error) {
	t.Helper()
	for n := 0; ; n++ {
		ok(t, send())
		if len(w.collect(1, 100*time.Millisecond)) > 0 {
			break
		}
		if n == 100 {
			t.Fatal("nothing passes at all")
		}
	}
	w.collect(0, 100*time.Millisecond)
}

// sample is a frame as a container's kernel gives it to its interface.
type sample struct {
	h     offload.Header
	frame []byte
	what  string
}

// TestDiffer sends frames of all kinds through two of our ports and through
// the kernel's VXLAN, and compares what arrives.
func TestDiffer(t *testing.T) {
	kerneltest.NeedRoot(t)
	for _, mode := range []Mode{Auto, Off} {
		t.Run(mode.String(), func(t *testing.T) {
			_, ourHost, x, y := couple(t, Options{Offload: mode})
			theirHost, u, v := kernelCouple(t)
			noOffloads(t, ourHost.Kernel, "wvc")
			noOffloads(t, theirHost, "wvc")
			ours, theirs := newWire(t, x, true), newWire(t, u, true)
			ourEnd, theirEnd := newWire(t, y, false), newWire(t, v, false)
			until(t, ourEnd, func() error { return ours.send(offload.Header{}, hello()) })
			until(t, theirEnd, func() error { return theirs.send(offload.Header{}, hello()) })
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 1))
			rounds, total := 30, 0
			if testing.Short() {
				rounds = 10
			}
			for round := range rounds {
				batch := samples(r, 30)
				var sent []sample
				for _, s := range batch {
					err := ours.send(s.h, s.frame)
					if terr := theirs.send(s.h, s.frame); (err == nil) != (terr == nil) {
						t.Fatalf("%s: one kernel took it: %v, %v", s.what, err, terr)
					}
					if err == nil {
						sent = append(sent, s)
					}
				}
				mark := append(hello(), byte(round))
				ok(t, ours.send(offload.Header{}, mark))
				ok(t, theirs.send(offload.Header{}, mark))
				got, want := arrived(ourEnd, theirEnd, sent, mark)
				total += len(want)
				compare(t, sent, got, want)
				if t.Failed() {
					t.Logf("%+v", ourHost.port.Stats())
					return
				}
			}
			s := ourHost.port.Stats()
			t.Logf("%d frames compared; %+v", total, s)
			if mode == Auto && s.SuperWritten == 0 {
				t.Error("no super-frame was written")
			}
		})
	}
}

// arrived collects what comes out of our tunnel and of the kernel's, until the
// mark has come out of both and the rest is alike: no frame waits for another.
// What is not alike for long stays so.
func arrived(ours, theirs *wire, sent []sample, mark []byte) (got, want [][]byte) {
	var marks [2]bool
	for end := time.Now().Add(20 * time.Second); ; {
		for i, list := range [][][]byte{ours.collect(0, 0), theirs.collect(0, 0)} {
			for _, f := range list {
				unnumber(f)
				switch {
				case bytes.Equal(f, mark):
					marks[i] = true
				case i == 0:
					got = append(got, f)
				default:
					want = append(want, f)
				}
			}
		}
		if marks[0] && marks[1] && alike(sent, got, want) || time.Now().After(end) {
			return got, want
		}
	}
}

// bySender keeps the order.
func bySender(list [][]byte) map[[6]byte][][]byte {
	m := make(map[[6]byte][][]byte)
	for _, f := range list {
		k := [6]byte(f[6:12])
		m[k] = append(m[k], f)
	}
	return m
}

func sorted(list [][]byte) [][]byte {
	list = slices.Clone(list)
	slices.SortFunc(list, bytes.Compare)
	return list
}

// alike is whether as much arrived of each sender, in whatever order.
func alike(sent []sample, got, want [][]byte) bool {
	g, w := bySender(got), bySender(want)
	for _, s := range sent {
		k := [6]byte(s.frame[6:12])
		if !slices.EqualFunc(sorted(g[k]), sorted(w[k]), bytes.Equal) {
			return false
		}
	}
	return true
}

// compare is about what arrives, and its order within each sender.
func compare(t *testing.T, sent []sample, got, want [][]byte) {
	t.Helper()
	g, w := bySender(got), bySender(want)
	for _, s := range sent {
		k := [6]byte(s.frame[6:12])
		a, b := g[k], w[k]
		delete(g, k)
		delete(w, k)
		if slices.EqualFunc(a, b, bytes.Equal) {
			continue
		}
		if slices.EqualFunc(sorted(a), sorted(b), bytes.Equal) {
			t.Logf("%s: another order", s.what) // the kernel's queues are per processor
			continue
		}
		t.Errorf("%s, %d bytes, header %+v: %d frames came, kernel VXLAN gives %d", s.what, len(s.frame), s.h, len(a), len(b))
		for i := range max(len(a), len(b)) {
			if i < len(a) && i < len(b) && bytes.Equal(a[i], b[i]) {
				continue
			}
			if i < len(a) {
				t.Logf("ours   %d: %d bytes %x", i, len(a[i]), a[i][:min(90, len(a[i]))])
			}
			if i < len(b) {
				t.Logf("kernel %d: %d bytes %x", i, len(b[i]), b[i][:min(90, len(b[i]))])
			}
			break
		}
	}
}

// unnumber takes the identification out of IPv4 packets that may not be
// fragmented: it has no meaning there (RFC 6864), and joined frames are
// numbered anew.
func unnumber(frame []byte) {
	if kind, b := etherType(frame); kind == typeIPv4 && len(b) >= 20 && be.Uint16(b[6:])&0x7fff == 0x4000 {
		valid := checksum(0, b[:min(int(b[0]&15)*4, len(b))&^1])
		b[4], b[5] = 0, 0
		be.PutUint16(b[10:], valid)
	}
}

var _ tun.Device = (*composite)(nil)

var be = binary.BigEndian
