package router

import (
	"net/netip"
	"regexp"
	"slices"

	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
)

// foreignBridges are the interfaces of other container networks: their
// addresses mean something else on every host.
var foreignBridges = regexp.MustCompile(`^(docker\d*|br-[0-9a-f]{12}|docker_gwbridge|cni(-podman)?\d+|podman\d+|virbr\d+|lxcbr\d+|flannel.*|cali.*)$`)

// addressed is a link and what it carries.
type addressed struct {
	kernel.Link
	Addrs []netip.Prefix
}

// Endpoints returns where other hosts may reach our WireGuard port now, as far
// as this host knows by itself. What cannot be read is left out.
func Endpoints(k *kernel.Kernel, given []netip.Addr, port uint16) []netip.AddrPort {
	return underlayEndpoints(underlay(k), given, port)
}

// standardMTU is what an underlay is taken to carry at least. Where it does
// not, the path to the peer concerned is measured and narrowed.
const standardMTU = 1500

// SwitchMTU returns the MTU of the switch that fits this host's underlay: 1370,
// and more when every interface with an address for other hosts carries more
// than 1500 bytes. It is the same on every other host, whatever is narrow there:
// a host with a smaller switch drops the frames of the others.
func SwitchMTU(k *kernel.Kernel) int { return switchMTU(underlay(k)) }

func switchMTU(links []addressed) int {
	least := 0
	for _, l := range links {
		if len(underlayEndpoints([]addressed{l}, nil, 1)) > 0 && (least == 0 || l.MTU < least) {
			least = l.MTU
		}
	}
	return fdb.InnerMTU(max(least, standardMTU), false)
}

// UnderlayMTU returns the greatest MTU of an interface to other hosts.
func UnderlayMTU(k *kernel.Kernel) int {
	most := standardMTU
	for _, l := range underlay(k) {
		most = max(most, l.MTU)
	}
	return most
}

// underlay returns the links that may lead to other hosts, and their addresses.
// What cannot be read is left out.
func underlay(k *kernel.Kernel) []addressed {
	links, err := k.Links()
	if err != nil {
		return nil
	}
	var list []addressed
	for _, l := range outward(links) {
		if addrs, err := k.Addrs(l.Name); err == nil {
			list = append(list, addressed{l, addrs})
		}
	}
	return list
}

// Inside returns where no other host can be: in the subnets of the switch that
// this host is in, and at our own addresses in other container networks, where
// virtual machines may be hosts. What cannot be read is left out.
func Inside(k *kernel.Kernel) (out []netip.Prefix) {
	links, _ := k.Links()
	for _, l := range links {
		if l.Name == BridgeName || foreignBridges.MatchString(l.Name) {
			addrs, _ := k.Addrs(l.Name)
			out = append(out, inside(l.Name, addrs)...)
		}
	}
	return out
}

func inside(name string, addrs []netip.Prefix) (out []netip.Prefix) {
	for _, p := range addrs {
		if name != BridgeName {
			p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
		}
		if !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Masked())
		}
	}
	return out
}

// outward leaves out what is down, ours, a container's, or of another container
// network.
func outward(links []kernel.Link) []kernel.Link {
	own := []string{BridgeName, WireGuardName, VXLANName, MulticastName}
	ours := slices.IndexFunc(links, func(l kernel.Link) bool { return l.Name == BridgeName })
	var out []kernel.Link
	for _, l := range links {
		if !l.Up || slices.Contains(own, l.Name) || foreignBridges.MatchString(l.Name) {
			continue
		}
		if ours >= 0 && l.Master == links[ours].Index { // many, and without addresses
			continue
		}
		out = append(out, l)
	}
	return out
}

// underlayEndpoints returns where other hosts may reach our WireGuard port,
// best first: the addresses given with --host, then IPv4, then IPv6. At most
// [advert.MaxEndpoints]; never an address of the switch, the overlay, loopback
// or another container network (docs/protocol.md#endpoints).
func underlayEndpoints(links []addressed, given []netip.Addr, port uint16) []netip.AddrPort {
	var v4, v6 []netip.Addr
	for _, l := range links {
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
