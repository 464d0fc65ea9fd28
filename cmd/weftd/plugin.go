package main

import (
	"context"
	"os"
	"sync"

	"github.com/weftnet/weft/router/docker"
	"github.com/weftnet/weft/router/docker/plugin"
)

// servePlugin answers Docker from now on, long before the daemon can do what
// it is asked for: an engine that finds nobody tries again for 15 s, for each
// network, and starts no container meanwhile. That there is no plugin is no
// reason for those that are attached to lose their network, so it is a warning.
// The end of what it returns is the plugin's.
func (d *daemon) servePlugin(ctx context.Context) (stop func()) {
	s, log := d.settings, d.log.With("part", "plugin")
	if !s.Plugin {
		if err := plugin.Dismiss(ctx, s.PluginSocket); err != nil {
			log.Debug("somebody serves Docker, and it is not weft", "err", err)
		}
		return func() {}
	}
	p, err := plugin.New(plugin.Config{
		Backend: d.whenBuilt, Range: s.Range, Subnet: s.DefaultSubnet, StateDir: s.StateDir,
		WithoutDNS: s.WithoutDNS, NoMulticastRoute: s.NoMulticastRoute, Kept: !contained(), Log: log,
	})
	stop = func() {}
	if err == nil {
		stop, err = d.listenForDocker(ctx, p)
	}
	if err != nil {
		log.Error("Docker cannot use weft's networks", "err", err)
		d.notes = append(d.notes, "Docker cannot use weft's networks: "+err.Error())
	}
	return stop
}

// listenForDocker serves the plugin at a door of our own, and lets a process
// that outlives us keep the socket where Docker looks. In a container nothing
// outlives us: Docker ends all that is in it.
func (d *daemon) listenForDocker(ctx context.Context, p *plugin.Plugin) (stop func(), err error) {
	s, nothing, at := d.settings, func() {}, d.settings.PluginDoor()
	if contained() {
		if err := plugin.Dismiss(ctx, s.PluginSocket); err != nil {
			return nothing, err
		}
		at = s.PluginSocket
	}
	ln, err := plugin.Listen(at)
	if err != nil {
		return nothing, err
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx)) // until the very end
	var all sync.WaitGroup
	all.Go(func() {
		if err := p.Serve(serving, ln); err != nil {
			d.log.Error("Docker cannot use weft's networks any more", "err", err)
		}
	})
	tending, rest := context.WithCancel(ctx) // not longer than that: a reset ends the keeper
	if !contained() {
		err = d.ensureKeeper(tending)
		all.Go(func() { d.tendKeeper(tending) })
	}
	return func() {
		rest()
		cancel()
		all.Wait()
	}, err
}

// contained reports whether we live in a container.
func contained() bool { return os.Getenv(containedVariable) != "" }

// whenBuilt waits until the router can be asked. It answers what it cannot do
// yet by itself.
func (d *daemon) whenBuilt(ctx context.Context) (plugin.Backend, error) {
	select {
	case <-d.built:
		return d.router, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// defaultNetwork is what every engine here is to have. Without the allocator
// there is no subnet for it.
func (d *daemon) defaultNetwork() docker.DefaultNetwork {
	s := d.settings
	if !s.Plugin || !s.DefaultSubnet.IsValid() {
		return docker.DefaultNetwork{}
	}
	return docker.DefaultNetwork{Name: s.PluginName(), Driver: s.PluginName(), Subnet: s.DefaultSubnet}
}
