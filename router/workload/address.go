package workload

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/kernel"
)

// dnsAddress is the name server's, the same on every host.
func dnsAddress() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 67, 83}) }

// errAllocator answers a request that leaves the choice of an address to us.
var errAllocator = errors.New("the address allocator is off: name an address, e.g. 10.32.0.1/12")

// ask is one address of a request: a static one, or any of a subnet.
type ask struct {
	prefix   netip.Prefix // the address, or the subnet
	allocate bool
}

// parseAsks reads the addresses of a request, each one once and in order.
// Errors about the form wrap [api.ErrUsage].
func (w *Workload) parseAsks(typed []string) ([]ask, error) {
	var list []ask
	for _, s := range typed {
		spec, err := api.ParseAddress(s)
		if err != nil {
			return nil, err
		}
		a := ask{spec.Prefix, spec.Allocate}
		switch {
		case !a.allocate:
			err = checkAddress(a.prefix)
		case w.space == nil:
			err = errAllocator
		case !a.prefix.IsValid():
			a.prefix = w.space.Subnet()
		case !a.prefix.Addr().Is4():
			err = usage("subnet %s: only IPv4 addresses can be given; every container has its IPv6 link-local one anyhow", s)
		}
		if err != nil {
			return nil, err
		}
		if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list, nil
}

// parseWanted is parseAsks for who needs at least one address: an omitted one
// is net:default.
func (w *Workload) parseWanted(typed []string) ([]ask, error) {
	if len(typed) == 0 {
		typed = []string{"net:default"}
	}
	return w.parseAsks(typed)
}

// among returns the one of a list that is what was asked for.
func (a ask) among(list []netip.Prefix) (netip.Prefix, bool) {
	i := slices.IndexFunc(list, func(p netip.Prefix) bool {
		if a.allocate {
			return a.prefix.Contains(p.Addr())
		}
		return p == a.prefix
	})
	if i < 0 {
		return netip.Prefix{}, false
	}
	return list[i], true
}

// expected returns what a holder will have been given: an address that is
// still to be found is there as its subnet. Static is the part of it that is
// known.
func expected(asks []ask, has []netip.Prefix) (all, static []netip.Prefix) {
	for _, a := range asks {
		p, ok := a.among(union(has, all))
		if !ok {
			p = a.prefix
		}
		all = union(all, []netip.Prefix{p})
		if ok || !a.allocate {
			static = union(static, []netip.Prefix{p})
		}
	}
	return all, static
}

// matching returns those of a list that were asked for.
func matching(list []netip.Prefix, asks []ask) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool {
		return !slices.ContainsFunc(asks, func(a ask) bool {
			_, ok := a.among([]netip.Prefix{p})
			return ok
		})
	})
}

// answer returns what was asked for, in the order of asking: static addresses
// as they are, of a subnet those of a list.
func answer(asks []ask, list []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range asks {
		if a.allocate {
			out = union(out, matching(list, []ask{a}))
		} else {
			out = union(out, []netip.Prefix{a.prefix})
		}
	}
	return out
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
				return fmt.Errorf("%s overlaps that of %s on the same interface; they must be equal or apart", subnetOf(a), b)
			}
		}
	}
	return nil
}

// subnetOf begins a sentence about the subnet of an address, or about a subnet.
func subnetOf(p netip.Prefix) string {
	if p == p.Masked() && p.Bits() < 31 {
		return "subnet " + p.String()
	}
	return "address " + p.String() + ": its subnet"
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
