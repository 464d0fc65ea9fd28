package offload

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// Offloads that a TAP is told to have.
const (
	withTSO = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	withUSO = unix.TUN_F_USO4 | unix.TUN_F_USO6
)

// openTAP makes a TAP device that is a port of bridge.
func openTAP(t *testing.T, k *kernel.Kernel, name, bridge string, offloads int) (fd int) {
	t.Helper()
	ok(t, k.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}))
	t.Cleanup(func() { _ = unix.Close(fd) })
	ok(t, unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, HeaderLen))
	ok(t, unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads))
	ok(t, k.SetMTU(name, 9000))
	ok(t, k.SetMaster(name, bridge))
	up(t, k, name)
	return fd
}

// addBridge makes a bridge that does not look into frames.
func addBridge(t *testing.T, k *kernel.Kernel, name string, mtu int) {
	t.Helper()
	ok(t, k.AddBridge(name, kernel.MAC{2, 0, 0, 0, 0, 99}, mtu))
	up(t, k, name)
	for _, tables := range []string{"iptables", "ip6tables"} {
		if err := k.SetSysctl("net/bridge/bridge-nf-call-"+tables, "0"); !errors.Is(err, fs.ErrNotExist) {
			ok(t, err)
		}
	}
}

// up sets an interface up that says nothing by itself.
func up(t *testing.T, k *kernel.Kernel, name string) {
	t.Helper()
	ok(t, k.SetSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1"))
	ok(t, k.SetUp(name, true))
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wire is two TAPs on a bridge: the kernel cuts what goes in at one and cannot
// come out of the other as it is.
type wire struct {
	in, out int
	buffer  []byte
	marks   uint32
}

func newWire(t *testing.T) *wire {
	k := kerneltest.Fresh(t)
	addBridge(t, k, "br", 9000)
	return &wire{in: openTAP(t, k, "in", "br", 0), out: openTAP(t, k, "out", "br", 0), buffer: make([]byte, 70000)}
}

func (w *wire) write(h Header, parts ...[]byte) error {
	var b [HeaderLen]byte
	h.Put(b[:])
	_, err := unix.Writev(w.in, append([][]byte{b[:]}, parts...))
	return err
}

// read returns what came out of what was written.
func (w *wire) read(t *testing.T) (list [][]byte) {
	t.Helper()
	w.marks++
	mark := binary.BigEndian.AppendUint32([]byte{6, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 98, 0x88, 0xb5}, w.marks)
	ok(t, w.write(Header{}, mark))
	for {
		n, err := unix.Read(w.out, w.buffer)
		if err == unix.EAGAIN {
			if n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.out), Events: unix.POLLIN}}, 5000); n == 0 {
				t.Fatal("the frame was lost", err)
			}
			continue
		}
		ok(t, err)
		f := bytes.Clone(w.buffer[HeaderLen:n])
		if bytes.Equal(f, mark) {
			return list
		}
		if w.buffer[1] != GSONone || w.buffer[0]&NeedsChecksum != 0 {
			t.Fatalf("not a plain frame: % x", w.buffer[:HeaderLen])
		}
		list = append(list, f)
	}
}

// bridged makes a frame one that a bridge forwards whatever it has learnt.
func bridged(f []byte) []byte {
	f[0], f[6] = 6, 2
	return f
}

// Cut does what the kernel does.
func TestKernelCut(t *testing.T) {
	w := newWire(t)
	var c Cut
	counts := map[string]int{}
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 7))
		s := randomSpec(r, pick(r, 100, 3000, 60000))
		h, f := s.super(pick(r, 8+r.IntN(100), 100+r.IntN(1400), 1348, 8900))
		if len(f)/int(h.GSOSize) > 400 { // more than the queue of a TAP holds
			h.GSOSize += 500
		}
		if len(f) < 9000 && chance(r, 20) { // fits
			h.GSOType, h.GSOSize = GSONone, 0
		}
		bridged(f)
		_, at := s.frame()
		size, pieces := len(f)-at.head, 0
		if h.GSOSize > 0 {
			pieces = (size + int(h.GSOSize) - 1) / int(h.GSOSize)
		}
		if err := w.write(h, f); err != nil {
			if s.proto == 17 && pieces > 128 && errors.Is(err, unix.EINVAL) {
				counts["refused: too many datagrams"]++
				continue
			}
			t.Fatalf("seed %d, %+v: %v", seed, h, err)
		}
		theirs := w.read(t)
		ours, err := cutAll(t, &c, h, f)
		ok(t, err)
		if len(theirs) == 0 && pieces == 1 {
			counts["dropped: one segment"]++ // by some kernels
			continue
		}
		if len(theirs) != len(ours) {
			t.Fatalf("seed %d: %d segments, the kernel makes %d\n%+v\n%s", seed, len(ours), len(theirs), h, hex.Dump(f[:min(200, len(f))]))
		}
		for i := range ours {
			if !bytes.Equal(meaning(ours[i], at), meaning(theirs[i], at)) {
				t.Fatalf("seed %d: segment %d of %d (-kernel +ours)\n%s", seed, i, len(ours), cmp.Diff(hex.Dump(theirs[i]), hex.Dump(ours[i])))
			}
		}
		counts[fmt.Sprintf("same, type %d", h.GSOType)]++
	}
	t.Log(counts)
}

// What Join makes is taken by the kernel, and cut into the same frames.
func TestKernelJoin(t *testing.T) {
	w := newWire(t)
	j := New(true)
	frames, outputs := 0, 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 8))
		k := randomConnection(r)
		var sent, got [][]byte
		for range 5 {
			h, f := k.send(r, min(20000, 30*k.mss))
			list, err := slowCut(h, bridged(f))
			ok(t, err)
			for _, s := range list {
				if chance(r, 3) {
					for _, m := range mangle(r, s) {
						if len(m) >= 60 {
							sent = append(sent, bridged(m))
						}
					}
					continue
				}
				sent = append(sent, s)
			}
		}
		for _, o := range joinAll(j, sent) {
			ok(t, w.write(o.h, o.bytes))
			got = append(got, w.read(t)...)
			outputs++
		}
		frames += len(sent)
		if len(got) != len(sent) {
			t.Fatalf("seed %d: %d frames, sent were %d", seed, len(got), len(sent))
		}
		if a, b := byFlow(sent), byFlow(got); !maps.EqualFunc(a, b, bytes.Equal) {
			t.Fatalf("seed %d: other frames (-sent +got)\n%s", seed, cmp.Diff(a, b))
		}
	}
	t.Logf("%d frames in %d pieces", frames, outputs)
}
