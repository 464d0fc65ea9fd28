package plugin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/docker/go-plugins-helpers/ipam"

	"github.com/weftnet/weft/router/api"
)

// What the engine calls things.
const (
	addressSpace = "weft"
	gatewayKey   = "com.docker.network.gateway"
	addressType  = "RequestAddressType"
)

// longest is the smallest subnet that containers can be in.
const longest = 30

func (p *Plugin) handleAddresses() {
	answerTo(p, ipamDriver+"GetCapabilities", tearDownTime, func(context.Context, *none) (ipam.CapabilitiesResponse, error) {
		// The engine need not replay requests after a restart: we remember.
		return ipam.CapabilitiesResponse{}, nil
	})
	answerTo(p, ipamDriver+"GetDefaultAddressSpaces", tearDownTime, func(context.Context, *none) (ipam.AddressSpacesResponse, error) {
		return ipam.AddressSpacesResponse{LocalDefaultAddressSpace: addressSpace, GlobalDefaultAddressSpace: addressSpace}, nil
	})
	answerTo(p, ipamDriver+"RequestPool", tearDownTime, p.requestPool)
	answerTo(p, ipamDriver+"ReleasePool", tearDownTime, func(context.Context, *ipam.ReleasePoolRequest) (none, error) {
		return none{}, nil
	})
	answerTo(p, ipamDriver+"RequestAddress", setUpTime, p.requestAddress)
	answerTo(p, ipamDriver+"ReleaseAddress", tearDownTime, p.releaseAddress)
}

// requestPool gives nothing away: a subnet of weft's range belongs to every
// network of every host that names it.
func (p *Plugin) requestPool(_ context.Context, r *ipam.RequestPoolRequest) (ipam.RequestPoolResponse, error) {
	var none ipam.RequestPoolResponse
	if r.V6 {
		return none, errors.New("weft gives IPv4 addresses only: leave out --ipv6")
	}
	if !p.space.IsValid() {
		return none, errors.New("weft's address allocator is off (--ipalloc-range=\"\"): choose another --ipam-driver, and a --subnet")
	}
	if err := known(r.Options, "an option of the allocator"); err != nil {
		return none, err
	}
	asked := pool{subnet: p.subnet}
	var err error
	if r.Pool != "" {
		asked.subnet, err = parseNetwork(r.Pool)
	} else if !asked.subnet.IsValid() {
		err = errAway // who knows it
	}
	if err != nil {
		return none, err
	}
	if !inside(asked.subnet, p.space) {
		return none, fmt.Errorf("subnet %s is not inside %s, from which weft gives addresses (--ipalloc-range): choose a part of that, or another --ipam-driver",
			asked.subnet, p.space)
	}
	if asked.subnet.Bits() > longest {
		return none, fmt.Errorf("subnet %s has no address for a container: the smallest is a /%d", asked.subnet, longest)
	}
	if r.SubPool != "" {
		if asked.within, err = parseNetwork(r.SubPool); err != nil {
			return none, err
		}
		if !inside(asked.within, asked.subnet) {
			return none, fmt.Errorf("the range of addresses %s is not inside the subnet %s", asked.within, asked.subnet)
		}
	}
	return ipam.RequestPoolResponse{
		PoolID: asked.id(), Pool: asked.subnet.String(),
		Data: map[string]string{gatewayKey: asked.gateway().String()},
	}, nil
}

func (p *Plugin) requestAddress(ctx context.Context, r *ipam.RequestAddressRequest) (ipam.RequestAddressResponse, error) {
	var none ipam.RequestAddressResponse
	from, err := parsePool(r.PoolID)
	if err != nil {
		return none, err
	}
	if r.Options[addressType] == gatewayKey {
		// Also when people name one: other hosts make the same network and
		// name the same, and nothing would ever use it.
		return ipam.RequestAddressResponse{Address: from.gateway().String()}, nil
	}
	q := api.ReserveRequest{Subnet: from.subnet, Within: from.within, Label: from.subnet.String()}
	if r.Address != "" {
		if q.Address, err = netip.ParseAddr(r.Address); err != nil {
			return none, fmt.Errorf("%q is not an address", r.Address)
		}
		q.Address, q.Within = q.Address.Unmap(), netip.Prefix{} // --ip may lie outside of --ip-range
		if !from.subnet.Contains(q.Address) {
			return none, fmt.Errorf("address %s is not inside the network's subnet %s", q.Address, from.subnet)
		}
	}
	got, err := ask(ctx, p, func(b Backend) (netip.Prefix, error) { return b.Reserve(ctx, q) })
	if err != nil {
		return none, err
	}
	return ipam.RequestAddressResponse{Address: got.String()}, nil
}

func (p *Plugin) releaseAddress(ctx context.Context, r *ipam.ReleaseAddressRequest) (none, error) {
	from, err := parsePool(r.PoolID)
	if err != nil {
		return none{}, err
	}
	addr, err := netip.ParseAddr(r.Address)
	if err != nil {
		return none{}, fmt.Errorf("%q is not an address", r.Address)
	}
	if addr = addr.Unmap(); addr == from.gateway().Addr() {
		return none{}, nil
	}
	return tell(ctx, p, func(b Backend) error { return b.Unreserve(ctx, addr) })
}
