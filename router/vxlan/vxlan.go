// Package vxlan is the kernel's VXLAN tunnel endpoint as a port of the switch:
// one device, bound to the overlay address and to no lower device, with one
// forwarding entry for broadcast, unknown and multicast frames per remote. The
// kernel is told where known attachments are, and answers ARP for them.
//
// It does not encrypt, does not know peers (only their overlay addresses), and
// does not own the bridge or the firewall that keeps forged frames out.
package vxlan

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/port"
)

const (
	// defaultBridge is the bridge whose neighbours Remove forgets when Set was
	// never called.
	defaultBridge = "weft"

	// Source ports are below 1024, where no unprivileged process can send
	// from: that is how the receiver tells a switch from a forger.
	portLow, portHigh = 512, 1023

	// limit bounds the forwarding entries, most of them learnt. Frames to an
	// address that did not fit are sent to every remote. Without a limit one
	// container fills the memory of every host by sending from ever new
	// addresses.
	limit = 1 << 16
)

// Kernel is what this package needs of a network namespace.
type Kernel interface {
	port.Kernel
	AddVXLAN(name string, v kernel.VXLAN) error
	DelLink(name string) error
	FDB(link string) ([]kernel.FDB, error)
	AddFDB(link string, f kernel.FDB) error
	DelFDB(link string, f kernel.FDB) error
	Addrs(link string) ([]netip.Prefix, error)
	BridgeFDB(bridge string) ([]kernel.BridgeFDB, error)
	AddBridgeFDB(port string, m kernel.MAC) error
	DelBridgeFDB(port string, m kernel.MAC) error
	AddNeighbour(link string, n kernel.Neighbour) error
	ProxyARP(port string) (bool, error)
	SetProxyARP(port string, on bool) error
	Links() ([]kernel.Link, error)
	MDB(link string) ([]kernel.MDB, error)
	AddMDB(link string, e kernel.MDB) error
	DelMDB(link string, e kernel.MDB) error
	Deafen(link string) error
	Divert(from, to string, except []netip.Addr) (kernel.Diversion, error)
	Overhear(link string, protocol uint16, filter []unix.SockFilter) (kernel.Ear, error)
	SendFrames(links []int, frames ...[]byte) error
}

// Port is one VXLAN device. Its methods block for a few netlink calls and may
// be called from any goroutine.
type Port struct {
	// Constant after New.

	kernel    Kernel
	log       *slog.Logger
	tunnel    string // device that frames come out of; "": groups are no matter
	now       func() time.Time
	sweepTime time.Duration

	mu        sync.Mutex  // guards what follows
	cfg       *fdb.Config // what Set was last asked for; nil: nothing yet
	whole     bool        // all of it was done
	told      told        // what the kernel was told, if so
	multicast multicast
}

// New returns a port that has touched nothing yet, and floods multicast. A nil
// log is silence.
func New(k Kernel, log *slog.Logger) *Port { return NewPruning(k, "", log) }

// NewPruning is New for a port that asks containers which multicast groups they
// are in, and sends groups only to hosts that want them, where the kernel can.
// What other hosts want is heard at tunnel, the device that their packets come
// out of, which must vouch for their source.
func NewPruning(k Kernel, tunnel string, log *slog.Logger) *Port {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Port{kernel: k, log: log, tunnel: tunnel, now: time.Now, sweepTime: sweepTime}
}

// Set makes the device what c says, and changes nothing when it is that
// already. What a predecessor left is adopted, or recreated when it cannot be
// changed. A remote that is not in c loses what was learnt about it, too. On
// error the rest is still done, and Check tries again.
func (p *Port) Set(c fdb.Config) error {
	if c.Name == "" || c.Bridge == "" || !c.Local.Is6() || c.Port == 0 || c.VNI == 0 || c.VNI >= 1<<24 {
		return fmt.Errorf("vxlan %q: incomplete configuration: bridge %q, local %s, port %d, vni %d", c.Name, c.Bridge, c.Local, c.Port, c.VNI)
	}
	c = c.Clone()
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.cfg
	p.cfg = &c
	switch {
	case old == nil || !sameButKnown(*old, c):
		p.log.Info("switch port set", "device", c.Name, "mtu", c.MTU, "remotes", len(c.Remotes), "known", len(c.Known))
	case p.whole && !old.Equal(c):
		p.log.Debug("switch port set", "device", c.Name, "known", len(c.Known))
		if err := p.setKnown(c); err == nil {
			return nil
		}
	}
	_, err := p.reconcile(c)
	p.whole = err == nil
	return err
}

func sameButKnown(a, b fdb.Config) bool {
	a.Known, b.Known = nil, nil
	return a.Equal(b)
}

// Check looks at everything that Set made, repairs it, and says in words what
// was wrong. Without a Set before, there is nothing to look at.
func (p *Port) Check() (repaired []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cfg == nil {
		return nil, nil
	}
	repaired, err = p.reconcile(*p.cfg)
	p.whole = err == nil
	return repaired, err
}

// Remove removes the device and what the bridge was told, also when Set was
// never called; nil when there is nothing. A device of that name which is no
// VXLAN device is not ours and stays.
func (p *Port) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	name, bridge := port.DefaultName, defaultBridge
	if p.cfg != nil {
		name, bridge = p.cfg.Name, p.cfg.Bridge
	}
	p.cfg, p.whole, p.told = nil, false, told{}
	err := errors.Join(p.endMulticastLocked(), port.Forget(p.kernel, bridge), RemoveMulticast(p.kernel), remove(p.kernel, name))
	if err != nil {
		err = fmt.Errorf("remove switch port: %w", err)
	}
	return err
}

// Close stops what asks and prunes: all multicast is flooded. The device stays,
// and forwards.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cfg, p.whole, p.told = nil, false, told{}
	return p.endMulticastLocked()
}

// remove removes a device; nil when there is none, or when what has its name is
// no VXLAN device: that is not ours.
func remove(k Kernel, name string) error {
	l, err := k.Link(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case l.Kind != "vxlan":
		return nil
	}
	return k.DelLink(name)
}

// reconcile goes from what is to what c says, and names the differences.
func (p *Port) reconcile(c fdb.Config) (repaired []string, err error) {
	l, made, err := p.ensure(c)
	if err != nil {
		return nil, fmt.Errorf("switch port: %w", err)
	}
	repaired, joined, err := port.Fit(p.kernel, l, c)
	if err != nil {
		err = fmt.Errorf("switch port: %w", err)
	}
	errs := []error{err}
	entries, words, err := p.reconcileFDB(c)
	repaired, errs = append(repaired, words...), append(errs, err)
	if err == nil {
		words, err = p.reconcileKnown(c, entries)
		if !joined { // otherwise they follow from it
			repaired = append(repaired, words...)
		}
		errs = append(errs, err)
	}
	if made != "" {
		repaired = []string{made} // the rest follows from it
	}
	words = p.multicastLocked(c)
	if made == "" {
		repaired = append(repaired, words...)
	}
	return repaired, errors.Join(errs...)
}

// ensure returns the device that c wants, and says why it had to make it.
func (p *Port) ensure(c fdb.Config) (l kernel.Link, made string, err error) {
	l, err = p.kernel.Link(c.Name)
	exists := err == nil
	switch {
	case errors.Is(err, fs.ErrNotExist):
		made = fmt.Sprintf("device %s was gone", c.Name)
	case err != nil:
		return l, "", err
	case l.Kind == "tun":
		// The switch port of a predecessor whose WireGuard was in its process.
		made = fmt.Sprintf("device %s was a port of the userspace data path", c.Name)
	case l.Kind != "vxlan":
		return l, "", fmt.Errorf("an interface %s of another kind (%q) is in the way: rename or remove it", c.Name, l.Kind)
	case !fits(l, c):
		// None of these can be changed on an existing device.
		made = fmt.Sprintf("device %s was another tunnel (vni %d, port %d, local %s)", c.Name, l.VNI, l.Port, l.Local)
	default:
		return l, "", nil
	}
	if exists {
		if err := p.kernel.DelLink(c.Name); err != nil {
			return l, "", err
		}
	}
	l, err = p.create(c)
	return l, made, err
}

func (p *Port) create(c fdb.Config) (kernel.Link, error) {
	err := p.kernel.AddVXLAN(c.Name, kernel.VXLAN{
		VNI: c.VNI, Port: c.Port, PortLow: portLow, PortHigh: portHigh,
		Local: c.Local, MTU: c.MTU, Learning: true, Limit: limit,
	})
	if err != nil {
		return kernel.Link{}, err
	}
	return p.kernel.Link(c.Name)
}

// fits says whether an existing device is the one that create would make.
func fits(l kernel.Link, c fdb.Config) bool {
	return l.VNI == c.VNI && l.Port == c.Port && l.Local == c.Local &&
		l.PortLow == portLow && l.PortHigh == portHigh && l.Learning && l.ZeroChecksums && l.Limit == limit
}

// reconcileFDB keeps one entry for the zero MAC per remote, and no entry that
// leads elsewhere. Adding comes first: a frame sent meanwhile goes to one
// remote too many rather than too few.
func (p *Port) reconcileFDB(c fdb.Config) (stay []kernel.FDB, repaired []string, err error) {
	entries, err := p.kernel.FDB(c.Name)
	if err != nil {
		return nil, nil, fmt.Errorf("switch port: %w", err)
	}
	want := make(map[netip.Addr]bool, len(c.Remotes))
	for _, r := range c.Remotes {
		want[r.Overlay] = true
	}
	have := make(map[netip.Addr]bool, len(entries))
	for _, e := range entries {
		if e.MAC == (kernel.MAC{}) {
			have[e.Dst] = true
		}
	}
	var errs []error
	var missing, stale int
	for r := range want {
		if !have[r] {
			if err := p.kernel.AddFDB(c.Name, kernel.FDB{Dst: r, Permanent: true}); err != nil {
				errs = append(errs, fmt.Errorf("switch port: %w", err))
				continue
			}
			missing++
		}
	}
	if missing > 0 {
		repaired = append(repaired, fmt.Sprintf("%d remotes were missing from %s", missing, c.Name))
	}
	for _, e := range entries {
		if want[e.Dst] {
			stay = append(stay, e)
		} else {
			if err := p.kernel.DelFDB(c.Name, e); err != nil {
				errs = append(errs, fmt.Errorf("switch port: %w", err))
				continue
			}
			stale++
		}
	}
	if stale > 0 {
		repaired = append(repaired, fmt.Sprintf("%d forwarding entries of %s led to hosts that are no remotes", stale, c.Name))
	}
	return stay, repaired, errors.Join(errs...)
}
