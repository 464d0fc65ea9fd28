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
}

// Network is one Ethernet segment.
type Network struct {
	Name string `json:"name" yaml:"name"`
	// Subnets from which hosts without addresses of their own get one each.
	Subnets []netip.Prefix `json:"subnets,omitempty" yaml:"subnets"`
	MTU     int            `json:"mtu,omitempty" yaml:"mtu"` // 0: 1500
}

// HostSpec says what a host is made of.
type HostSpec struct {
	Name  string `json:"name" yaml:"name"`
	Links []Link `json:"links" yaml:"links"`
	// Forward makes the host a router.
	Forward bool `json:"forward,omitempty" yaml:"forward"`
	// Gateway names the host that forwards for this one; it must be on a
	// network of this host.
	Gateway string `json:"gateway,omitempty" yaml:"gateway"`
	// Sysctls to set before the links come, e.g. "net/ipv6/conf/all/disable_ipv6".
	Sysctls map[string]string `json:"sysctls,omitempty" yaml:"sysctls"`
	// Resolvers for /etc/resolv.conf.
	Resolvers []netip.Addr `json:"resolvers,omitempty" yaml:"resolvers"`
	// Containers to start with the host.
	Containers []string `json:"containers,omitempty" yaml:"containers"`
}

// Link plugs a host into a network. It is called eth0, eth1, … in the order of
// the links.
type Link struct {
	Network string `json:"network" yaml:"network"`
	// Addresses; none: one from each subnet of the network.
	Addresses []netip.Prefix `json:"addresses,omitempty" yaml:"addresses"`
	Shape     `yaml:",inline"`
}

// Shape limits what the network sends towards a host. The zero value limits
// nothing.
type Shape struct {
	// RateKbit in kilobits per second; 0: no limit.
	RateKbit uint64 `json:"rate_kbit,omitempty" yaml:"rate_kbit"`
	// Delay of every packet; needs netem.
	Delay time.Duration `json:"delay,omitempty" yaml:"delay"`
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
		for _, c := range h.Containers {
			if !validName(c) {
				return t, fmt.Errorf("host %s: bad container name %q", h.Name, c)
			}
		}
		h.Links = slices.Clone(h.Links)
		for j := range h.Links {
			l := &h.Links[j]
			n := nets[l.Network]
			if n == nil {
				return t, fmt.Errorf("host %s: there is no network %q", h.Name, l.Network)
			}
			next[n.Name]++
			if len(l.Addresses) > 0 {
				continue
			}
			for _, s := range n.Subnets {
				a, err := nth(s, 10+next[n.Name])
				if err != nil {
					return t, fmt.Errorf("host %s: %w", h.Name, err)
				}
				l.Addresses = append(l.Addresses, a)
			}
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
	return t, nil
}

// validName says whether a name may become a part of a path and a host name.
func validName(s string) bool {
	return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`).MatchString(s)
}

// nth returns the n-th address of p, with p's length.
func nth(p netip.Prefix, n int) (netip.Prefix, error) {
	b := p.Masked().Addr().AsSlice()
	low := b[len(b)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)+uint32(n))
	a, _ := netip.AddrFromSlice(b)
	if !p.Contains(a) {
		return netip.Prefix{}, fmt.Errorf("subnet %s is too small for its hosts", p)
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

// gateways returns the addresses of h's gateway on networks that h shares.
func (t Topology) gateways(h HostSpec) []netip.Addr {
	gw, _ := t.host(h.Gateway)
	var out []netip.Addr
	for _, mine := range h.Links {
		for _, theirs := range gw.Links {
			if theirs.Network != mine.Network {
				continue
			}
			for _, a := range theirs.Addresses {
				out = append(out, a.Addr())
			}
		}
	}
	return out
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
