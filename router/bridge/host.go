package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/router/kernel"
)

// Answers of the name server find their container by two rules: first what the
// host knows (containers on other bridges), but not by its default route; then
// the switch. So the host itself gets no route to containers.
const (
	table        = 6783
	priorityMain = 783
	priorityOurs = 784
)

// Turning forwarding on or off also sets the second.
const (
	ipForward       = "net/ipv4/ip_forward"
	acceptRedirects = "net/ipv4/conf/all/accept_redirects"
)

// setLink makes the bridge and keeps it up, without IPv6: an interface with
// IPv6 on has an address by itself, at which every container reaches every
// service of its host.
func (b *Bridge) setLink(c Config) (repaired []string, err error) {
	did := func(format string, args ...any) { repaired = append(repaired, fmt.Sprintf(format, args...)) }
	made := false
	l, err := b.kernel.Link(c.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		made = true
		if err := b.kernel.AddBridge(c.Name, c.MAC, c.MTU); err != nil {
			return nil, err
		}
		did("bridge %s was gone", c.Name)
		if l, err = b.kernel.Link(c.Name); err != nil {
			return repaired, err
		}
	case err != nil:
		return nil, err
	case l.Kind != "bridge":
		return nil, fmt.Errorf("an interface %s of another kind (%q) is in the way: rename or remove it", c.Name, l.Kind)
	}
	var errs []error
	try := func(err error, format string, args ...any) {
		if err != nil {
			errs = append(errs, err)
			return
		}
		did(format, args...)
	}
	if l.MAC != c.MAC {
		try(b.kernel.SetMAC(c.Name, c.MAC), "address of bridge %s was %s", c.Name, l.MAC)
	}
	if l.MTU != c.MTU {
		try(b.kernel.SetMTU(c.Name, c.MTU), "mtu of bridge %s was %d", c.Name, l.MTU)
	}
	words, err := b.setPortSysctls(c, l)
	repaired, errs = append(repaired, words...), append(errs, err)
	if !l.Up {
		try(b.kernel.SetUp(c.Name, true), "bridge %s was down", c.Name)
	}
	if made {
		repaired = repaired[:1] // the rest follows from it
	}
	return repaired, errors.Join(errs...)
}

// setPortSysctls turns IPv6 off on the bridge and on every port of it that is
// ours, and keeps the bridge from answering ARP for other addresses of the
// host.
func (b *Bridge) setPortSysctls(c Config, bridge kernel.Link) (repaired []string, err error) {
	links, err := b.kernel.Links()
	if err != nil {
		return nil, err
	}
	var errs []error
	set := func(key, value, what string) {
		v, err := b.kernel.Sysctl(key)
		if err == nil && v != value {
			if err = b.kernel.SetSysctl(key, value); err == nil {
				repaired = append(repaired, what)
			}
		}
		// Gone: the interface, since the list was made, or IPv6, from the kernel.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, l := range links {
		if l.Index == bridge.Index || l.Name == c.VXLAN || l.Master == bridge.Index && isPort(l.Name) {
			set("net/ipv6/conf/"+l.Name+"/disable_ipv6", "1", fmt.Sprintf("IPv6 was on at %s", l.Name))
		}
	}
	set("net/ipv4/conf/"+c.Name+"/arp_ignore", "1", fmt.Sprintf("bridge %s answered for other addresses of the host", c.Name))
	return repaired, errors.Join(errs...)
}

// setAddrs gives the bridge the address of the name server and what is
// exposed, and nothing else.
func (b *Bridge) setAddrs(c Config) (repaired []string, err error) {
	want := slices.Clone(c.Exposed)
	if c.DNS.IsValid() {
		want = append(want, netip.PrefixFrom(c.DNS, 32))
	}
	have, err := b.kernel.Addrs(c.Name)
	if err != nil {
		return nil, err
	}
	var errs []error
	add := func() {
		for _, p := range want {
			if slices.Contains(have, p) {
				continue
			}
			if err := b.kernel.AddAddr(c.Name, p, true); err != nil && !errors.Is(err, fs.ErrExist) {
				errs = append(errs, err)
				continue
			}
			repaired = append(repaired, fmt.Sprintf("address %s was missing from bridge %s", p, c.Name))
			if p.Addr() == c.DNS {
				continue // of no interest to anybody but us
			}
			if err := b.kernel.Announce(c.Name, p.Addr()); err != nil {
				b.log.Warn("not announced", "address", p.Addr(), "err", err)
			}
		}
	}
	add()
	var removed bool
	for _, p := range have {
		if slices.Contains(want, p) {
			continue
		}
		if err := b.kernel.DelAddr(c.Name, p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		removed = true
		repaired = append(repaired, fmt.Sprintf("address %s was left on bridge %s", p, c.Name))
	}
	if removed {
		// With the first address of a subnet the kernel removes the others.
		if have, err = b.kernel.Addrs(c.Name); err != nil {
			return repaired, errors.Join(append(errs, err)...)
		}
		add()
	}
	return repaired, errors.Join(errs...)
}

func wantedRules(dns netip.Addr) []kernel.Rule {
	if !dns.IsValid() {
		return nil
	}
	from := netip.PrefixFrom(dns, 32)
	return []kernel.Rule{
		{Priority: priorityMain, From: from, SuppressPrefix: 0},
		{Priority: priorityOurs, From: from, Table: table, SuppressPrefix: -1},
	}
}

// isOurs recognizes the rules of any Set, also of another address.
func isOurs(r kernel.Rule) bool {
	if r.IPv6 || r.From.Bits() != 32 {
		return false
	}
	return r.Priority == priorityOurs && r.Table == table ||
		r.Priority == priorityMain && r.Table == 0 && r.SuppressPrefix == 0
}

func (b *Bridge) setRoutes(c Config) (repaired []string, err error) {
	var errs []error
	if c.DNS.IsValid() {
		way := kernel.Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Link: c.Name, Table: table, Scope: kernel.ScopeLink}
		have, err := b.kernel.Routes(table)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(have, way) {
			if err := b.kernel.ReplaceRoute(way); err != nil {
				errs = append(errs, err)
			} else {
				repaired = append(repaired, "the route of the name server's answers was missing")
			}
		}
	} else if err := b.removeWays(); err != nil {
		errs = append(errs, err)
	}
	words, err := b.setRules(wantedRules(c.DNS))
	return append(repaired, words...), errors.Join(append(errs, err)...)
}

func (b *Bridge) setRules(want []kernel.Rule) (repaired []string, err error) {
	have, err := b.kernel.Rules()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, r := range want {
		if slices.Contains(have, r) {
			continue
		}
		if err := b.kernel.AddRule(r); err != nil && !errors.Is(err, fs.ErrExist) {
			errs = append(errs, err)
			continue
		}
		repaired = append(repaired, fmt.Sprintf("routing rule %d was missing", r.Priority))
	}
	for _, r := range have {
		if !isOurs(r) || slices.Contains(want, r) {
			continue
		}
		if err := b.kernel.DelRule(r); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		repaired = append(repaired, fmt.Sprintf("routing rule %d was left", r.Priority))
	}
	return repaired, errors.Join(errs...)
}

// removeWays empties our routing table.
func (b *Bridge) removeWays() error {
	routes, err := b.kernel.Routes(table)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range routes {
		if err := b.kernel.DelRoute(r); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// setForwarding turns forwarding on for an exposed host. It is not turned off
// by hiding: Docker leaves it alone when it finds it on, and needs it.
func (b *Bridge) setForwarding(c Config) (repaired []string, err error) {
	if len(c.Exposed) == 0 {
		return nil, nil
	}
	v, err := b.kernel.Sysctl(ipForward)
	if err != nil || v == "1" {
		return nil, err
	}
	redirects, err := b.kernel.Sysctl(acceptRedirects)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(b.journal.Record(acceptRedirects, redirects), b.journal.Record(ipForward, v)); err != nil {
		return nil, fmt.Errorf("record former sysctls: %w", err)
	}
	if err := b.kernel.SetSysctl(ipForward, "1"); err != nil {
		return nil, err
	}
	return []string{"forwarding of IPv4 was off"}, nil
}

func (b *Bridge) removeLink(name string) error {
	l, err := b.kernel.Link(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case l.Kind != "bridge":
		return nil
	}
	return b.kernel.DelLink(name)
}

func (b *Bridge) removeRoutes() error {
	_, err := b.setRules(nil)
	return errors.Join(err, b.removeWays())
}

func (b *Bridge) restoreSysctls() error {
	recorded, err := b.journal.Recorded()
	if err != nil {
		return fmt.Errorf("former sysctls: %w", err)
	}
	keys := slices.Sorted(maps.Keys(recorded))
	if i := slices.Index(keys, ipForward); i > 0 {
		keys = append([]string{ipForward}, slices.Delete(keys, i, i+1)...)
	}
	var errs []error
	for _, key := range keys {
		err := b.kernel.SetSysctl(key, recorded[key])
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = b.journal.Forget(key)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("restore %s to %s: %w", key, recorded[key], err))
		}
	}
	return errors.Join(errs...)
}
