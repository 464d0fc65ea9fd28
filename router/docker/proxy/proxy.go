// Package proxy serves Docker's API in front of an engine. Everything passes as
// it comes, byte for byte, but what concerns the switch: a plain container is
// connected to the network weft between its creation and the answer to it, so
// that nobody can start it without.
//
// It does not put interfaces anywhere and keeps no state: the engine keeps
// what a container was given, and its network driver (router/docker/plugin)
// does the work when the container starts. It knows no container runtime but
// Docker's engine.
package proxy

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/router/api"
)

// Bounds of what a client waits for.
const (
	dialLimit  = 10 * time.Second // to reach the engine
	readyLimit = 30 * time.Second // for weftd to be ready
	askLimit   = 30 * time.Second // for one answer of the engine to us
	readyPoll  = 50 * time.Millisecond
	stopGrace  = 5 * time.Second // for undoing, when weftd ends
)

// Backend is what we need of weftd. It may not be ready yet.
type Backend interface {
	Status(ctx context.Context) (api.Status, error)
	Reserve(ctx context.Context, r api.ReserveRequest) (netip.Prefix, error)
	Unreserve(ctx context.Context, addr netip.Addr) error
	PS(ctx context.Context, containers []string) ([]api.Attachment, error)
}

// Config says what the proxy does with containers.
type Config struct {
	// Dial opens a connection to the engine. Socket is the path of its unix
	// socket, whose mode and group ours take over; empty: it has none.
	Dial    func(ctx context.Context) (net.Conn, error)
	Socket  string
	Backend Backend

	Name      string       // of the network driver, its allocator, and the default network; empty: weft
	Range     netip.Prefix // that weft gives addresses from; zero: no allocator
	Subnet    netip.Prefix // of the network weft; zero with Range
	Domain    string       // with its final dot; empty: no names
	DNS       netip.Addr   // of the name server, on port 53; zero: leave resolvers alone
	NoDefault bool         // leave containers alone that name no WEFT_CIDR
	// WithoutDNS gives containers no names, and leaves their resolvers alone.
	WithoutDNS     bool
	NoRewriteHosts bool
	RewriteInspect bool

	Label       string         // whose value names a container; empty: none
	Match       *regexp.Regexp // host names are names with this replaced; nil: names
	Replacement string

	Log *slog.Logger
}

// Proxy is one proxy, which may listen in several places. It is safe for
// concurrent use.
type Proxy struct {
	// Constant after New.
	cfg    Config
	log    *slog.Logger
	engine *engine
	hosts  *hostsKeeper // nil: they are left alone

	ready atomic.Bool // for good

	mu    sync.Mutex // guards what follows
	pairs map[*pair][]net.Conn
	ended bool
	inUse map[string]int // networks that a request is about to use
	owner socketOwner    // that our socket has
	own   string         // path of our socket
}

// New returns a proxy that does nothing yet.
func New(c Config) *Proxy {
	c.Name = cmp.Or(c.Name, "weft")
	p := &Proxy{cfg: c, log: c.Log, pairs: make(map[*pair][]net.Conn), inUse: make(map[string]int)}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.engine = &engine{http: &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx) },
		MaxIdleConns:       8,
		IdleConnTimeout:    30 * time.Second,
		DisableCompression: true,
		MaxConnsPerHost:    64, MaxIdleConnsPerHost: 8,
	}}}
	if !c.NoRewriteHosts {
		p.hosts = newHostsKeeper(p.log)
	}
	return p
}

// Run serves at the doors until ctx ends, and closes them. Connections that
// still stand then end, too; what has been begun for a container is finished
// or undone first.
func (p *Proxy) Run(ctx context.Context, doors []*Door) error {
	group, ctx := errgroup.WithContext(ctx)
	var pairs sync.WaitGroup
	for _, d := range doors {
		stop := context.AfterFunc(ctx, func() { _ = d.listener.Close() })
		defer stop()
		group.Go(func() error { return p.accept(ctx, d, &pairs) })
	}
	if p.hosts != nil {
		group.Go(func() error { p.hosts.run(ctx); return nil })
	}
	group.Go(func() error { p.tend(ctx); return nil })
	err := group.Wait()
	p.end()
	done := make(chan struct{})
	go func() { pairs.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(stopGrace): // nothing that we know lasts so long
	}
	p.engine.http.CloseIdleConnections()
	return err
}

// accept serves at one door.
func (p *Proxy) accept(ctx context.Context, d *Door, pairs *sync.WaitGroup) error {
	for {
		c, err := d.listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // we closed it
			}
			// Too many open files, mostly: it passes.
			p.log.Warn("cannot accept a connection of Docker's client", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(readyPoll):
			}
			continue
		}
		pair := &pair{proxy: p, client: newStream(c), door: d}
		if !p.hold(pair, c) {
			_ = c.Close()
			continue
		}
		// The end of weftd ends the connection, not what is being done.
		pairs.Go(func() {
			if d.greet(ctx, c) {
				pair.run(context.WithoutCancel(ctx))
			} else {
				pair.close()
			}
		})
	}
}

// hold remembers a pair's connection, unless everything ends.
func (p *Proxy) hold(pair *pair, c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.pairs[pair] = append(p.pairs[pair], c)
	return true
}

func (p *Proxy) release(pair *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pairs, pair)
}

// end closes every connection.
func (p *Proxy) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for _, conns := range p.pairs {
		for _, c := range conns {
			_ = c.Close()
		}
	}
}

func (p *Proxy) dialEngine(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	c, err := p.cfg.Dial(ctx)
	if err != nil {
		return nil, refuse(http.StatusServiceUnavailable, "the Docker engine does not answer: %v", err)
	}
	p.followOwner()
	return c, nil
}

// await returns when weftd is ready to give addresses and names.
func (p *Proxy) await(ctx context.Context) error {
	if p.ready.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for {
		s, err := p.cfg.Backend.Status(ctx)
		if err == nil && s.Ready {
			p.ready.Store(true)
			return nil
		}
		select {
		case <-ctx.Done():
			why := s.Waiting
			if err != nil {
				why = err.Error()
			}
			return refuse(http.StatusServiceUnavailable, "weftd is not ready after %s: waiting for %s; "+
				"'weft status' tells when it is, docker beside the proxy works meanwhile", readyLimit, why)
		case <-poll.C:
		}
	}
}
