package vxlan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/router/bell"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/port"
)

const (
	// sweepTime is the step in which the table sees time pass; queries are due
	// at multiples of it.
	sweepTime = fdb.QueryAtStart * time.Second

	// changeRest is the time between two changes of the lists, at least; when
	// changes take long, ten times what one took.
	changeRest = 20 * time.Millisecond

	// changeMost is how many entries are changed at once, which takes 0.1 s or
	// so. Who joins a group while there are more to be changed would have to
	// wait: all is flooded until that is done.
	changeMost = 500
)

// errEnough says that there is more to change than changeMost.
var errEnough = errors.New("many changes")

// pruner sends multicast groups only to remotes whose containers want them. They
// leave by a device of their own, which has a list for each group; what leads
// them there ends with this process. Any trouble ends the pruner: it leads
// nothing there any more, and all is flooded again.
type pruner struct {
	// Constant after newPruner.

	kernel Kernel
	log    *slog.Logger
	cfg    fdb.Config // its remotes apart
	tunnel string
	now    func() time.Time
	ears   []kernel.Ear
	places map[string]int // index of each interface that it depends on
	kick   bell.Bell      // the lists are to be looked at
	cancel context.CancelFunc
	done   sync.WaitGroup

	// Safe by themselves.

	table atomic.Pointer[fdb.Table] // of what was heard
	seen  atomic.Uint64             // its number of changes that was looked at last

	mu        sync.Mutex       // guards what follows
	remotes   []fdb.Remote     // of cfg
	have      lists            // what the device was told
	diversion kernel.Diversion // nil: all is flooded
	ended     error            // why it ended
	steps     int              // entries that were changed by this look
	behind    bool             // there are more: all is flooded until run has looked again
}

// newPruner makes the device and begins to listen. All is flooded until remotes
// were heard to answer. On error nothing stays.
func newPruner(p *Port, c fdb.Config) (*pruner, error) {
	ctx, cancel := context.WithCancel(context.Background())
	g := &pruner{
		kernel: p.kernel, log: p.log, cfg: c, tunnel: p.tunnel, now: p.now,
		places: make(map[string]int), kick: bell.New(), cancel: cancel, have: newLists(), remotes: c.Remotes,
	}
	g.forget()
	if err := g.begin(); err != nil {
		return nil, errors.Join(err, g.close())
	}
	for i, e := range g.ears {
		g.done.Go(func() { g.listen(ctx, e, i == 0) })
	}
	g.done.Go(func() { g.run(ctx, p.sweepTime) })
	return g, nil
}

func (g *pruner) begin() error {
	if err := RemoveMulticast(g.kernel); err != nil { // it has a predecessor's lists
		return err
	}
	c := g.cfg
	err := g.kernel.AddVXLAN(port.MulticastName, kernel.VXLAN{
		VNI: ownVNI(c.VNI), Port: c.Port, PortLow: portLow, PortHigh: portHigh, Local: c.Local, MTU: c.MTU,
	})
	if err != nil {
		return err
	}
	if err := g.kernel.Deafen(port.MulticastName); err != nil {
		return err
	}
	err = g.kernel.SetSysctl("net/ipv6/conf/"+port.MulticastName+"/disable_ipv6", "1")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := g.kernel.SetUp(port.MulticastName, true); err != nil {
		return err
	}
	for _, name := range []string{c.Name, c.Bridge, g.tunnel, port.MulticastName} {
		l, err := g.kernel.Link(name)
		if err != nil {
			return err
		}
		g.places[name] = l.Index
	}
	// Whether this kernel can do it is better known now than when it is needed.
	d, err := g.kernel.Divert(c.Name, port.MulticastName, nil)
	if err == nil {
		err = d.Close()
	}
	if err != nil {
		return err
	}
	e, err := g.kernel.Overhear(g.tunnel, etherTypeIPv6, fromTunnels(c))
	if err != nil {
		return err
	}
	g.ears = append(g.ears, e)
	if e, err = g.kernel.Overhear(c.Bridge, 0, fromBridge()); err == nil {
		g.ears = append(g.ears, e)
	}
	return err
}

// ownVNI is what the device for groups is made with: two of one number and port
// cannot be. It sends with the switch's.
func ownVNI(vni uint32) uint32 { return max(vni^1<<23, 1) }

// close ends it and takes everything away. The caller does not hold mu.
func (g *pruner) close() error {
	g.cancel()
	err := g.end(errors.New("closed"))
	for _, e := range g.ears {
		_ = e.Close()
	}
	g.done.Wait()
	return errors.Join(err, RemoveMulticast(g.kernel))
}

// end makes everything flooded, for good.
func (g *pruner) end(why error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.endLocked(why)
}

func (g *pruner) endLocked(why error) error {
	if g.ended == nil {
		g.ended = why
	}
	return g.floodLocked()
}

func (g *pruner) floodLocked() error {
	if g.diversion == nil {
		return nil
	}
	err := g.diversion.Close()
	g.diversion = nil
	return err
}

// set replaces the remotes.
func (g *pruner) set(remotes []fdb.Remote) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.remotes = remotes
	g.table.Load().Set(remotes, nil)
	if !g.behind {
		g.lookLocked()
	}
}

// forget makes nothing known of anybody: all is flooded, until it was heard again.
func (g *pruner) forget() {
	t := fdb.New(fdb.Options{Now: g.now})
	t.Set(g.remotes, nil)
	g.table.Store(t)
}

// listen hears until the ear is closed.
func (g *pruner) listen(ctx context.Context, e kernel.Ear, tunnel bool) {
	b := make([]byte, 1<<16)
	for {
		n, err := e.Read(b)
		if err != nil {
			if ctx.Err() == nil {
				g.trouble(fmt.Errorf("listen for multicast reports: %w", err))
			}
			return
		}
		t := g.table.Load()
		if tunnel {
			heardFrom(g.cfg, t, b[:n])
		} else {
			t.Overhear(b[:n])
		}
		if t.Changes() != g.seen.Load() {
			g.kick.Ring()
		}
	}
}

// run keeps the lists as the table says.
func (g *pruner) run(ctx context.Context, step time.Duration) {
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		rest := changeRest
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.sweep()
		case <-g.kick:
			began := time.Now()
			g.look()
			rest = max(rest, 10*time.Since(began))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
	}
}

// sweep lets time pass. When something was not heard, nothing is believed any
// more: who joined is perhaps not on a list.
func (g *pruner) sweep() {
	for _, e := range g.ears {
		if lost, err := e.Lost(); err != nil {
			g.trouble(err)
		} else if lost > 0 {
			g.log.Info("multicast reports were lost: all groups are flooded until members say again what they want", "reports", lost)
			g.mu.Lock()
			g.forget()
			g.mu.Unlock()
		}
	}
	g.table.Load().Sweep()
	g.look()
}

// look does what the table says.
func (g *pruner) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lookLocked()
}

func (g *pruner) lookLocked() {
	if g.ended != nil {
		return
	}
	t := g.table.Load()
	g.seen.Store(t.Changes())
	if err := g.tellLocked(t.Pruning()); err != nil {
		g.troubleLocked(err)
	}
}

func (g *pruner) tellLocked(p fdb.Pruning) error {
	g.behind = false
	if p.Flood {
		return g.floodLocked()
	}
	want := makeLists(p)
	var count counter
	if g.diversion != nil && change(g.have, want, &count) != nil {
		if err := g.floodLocked(); err != nil {
			return err
		}
	}
	g.steps = 0
	err := change(g.have, want, g)
	if errors.Is(err, errEnough) {
		g.behind = true
		g.kick.Ring()
		return nil
	}
	g.have.flooded = want.flooded
	if err != nil || g.diversion != nil {
		return err
	}
	g.diversion, err = g.kernel.Divert(g.cfg.Name, port.MulticastName, slices.SortedFunc(maps.Keys(want.flooded), netip.Addr.Compare))
	return err
}

func (g *pruner) trouble(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.troubleLocked(err)
}

func (g *pruner) troubleLocked(err error) {
	if g.ended == nil {
		err = errors.Join(err, g.endLocked(err))
		g.log.Warn("multicast groups are flooded to all hosts for now", "err", err)
	}
}

// always, member and flood make g a writer, which notes what it did. The caller
// of change holds mu.

func (g *pruner) always(at netip.Addr, on bool) error {
	if err := g.step(); err != nil {
		return err
	}
	e := kernel.FDB{Dst: at, Permanent: true, VNI: g.cfg.VNI}
	if on {
		g.have.always[at] = true
		return g.kernel.AddFDB(port.MulticastName, e)
	}
	delete(g.have.always, at)
	return g.kernel.DelFDB(port.MulticastName, e)
}

func (g *pruner) member(group, at netip.Addr, on bool) error {
	if err := g.step(); err != nil {
		return err
	}
	e := kernel.MDB{Group: group, Dst: at, VNI: g.cfg.VNI}
	g.have.set(group, at, on)
	if on {
		return g.kernel.AddMDB(port.MulticastName, e)
	}
	return g.kernel.DelMDB(port.MulticastName, e)
}

// step counts. While frames are led to the device, a change is small or is made
// whole.
func (g *pruner) step() error {
	if g.diversion == nil && g.steps >= changeMost {
		return errEnough
	}
	g.steps++
	return nil
}

func (g *pruner) flood(group netip.Addr, on bool) error {
	if g.diversion == nil {
		return nil // what leads groups to the device is told when it is made
	}
	return g.diversion.Except(group, on)
}
