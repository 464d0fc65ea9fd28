package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
)

const (
	// settleTime is how long an engine may take to put an interface into its
	// container. The next sweep looks again.
	settleTime = 30 * time.Second
	// settlePoll is how often we look: the container's process starts a few
	// tens of milliseconds after the interface is there. After settleSoon it is
	// an engine that hangs, or gave up.
	settlePoll = 3 * time.Millisecond
	settleSoon = 2 * time.Second
	settleSlow = 100 * time.Millisecond
)

// JoinEndpoint makes the interface of an endpoint. See api.Backend.
func (w *Workload) JoinEndpoint(ctx context.Context, r api.EndpointJoin) (api.Endpoint, error) {
	ctx, cancel := forEngine(ctx)
	defer cancel()
	if err := w.known(ctx); err != nil {
		return api.Endpoint{}, err
	}
	e, unlock, err := w.lockEndpoint(ctx, r.ID)
	if err != nil {
		return api.Endpoint{}, err
	}
	if unlock == nil {
		return api.Endpoint{}, notFound("endpoint %.12s is not known here; disconnect the container from the network and connect it again", r.ID)
	}
	defer unlock()
	if !filepath.IsAbs(r.Sandbox) {
		return api.Endpoint{}, usage("endpoint %s: sandbox %q is not an absolute path", e.label(), r.Sandbox)
	}
	if err := w.join(&e, filepath.Clean(r.Sandbox)); err != nil {
		return api.Endpoint{}, fmt.Errorf("join %s: %w", e.label(), err)
	}
	a := w.answerEndpoint(&e)
	attached := w.isAttachedAt(e.Sandbox)
	if attached {
		a.Prefix = "weftn" // the names after weft0 are taken, and the engine does not look
	}
	// The engine fails over a route that the container has.
	others := w.endpointIDs(func(o *endpoint) bool { return o.ID != e.ID && o.Joined && o.Sandbox == e.Sandbox })
	if attached || len(others) > 0 {
		a.DNS, a.Multicast = netip.Addr{}, false
	}
	return a, nil
}

// join does it, under the endpoint's lock. The journal says first that there is
// an interface: one that nobody knows of would stay for ever.
func (w *Workload) join(e *endpoint, sandbox string) (err error) {
	before := e.clone()
	put := func(to endpoint) error {
		return w.journal.update(func(s *state) error {
			if now := s.endpoint(to.ID); now != nil {
				*now = to.clone()
			}
			return nil
		})
	}
	e.Joined, e.Left, e.Sandbox, e.NS, e.Path, e.Interface = true, false, sandbox, attach.Namespace{}, "", ""
	var undo undo
	undo.push(func() error { return put(before) })
	defer func() {
		if err != nil {
			err = w.failed("join "+e.label(), err, undo.run())
		}
	}()
	if err := put(*e); err != nil {
		return err
	}
	if !before.Joined {
		undo.push(func() error { return w.attacher.RemoveEndpoint(e.ID) })
	}
	mac, err := parseMAC(e.MAC)
	if err != nil {
		return err
	}
	if _, err := w.attacher.AddEndpoint(e.ID, mac, true); err != nil {
		return err
	}
	w.memory.touch(e.ID)
	w.settles.add(e.ID)
	return nil
}

// LeaveEndpoint removes the interface of an endpoint. See api.Backend.
func (w *Workload) LeaveEndpoint(ctx context.Context, id string) error {
	return w.leaveWith(ctx, id, false)
}

func (w *Workload) leaveWith(ctx context.Context, id string, forget bool) error {
	ctx, cancel := forEngine(ctx)
	defer cancel()
	if err := w.known(ctx); err != nil {
		return err
	}
	e, unlock, err := w.lockEndpoint(ctx, id)
	if err != nil {
		return err
	}
	if unlock == nil {
		// Perhaps the journal was lost: what is called so is this one's.
		return w.attacher.RemoveEndpoint(id)
	}
	defer unlock()
	if err := w.leave(&e, "its engine said so", forget); err != nil {
		return fmt.Errorf("leave %s: %w", e.label(), err)
	}
	return nil
}

// leave does it, under the endpoint's lock: names first, for others ask for
// them. Once it has begun it is not taken back; what fails is tried again by
// the next sweep. Forget says that the endpoint is not to be known any more.
func (w *Workload) leave(e *endpoint, reason string, forget bool) error {
	if err := w.setNames(namesKey(e.ID), e.container(), nil); err != nil {
		return err
	}
	if e.settled() && !e.WithoutDNS && w.lastIn(e) {
		// The container may go on without us, and ask others for names.
		if err := w.attacher.WithdrawDNS(e.Path, e.NS); err != nil {
			w.log.Warn("a container is still led to the name server", "container", e.who(), "err", err)
		}
	}
	if err := w.attacher.RemoveEndpoint(e.ID); err != nil {
		return err
	}
	if e.Joined {
		w.log.Info("endpoint left", "container", e.who(), "addresses", e.held(), "why", reason)
	}
	if forget {
		return w.forgetEndpoint(e)
	}
	e.Left = e.Left || e.Joined
	e.Joined, e.Sandbox, e.NS, e.Path, e.Interface, e.Names = false, "", attach.Namespace{}, "", "", nil
	return w.journal.update(func(s *state) error {
		if now := s.endpoint(e.ID); now != nil {
			*now = e.clone()
		}
		return nil
	})
}

// lastIn reports whether an endpoint is the only one of its container that
// leads to the name server.
func (w *Workload) lastIn(e *endpoint) bool {
	return len(w.endpointIDs(func(o *endpoint) bool {
		return o.ID != e.ID && o.settled() && o.NS == e.NS && !o.WithoutDNS
	})) == 0
}

// isAttachedAt reports whether people attached what lives at a path, too.
func (w *Workload) isAttachedAt(path string) (is bool) {
	for _, p := range w.sandboxPaths(path) {
		ns, err := w.attacher.Identify(p)
		if err != nil {
			continue
		}
		w.journal.view(func(s *state) { is = len(s.spec(ns).Addresses) > 0 })
		return is
	}
	return false
}

// sandboxPaths are where a namespace may be that an engine calls path: weftd
// may live in a container, with the machine's processes and without its mounts.
func (w *Workload) sandboxPaths(path string) []string {
	if rest, ok := strings.CutPrefix(path, "/var/run/"); ok { // a link, which would lead to our own
		return []string{path, filepath.Join(w.proc, "1/root/run", rest)}
	}
	return []string{path, filepath.Join(w.proc, "1/root", path)}
}

// lockEndpoint takes the lock of an endpoint and returns it as it is then.
// There is no unlock when it is not known.
func (w *Workload) lockEndpoint(ctx context.Context, id string) (endpoint, func(), error) {
	unlock, err := w.locks.lock(ctx, endpointLock(id))
	if err != nil {
		return endpoint{}, nil, err
	}
	e, ok := w.endpointOf(id)
	if !ok {
		unlock()
		return endpoint{}, nil, nil
	}
	return e, unlock, nil
}

// settleEndpoint sets what the engine does not in the container that an endpoint was
// joined to. It gives [attach.ErrNotReady] as long as the engine has not put
// the interface there; there is nothing to be done for an endpoint that left.
func (w *Workload) settleEndpoint(ctx context.Context, id string) error {
	e, unlock, err := w.lockEndpoint(ctx, id)
	if err != nil || unlock == nil {
		return err
	}
	defer unlock()
	if !e.Joined || e.settled() {
		return nil
	}
	err = attach.ErrNotReady
	for _, path := range w.sandboxPaths(e.Sandbox) {
		var st attach.State
		e.NS, st, err = w.attacher.SettleEndpoint(path, e.ID, e.spec(e.Addresses), e.Extra)
		if err == nil {
			e.Path, e.Interface = path, st.Interface
			break
		}
		if !errors.Is(err, attach.ErrNotReady) {
			return fmt.Errorf("set up %s: %w", e.label(), err)
		}
	}
	if err != nil {
		return err
	}
	w.log.Info("endpoint is in its container", "container", e.who(), "addresses", e.held(), "interface", e.Interface, "mac", e.MAC)
	return w.journal.update(func(s *state) error {
		if now := s.endpoint(e.ID); now != nil {
			now.NS, now.Path, now.Interface = e.NS, e.Path, e.Interface
		}
		return nil
	})
}

// await settles an endpoint as soon as its engine lets us.
func (w *Workload) await(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	t := time.NewTicker(settlePoll)
	defer t.Stop()
	begun := time.Now()
	for {
		err := w.settleEndpoint(ctx, id)
		if !errors.Is(err, attach.ErrNotReady) {
			if err != nil && ctx.Err() == nil {
				w.log.Warn("an endpoint is not complete; the next sweep tries again", "endpoint", id, "err", err)
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if time.Since(begun) > settleSoon {
			t.Reset(settleSlow)
		}
	}
}
