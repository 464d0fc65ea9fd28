package proxy

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/router/api"
)

// Names that others rely on: the variable by which a container says what it
// wants, and the options that reach the network driver.
const (
	cidrEnv   = "WEFT_CIDR"
	byDefault = "net:default"

	optContainer  = "weft.container"   // full id
	optAddresses  = "weft.addresses"   // further ones as weft attach takes them, space separated
	optWithoutDNS = "weft.nodns"       // true: register no name
	optAsked      = "weft-proxy.asked" // not for the driver: what the first address was asked for as
)

// NetworkLabel is on the networks that the proxy makes.
const NetworkLabel = "weft.proxy"

// handler reads, and may change, the body of a request, and may ask for its
// answer. Nil leaves the body as it is.
type handler func(ctx context.Context, t *turn, r *http.Request, body []byte) ([]byte, error)

// paths is what concerns us, in any version of the API. Docker takes the id
// as it stands, so that one in the path never has a slash.
var paths = regexp.MustCompile(`^(?:/v[0-9][0-9.]*)?/containers/(?:(create)|([^/]+)/(start|restart|json))$`)

// handler returns what a request needs; nil for nearly all of them.
func (p *Proxy) handler(r *http.Request) handler {
	m := paths.FindStringSubmatch(r.URL.Path)
	if m == nil {
		return nil
	}
	id := m[2]
	switch {
	case m[1] != "" && r.Method == http.MethodPost:
		return p.create
	case (m[3] == "start" || m[3] == "restart") && r.Method == http.MethodPost:
		return func(ctx context.Context, _ *turn, _ *http.Request, _ []byte) ([]byte, error) {
			return nil, p.start(ctx, id)
		}
	case m[3] == "json" && r.Method == http.MethodGet && p.cfg.RewriteInspect:
		return p.inspect
	}
	return nil
}

// wish is the addresses that a container is to have.
type wish struct {
	first api.AddressSpec // IPv4; on the network that its subnet has
	asked string          // as typed
	more  []string
}

// wanted returns what a new container is to have; false: it is none of ours.
func (p *Proxy) wanted(c *creation) (wish, bool, error) {
	typed := strings.Fields(c.variable(cidrEnv))
	if !c.plain() || len(typed) == 1 && typed[0] == "none" {
		return wish{}, false, nil
	}
	if len(typed) == 0 {
		if p.cfg.NoDefault || !p.cfg.Subnet.IsValid() {
			return wish{}, false, nil
		}
		typed = []string{byDefault}
	}
	var w wish
	for _, s := range typed {
		a, err := api.ParseAddress(s)
		if err != nil {
			return wish{}, false, refuse(http.StatusBadRequest, "%s=%s: %v", cidrEnv, strings.Join(typed, " "), err)
		}
		if !a.Prefix.IsValid() {
			if a.Prefix = p.cfg.Subnet; !a.Prefix.IsValid() {
				return wish{}, false, refuse(http.StatusBadRequest, "%s=%s: weft has no allocator (--ipalloc-range is empty); name an address", cidrEnv, s)
			}
		}
		if a.Allocate && !p.inRange(a.Prefix) {
			return wish{}, false, refuse(http.StatusBadRequest, "%s=%s: that is not inside %s, from which weft gives addresses (--ipalloc-range)", cidrEnv, s, p.cfg.Range)
		}
		if w.asked == "" && a.Prefix.Addr().Is4() {
			w.first, w.asked = a, s
			continue
		}
		w.more = append(w.more, s)
	}
	if w.asked == "" {
		return wish{}, false, refuse(http.StatusBadRequest, "%s=%s: name an IPv4 address, too, or one to allocate", cidrEnv, strings.Join(typed, " "))
	}
	return w, true, nil
}

// create asks for a container that is connected to the network weft before
// anybody knows it.
func (p *Proxy) create(ctx context.Context, t *turn, r *http.Request, body []byte) ([]byte, error) {
	c, err := parseCreation(body)
	if err != nil {
		return nil, nil //nolint:nilerr // the engine says what is wrong with it
	}
	w, ok, err := p.wanted(c)
	if err != nil || !ok {
		return nil, err
	}
	name := strings.TrimPrefix(r.URL.Query().Get("name"), "/")
	if err := p.await(ctx); err != nil {
		return nil, err
	}
	s, err := p.seat(ctx, w, name)
	if err != nil {
		return nil, err
	}
	if !p.cfg.WithoutDNS {
		if err = c.setNames(&p.cfg, name); err == nil {
			body, err = c.body()
		}
		if err != nil {
			s.free()
			return nil, err
		}
	}
	t.abandon = s.free
	t.edit = func(r *http.Response, _, answer []byte) []byte {
		defer s.free()
		if r.StatusCode != http.StatusCreated {
			return nil
		}
		if err := p.finish(ctx, s, answer); err != nil {
			return refuse(http.StatusInternalServerError, "the container was not created: %v", err).message()
		}
		return nil
	}
	return body, nil
}

// finish connects a container that was just created, or removes it again.
func (p *Proxy) finish(ctx context.Context, s *seat, answer []byte) error {
	var created struct {
		ID string `json:"Id"`
	}
	if err := json.Unmarshal(answer, &created); err != nil || created.ID == "" {
		return fmt.Errorf("the engine's answer names no container: %s", answer)
	}
	err := p.connect(ctx, s, created.ID)
	if err == nil {
		p.log.Info("a container gets the switch", "container", created.ID, "network", s.network, "address", s.address)
		return nil
	}
	err = fmt.Errorf("it cannot be connected to the network %s: %w", s.network, err)
	if gone := p.engine.remove(ctx, created.ID); gone != nil && !isStatus(gone, http.StatusNotFound) {
		err = fmt.Errorf("%w; nor can it be removed again, do that by hand: %w", err, gone)
	}
	p.log.Warn("a container does not get the switch", "container", created.ID, "err", err)
	return err
}

// seat is a place on a network that is kept free for a container.
type seat struct {
	network string
	address netip.Prefix
	wish    wish
	free    func() // gives the place to whoever asks for its address by name next, and in the end to anybody
}

// seat reserves what w wants. Its errors are refusals.
func (p *Proxy) seat(ctx context.Context, w wish, label string) (*seat, error) {
	name := p.networkOf(w.first.Prefix.Masked())
	p.enter(name)
	subnet, err := p.network(ctx, name, w.first.Prefix)
	if err != nil {
		p.leave(name)
		return nil, refuse(http.StatusServiceUnavailable, "%v", err)
	}
	q := api.ReserveRequest{Subnet: subnet, Label: label}
	if !w.first.Allocate {
		q.Address = w.first.Prefix.Addr()
	}
	address, err := p.cfg.Backend.Reserve(ctx, q)
	if err != nil {
		p.leave(name)
		return nil, refuse(statusOf(err), "%v", err)
	}
	return &seat{network: name, address: address, wish: w, free: sync.OnceFunc(func() {
		if err := p.cfg.Backend.Unreserve(ctx, address.Addr()); err != nil {
			p.log.Warn("cannot give an address back", "address", address.Addr(), "err", err)
		}
		p.leave(name)
	})}, nil
}

// statusOf is how Docker calls the kinds of our errors.
func statusOf(err error) int {
	switch {
	case errors.Is(err, api.ErrUsage):
		return http.StatusBadRequest
	case errors.Is(err, api.ErrConflict):
		return http.StatusConflict
	case errors.Is(err, api.ErrNotFound):
		return http.StatusNotFound
	}
	return http.StatusServiceUnavailable
}

// connect gives a container the seat; the engine asks its driver for it when
// the container starts.
func (p *Proxy) connect(ctx context.Context, s *seat, id string) error {
	at := place{DriverOpts: map[string]string{optContainer: id, optAsked: s.wish.asked}}
	at.IPAMConfig = &struct {
		IPv4Address string `json:",omitempty"`
	}{s.address.Addr().String()}
	if len(s.wish.more) > 0 {
		at.DriverOpts[optAddresses] = strings.Join(s.wish.more, " ")
	}
	if p.cfg.WithoutDNS {
		at.DriverOpts[optWithoutDNS] = "true"
	}
	err := p.engine.connect(ctx, s.network, id, at)
	if err == nil && p.hosts != nil {
		p.hosts.watch(ctx, p.engine, id, s.address.Addr())
	}
	return err
}

// networkOf returns the engine's network for a subnet: weft, or one of ours.
func (p *Proxy) networkOf(subnet netip.Prefix) string {
	if subnet == p.cfg.Subnet {
		return p.cfg.Name
	}
	return fmt.Sprintf("%s-%s-%d", p.cfg.Name, subnet.Addr(), subnet.Bits())
}

// Bounds of the wait for the network weft, which is made by weftd when it and
// the engine have met.
const (
	networkLimit = 10 * time.Second
	networkPoll  = 100 * time.Millisecond
)

// network returns the subnet of a network. One that is ours is made, for the
// first address that is wanted there.
func (p *Proxy) network(ctx context.Context, name string, first netip.Prefix) (netip.Prefix, error) {
	ctx, cancel := context.WithTimeout(ctx, networkLimit)
	defer cancel()
	for {
		var n struct {
			Driver string
			IPAM   struct{ Config []struct{ Subnet string } }
		}
		err := p.engine.call(ctx, http.MethodGet, "/networks/"+url.PathEscape(name), nil, &n)
		switch {
		case err == nil && n.Driver != p.cfg.Name:
			return netip.Prefix{}, fmt.Errorf("the network %s has the driver %s, not %s: remove or rename it", name, n.Driver, p.cfg.Name)
		case err == nil:
			for _, c := range n.IPAM.Config {
				if got, err := netip.ParsePrefix(c.Subnet); err == nil && got.Addr().Is4() {
					return got, nil
				}
			}
			return netip.Prefix{}, fmt.Errorf("the network %s has no IPv4 subnet", name)
		case !isStatus(err, http.StatusNotFound):
			return netip.Prefix{}, err
		}
		if name != p.cfg.Name {
			if err := p.makeNetwork(ctx, name, first); err != nil {
				return netip.Prefix{}, err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return netip.Prefix{}, fmt.Errorf("the network %s is not there after %s: weftd makes it when it meets an engine, unless somebody removed it since; "+
				"'docker network create -d %s --ipam-driver %s --subnet %s %s' makes it now", name, networkLimit, name, name, p.cfg.Subnet, name)
		case <-time.After(networkPoll):
		}
	}
}

// makeNetwork makes a network for a subnet. One that lies outside of the range
// is for containers that name their addresses: weft gives none there, so the
// engine keeps the books. It wants a gateway, which nobody uses.
func (p *Proxy) makeNetwork(ctx context.Context, name string, first netip.Prefix) error {
	config := map[string]string{"Subnet": first.Masked().String()}
	allocator := p.cfg.Name
	if !p.inRange(first.Masked()) {
		allocator = "default"
		if g := unusedGateway(first); g.IsValid() {
			config["Gateway"] = g.String()
		}
	}
	err := p.engine.call(ctx, http.MethodPost, "/networks/create", map[string]any{
		"Name": name, "Driver": p.cfg.Name, "CheckDuplicate": true, "Labels": map[string]string{NetworkLabel: "true"},
		"IPAM": map[string]any{"Driver": allocator, "Config": []map[string]string{config}},
	}, nil)
	if err != nil && !isStatus(err, http.StatusConflict) {
		return fmt.Errorf("make the network %s: %w", name, err)
	}
	return nil
}

// unusedGateway returns the last address of a subnet that the first container
// in it does not want; nothing when there is no other.
func unusedGateway(first netip.Prefix) netip.Addr {
	b := first.Masked().Addr().As4()
	last := binary.BigEndian.Uint32(b[:]) | uint32(1<<(32-first.Bits())-1)
	for n := last - 1; last-n < 3; n-- {
		binary.BigEndian.PutUint32(b[:], n)
		if a := netip.AddrFrom4(b); a != first.Addr() && a != first.Masked().Addr() && first.Contains(a) {
			return a
		}
	}
	return netip.Addr{}
}

// inRange says whether weft gives all addresses of a subnet.
func (p *Proxy) inRange(subnet netip.Prefix) bool {
	r := p.cfg.Range
	return r.IsValid() && subnet.Bits() >= r.Bits() && r.Contains(subnet.Addr())
}
