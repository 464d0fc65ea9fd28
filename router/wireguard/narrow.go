package wireguard

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"slices"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weftnet/weft/router/kernel"
)

// What is too large for a path leaves in fragments, which the kernel makes by
// the MTU of a route. Such routes are in a table of their own that only
// packets with our mark see: other traffic of this host to the same address
// has its own ideas, and what it learns does not count here, since the MTU is
// locked.
const (
	narrowTable    = 6784
	narrowPriority = 782 // before the switch's own rules
)

// setNarrow gives each endpoint whose path is narrower than the interface that
// leads there a route with the path's MTU, and removes others. By the
// interface's own MTU packets are fragmented anyway.
func (d *Device) setNarrow(c Config) error {
	limits := make(map[netip.AddrPort]limit)
	mtus := make(map[netip.Addr]int)
	for _, p := range c.Peers {
		ep := p.PathEndpoint
		if !ep.IsValid() {
			ep = d.knownLocked(p.PublicKey).endpoint
		}
		a := ep.Addr()
		if p.PathMTU == 0 || c.FwMark == 0 || !ep.IsValid() {
			continue
		}
		// Not only where our own packets are too large: the relay's have other
		// sizes, and follow the same routes.
		mtus[a] = least(mtus[a], p.PathMTU)
		if c.cuts(p, a) {
			limits[ep] = limit{mtu: least(limits[ep].mtu, p.PathMTU)}
		}
	}
	routed, err := d.setNarrowRoutes(c, mtus)
	for ep, l := range limits {
		l.routed = routed[ep.Addr()]
		limits[ep] = l
	}
	if d.door != nil {
		d.door.limit(limits)
	}
	return err
}

// setSingle says to which endpoints packets leave one by one.
func (d *Device) setSingle(c Config) {
	if d.door == nil {
		return
	}
	m := make(map[netip.AddrPort]bool)
	for _, p := range c.Peers {
		if p.Single && p.PathEndpoint.IsValid() {
			m[p.PathEndpoint] = true
		}
	}
	if b, ok := d.door.Bind.(*bind); ok {
		b.singly(m)
	}
}

// Cuts returns the [Peer.PathEndpoint]s that not every packet of the device
// fits, and the largest IP packet that each carries, in bytes; nil: none.
func (c Config) Cuts() map[netip.AddrPort]int {
	var mtus map[netip.AddrPort]int
	for _, p := range c.Peers {
		if p.PathEndpoint.IsValid() && c.cuts(p, p.PathEndpoint.Addr()) {
			if mtus == nil {
				mtus = make(map[netip.AddrPort]int)
			}
			mtus[p.PathEndpoint] = least(mtus[p.PathEndpoint], p.PathMTU)
		}
	}
	return mtus
}

// cuts says whether packets to a peer at a may be too large for the path.
// WireGuard pads to 16 bytes, but not beyond the device's MTU.
func (c Config) cuts(p Peer, a netip.Addr) bool {
	return p.PathMTU > 0 && p.PathMTU < c.MTU+overhead+headers(a)
}

// overhead is what WireGuard adds to a packet, without UDP and IP, in bytes.
const overhead = 32

// least is the lesser of two MTUs; 0 stands for none.
func least(a, b int) int {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// setNarrowRoutes returns the addresses that have a route now.
func (d *Device) setNarrowRoutes(c Config, mtus map[netip.Addr]int) (routed map[netip.Addr]bool, err error) {
	have, err := d.links.Routes(narrowTable)
	if err != nil {
		return nil, err
	}
	wide, err := d.linkMTUs(len(mtus))
	if err != nil {
		return nil, err
	}
	widest := 0
	for _, mtu := range wide {
		widest = max(widest, mtu)
	}
	routed = make(map[netip.Addr]bool)
	var errs []error
	var want []kernel.Route
	var families [2]bool
	for _, a := range slices.SortedFunc(maps.Keys(mtus), netip.Addr.Compare) {
		if mtus[a] >= widest {
			continue // spares the question
		}
		r, err := d.links.RouteTo(a)
		if err != nil {
			// No way there: no packet either.
			errs = append(errs, missingOK(err))
			continue
		}
		if mtus[a] >= wide[r.Link] {
			continue
		}
		r.Table, r.MTU, r.MTULock, r.OnLink = narrowTable, mtus[a], true, r.Via.IsValid()
		want = append(want, r)
		families[family(a)] = true
	}
	var changed [2]bool
	for _, r := range want {
		if slices.Contains(have, r) {
			routed[r.Dst.Addr()] = true
			continue
		}
		if err := d.links.ReplaceRoute(r); err != nil {
			errs = append(errs, err)
			continue
		}
		routed[r.Dst.Addr()] = true
		changed[family(r.Dst.Addr())] = true
		// One that is there leads where the way was before.
		if !slices.ContainsFunc(have, func(h kernel.Route) bool { return h.Dst == r.Dst }) {
			d.didLocked("the route for fragments to %s was missing", r.Dst.Addr())
		}
	}
	for _, r := range have {
		if !slices.ContainsFunc(want, func(w kernel.Route) bool { return w.Dst == r.Dst }) {
			errs = append(errs, missingOK(d.links.DelRoute(r)))
			changed[family(r.Dst.Addr())] = true
		}
	}
	rules, err := setNarrowRules(d.links, c.FwMark, families)
	for i, done := range rules {
		changed[i] = changed[i] || done
	}
	errs = append(errs, err)
	if d.mode == Kernel && changed[1] {
		// The kernel's WireGuard keeps the IPv6 route that it found until that
		// one is gone, whatever appears in another table. A mark makes it look
		// again, even the same one.
		mark := int(c.FwMark)
		errs = append(errs, d.configureLocked(wgtypes.Config{FirewallMark: &mark}))
	}
	return routed, errors.Join(errs...)
}

// linkMTUs are those of the interfaces that may lead to so many endpoints, by
// name.
func (d *Device) linkMTUs(endpoints int) (map[string]int, error) {
	if endpoints == 0 {
		return nil, nil
	}
	links, err := d.links.Links()
	if err != nil {
		return nil, err
	}
	mtus := make(map[string]int, len(links))
	for _, l := range links {
		if l.Up && l.Name != "lo" && l.Name != d.name {
			mtus[l.Name] = l.MTU
		}
	}
	return mtus, nil
}

// setNarrowRules makes packets with a mark look into our table, for each
// family that has routes there, and says for which that changed.
func setNarrowRules(links Links, mark uint32, families [2]bool) (changed [2]bool, err error) {
	have, err := links.Rules()
	if err != nil {
		return changed, err
	}
	var errs []error
	var want []kernel.Rule
	for i, wanted := range families {
		if wanted {
			want = append(want, kernel.Rule{
				Priority: narrowPriority, Mark: mark, Mask: ^uint32(0), Table: narrowTable, SuppressPrefix: -1, IPv6: i == 1,
			})
		}
	}
	did := func(r kernel.Rule, err error, fine error) {
		if err != nil && !errors.Is(err, fine) {
			errs = append(errs, err)
			return
		}
		i := 0
		if r.IPv6 {
			i = 1
		}
		changed[i] = true
	}
	for _, r := range want {
		if !slices.Contains(have, r) {
			did(r, links.AddRule(r), fs.ErrExist)
		}
	}
	for _, r := range have {
		if r.Priority == narrowPriority && r.Table == narrowTable && !slices.Contains(want, r) {
			did(r, links.DelRule(r), fs.ErrNotExist)
		}
	}
	return changed, errors.Join(errs...)
}

// removeNarrow removes all routes and rules of any Set.
func removeNarrow(links Links) error {
	_, err := setNarrowRules(links, 0, [2]bool{})
	routes, rerr := links.Routes(narrowTable)
	errs := []error{err, rerr}
	for _, r := range routes {
		errs = append(errs, missingOK(links.DelRoute(r)))
	}
	return errors.Join(errs...)
}

// family is 0 for IPv4 and 1 for IPv6.
func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}
