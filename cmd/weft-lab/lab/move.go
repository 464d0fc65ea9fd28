package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Renumber gives a running host other addresses on a network, none of the former
// ones among them: without addresses, free ones of the network's subnets. Routes
// by way of the host follow; /etc/hosts stays, as it would.
func (l *Lab) Renumber(ctx context.Context, host, network string, addresses ...netip.Prefix) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, j, err := l.link(host, network)
	if err != nil {
		return err
	}
	to := l.topology.Hosts[i].Links[j]
	to.Addresses = addresses
	return l.move(ctx, i, j, to, "")
}

// Rehome unplugs a running host from a network and plugs the same interface in
// elsewhere, with other addresses: a machine that is carried to another place.
// A gateway, when one is named, replaces the host's.
func (l *Lab) Rehome(ctx context.Context, host, from string, to Link, gateway string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, j, err := l.link(host, from)
	if err != nil {
		return err
	}
	return l.move(ctx, i, j, to, gateway)
}

// move makes the j-th link of the i-th host what to says; l.mu is held.
func (l *Lab) move(ctx context.Context, i, j int, to Link, gateway string) (err error) {
	t := l.topology
	t.Hosts = slices.Clone(t.Hosts)
	spec := t.Hosts[i]
	h := l.hosts[spec.Name]
	if h.pid <= 0 {
		return fmt.Errorf("host %s is switched off", spec.Name)
	}
	if len(to.Addresses) == 0 {
		if to.Addresses, err = t.free(to.Network); err != nil {
			return fmt.Errorf("host %s: %w", spec.Name, err)
		}
	}
	former := spec.Links[j]
	spec.Links = slices.Clone(spec.Links)
	spec.Links[j] = to
	if gateway != "" {
		spec.Gateway = gateway
	}
	t.Hosts[i] = spec
	if _, err := t.complete(); err != nil {
		return err
	}
	p := portOf(i, j, spec)
	if former.Network != to.Network {
		err = l.replug(h, p, t)
	}
	guest, e := h.nl.LinkByName(p.Guest)
	if e == nil {
		e = h.setAddresses(guest, to.Addresses)
	}
	if err := errors.Join(err, e); err != nil {
		return fmt.Errorf("host %s: move %s to %s: %w", spec.Name, p.Guest, to.Network, err)
	}
	l.setSpec(i, spec)
	return l.follow(ctx)
}

// follow makes routes and faults fit to the topology; l.mu is held.
func (l *Lab) follow(ctx context.Context) error {
	for _, h := range l.hosts {
		if h.pid > 0 {
			if err := h.setRoutes(l.topology); err != nil {
				return err
			}
		}
	}
	if err := l.applyFaults(ctx); err != nil {
		return err
	}
	return l.save()
}

// replug moves a port to the bridge of its network in t. The host sees that its
// cable was out.
func (l *Lab) replug(h *Host, p port, t Topology) error {
	link, err := l.sw.nl.LinkByName(p.Name)
	if err != nil {
		return err
	}
	k := slices.IndexFunc(t.Networks, func(n Network) bool { return n.Name == p.Network })
	br, err := l.sw.nl.LinkByName(bridgeName(k))
	if err != nil {
		return err
	}
	return errors.Join(
		l.sw.nl.LinkSetDown(link), l.sw.nl.LinkSetMaster(link, br), l.sw.nl.LinkSetAlias(link, p.Host+" on "+p.Network),
		setMTU(l.sw.nl, p.Name, p.Link.mtu(t.Networks[k])), setMTU(h.nl, p.Guest, p.Link.mtu(t.Networks[k])),
		l.shapePort(p), l.sw.nl.LinkSetUp(link), h.awaitCarrier())
}

// mtu returns the MTU of a link to a network.
func (l Link) mtu(n Network) int {
	if l.MTU > 0 {
		return min(l.MTU, n.MTU)
	}
	return n.MTU
}

func setMTU(nl *netlink.Handle, name string, mtu int) error {
	link, err := nl.LinkByName(name)
	if err == nil {
		err = nl.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return fmt.Errorf("set the MTU of %s to %d: %w", name, mtu, err)
	}
	return nil
}

// free returns an address of each subnet of a network: above those of all hosts,
// so that it is not one that neighbours still know somebody else by.
func (t Topology) free(network string) ([]netip.Prefix, error) {
	i := slices.IndexFunc(t.Networks, func(n Network) bool { return n.Name == network })
	if i < 0 {
		return nil, fmt.Errorf("there is no network %q", network)
	}
	var out []netip.Prefix
	for _, s := range t.Networks[i].Subnets {
		highest := netip.Addr{}
		for _, h := range t.Hosts {
			for _, a := range h.Addrs() {
				if s.Contains(a) && highest.Less(a) {
					highest = a
				}
			}
		}
		a, err := nth(s, 11)
		if err == nil && highest.IsValid() {
			a, err = after(netip.PrefixFrom(highest, s.Bits()), 1)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// SetMTU changes the MTU of a network and of every link to it whose own is not
// smaller. Below 1280 bytes the kernel takes IPv6 off the links; its addresses
// return with a larger MTU.
func (l *Lab) SetMTU(ctx context.Context, network string, mtu int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.topology
	i := slices.IndexFunc(t.Networks, func(n Network) bool { return n.Name == network })
	if i < 0 {
		return fmt.Errorf("there is no network %q", network)
	}
	t.Networks = slices.Clone(t.Networks)
	t.Networks[i].MTU = mtu
	for _, p := range t.ports() {
		h := l.hosts[p.Host]
		if p.Network != network || h.pid <= 0 {
			continue
		}
		own := p.Link.mtu(t.Networks[i])
		if err := errors.Join(setMTU(l.sw.nl, p.Name, own), setMTU(h.nl, p.Guest, own)); err != nil {
			return err
		}
		guest, err := h.nl.LinkByName(p.Guest)
		if err != nil {
			return err
		}
		if err := h.setAddresses(guest, p.Link.Addresses); err != nil {
			return err
		}
	}
	if err := setMTU(l.sw.nl, bridgeName(i), mtu); err != nil {
		return err
	}
	l.topology = t
	return l.follow(ctx)
}

// setAddresses makes the addresses of a link those, besides link-local ones.
// Where IPv6 is off, its addresses are left out.
func (h *Host) setAddresses(guest netlink.Link, want []netip.Prefix) error {
	// Networks of a lab have no duplicates; waiting for the proof takes seconds.
	name := guest.Attrs().Name
	err := h.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	have, err := h.nl.AddrList(guest, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		p := netip.PrefixFrom(ip.Unmap(), ones)
		if p.Addr().IsLinkLocalUnicast() || slices.Contains(want, p) {
			continue
		}
		if err := h.nl.AddrDel(guest, &a); err != nil {
			return fmt.Errorf("remove address %s: %w", p, err)
		}
	}
	for _, p := range want {
		a, err := netlink.ParseAddr(p.String())
		if err != nil {
			return err
		}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		err = h.nl.AddrReplace(guest, a)
		if p.Addr().Is6() && noIPv6(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	return nil
}

// noIPv6 says whether an error means that IPv6 is switched off by the host's
// sysctls, not possible with the link's MTU, or not in the kernel.
func noIPv6(err error) bool {
	for _, e := range []error{unix.EACCES, unix.EOPNOTSUPP, unix.EINVAL, unix.ENETUNREACH, unix.EHOSTUNREACH} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// routeOrigin marks the routes that a lab makes.
const routeOrigin = 76

// setRoutes makes the routes of a running host those of t.
func (h *Host) setRoutes(t Topology) error {
	filter := &netlink.Route{Protocol: routeOrigin}
	have, err := h.nl.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("host %s: list routes: %w", h.name, err)
	}
	for _, r := range have {
		if err := h.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("host %s: remove route %s: %w", h.name, r, err)
		}
	}
	for _, r := range t.routes(h.Spec()) {
		dst := &net.IPNet{IP: r.to.Addr().AsSlice(), Mask: net.CIDRMask(r.to.Bits(), r.to.Addr().BitLen())}
		err := h.nl.RouteReplace(&netlink.Route{Dst: dst, Gw: r.via.AsSlice(), Protocol: routeOrigin})
		if r.via.Is6() && noIPv6(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("host %s: route to %s via %s: %w", h.name, r.to, r.via, err)
		}
	}
	return nil
}
