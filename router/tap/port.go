// Package tap is the switch port of hosts whose WireGuard runs in this
// process: a TAP device on the bridge, and a [tun.Device] that carries its
// frames, as kernel VXLAN devices do (RFC 7348), beside the packets of the TUN
// device that it wraps. Super-frames are cut only here, just before they are
// encrypted, and joined again just after they were decrypted.
//
// It owns the TAP device and the form of what passes between it and the
// tunnels. It does not own the TUN device, encrypt, know peers (only their
// overlay addresses), or decide where a frame goes (router/fdb), how it is cut
// (router/tap/offload) or what the sender of one that is too large is told
// (router/tap/fit). Bridge and firewall belong to router/bridge.
package tap

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/tun"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/port"
)

// Mode says whether frames cross the TAP device in super-frames.
type Mode uint8

// The modes.
const (
	Auto Mode = iota // as far as this kernel passes the test
	Off              // never: for kernels that pass the test and lie
)

// String returns the word that --offload takes.
func (m Mode) String() string { return [...]string{"auto", "off"}[m] }

// Kernel is what this package needs of a network namespace.
type Kernel interface {
	port.Kernel
	Do(f func() error) error
	DelLink(name string) error
}

// Options of a port.
type Options struct {
	Kernel  Kernel
	Offload Mode
	Log     *slog.Logger // nil: silence
}

// Port is one switch port. Set, Check, Remove and Close block for a few kernel
// calls; all methods may be called from any goroutine.
type Port struct {
	// Constant after New.

	kernel Kernel
	mode   Mode
	log    *slog.Logger
	table  *fdb.Table
	born   time.Time
	works  func() abilities // tests the kernel once
	open   func(k Kernel, name string) (*file, error)

	// Safe by themselves: read for every batch of packets.

	plane    atomic.Pointer[plane] // nil: frames are dropped
	tap      atomic.Pointer[file]  // nil: likewise
	joins    atomic.Bool           // frames are coalesced
	uso      atomic.Bool           // datagrams, too
	refused  atomic.Int32          // super-frames in a row that the kernel did not take
	counters counters
	limit    limiter   // of answers that a packet is too big
	inbounds sync.Pool // of *inbound

	mu      sync.Mutex   // guards what follows
	cfg     *fdb.Config  // what Set was last asked for; nil: nothing yet
	readers []*composite // that read the TAP; one but while it is replaced
	stands  bool         // the device was as cfg wants it when last looked at
	stop    func()       // ends the goroutine of queries; nil: there is none
}

// New returns a port that has touched nothing yet.
func New(o Options) *Port {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Port{
		kernel: o.Kernel,
		mode:   o.Offload,
		log:    o.Log,
		table:  fdb.New(fdb.Options{}),
		born:   time.Now(),
		works:  sync.OnceValue(func() abilities { return test(o.Log) }),
		open:   openTAP,
	}
	p.inbounds.New = func() any { return newInbound(p) }
	return p
}

// Set makes the device what c says, and changes nothing when it is that
// already. What a predecessor left is adopted, a VXLAN device replaced. On
// error the rest is still done, and Check tries again. A change of remotes or
// known attachments alone makes no call of the kernel.
func (p *Port) Set(c fdb.Config) error {
	if c.Name == "" || c.Bridge == "" || !c.Local.Is6() || c.Port == 0 || c.VNI == 0 || c.VNI >= 1<<24 || c.MTU <= 0 {
		return fmt.Errorf("switch port %q: incomplete configuration: bridge %q, local %s, port %d, vni %d, mtu %d",
			c.Name, c.Bridge, c.Local, c.Port, c.VNI, c.MTU)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c = c.Clone()
	old := p.cfg
	p.cfg = &c
	if old == nil || !old.Equal(c) {
		level := slog.LevelDebug // containers come and go
		if old == nil || old.MTU != c.MTU || len(old.Remotes) != len(c.Remotes) {
			level = slog.LevelInfo
		}
		p.log.Log(context.Background(), level, "switch port set", "device", c.Name, "mtu", c.MTU, "remotes", len(c.Remotes), "known", len(c.Known))
		p.table.Set(c.Remotes, c.Known)
		p.plane.Store(newPlane(c))
	}
	if p.stands && old.Name == c.Name && old.Bridge == c.Bridge && old.MTU == c.MTU {
		return nil // the device has nothing to do with the rest
	}
	_, err := p.reconcile(c)
	p.askLocked()
	return err
}

// askLocked begins queries, once there is a device that they can go to.
func (p *Port) askLocked() {
	if p.stop == nil && p.tap.Load() != nil {
		p.stop = p.beginQueries()
	}
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
	p.askLocked()
	return repaired, err
}

// Remove removes the device, also when Set was never called; nil when there is
// none. A device of that name which is no TAP device is not ours and stays.
func (p *Port) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := port.DefaultName
	if p.cfg != nil {
		name = p.cfg.Name
	}
	err := p.endLocked()
	if rerr := removeTAP(p.kernel, name); rerr != nil {
		err = fmt.Errorf("remove switch port: %w", rerr)
	}
	return err
}

// Close lets go of the device, which stays a port of the bridge: a successor
// adopts it. What was wrapped works on without it.
func (p *Port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.endLocked()
}

func (p *Port) endLocked() error {
	p.cfg, p.stands = nil, false
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
	p.plane.Store(nil)
	return p.dropLocked()
}

// Wrap returns a device that carries the packets of t and the frames of the
// port. It is given to wireguard-go, once for each device it makes; the device
// before must have ended.
func (p *Port) Wrap(t tun.Device) tun.Device {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := newComposite(p, t)
	if err != nil {
		// There is no way to say so but this; tunnels without a switch are of
		// use for gossip, which says what this host lacks.
		p.log.Error("the switch port carries no frames", "err", err)
		return t
	}
	p.readers = append(p.readers, c)
	if p.mode == Auto {
		go p.works() // it takes a while, and Set comes soon
	}
	if f := p.tap.Load(); f != nil {
		if err := c.poll.add(f); err != nil {
			p.log.Error("the switch port carries no frames", "err", err)
		}
	}
	return c
}

// forget is called by a composite that was closed.
func (p *Port) forget(c *composite) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, x := range p.readers {
		if x == c {
			p.readers = append(p.readers[:i:i], p.readers[i+1:]...)
			return
		}
	}
}

// Table is where the port looks up who has an address.
func (p *Port) Table() *fdb.Table { return p.table }

// remote is a host that frames go to, ready for use.
type remote struct {
	fdb.Remote
	head [outerLen]byte // of every packet to it
}

// plane is all that forwarding needs to know. It does not change.
type plane struct {
	local   [16]byte
	port    uint16
	vni     uint32
	mtu     int
	all     []*remote
	remotes map[netip.Addr]*remote
}

func newPlane(c fdb.Config) *plane {
	q := &plane{local: c.Local.As16(), port: c.Port, vni: c.VNI, mtu: c.MTU, remotes: make(map[netip.Addr]*remote, len(c.Remotes))}
	for _, r := range c.Remotes {
		x := &remote{Remote: r, head: outerHeader(c, r.Overlay)}
		q.all = append(q.all, x)
		q.remotes[r.Overlay] = x
	}
	return q
}

// narrow says that not every frame of the switch passes to r in one piece.
func (q *plane) narrow(r *remote) bool { return r.Whole > 0 && r.Whole < q.mtu }
