package workload

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
)

// Why a request that is under way ends or begins again.
var (
	errDetached = errors.New("it was detached meanwhile")
	errEnded    = errors.New("it ended meanwhile")
	errStale    = errors.New("what it had was changed meanwhile")
)

// flight is a request for addresses that is under way: it waits for them, or
// has some that no journal knows yet. Requests of one holder, or for one
// namespace, come one after the other; who takes addresses away does not wait
// for them but tells them.
type flight struct {
	// Constant once takeOff has returned it. Before, others may see it, and
	// key is guarded by flights.mu.

	ctx    context.Context // ends with the request, or when others end that
	cancel context.CancelCauseFunc
	key    string
	label  string
	ns     string // the name of the namespace's lock
	target target // zero for the host
	done   chan struct{}
	unlock []func()

	stale bool // guarded by flights.mu: something was taken away that it may count on
}

// say tells who waits what for.
func (f *flight) say(reason string) { api.Progress(f.ctx, reason) }

// flights is all requests under way. The zero value is ready.
type flights struct {
	mu   sync.Mutex
	list map[*flight]struct{}
}

func (l *flights) add(f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.list == nil {
		l.list = make(map[*flight]struct{})
	}
	l.list[f] = struct{}{}
}

func (l *flights) remove(f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.list, f)
}

func (l *flights) setKey(f *flight, key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.key = key
}

func (l *flights) isStale(f *flight) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f.stale
}

// disturb tells requests that addresses of a holder in a namespace went, when
// journal and space know it and while the lock of the namespace is held: a
// request that begins later finds all as it is, an earlier one begins again.
func (l *flights) disturb(key, ns string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for f := range l.list {
		f.stale = f.stale || f.key == key || f.ns == ns
	}
}

// all returns those that match.
func (l *flights) all(match func(f *flight) bool) []*flight {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Keys(l.list)), func(f *flight) bool { return !match(f) })
}

// requestLock is the name of the lock for requests of a holder.
func requestLock(key string) string { return "request of " + key }

// takeOff begins a request for a container: it waits for other requests, not
// for work on the container. [Workload.land] must follow.
func (w *Workload) takeOff(ctx context.Context, t target) (*flight, error) {
	label := t.label
	if t.docker != nil {
		label = t.docker.Name
	}
	f := &flight{key: t.key, label: label, ns: t.ns.String(), target: t, done: make(chan struct{})}
	return f, w.start(ctx, f, func() string {
		key := t.key
		w.journal.view(func(s *state) {
			key = s.adopt(t).key
			if e := s.find(key); e != nil {
				f.label = e.who()
			}
		})
		return key
	})
}

// takeOffHost is takeOff for the host itself.
func (w *Workload) takeOffHost(ctx context.Context) (*flight, error) {
	f := &flight{key: exposeKey, label: api.ExposeName, ns: exposeKey, done: make(chan struct{})}
	return f, w.start(ctx, f, func() string { return exposeKey })
}

// start takes the locks of a request: first that of the namespace, for what
// was attached there decides whose request it is.
func (w *Workload) start(ctx context.Context, f *flight, key func() string) error {
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	w.flights.add(f)
	names := []func() string{
		func() string { return "request for " + f.ns },
		func() string {
			w.flights.setKey(f, key())
			return requestLock(f.key)
		},
	}
	for _, name := range names {
		unlock, err := w.locks.lockSaying(f.ctx, name(), func() { f.say("another request for the same container") })
		if err != nil {
			w.land(f)
			return err
		}
		f.unlock = append(f.unlock, unlock)
	}
	return nil
}

// land ends a request.
func (w *Workload) land(f *flight) {
	w.flights.remove(f)
	for _, unlock := range slices.Backward(f.unlock) {
		unlock()
	}
	f.cancel(nil)
	close(f.done)
}

// ended says why a request must not go on, if so. The lock of its namespace is
// held, and that of the journal: a former life of the container has another
// namespace.
func (w *Workload) ended(f *flight) error {
	if f.ctx.Err() != nil {
		return context.Cause(f.ctx)
	}
	if w.flights.isStale(f) {
		return errStale
	}
	return nil
}

// persevere repeats a request as long as it fails because of others who are
// gone by then.
func (w *Workload) persevere(ctx context.Context, once func() ([]netip.Prefix, error)) ([]netip.Prefix, error) {
	for {
		got, err := once()
		var c *taken
		switch {
		case err == nil:
			return got, nil
		case errors.Is(err, errStale):
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
		case errors.As(err, &c):
			// Perhaps the holder is dead and nobody has noticed yet. Its lock
			// is taken only now that ours are released.
			if gone, gerr := w.letsGo(ctx, c); gerr != nil || !gone {
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

// letsGo completes what was begun for the holder of an address, and reports
// whether it still has it then.
func (w *Workload) letsGo(ctx context.Context, c *taken) (bool, error) {
	if _, err := w.check(ctx, c.key); err != nil {
		return false, err
	}
	e, ok := w.journal.entry(c.key)
	return !ok || c.addr.IsValid() && !holds(e.held(), c.addr), nil
}

// cancelFlights ends requests and returns when they have ended.
func (w *Workload) cancelFlights(ctx context.Context, cause error, match func(f *flight) bool) error {
	for _, f := range w.flights.all(match) {
		f.cancel(cause)
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// cancelDead ends requests for containers that are gone: nothing else would
// end their waiting.
func (w *Workload) cancelDead() {
	for _, f := range w.flights.all(func(f *flight) bool { return f.target.path != "" }) {
		t := f.target
		ns, err := w.attacher.Identify(t.path)
		gone := isGone(err) || errors.Is(err, attach.ErrHostNetwork) || err == nil && ns != t.ns
		if !gone && t.pid != 0 {
			start, err := w.startTime(t.pid)
			gone = isGone(err) || err == nil && start != t.start
		}
		if gone {
			f.cancel(errEnded)
		}
	}
}

// debts are addresses that the space could not take back, by holder. The zero
// value is ready.
type debts struct {
	mu   sync.Mutex
	owed map[string][]netip.Addr
}

func (d *debts) add(key string, addrs []netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.owed == nil {
		d.owed = make(map[string][]netip.Addr)
	}
	d.owed[key] = append(d.owed[key], addrs...)
}

func (d *debts) take(key string) []netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	addrs := d.owed[key]
	delete(d.owed, key)
	return addrs
}

func (d *debts) keys() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.owed))
}

// settle tries to give back what is owed. A holder for whom a request is under
// way must wait: that may have got the same address again.
func (w *Workload) settle(ctx context.Context) error {
	var errs []error
	for _, key := range w.debts.keys() {
		unlock, ok := w.locks.try(requestLock(key))
		if !ok {
			continue
		}
		var held []netip.Prefix
		w.journal.view(func(s *state) { held = s.heldBy(key) })
		addrs := slices.DeleteFunc(w.debts.take(key), func(a netip.Addr) bool { return holds(held, a) })
		errs = append(errs, w.release(ctx, key, addrs))
		unlock()
	}
	return errors.Join(errs...)
}
