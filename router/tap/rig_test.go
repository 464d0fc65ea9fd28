package tap

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// overlay is the address of the n-th host.
func overlay(n byte) netip.Addr {
	a := netip.MustParseAddr("fd77:6566:7400::").As16()
	a[15] = n
	return netip.AddrFrom16(a)
}

const testMTU = 1370

// config is that of host self, with these remotes.
func config(self byte, remotes ...byte) fdb.Config {
	c := fdb.Config{Name: "weft-vx", Bridge: "weft", VNI: 0x123456, Port: 6785, Local: overlay(self), MTU: testMTU}
	for _, n := range remotes {
		c.Remotes = append(c.Remotes, fdb.Remote{Overlay: overlay(n)})
	}
	return c
}

// pairs of connected sockets that keep packets apart, as devices do.
func socketpair(t testing.TB) (ours int, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	ok(t, err)
	for _, fd := range fds {
		ok(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20))
	}
	return fds[0], fds[1]
}

// fakeTUN is a TUN device of which the test holds the other end.
type fakeTUN struct {
	file   *os.File
	kernel *os.File // what the kernel would read and write
	events chan tun.Event
	once   sync.Once
}

func newFakeTUN(t testing.TB) *fakeTUN {
	a, b := socketpair(t)
	f := &fakeTUN{file: os.NewFile(uintptr(a), "tun"), kernel: os.NewFile(uintptr(b), "kernel"), events: make(chan tun.Event)}
	t.Cleanup(func() {
		_ = f.Close()
		_ = f.kernel.Close()
	})
	return f
}

func (f *fakeTUN) File() *os.File           { return f.file }
func (f *fakeTUN) MTU() (int, error)        { return 1444, nil }
func (f *fakeTUN) Name() (string, error)    { return "weft-wg", nil }
func (f *fakeTUN) Events() <-chan tun.Event { return f.events }
func (f *fakeTUN) BatchSize() int           { return 1 }

func (f *fakeTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := f.file.Read(bufs[0][offset:])
	if err != nil {
		return 0, err
	}
	sizes[0] = n
	return 1, nil
}

func (f *fakeTUN) Write(bufs [][]byte, offset int) (int, error) {
	for i, b := range bufs {
		if _, err := f.file.Write(b[offset:]); err != nil {
			return i, err
		}
	}
	return len(bufs), nil
}

func (f *fakeTUN) Close() (err error) {
	f.once.Do(func() {
		close(f.events)
		err = f.file.Close()
	})
	return err
}

// offsetWG is where wireguard-go wants packets in its buffers.
const offsetWG = 16

// pump is a WireGuard without cryptography: packets that one device gives are
// given to the one that they are addressed to.
func pump(t testing.TB, from tun.Device, to map[netip.Addr]tun.Device) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		bufs, sizes := make([][]byte, from.BatchSize()), make([]int, from.BatchSize())
		for i := range bufs {
			bufs[i] = make([]byte, 1<<16)
		}
		batches := make(map[netip.Addr][][]byte)
		for {
			n, err := from.Read(bufs, sizes, offsetWG)
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					t.Errorf("read: %v", err)
				}
				return
			}
			for i := range n {
				b := bufs[i][:offsetWG+sizes[i]]
				a := netip.AddrFrom16([16]byte(b[offsetWG+24:]))
				batches[a] = append(batches[a], b)
			}
			for a, list := range batches {
				if d := to[a]; d != nil && len(list) > 0 {
					if _, err := d.Write(list, offsetWG); err != nil {
						t.Errorf("write: %v", err)
					}
				}
				batches[a] = list[:0]
			}
		}
	}()
	t.Cleanup(func() {
		_ = from.Close()
		<-done
	})
}

// host is a namespace with a switch and containers.
type host struct {
	*kernel.Kernel
	port *Port
	dev  tun.Device
	tun  *fakeTUN
}

// container is a namespace with one interface on the switch, "eth0".
type container struct {
	*kernel.Kernel
	mac kernel.MAC
}

func newHost(t testing.TB, o Options, c fdb.Config) *host {
	h := &host{Kernel: kerneltest.Fresh(t)}
	ok(t, h.AddBridge(c.Bridge, kernel.MAC{0x02, 0xbb, 0, 0, 0, c.Local.As16()[15]}, c.MTU))
	ok(t, h.SetSysctl("net/ipv6/conf/"+c.Bridge+"/disable_ipv6", "1"))
	ok(t, h.SetUp(c.Bridge, true))
	o.Kernel = h.Kernel
	h.port = New(o)
	h.tun = newFakeTUN(t)
	h.dev = h.port.Wrap(h.tun)
	ok(t, h.port.Set(c))
	t.Cleanup(func() { _ = h.port.Close() })
	return h
}

// attach makes a container whose address is 10.9.0.n.
func attachTo(t testing.TB, h *kernel.Kernel, bridge string, n byte, mtu int) *container {
	c := &container{Kernel: kerneltest.Fresh(t), mac: kernel.MAC{0x02, 0xcc, 0, 0, 0, n}}
	outer := "wv" + string('a'+rune(n%26))
	ok(t, h.AddVeth(outer, mtu, c.Kernel, "eth0", c.mac))
	ok(t, h.SetSysctl("net/ipv6/conf/"+outer+"/disable_ipv6", "1"))
	ok(t, c.SetSysctl("net/ipv6/conf/eth0/disable_ipv6", "1"))
	ok(t, h.SetMaster(outer, bridge))
	ok(t, h.SetUp(outer, true))
	ok(t, c.SetUp("eth0", true))
	ok(t, c.AddAddr("eth0", netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, 0, n}), 24), true))
	return c
}
