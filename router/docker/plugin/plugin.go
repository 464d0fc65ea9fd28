// Package plugin is what a Docker engine calls the network driver and the
// address allocator "weft": it answers the requests of Docker's plugin protocol
// on a unix socket, each by a call or two of the daemon's backend.
//
// It never asks the engine anything, for the engine may hold a lock while it
// waits for the answer; the default network is made by router/docker. It makes
// no interface, chooses no address, and remembers nothing of a container: the
// backend does. Every answer may be asked for twice.
//
// An engine waits for a socket that does not answer, so that belongs to a process
// that outlives the daemon, the [Keeper], which passes on what it is asked.
package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/socket"
)

// Socket is where an engine looks for the plugin. The name of the file is the
// name of the driver.
const Socket = "/run/docker/plugins/weft.sock"

// How long the engine waits for us at most. It has no limit of its own, and
// what it does meanwhile with the container waits too.
const (
	setUpTime    = 15 * time.Second // a container that starts can wait for a daemon that does
	tearDownTime = 5 * time.Second  // what is left over then, the next sweep takes
)

// The halves of the protocol.
const (
	networkDriver = "/NetworkDriver."
	ipamDriver    = "/IpamDriver."
)

// maxBody bounds a request, in bytes. The longest ones list a container's
// published ports.
const maxBody = 1 << 20

// Backend is what the plugin needs of [api.Backend].
type Backend interface {
	Reserve(ctx context.Context, r api.ReserveRequest) (netip.Prefix, error)
	Unreserve(ctx context.Context, addr netip.Addr) error
	AddEndpoint(ctx context.Context, r api.EndpointRequest) (api.Endpoint, error)
	JoinEndpoint(ctx context.Context, r api.EndpointJoin) (api.Endpoint, error)
	LeaveEndpoint(ctx context.Context, id string) error
	RemoveEndpoint(ctx context.Context, id string) error
}

var _ Backend = api.Backend(nil)

// Config says what the plugin serves.
type Config struct {
	// Backend returns the daemon. It waits until that can be asked, which it
	// cannot at first, or until ctx ends.
	Backend func(ctx context.Context) (Backend, error)
	Range   netip.Prefix // of addresses that weft gives; zero: it gives none
	Subnet  netip.Prefix // of a network that names none; inside Range

	StateDir         string // keeps networks.json
	WithoutDNS       bool   // for every container
	NoMulticastRoute bool   // likewise
	Kept             bool   // a [Keeper] asks again what was not answered when we end
	Log              *slog.Logger
}

// Plugin is an [http.Handler] for an engine. It is safe for concurrent use.
type Plugin struct {
	// Constant after New.
	backend          func(context.Context) (Backend, error)
	space, subnet    netip.Prefix
	withoutDNS       bool
	noMulticastRoute bool
	kept             bool
	log              *slog.Logger
	mux              *http.ServeMux

	networks *networks // locks itself
}

// New reads what was asked for of networks that exist.
func New(c Config) (*Plugin, error) {
	p := &Plugin{
		backend: c.Backend, space: c.Range, subnet: c.Subnet,
		withoutDNS: c.WithoutDNS, noMulticastRoute: c.NoMulticastRoute, kept: c.Kept, log: c.Log,
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if p.networks, err = openNetworks(filepath.Join(c.StateDir, stateFile)); err != nil {
		return nil, err
	}
	p.handle()
	return p, nil
}

func (p *Plugin) handle() {
	p.mux = http.NewServeMux()
	answerTo(p, "/Plugin.Activate", tearDownTime, func(context.Context, *none) (manifest, error) {
		return manifest{Implements: []string{"NetworkDriver", "IpamDriver"}}, nil
	})
	p.handleNetworks()
	p.handleAddresses()
}

// none is a request or an answer without content.
type none struct{}

type manifest struct{ Implements []string }

// failure is how the engine is told of an error; it shows the text to people.
type failure struct{ Err string }

// ServeHTTP implements [http.Handler].
func (p *Plugin) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.mux.ServeHTTP(w, r) }

// Serve answers on ln until ctx ends, which also ends the contexts of requests
// under way. It closes ln, which removes the socket, and returns nil when ctx
// was the reason.
func (p *Plugin) Serve(ctx context.Context, ln net.Listener) error {
	return serve(ctx, newServer(ctx, p, p.log), ln, time.Second)
}

// newServer serves an engine; base is what contexts of requests come from.
func newServer(base context.Context, handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// serve runs h until ctx ends, and gives requests that are under way then a
// grace.
func serve(ctx context.Context, h *http.Server, ln net.Listener, grace time.Duration) error {
	if err := socket.Serve(ctx, h, ln, grace); err != nil {
		return fmt.Errorf("serve Docker's plugin: %w", err)
	}
	return nil
}

// answerTo answers the requests of one kind, within a limit.
func answerTo[In, Out any](p *Plugin, path string, limit time.Duration, f func(context.Context, *In) (Out, error)) {
	p.mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		in, err := decode[In](r.Body)
		var out Out
		if err == nil {
			if out, err = f(ctx, in); err != nil && (ctx.Err() != nil || lacksDisk(err)) {
				err = &laterError{err}
			}
		}
		log := p.log.With("request", strings.TrimPrefix(path, "/"), "took", time.Since(begun).Round(10*time.Microsecond))
		switch {
		case err == nil:
			log.Debug("Docker's request answered")
		case r.Context().Err() == nil:
			log.Warn("Docker's request refused", "err", err)
		case p.kept:
			panic(http.ErrAbortHandler) // who asks next may have more luck
		}
		write(w, out, err)
	})
}

// errNoContent is for what an engine repeats when its connection broke, for of
// that it sends the head alone. It cannot be answered.
var errNoContent = errors.New("a request of Docker's came without its content, as it does when weft was restarted while it was asked: try again")

var errTooLarge = fmt.Errorf("the request is larger than %d bytes", maxBody)

// decode reads a request. Fields that we do not know are those of newer
// engines. Some requests have no content.
func decode[In any](body io.Reader) (*In, error) {
	in := new(In)
	b, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the request: %w", err)
	case len(b) > maxBody:
		return nil, errTooLarge
	case len(strings.TrimSpace(string(b))) == 0:
		if _, ok := any(in).(*none); ok {
			return in, nil
		}
		return nil, errNoContent
	}
	if err := json.Unmarshal(b, in); err != nil {
		return nil, fmt.Errorf("the request is not understood: %w", err)
	}
	return in, nil
}

// laterError says that something was not done and can be soon: a [Keeper] asks
// again for what containers let go of.
type laterError struct{ err error }

func (e *laterError) Error() string { return e.err.Error() }
func (e *laterError) Unwrap() error { return e.err }

// lacksDisk says that nothing is wrong with what was asked for.
func lacksDisk(err error) bool {
	return slices.ContainsFunc([]error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO}, func(is error) bool { return errors.Is(err, is) })
}

func write(w http.ResponseWriter, out any, err error) {
	status := http.StatusOK
	if err != nil {
		status, out = http.StatusInternalServerError, failure{strings.Join(strings.Fields(err.Error()), " ")}
	}
	if _, ok := errors.AsType[*laterError](err); ok {
		status = http.StatusServiceUnavailable
	}
	b, err := json.Marshal(out)
	if err != nil {
		panic("plugin: an answer is plain fields: " + err.Error())
	}
	w.Header().Set("Content-Type", sdk.DefaultContentTypeV1_1)
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the engine is gone; nobody to tell
}

// ask calls the backend as soon as it is there. The error says what people can
// do about it.
func ask[T any](ctx context.Context, p *Plugin, f func(Backend) (T, error)) (T, error) {
	var zero T
	b, err := p.backend(ctx)
	if err != nil {
		return zero, fmt.Errorf("weftd is not ready yet: try again, 'weft status' says what it waits for: %w", err)
	}
	v, err := f(b)
	if errors.Is(err, context.DeadlineExceeded) {
		return zero, fmt.Errorf("weftd did not get it done in time: try again, 'weft status' says what it waits for: %w", err)
	}
	return v, err
}

// tell is ask for calls that give nothing.
func tell(ctx context.Context, p *Plugin, f func(Backend) error) (none, error) {
	return ask(ctx, p, func(b Backend) (none, error) { return none{}, f(b) })
}
