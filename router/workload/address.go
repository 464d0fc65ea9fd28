package workload

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/kernel"
)

// dnsAddress is the name server's, the same on every host.
func dnsAddress() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 67, 83}) }

// parseAddresses reads the addresses of a request, each one once and in order.
// Addresses are explicit: there is no allocator. Errors about the form wrap
// [api.ErrUsage].
func parseAddresses(typed []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, s := range typed {
		spec, err := api.ParseAddress(s)
		if err != nil {
			return nil, err
		}
		if spec.Allocate {
			return nil, errAllocator
		}
		if err := checkAddress(spec.Prefix); err != nil {
			return nil, err
		}
		list = union(list, []netip.Prefix{spec.Prefix})
	}
	return list, nil
}

// checkAddress refuses what no container can hold.
func checkAddress(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !a.Is4():
		return usage("address %s: only IPv4 addresses can be given; every container has its IPv6 link-local one anyhow", p)
	case p.Bits() == 0:
		return usage("address %s: a subnet of everything would take the container's default route", p)
	case a.As4()[0] == 0 || a.As4()[0] >= 240:
		return usage("address %s is not one that a container can have", p)
	case a == dnsAddress():
		return usage("address %s is the name server's", p)
	case p.Bits() >= 31: // RFC 3021
		return nil
	case a == p.Masked().Addr():
		return usage("address %s is the address of its network; the first one for a container is %s", p, netip.PrefixFrom(a.Next(), p.Bits()))
	case a == broadcast(p):
		return usage("address %s is the broadcast address of its network", p)
	}
	return nil
}

// broadcast returns the last address of an IPv4 subnet.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}

// checkSubnets refuses addresses of one interface of which one's subnet
// contains another's without being equal to it: routing inside the container
// would depend on the order in which they came.
func checkSubnets(held, asked []netip.Prefix) error {
	all := union(held, asked)
	for _, a := range asked {
		for _, b := range all {
			if a.Bits() != b.Bits() && a.Overlaps(b) {
				return fmt.Errorf("address %s: its subnet overlaps that of %s on the same interface; they must be equal or apart", a, b)
			}
		}
	}
	return nil
}

// holds reports whether an address is in list, whatever its subnet there.
func holds(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Addr() == a })
}

// parseMAC reads --mac; empty is zero.
func parseMAC(s string) (kernel.MAC, error) {
	if s == "" {
		return kernel.MAC{}, nil
	}
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return kernel.MAC{}, usage("mac %q: want six octets such as 02:00:00:00:00:01", s)
	}
	m := kernel.MAC(hw)
	if m[0]&1 != 0 || m == (kernel.MAC{}) {
		return kernel.MAC{}, usage("mac %s is not a unicast address", s)
	}
	return m, nil
}
