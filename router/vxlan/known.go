package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/port"
)

// told is what the kernel is told of known attachments, so that it need not
// find out: three tables, which depend on each other in this order.
type told struct {
	fixed  map[kernel.MAC]netip.Addr // of the device: behind which remote a MAC is
	behind map[kernel.MAC]bool       // of the bridge: that it is behind the device
	owners map[netip.Addr]kernel.MAC // of the bridge: who has an IPv4 address
}

func newTold() told {
	return told{make(map[kernel.MAC]netip.Addr), make(map[kernel.MAC]bool), make(map[netip.Addr]kernel.MAC)}
}

// own is what nobody else can have. Among the addresses of the bridge is the
// name server's, which every host has: nobody shall answer in its place.
type own struct {
	bridge, device kernel.MAC
	addrs          []netip.Prefix
}

func (p *Port) own(c fdb.Config, device kernel.Link) (o own, err error) {
	bridge, err := p.kernel.Link(c.Bridge)
	if err != nil {
		return own{}, err
	}
	o.bridge, o.device = bridge.MAC, device.MAC
	o.addrs, err = p.kernel.Addrs(c.Bridge)
	return o, err
}

// makeTold is pure. What two claim is nobody's. IPv6 addresses are not told:
// the bridge has IPv6 off, and then it can have no such neighbours. Nor are
// link-local ones, and what is this host's own.
func makeTold(c fdb.Config, mine own) told {
	t := newTold()
	remote := make(map[netip.Addr]bool, len(c.Remotes))
	for _, r := range c.Remotes {
		remote[r.Overlay] = true
	}
	twice := make(map[kernel.MAC]bool)
	for _, k := range c.Known {
		m := kernel.MAC(k.MAC)
		if !remote[k.At] || m[0]&1 == 1 || m == (kernel.MAC{}) || m == mine.bridge || m == mine.device {
			continue
		}
		if at, ok := t.fixed[m]; ok && at != k.At {
			twice[m] = true
		}
		t.fixed[m] = k.At
	}
	for m := range twice {
		delete(t.fixed, m)
	}
	taken := make(map[netip.Addr]bool)
	for _, p := range mine.addrs {
		taken[p.Addr()] = true
	}
	for _, k := range c.Known {
		m := kernel.MAC(k.MAC)
		if t.fixed[m] != k.At || !k.At.IsValid() {
			continue
		}
		t.behind[m] = true
		for _, a := range k.Addrs {
			a = a.Unmap()
			if !a.Is4() || !a.IsGlobalUnicast() || taken[a] {
				continue
			}
			if other, ok := t.owners[a]; ok && other != m {
				taken[a] = true
				delete(t.owners, a)
				continue
			}
			t.owners[a] = m
		}
	}
	return t
}

// reconcileKnown tells the kernel what is known, and makes it forget what is
// not any more. entries are those of the device.
func (p *Port) reconcileKnown(c fdb.Config, entries []kernel.FDB) (repaired []string, err error) {
	on, err := p.kernel.ProxyARP(c.Name)
	if err != nil {
		return nil, fmt.Errorf("switch port: %w", err)
	}
	if !on {
		if err := p.kernel.SetProxyARP(c.Name, true); err != nil {
			return nil, fmt.Errorf("switch port: %w", err)
		}
		repaired = append(repaired, "questions about known addresses were not answered at "+c.Name)
	}
	want, have, err := p.compare(c, entries)
	if err != nil {
		return repaired, fmt.Errorf("switch port: %w", err)
	}
	p.told = want
	missing, stale, err := p.tell(c, have, want)
	if missing > 0 {
		repaired = append(repaired, fmt.Sprintf("%d entries of known attachments were missing at %s", missing, c.Name))
	}
	if stale > 0 {
		repaired = append(repaired, fmt.Sprintf("%d entries at %s were of no known attachment", stale, c.Name))
	}
	return repaired, err
}

// compare reads what the kernel was told.
func (p *Port) compare(c fdb.Config, entries []kernel.FDB) (want, have told, err error) {
	l, err := p.kernel.Link(c.Name)
	if err != nil {
		return told{}, told{}, err
	}
	mine, err := p.own(c, l)
	if err != nil {
		return told{}, told{}, err
	}
	want, have = makeTold(c, mine), newTold()
	for _, e := range entries {
		if e.Fixed {
			have.fixed[e.MAC] = e.Dst
		}
	}
	behind, err := p.kernel.BridgeFDB(c.Bridge)
	if err != nil {
		return told{}, told{}, err
	}
	for _, e := range behind {
		switch {
		case e.Port == l.Index && e.Told:
			have.behind[e.MAC] = true
		case e.Port != l.Index && want.behind[e.MAC]:
			// A frame from it came from a container of ours, after we were told:
			// it stays there.
			have.behind[e.MAC] = true
		}
	}
	neighbours, err := p.kernel.Neighbours(c.Bridge)
	if err != nil {
		return told{}, told{}, err
	}
	for _, n := range neighbours {
		have.owners[n.Addr] = n.MAC
	}
	return want, have, nil
}

// tell goes from have to want. Nothing is answered for before it can be
// reached, nor after.
func (p *Port) tell(c fdb.Config, have, want told) (missing, stale int, err error) {
	var errs port.Failures
	for a := range have.owners {
		if _, ok := want.owners[a]; !ok && errs.OK(p.kernel.DelNeighbour(c.Bridge, a)) {
			stale++
		}
	}
	for m := range have.behind {
		if !want.behind[m] && errs.OK(p.kernel.DelBridgeFDB(c.Name, m)) {
			stale++
		}
	}
	for m, at := range have.fixed {
		if _, ok := want.fixed[m]; !ok && errs.OK(p.kernel.DelFDB(c.Name, kernel.FDB{MAC: m, Dst: at, Fixed: true})) {
			stale++
		}
	}
	for m, at := range want.fixed {
		if have.fixed[m] == at {
			continue
		}
		err := p.kernel.AddFDB(c.Name, kernel.FDB{MAC: m, Dst: at, Fixed: true})
		if errors.Is(err, syscall.ENOSPC) {
			continue // full of what was learnt: frames to m are flooded, and the next sweep tries again
		}
		if errs.OK(err) {
			missing++
		}
	}
	for m := range want.behind {
		if !have.behind[m] && errs.OK(p.kernel.AddBridgeFDB(c.Name, m)) {
			missing++
		}
	}
	for a, m := range want.owners {
		if have.owners[a] != m && errs.OK(p.kernel.AddNeighbour(c.Bridge, kernel.Neighbour{Addr: a, MAC: m})) {
			missing++
		}
	}
	if err := errs.Err(); err != nil {
		return missing, stale, fmt.Errorf("switch port: %w", err)
	}
	return missing, stale, nil
}

// setKnown is Set when nothing else has changed: it looks at nothing that is
// the same, because attachments come and go all the time.
func (p *Port) setKnown(c fdb.Config) error {
	l, err := p.kernel.Link(c.Name)
	if err != nil {
		return err
	}
	mine, err := p.own(c, l)
	if err != nil {
		return err
	}
	had := p.told
	p.told = makeTold(c, mine)
	_, _, err = p.tell(c, had, p.told)
	return err
}
