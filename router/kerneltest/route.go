package kerneltest

import (
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"syscall"

	"github.com/weftnet/weft/router/kernel"
)

// protoKernel marks the routes that come with addresses.
const protoKernel = 2

// Addrs is [kernel.Kernel.Addrs].
func (f *Fake) Addrs(name string) ([]netip.Prefix, error) {
	return list(f, name, "list addresses", func(l *link) []netip.Prefix { return l.addrs })
}

// AddAddr is [kernel.Kernel.AddAddr].
func (f *Fake) AddAddr(name string, p netip.Prefix, _ bool) error {
	return f.change(name, func(l *link) error {
		if slices.Contains(l.addrs, p) {
			return syscall.EEXIST
		}
		if isIPv6(p) && f.sysctls["net/ipv6/conf/"+name+"/disable_ipv6"] == "1" {
			return syscall.EACCES
		}
		l.addrs = append(l.addrs, p)
		f.did(kernel.AddrChanged, "ip addr add %s dev %s", p, name)
		return nil
	})
}

// DelAddr is [kernel.Kernel.DelAddr].
func (f *Fake) DelAddr(name string, p netip.Prefix) error {
	return f.change(name, func(l *link) error {
		i := slices.Index(l.addrs, p)
		if i < 0 {
			return syscall.ENOENT
		}
		l.addrs = slices.Delete(l.addrs, i, i+1)
		f.did(kernel.AddrChanged, "ip addr del %s dev %s", p, name)
		f.dropRoutes(func(r kernel.Route) bool { return r.Link == name && r.Src == p.Addr() })
		return nil
	})
}

// Routes is [kernel.Kernel.Routes].
func (f *Fake) Routes(table int) ([]kernel.Route, error) {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return nil, err
	}
	var routes []kernel.Route
	if table == 0 {
		routes = f.connected()
	}
	for _, r := range f.routes {
		if r.Table == table {
			routes = append(routes, r)
		}
	}
	return routes, nil
}

// connected are the routes that the addresses bring.
func (f *Fake) connected() []kernel.Route {
	var routes []kernel.Route
	for _, l := range f.links {
		for _, p := range l.addrs {
			switch {
			case !l.Up:
			case isIPv6(p):
				routes = append(routes, kernel.Route{Dst: p.Masked(), Link: l.Name, Proto: protoKernel})
			case !p.IsSingleIP():
				routes = append(routes, kernel.Route{Dst: p.Masked(), Link: l.Name, Src: p.Addr(), Scope: kernel.ScopeLink, Proto: protoKernel})
			}
		}
	}
	return routes
}

// RouteTo is [kernel.Kernel.RouteTo]; it knows the main table only.
func (f *Fake) RouteTo(dst netip.Addr) (kernel.Route, error) {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return kernel.Route{}, err
	}
	var best *kernel.Route
	for _, r := range append(f.connected(), f.routes...) {
		if r.Table == 0 && r.Dst.Contains(dst) && (best == nil || r.Dst.Bits() > best.Dst.Bits()) {
			best = &r
		}
	}
	if best == nil {
		return kernel.Route{}, fmt.Errorf("route to %s: %w", dst, fs.ErrNotExist)
	}
	way := kernel.Route{Dst: netip.PrefixFrom(dst, dst.BitLen()), Via: best.Via, Link: best.Link, Src: best.Src}
	if !way.Src.IsValid() {
		way.Src = f.sourceOf(best.Link, dst.Is6())
	}
	return way, nil
}

// sourceOf is the address that packets out of a link come from.
func (f *Fake) sourceOf(name string, ipv6 bool) netip.Addr {
	for _, l := range f.links {
		for _, p := range l.addrs {
			if l.Name == name && isIPv6(p) == ipv6 {
				return p.Addr()
			}
		}
	}
	return netip.Addr{}
}

// ReplaceRoute is [kernel.Kernel.ReplaceRoute].
func (f *Fake) ReplaceRoute(r kernel.Route) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	l, err := f.find(r.Link)
	if err == nil && !l.Up {
		err = syscall.ENETDOWN
	}
	if err != nil {
		return fmt.Errorf("replace route %s dev %s: %w", r.Dst, r.Link, err)
	}
	r.Dst = r.Dst.Masked()
	f.routes = slices.DeleteFunc(f.routes, func(x kernel.Route) bool { return x.Table == r.Table && x.Dst == r.Dst })
	f.routes = append(f.routes, r)
	f.did(kernel.RouteChanged, "%s", commandRoute("replace", r))
	return nil
}

// DelRoute is [kernel.Kernel.DelRoute].
func (f *Fake) DelRoute(r kernel.Route) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	if _, err := f.find(r.Link); err != nil {
		return fmt.Errorf("delete route %s dev %s: %w", r.Dst, r.Link, err)
	}
	r.Dst = r.Dst.Masked()
	if !f.dropRoutes(func(x kernel.Route) bool { return x.Table == r.Table && x.Dst == r.Dst && x.Link == r.Link }) {
		return fmt.Errorf("delete route %s dev %s: %w", r.Dst, r.Link, syscall.ENOENT)
	}
	f.did(kernel.RouteChanged, "%s", commandRoute("del", r))
	return nil
}

// dropRoutes removes routes without a word, as the kernel does when what they
// depend on goes.
func (f *Fake) dropRoutes(which func(kernel.Route) bool) bool {
	n := len(f.routes)
	f.routes = slices.DeleteFunc(f.routes, which)
	return len(f.routes) != n
}

// Rules is [kernel.Kernel.Rules].
func (f *Fake) Rules() ([]kernel.Rule, error) {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return nil, err
	}
	return slices.Clone(f.rules), nil
}

// AddRule is [kernel.Kernel.AddRule].
func (f *Fake) AddRule(r kernel.Rule) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	r.IPv6 = r.IPv6 || r.From.Addr().Is6()
	if slices.Contains(f.rules, r) {
		return fmt.Errorf("add rule %d: %w", r.Priority, syscall.EEXIST)
	}
	f.rules = append(f.rules, r)
	slices.SortStableFunc(f.rules, func(a, b kernel.Rule) int {
		if a.IPv6 != b.IPv6 {
			if a.IPv6 {
				return 1
			}
			return -1
		}
		return a.Priority - b.Priority
	})
	f.did(kernel.RuleChanged, "%s", commandRule("add", r))
	return nil
}

// DelRule is [kernel.Kernel.DelRule].
func (f *Fake) DelRule(r kernel.Rule) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	r.IPv6 = r.IPv6 || r.From.Addr().Is6()
	i := slices.Index(f.rules, r)
	if i < 0 {
		return fmt.Errorf("delete rule %d: %w", r.Priority, syscall.ENOENT)
	}
	f.rules = slices.Delete(f.rules, i, i+1)
	f.did(kernel.RuleChanged, "%s", commandRule("del", r))
	return nil
}
