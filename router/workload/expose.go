package workload

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/router/api"
)

// Expose gives the host addresses on the switch. See api.Backend. It waits for
// [Workload.Restore], and for addresses as long as there are none.
func (w *Workload) Expose(ctx context.Context, r api.ExposeRequest) (api.Addresses, error) {
	asks, err := w.parseWanted(r.Addresses)
	if err != nil {
		return nil, err
	}
	full := ""
	if r.FQDN != "" {
		if w.domain == "" {
			return nil, errNoDNS
		}
		if full, err = parseFQDN(r.FQDN, w.domain); err != nil {
			return nil, err
		}
	}
	got, err := w.persevere(ctx, func() ([]netip.Prefix, error) {
		return w.exposeOnce(ctx, asks, full, !r.WithoutMasquerade)
	})
	if err != nil {
		return nil, fmt.Errorf("expose: %w", err)
	}
	return got, nil
}

func (w *Workload) exposeOnce(ctx context.Context, asks []ask, full string, masquerade bool) (got []netip.Prefix, err error) {
	f, err := w.takeOffHost(ctx)
	if err != nil {
		return nil, err
	}
	defer w.land(f)
	if err := w.ready(f); err != nil {
		return nil, err
	}
	var has, all []netip.Prefix
	w.journal.view(func(s *state) {
		for _, e := range s.Exposed {
			has = append(has, e.Address)
		}
		var static []netip.Prefix
		all, static = expected(asks, has)
		err = s.admitHost(static, all)
	})
	if err == nil {
		err = w.checkRoutes(without(all, has))
	}
	if err != nil {
		return nil, err
	}
	got, err = w.obtain(f, asks, has, nil)
	if err == nil {
		var names []name
		if full != "" {
			names = named(full, addrsOf(got), false)
		}
		err = w.expose(f, got, names, masquerade)
	}
	if err != nil {
		return nil, w.failed("expose", err, w.giveBack(f, got))
	}
	return got, nil
}

// expose does the work, under the lock of exposeKey.
func (w *Workload) expose(f *flight, addresses []netip.Prefix, names []name, masquerade bool) error {
	unlock, err := w.locks.lock(f.ctx, exposeKey)
	if err != nil {
		return err
	}
	defer unlock()
	// Nobody else may take the addresses meanwhile. If the daemon dies before
	// the end, this was never asked for: so it is not written down.
	_, err = w.journal.change(func(s *state) error {
		if err := w.ended(f); err != nil {
			return err
		}
		if err := s.admitHost(addresses, addresses); err != nil {
			return err
		}
		s.exposing = addresses
		s.takeOver(addresses)
		return nil
	})
	if err != nil {
		return err
	}
	return w.changeHost(f.ctx, func(s *state) {
		for _, p := range addresses {
			i := slices.IndexFunc(s.Exposed, func(e exposure) bool { return e.Address == p })
			if i < 0 {
				i = len(s.Exposed)
				s.Exposed = append(s.Exposed, exposure{})
			}
			s.Exposed[i] = exposure{Address: p, Masquerade: masquerade}
		}
		s.ExposeName = withNames(s.ExposeName, names)
	})
}

// checkRoutes refuses addresses whose subnets the host reaches in another way:
// with such an address it would look for its own network on the switch. What
// leads to almost everywhere gives way to every subnet, and is no reason.
func (w *Workload) checkRoutes(subnets []netip.Prefix) error {
	if len(subnets) == 0 {
		return nil
	}
	routes, err := w.attacher.HostRoutes()
	if err != nil {
		return fmt.Errorf("look for routes of this host: %w", err)
	}
	for _, p := range subnets {
		for _, r := range routes {
			if r.Dst.Bits() > 1 && r.Dst.Overlaps(p.Masked()) {
				return fmt.Errorf("%s overlaps %s, which this host reaches through %s and could not any more; expose an address of another subnet",
					subnetOf(p), r.Dst, r.Link)
			}
		}
	}
	return nil
}

// admitHost says why the host cannot have addresses, if so: static is those
// that are known by now, all includes the subnets of the others.
func (s *state) admitHost(static, all []netip.Prefix) error {
	for i := range s.Containers {
		e := &s.Containers[i]
		for _, p := range static {
			if holds(e.held(), p.Addr()) {
				return &taken{e.Key, p.Addr(), conflict("address %s is held by container %s of this host", p.Addr(), e.who())}
			}
		}
	}
	for _, p := range static {
		if who := s.engineHolder(p.Addr()); who != "" {
			return conflict("address %s is held by container %s of this host", p.Addr(), who)
		}
	}
	return checkSubnets(s.hostAddresses(), all)
}

// Hide takes addresses, or all, off the host's place on the switch. See
// api.Backend. Who takes all also ends requests for more.
func (w *Workload) Hide(ctx context.Context, r api.HideRequest) (api.Addresses, error) {
	asks, err := w.parseAsks(r.Addresses)
	if err != nil {
		return nil, err
	}
	if len(asks) == 0 {
		err = w.cancelFlights(ctx, errDetached, func(f *flight) bool { return f.key == exposeKey })
	}
	var released []netip.Prefix
	if err == nil {
		released, err = w.hide(ctx, asks)
	}
	if err != nil {
		return nil, fmt.Errorf("hide: %w", err)
	}
	if len(asks) > 0 {
		return answer(asks, released), nil
	}
	return released, nil
}

func (w *Workload) hide(ctx context.Context, asks []ask) ([]netip.Prefix, error) {
	unlock, err := w.locks.lock(ctx, exposeKey)
	if err != nil {
		return nil, err
	}
	defer unlock()
	defer w.flights.disturb(exposeKey, exposeKey)
	var released []netip.Prefix
	w.journal.view(func(s *state) { released = s.hostAddresses() })
	if len(asks) > 0 {
		released = matching(released, asks)
	}
	err = w.changeHost(ctx, func(s *state) {
		s.Exposed = slices.DeleteFunc(s.Exposed, func(e exposure) bool { return slices.Contains(released, e.Address) })
		s.ExposeName = slices.DeleteFunc(s.ExposeName, func(n name) bool { return !holds(s.hostAddresses(), n.Addr) })
	})
	if err != nil {
		return nil, err
	}
	return released, w.release(context.WithoutCancel(ctx), exposeKey, w.ours(released))
}

// changeHost changes the host's place on the switch: first there, then in the
// journal. It is whole state, so if the daemon dies in between, [Workload.Restore]
// puts back what the journal says. The lock of exposeKey is held.
func (w *Workload) changeHost(ctx context.Context, change func(s *state)) (err error) {
	var before, after state
	w.journal.view(func(s *state) { before = s.clone() })
	before.exposing = nil
	after = before.clone()
	change(&after)
	put := func(to state) error {
		return w.journal.update(func(s *state) error {
			s.Exposed, s.ExposeName, s.exposing = to.Exposed, to.ExposeName, nil
			return nil
		})
	}
	var undo undo
	undo.push(func() error { return put(before) })
	undo.push(func() error { return w.setNames(exposeKey, exposeKey, before.ExposeName) })
	undo.push(func() error { return w.setExposed(context.WithoutCancel(ctx), before.Exposed) })
	defer func() {
		if err != nil {
			err = w.failed("expose or hide", err, undo.run())
		}
	}()
	if err := w.setExposed(ctx, after.Exposed); err != nil {
		return err
	}
	if err := w.setNames(exposeKey, exposeKey, after.ExposeName); err != nil {
		return err
	}
	return put(after)
}

func (w *Workload) applyExposed(ctx context.Context) error {
	unlock, err := w.locks.lock(ctx, exposeKey)
	if err != nil {
		return err
	}
	defer unlock()
	var exposed []exposure
	w.journal.view(func(s *state) { exposed = slices.Clone(s.Exposed) })
	return w.setExposed(ctx, exposed)
}

// Exposed returns what the journal says of the host's place on the switch, in
// the form of [Host.SetExposed]: the switch is set up with it when the daemon
// starts, so that an exposed host stays one.
func (w *Workload) Exposed() (addresses, masquerade []netip.Prefix) {
	w.journal.view(func(s *state) { addresses, masquerade = split(s.Exposed) })
	return addresses, masquerade
}

func split(exposed []exposure) (all, masquerade []netip.Prefix) {
	for _, e := range exposed {
		all = append(all, e.Address)
		if e.Masquerade {
			masquerade = append(masquerade, e.Address)
		}
	}
	return all, masquerade
}

func (w *Workload) setExposed(ctx context.Context, exposed []exposure) error {
	if w.host == nil {
		return nil
	}
	all, masquerade := split(exposed)
	if err := w.host.SetExposed(ctx, all, masquerade); err != nil {
		return fmt.Errorf("set the host's addresses: %w", err)
	}
	return nil
}
