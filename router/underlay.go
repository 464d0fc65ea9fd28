package router

import (
	"net/netip"
	"regexp"
	"slices"

	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/router/kernel"
)

// foreignBridges are the interfaces of other container networks: their
// addresses mean something else on every host.
var foreignBridges = regexp.MustCompile(`^(docker\d*|br-[0-9a-f]{12}|docker_gwbridge|cni\d+|podman\d+|virbr\d+|lxcbr\d+|flannel.*|cali.*)$`)

// addressed is a link and what it carries.
type addressed struct {
	kernel.Link
	Addrs []netip.Prefix
}

// Endpoints returns where other hosts may reach our WireGuard port now. What
// cannot be read is left out.
func Endpoints(k *kernel.Kernel, given []netip.Addr, port uint16) []netip.AddrPort {
	links, err := k.Links()
	if err != nil {
		return underlayEndpoints(nil, nil, given, port)
	}
	list := make([]addressed, 0, len(links))
	ours := slices.IndexFunc(links, func(l kernel.Link) bool { return l.Name == BridgeName })
	for _, l := range links {
		if ours >= 0 && l.Master == links[ours].Index { // containers: many, and without addresses
			continue
		}
		addrs, err := k.Addrs(l.Name)
		if err == nil {
			list = append(list, addressed{l, addrs})
		}
	}
	return underlayEndpoints(list, []string{BridgeName, WireGuardName, VXLANName}, given, port)
}

// underlayEndpoints returns where other hosts may reach our WireGuard port,
// best first: the addresses given with --host, then IPv4, then IPv6. At most
// [advert.MaxEndpoints]; never an address of the switch, the overlay, loopback
// or another container network (PROTOCOL section 1).
func underlayEndpoints(links []addressed, own []string, given []netip.Addr, port uint16) []netip.AddrPort {
	var v4, v6 []netip.Addr
	for _, l := range links {
		if !l.Up || slices.Contains(own, l.Name) || foreignBridges.MatchString(l.Name) {
			continue
		}
		for _, p := range l.Addrs {
			a := p.Addr().Unmap()
			if !advert.Usable(netip.AddrPortFrom(a, port)) || a.IsLinkLocalUnicast() {
				continue
			}
			if a.Is4() {
				v4 = append(v4, a)
			} else {
				v6 = append(v6, a)
			}
		}
	}
	slices.SortFunc(v4, netip.Addr.Compare)
	slices.SortFunc(v6, netip.Addr.Compare)
	var out []netip.AddrPort
	for _, a := range slices.Concat(given, v4, v6) {
		ep := netip.AddrPortFrom(a, port)
		if len(out) < advert.MaxEndpoints && !slices.Contains(out, ep) {
			out = append(out, ep)
		}
	}
	return out
}
