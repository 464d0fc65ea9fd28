// Package docker asks a Docker engine about its containers and networks and
// follows what happens to them. That there is no engine is normal and costs
// next to nothing.
//
// It does not know what weft does with a container; it changes nothing in the
// engine, save that it makes the default network. It works with Engine 20.10
// (API 1.41) and later.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/bell"
)

// ErrUnavailable says that no engine answered.
var ErrUnavailable = errors.New("the Docker engine does not answer")

// Defaults of [Config].
const (
	defaultTimeout  = 10 * time.Second
	defaultRetry    = time.Second
	defaultRetryMax = 30 * time.Second
)

// Config says how an engine is reached. Its zero value is complete: what
// DOCKER_HOST and the other variables of Docker's own client say, else
// /var/run/docker.sock.
type Config struct {
	Host     string         // such as unix:///run/docker.sock; empty: as above
	Timeout  time.Duration  // of one question; zero: 10 s
	Retry    time.Duration  // after the engine was lost, doubling; zero: 1 s
	RetryMax time.Duration  // zero: 30 s
	Network  DefaultNetwork // zero: none
	Log      *slog.Logger
}

// Client is a connection to one engine, made when it is first needed. It is
// safe for concurrent use.
type Client struct {
	// Constant after New.
	api      engine
	close    func() error
	timeout  time.Duration
	retry    time.Duration
	retryMax time.Duration
	log      *slog.Logger
	keeper   *keeper // locks itself
}

// engine is the part of the engine's API that we use. *client.Client
// satisfies it.
type engine interface {
	ContainerInspect(ctx context.Context, container string, o client.ContainerInspectOptions) (client.ContainerInspectResult, error)
	ContainerList(ctx context.Context, o client.ContainerListOptions) (client.ContainerListResult, error)
	Events(ctx context.Context, o client.EventsListOptions) client.EventsResult
	NetworkList(ctx context.Context, o client.NetworkListOptions) (client.NetworkListResult, error)
	NetworkInspect(ctx context.Context, id string, o client.NetworkInspectOptions) (client.NetworkInspectResult, error)
	NetworkCreate(ctx context.Context, name string, o client.NetworkCreateOptions) (client.NetworkCreateResult, error)
	NetworkRemove(ctx context.Context, id string, o client.NetworkRemoveOptions) (client.NetworkRemoveResult, error)
}

// New prepares a client and connects to nothing. It fails only when the
// configuration or the environment makes no sense.
func New(c Config) (*Client, error) {
	opts := []client.Opt{client.FromEnv, client.WithHTTPResponseHook(noteStatus)}
	if c.Host != "" {
		opts = append(opts, client.WithHost(c.Host))
	}
	cli, err := client.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("docker client: %w", err)
	}
	d := newClient(cli, c)
	d.close = cli.Close
	return d, nil
}

func newClient(e engine, c Config) *Client {
	d := &Client{api: e, close: func() error { return nil }, timeout: c.Timeout, retry: c.Retry, retryMax: c.RetryMax, log: c.Log}
	if d.timeout <= 0 {
		d.timeout = defaultTimeout
	}
	if d.retry <= 0 {
		d.retry = defaultRetry
	}
	if d.retryMax <= 0 {
		d.retryMax = max(defaultRetryMax, d.retry)
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.keeper = &keeper{api: e, want: c.Network, timeout: d.timeout, retry: d.retry, retryMax: d.retryMax, log: d.log, kicks: bell.New()}
	return d
}

// Close ends idle connections. It does not end [Client.Run]; its context does.
func (c *Client) Close() error { return c.close() }

// Container is what the engine says about a container.
type Container struct {
	ID          string // full
	Name        string // without the leading slash
	Hostname    string
	Domainname  string
	PID         int // as the engine's PID namespace counts; 0 when it does not run
	Running     bool
	HostNetwork bool   // it has no network namespace of its own
	HostsPath   string // of the file that it sees as /etc/hosts
	Created     bool   // it never ran
	Networks    []Network
}

// Network is the place of a container on one of its networks, whatever drives
// that.
type Network struct {
	ID         string // of the network
	Name       string
	EndpointID string       // empty when the container does not run
	Address    netip.Prefix // IPv4; zero: none, or it does not run
	Aliases    []string     // by which others on the network may call it, besides its name
	Pinned     netip.Addr   // the address that it was told to have, whenever it runs; zero: any
}

// nameForm is what the engine takes as a name or an id. Anything else would
// become part of the path of a request.
func nameForm() *regexp.Regexp {
	return regexp.MustCompile(`^/?[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
}

// Inspect returns the container with a name, an id or the unambiguous
// beginning of an id. The error wraps [api.ErrNotFound] when the engine knows
// none or several, with its words, and [ErrUnavailable] when it did not answer.
// It blocks for the configured timeout at most.
func (c *Client) Inspect(ctx context.Context, nameOrID string) (Container, error) {
	if !nameForm().MatchString(nameOrID) {
		return Container{}, notFound(fmt.Errorf("%q cannot be the name of a container", nameOrID))
	}
	short, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var status int
	r, err := c.api.ContainerInspect(withStatus(short, &status), nameOrID, client.ContainerInspectOptions{})
	if err != nil {
		return Container{}, translate(err, status)
	}
	return fromInspect(r.Container), nil
}

// Summary is [Client.Inspect] by the full id, with little more than the state
// and the networks, and without waiting: an engine that starts a container
// holds its lock for as long as that takes.
func (c *Client) Summary(ctx context.Context, id string) (Container, error) {
	short, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := c.api.ContainerList(short, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("id", id)})
	if err != nil {
		return Container{}, translate(err, 0)
	}
	if len(r.Items) != 1 {
		return Container{}, notFound(fmt.Errorf("no such container: %s", id))
	}
	s := r.Items[0]
	out := Container{ID: s.ID, Name: ownName(s.Names), Running: s.State == container.StateRunning, Created: s.State == container.StateCreated}
	if s.NetworkSettings != nil {
		out.Networks = networksOf(s.ID, s.NetworkSettings.Networks)
	}
	return out, nil
}

func fromInspect(r container.InspectResponse) Container {
	c := Container{ID: r.ID, Name: strings.TrimPrefix(r.Name, "/"), HostsPath: r.HostsPath}
	if r.State != nil {
		c.Running = r.State.Running
		c.PID = r.State.Pid
		c.Created = r.State.Status == container.StateCreated
	}
	if r.Config != nil {
		c.Hostname, c.Domainname = r.Config.Hostname, r.Config.Domainname
	}
	if r.HostConfig != nil {
		c.HostNetwork = r.HostConfig.NetworkMode.IsHost()
	}
	if r.NetworkSettings != nil {
		c.Networks = networksOf(c.ID, r.NetworkSettings.Networks)
	}
	return c
}

// networksOf sorts them by name.
func networksOf(container string, all map[string]*network.EndpointSettings) (list []Network) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if n := all[name]; n != nil {
			list = append(list, networkOf(container, name, n))
		}
	}
	return list
}

func networkOf(container, name string, n *network.EndpointSettings) Network {
	p := Network{ID: n.NetworkID, Name: name, EndpointID: n.EndpointID}
	if n.IPAMConfig != nil && n.IPAMConfig.IPv4Address.Is4() {
		p.Pinned = n.IPAMConfig.IPv4Address
	}
	if n.IPAddress.Is4() {
		p.Address = netip.PrefixFrom(n.IPAddress, n.IPPrefixLen)
	}
	for _, a := range n.Aliases {
		// The engine adds the beginning of the id, which nobody asked for.
		if len(a) != shortID || !strings.HasPrefix(container, a) {
			p.Aliases = append(p.Aliases, a)
		}
	}
	return p
}

// shortID is how much of an id the engine shows people.
const shortID = 12

// containers lists all containers, also those that do not run. It knows neither
// PID nor host names, files and aliases; but it does not wait for a container
// that the engine is at work on, as [Client.Inspect] does. Errors and blocking
// are the same.
func (c *Client) containers(ctx context.Context) ([]Container, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := c.api.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, translate(fmt.Errorf("list containers: %w", err), 0)
	}
	list := make([]Container, 0, len(r.Items))
	for _, s := range r.Items {
		one := Container{ID: s.ID, Name: ownName(s.Names), HostNetwork: container.NetworkMode(s.HostConfig.NetworkMode).IsHost()}
		switch s.State {
		case container.StateRunning, container.StatePaused, container.StateRestarting:
			one.Running = true
		case container.StateCreated:
			one.Created = true
		}
		if s.NetworkSettings != nil {
			one.Networks = networksOf(s.ID, s.NetworkSettings.Networks)
		}
		list = append(list, one)
	}
	return list, nil
}

// ownName returns the container's own among the names that it has, which
// include those that links give it.
func ownName(names []string) string {
	for _, n := range names {
		if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
			return n
		}
	}
	return ""
}

// statusKey is where the context of a request carries a place for the status
// of its answer: the client's errors tell it only through a module of others.
type statusKey struct{}

func withStatus(ctx context.Context, status *int) context.Context {
	return context.WithValue(ctx, statusKey{}, status)
}

// noteStatus is called with every answer before its request returns.
func noteStatus(r *http.Response) {
	if status, ok := r.Request.Context().Value(statusKey{}).(*int); ok {
		*status = r.StatusCode
	}
}

// translate sorts the engine's errors. status is zero when it is not known.
func translate(err error, status int) error {
	if status == http.StatusNotFound {
		return notFound(err)
	}
	// The engine has no error class for this that all its versions share.
	if strings.Contains(err.Error(), "ultiple IDs found") {
		return notFound(err)
	}
	if client.IsErrConnectionFailed(err) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w; without it, name the container pid:N or netns:PATH", ErrUnavailable, err)
	}
	return fmt.Errorf("docker: %w", err)
}

// notFoundError carries the engine's words and our class.
type notFoundError struct{ err error }

func notFound(err error) error { return &notFoundError{err} }

func (e *notFoundError) Error() string {
	return strings.TrimPrefix(e.err.Error(), "Error response from daemon: ")
}

func (e *notFoundError) Unwrap() []error { return []error{api.ErrNotFound, e.err} }
