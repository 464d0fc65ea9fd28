package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"

	"github.com/docker/go-plugins-helpers/network"

	"github.com/weftnet/weft/router/api"
)

// interfacePrefix begins the names of interfaces inside containers, unless the
// backend says otherwise.
const interfacePrefix = "weft"

// connected is a route that needs no gateway, in the engine's words.
const connected = 1

// multicast is routed through the switch unless somebody does not want it.
const multicast = "224.0.0.0/4"

func (p *Plugin) handleNetworks() {
	answerTo(p, networkDriver+"GetCapabilities", tearDownTime, func(context.Context, *none) (network.CapabilitiesResponse, error) {
		return network.CapabilitiesResponse{Scope: network.LocalScope, ConnectivityScope: network.GlobalScope}, nil
	})
	answerTo(p, networkDriver+"AllocateNetwork", tearDownTime, func(context.Context, *network.AllocateNetworkRequest) (network.AllocateNetworkResponse, error) {
		return network.AllocateNetworkResponse{}, errors.New("a network of weft is made on each host: leave out --scope swarm, and create it on every host")
	})
	answerTo(p, networkDriver+"FreeNetwork", tearDownTime, nothing[network.FreeNetworkRequest])
	answerTo(p, networkDriver+"CreateNetwork", tearDownTime, p.createNetwork)
	answerTo(p, networkDriver+"DeleteNetwork", tearDownTime, p.deleteNetwork)
	answerTo(p, networkDriver+"CreateEndpoint", setUpTime, p.createEndpoint)
	answerTo(p, networkDriver+"EndpointOperInfo", tearDownTime, func(context.Context, *network.InfoRequest) (network.InfoResponse, error) {
		return network.InfoResponse{Value: map[string]string{}}, nil
	})
	answerTo(p, networkDriver+"Join", setUpTime, p.join)
	answerTo(p, networkDriver+"Leave", tearDownTime, p.leave)
	answerTo(p, networkDriver+"DeleteEndpoint", tearDownTime, p.deleteEndpoint)
	// Published ports are the business of the bridge that the engine adds for
	// the way outside; who else is where, of weft's gossip.
	answerTo(p, networkDriver+"ProgramExternalConnectivity", tearDownTime, nothing[network.ProgramExternalConnectivityRequest])
	answerTo(p, networkDriver+"RevokeExternalConnectivity", tearDownTime, nothing[network.RevokeExternalConnectivityRequest])
	answerTo(p, networkDriver+"DiscoverNew", tearDownTime, nothing[network.DiscoveryNotification])
	answerTo(p, networkDriver+"DiscoverDelete", tearDownTime, nothing[network.DiscoveryNotification])
}

func nothing[In any](context.Context, *In) (none, error) { return none{}, nil }

// idForm is what an engine calls networks and endpoints. Names of interfaces
// and keys are made of it.
var idForm = regexp.MustCompile(`^[0-9A-Za-z]{1,128}$`)

func checkIDs(ids ...string) error {
	for _, id := range ids {
		if !idForm.MatchString(id) {
			return fmt.Errorf("%q is no id of a network or an endpoint", id)
		}
	}
	return nil
}

// createNetwork makes nothing: all networks are the one switch, and the
// engine knows of the rest. That a network is internal concerns the engine
// only, which then adds no bridge to the outside.
func (p *Plugin) createNetwork(_ context.Context, r *network.CreateNetworkRequest) (none, error) {
	if err := checkIDs(r.NetworkID); err != nil {
		return none{}, err
	}
	if len(r.IPv6Data) > 0 {
		return none{}, errors.New("weft gives containers IPv4 addresses only: leave out --ipv6")
	}
	o, err := parseNetworkOptions(r.Options)
	if err != nil {
		return none{}, err
	}
	if err := p.networks.set(r.NetworkID, o); err != nil {
		return none{}, err
	}
	var subnets []string
	for _, d := range r.IPv4Data {
		if d != nil {
			subnets = append(subnets, d.Pool)
		}
	}
	p.log.Info("Docker network made", "network", r.NetworkID, "subnets", subnets)
	return none{}, nil
}

func (p *Plugin) deleteNetwork(_ context.Context, r *network.DeleteNetworkRequest) (none, error) {
	if err := p.networks.forget(r.NetworkID); err != nil {
		return none{}, err
	}
	p.log.Info("Docker network removed", "network", r.NetworkID)
	return none{}, nil
}

func (p *Plugin) createEndpoint(ctx context.Context, r *network.CreateEndpointRequest) (network.CreateEndpointResponse, error) {
	answer := network.CreateEndpointResponse{Interface: &network.EndpointInterface{}}
	if err := checkIDs(r.NetworkID, r.EndpointID); err != nil {
		return answer, err
	}
	q, err := parseEndpointOptions(r.Options)
	if err != nil {
		return answer, err
	}
	q.ID, q.Network = r.EndpointID, r.NetworkID
	q.WithoutDNS = q.WithoutDNS || p.withoutDNS
	q.NoMulticastRoute = q.NoMulticastRoute || p.noMulticastRoute || p.networks.get(r.NetworkID).noMulticast
	if i := r.Interface; i != nil {
		q.MAC = i.MacAddress
		for _, text := range []string{i.Address, i.AddressIPv6} {
			if text == "" {
				continue
			}
			a, err := netip.ParsePrefix(text)
			if err != nil {
				return answer, fmt.Errorf("%q is not an address with a prefix length", text)
			}
			q.Addresses = append(q.Addresses, a)
		}
	}
	e, err := ask(ctx, p, func(b Backend) (api.Endpoint, error) { return b.AddEndpoint(ctx, q) })
	if err != nil {
		return answer, err
	}
	if q.MAC == "" { // the engine refuses to be told what it has said itself
		answer.Interface.MacAddress = e.MAC
	}
	return answer, nil
}

// join names the interface that the engine is to move, and the routes that the
// container has from the first on. The way to everywhere else is a bridge that
// the engine adds by itself when no gateway is named.
func (p *Plugin) join(ctx context.Context, r *network.JoinRequest) (network.JoinResponse, error) {
	var answer network.JoinResponse
	if err := checkIDs(r.EndpointID); err != nil {
		return answer, err
	}
	e, err := ask(ctx, p, func(b Backend) (api.Endpoint, error) {
		return b.JoinEndpoint(ctx, api.EndpointJoin{ID: r.EndpointID, Sandbox: r.SandboxKey})
	})
	if errors.Is(err, api.ErrNotFound) {
		return answer, fmt.Errorf("weft lost its state since the container began to start: start it again: %w", err)
	}
	if err != nil {
		return answer, err
	}
	answer.InterfaceName = network.InterfaceName{SrcName: e.Interface, DstPrefix: cmp.Or(e.Prefix, interfacePrefix)}
	route := func(to string) {
		answer.StaticRoutes = append(answer.StaticRoutes, &network.StaticRoute{Destination: to, RouteType: connected})
	}
	if e.DNS.IsValid() {
		route(netip.PrefixFrom(e.DNS, e.DNS.BitLen()).String())
	}
	if e.Multicast {
		route(multicast)
	}
	return answer, nil
}

func (p *Plugin) leave(ctx context.Context, r *network.LeaveRequest) (none, error) {
	if err := checkIDs(r.EndpointID); err != nil {
		return none{}, err
	}
	return tell(ctx, p, func(b Backend) error { return b.LeaveEndpoint(ctx, r.EndpointID) })
}

func (p *Plugin) deleteEndpoint(ctx context.Context, r *network.DeleteEndpointRequest) (none, error) {
	if err := checkIDs(r.EndpointID); err != nil {
		return none{}, err
	}
	return tell(ctx, p, func(b Backend) error { return b.RemoveEndpoint(ctx, r.EndpointID) })
}
