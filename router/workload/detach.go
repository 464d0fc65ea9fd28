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
// What was named is returned even when it was not there.
func (w *Workload) Detach(ctx context.Context, r api.DetachRequest) (api.Addresses, error) {
	named, err := parseAddresses(r.Addresses)
	if err != nil {
		return nil, err
	}
	keys, err := w.lookup(ctx, r.Container)
	if err != nil {
		return nil, err
	}
	released := named
	for _, key := range keys {
		had, err := w.detachFrom(ctx, key, named)
		if err != nil {
			return nil, fmt.Errorf("detach %s: %w", r.Container, err)
		}
		if len(named) == 0 {
			released = union(released, had)
		}
	}
	return released, nil
}

// detachFrom releases those of an entry's addresses that are named, or all,
// and returns them. Once the intent is written it is not taken back: a detach
// that fails is completed by the next sweep.
func (w *Workload) detachFrom(ctx context.Context, key string, named []netip.Prefix) ([]netip.Prefix, error) {
	e, unlock, err := w.lockEntry(ctx, key)
	if err != nil || unlock == nil {
		return nil, err
	}
	defer unlock()
	take := e.held()
	if len(named) > 0 {
		take = both(take, named)
	}
	if len(take) == 0 {
		return nil, nil
	}
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
// held: names, then addresses, then the end of the intent. It returns what it
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
