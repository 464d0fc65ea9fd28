package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/router/api"
)

var errNoDNS = errors.New("names are off: the daemon was started with --no-dns")

// autoNames returns the records that a container gets with addresses. Only an
// engine's containers get any.
func (w *Workload) autoNames(c *Container, addresses []netip.Prefix) []name {
	if c == nil || w.domain == "" {
		return nil
	}
	full := autoName(*c, w.domain)
	if full == "" {
		w.log.Info("container gets no name: its own is in another domain, or no name at all", "container", c.Name, "hostname", c.Hostname)
		return nil
	}
	return named(full, addrsOf(addresses), true)
}

// DNSAdd registers a name by hand. See api.Backend.
func (w *Workload) DNSAdd(ctx context.Context, r api.NameRequest) error {
	full, err := w.checkNames(r)
	if err != nil {
		return err
	}
	if r.Container == "" {
		return w.changeExtern(ctx, func(list []name) []name { return withNames(list, named(full, r.Addresses, false)) })
	}
	t, err := w.resolve(ctx, r.Container)
	if err != nil {
		return err
	}
	if err := t.attachable(r.Container); err != nil {
		return err
	}
	unlock, err := w.locks.lock(ctx, t.ns.String())
	if err != nil {
		return err
	}
	defer unlock()
	if err := w.addNames(t, full, r.Addresses); err != nil {
		return fmt.Errorf("dns-add %s: %w", r.Container, err)
	}
	return nil
}

// addNames does it for a container, whose lock is held. A container that is
// not attached may have names for addresses that are not ours.
func (w *Workload) addNames(t target, full string, addrs []netip.Addr) error {
	if full == "" && t.docker != nil {
		full = autoName(*t.docker, w.domain)
	}
	if full == "" {
		return usage("the container has no name of its own in the domain %s: give one with -h", w.domain)
	}
	w.journal.view(func(s *state) { t = s.adopt(t) })
	before, existed := w.journal.entry(t.key)
	var keys []string
	w.journal.view(func(s *state) { keys = s.entriesOf(t) })
	if len(addrs) == 0 {
		w.journal.view(func(s *state) {
			for _, key := range keys {
				addrs = append(addrs, addrsOf(s.find(key).Addresses)...)
			}
			for _, e := range s.endpointsFor("", t) {
				addrs = append(addrs, addrsOf(e.held())...)
			}
		})
	}
	if len(addrs) == 0 {
		return errors.New("it has no address on the switch: attach it, or name an address")
	}
	after := entry{Label: t.label}
	err := w.journal.update(func(s *state) error {
		e := s.find(t.key)
		if e == nil {
			s.Containers = append(s.Containers, entry{Key: t.key, Label: t.label, NS: t.ns})
			e = &s.Containers[len(s.Containers)-1]
		}
		if e.NS != t.ns {
			return errors.New("it was restarted just now; try again")
		}
		e.refresh(t)
		e.Names = withNames(e.Names, named(full, addrs, false))
		after = e.clone()
		return nil
	})
	if err == nil {
		err = w.setNames(t.key, after.container(), after.Names)
	}
	if err != nil {
		return w.failed("dns-add", err, errors.Join(
			w.putBack(t.key, before, existed), w.setNames(t.key, after.container(), before.Names)))
	}
	return nil
}

// putBack makes an entry, whose lock is held, what it was.
func (w *Workload) putBack(key string, before entry, existed bool) error {
	return w.journal.update(func(s *state) error {
		e := s.find(key)
		switch {
		case e == nil:
		case existed:
			*e = before.clone()
		default:
			s.drop(key)
		}
		return nil
	})
}

// DNSRemove removes names: those given by hand and a container's own. See
// api.Backend. What is not there is no error.
func (w *Workload) DNSRemove(ctx context.Context, r api.NameRequest) error {
	full, err := w.checkNames(r)
	if err != nil {
		return err
	}
	if r.Container == "" {
		return w.changeExtern(ctx, func(list []name) []name { return withoutNames(list, full, r.Addresses) })
	}
	t, err := w.resolve(ctx, r.Container)
	ids := w.endpointsOf(r.Container, t)
	keys, err := w.entriesFor(r.Container, t, err)
	if err != nil && len(ids) == 0 {
		return err
	}
	for _, id := range ids {
		if err := w.unname(ctx, id, full, r.Addresses); err != nil {
			return fmt.Errorf("dns-remove %s: %w", r.Container, err)
		}
	}
	for _, key := range keys {
		if err := w.removeNames(ctx, key, full, r.Addresses); err != nil {
			return fmt.Errorf("dns-remove %s: %w", r.Container, err)
		}
	}
	return nil
}

func (w *Workload) removeNames(ctx context.Context, key, full string, addrs []netip.Addr) error {
	before, unlock, err := w.lockEntry(ctx, key)
	if err != nil || unlock == nil {
		return err
	}
	defer unlock()
	rest := withoutNames(before.Names, full, addrs)
	err = w.journal.update(func(s *state) error {
		e := s.find(key)
		e.Names = rest
		if e.empty() {
			s.drop(key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.setNames(key, before.container(), rest)
}

// checkNames checks the form of a request and returns the full name, empty
// when the container's own is meant.
func (w *Workload) checkNames(r api.NameRequest) (full string, err error) {
	if w.domain == "" {
		return "", errNoDNS
	}
	for _, a := range r.Addresses {
		if err := api.CheckUnicast(a); err != nil {
			return "", err
		}
	}
	if r.Container == "" && (r.FQDN == "" || len(r.Addresses) == 0) {
		return "", usage("want a container, or addresses and -h with a name")
	}
	if r.FQDN == "" {
		return "", nil
	}
	return parseFQDN(r.FQDN, w.domain)
}

// changeExtern changes the names of no container.
func (w *Workload) changeExtern(ctx context.Context, change func([]name) []name) error {
	unlock, err := w.locks.lock(ctx, externKey)
	if err != nil {
		return err
	}
	defer unlock()
	var before, after []name
	err = w.journal.update(func(s *state) error {
		before, after = s.Extern, change(s.Extern)
		s.Extern = after
		return nil
	})
	if err == nil {
		err = w.setNames(externKey, externKey, after)
	}
	if err != nil {
		back := func(s *state) error {
			s.Extern = before
			return nil
		}
		return w.failed("names", err, errors.Join(w.journal.update(back), w.setNames(externKey, externKey, before)))
	}
	return nil
}

// follow notes another name of an engine's container, whose lock is held, and
// lets the records that were made of its old one follow.
func (w *Workload) follow(e *entry, c Container) error {
	names, changed := renamed(e.Names, autoName(c, w.domain))
	if !changed && e.Name == c.Name {
		return nil
	}
	e.Name, e.Names = c.Name, names
	err := w.journal.update(func(s *state) error {
		if now := s.find(e.Key); now != nil {
			now.Name, now.Names = c.Name, names
		}
		return nil
	})
	if err != nil || !changed {
		return err
	}
	w.log.Info("container has another name", "container", c.Name)
	return w.setNames(e.Key, e.container(), names)
}
