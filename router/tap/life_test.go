package tap

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
	"github.com/weftnet/weft/router/tap/offload"
	"github.com/weftnet/weft/router/vxlan"
)

func newBridge(t testing.TB) *kernel.Kernel {
	k := kerneltest.Fresh(t)
	ok(t, k.AddBridge("weft", kernel.MAC{0x02, 0, 0, 0, 0, 1}, testMTU))
	return k
}

// stands checks that the device is as Set makes it.
func stands(t testing.TB, k *kernel.Kernel) kernel.Link {
	t.Helper()
	l, err := k.Link("weft-vx")
	ok(t, err)
	b, err := k.Link("weft")
	ok(t, err)
	v, err := k.Sysctl("net/ipv6/conf/weft-vx/disable_ipv6")
	ok(t, err)
	if l.Kind != "tun" || l.MTU != testMTU || !l.Up || l.Master != b.Index || v != "1" {
		t.Fatalf("device %+v, disable_ipv6 %s", l, v)
	}
	return l
}

func TestSetAndRemove(t *testing.T) {
	k := newBridge(t)
	p := New(Options{Kernel: k})
	if repaired, err := p.Check(); repaired != nil || err != nil {
		t.Errorf("check before set: %q, %v", repaired, err)
	}
	ok(t, p.Remove())
	for _, bad := range []func(c *fdb.Config){
		func(c *fdb.Config) { c.Name = "" }, func(c *fdb.Config) { c.VNI = 1 << 24 }, func(c *fdb.Config) { c.MTU = 0 },
	} {
		c := config(1, 2)
		bad(&c)
		if p.Set(c) == nil {
			t.Errorf("accepted: %+v", c)
		}
	}
	ok(t, p.Set(config(1, 2)))
	before := stands(t, k)
	if repaired, err := p.Check(); len(repaired) != 0 || err != nil {
		t.Errorf("check after set: %q, %v", repaired, err)
	}
	// The device and its place on the bridge survive us; a successor adopts it.
	ok(t, p.Close())
	if after := stands(t, k); after.Index != before.Index {
		t.Error("another device after close")
	}
	p = New(Options{Kernel: k})
	ok(t, p.Set(config(1, 2, 3)))
	if after := stands(t, k); after.Index != before.Index {
		t.Error("made again instead of adopted")
	}
	// Another process cannot take what is in use.
	if err := New(Options{Kernel: k}).Set(config(1)); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second port on one device: %v", err)
	}
	ok(t, p.Remove())
	ok(t, p.Remove())
	if _, err := k.Link("weft-vx"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after remove: %v", err)
	}
	ok(t, p.Set(config(1, 2)))
	stands(t, k)
	// What somebody else made is not ours.
	ok(t, p.Remove())
	ok(t, k.AddBridge("weft-vx", kernel.MAC{0x02, 0, 0, 0, 0, 2}, 1500))
	ok(t, New(Options{Kernel: k}).Remove())
	if err := New(Options{Kernel: k}).Set(config(1)); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("a bridge of that name: %v", err)
	}
}

func TestRepairs(t *testing.T) {
	for what, damage := range map[string]func(k *kernel.Kernel) error{
		"mtu of weft-vx was 1300":     func(k *kernel.Kernel) error { return k.SetMTU("weft-vx", 1300) },
		"weft-vx was no port of weft": func(k *kernel.Kernel) error { return k.SetMaster("weft-vx", "") },
		"weft-vx was down":            func(k *kernel.Kernel) error { return k.SetUp("weft-vx", false) },
		"IPv6 was on at weft-vx":      func(k *kernel.Kernel) error { return k.SetSysctl("net/ipv6/conf/weft-vx/disable_ipv6", "0") },
		"device weft-vx was gone":     func(k *kernel.Kernel) error { return k.DelLink("weft-vx") },
		"device weft-vx was the kernel": func(k *kernel.Kernel) error {
			c := config(1, 2)
			c.Known = []fdb.Known{{MAC: macThere, At: overlay(2), Addrs: []netip.Addr{netip.MustParseAddr("10.9.0.2")}}}
			err := errors.Join(k.DelLink("weft-vx"), vxlan.New(k, nil).Set(c))
			if list, nerr := k.Neighbours("weft"); nerr != nil || len(list) != 1 {
				err = errors.Join(err, nerr, fmt.Errorf("neighbours of the kernel's port: %v", list))
			}
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			k := newBridge(t)
			p := New(Options{Kernel: k, Offload: Off})
			ok(t, p.Set(config(1, 2)))
			defer func() { ok(t, p.Close()) }()
			ok(t, damage(k))
			repaired, err := p.Check()
			ok(t, err)
			if len(repaired) != 1 || !strings.HasPrefix(repaired[0], what) {
				t.Errorf("repaired %q", repaired)
			}
			stands(t, k)
			if list, err := k.Neighbours("weft"); err != nil || len(list) != 0 {
				t.Errorf("neighbours %v, %v", list, err)
			}
			if repaired, err := p.Check(); len(repaired) != 0 || err != nil {
				t.Errorf("again: %q, %v", repaired, err)
			}
		})
	}
}

// A TUN device of that name cannot become a TAP device.
func TestReplacesTUN(t *testing.T) {
	k := newBridge(t)
	ok(t, k.Do(func() error {
		fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		r, err := unix.NewIfreq("weft-vx")
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return errors.Join(unix.IoctlIfreq(fd, unix.TUNSETIFF, r), unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
	}))
	p := New(Options{Kernel: k, Offload: Off})
	ok(t, p.Set(config(1, 2)))
	stands(t, k)
	ok(t, p.Remove())
}

// When the kernel does not take a super-frame, its segments are written; when
// it takes none, no more are made, which is said once.
func TestRefused(t *testing.T) {
	k := newBridge(t)
	ok(t, k.SetUp("weft", true))
	var log bytes.Buffer
	p := New(Options{Kernel: k, Log: slog.New(slog.NewTextHandler(&log, nil))})
	ok(t, p.Set(config(1, 2)))
	defer func() { ok(t, p.Remove()) }()
	x := attachTo(t, k, "weft", 1, testMTU)
	w := newWire(t, x, false)
	var plain writer
	until(t, w, func() error { return plain.plain(p.tap.Load(), hello()) })
	in := newInbound(p)
	in.file = p.tap.Load()
	h, frame := trial(offload.GSOTCPv4)
	copy(frame, append(macAll[:], 0x06, 0xdd))
	want, err := segments(h, frame)
	ok(t, err)
	h.HdrLen = 60000 // which the kernel does not take, and we never send
	for i := range maxRefused {
		if !p.joins.Load() {
			t.Errorf("no more super-frames after %d", i)
		}
		in.put(h, [][]byte{frame[:100], frame[100:]})
		got := w.collect(len(want), 10*time.Second)
		if len(got) != len(want) {
			t.Fatalf("%d frames of %d", len(got), len(want))
		}
		for j := range got {
			if !bytes.Equal(got[j], want[j]) {
				t.Fatalf("frame %d is another", j)
			}
		}
	}
	if p.joins.Load() || strings.Count(log.String(), "takes no super-frames") != 1 || p.Stats().WriteErrors != maxRefused {
		t.Errorf("still on: %v; %+v\n%s", p.joins.Load(), p.Stats(), &log)
	}
}

// Nothing is left when a port is closed, however often that is done.
func TestLeaksNothing(t *testing.T) {
	k := newBridge(t)
	round := func() {
		p := New(Options{Kernel: k, Offload: Off})
		d := p.Wrap(newFakeTUN(t))
		ok(t, p.Set(config(1, 2)))
		ok(t, d.Close())
		ok(t, p.Close())
	}
	round()
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		ok(t, err)
		return len(list)
	}
	files, goroutines := count(), runtime.NumGoroutine()
	for range 20 {
		round()
	}
	// The other end of the TUN device stays until the test ends. What else is
	// left is there for good, not for the moment that its end takes.
	for limit := time.After(10 * time.Second); ; {
		n := count() - 20
		if n <= files && runtime.NumGoroutine() <= goroutines {
			return
		}
		select {
		case <-limit:
			t.Fatalf("%d files became %d, %d goroutines %d", files, n, goroutines, runtime.NumGoroutine())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Gossip has its turn however many frames come from the bridge, also when each
// batch is full and the last frame is not done.
func TestTUNHasItsTurn(t *testing.T) {
	f := newFakePort(t, config(1, 2))
	_, err := f.tun.kernel.Write([]byte{0x45, 1, 2, 3})
	ok(t, err)
	const frames = 20 * batch
	sent := 0
	for reads := 1; reads <= 2*fair; reads++ {
		for sent < frames && sent < (reads+2)*batch {
			f.toPort(t, offload.Header{}, frameOf(macAll, macHere, 50))
			sent++
		}
		if got := f.read(t); len(got) == 1 && len(got[0]) == 4 {
			return
		}
	}
	t.Errorf("%d batches of frames, and none of the TUN device", 2*fair)
}

// A container that sends datagrams faster than they are encrypted fills no
// memory: a batch holds a few of them only.
func TestFewSinglesInABatch(t *testing.T) {
	f := newFakePort(t, config(1, 2))
	const frames = 3 * maxSingles
	for range frames {
		f.toPort(t, offload.Header{}, frameOf(macAll, macHere, 50))
	}
	for got := 0; got < frames; {
		n := len(f.read(t))
		if n > maxSingles {
			t.Fatalf("%d datagrams in one batch, at most %d", n, maxSingles)
		}
		got += n
	}
}
