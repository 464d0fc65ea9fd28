package lab

import (
	"net/netip"
	"slices"
)

// route is one way of a host to a network that it is not on.
type route struct {
	to  netip.Prefix
	via netip.Addr
}

// routes returns the routes of a host: by its gateway to everywhere and, when it
// is a router, to each network that other routers lead to, on the shortest way.
func (t Topology) routes(h HostSpec) []route {
	var out []route
	everywhere := [2]netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	for _, p := range everywhere {
		i := slices.IndexFunc(t.gateways(h), func(a netip.Addr) bool { return a.Is4() == p.Addr().Is4() })
		if i >= 0 {
			out = append(out, route{p, t.gateways(h)[i]})
		}
	}
	if !h.Forward {
		return out
	}
	type hop struct {
		at    HostSpec
		first *HostSpec // the neighbour with which the way begins
	}
	known, met := map[string]bool{}, map[string]bool{h.Name: true}
	for _, l := range h.Links {
		known[l.Network] = true
	}
	for queue := []hop{{at: h}}; len(queue) > 0; queue = queue[1:] {
		here := queue[0]
		for _, n := range t.Hosts {
			if !n.Forward || met[n.Name] || !here.at.leadsToOneOf(n.Links, here.first == nil) {
				continue
			}
			met[n.Name] = true
			next := hop{n, here.first}
			if next.first == nil {
				next.first = &n
			}
			queue = append(queue, next)
			for _, l := range n.Links {
				if !known[l.Network] && n.leadsTo(l.Network) {
					known[l.Network] = true
					out = append(out, t.routesVia(h, *next.first, l.Network)...)
				}
			}
		}
	}
	return out
}

// leadsTo says whether others may reach a network by way of this router, which
// is on it: not when its NAT hides that.
func (h HostSpec) leadsTo(network string) bool { return h.NAT == nil || network == h.outsideNetwork() }

// leadsToOneOf says whether h shares one of the links' networks, and leads there
// or is itself the one who wants to go.
func (h HostSpec) leadsToOneOf(links []Link, itself bool) bool {
	for _, mine := range h.Links {
		for _, theirs := range links {
			if mine.Network == theirs.Network && (itself || h.leadsTo(mine.Network)) {
				return true
			}
		}
	}
	return false
}

// between returns the addresses of o on networks that h is on, too.
func between(h, o HostSpec) []netip.Addr {
	var out []netip.Addr
	for _, mine := range h.Links {
		for _, theirs := range o.Links {
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

// routesVia returns the routes of h to the subnets of a network by way of a
// neighbour.
func (t Topology) routesVia(h, first HostSpec, network string) []route {
	var out []route
	i := slices.IndexFunc(t.Networks, func(n Network) bool { return n.Name == network })
	for _, s := range t.Networks[i].Subnets {
		hops := between(h, first)
		j := slices.IndexFunc(hops, func(a netip.Addr) bool { return a.Is4() == s.Addr().Is4() })
		if j >= 0 {
			out = append(out, route{s.Masked(), hops[j]})
		}
	}
	return out
}

// gateways returns the addresses of h's gateway on networks that h shares.
func (t Topology) gateways(h HostSpec) []netip.Addr {
	gw, ok := t.host(h.Gateway)
	if !ok {
		return nil
	}
	return between(h, gw)
}
