package workload

import (
	"context"
	"net/netip"
	"slices"
)

// Space gives addresses of the cluster's range to containers of this host, and
// to nobody else at the same time. All methods are safe for concurrent use.
//
// A holder is named by its key: "docker:" and the id, "ns:" and the network
// namespace, "endpoint:" or "endpoint-ip:" and what is an engine's, or
// "weft:expose"; labels are for people. An error means that
// nothing was given or taken. It wraps [api.ErrConflict] when somebody else
// holds what was asked for, whom it names, and [api.ErrUsage] when it could
// never be given; people see it behind "attach NAME: ". What was answered
// outlives the daemon.
type Space interface {
	// Range is what the space gives from; addresses outside of it are
	// nobody's business here. Subnet, inside of it, is what net:default means.
	// Both are constant.
	Range() netip.Prefix
	Subnet() netip.Prefix

	// Allocate gives the holder an address of a subnet, with the length of
	// that subnet. One that it has there already, also while it counts as
	// dead, is given again. It blocks until there is one or ctx ends, and
	// says meanwhile why.
	Allocate(ctx context.Context, r SpaceRequest) (netip.Prefix, error)
	// Claim gives the holder the very address p, of which the length is of no
	// importance. It may wait like Allocate. Asking twice is no error.
	Claim(ctx context.Context, r SpaceRequest, p netip.Prefix) error
	// Move gives addresses of one holder of this host to another one, whom r
	// names, so that nobody else can have them in between. What the former
	// does not hold stays where it is. It waits for no other host.
	Move(ctx context.Context, from string, r SpaceRequest, addrs []netip.Addr) error
	// Release takes addresses, nil for all, from the holder at once. What it
	// does not hold is no error.
	Release(ctx context.Context, key string, addrs []netip.Addr) error
	// Died releases everything that the holder has after a grace of 30 s,
	// save the addresses that Allocate, Claim or Move give it until then. It
	// does not block.
	Died(key string)
	// Adopt is called once, when the daemon starts, with everybody who holds
	// something. When it returns, nothing of that is given to others; an
	// address that another key of this host held has changed hands; what
	// another host holds is claimed until that host lets go. Holders, and
	// addresses of theirs, that are not named here count as dead from then on.
	Adopt(ctx context.Context, live []SpaceHolder) error
}

// SpaceRequest says for whom an address is.
type SpaceRequest struct {
	Key     string
	Label   string
	Subnet  netip.Prefix        // to allocate from; only for Allocate
	Waiting func(reason string) // is told why it takes long; must not block; nil: nobody asks
}

// SpaceHolder is somebody who has addresses.
type SpaceHolder struct {
	Key       string
	Label     string
	Addresses []netip.Prefix // inside the range, each at one holder only
}

// ours returns those addresses that the space gives, none when it is off.
func (w *Workload) ours(list []netip.Prefix) []netip.Addr {
	if w.space == nil {
		return nil
	}
	var addrs []netip.Addr
	for _, p := range list {
		if w.space.Range().Contains(p.Addr()) {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs
}

// obtain turns what was asked for into addresses, in the order of asking. A
// holder that has what was asked for keeps it; nothing is claimed that
// somebody in the same namespace has. With an error comes what was obtained
// before it: [Workload.giveBack] it.
func (w *Workload) obtain(f *flight, asks []ask, has, shared []netip.Prefix) (got []netip.Prefix, err error) {
	r := SpaceRequest{Key: f.key, Label: f.label, Waiting: func(reason string) { f.say(reason) }}
	for _, a := range asks {
		p, ok := a.among(union(has, got))
		switch {
		case ok:
		case a.allocate:
			r.Subnet = a.prefix
			if p, err = w.space.Allocate(f.ctx, r); err == nil {
				got = union(got, []netip.Prefix{p})
				err = checkAddress(p)
			}
		default:
			p = a.prefix
			if len(w.ours([]netip.Prefix{p})) > 0 && !holds(shared, p.Addr()) {
				err = w.space.Claim(f.ctx, r, p)
			}
		}
		if err != nil && f.ctx.Err() != nil {
			err = context.Cause(f.ctx)
		}
		if err != nil {
			return got, err
		}
		got = union(got, []netip.Prefix{p})
	}
	return got, nil
}

// giveBack takes back what was obtained for a request that failed, as far as
// it is not the holder's by the journal. The request is still under way.
func (w *Workload) giveBack(f *flight, got []netip.Prefix) error {
	var kept []netip.Prefix
	w.journal.view(func(s *state) { kept = s.heldBy(f.key) })
	addrs := slices.DeleteFunc(w.ours(got), func(a netip.Addr) bool { return holds(kept, a) })
	return w.release(context.WithoutCancel(f.ctx), f.key, addrs)
}

// release gives addresses back to the space that the journal no longer knows.
// If that fails they are owed, and the next sweep tries again.
func (w *Workload) release(ctx context.Context, key string, addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	err := w.space.Release(ctx, key, addrs)
	if err != nil {
		w.debts.add(key, addrs)
	}
	return err
}

// releaseRest lets a holder that has nothing any more by the journal have
// nothing in the space either, not even until a grace is over.
func (w *Workload) releaseRest(ctx context.Context, key string) error {
	if w.space == nil {
		return nil
	}
	unlock, err := w.locks.lock(ctx, requestLock(key))
	if err != nil {
		return err
	}
	defer unlock()
	var held []netip.Prefix
	w.journal.view(func(s *state) { held = s.heldBy(key) })
	if len(held) > 0 {
		return nil
	}
	return w.space.Release(ctx, key, nil)
}

// handOn gives addresses that an entry lets go, and that others in its
// namespace still have, to one of those. It returns the rest. The lock of the
// namespace is held.
func (w *Workload) handOn(ctx context.Context, e *entry, addrs []netip.Addr) (rest []netip.Addr, err error) {
	for _, a := range addrs {
		var heir *entry
		w.journal.view(func(s *state) {
			for _, other := range s.in(e.NS) {
				if other.Key != e.Key && heir == nil && holds(union(other.Addresses, other.Adding), a) {
					copied := other.clone()
					heir = &copied
				}
			}
		})
		if heir == nil {
			rest = append(rest, a)
			continue
		}
		to := SpaceRequest{Key: heir.Key, Label: heir.who()}
		if err := w.space.Move(ctx, e.Key, to, []netip.Addr{a}); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// heldBy returns what a holder has by the journal, the host included.
func (s *state) heldBy(key string) []netip.Prefix {
	if key == exposeKey {
		return s.hostAddresses()
	}
	if e := s.find(key); e != nil {
		return e.held()
	}
	var list []netip.Prefix
	for _, x := range s.Reserved {
		if x.Key == key && !x.Dead {
			list = append(list, x.Address)
		}
	}
	for i := range s.Endpoints {
		if s.Endpoints[i].Key == key {
			list = union(list, s.Endpoints[i].Extra)
		}
	}
	return list
}
