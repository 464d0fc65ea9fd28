// Package docker asks a Docker engine about its containers and follows what
// happens to them. That there is no engine is normal and costs next to
// nothing.
//
// It does not know what weft does with a container; it changes nothing in the
// engine. It works with Engine 20.10 (API 1.41) and later.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/weftnet/weft/router/api"
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
	Host     string        // such as unix:///run/docker.sock; empty: as above
	Timeout  time.Duration // of one question; zero: 10 s
	Retry    time.Duration // after the engine was lost, doubling; zero: 1 s
	RetryMax time.Duration // zero: 30 s
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

	// Safe by itself: until when an engine that let a question time out is
	// not asked again, so that a sweep of many containers waits for it once.
	hung atomic.Pointer[time.Time]
}

// engine is the part of the engine's API that we use. *client.Client
// satisfies it.
type engine interface {
	ContainerInspect(ctx context.Context, container string, o client.ContainerInspectOptions) (client.ContainerInspectResult, error)
	ContainerList(ctx context.Context, o client.ContainerListOptions) (client.ContainerListResult, error)
	Events(ctx context.Context, o client.EventsListOptions) client.EventsResult
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
	if until := c.hung.Load(); until != nil && time.Now().Before(*until) {
		return Container{}, fmt.Errorf("%w: it did not answer in time just now", ErrUnavailable)
	}
	short, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var status int
	r, err := c.api.ContainerInspect(withStatus(short, &status), nameOrID, client.ContainerInspectOptions{})
	if err != nil {
		if short.Err() != nil && ctx.Err() == nil {
			until := time.Now().Add(c.timeout)
			c.hung.Store(&until)
		}
		return Container{}, translate(err, status)
	}
	return fromInspect(r.Container), nil
}

func fromInspect(r container.InspectResponse) Container {
	c := Container{ID: r.ID, Name: strings.TrimPrefix(r.Name, "/"), HostsPath: r.HostsPath}
	if r.State != nil {
		c.Running = r.State.Running
		c.PID = r.State.Pid
	}
	if r.Config != nil {
		c.Hostname, c.Domainname = r.Config.Hostname, r.Config.Domainname
	}
	if r.HostConfig != nil {
		c.HostNetwork = r.HostConfig.NetworkMode.IsHost()
	}
	return c
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
