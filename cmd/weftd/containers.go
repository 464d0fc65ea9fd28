package main

import (
	"context"
	"errors"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/docker"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/workload"
)

// engine gives workload what it wants to know of Docker's containers.
type engine struct {
	*docker.Client
	driver string // of our networks
}

// Inspect implements [workload.Resolver].
func (e engine) Inspect(ctx context.Context, nameOrID string) (workload.Container, error) {
	c, err := e.Client.Inspect(ctx, nameOrID)
	return fromEngine(c), err
}

// Summary implements [workload.Resolver].
func (e engine) Summary(ctx context.Context, id string) (workload.Container, error) {
	c, err := e.Client.Summary(ctx, id)
	return fromEngine(c), err
}

// Endpoints implements [workload.Resolver].
func (e engine) Endpoints(ctx context.Context) (map[string]string, error) {
	return e.Client.Endpoints(ctx, e.driver)
}

// Networks implements [workload.Resolver].
func (e engine) Networks(ctx context.Context) ([]string, error) {
	return e.Client.Networks(ctx, e.driver)
}

func fromEngine(c docker.Container) workload.Container {
	to := workload.Container{
		ID: c.ID, Name: c.Name, Hostname: c.Hostname, Domainname: c.Domainname,
		PID: c.PID, Running: c.Running, HostNetwork: c.HostNetwork, HostsPath: c.HostsPath, Created: c.Created,
	}
	for _, n := range c.Networks {
		to.Networks = append(to.Networks, workload.Network{
			Name: n.Name, ID: n.ID, Endpoint: n.EndpointID, Address: n.Address, Aliases: n.Aliases, Pinned: n.Pinned,
		})
	}
	return to
}

// openGuest opens a container's network namespace.
func openGuest(path string) (attach.Guest, error) { return kernel.Open(path) }

// noteContainer tells at once what decides who gets which address: the engine asks for
// one right after it said this.
func (d *daemon) noteContainer(e docker.Event) {
	switch e.Kind {
	case docker.Created:
		d.work.NoteCreated(e.ID)
	case docker.Started:
		d.work.NoteStarted(e.ID)
	case docker.Destroyed:
		d.work.NoteRemoved(e.ID)
	case docker.Died, docker.Renamed, docker.Connected, docker.Disconnected: // decide nothing
	}
}

// follow tells the containers what their engine says, and may wait for that.
func (d *daemon) follow(ctx context.Context, e docker.Event) {
	var err error
	switch e.Kind {
	case docker.Created:
		err = d.work.ContainerCreated(ctx, e.ID)
	case docker.Started, docker.Connected, docker.Disconnected:
		err = d.work.ContainerStarted(ctx, e.ID)
	case docker.Died:
		err = d.work.ContainerDied(ctx, e.ID)
	case docker.Destroyed:
		err = d.work.ContainerRemoved(ctx, e.ID)
	case docker.Renamed:
		err = d.work.ContainerRenamed(ctx, e.ID)
	}
	if errors.Is(err, api.ErrNotFound) {
		return // it is gone since
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		d.log.Warn("cannot follow a container", "container", e.Name, "event", e.Kind, "err", err)
	}
}
