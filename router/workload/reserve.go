package workload

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/router/api"
)

const (
	// engineTime is how long an engine waits for us. It holds locks meanwhile.
	engineTime = 10 * time.Second
	// grace is how long an address is kept for a container that ended, as the
	// space does by itself.
	grace = 30 * time.Second
	// spareTime is how long the space may look for a free address before one is
	// taken whose container may yet come back.
	spareTime = 2 * time.Second
)

var (
	errEngineTime = errors.New("it took too long")
	errSpare      = errors.New("an address is spare")
)

// reservation is an address that an engine asked for, for one of its
// containers.
type reservation struct {
	Key       string       `json:"key"`     // its holder's in the space
	Address   netip.Prefix `json:"address"` // with the length of the engine's network
	Label     string       `json:"label,omitempty"`
	Endpoint  string       `json:"endpoint,omitempty"`  // that has it
	Container string       `json:"container,omitempty"` // whose endpoint had it last, as far as known
	Pinned    bool         `json:"pinned,omitempty"`    // that container wants it and no other: kept while it exists
	Bound     bool         `json:"bound,omitempty"`     // it goes with the endpoint: nobody will give it back
	Dead      bool         `json:"dead,omitempty"`      // it was given back
}

// reserved returns the reservation of an address, or nil. It points into s.
func (s *state) reserved(a netip.Addr) *reservation {
	for i := range s.Reserved {
		if s.Reserved[i].Address.Addr() == a {
			return &s.Reserved[i]
		}
	}
	return nil
}

// unreserve forgets a reservation.
func (s *state) unreserve(key string) {
	s.Reserved = slices.DeleteFunc(s.Reserved, func(x reservation) bool { return x.Key == key })
}

// takeOver forgets what was given back and is somebody else's now.
func (s *state) takeOver(got []netip.Prefix) {
	s.Reserved = slices.DeleteFunc(s.Reserved, func(x reservation) bool { return x.Dead && holds(got, x.Address.Addr()) })
}

// engineHolder says who has an address by way of an engine; nothing when
// nobody does.
func (s *state) engineHolder(a netip.Addr) string {
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; holds(e.Addresses, a) || holds(e.Extra, a) {
			return e.who()
		}
	}
	x := s.reserved(a)
	switch {
	case x == nil || x.Dead:
		return ""
	case x.Container != "":
		return x.Container[:min(12, len(x.Container))]
	case x.Label != "":
		return "of network " + x.Label
	}
	return "that its engine is about to start"
}

// admitEngine says why an engine's container cannot have an address, if so.
func (s *state) admitEngine(a netip.Addr) error {
	for i := range s.Containers {
		if e := &s.Containers[i]; holds(e.held(), a) {
			return &taken{e.Key, a, conflict("address %s is held by container %s of this host", a, e.who())}
		}
	}
	if holds(s.hostAddresses(), a) {
		return conflict("address %s is held by this host itself (%s)", a, api.ExposeName)
	}
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; !e.Left && (holds(e.Addresses, a) || holds(e.Extra, a)) {
			return conflict("address %s is held by container %s of this host", a, e.who())
		}
	}
	return nil
}

// keyOf names the holder of an address in the space.
func keyOf(a netip.Addr) string { return "endpoint-ip:" + a.String() }

// newKey names the holder of an address that the space has still to choose.
func newKey() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return "endpoint-ip:" + hex.EncodeToString(b[:])
}

// known waits for [Workload.Restore], without which nobody knows who holds what.
func (w *Workload) known(ctx context.Context) error {
	select {
	case <-w.restored:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("weftd is starting: %w", context.Cause(ctx))
	}
}

// forEngine bounds what an engine waits for.
func forEngine(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, engineTime, errEngineTime)
}

// Reserve gives an address to a container of an engine. See api.Backend.
func (w *Workload) Reserve(ctx context.Context, r api.ReserveRequest) (netip.Prefix, error) {
	if !r.Within.IsValid() {
		r.Within = r.Subnet
	}
	if err := w.checkReserve(&r); err != nil {
		return netip.Prefix{}, err
	}
	ctx, cancel := forEngine(ctx)
	defer cancel()
	if err := w.known(ctx); err != nil {
		return netip.Prefix{}, err
	}
	w.forgetSpent()
	got, err := w.persevere(ctx, func() ([]netip.Prefix, error) {
		var p netip.Prefix
		var err error
		if r.Address.IsValid() {
			p, err = w.reserveThis(ctx, r)
		} else {
			p, err = w.reserveAny(ctx, r)
		}
		return []netip.Prefix{p}, err
	})
	if err != nil {
		return netip.Prefix{}, err
	}
	return got[0], nil
}

func (w *Workload) checkReserve(r *api.ReserveRequest) error {
	switch {
	case !r.Subnet.IsValid() || !r.Subnet.Addr().Is4():
		return usage("subnet %s: only IPv4 addresses can be given; every container has its IPv6 link-local one anyhow", r.Subnet)
	case r.Within.Bits() < r.Subnet.Bits() || !r.Subnet.Contains(r.Within.Addr()):
		return usage("range %s is not inside the subnet %s", r.Within, r.Subnet)
	case r.Address.IsValid() && !r.Subnet.Contains(r.Address):
		return usage("address %s is not inside the subnet %s", r.Address, r.Subnet)
	case r.Address.IsValid():
		return checkAddress(netip.PrefixFrom(r.Address, r.Subnet.Bits()))
	case w.space == nil:
		return errAllocator
	case r.Within.Bits() == 32:
		r.Address = r.Within.Addr()
	}
	return nil
}

// reserveThis gives an address that was named: also when it is reserved
// already and nobody uses it, for who reserves and who uses are two.
func (w *Workload) reserveThis(ctx context.Context, r api.ReserveRequest) (netip.Prefix, error) {
	p := netip.PrefixFrom(r.Address, r.Subnet.Bits())
	unlock, err := w.locks.lock(ctx, "address "+r.Address.String())
	if err != nil {
		return netip.Prefix{}, err
	}
	defer unlock()
	x := reservation{Key: keyOf(r.Address), Address: p, Label: r.Label}
	var before *reservation
	w.journal.view(func(s *state) {
		if err = s.admitEngine(r.Address); err != nil {
			return
		}
		if old := s.reserved(r.Address); old != nil {
			copied := *old
			before = &copied
			x.Key, x.Container, x.Pinned = old.Key, old.Container, old.Pinned
		}
	})
	if err != nil {
		return netip.Prefix{}, err
	}
	if err := w.claim(ctx, x); err != nil {
		return netip.Prefix{}, err
	}
	err = w.journal.update(func(s *state) error {
		if err := s.admitEngine(r.Address); err != nil {
			return err
		}
		s.unreserve(x.Key)
		s.Reserved = append(s.Reserved, x)
		return nil
	})
	w.memory.touch(x.Key)
	if err != nil {
		return netip.Prefix{}, w.failed("reserve "+p.String(), err, w.unclaim(ctx, x, before))
	}
	return p, nil
}

// claim takes an address in the space, if that gives it.
func (w *Workload) claim(ctx context.Context, x reservation) error {
	if len(w.ours([]netip.Prefix{x.Address})) == 0 {
		return nil
	}
	var why why
	err := w.space.Claim(ctx, SpaceRequest{Key: x.Key, Label: x.label(), Waiting: why.say}, x.Address)
	return why.explain(ctx, "address "+x.Address.Addr().String(), err)
}

// label is what people read of who holds an address.
func (x *reservation) label() string {
	if x.Container != "" {
		return x.Container[:min(12, len(x.Container))]
	}
	return "network " + x.Label
}

// unclaim takes a claim back after the journal failed: the address is what it
// was before, or nobody's.
func (w *Workload) unclaim(ctx context.Context, x reservation, before *reservation) error {
	err := w.journal.update(func(s *state) error {
		s.unreserve(x.Key)
		if before != nil {
			s.Reserved = append(s.Reserved, *before)
		}
		return nil
	})
	switch {
	case before == nil:
		err = errors.Join(err, w.release(context.WithoutCancel(ctx), x.Key, w.ours([]netip.Prefix{x.Address})))
	case before.Dead:
		w.died(x.Key)
	}
	return err
}

// died tells the space that a holder is gone.
func (w *Workload) died(key string) {
	w.memory.touch(key)
	if w.space != nil {
		w.space.Died(key)
	}
}

// Unreserve gives an address back. See api.Backend. One that a container is
// known to want and no other is kept for it, another one for a while.
func (w *Workload) Unreserve(ctx context.Context, addr netip.Addr) error {
	ctx, cancel := forEngine(ctx)
	defer cancel()
	if err := w.known(ctx); err != nil {
		return err
	}
	unlock, err := w.locks.lock(ctx, "address "+addr.String())
	if err != nil {
		return err
	}
	defer unlock()
	dead := ""
	err = w.journal.update(func(s *state) error {
		dead = ""
		x := s.reserved(addr)
		switch {
		case x == nil || x.Pinned && x.Endpoint == "":
		case x.Endpoint != "":
			x.Bound = true
		default:
			x.Dead, dead = true, x.Key
		}
		return nil
	})
	if dead != "" {
		w.died(dead) // also when the disk failed: for the engine it is free
	}
	if err != nil {
		return fmt.Errorf("give address %s back: %w", addr, err)
	}
	return nil
}

// forgetSpent forgets what was given back and nobody wanted in time. The space
// does so by itself.
func (w *Workload) forgetSpent() {
	now := time.Now()
	var spent []string
	w.journal.view(func(s *state) {
		for _, x := range s.Reserved {
			if x.Dead && now.Sub(w.memory.at(x.Key)) >= grace {
				spent = append(spent, x.Key)
			}
		}
	})
	if len(spent) == 0 {
		return
	}
	err := w.journal.update(func(s *state) error {
		for _, key := range spent {
			s.unreserve(key)
		}
		return nil
	})
	if err != nil {
		w.log.Warn("addresses that are free are still in the journal; tried again", "err", err)
	}
	w.memory.forget(spent)
}

// why remembers the last reason for waiting.
type why struct {
	mu   sync.Mutex
	last string // guarded by mu
}

func (y *why) say(reason string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.last = reason
}

// explain turns the end of our patience into something that people can read.
func (y *why) explain(ctx context.Context, what string, err error) error {
	if err == nil || !errors.Is(context.Cause(ctx), errEngineTime) {
		return err
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.last == "" {
		y.last = "weftd is busy"
	}
	return conflict("%s cannot be had within %v: %s", what, engineTime, y.last)
}
