package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/router/api"
)

// Network is what an engine says about one container on one of its networks,
// whoever drives that.
type Network struct {
	Name     string
	ID       string       // empty until the container first started
	Endpoint string       // empty while it does not run
	Address  netip.Prefix // zero while it does not run
	Aliases  []string     // names besides the container's own
	Pinned   netip.Addr   // the address that it wants and no other; zero: any
}

// NoteCreated is for the moment in which the engine says that there is a new
// container, which may ask for its first address at once. It does not block, and
// [Workload.ContainerCreated] must follow.
func (w *Workload) NoteCreated(id string) {
	if w.docker == nil {
		return
	}
	comes := false // somebody may come back whose address it could get
	w.journal.view(func(s *state) { comes = len(s.Reserved) > 0 })
	if comes {
		w.newcomers.Add(id)
	}
}

// NoteStarted is for the moment in which the engine says that a container runs.
// It does not block, and [Workload.ContainerStarted] must follow.
func (w *Workload) NoteStarted(id string) { w.newcomers.Start(id) }

// NoteRemoved is for the moment in which the engine says that a container is
// gone for good. It does not block, and [Workload.ContainerRemoved] must follow.
func (w *Workload) NoteRemoved(id string) { w.newcomers.Remove(id) }

// ContainerCreated follows [Workload.NoteCreated]: it finds out whether the
// container wants an address that no other container had.
func (w *Workload) ContainerCreated(ctx context.Context, id string) error {
	if w.docker == nil || !w.newcomers.Has(id) {
		return nil
	}
	c, err := w.docker.Summary(ctx, id)
	if errors.Is(err, api.ErrNotFound) {
		w.newcomers.Decline(id)
	}
	if err != nil {
		w.newcomers.Confirm(id) // better one address too many
		return fmt.Errorf("container %s was created: %w", id, err)
	}
	for _, n := range c.Networks {
		if n.Pinned.IsValid() || isDefault(n.Name) {
			continue
		}
		ours, err := w.isOurs(ctx, n.Name)
		if err != nil {
			w.newcomers.Confirm(id)
			return fmt.Errorf("container %s was created: %w", id, err)
		}
		switch {
		case ours && c.Created:
			w.newcomers.Confirm(id)
			return nil
		case ours: // and it started since
			w.newcomers.Start(id)
			return nil
		}
	}
	w.newcomers.Decline(id)
	return nil
}

// isOurs reports whether a network is. What once was is taken for it ever
// after: that costs a container that comes back its address, at worst.
func (w *Workload) isOurs(ctx context.Context, network string) (bool, error) {
	if w.memory.isOurs(network) {
		return true, nil
	}
	list, err := w.docker.Networks(ctx)
	if err != nil {
		return false, err
	}
	w.memory.learn(list)
	return w.memory.isOurs(network), nil
}

// isDefault recognises the networks that every engine has, which are not ours.
func isDefault(network string) bool {
	return network == "bridge" || network == "host" || network == "none" || network == "default"
}

// ContainerStarted follows [Workload.NoteStarted], and is for when the engine says
// that a container which runs is on another network than before: it is registered
// by its name and its aliases on the networks that are ours. One that is attached
// by hand is not our business here.
func (w *Workload) ContainerStarted(ctx context.Context, id string) error {
	if w.docker == nil || len(w.endpointIDs(nil)) == 0 {
		return nil
	}
	c, err := w.docker.Inspect(ctx, id)
	if err != nil {
		return fmt.Errorf("container %s started: %w", id, err)
	}
	return w.know(ctx, c)
}

// know writes down whose the endpoints of a container are, and registers their
// names.
func (w *Workload) know(ctx context.Context, c Container) error {
	var errs []error
	for _, n := range c.Networks {
		if n.Endpoint == "" {
			continue
		}
		e, unlock, err := w.lockEndpoint(ctx, n.Endpoint)
		if err != nil {
			return err
		}
		if unlock == nil {
			continue
		}
		errs = append(errs, w.knowEndpoint(&e, c, n))
		unlock()
	}
	return errors.Join(errs...)
}

// knowEndpoint does it for one, under its lock.
func (w *Workload) knowEndpoint(e *endpoint, c Container, n Network) error {
	var names []name
	if e.Joined && !e.WithoutDNS && w.domain != "" {
		names = w.endpointNames(e, c, n)
	}
	err := w.journal.update(func(s *state) error {
		now := s.endpoint(e.ID)
		if now == nil {
			return nil
		}
		now.Container, now.Name, now.Names = c.ID, c.Name, names
		for i := range s.Reserved {
			x := &s.Reserved[i]
			switch {
			case x.Endpoint == e.ID:
				x.Container = c.ID
				x.Pinned = n.Pinned.IsValid() && n.Pinned == x.Address.Addr()
			case x.Dead && x.Container == c.ID:
				x.Container = "" // it has got another one
			}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("container %s: %w", c.Name, err)
	}
	if slices.Equal(names, e.Names) && e.Container == c.ID {
		return err
	}
	return errors.Join(err, w.setNames(namesKey(e.ID), c.ID, names))
}

// endpointNames returns the records of a container on one network: its own
// name and its aliases there. Names that lie in another domain are not ours.
func (w *Workload) endpointNames(e *endpoint, c Container, n Network) []name {
	addrs := addrsOf(e.held())
	var names []name
	if own := autoName(c, w.domain); own != "" {
		names = named(own, addrs, true)
	}
	for _, alias := range n.Aliases {
		if alias == c.ID[:min(12, len(c.ID))] { // the engine's own addition
			continue
		}
		if !strings.Contains(alias, ".") {
			alias += "." + strings.TrimSuffix(w.domain, ".")
		}
		full, err := dns.ParseName(alias)
		if err == nil && inDomain(full, w.domain) {
			names = withNames(names, named(full, addrs, true))
		}
	}
	return names
}

// ContainerRemoved follows [Workload.NoteRemoved]: nothing is kept any more for a
// container that is gone for good.
func (w *Workload) ContainerRemoved(ctx context.Context, id string) error {
	err := w.ContainerDied(ctx, id)
	return errors.Join(err, w.freeOf(func(container string) bool { return container == id }))
}

// freeOf lets go of the addresses that are kept for containers that are gone.
func (w *Workload) freeOf(gone func(container string) bool) error {
	var dead []string
	err := w.journal.update(func(s *state) error {
		dead = nil
		for i := range s.Reserved {
			x := &s.Reserved[i]
			if x.Container == "" || !gone(x.Container) {
				continue
			}
			if x.Endpoint != "" {
				x.Pinned = false
				continue
			}
			if !x.Dead {
				x.Dead, dead = true, append(dead, x.Key)
			}
			x.Container, x.Pinned = "", false
		}
		return nil
	})
	for _, key := range dead {
		w.died(key)
	}
	if err != nil {
		return fmt.Errorf("free the addresses of a container: %w", err)
	}
	return nil
}

// endpointsDied takes the names of endpoints of a container away that the
// engine does not have any more. It takes the interfaces itself, or has.
func (w *Workload) endpointsDied(ctx context.Context, id string) error {
	ids := w.endpointIDs(func(e *endpoint) bool { return e.Container == id })
	if len(ids) == 0 || w.docker == nil {
		return nil
	}
	c, err := w.docker.Inspect(ctx, id)
	if err != nil && !errors.Is(err, api.ErrNotFound) {
		return nil // no engine, no news: its interface says whether it lives
	}
	var errs []error
	for _, endpoint := range ids {
		if c.Running && slices.ContainsFunc(c.Networks, func(n Network) bool { return n.Endpoint == endpoint }) {
			continue
		}
		errs = append(errs, w.unname(ctx, endpoint, "", nil))
	}
	return errors.Join(errs...)
}

// unname takes names of an endpoint away: those of a name (empty: any) for
// addresses (none: any).
func (w *Workload) unname(ctx context.Context, id, full string, addrs []netip.Addr) error {
	e, unlock, err := w.lockEndpoint(ctx, id)
	if err != nil || unlock == nil {
		return err
	}
	defer unlock()
	rest := withoutNames(e.Names, full, addrs)
	if len(rest) == len(e.Names) {
		return nil
	}
	if err := w.setNames(namesKey(id), e.container(), rest); err != nil {
		return err
	}
	return w.journal.update(func(s *state) error {
		if now := s.endpoint(id); now != nil {
			now.Names = rest
		}
		return nil
	})
}
