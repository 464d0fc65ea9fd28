package main

import (
	"context"
	"errors"
	"net/netip"

	"github.com/weftnet/weft/router/api"
)

// noEndpoints is the part of a backend that no command asks for: engines do.
type noEndpoints struct{}

var errNoEngine = errors.New("no command asks for this")

func (noEndpoints) Reserve(context.Context, api.ReserveRequest) (netip.Prefix, error) {
	return netip.Prefix{}, errNoEngine
}

func (noEndpoints) Unreserve(context.Context, netip.Addr) error { return errNoEngine }

func (noEndpoints) AddEndpoint(context.Context, api.EndpointRequest) (api.Endpoint, error) {
	return api.Endpoint{}, errNoEngine
}

func (noEndpoints) JoinEndpoint(context.Context, api.EndpointJoin) (api.Endpoint, error) {
	return api.Endpoint{}, errNoEngine
}

func (noEndpoints) LeaveEndpoint(context.Context, string) error  { return errNoEngine }
func (noEndpoints) RemoveEndpoint(context.Context, string) error { return errNoEngine }
