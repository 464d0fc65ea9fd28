package workload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/kernel"
)

const (
	// youth is how old something must be for the engine to know it by now: it
	// writes it down after it has asked us. What we find when we start is at
	// least some seconds old when we ask for the second time.
	youth      = time.Minute
	foundYouth = 5 * time.Second
	// patience is how long all questions to an engine may take while
	// we start: it may itself wait for us.
	patience = 2 * time.Second
)

// checkEndpoint compares an endpoint with the world.
func (w *Workload) checkEndpoint(ctx context.Context, id string) (repaired []string, err error) {
	e, unlock, err := w.lockEndpoint(ctx, id)
	if err != nil || unlock == nil {
		return nil, err
	}
	defer unlock()
	if err = w.setNames(namesKey(id), e.container(), e.Names); err == nil && e.Joined {
		repaired, err = w.mendEndpoint(&e)
	}
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", e.who(), err)
	}
	for i := range repaired {
		repaired[i] = "endpoint of container " + e.who() + ": " + repaired[i]
	}
	return repaired, nil
}

// checkEndpoints is checkEndpoint for many.
func (w *Workload) checkEndpoints(ctx context.Context, ids []string) (repaired []string, err error) {
	var errs []error
	for _, id := range ids {
		done, err := w.checkEndpoint(ctx, id)
		repaired = append(repaired, done...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return repaired, errors.Join(errs...)
}

// mendEndpoint does it, under the endpoint's lock.
func (w *Workload) mendEndpoint(e *endpoint) (repaired []string, err error) {
	links, err := w.attacher.Links()
	if err != nil {
		return nil, err
	}
	there, _ := w.attacher.SoundEndpoint(links, e.ID)
	if !e.settled() {
		if !there {
			return nil, w.leave(e, "its interface is gone", false)
		}
		// The engine is about to take it, or we died before it was whole.
		mac, err := parseMAC(e.MAC)
		if err == nil {
			_, err = w.attacher.AddEndpoint(e.ID, mac, false)
		}
		w.settles.add(e.ID)
		return nil, err
	}
	if _, guest := attach.EndpointEnds(e.ID); slices.ContainsFunc(links, func(l kernel.Link) bool { return l.Name == guest }) {
		// What it does after it has told us, or tried to.
		return nil, w.leaveForGood(e, "its engine took it back")
	}
	st, err := w.attacher.SetEndpoint(e.Path, e.NS, e.ID, e.spec(e.held()))
	if isGone(err) || errors.Is(err, attach.ErrChanged) || errors.Is(err, kernel.ErrNoNamespace) {
		if there {
			// The path is gone and the namespace is not, as when the engine
			// lost its state: the sweep asks that.
			return nil, nil
		}
		return nil, w.leave(e, "its container ended", false)
	}
	if err != nil {
		return nil, err
	}
	if st.Made {
		st.Changed = []string{"its interface was gone"}
	}
	return st.Changed, nil
}

// lostEndpoints are those whose host end is not as it should be, by a list of
// the host's links.
func (w *Workload) lostEndpoints(links []kernel.Link) []string {
	return w.endpointIDs(func(e *endpoint) bool {
		if !e.Joined {
			return false
		}
		_, sound := w.attacher.SoundEndpoint(links, e.ID)
		return !sound
	})
}

// askEngine compares what engines have here with what their engine says: what
// that does not know is dropped, when it is old enough for that, and what we do
// not know is adopted. Where there is no engine, or no answer, nothing happens.
func (w *Workload) askEngine(ctx context.Context) error {
	strangers, err := w.strangeEndpoints()
	if err != nil {
		return err
	}
	idle := len(strangers) == 0
	w.journal.view(func(s *state) {
		idle = idle && len(s.Endpoints) == 0 && !slices.ContainsFunc(s.Reserved, func(x reservation) bool { return !x.Dead })
	})
	if idle || w.docker == nil {
		return nil
	}
	asked := time.Now()
	known, err := w.docker.Endpoints(ctx)
	if err != nil {
		return nil //nolint:nilerr // no engine, no news
	}
	return errors.Join(
		w.adoptEndpoints(ctx, strangers, known),
		w.dropUnknown(ctx, known, asked),
		w.dropUnwanted(ctx, asked))
}

// strangeEndpoints lists the host ends of endpoints that the journal does not
// know.
func (w *Workload) strangeEndpoints() ([]kernel.Link, error) {
	var keep []string
	for _, id := range w.endpointIDs(nil) {
		end, _ := attach.EndpointEnds(id)
		keep = append(keep, end)
	}
	links, err := w.attacher.Strangers(keep)
	if err != nil {
		return nil, fmt.Errorf("look for endpoints that are not in the journal: %w", err)
	}
	return slices.DeleteFunc(links, func(l kernel.Link) bool { return attach.EndpointOf(l) == "" }), nil
}

// adoptEndpoints writes down endpoints that the journal does not know, as when
// it was lost, and removes those that nobody knows.
func (w *Workload) adoptEndpoints(ctx context.Context, strangers []kernel.Link, known map[string]string) error {
	var errs []error
	for _, end := range strangers {
		id := attach.EndpointOf(end)
		container, ok := known[id]
		if !ok {
			err := w.attacher.RemoveEndpoint(id)
			errs = append(errs, err)
			if err == nil {
				w.log.Warn("removed the interface of an endpoint that no engine knows", "interface", end.Name)
			}
			continue
		}
		c, err := w.docker.Glance(ctx, container)
		if err != nil {
			continue // the next sweep knows more
		}
		for _, n := range c.Networks {
			if n.Endpoint == id {
				errs = append(errs, w.adoptEndpoint(ctx, id, c, n))
			}
		}
	}
	return errors.Join(errs...)
}

func (w *Workload) adoptEndpoint(ctx context.Context, id string, c Container, n Network) error {
	unlock, err := w.locks.lock(ctx, endpointLock(id))
	if err != nil {
		return err
	}
	defer unlock()
	if _, known := w.endpointOf(id); known || !n.Address.IsValid() || !c.Running {
		return nil
	}
	path := w.namespacePath(c.PID)
	ns, err := w.attacher.Identify(path)
	if err != nil {
		return nil // between two lives; the next sweep knows more
	}
	sight, err := w.attacher.LookEndpoint(path, ns, id)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, attach.ErrChanged) {
			return nil
		}
		return err
	}
	e := endpoint{
		ID: id, Network: n.ID, Key: "endpoint:" + n.ID[:min(12, len(n.ID))] + ":" + c.ID, MAC: sight.MAC.String(),
		Addresses: []netip.Prefix{n.Address}, Extra: without(sight.Addresses, []netip.Prefix{n.Address}),
		Container: c.ID, Name: c.Name, Joined: true, Sandbox: path, NS: ns, Path: path, Interface: sight.Interface,
		Multicast: sight.Multicast,
	}
	e.Extra = slices.DeleteFunc(e.Extra, func(p netip.Prefix) bool { return checkAddress(p) != nil })
	x := reservation{Key: keyOf(n.Address.Addr()), Address: n.Address, Label: n.Name, Endpoint: id, Container: c.ID, Pinned: n.Pinned == n.Address.Addr()}
	select {
	case <-w.restored: // the space learns of it now, otherwise soon
		if err := w.claim(ctx, x); err != nil {
			w.log.Error("a container uses an address that another one has", "container", c.Name, "address", n.Address, "err", err)
		}
	default:
	}
	err = w.journal.update(func(s *state) error {
		if old := s.reserved(n.Address.Addr()); old != nil {
			s.unreserve(old.Key)
		}
		s.Reserved = append(s.Reserved, x)
		s.Endpoints = append(s.Endpoints, e)
		return nil
	})
	if err != nil {
		return err
	}
	w.memory.touch(id)
	w.memory.touch(x.Key)
	w.log.Warn("adopted an endpoint that is not in the journal", "container", c.Name, "addresses", e.held())
	return w.knowEndpoint(&e, c, n)
}

// dropUnknown forgets endpoints that the engine does not know.
func (w *Workload) dropUnknown(ctx context.Context, known map[string]string, asked time.Time) error {
	var errs []error
	for _, id := range w.endpointIDs(nil) {
		if _, ok := known[id]; ok || w.memory.young(id, asked) {
			continue
		}
		errs = append(errs, w.dropEndpointOf(ctx, id, asked))
	}
	return errors.Join(errs...)
}

func (w *Workload) dropEndpointOf(ctx context.Context, id string, asked time.Time) error {
	e, unlock, err := w.lockEndpoint(ctx, id)
	if err != nil || unlock == nil {
		return err
	}
	defer unlock()
	if w.memory.young(id, asked) {
		return nil // joined since
	}
	return w.leaveForGood(&e, "its engine does not know it")
}

// leaveForGood forgets an endpoint, under its lock, of which the engine will
// say no more: nor will it give the addresses back.
func (w *Workload) leaveForGood(e *endpoint, reason string) error {
	err := w.journal.update(func(s *state) error {
		for i := range s.Reserved {
			if x := &s.Reserved[i]; x.Endpoint == e.ID {
				x.Bound = true
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.leave(e, reason, true)
}

// dropUnwanted lets go of addresses that no endpoint has, and no container
// wants to have again.
func (w *Workload) dropUnwanted(ctx context.Context, asked time.Time) error {
	var idle []reservation
	w.journal.view(func(s *state) {
		for _, x := range s.Reserved {
			if x.Endpoint == "" && !x.Dead && !w.memory.young(x.Key, asked) {
				idle = append(idle, x)
			}
		}
	})
	var unwanted []string
	for _, x := range idle {
		if x.Container == "" {
			unwanted = append(unwanted, x.Key)
			continue
		}
		c, err := w.docker.Glance(ctx, x.Container)
		wants := slices.ContainsFunc(c.Networks, func(n Network) bool { return n.Pinned == x.Address.Addr() })
		if errors.Is(err, api.ErrNotFound) || err == nil && !wants {
			unwanted = append(unwanted, x.Key)
		}
	}
	if len(unwanted) == 0 {
		return nil
	}
	var dead []string
	err := w.journal.update(func(s *state) error {
		dead = nil
		for i := range s.Reserved {
			x := &s.Reserved[i]
			if x.Endpoint == "" && !x.Dead && slices.Contains(unwanted, x.Key) && !w.memory.young(x.Key, asked) {
				x.Dead, x.Pinned, x.Container, dead = true, false, "", append(dead, x.Key)
			}
		}
		return nil
	})
	for _, key := range dead {
		w.died(key)
	}
	if err != nil {
		return fmt.Errorf("let go of addresses that nobody wants: %w", err)
	}
	return nil
}
