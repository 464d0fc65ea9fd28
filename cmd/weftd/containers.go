package main

import (
	"context"
	"errors"

	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/docker"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/workload"
)

// engine gives workload what it wants to know of Docker's containers.
type engine struct{ *docker.Client }

// Inspect implements [workload.Resolver].
func (e engine) Inspect(ctx context.Context, nameOrID string) (workload.Container, error) {
	c, err := e.Client.Inspect(ctx, nameOrID)
	return workload.Container(c), err
}

// openGuest opens a container's network namespace.
func openGuest(path string) (attach.Guest, error) { return kernel.Open(path) }

// follow tells the containers what their engine says.
func (d *daemon) follow(ctx context.Context, e docker.Event) {
	var err error
	switch e.Kind {
	case docker.Died, docker.Destroyed:
		err = d.work.ContainerDied(ctx, e.ID)
	case docker.Started: // it is attached when somebody asks for it
	case docker.Renamed:
		err = d.work.ContainerRenamed(ctx, e.ID)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		d.log.Warn("cannot follow a container", "container", e.Name, "event", e.Kind, "err", err)
	}
}
