package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/bell"
)

// DefaultNetwork is what an engine gets when it has no network of that name.
type DefaultNetwork struct {
	Name   string       // empty: none is made
	Driver string       // of the network and of its addresses
	Subnet netip.Prefix // named, because an engine takes --ip in named subnets only
}

// defaultLabel tells the network that we made from those of people.
const defaultLabel = "net.weft.default"

// keeper makes the network, at each connection to an engine, unless somebody
// removed it since we began, and never touches one that is there.
type keeper struct {
	// Constant after newClient.
	api      engine
	want     DefaultNetwork
	timeout  time.Duration
	retry    time.Duration
	retryMax time.Duration
	log      *slog.Logger
	kicks    bell.Bell // look again

	removed atomic.Bool // somebody did

	said string // owned by run: the last thing that was said of a network that is there
}

// see looks at an event of a network.
func (k *keeper) see(m events.Message) {
	if m.Action == events.ActionDestroy && k.want.Name != "" && m.Actor.Attributes["name"] == k.want.Name && m.Actor.Attributes["type"] == k.want.Driver {
		k.removed.Store(true)
		k.log.Info("the default Docker network was removed, and is not made again before weft is started again", "network", k.want.Name)
	}
}

// run looks whenever it is asked to, until ctx ends. It has a goroutine of its
// own: the engine asks our plugin before it answers.
func (k *keeper) run(ctx context.Context) {
	if k.want.Name == "" {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.kicks:
		}
		for wait := k.retry; ; wait = min(2*wait, k.retryMax) {
			err := k.look(ctx)
			if err == nil || ctx.Err() != nil {
				break
			}
			if wait == k.retry { // once
				k.log.Warn("cannot make the default Docker network; trying again", "network", k.want.Name, "err", err)
			}
			pause(ctx, wait)
		}
	}
}

// look makes the network unless there is one.
func (k *keeper) look(ctx context.Context) error {
	there, err := k.list(ctx)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		k.say(there)
		return nil
	}
	if k.removed.Load() {
		return nil
	}
	long, cancel := context.WithTimeout(ctx, 3*k.timeout) // the engine may look for our plugin for 15 s
	defer cancel()
	made, err := k.api.NetworkCreate(long, k.want.Name, client.NetworkCreateOptions{
		Driver: k.want.Driver,
		IPAM:   &network.IPAM{Driver: k.want.Driver, Config: []network.IPAMConfig{{Subnet: k.want.Subnet}}},
		Labels: map[string]string{defaultLabel: "true"},
	})
	if err != nil {
		return translate(err, 0)
	}
	// A name is not unique to an engine: somebody may have done the same just now.
	if there, err = k.list(ctx); err == nil && len(there) > 1 {
		_, err = k.api.NetworkRemove(ctx, made.ID, client.NetworkRemoveOptions{})
		return err
	}
	k.log.Info("default Docker network made", "network", k.want.Name, "subnet", k.want.Subnet)
	return nil
}

// list returns the networks of the engine that have the name.
func (k *keeper) list(ctx context.Context) ([]network.Summary, error) {
	short, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	r, err := k.api.NetworkList(short, client.NetworkListOptions{Filters: make(client.Filters).Add("name", k.want.Name)})
	if err != nil {
		return nil, translate(fmt.Errorf("list networks: %w", err), 0)
	}
	// The filter also takes a part of a name.
	return slices.DeleteFunc(r.Items, func(n network.Summary) bool { return n.Name != k.want.Name }), nil
}

// say tells people, once, of a network that is not the one that we would make.
func (k *keeper) say(there []network.Summary) {
	what := ""
	i := slices.IndexFunc(there, func(n network.Summary) bool { return n.Driver == k.want.Driver })
	switch {
	case i < 0:
		what = fmt.Sprintf("it is not weft's (driver %s) and is left alone; 'docker network create -d %s' makes one with another name",
			there[0].Driver, k.want.Driver)
	case !slices.ContainsFunc(there[i].IPAM.Config, func(c network.IPAMConfig) bool { return c.Subnet == k.want.Subnet }):
		what = fmt.Sprintf("it has another subnet than weft's default subnet %s; remove it, and start weft again, to have it made anew", k.want.Subnet)
	}
	if what != k.said && what != "" {
		k.log.Warn("the default Docker network is not as it should be", "network", k.want.Name, "what", what)
	}
	k.said = what
}

// RemoveOwn removes the networks of a driver that [Client.Run] made, and those
// that have a label. It returns the names of the others: people made them. Errors are
// those of [Client.Networks]; one in use is an error, too. The driver must be
// there, and it may take as long as three questions.
func (c *Client) RemoveOwn(ctx context.Context, driver, label string) (left []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*c.timeout)
	defer cancel()
	list, err := c.networks(ctx, driver)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, n := range list {
		if n.Labels[defaultLabel] == "" && n.Labels[label] == "" {
			left = append(left, n.Name)
			continue
		}
		if _, err := c.api.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{}); err != nil {
			errs = append(errs, translate(fmt.Errorf("remove network %s: %w", n.Name, err), 0))
		}
	}
	return left, errors.Join(errs...)
}

// Networks returns the names and the ids of the networks of a driver. The error
// wraps [ErrUnavailable] when the engine did not answer. It blocks for the
// configured timeout at most.
func (c *Client) Networks(ctx context.Context, driver string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	list, err := c.networks(ctx, driver)
	var names []string
	for _, n := range list {
		names = append(names, n.Name, n.ID)
	}
	return names, err
}

// Endpoints returns the containers that are on the networks of a driver, full
// ids by the ids of their endpoints. What is just being made may be missing, or
// have no container yet. Errors and blocking are those of [Client.Networks].
func (c *Client) Endpoints(ctx context.Context, driver string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	list, err := c.networks(ctx, driver)
	if err != nil {
		return nil, err
	}
	endpoints := make(map[string]string)
	for _, n := range list {
		var status int
		r, err := c.api.NetworkInspect(withStatus(ctx, &status), n.ID, client.NetworkInspectOptions{})
		if err != nil {
			if err = translate(err, status); errors.Is(err, api.ErrNotFound) {
				continue // it was removed meanwhile
			}
			return nil, err
		}
		for id, e := range r.Network.Containers {
			if strings.HasPrefix(id, "ep-") { // and the id of the endpoint
				id = ""
			}
			endpoints[e.EndpointID] = id
		}
	}
	return endpoints, nil
}

// networks lists those of a driver.
func (c *Client) networks(ctx context.Context, driver string) ([]network.Summary, error) {
	r, err := c.api.NetworkList(ctx, client.NetworkListOptions{Filters: make(client.Filters).Add("driver", driver)})
	if err != nil {
		return nil, translate(fmt.Errorf("list networks: %w", err), 0)
	}
	// Not every engine knows the filter.
	return slices.DeleteFunc(r.Items, func(n network.Summary) bool { return n.Driver != driver }), nil
}
