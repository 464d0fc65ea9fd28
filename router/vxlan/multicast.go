package vxlan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/port"
)

const (
	etherTypeIPv6 = unix.ETH_P_IPV6

	// A pruner that had trouble is made again so many times at once, and as
	// often as this.
	atOnce = 10
	again  = time.Minute
)

// multicast is what a port does about groups. The zero value does nothing yet.
type multicast struct {
	asking *asker
	pruner *pruner   // nil: all is flooded
	cannot bool      // this kernel cannot
	paid   time.Time // up to when pruners that were made are paid for
}

// may says whether a pruner may be made at a time: to make one is a change of
// links, after which the port is looked at again.
func (m *multicast) may(now time.Time) bool {
	if earliest := now.Add(-(atOnce - 1) * again); m.paid.Before(earliest) {
		m.paid = earliest
	}
	if m.paid.After(now) {
		return false
	}
	m.paid = m.paid.Add(again)
	return true
}

// multicastLocked asks the containers which groups they want, and prunes by what
// those of other hosts say, where this kernel can. What it cannot is flooded, and
// no error.
func (p *Port) multicastLocked(c fdb.Config) (repaired []string) {
	if p.tunnel == "" {
		return nil
	}
	m := &p.multicast
	if m.asking == nil || !m.asking.fits(c) {
		m.asking.stop()
		m.asking = ask(p, c)
	}
	if m.pruner != nil {
		wrong, err := m.pruner.wrong(c)
		if wrong == "" && err == nil {
			m.pruner.set(c.Remotes)
			return nil
		}
		if wrong != "" {
			repaired = append(repaired, wrong)
		}
		m.cannot = errors.Is(err, errors.ErrUnsupported) // it has said so
		if err := m.pruner.close(); err != nil {
			p.log.Warn("cannot remove the device for multicast groups", "err", err)
		}
		m.pruner = nil
	}
	if m.cannot || !m.may(p.now()) {
		return repaired
	}
	pr, err := newPruner(p, c)
	switch {
	case err == nil:
		m.pruner = pr
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		m.cannot = true
		p.log.Info("multicast groups go to all hosts: this kernel does not let them be pruned (Linux 6.6 can)", "err", err)
	default:
		p.log.Warn("multicast groups are flooded to all hosts for now", "err", err)
	}
	return repaired
}

// endMulticastLocked stops asking and pruning, and removes the device.
func (p *Port) endMulticastLocked() error {
	m := p.multicast
	p.multicast = multicast{}
	m.asking.stop()
	if m.pruner != nil {
		return m.pruner.close()
	}
	return nil
}

// wrong says in words what is not as the pruner made it. An error is what ended
// it before.
func (g *pruner) wrong(c fdb.Config) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.cfg
	if o.Name != c.Name || o.Bridge != c.Bridge || o.VNI != c.VNI || o.Port != c.Port || o.Local != c.Local || o.MTU != c.MTU {
		return "the device for multicast groups was another switch's", nil
	}
	for name, index := range g.places {
		l, err := g.kernel.Link(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && l.Index != index:
			return fmt.Sprintf("multicast pruning depends on device %s, which was another", name), nil
		case err != nil:
			return "", err
		case name == port.MulticastName && (!l.Up || !l.Deaf):
			return fmt.Sprintf("device %s was down or not deaf", name), nil
		}
	}
	if g.ended != nil {
		return "", g.ended
	}
	if g.diversion != nil && !g.diversion.Stands() {
		return "multicast groups did not leave by " + port.MulticastName, nil
	}
	is, err := g.told()
	if err != nil {
		return "", err
	}
	if !is.equal(g.have) {
		return "lists of multicast groups were changed at " + port.MulticastName, nil
	}
	return "", nil
}

// told reads what the device was told.
func (g *pruner) told() (lists, error) {
	l := newLists()
	remotes, err := g.kernel.FDB(port.MulticastName)
	if err != nil {
		return lists{}, err
	}
	for _, e := range remotes {
		l.always[e.Dst] = e.VNI == g.cfg.VNI
	}
	members, err := g.kernel.MDB(port.MulticastName)
	if err != nil {
		return lists{}, err
	}
	for _, e := range members {
		if l.groups[e.Group] == nil {
			l.groups[e.Group] = make(map[netip.Addr]bool)
		}
		l.groups[e.Group][e.Dst] = e.VNI == g.cfg.VNI
	}
	return l, nil
}

// RemoveMulticast removes the device for groups, which a daemon leaves that is
// killed; nil when there is none. One of that name that is no VXLAN device is
// not ours and stays.
func RemoveMulticast(k Kernel) error { return remove(k, port.MulticastName) }

// asker asks the containers of this host which groups they are in. What they
// answer goes to the other hosts, which know then what this one wants.
type asker struct {
	// Constant after ask.

	kernel Kernel
	cfg    fdb.Config
	cancel context.CancelFunc
	done   chan struct{}
}

func ask(p *Port, c fdb.Config) *asker {
	ctx, cancel := context.WithCancel(context.Background())
	a := &asker{kernel: p.kernel, cfg: c, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		tick := time.NewTicker(p.sweepTime)
		defer tick.Stop()
		for n := 0; ; n++ {
			if fdb.QueryDue(n) {
				if err := a.query(); err != nil {
					p.log.Debug("cannot ask the containers for their multicast groups", "err", err)
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return a
}

func (a *asker) fits(c fdb.Config) bool {
	return a.cfg.Name == c.Name && a.cfg.Bridge == c.Bridge && a.cfg.Local == c.Local
}

// stop waits for its end. There need be none.
func (a *asker) stop() {
	if a != nil {
		a.cancel()
		<-a.done
	}
}

// query sends to each port of the bridge but our own: over the bridge it would
// cross the tunnels.
func (a *asker) query() error {
	b, err := a.kernel.Link(a.cfg.Bridge)
	if err != nil {
		return err
	}
	links, err := a.kernel.Links()
	if err != nil {
		return err
	}
	var ports []int
	for _, l := range links {
		if l.Master == b.Index && l.Name != a.cfg.Name && l.Up {
			ports = append(ports, l.Index)
		}
	}
	var v4, v6 [256]byte
	n4, n6 := fdb.Queries(v4[:], v6[:], fdb.Querier(a.cfg.Local))
	return a.kernel.SendFrames(ports, v4[:n4], v6[:n6])
}
