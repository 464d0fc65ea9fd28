// Package wireguard owns the WireGuard device of this host: the kernel's, or
// wireguard-go inside this process. Both speak the same protocol and are
// driven the same way, through wgctrl.
//
// It owns the device's link, address and routes, and the socket by which `wg`
// sees an in-process device. It does not decide who is a peer or which
// endpoint is used: that is planned by router and by router/path.
package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weftnet/weft/router/kernel"
)

// Mode says where packets are encrypted.
type Mode uint8

// The modes. Auto is only asked for: a device has one of the others.
const (
	Auto Mode = iota
	Kernel
	Userspace
)

// String returns the word that --datapath takes.
func (m Mode) String() string { return [...]string{"auto", "kernel", "userspace"}[m] }

// Links is the part of the kernel that a device needs besides WireGuard itself.
// A *kernel.Kernel is one.
type Links interface {
	AddWireGuard(name string, mtu int) error
	Links() ([]kernel.Link, error)
	Link(name string) (kernel.Link, error)
	DelLink(name string) error
	SetUp(name string, up bool) error
	SetMTU(name string, mtu int) error
	Addrs(link string) ([]netip.Prefix, error)
	AddAddr(link string, p netip.Prefix, nodad bool) error
	DelAddr(link string, p netip.Prefix) error
	Routes(table int) ([]kernel.Route, error)
	ReplaceRoute(r kernel.Route) error
	DelRoute(r kernel.Route) error
	RouteTo(dst netip.Addr) (kernel.Route, error)
	Rules() ([]kernel.Rule, error)
	AddRule(r kernel.Rule) error
	DelRule(r kernel.Rule) error
	Sysctl(key string) (string, error)
	SetSysctl(key, value string) error
}

// Options say what device to open.
type Options struct {
	Name  string // of the interface; at most 15 bytes
	Mode  Mode
	Links Links
	// WrapTUN is called once for each TUN device that is made, in userspace
	// mode only; nil: the device is used as it is.
	WrapTUN func(tun.Device) tun.Device
	// Receive is given the packets on WireGuard's port that are none of
	// WireGuard's: those whose first byte is 0x57 (router/signal). It is called
	// by the goroutines that receive, several at a time, and must not block; b
	// is valid only during the call, and to is the address of this host that it
	// came to, zero where that is not known. Nil: they are dropped.
	Receive func(from netip.AddrPort, to netip.Addr, b []byte)
	// Plain turns the coalescing of UDP packets (GSO, GRO) off, in userspace mode.
	Plain bool
	// Quiet does what [Device.Quiet] says, in kernel mode, where only a
	// firewall can. Nil: it fails there.
	Quiet func(from netip.AddrPort, t time.Duration) error
	Log   *slog.Logger // nil: silence
}

// MinMTU is the least MTU of the device: below it an interface loses IPv6.
const MinMTU = 1280

// client is the part of a wgctrl.Client that a device uses. Devices is left
// out on purpose: one stale socket of another program makes it fail.
type client interface {
	Device(name string) (*wgtypes.Device, error)
	ConfigureDevice(name string, cfg wgtypes.Config) error
	Close() error
}

// inProcess is wireguard-go's side of a device in userspace mode.
type inProcess interface {
	// Up opens the UDP sockets; nothing when they are open.
	Up() error
	// Initiate voids the handshake under way and the session, and sends an
	// initiation. It reports false when there is no such peer.
	Initiate(key [32]byte) (bool, error)
	// SetEndpoint sets where packets go and sends none. It reports false
	// when there is no such peer.
	SetEndpoint(key [32]byte, ep netip.AddrPort) (bool, error)
	// Done is closed when the device has ended, by itself or by Close.
	Done() <-chan struct{}
	Close() error
}

// Device is one WireGuard device. Its methods are safe for concurrent use and
// block for as long as the kernel, or wireguard-go, takes.
type Device struct {
	// Constant after Open.

	name  string
	mode  Mode
	links Links
	log   *slog.Logger
	wg    client
	// open makes the in-process device, again if it ended because somebody
	// deleted its interface. Nil in kernel mode.
	open func(mtu int) (inProcess, error)
	// usable waits until packets reach an address just added; nil in tests
	// without a kernel.
	usable  func(netip.Addr) error
	receive func(from netip.AddrPort, to netip.Addr, b []byte) // of Options
	quiet   func(netip.AddrPort, time.Duration) error          // of Options
	door    *door                                              // nil in kernel mode
	raw     *rawPort                                           // nil in tests without a kernel

	mu     sync.Mutex // guards what follows
	local  inProcess  // nil in kernel mode
	mtu    int        // of the last Set
	asked  *Config    // by the last Set; nil: nothing yet
	did    []string   // what was not as it should be, found by the last Set or Check
	wanted map[wgtypes.Key]Peer
	known  map[wgtypes.Key]*known
	closed bool
}

// Open makes the device, or takes over the one that a dead predecessor left.
// In mode Auto it is the kernel's when that can be made, else an in-process
// one; when neither can be made the error says what each is missing. The
// device has no keys, peers or address before Set.
func Open(o Options) (*Device, error) {
	d := newDevice(o)
	d.usable = waitUsable
	d.raw = &rawPort{log: d.log}
	var err error
	switch o.Mode {
	case Kernel:
		err = d.openKernel()
	case Userspace:
		err = d.openUserspace(o)
	default:
		if err = d.openKernel(); err != nil {
			if uerr := d.openUserspace(o); uerr != nil {
				err = fmt.Errorf("no WireGuard on this host; in the kernel: %w; in userspace: %w", err, uerr)
			} else {
				d.log.Info("this kernel has no WireGuard, using the built-in one", "device", d.name)
				err = nil
			}
		}
	}
	if err == nil {
		// Only now: the kernel loads its module with the first device.
		d.wg, err = wgctrl.New()
	}
	if err != nil {
		if d.local != nil {
			err = errors.Join(err, d.local.Close())
		}
		return nil, fmt.Errorf("open device %s: %w", d.name, err)
	}
	return d, nil
}

func newDevice(o Options) *Device {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Device{
		name:    o.Name,
		links:   o.Links,
		log:     o.Log,
		receive: o.Receive,
		quiet:   o.Quiet,
		mtu:     MinMTU,
		wanted:  make(map[wgtypes.Key]Peer),
		known:   make(map[wgtypes.Key]*known),
	}
}

func (d *Device) openKernel() error {
	if err := d.ensureKernel(MinMTU); err != nil {
		if errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("its module is missing, try 'modprobe wireguard': %w", err)
		}
		return err
	}
	d.mode = Kernel
	if d.raw != nil {
		d.raw.receive = d.receive
	}
	return nil
}

// ensureKernel takes over a WireGuard device of our name: its tunnels have
// worked on without us. A TUN device of that name is what an in-process
// predecessor left, and goes.
func (d *Device) ensureKernel(mtu int) error {
	l, err := d.links.Link(d.name)
	switch {
	case err == nil && l.Kind == "wireguard":
		return nil
	case err == nil && l.Kind == "tun":
		if err := d.links.DelLink(d.name); err != nil {
			return err
		}
	case err == nil:
		return fmt.Errorf("an interface %s of kind %q is in the way", d.name, l.Kind)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := d.links.AddWireGuard(d.name, mtu); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d.didLocked("device %s was gone", d.name)
	return nil
}

func (d *Device) openUserspace(o Options) error {
	d.open = func(mtu int) (inProcess, error) {
		l, err := d.links.Link(d.name)
		switch {
		case err == nil && l.Kind == "wireguard":
			if err := d.links.DelLink(d.name); err != nil {
				return nil, err
			}
		case err == nil && l.Kind != "tun": // a TUN is ours if it is free
			return nil, fmt.Errorf("an interface %s of kind %q is in the way", d.name, l.Kind)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
		return openLocal(d.name, mtu, o.WrapTUN, d.door, d.log)
	}
	d.door = &door{Bind: &bind{plain: o.Plain}, receive: d.receive, raw: d.raw}
	local, err := d.open(MinMTU)
	if err != nil {
		d.open, d.door = nil, nil
		return err
	}
	d.local, d.mode = local, Userspace
	return nil
}

// ensureLocked makes the device again if it is gone.
func (d *Device) ensureLocked(mtu int) error {
	if d.mode == Kernel {
		return d.ensureKernel(mtu)
	}
	select {
	case <-d.local.Done():
	default:
		return nil
	}
	if err := d.local.Close(); err != nil {
		return err
	}
	local, err := d.open(mtu)
	if err != nil {
		return err
	}
	d.local = local
	d.didLocked("device %s was gone", d.name)
	return nil
}

// Mode says which kind of device this is: Kernel or Userspace.
func (d *Device) Mode() Mode { return d.mode }

// Close ends an in-process device: its interface is gone and none of its
// goroutines is left a moment later. A kernel device stays, and packets go on
// flowing through it. Every other method fails afterwards.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	err := d.wg.Close()
	if d.local != nil {
		err = errors.Join(err, d.local.Close())
	}
	if d.raw != nil {
		err = errors.Join(err, d.raw.close())
	}
	if err != nil {
		return fmt.Errorf("close device %s: %w", d.name, err)
	}
	return nil
}

// Remove deletes the device called name and what an in-process one left behind
// when its process was killed. It needs no [Device], and nothing to be there.
func Remove(links Links, name string) error {
	if err := errors.Join(links.DelLink(name), removeNarrow(links), removeFrames(links), removeStale(socketPath(name))); err != nil {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	_ = os.Remove(socketDir) // if it is empty
	return nil
}
