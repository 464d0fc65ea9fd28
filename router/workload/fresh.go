package workload

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/workload/guess"
)

// reserveAny gives an address of the choice of this host.
func (w *Workload) reserveAny(ctx context.Context, r api.ReserveRequest) (netip.Prefix, error) {
	newcomers := w.countNewcomers(ctx, r)
	p, ok, err := w.revive(ctx, r, true, func(list []guess.Candidate) (guess.Candidate, bool) { return guess.Choose(list, newcomers) })
	if ok || err != nil {
		return p, err
	}
	p, err = w.reserveFresh(ctx, r)
	if errors.Is(err, errSpare) {
		must := w.spares(r, false) == 0
		p, ok, err = w.revive(ctx, r, false, func(list []guess.Candidate) (guess.Candidate, bool) { return guess.Spare(list, must) })
		if !ok && err == nil {
			return netip.Prefix{}, conflict("no address of %s is free", r.Within)
		}
	}
	if err == nil {
		w.newcomers.Serve()
	}
	return p, err
}

// countNewcomers counts those who are about to ask for their first address. It
// waits for that only where it decides something.
func (w *Workload) countNewcomers(ctx context.Context, r api.ReserveRequest) int {
	comes := false
	w.journal.view(func(s *state) { _, comes = guess.Choose(w.candidates(s, r), 0) })
	if comes {
		w.newcomers.Sure(ctx)
	}
	return w.newcomers.Count(time.Now())
}

// candidates are the addresses of a request that were given back.
func (w *Workload) candidates(s *state, r api.ReserveRequest) []guess.Candidate {
	var list []guess.Candidate
	for _, x := range s.Reserved {
		a := x.Address.Addr()
		if x.Dead && r.Within.Contains(a) && checkAddress(netip.PrefixFrom(a, r.Subnet.Bits())) == nil {
			list = append(list, guess.Candidate{Key: x.Key, Addr: a, Freed: w.memory.at(x.Key), Known: x.Container != ""})
		}
	}
	return list
}

// spares counts the addresses that [guess.Spare] could give.
func (w *Workload) spares(r api.ReserveRequest, must bool) (n int) {
	w.journal.view(func(s *state) {
		for _, c := range w.candidates(s, r) {
			if must || !c.Known {
				n++
			}
		}
	})
	return n
}

// revive gives the address that pick picks of those given back. Same says that
// it is for the container that had it.
func (w *Workload) revive(ctx context.Context, r api.ReserveRequest, same bool, pick func([]guess.Candidate) (guess.Candidate, bool)) (netip.Prefix, bool, error) {
	for {
		var x, before reservation
		none := errors.New("none")
		version, err := w.journal.change(func(s *state) error {
			c, ok := pick(w.candidates(s, r))
			if !ok {
				return none
			}
			i := slices.IndexFunc(s.Reserved, func(x reservation) bool { return x.Key == c.Key })
			before, x = s.Reserved[i], s.Reserved[i]
			x.Dead, x.Label, x.Address = false, r.Label, netip.PrefixFrom(c.Addr, r.Subnet.Bits())
			if !same {
				x.Container = ""
			}
			s.Reserved[i] = x
			return nil
		})
		if errors.Is(err, none) {
			return netip.Prefix{}, false, nil
		}
		w.memory.touch(x.Key)
		if err == nil {
			err = w.claim(ctx, x)
		}
		if errors.Is(err, api.ErrConflict) && ctx.Err() == nil {
			// Somebody else has it by now: people may take what is kept.
			err = w.journal.update(func(s *state) error {
				s.unreserve(x.Key)
				return nil
			})
			if err == nil {
				continue
			}
		}
		if err == nil {
			err = w.journal.save(version)
		}
		if err != nil {
			return netip.Prefix{}, false, w.failed("reserve "+x.Address.String(), err, w.unclaim(ctx, x, &before))
		}
		return x.Address, true, nil
	}
}

// reserveFresh gives an address that nobody has, of the space. It gives
// [errSpare] when there is none but among those that were given back.
func (w *Workload) reserveFresh(ctx context.Context, r api.ReserveRequest) (netip.Prefix, error) {
	x := reservation{Key: newKey(), Label: r.Label}
	short, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var why why
	var once sync.Once
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	p, err := w.space.Allocate(short, SpaceRequest{Key: x.Key, Label: x.label(), Subnet: r.Within, Waiting: func(reason string) {
		why.say(reason)
		once.Do(func() {
			if w.spares(r, false) > 0 {
				cancel(errSpare)
				return
			}
			timer = time.AfterFunc(spareTime, func() {
				if w.spares(r, true) > 0 {
					cancel(errSpare)
				}
			})
		})
	}})
	if err != nil && errors.Is(context.Cause(short), errSpare) {
		return netip.Prefix{}, errSpare
	}
	if err != nil {
		return netip.Prefix{}, why.explain(ctx, "an address of "+r.Within.String(), err)
	}
	x.Address = netip.PrefixFrom(p.Addr(), r.Subnet.Bits())
	err = checkAddress(x.Address)
	if err == nil {
		err = w.journal.update(func(s *state) error {
			if err := s.admitEngine(p.Addr()); err != nil {
				return err
			}
			s.takeOver([]netip.Prefix{x.Address}) // the space forgot sooner than we did
			s.Reserved = append(s.Reserved, x)
			return nil
		})
	}
	w.memory.touch(x.Key)
	if err != nil {
		return netip.Prefix{}, w.failed("reserve "+p.String(), err, w.unclaim(ctx, x, nil))
	}
	return x.Address, nil
}
