package workload

import (
	"context"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/router/api"
)

// Endpoints of the machine on which crashes happen, by what they are.
var (
	inContainer = endpointID("1") // of web, with 10.32.0.1
	joined      = endpointID("2") // 10.32.0.2, and the engine has moved it
	known       = endpointID("3") // 10.32.0.3 and 10.48.0.1
	fresh       = endpointID("4")
)

// engineCrashWorld is a machine whose engine is at work on several containers.
func engineCrashWorld(t *testing.T) (*world, *Workload) {
	t.Helper()
	ctx := context.Background()
	w := newWorld(t)
	w.addSpace("10.32.0.0/11", "10.32.0.0/12")
	d := w.restart()
	_, err := w.engineSteps(d, inContainer, "10.32.0.1", "02:00:00:00:00:11")
	check(t, err)
	e := api.Endpoint{ID: inContainer, Prefix: "weft", Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12")}}
	again, err := d.JoinEndpoint(ctx, api.EndpointJoin{ID: e.ID, Sandbox: sandboxOf(e.ID)})
	check(t, err)
	w.take(again, 100)
	w.know(d, webID, "web", e, 100, "")
	check(t, d.settleEndpoint(ctx, e.ID))
	check(t, d.ContainerStarted(ctx, webID))

	second, err := w.engineSteps(d, joined, "10.32.0.2", "02:00:00:00:00:12")
	check(t, err)
	w.take(second, 101)
	w.know(d, dbID, "db", second, 101, "10.32.0.2")

	third, err := d.Reserve(ctx, api.ReserveRequest{Subnet: netip.MustParsePrefix("10.32.0.0/12"), Address: netip.MustParseAddr("10.32.0.3")})
	check(t, err)
	_, err = d.AddEndpoint(ctx, api.EndpointRequest{
		ID: known, Network: "wide-id", MAC: "02:00:00:00:00:13", Addresses: []netip.Prefix{third}, Container: dbID, Extra: []string{"net:10.48.0.0/24"},
	})
	check(t, err)
	_, err = d.Reserve(ctx, api.ReserveRequest{Subnet: netip.MustParsePrefix("10.32.0.0/12"), Address: netip.MustParseAddr("10.32.0.4")})
	check(t, err)
	return w, d
}

// engineOperations are what engines ask, and what their events make of it.
func engineOperations() []operation {
	ctx := context.Background()
	reserve := func(address string) func(*Workload) error {
		return func(d *Workload) error {
			r := api.ReserveRequest{Subnet: netip.MustParsePrefix("10.32.0.0/12"), Label: wide}
			if address != "" {
				r.Address = netip.MustParseAddr(address)
			}
			_, err := d.Reserve(ctx, r)
			return err
		}
	}
	add := func(addresses, extra []string) func(*Workload) error {
		return func(d *Workload) error {
			r := api.EndpointRequest{ID: fresh, Network: "wide-id", MAC: "02:00:00:00:00:14", Container: webID, Extra: extra}
			for _, a := range addresses {
				r.Addresses = append(r.Addresses, netip.MustParsePrefix(a))
			}
			_, err := d.AddEndpoint(ctx, r)
			return err
		}
	}
	join := func(id string) func(*Workload) error {
		return func(d *Workload) error {
			_, err := d.JoinEndpoint(ctx, api.EndpointJoin{ID: id, Sandbox: sandboxOf(id)})
			return err
		}
	}
	leave := func(id string) func(*Workload) error {
		return func(d *Workload) error { return d.LeaveEndpoint(ctx, id) }
	}
	remove := func(id string) func(*Workload) error {
		return func(d *Workload) error { return d.RemoveEndpoint(ctx, id) }
	}
	return []operation{
		{name: "reserve", do: reserve(""), another: true},
		{name: "reserve this", do: reserve("10.32.0.9")},
		{name: "reserve again", do: reserve("10.32.0.4")},
		{name: "reserve elsewhere", do: func(d *Workload) error {
			_, err := d.Reserve(ctx, api.ReserveRequest{Subnet: netip.MustParsePrefix("192.0.2.0/24"), Address: netip.MustParseAddr("192.0.2.1")})
			return err
		}},
		{name: "unreserve", do: func(d *Workload) error { return d.Unreserve(ctx, netip.MustParseAddr("10.32.0.4")) }, forward: true},
		{name: "add endpoint", do: add([]string{"10.32.0.4/12"}, nil)},
		{name: "add endpoint nobody reserved for", do: add([]string{"10.32.0.7/12", "192.0.2.7/24"}, nil)},
		{name: "add endpoint with more", do: add([]string{"10.32.0.4/12"}, []string{"net:10.50.0.0/24", "10.51.0.9/24", "192.0.2.8/24"})},
		{name: "join", do: join(known)},
		{name: "leave", do: leave(inContainer), forward: true},
		{name: "leave before it is in its container", do: leave(joined), forward: true},
		{name: "remove", do: remove(inContainer), forward: true},
		{name: "remove one with more", do: remove(known), forward: true},
		{name: "settle", do: func(d *Workload) error { return d.settleEndpoint(ctx, joined) }, forward: true},
		{name: "started", do: func(d *Workload) error { return d.ContainerStarted(ctx, dbID) }, forward: true},
	}
}
