package kerneltest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/router/kernel"
)

// World is what [Print] looks at: a *Fake or a *kernel.Kernel.
type World interface {
	Links() ([]kernel.Link, error)
	Addrs(link string) ([]netip.Prefix, error)
	Routes(table int) ([]kernel.Route, error)
	Rules() ([]kernel.Rule, error)
	FDB(link string) ([]kernel.FDB, error)
	MDB(link string) ([]kernel.MDB, error)
	BridgeFDB(bridge string) ([]kernel.BridgeFDB, error)
	Neighbours(link string) ([]kernel.Neighbour, error)
	ProxyARP(port string) (bool, error)
}

// String prints the namespace, see [Print].
func (f *Fake) String() string {
	s, err := Print(f)
	if err != nil {
		return "error: " + err.Error()
	}
	return s
}

// Print writes a namespace as the `ip` and `bridge` commands that would make
// it, one per line, sorted by interface. What the kernel makes by itself is
// left out: the loopback, IPv6 link-local addresses, and the routes and rules
// that it starts with.
func Print(w World) (string, error) {
	links, err := w.Links()
	if err != nil {
		return "", err
	}
	slices.SortFunc(links, func(a, b kernel.Link) int { return strings.Compare(a.Name, b.Name) })
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	var b strings.Builder
	for _, l := range links {
		if l.Name == "lo" {
			continue
		}
		if err := printLink(&b, w, l, names); err != nil {
			return "", err
		}
	}
	rules, err := w.Rules()
	if err != nil {
		return "", err
	}
	tables := []int{0}
	for _, r := range rules {
		if r.Table < 253 && !slices.Contains(tables, r.Table) {
			tables = append(tables, r.Table)
		} else if r.Table > 255 && !slices.Contains(tables, r.Table) {
			tables = append(tables, r.Table)
		}
		if r.Priority != 0 && r.Priority < 32766 {
			fmt.Fprintln(&b, commandRule("add", r))
		}
	}
	for _, t := range tables {
		routes, err := w.Routes(t)
		if err != nil {
			return "", err
		}
		slices.SortFunc(routes, func(a, b kernel.Route) int { return strings.Compare(a.Dst.String(), b.Dst.String()) })
		for _, r := range routes {
			if r.Proto != protoKernel {
				fmt.Fprintln(&b, commandRoute("add", r))
			}
		}
	}
	return b.String(), nil
}

func printLink(b *strings.Builder, w World, l kernel.Link, names map[int]string) error {
	fmt.Fprintln(b, commandAdd(l))
	if l.Master != 0 {
		fmt.Fprintf(b, "ip link set %s master %s\n", l.Name, names[l.Master])
	}
	if l.Alias != "" {
		fmt.Fprintf(b, "ip link set %s alias %q\n", l.Name, l.Alias)
	}
	if l.Deaf {
		fmt.Fprintln(b, commandDeaf(l.Name))
	}
	if l.Up {
		fmt.Fprintf(b, "ip link set %s up\n", l.Name)
	}
	addrs, err := w.Addrs(l.Name)
	if err != nil {
		return err
	}
	slices.SortFunc(addrs, netip.Prefix.Compare)
	for _, p := range addrs {
		if !isIPv6(p) || !p.Addr().IsLinkLocalUnicast() {
			fmt.Fprintf(b, "ip addr add %s dev %s\n", p, l.Name)
		}
	}
	lines, err := told(w, l, names)
	if err != nil {
		return err
	}
	slices.Sort(lines)
	for _, line := range lines {
		fmt.Fprintln(b, line)
	}
	return nil
}

// told are the commands of entries that nobody learnt, but for those of VXLAN
// devices.
func told(w World, l kernel.Link, names map[int]string) (lines []string, err error) {
	if l.Kind == "vxlan" {
		entries, err := w.FDB(l.Name)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			lines = append(lines, commandFDB("append", l.Name, e))
		}
		members, err := w.MDB(l.Name)
		if err != nil {
			return nil, err
		}
		for _, e := range members {
			lines = append(lines, commandMDB("replace", l.Name, e))
		}
	}
	if l.Master != 0 {
		on, err := w.ProxyARP(l.Name)
		if err != nil {
			return nil, err
		}
		if on {
			lines = append(lines, commandProxyARP(l.Name, on))
		}
	}
	if l.Kind == "bridge" {
		entries, err := w.BridgeFDB(l.Name)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Told {
				lines = append(lines, commandBridgeFDB("replace", names[e.Port], e.MAC))
			}
		}
	}
	neighbours, err := w.Neighbours(l.Name)
	if err != nil {
		return nil, err
	}
	for _, n := range neighbours {
		lines = append(lines, commandNeighbour("replace", l.Name, n))
	}
	return lines, nil
}

func commandAdd(l kernel.Link) string {
	s := "ip link add " + l.Name
	if l.MAC != (kernel.MAC{}) {
		s += " address " + l.MAC.String()
	}
	s += fmt.Sprintf(" mtu %d type %s", l.MTU, l.Kind)
	if l.Kind == "vxlan" {
		s += fmt.Sprintf(" id %d dstport %d srcport %d %d local %s", l.VNI, l.Port, l.PortLow, l.PortHigh, l.Local)
		if !l.Learning {
			s += " nolearning"
		}
		if l.ZeroChecksums {
			s += " udp6zerocsumtx udp6zerocsumrx"
		}
		if l.Limit != 0 {
			s += fmt.Sprintf(" maxaddress %d", l.Limit)
		}
	}
	return s
}

func commandFDB(verb, link string, e kernel.FDB) string {
	s := fmt.Sprintf("bridge fdb %s %s dev %s dst %s", verb, e.MAC, link, e.Dst)
	if e.VNI != 0 {
		s += fmt.Sprintf(" vni %d", e.VNI)
	}
	switch {
	case e.Permanent:
	case e.Fixed:
		s += " static"
	default:
		s += " dynamic"
	}
	return s
}

func commandRoute(verb string, r kernel.Route) string {
	s := fmt.Sprintf("ip route %s %s", verb, r.Dst)
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	s += " dev " + r.Link
	if r.OnLink {
		s += " onlink"
	}
	if r.Table != 0 {
		s += fmt.Sprintf(" table %d", r.Table)
	}
	if r.Src.IsValid() {
		s += " src " + r.Src.String()
	}
	switch {
	case r.MTULock:
		s += fmt.Sprintf(" mtu lock %d", r.MTU)
	case r.MTU != 0:
		s += fmt.Sprintf(" mtu %d", r.MTU)
	}
	if r.Scope == kernel.ScopeLink {
		s += " scope link"
	}
	if r.Proto != 0 {
		s += fmt.Sprintf(" proto %d", r.Proto)
	}
	return s
}

func commandRule(verb string, r kernel.Rule) string {
	s := "ip"
	if r.IPv6 {
		s += " -6"
	}
	s += fmt.Sprintf(" rule %s priority %d", verb, r.Priority)
	if r.From.IsValid() {
		s += " from " + r.From.String()
	}
	if r.Mark != 0 || r.Mask != 0 {
		s += fmt.Sprintf(" fwmark %#x/%#x", r.Mark, r.Mask)
	}
	if r.DestPort != 0 {
		s += fmt.Sprintf(" dport %d", r.DestPort)
	}
	table := "main"
	if r.Table != 0 {
		table = fmt.Sprint(r.Table)
	}
	s += " lookup " + table
	if r.SuppressPrefix >= 0 {
		s += fmt.Sprintf(" suppress_prefixlength %d", r.SuppressPrefix)
	}
	return s
}
