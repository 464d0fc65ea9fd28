package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
)

// Restore makes the host what the journal says, once, when the daemon starts:
// containers that are gone are forgotten, what was begun is undone or
// completed, lost interfaces are made again, those that the journal does not
// know are adopted, names and the host's own addresses are set, and the space
// learns who holds what. The error names what could not be restored;
// everything else is.
func (w *Workload) Restore(ctx context.Context) error {
	var errs []error
	if w.docker != nil {
		w.docker.hurry(patience) // it may wait for us
	}
	fresh := false
	errs = append(errs, w.journal.update(func(s *state) error {
		fresh = s.Boot != "" && s.Boot != w.boot
		if s.Boot != w.boot {
			s.Boot = w.boot
			s.otherBoot() // no namespace outlives the machine
		}
		return nil
	}))
	if fresh {
		w.log.Info("the machine was restarted: no container is attached")
	}
	for _, key := range w.keys() {
		if _, err := w.check(ctx, key); err != nil {
			errs = append(errs, err)
		}
	}
	_, err := w.checkEndpoints(ctx, w.endpointIDs(nil))
	errs = append(errs, err, w.adoptFound(ctx), w.askEngine(ctx), w.adoptSpace(ctx))
	if w.docker != nil {
		w.docker.relax()
	}
	close(w.restored)
	var expose, extern []name
	w.journal.view(func(s *state) {
		expose, extern = slices.Clone(s.ExposeName), slices.Clone(s.Extern)
	})
	errs = append(errs,
		w.applyExposed(ctx),
		w.setNames(exposeKey, exposeKey, expose),
		w.setNames(externKey, externKey, extern))
	w.publish()
	return errors.Join(errs...)
}

// ready waits for Restore: before, we do not know who holds what, and an
// interface that we make could be taken for a stranger's.
func (w *Workload) ready(f *flight) error {
	select {
	case <-w.restored:
		return nil
	default:
	}
	f.say("weftd looks for the containers that are attached")
	select {
	case <-w.restored:
		return nil
	case <-f.ctx.Done():
		return context.Cause(f.ctx)
	}
}

// Sweep looks at every attachment: it forgets containers that are gone,
// completes what was begun and repairs what was changed. It says what it
// repaired. It waits for work on a container that is under way, so it must not
// be called by whoever that work waits for.
func (w *Workload) Sweep(ctx context.Context) (repaired []string, err error) {
	w.cancelDead()
	err = w.settle(ctx)
	w.forgetSpent()
	err = errors.Join(err, w.askEngine(ctx))
	repaired, cerr := w.checkAll(ctx, w.keys())
	more, eerr := w.checkEndpoints(ctx, w.endpointIDs(nil))
	return append(repaired, more...), errors.Join(err, cerr, eerr)
}

// LinksChanged is for when the kernel says that some link of the host changed:
// a [Workload.Sweep] of those attachments only whose host end is not as it
// should be.
func (w *Workload) LinksChanged(ctx context.Context) (repaired []string, err error) {
	w.cancelDead()
	links, err := w.attacher.Links()
	if err != nil {
		return nil, fmt.Errorf("look for lost attachments: %w", err)
	}
	var lost []string
	w.journal.view(func(s *state) {
		for i := range s.Containers {
			e := &s.Containers[i]
			if len(e.Addresses) > 0 && !w.attacher.Sound(links, e.NS) {
				lost = append(lost, e.Key)
			}
		}
	})
	repaired, err = w.checkAll(ctx, lost)
	more, eerr := w.checkEndpoints(ctx, w.lostEndpoints(links))
	return append(repaired, more...), errors.Join(err, eerr)
}

// Announce is for when frames reach a host that they did not reach before: it
// may remember who had an address of ours in the meantime.
func (w *Workload) Announce(ctx context.Context) error {
	var errs []error
	for _, key := range w.keys() {
		e, unlock, err := w.lockEntry(ctx, key)
		if err != nil {
			return err
		}
		if unlock == nil {
			continue
		}
		path, err := w.locate(&e)
		if err == nil && path != "" && len(e.Addresses) > 0 {
			err = w.attacher.Announce(path, e.NS, e.Interface, e.Addresses)
		}
		unlock()
		if err != nil {
			errs = append(errs, fmt.Errorf("announce container %s: %w", e.who(), err))
		}
	}
	for _, id := range w.endpointIDs((*endpoint).settled) {
		e, ok := w.endpointOf(id)
		if !ok {
			continue
		}
		if err := w.attacher.Announce(e.Path, e.NS, e.Interface, e.held()); err != nil && !isGone(err) && !errors.Is(err, attach.ErrChanged) {
			errs = append(errs, fmt.Errorf("announce container %s: %w", e.who(), err))
		}
	}
	return errors.Join(errs...)
}

// ContainerDied is for when the engine says that a container ended: its
// interface and names go at once, even if others share its namespace; its
// addresses are kept for a while by the space, if that gave them. One that runs
// again, and was attached again before the news came, keeps everything.
func (w *Workload) ContainerDied(ctx context.Context, id string) error {
	w.cancelDead()
	if err := w.dropIfGone(ctx, dockerKey(id)); err != nil {
		return fmt.Errorf("container %s ended: %w", id, err)
	}
	if err := w.endpointsDied(ctx, id); err != nil {
		return fmt.Errorf("container %s ended: %w", id, err)
	}
	return nil
}

// ContainerRenamed is for when the engine says that a container has another
// name: what was registered by the old one follows.
func (w *Workload) ContainerRenamed(ctx context.Context, id string) error {
	if w.docker == nil {
		return nil
	}
	c, err := w.docker.Inspect(ctx, id)
	if err != nil {
		return fmt.Errorf("container %s was renamed: %w", id, err)
	}
	if err := w.know(ctx, c); err != nil {
		return err
	}
	e, unlock, err := w.lockEntry(ctx, dockerKey(id))
	if err != nil || unlock == nil {
		return err
	}
	defer unlock()
	return w.follow(&e, c)
}

func dockerKey(id string) string { return "docker:" + id }

func (w *Workload) keys() []string {
	var keys []string
	w.journal.view(func(s *state) {
		for _, e := range s.Containers {
			keys = append(keys, e.Key)
		}
	})
	return keys
}

func (w *Workload) checkAll(ctx context.Context, keys []string) (repaired []string, err error) {
	var errs []error
	for _, key := range keys {
		done, err := w.check(ctx, key)
		repaired = append(repaired, done...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return repaired, errors.Join(errs...)
}

// check compares one entry with the world.
func (w *Workload) check(ctx context.Context, key string) (repaired []string, err error) {
	e, unlock, err := w.lockEntry(ctx, key)
	if err != nil || unlock == nil {
		return nil, err
	}
	defer unlock()
	why, err := w.gone(ctx, &e)
	if err != nil {
		return nil, fmt.Errorf("check container %s: %w", e.who(), err)
	}
	if why != "" {
		return nil, w.drop(&e, why)
	}
	if len(e.Adding)+len(e.Removing) > 0 {
		defer w.flights.disturb(key, e.NS.String())
	}
	if len(e.Adding) > 0 {
		// Nobody is at work on it, so nobody was told that it is done.
		err = w.journal.update(func(s *state) error {
			e := s.find(key)
			e.release(e.Adding)
			return nil
		})
	}
	if err == nil {
		repaired, err = w.complete(key)
	}
	if err != nil {
		return nil, fmt.Errorf("check container %s: %w", e.who(), err)
	}
	for i := range repaired {
		repaired[i] = "container " + e.who() + ": " + repaired[i]
	}
	return repaired, nil
}

// dropIfGone forgets an entry whose container is gone.
func (w *Workload) dropIfGone(ctx context.Context, key string) error {
	e, unlock, err := w.lockEntry(ctx, key)
	if err != nil || unlock == nil {
		return err
	}
	defer unlock()
	why, err := w.gone(ctx, &e)
	if err != nil || why == "" {
		return err
	}
	return w.drop(&e, why)
}

// gone says why nothing is left of an entry's container; empty while there is.
// It asks the engine last, for that may take long.
func (w *Workload) gone(ctx context.Context, e *entry) (why string, err error) {
	path, err := w.locate(e)
	if err != nil {
		return "", err
	}
	if path == "" {
		return "its network namespace is gone", nil
	}
	if e.ID == "" || w.docker == nil {
		return "", nil
	}
	c, err := w.docker.Glance(ctx, e.ID)
	switch {
	case errors.Is(err, api.ErrNotFound):
		return "it was removed", nil
	case err != nil:
		return "", nil //nolint:nilerr // no engine, no news: its namespace lives
	case !c.Running:
		return "it ended", nil
	case c.PID != e.PID:
		return "it was restarted", nil
	}
	return "", w.follow(e, c)
}

// drop forgets an entry whose lock is held: names first, for others ask for
// them. If something fails the entry stays for the next sweep. The space keeps
// the addresses for a while, as the container may be starting again.
func (w *Workload) drop(e *entry, why string) error {
	if err := w.setNames(e.Key, e.container(), nil); err != nil {
		return fmt.Errorf("forget container %s: %w", e.who(), err)
	}
	var spec attach.Spec
	w.journal.view(func(s *state) {
		rest := s.clone()
		rest.drop(e.Key)
		spec = rest.spec(e.NS)
	})
	spec.Remove = union(spec.Remove, without(e.held(), spec.Addresses))
	path := ""
	if len(spec.Addresses) > 0 {
		path, _ = w.locate(e)
	}
	if err := w.set(path, e.NS, spec); err != nil {
		return fmt.Errorf("forget container %s: %w", e.who(), err)
	}
	if w.space != nil {
		if _, err := w.handOn(context.Background(), e, w.ours(e.held())); err != nil {
			return fmt.Errorf("forget container %s: %w", e.who(), err)
		}
		w.space.Died(e.Key)
	}
	// Also before it leaves the journal, for its next life has another lock.
	w.flights.disturb(e.Key, e.NS.String())
	defer w.flights.disturb(e.Key, e.NS.String())
	w.log.Info("container forgotten", "container", e.who(), "addresses", e.held(), "why", why)
	return w.journal.update(func(s *state) error {
		s.drop(e.Key)
		return nil
	})
}
