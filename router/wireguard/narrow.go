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

// setNarrow gives each endpoint whose path is too narrow for the largest
// packet of the device a route with the path's MTU, and removes others.
func (d *Device) setNarrow(c Config) error {
	limits := make(map[netip.AddrPort]int)
	mtus := make(map[netip.Addr]int)
	for _, p := range c.Peers {
		ep := d.knownLocked(p.PublicKey).endpoint
		a := ep.Addr()
		// WireGuard pads to 16 bytes, but not beyond the device's MTU.
		if p.PathMTU == 0 || c.FwMark == 0 || !ep.IsValid() || p.PathMTU >= c.MTU+overhead+headers(a) {
			continue
		}
		limits[ep] = least(limits[ep], p.PathMTU)
		mtus[a] = least(mtus[a], p.PathMTU)
	}
	err := d.setNarrowRoutes(c, mtus)
	if d.door != nil {
		d.door.limit(limits)
	}
	return err
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

func (d *Device) setNarrowRoutes(c Config, mtus map[netip.Addr]int) error {
	have, err := d.links.Routes(narrowTable)
	if err != nil {
		return err
	}
	var errs []error
	var want []kernel.Route
	var families [2]bool
	for _, a := range slices.SortedFunc(maps.Keys(mtus), netip.Addr.Compare) {
		r, err := d.links.RouteTo(a)
		if err != nil {
			// No way there: no packet either.
			errs = append(errs, missingOK(err))
			continue
		}
		r.Table, r.MTU, r.MTULock, r.OnLink = narrowTable, mtus[a], true, r.Via.IsValid()
		want = append(want, r)
		families[family(a)] = true
	}
	var changed [2]bool
	for _, r := range want {
		if slices.Contains(have, r) {
			continue
		}
		if err := d.links.ReplaceRoute(r); err != nil {
			errs = append(errs, err)
			continue
		}
		changed[family(r.Dst.Addr())] = true
		d.didLocked("the route for fragments to %s was missing", r.Dst.Addr())
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
	return errors.Join(errs...)
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
