package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/docker"
	"github.com/weftnet/weft/router/docker/plugin"
	"github.com/weftnet/weft/router/docker/proxy"
)

// dockerPatience is how long a reset waits for an answer of the engine.
const dockerPatience = 3 * time.Second

// forgetDocker lets the engine, if there is one, forget the networks that we
// made in it: without us it would wait for their driver whenever it starts, and
// could not remove them. What it cannot do is said, and no reason to fail.
func forgetDocker(ctx context.Context, s settings.Settings) {
	keeper, err := plugin.Find(ctx, s.PluginSocket)
	kept := err == nil
	defer func() {
		if kept {
			if err := plugin.Dismiss(ctx, s.PluginSocket); err != nil {
				fmt.Fprintf(os.Stderr, "weftd: %s\n", strings.Join(strings.Fields(err.Error()), " "))
			}
		}
		if !keeper.Given { // that would begin anew if somebody looked
			plugin.Remove(s.PluginSocket)
		}
	}()
	left, err := removeNetworks(ctx, s, kept)
	if errors.Is(err, docker.ErrUnavailable) {
		return
	}
	advice := "Docker's engine waits 15 s for each network of weft that it has when it starts without weft: " +
		"remove them with 'docker network rm' while weft runs"
	if err != nil {
		fmt.Fprintf(os.Stderr, "weftd: %s; %s\n", strings.Join(strings.Fields(err.Error()), " "), advice)
	}
	if len(left) > 0 {
		fmt.Fprintf(os.Stderr, "weftd: there are networks of weft in Docker: %s; %s\n", strings.Join(left, ", "), advice)
	}
}

// removeNetworks removes those that we made. The engine asks the driver before
// it removes a network; a keeper says yes, and without one we do.
func removeNetworks(ctx context.Context, s settings.Settings, kept bool) (left []string, err error) {
	client, err := docker.New(docker.Config{Timeout: dockerPatience})
	if err != nil {
		return nil, docker.ErrUnavailable // nobody can be asked
	}
	defer client.Close()
	if kept {
		return client.RemoveOwn(ctx, s.PluginName(), proxy.NetworkLabel)
	}
	p, err := plugin.New(plugin.Config{
		StateDir: s.StateDir, Backend: func(context.Context) (plugin.Backend, error) { return departed{}, nil },
	})
	if err != nil {
		return nil, err
	}
	ln, err := plugin.Listen(s.PluginSocket)
	if err != nil {
		return nil, err
	}
	serving, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- p.Serve(serving, ln) }()
	left, err = client.RemoveOwn(ctx, s.PluginName(), proxy.NetworkLabel)
	stop()
	return left, errors.Join(err, <-done)
}

// departed is the daemon when it has gone for good: nothing is to be had, and
// nothing to be given back.
type departed struct{}

var errDeparted = errors.New("weft is being removed from this host")

func (departed) Reserve(context.Context, api.ReserveRequest) (netip.Prefix, error) {
	return netip.Prefix{}, errDeparted
}

func (departed) Unreserve(context.Context, netip.Addr) error { return nil }

func (departed) AddEndpoint(context.Context, api.EndpointRequest) (api.Endpoint, error) {
	return api.Endpoint{}, errDeparted
}

func (departed) JoinEndpoint(context.Context, api.EndpointJoin) (api.Endpoint, error) {
	return api.Endpoint{}, errDeparted
}

func (departed) LeaveEndpoint(context.Context, string) error { return nil }

func (departed) RemoveEndpoint(context.Context, string) error { return nil }
