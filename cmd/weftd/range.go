package main

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/router"
	"github.com/weftnet/weft/router/kernel"
)

// checkRange refuses the default address range where the host already routes a
// part of it to somewhere else: containers would get addresses that this host
// reaches elsewhere. Somebody who named the range is only warned.
func (d *daemon) checkRange() error {
	s := d.settings
	if !s.Range.IsValid() {
		return nil
	}
	routes, err := d.kernel.Routes(0)
	if err != nil {
		return err
	}
	r, ok := overlap(routes, s.Range)
	if !ok {
		return nil
	}
	what := fmt.Sprintf("the address range %s overlaps this host's route to %s by %s", s.Range, r.Dst, r.Link)
	if s.Sources["ipalloc-range"] == "" {
		return fmt.Errorf("%s; choose another with --ipalloc-range, the same on every host, or give this one there to use it all the same", what)
	}
	d.log.Warn("address range overlaps a route", "range", s.Range, "route", r.Dst, "link", r.Link)
	d.notes = append(d.notes, what+": containers and hosts there cannot reach each other")
	return nil
}

// overlap returns the first route into the range that does not lead to the
// switch. A default route is everybody's.
func overlap(routes []kernel.Route, within netip.Prefix) (kernel.Route, bool) {
	for _, r := range routes {
		ours := r.Link == router.BridgeName || r.Link == router.WireGuardName || r.Link == router.VXLANName || r.Link == router.MulticastName
		if !ours && r.Dst.IsValid() && r.Dst.Bits() > 0 && r.Dst.Overlaps(within) {
			return r, true
		}
	}
	return kernel.Route{}, false
}
