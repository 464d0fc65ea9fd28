package workload

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/kernel"
)

// wide is the network of the engine that is ours.
const wide = "wide"

// endpointID makes an id of a letter.
func endpointID(letter string) string { return strings.Repeat(letter, 64) }

func sandboxOf(id string) string { return "/var/run/docker/netns/" + id[:12] }

// engineSteps is what an engine asks for a container that it starts, in order,
// up to the moment at which it takes the interface.
func (w *world) engineSteps(d *Workload, id, address, mac string) (api.Endpoint, error) {
	ctx := context.Background()
	r := api.ReserveRequest{Subnet: netip.MustParsePrefix("10.32.0.0/12"), Label: wide}
	if address != "" {
		r.Address = netip.MustParseAddr(address)
	}
	p, err := d.Reserve(ctx, r)
	if err != nil {
		return api.Endpoint{}, err
	}
	if _, err := d.AddEndpoint(ctx, api.EndpointRequest{ID: id, Network: "wide-id", MAC: mac, Addresses: []netip.Prefix{p}}); err != nil {
		return api.Endpoint{}, err
	}
	return d.JoinEndpoint(ctx, api.EndpointJoin{ID: id, Sandbox: sandboxOf(id)})
}

// take is the engine's part: it makes the namespace, in which a process runs,
// and moves and configures the interface.
func (w *world) take(e api.Endpoint, pid int) *namespace {
	w.t.Helper()
	n := w.process(pid, pid, fmt.Sprintf("4:%d", 4000+pid))
	w.mu.Lock()
	w.paths[sandboxOf(e.ID)] = n
	w.mu.Unlock()
	w.move(e, n)
	return n
}

func (w *world) move(e api.Endpoint, n *namespace) {
	w.t.Helper()
	name := e.Prefix + "0"
	check(w.t, w.host.MoveLink(e.Interface, n.Fake, name))
	check(w.t, n.Fake.AddAddr(name, e.Addresses[0], true))
	check(w.t, n.Fake.SetUp(name, true))
	for _, dst := range []string{"169.254.67.83/32", "224.0.0.0/4"} {
		check(w.t, n.Fake.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix(dst), Link: name, Scope: kernel.ScopeLink}))
	}
}

// up starts a container on the network, as an engine does, and returns its
// address.
func (w *world) up(d *Workload, id, name, endpoint string, pid int, address string) netip.Prefix {
	w.t.Helper()
	e, err := w.engineSteps(d, endpoint, address, "")
	check(w.t, err)
	w.take(e, pid)
	w.know(d, id, name, e, pid, address)
	check(w.t, d.settleEndpoint(context.Background(), endpoint))
	d.NoteStarted(id)
	check(w.t, d.ContainerStarted(context.Background(), id))
	return e.Addresses[0]
}

// know lets the engine say that the container runs.
func (w *world) know(_ *Workload, id, name string, e api.Endpoint, pid int, address string) {
	n := Network{Name: wide, ID: "wide-id", Endpoint: e.ID, Address: e.Addresses[0], Aliases: []string{id[:12], "shop"}}
	if address != "" {
		n.Pinned = netip.MustParseAddr(address)
	}
	w.docker.set(name, Container{ID: id, Name: name, Hostname: id[:12], PID: pid, Running: true, Networks: []Network{n}})
}

// down stops it, as an engine does.
func (w *world) down(d *Workload, name string) {
	w.t.Helper()
	ctx := context.Background()
	c := w.docker.containers[name]
	n := c.Networks[0]
	for _, f := range []func(context.Context, string) error{d.LeaveEndpoint, d.RemoveEndpoint} {
		check(w.t, f(ctx, n.Endpoint))
	}
	check(w.t, d.Unreserve(ctx, n.Address.Addr()))
	w.kill(c.PID)
	w.mu.Lock()
	delete(w.paths, sandboxOf(n.Endpoint))
	w.mu.Unlock()
	c.Running, c.PID, c.Networks[0].Endpoint, c.Networks[0].Address = false, 0, "", netip.Prefix{}
	w.docker.set(name, c)
	check(w.t, d.ContainerDied(ctx, c.ID))
}

// rm removes it.
func (w *world) rm(d *Workload, name string) {
	w.t.Helper()
	id := w.docker.containers[name].ID
	w.docker.remove(name)
	d.NoteRemoved(id)
	check(w.t, d.ContainerRemoved(context.Background(), id))
}

// hostEnds are the host ends of endpoints that there are.
func (w *world) hostEnds() (ids []string) {
	links, err := w.host.Fake.Links()
	check(w.t, err)
	for _, l := range links {
		if id := attach.EndpointOf(l); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}
