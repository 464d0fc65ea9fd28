package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/router/api"
)

// Expose gives the host addresses on the switch. See api.Backend.
func (w *Workload) Expose(ctx context.Context, r api.ExposeRequest) (api.Addresses, error) {
	addresses, err := parseAddresses(r.Addresses)
	if err != nil {
		return nil, err
	}
	if len(addresses) == 0 {
		return nil, errAllocator
	}
	var names []name
	if r.FQDN != "" {
		if w.domain == "" {
			return nil, errNoDNS
		}
		full, err := parseFQDN(r.FQDN, w.domain)
		if err != nil {
			return nil, err
		}
		names = named(full, addrsOf(addresses), false)
	}
	for {
		err := w.expose(ctx, addresses, names, !r.WithoutMasquerade)
		var c *taken
		if !errors.As(err, &c) {
			if err != nil {
				return nil, fmt.Errorf("expose: %w", err)
			}
			return addresses, nil
		}
		if gone, gerr := w.dropIfGone(ctx, c.key); gerr != nil || !gone {
			return nil, fmt.Errorf("expose: %w", err)
		}
	}
}

func (w *Workload) expose(ctx context.Context, addresses []netip.Prefix, names []name, masquerade bool) error {
	unlock, err := w.locks.lock(ctx, exposeKey)
	if err != nil {
		return err
	}
	defer unlock()
	// Nobody else may take the addresses meanwhile. If the daemon dies before
	// the end, this was never asked for: so it is not written down.
	_, err = w.journal.change(func(s *state) error {
		if err := s.reserveHost(addresses); err != nil {
			return err
		}
		s.exposing = addresses
		return nil
	})
	if err != nil {
		return err
	}
	return w.changeHost(ctx, func(s *state) {
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

// reserveHost says why the host cannot have the addresses, if so.
func (s *state) reserveHost(addresses []netip.Prefix) error {
	for i := range s.Containers {
		e := &s.Containers[i]
		for _, p := range addresses {
			if holds(e.held(), p.Addr()) {
				return &taken{e.Key, conflict("address %s is held by container %s of this host", p.Addr(), e.who())}
			}
		}
	}
	return checkSubnets(s.hostAddresses(), addresses)
}

// Hide takes addresses, or all, off the host's place on the switch. See
// api.Backend.
func (w *Workload) Hide(ctx context.Context, r api.HideRequest) (api.Addresses, error) {
	released, err := parseAddresses(r.Addresses)
	if err != nil {
		return nil, err
	}
	unlock, err := w.locks.lock(ctx, exposeKey)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if len(r.Addresses) == 0 {
		w.journal.view(func(s *state) { released = s.hostAddresses() })
	}
	err = w.changeHost(ctx, func(s *state) {
		s.Exposed = slices.DeleteFunc(s.Exposed, func(e exposure) bool { return slices.Contains(released, e.Address) })
		s.ExposeName = slices.DeleteFunc(s.ExposeName, func(n name) bool { return !holds(s.hostAddresses(), n.Addr) })
	})
	if err != nil {
		return nil, fmt.Errorf("hide: %w", err)
	}
	return released, nil
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

// PS lists the attachments of this host. See api.Backend.
func (w *Workload) PS(ctx context.Context, containers []string) ([]api.Attachment, error) {
	if len(containers) == 0 {
		return w.list(append([]string{exposeKey}, w.keys()...)), nil
	}
	var keys []string
	for _, arg := range containers {
		found := []string{exposeKey}
		if arg != api.ExposeName {
			var err error
			if found, err = w.lookup(ctx, arg); err != nil {
				return nil, err
			}
		}
		for _, key := range found {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return w.list(keys), nil
}

func (w *Workload) list(keys []string) []api.Attachment {
	list := []api.Attachment{}
	w.journal.view(func(s *state) {
		for _, key := range keys {
			if key == exposeKey {
				list = append(list, w.hostAttachment(s))
				continue
			}
			e := s.find(key)
			if e == nil || len(e.Addresses) == 0 {
				continue
			}
			list = append(list, api.Attachment{
				Container: e.Label, ID: e.ID, Interface: e.Interface, MAC: e.MAC,
				Addresses: slices.Clone(e.Addresses), Names: hostnames(e.Names),
			})
		}
	})
	return list
}

func (w *Workload) hostAttachment(s *state) api.Attachment {
	a := api.Attachment{Container: api.ExposeName, Names: hostnames(s.ExposeName)}
	if w.host != nil {
		a.MAC = w.host.MAC().String()
	}
	for _, e := range s.Exposed {
		a.Addresses = append(a.Addresses, e.Address)
	}
	return a
}

// hostnames returns each name once.
func hostnames(list []name) []string {
	var out []string
	for _, n := range list {
		if !slices.Contains(out, n.Hostname) {
			out = append(out, n.Hostname)
		}
	}
	return out
}
