package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Routes lists the unicast routes of a table (0: main), IPv4 and IPv6. Of a
// route with several next hops the first is shown.
func (k *Kernel) Routes(table int) ([]Route, error) {
	table = orMain(table)
	links, err := k.Links()
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Index] = l.Name
	}
	var routes []Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := dump(func() ([]netlink.Route, error) {
			return k.nl.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes of table %d: %w", table, err)
		}
		for _, r := range list {
			if r.Type == unix.RTN_UNICAST {
				routes = append(routes, fromRoute(r, family, names))
			}
		}
	}
	return routes, nil
}

// ReplaceRoute adds a route, or replaces the one of the same table and
// destination.
func (k *Kernel) ReplaceRoute(r Route) error {
	if r.Proto == 0 {
		r.Proto = unix.RTPROT_BOOT
	}
	if err := k.route(r, k.nl.RouteReplace); err != nil {
		return fmt.Errorf("replace route %s dev %s: %w", r.Dst, r.Link, err)
	}
	return nil
}

// DelRoute removes a route, with the zero Proto one of any routing protocol;
// [fs.ErrNotExist] when there is none.
func (k *Kernel) DelRoute(r Route) error {
	if err := k.route(r, k.nl.RouteDel); err != nil {
		return fmt.Errorf("delete route %s dev %s: %w", r.Dst, r.Link, err)
	}
	return nil
}

// RouteTo returns the way that a packet without a mark takes to an address: the
// next hop, the interface and the source. [fs.ErrNotExist] when there is none,
// or none by unicast.
func (k *Kernel) RouteTo(dst netip.Addr) (Route, error) {
	r, err := k.routeTo(dst)
	if err != nil {
		return Route{}, fmt.Errorf("route to %s: %w", dst, err)
	}
	return r, nil
}

func (k *Kernel) routeTo(dst netip.Addr) (Route, error) {
	list, err := k.nl.RouteGet(dst.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return Route{}, fault{err, fs.ErrNotExist} // also of routes that forbid
	case err != nil:
		return Route{}, translate(err)
	case len(list) != 1 || list[0].Type != unix.RTN_UNICAST || list[0].Via != nil:
		return Route{}, fs.ErrNotExist
	}
	l, err := k.nl.LinkByIndex(list[0].LinkIndex)
	if err != nil {
		return Route{}, translate(err)
	}
	return Route{
		Dst:  netip.PrefixFrom(dst, dst.BitLen()),
		Via:  toAddr(list[0].Gw),
		Link: l.Attrs().Name,
		Src:  toAddr(list[0].Src),
	}, nil
}

func (k *Kernel) route(r Route, f func(*netlink.Route) error) error {
	if !r.Dst.IsValid() {
		return errors.New("no destination")
	}
	l, err := k.find(r.Link)
	if err != nil {
		return err
	}
	n := &netlink.Route{
		LinkIndex: l.Attrs().Index,
		Dst:       toIPNet(r.Dst.Masked()),
		Table:     orMain(r.Table),
		MTU:       r.MTU,
		MTULock:   r.MTULock,
		Protocol:  netlink.RouteProtocol(r.Proto),
	}
	if r.OnLink {
		n.Flags = int(netlink.FLAG_ONLINK)
	}
	if r.Scope == ScopeLink {
		n.Scope = unix.RT_SCOPE_LINK
	}
	if r.Via.IsValid() {
		n.Gw = r.Via.AsSlice()
	}
	if r.Src.IsValid() {
		n.Src = r.Src.AsSlice()
	}
	return translate(f(n))
}

func fromRoute(r netlink.Route, family int, names map[int]string) Route {
	index, gw := r.LinkIndex, r.Gw
	if len(r.MultiPath) > 0 {
		index, gw = r.MultiPath[0].LinkIndex, r.MultiPath[0].Gw
	}
	route := Route{
		Dst:     toPrefix(r.Dst),
		Via:     toAddr(gw),
		Link:    names[index],
		Table:   r.Table,
		Src:     toAddr(r.Src),
		MTU:     r.MTU,
		MTULock: r.MTULock,
		OnLink:  r.Flags&int(netlink.FLAG_ONLINK) != 0,
		Proto:   int(r.Protocol),
	}
	if route.Table == unix.RT_TABLE_MAIN {
		route.Table = 0
	}
	if route.Proto == unix.RTPROT_BOOT {
		route.Proto = 0
	}
	if r.Scope == unix.RT_SCOPE_LINK {
		route.Scope = ScopeLink
	}
	if !route.Dst.IsValid() {
		route.Dst = anywhere(family == netlink.FAMILY_V6)
	}
	return route
}

// Rules lists the policy routing rules, IPv4 and IPv6, by priority.
func (k *Kernel) Rules() ([]Rule, error) {
	var rules []Rule
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := dump(func() ([]netlink.Rule, error) { return k.nl.RuleList(family) })
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range list {
			rule := Rule{
				Priority:       r.Priority,
				From:           toPrefix(r.Src),
				Mark:           r.Mark,
				Table:          r.Table,
				SuppressPrefix: r.SuppressPrefixlen,
				IPv6:           family == netlink.FAMILY_V6,
			}
			if r.Mask != nil {
				rule.Mask = *r.Mask
			}
			if r.Dport != nil && r.Dport.Start == r.Dport.End {
				rule.DestPort = r.Dport.Start
			}
			if rule.Table == unix.RT_TABLE_MAIN {
				rule.Table = 0
			}
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

// AddRule adds a policy routing rule; [fs.ErrExist] when there is an equal one.
func (k *Kernel) AddRule(r Rule) error {
	if err := translate(k.nl.RuleAdd(toRule(r))); err != nil {
		return fmt.Errorf("add rule %d: %w", r.Priority, err)
	}
	return nil
}

// DelRule removes a rule; [fs.ErrNotExist] when there is none.
func (k *Kernel) DelRule(r Rule) error {
	if err := translate(k.nl.RuleDel(toRule(r))); err != nil {
		return fmt.Errorf("delete rule %d: %w", r.Priority, err)
	}
	return nil
}

func toRule(r Rule) *netlink.Rule {
	n := netlink.NewRule()
	n.Family = netlink.FAMILY_V4
	if r.IPv6 || r.From.Addr().Is6() {
		n.Family = netlink.FAMILY_V6
	}
	n.Priority = r.Priority
	n.Table = orMain(r.Table)
	n.SuppressPrefixlen = r.SuppressPrefix
	n.Mark = r.Mark
	if r.Mask != 0 {
		n.Mask = &r.Mask
	}
	if r.DestPort != 0 {
		n.Dport = netlink.NewRulePortRange(r.DestPort, r.DestPort)
	}
	if r.From.IsValid() {
		n.Src = toIPNet(r.From.Masked())
	}
	return n
}

func orMain(table int) int {
	if table == 0 {
		return unix.RT_TABLE_MAIN
	}
	return table
}

func anywhere(ipv6 bool) netip.Prefix {
	if ipv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}
