package wireguard

import (
	"errors"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
)

// The kernel's VXLAN port tells the sender of a frame that it is too large, and
// it does so by the MTU of the route that it finds to the peer. What cannot be
// told it would drop by the same route. So there are two more routes to a peer
// whose path is narrow: one with the MTU that passes whole, for the port when it
// looks, and one as wide as the switch, for what it sends all the same, which is
// cut below the tunnel. Packets find them by their marks.
//
// Neither can be made narrower by a message about the other: the kernel notes
// what such messages say for packets without a mark (IPv6 knows no locked MTU).
const (
	toldTable      = 6785
	wholeTable     = 6786
	toldPriority   = 780 // before the switch's own rules
	wholePriority  = 781
	leastToldInner = 576 // an IPv4 path is taken for no narrower (RFC 791); over IPv6 it is 1280
)

// MinTold is the least [Peer.Told] that makes a difference. A container cannot
// be told of less than 576 bytes.
const MinTold = leastToldInner + fdb.Encapsulation

// told is the MTU of what frames meet on the way to a peer, and whether it is
// less than what may be sent.
func (c Config) told(p Peer) (mtu int, narrow bool) {
	return p.Told, c.ToldMark != 0 && p.Told >= MinTold && p.Told < c.wide(p)
}

// LeastTold returns the least [Peer.Told] that makes a difference; 0: none does.
func (c Config) LeastTold() int {
	least := 0
	for _, p := range c.Peers {
		if told, narrow := c.told(p); narrow && (least == 0 || told < least) {
			least = told
		}
	}
	return least
}

// wide is the MTU of the widest route to a peer.
func (c Config) wide(p Peer) int {
	if p.MTU == 0 {
		return c.MTU
	}
	return max(MinMTU, min(p.MTU, c.MTU))
}

// setFrames gives each peer whose path is narrow its two routes and removes
// others.
func (d *Device) setFrames(c Config) error {
	var want []kernel.Route
	for _, p := range c.Peers {
		if told, narrow := c.told(p); narrow {
			dst := netip.PrefixFrom(p.Overlay, 128)
			// The wide one first: without it the narrow one loses packets.
			want = append(want,
				kernel.Route{Dst: dst, Via: hop(), Link: d.name, Table: wholeTable, MTU: c.wide(p)},
				kernel.Route{Dst: dst, Via: hop(), Link: d.name, Table: toldTable, MTU: told},
			)
		}
	}
	var have []kernel.Route
	var errs []error
	for _, table := range []int{toldTable, wholeTable} { // also the order of removal
		list, err := d.links.Routes(table)
		have, errs = append(have, list...), append(errs, err)
	}
	same := func(a, b kernel.Route) bool { return a.Dst == b.Dst && a.Table == b.Table && a.Link == b.Link }
	for _, r := range want {
		i := slices.IndexFunc(have, func(h kernel.Route) bool { return same(h, r) })
		if i >= 0 && have[i] == r {
			continue
		}
		if err := d.links.ReplaceRoute(r); err != nil {
			errs = append(errs, err)
			continue
		}
		if i < 0 {
			d.didLocked("a route for frames to %s was missing", r.Dst.Addr())
		}
	}
	added, err := setFrameRules(d.links, c, len(want) > 0)
	if added && len(have) > 0 {
		d.didLocked("a rule for frames was missing")
	}
	errs = append(errs, err)
	for _, r := range have {
		if !slices.ContainsFunc(want, func(w kernel.Route) bool { return same(w, r) }) {
			errs = append(errs, missingOK(d.links.DelRoute(r)))
		}
	}
	return errors.Join(errs...)
}

// setFrameRules leads packets with the marks into the two tables, or none.
func setFrameRules(links Links, c Config, wanted bool) (added bool, err error) {
	have, err := links.Rules()
	if err != nil {
		return false, err
	}
	var want []kernel.Rule
	if wanted {
		rule := kernel.Rule{Mask: c.FrameMask, SuppressPrefix: -1, IPv6: true}
		rule.Priority, rule.Mark, rule.Table = wholePriority, c.WholeMark, wholeTable
		want = append(want, rule)
		rule.Priority, rule.Mark, rule.Table = toldPriority, c.ToldMark, toldTable
		want = append(want, rule)
	}
	var errs []error
	for _, r := range want {
		if !slices.Contains(have, r) {
			if err := links.AddRule(r); !errors.Is(err, fs.ErrExist) {
				added = added || err == nil
				errs = append(errs, err)
			}
		}
	}
	for _, r := range have {
		ours := r.Priority == toldPriority && r.Table == toldTable || r.Priority == wholePriority && r.Table == wholeTable
		if ours && !slices.Contains(want, r) {
			errs = append(errs, missingOK(links.DelRule(r)))
		}
	}
	return added, errors.Join(errs...)
}

// removeFrames removes all routes and rules of any Set.
func removeFrames(links Links) error {
	_, err := setFrameRules(links, Config{}, false)
	errs := []error{err}
	for _, table := range []int{toldTable, wholeTable} {
		routes, err := links.Routes(table)
		errs = append(errs, err)
		for _, r := range routes {
			errs = append(errs, missingOK(links.DelRoute(r)))
		}
	}
	return errors.Join(errs...)
}
