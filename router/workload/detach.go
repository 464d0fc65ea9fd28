package workload

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
)

// Detach takes addresses, or everything, from a container. See api.Backend.
// What was named is returned even when it was not there. Who takes everything
// also ends requests for more.
func (w *Workload) Detach(ctx context.Context, r api.DetachRequest) (api.Addresses, error) {
	asks, err := w.parseAsks(r.Addresses)
	if err != nil {
		return nil, err
	}
	t, rerr := w.resolve(ctx, r.Container)
	if len(asks) == 0 {
		err := w.cancelFlights(ctx, errDetached, func(f *flight) bool {
			return f.key == t.key || f.target.ns == t.ns && !t.ns.IsZero() || f.target.label == r.Container
		})
		if err != nil {
			return nil, fmt.Errorf("detach %s: %w", r.Container, err)
		}
	}
	keys, err := w.entriesFor(r.Container, t, rerr)
	if derr := w.detachable(r.Container, t, asks, keys); derr != nil {
		return nil, derr
	}
	if err != nil {
		return nil, err
	}
	var had []netip.Prefix
	for _, key := range keys {
		some, err := w.detachFrom(ctx, key, asks)
		if err != nil {
			return nil, fmt.Errorf("detach %s: %w", r.Container, err)
		}
		had = union(had, some)
	}
	if len(asks) > 0 {
		return answer(asks, had), nil
	}
	if t.key != "" {
		// It may have died and keep something for a while.
		if err := w.releaseRest(ctx, t.key); err != nil {
			return nil, fmt.Errorf("detach %s: %w", r.Container, err)
		}
	}
	return had, nil
}

// detachable refuses what is not ours to take: the engine would not know.
func (w *Workload) detachable(arg string, t target, asks []ask, keys []string) (err error) {
	w.journal.view(func(s *state) {
		for _, e := range s.endpointsFor(arg, t) {
			for _, p := range e.held() {
				if len(asks) > 0 && len(matching([]netip.Prefix{p}, asks)) > 0 || len(asks) == 0 && len(keys) == 0 {
					err = fmt.Errorf("detach %s: its engine gave it %s by a network; use 'docker network disconnect'", arg, p)
				}
			}
		}
	})
	return err
}

// detachFrom releases those of an entry's addresses that are asked for, or all,
// and returns them. Once the intent is written it is not taken back: a detach
// that fails is completed by the next sweep.
func (w *Workload) detachFrom(ctx context.Context, key string, asks []ask) ([]netip.Prefix, error) {
	e, unlock, err := w.lockEntry(ctx, key)
	if err != nil || unlock == nil {
		return nil, err
	}
	defer unlock()
	take := e.held()
	if len(asks) > 0 {
		take = matching(take, asks)
	}
	if len(take) == 0 {
		return nil, nil
	}
	defer w.flights.disturb(key, e.NS.String())
	err = w.journal.update(func(s *state) error {
		s.find(key).release(take)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if _, err := w.complete(key); err != nil {
		return nil, err
	}
	w.log.Info("detached", "container", e.who(), "addresses", take)
	return take, nil
}

// release turns addresses that e has into addresses on their way out. Their
// names go with them.
func (e *entry) release(take []netip.Prefix) {
	e.Addresses = without(e.Addresses, take)
	e.Adding = without(e.Adding, take)
	e.Removing = union(e.Removing, take)
	e.Names = slices.DeleteFunc(e.Names, func(n name) bool {
		return holds(take, n.Addr) && !holds(e.Addresses, n.Addr)
	})
}

// complete makes the world what the journal says of an entry, whose lock is
// held: names, then the interface, then the space, then the end of the intent. It returns what it
// changed of the interface.
func (w *Workload) complete(key string) (changed []string, err error) {
	e, ok := w.journal.entry(key)
	if !ok {
		return nil, nil
	}
	if err := w.setNames(key, e.container(), e.Names); err != nil {
		return nil, err
	}
	path, err := w.locate(&e)
	if err != nil {
		return nil, err
	}
	var spec attach.Spec
	w.journal.view(func(s *state) { spec = s.spec(e.NS) })
	var st attach.State
	switch {
	case len(spec.Addresses) == 0 && len(spec.Remove) == 0:
		// Nothing but names: there is no interface.
	case len(spec.Addresses) == 0 || path == "":
		err = w.attacher.Remove(e.NS)
	default:
		st, err = w.attacher.Set(path, e.NS, spec)
	}
	if err != nil {
		return nil, err
	}
	if err := w.releaseRemoved(&e); err != nil {
		return nil, err
	}
	if st.Made { // the rest follows from it
		st.Changed = []string{"its interface was gone"}
	}
	return st.Changed, w.journal.update(func(s *state) error {
		e := s.find(key)
		e.Removing = nil
		if st.Interface != "" {
			e.Path, e.Interface, e.MAC = path, st.Interface, st.MAC.String()
		}
		if e.empty() {
			s.drop(key)
		}
		return nil
	})
}

// releaseRemoved gives the space what an entry, whose lock is held, no longer
// has on its interface.
func (w *Workload) releaseRemoved(e *entry) error {
	addrs := slices.DeleteFunc(w.ours(e.Removing), func(a netip.Addr) bool {
		return holds(union(e.Addresses, e.Adding), a)
	})
	if len(addrs) == 0 {
		return nil
	}
	// Who asked may be gone: what was begun is completed.
	ctx := context.Background()
	rest, err := w.handOn(ctx, e, addrs)
	if err == nil && len(rest) > 0 {
		err = w.space.Release(ctx, e.Key, rest)
	}
	if err != nil {
		return fmt.Errorf("release %v: %w", addrs, err)
	}
	return nil
}

// lockEntry takes the lock of an entry's namespace and returns the entry as it
// is then. There is no unlock when the entry is gone.
func (w *Workload) lockEntry(ctx context.Context, key string) (entry, func(), error) {
	for {
		e, ok := w.journal.entry(key)
		if !ok {
			return entry{}, nil, nil
		}
		unlock, err := w.locks.lock(ctx, e.NS.String())
		if err != nil {
			return entry{}, nil, err
		}
		now, ok := w.journal.entry(key)
		if ok && now.NS == e.NS {
			return now, unlock, nil
		}
		unlock()
	}
}
