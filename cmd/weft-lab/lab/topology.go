package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"
)

// Topology says what a lab consists of. The zero values of its parts are
// filled in by [Up].
type Topology struct {
	// Name of the lab: small letters, digits and dashes.
	Name     string     `json:"name" yaml:"name"`
	Networks []Network  `json:"networks" yaml:"networks"`
	Hosts    []HostSpec `json:"hosts" yaml:"hosts"`
	// Faults that are there from the beginning; [Lab.HealAll] ends them like
	// any other.
	Faults []Fault `json:"faults,omitempty" yaml:"faults,omitempty"`
}

// Network is one Ethernet segment.
type Network struct {
	Name string `json:"name" yaml:"name"`
	// Subnets from which hosts without addresses of their own get one each.
	Subnets []netip.Prefix `json:"subnets,omitempty" yaml:"subnets,omitempty"`
	MTU     int            `json:"mtu,omitempty" yaml:"mtu,omitempty"` // 0: 1500
}

// HostSpec says what a host is made of.
type HostSpec struct {
	Name  string `json:"name" yaml:"name"`
	Links []Link `json:"links" yaml:"links"`
	// Forward makes the host a router. Routers know the networks of all others
	// that they can reach, except those behind a NAT.
	Forward bool `json:"forward,omitempty" yaml:"forward,omitempty"`
	// Gateway names the host that forwards for this one; it must be on a
	// network of this host.
	Gateway string `json:"gateway,omitempty" yaml:"gateway,omitempty"`
	Edge    `yaml:",inline"`
	// Sysctls to set before the links come, e.g. "net/ipv6/conf/all/disable_ipv6".
	Sysctls map[string]string `json:"sysctls,omitempty" yaml:"sysctls,omitempty"`
	// Resolvers for /etc/resolv.conf.
	Resolvers []netip.Addr `json:"resolvers,omitempty" yaml:"resolvers,omitempty"`
	// Systemd makes it a host with a file system of its own in which Debian's
	// systemd is the first process, see [SystemRoot].
	Systemd bool `json:"systemd,omitempty" yaml:"systemd,omitempty"`
	// Containers to start with the host.
	Containers []string `json:"containers,omitempty" yaml:"containers,omitempty"`
}

// Link plugs a host into a network. It is called eth0, eth1, … in the order of
// the links.
type Link struct {
	Network string `json:"network" yaml:"network"`
	// Addresses; none: one from each subnet of the network.
	Addresses []netip.Prefix `json:"addresses,omitempty" yaml:"addresses,omitempty"`
	// MTU of this link alone; 0: that of the network. What is longer is lost on
	// its way to the host, and nobody is told.
	MTU   int `json:"mtu,omitempty" yaml:"mtu,omitempty"`
	Shape `yaml:",inline"`
}

// Shape limits what the network sends towards a host. The zero value limits
// nothing.
type Shape struct {
	// RateKbit in kilobits per second; 0: no limit.
	RateKbit uint64 `json:"rate_kbit,omitempty" yaml:"rate_kbit,omitempty"`
	// Delay of every packet. Without netem in the kernel a lab that is not kept
	// does it by itself, at some 100,000 packets a second.
	Delay time.Duration `json:"delay,omitempty" yaml:"delay,omitempty"`
}

// Flat is the topology of n hosts host1 … hostN on one network "lan" that
// carries IPv4 and IPv6.
func Flat(name string, n int) Topology {
	t := Topology{Name: name, Networks: []Network{{
		Name: "lan",
		Subnets: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64"),
		},
	}}}
	for i := range n {
		t.Hosts = append(t.Hosts, HostSpec{Name: fmt.Sprintf("host%d", i+1), Links: []Link{{Network: "lan"}}})
	}
	return t
}

// complete checks t and returns a copy in which every address is filled in.
func (t Topology) complete() (Topology, error) {
	if !validName(t.Name) {
		return t, fmt.Errorf("lab name %q: use small letters, digits and dashes, at most 40", t.Name)
	}
	t.Networks = slices.Clone(t.Networks)
	nets := map[string]*Network{}
	for i := range t.Networks {
		n := &t.Networks[i]
		if !validName(n.Name) || nets[n.Name] != nil {
			return t, fmt.Errorf("network name %q: bad or used twice", n.Name)
		}
		if n.MTU == 0 {
			n.MTU = 1500
		}
		nets[n.Name] = n
	}
	t.Hosts = slices.Clone(t.Hosts)
	seen := map[string]bool{}
	next := map[string]int{}
	for i := range t.Hosts {
		h := &t.Hosts[i]
		if !validName(h.Name) || seen[h.Name] {
			return t, fmt.Errorf("host name %q: bad or used twice", h.Name)
		}
		seen[h.Name] = true
		if err := h.complete(nets, next); err != nil {
			return t, fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	for _, h := range t.Hosts {
		if h.Gateway == "" {
			continue
		}
		if !seen[h.Gateway] {
			return t, fmt.Errorf("host %s: there is no gateway %q", h.Name, h.Gateway)
		}
		if len(t.gateways(h)) == 0 {
			return t, fmt.Errorf("host %s: gateway %s is on none of its networks", h.Name, h.Gateway)
		}
	}
	t.Faults = slices.Clone(t.Faults)
	for _, f := range t.Faults {
		if err := f.check(t); err != nil {
			return t, err
		}
	}
	return t, nil
}

// complete checks h and fills in its addresses; next counts the hosts of each
// network.
func (h *HostSpec) complete(nets map[string]*Network, next map[string]int) error {
	for _, c := range h.Containers {
		if !validName(c) {
			return fmt.Errorf("bad container name %q", c)
		}
	}
	h.Links = slices.Clone(h.Links)
	for j := range h.Links {
		l := &h.Links[j]
		n := nets[l.Network]
		if n == nil {
			return fmt.Errorf("there is no network %q", l.Network)
		}
		if l.MTU < 0 || l.MTU > n.MTU {
			return fmt.Errorf("a link of MTU %d does not fit to network %s of MTU %d", l.MTU, n.Name, n.MTU)
		}
		next[n.Name]++
		if len(l.Addresses) > 0 {
			continue
		}
		for _, s := range n.Subnets {
			a, err := nth(s, 10+next[n.Name])
			if err != nil {
				return err
			}
			l.Addresses = append(l.Addresses, a)
		}
	}
	return h.Edge.check(*h)
}

// validName says whether a name may become a part of a path and a host name.
func validName(s string) bool {
	return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`).MatchString(s)
}

// nth returns the n-th address of p, with p's length.
func nth(p netip.Prefix, n int) (netip.Prefix, error) {
	return after(netip.PrefixFrom(p.Masked().Addr(), p.Bits()), n)
}

// after returns the n-th address after that of p, with p's length.
func after(p netip.Prefix, n int) (netip.Prefix, error) {
	b := p.Addr().AsSlice()
	low := b[len(b)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)+uint32(n))
	a, _ := netip.AddrFromSlice(b)
	if !p.Contains(a) {
		return netip.Prefix{}, fmt.Errorf("subnet %s is too small for its hosts", p.Masked())
	}
	return netip.PrefixFrom(a, p.Bits()), nil
}

// host returns the specification of a host.
func (t Topology) host(name string) (HostSpec, bool) {
	i := slices.IndexFunc(t.Hosts, func(h HostSpec) bool { return h.Name == name })
	if i < 0 {
		return HostSpec{}, false
	}
	return t.Hosts[i], true
}

// Addrs returns the addresses of a host in the order of its links.
func (h HostSpec) Addrs() []netip.Addr {
	var out []netip.Addr
	for _, l := range h.Links {
		for _, a := range l.Addresses {
			out = append(out, a.Addr())
		}
	}
	return out
}
