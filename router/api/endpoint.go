package api

import "net/netip"

// ReserveRequest asks for an address for a container whose interface an engine
// configures itself, on a network of its own.
type ReserveRequest struct {
	Subnet  netip.Prefix // of the engine's network; the answer has its length
	Within  netip.Prefix // part of Subnet to choose from; zero: all of it
	Address netip.Addr   // this very one; zero: any
	Label   string       // for people, such as the name of the network
}

// EndpointRequest describes the place of one container on one network of an
// engine.
type EndpointRequest struct {
	ID               string // the engine's, of the endpoint: lower-case hexadecimal, or at least without "/"
	Network          string // the engine's id of the network
	MAC              string // empty: any
	Addresses        []netip.Prefix
	Container        string   // full id, when the one who asks knows it
	Extra            []string // further addresses, as in [AttachRequest]
	WithoutDNS       bool     // register no name, and leave the container's resolver alone
	NoMulticastRoute bool
}

// EndpointJoin says that an endpoint is about to be put into a container.
type EndpointJoin struct {
	ID      string
	Sandbox string // path of the container's network namespace as the engine names it; it need not be there yet
}

// Endpoint is what an engine has to know of an endpoint.
type Endpoint struct {
	ID        string
	MAC       string
	Addresses Addresses
	Interface string     // what to move into the container, in the host's namespace; empty before [Backend.JoinEndpoint]
	Prefix    string     // of its name inside the container
	DNS       netip.Addr // of the name server, to be reached through the interface; zero: there is none
	Multicast bool       // multicast is to be routed through the interface
}
