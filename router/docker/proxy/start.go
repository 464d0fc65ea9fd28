package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/weftnet/weft/router/api"
)

// start prepares a container that is about to start: weftd is ready for it,
// and its address is still free. A container that was away for long may find
// its address with somebody else; it gets another one, unless its user chose
// it. One that never ran and is on no network of ours is treated as a new one:
// weftd may have been killed between its creation and what makes it ours. What the
// engine is to refuse is left to the engine.
func (p *Proxy) start(ctx context.Context, id string) error {
	c, err := p.engine.inspect(ctx, id)
	if err != nil || c.State.Running && !c.State.Restarting {
		return nil //nolint:nilerr // the engine says what is wrong
	}
	fresh := c.State.Status == "created"
	for name, at := range c.NetworkSettings.Networks {
		if at == nil || name != p.cfg.Name && at.DriverOpts[optContainer] == "" {
			continue
		}
		fresh = false
		if err := p.await(ctx); err != nil {
			return err
		}
		if at.DriverOpts[optContainer] != c.ID || at.IPAMConfig == nil {
			continue // on the network by its user's own will
		}
		if err := p.keep(ctx, c, name, at); err != nil {
			return err
		}
	}
	if fresh {
		return p.late(ctx, c)
	}
	return nil
}

// late connects a container that was created without us.
func (p *Proxy) late(ctx context.Context, c inspected) error {
	w, ok, err := p.wanted(&creation{mode: c.HostConfig.NetworkMode, env: c.Config.Env})
	if err != nil || !ok {
		return err
	}
	if err := p.await(ctx); err != nil {
		return err
	}
	s, err := p.seat(ctx, w, strings.TrimPrefix(c.Name, "/"))
	if err != nil {
		return err
	}
	defer s.free()
	if err := p.connect(ctx, s, c.ID); err != nil {
		return refuse(http.StatusInternalServerError, "container %s cannot be connected to the network %s: %v", c.ID, s.network, err)
	}
	p.log.Info("a container that was created without the switch gets it", "container", c.ID, "network", s.network, "address", s.address)
	return nil
}

// keep makes sure of a container's address, for as long as addresses are kept.
func (p *Proxy) keep(ctx context.Context, c inspected, network string, at *place) error {
	address, err := netip.ParseAddr(at.IPAMConfig.IPv4Address)
	if err != nil {
		return nil // it has none that is fixed
	}
	p.enter(network)
	defer p.leave(network)
	subnet, err := p.network(ctx, network, netip.Prefix{})
	if err != nil {
		return refuse(http.StatusServiceUnavailable, "%v", err)
	}
	label := strings.TrimPrefix(c.Name, "/")
	_, err = p.cfg.Backend.Reserve(ctx, api.ReserveRequest{Subnet: subnet, Address: address, Label: label})
	switch {
	case err == nil:
		if p.hosts != nil {
			p.hosts.watch(ctx, p.engine, c.ID, address)
		}
		return p.cfg.Backend.Unreserve(ctx, address)
	case !errors.Is(err, api.ErrConflict) || !strings.HasPrefix(at.DriverOpts[optAsked], "net:"):
		return refuse(statusOf(err), "%v", err)
	}
	other, err := p.cfg.Backend.Reserve(ctx, api.ReserveRequest{Subnet: subnet, Label: label})
	if err != nil {
		return refuse(statusOf(err), "%v", err)
	}
	defer func() {
		if err := p.cfg.Backend.Unreserve(ctx, other.Addr()); err != nil {
			p.log.Warn("cannot give an address back", "address", other.Addr(), "err", err)
		}
	}()
	w := wish{asked: at.DriverOpts[optAsked], more: strings.Fields(at.DriverOpts[optAddresses])}
	err = p.engine.disconnect(ctx, network, c.ID)
	if err == nil {
		err = p.connect(ctx, &seat{network: network, address: other, wish: w}, c.ID)
	}
	if err != nil {
		return refuse(http.StatusInternalServerError, "container %s lost its address %s to another one and cannot be given a new one: %v", label, address, err)
	}
	p.log.Info("a container's address belongs to another one by now", "container", c.ID, "was", address, "is", other.Addr())
	return nil
}

// inspect lets the answer show the address on the switch.
func (p *Proxy) inspect(ctx context.Context, t *turn, _ *http.Request, _ []byte) ([]byte, error) {
	t.edit = func(r *http.Response, head, body []byte) []byte {
		if r.StatusCode != http.StatusOK {
			return nil
		}
		changed, err := rewriteInspection(body, func(id string) (netip.Prefix, string, bool) { return p.attached(ctx, id) })
		if err != nil || changed == nil {
			return nil
		}
		if bytes.HasSuffix(body, []byte("\n")) {
			changed = append(changed, '\n')
		}
		return append(withLength(head, len(changed)), changed...)
	}
	return nil, nil
}

// attached returns the first address of a container on the switch.
func (p *Proxy) attached(ctx context.Context, id string) (netip.Prefix, string, bool) {
	list, err := p.cfg.Backend.PS(ctx, nil)
	if err != nil {
		return netip.Prefix{}, "", false
	}
	for _, a := range list {
		if a.ID == id && len(a.Addresses) > 0 {
			return a.Addresses[0], a.MAC, true
		}
	}
	return netip.Prefix{}, "", false
}

// enter and leave say that a network is about to be used.
func (p *Proxy) enter(network string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inUse[network]++
}

func (p *Proxy) leave(network string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inUse[network]--; p.inUse[network] <= 0 {
		delete(p.inUse, network)
	}
}

// Times between looks at what the engine has of ours.
const (
	tendEvery = 10 * time.Minute
	tendRetry = time.Second // while the engine does not answer; doubling
	tendMost  = 30 * time.Second
)

// tend removes networks of ours that no container has any more, and finds the
// containers whose hosts files are looked after.
func (p *Proxy) tend(ctx context.Context) {
	retry := tendRetry
	for found := false; ctx.Err() == nil; {
		next := tendEvery
		if err := p.sweep(ctx, !found); err != nil {
			p.log.Debug("cannot look after Docker's networks", "err", err)
			next, retry = retry, min(2*retry, tendMost)
		} else {
			found, retry = true, tendRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(next):
		}
	}
}

func (p *Proxy) sweep(ctx context.Context, find bool) error {
	var own []struct{ Name string }
	if err := p.engine.call(ctx, http.MethodGet, "/networks?filters="+url.QueryEscape(`{"label":["`+NetworkLabel+`"]}`), nil, &own); err != nil {
		return err
	}
	if len(own) == 0 && !(find && p.hosts != nil) {
		return nil
	}
	var containers []struct {
		ID              string `json:"Id"`
		NetworkSettings struct{ Networks map[string]json.RawMessage }
	}
	if err := p.engine.call(ctx, http.MethodGet, "/containers/json?all=1", nil, &containers); err != nil {
		return err
	}
	used := make(map[string]bool)
	for _, c := range containers {
		ours := false
		for name := range c.NetworkSettings.Networks {
			used[name] = true
			ours = ours || name == p.cfg.Name || strings.HasPrefix(name, p.cfg.Name+"-")
		}
		if ours && find && p.hosts != nil {
			p.find(ctx, c.ID)
		}
	}
	var errs []error
	for _, n := range own {
		if used[n.Name] || p.busy(n.Name) {
			continue
		}
		err := p.engine.call(ctx, http.MethodDelete, "/networks/"+url.PathEscape(n.Name), nil, nil)
		if err == nil {
			p.log.Info("removed a network that no container has any more", "network", n.Name)
		} else if !isStatus(err, http.StatusNotFound) {
			errs = append(errs, fmt.Errorf("remove network %s: %w", n.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (p *Proxy) busy(network string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inUse[network] > 0
}

// find looks after a container that an earlier daemon gave the switch.
func (p *Proxy) find(ctx context.Context, id string) {
	c, err := p.engine.inspect(ctx, id)
	if err != nil {
		return // it is gone, or the next start finds it
	}
	for _, at := range c.NetworkSettings.Networks {
		if at == nil || at.IPAMConfig == nil || at.DriverOpts[optContainer] != c.ID {
			continue
		}
		if a, err := netip.ParseAddr(at.IPAMConfig.IPv4Address); err == nil {
			p.hosts.watch(ctx, p.engine, c.ID, a)
		}
	}
}
