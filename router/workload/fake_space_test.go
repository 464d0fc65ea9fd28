package workload

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// fakeSpace is a space on one machine, whose disk hangs on the power line.
// Time passes only by expire.
type fakeSpace struct {
	power  *power
	all    netip.Prefix
	subnet netip.Prefix

	mu      sync.Mutex
	held    map[netip.Addr]fakeHolder
	changed chan struct{} // closed at the next change
}

type fakeHolder struct {
	key, label string
	dying      bool
}

const elsewhere = "host2"

// addSpace gives a world a space.
func (w *world) addSpace(all, subnet string) {
	w.space = &fakeSpace{
		power: w.power, all: netip.MustParsePrefix(all), subnet: netip.MustParsePrefix(subnet),
		held: map[netip.Addr]fakeHolder{}, changed: make(chan struct{}),
	}
}

func (s *fakeSpace) Range() netip.Prefix  { return s.all }
func (s *fakeSpace) Subnet() netip.Prefix { return s.subnet }

// change does one thing: whole or not at all.
func (s *fakeSpace) change(f func() error) error {
	return s.power.useWhole(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		err := f()
		close(s.changed)
		s.changed = make(chan struct{})
		return err
	})
}

func (s *fakeSpace) Allocate(ctx context.Context, r SpaceRequest) (netip.Prefix, error) {
	if !s.all.Overlaps(r.Subnet) || s.all.Bits() > r.Subnet.Bits() {
		return netip.Prefix{}, usage("subnet %s is not inside %s", r.Subnet, s.all)
	}
	for {
		var got netip.Addr
		var changed chan struct{}
		err := s.power.useWhole(func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			changed = s.changed
			if got = s.find(r); got.IsValid() {
				s.held[got] = fakeHolder{key: r.Key, label: r.Label}
			}
			return nil
		})
		if err != nil || got.IsValid() {
			return netip.PrefixFrom(got, r.Subnet.Bits()), err
		}
		r.Waiting("no address of " + r.Subnet.String() + " is free")
		select {
		case <-changed:
		case <-ctx.Done():
			return netip.Prefix{}, ctx.Err()
		}
	}
}

// find returns the holder's own, else the lowest free address.
func (s *fakeSpace) find(r SpaceRequest) netip.Addr {
	for _, a := range slices.SortedFunc(maps.Keys(s.held), netip.Addr.Compare) {
		if s.held[a].key == r.Key && r.Subnet.Contains(a) {
			return a
		}
	}
	for a := r.Subnet.Masked().Addr(); r.Subnet.Contains(a); a = a.Next() {
		if _, ok := s.held[a]; !ok && checkAddress(netip.PrefixFrom(a, r.Subnet.Bits())) == nil &&
			checkAddress(netip.PrefixFrom(a, s.all.Bits())) == nil {
			return a
		}
	}
	return netip.Addr{}
}

func (s *fakeSpace) Claim(_ context.Context, r SpaceRequest, p netip.Prefix) error {
	return s.change(func() error {
		if h, ok := s.held[p.Addr()]; ok && h.key != r.Key {
			return conflict("address %s is held by %s", p.Addr(), h.label)
		}
		s.held[p.Addr()] = fakeHolder{key: r.Key, label: r.Label}
		return nil
	})
}

func (s *fakeSpace) Move(_ context.Context, from string, r SpaceRequest, addrs []netip.Addr) error {
	return s.change(func() error {
		for _, a := range addrs {
			if s.held[a].key == from {
				s.held[a] = fakeHolder{key: r.Key, label: r.Label}
			}
		}
		return nil
	})
}

func (s *fakeSpace) Release(_ context.Context, key string, addrs []netip.Addr) error {
	return s.change(func() error {
		maps.DeleteFunc(s.held, func(a netip.Addr, h fakeHolder) bool {
			return h.key == key && (addrs == nil || slices.Contains(addrs, a))
		})
		return nil
	})
}

// Died never fails.
func (s *fakeSpace) Died(key string) {
	if !s.power.isOff() {
		s.kill(func(_ netip.Addr, h fakeHolder) bool { return h.key == key })
	}
}

func (s *fakeSpace) Adopt(_ context.Context, live []SpaceHolder) error {
	s.kill(func(_ netip.Addr, h fakeHolder) bool { return h.key != elsewhere })
	return s.change(func() error {
		for _, l := range live {
			for _, p := range l.Addresses {
				if h := s.held[p.Addr()]; !s.all.Contains(p.Addr()) || h.key != "" && !h.dying && h.key != elsewhere {
					panic(fmt.Sprintf("adopt %s for %s: %+v", p, l.Key, h))
				}
				s.held[p.Addr()] = fakeHolder{key: l.Key, label: l.Label}
			}
		}
		return nil
	})
}

func (s *fakeSpace) kill(match func(a netip.Addr, h fakeHolder) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, h := range s.held {
		if match(a, h) {
			h.dying = true
			s.held[a] = h
		}
	}
}

// expire is 30 s later.
func (s *fakeSpace) expire() {
	_ = s.change(func() error {
		maps.DeleteFunc(s.held, func(_ netip.Addr, h fakeHolder) bool { return h.dying })
		return nil
	})
}

// dying lists the addresses that are kept for a while.
func (s *fakeSpace) dying() string { return s.list(true) }

// live lists those that somebody has.
func (s *fakeSpace) live() string { return s.list(false) }

func (s *fakeSpace) list(dying bool) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, a := range slices.SortedFunc(maps.Keys(s.held), netip.Addr.Compare) {
		if h := s.held[a]; h.dying == dying {
			if strings.HasPrefix(h.key, "endpoint-ip:") {
				h.key, h.label = "endpoint-ip", "" // chance, and when it was last told
			}
			fmt.Fprintf(&b, "space %s %s %s\n", a, h.key, h.label)
		}
	}
	return b.String()
}

// checkSpace compares the space with the journal and returns what is held.
func (w *world) checkSpace(d *Workload) string {
	w.t.Helper()
	if w.space == nil {
		return ""
	}
	live := w.space.live()
	w.space.mu.Lock()
	held := maps.Clone(w.space.held)
	w.space.mu.Unlock()
	maps.DeleteFunc(held, func(_ netip.Addr, h fakeHolder) bool { return h.key == elsewhere })
	d.journal.view(func(s *state) {
		for a, h := range held {
			if !h.dying && !holds(s.heldBy(h.key), a) {
				w.t.Errorf("the space says that %s has %s, the journal does not", h.key, a)
			}
		}
		verify := func(key string, list []netip.Prefix, mates []string) {
			for _, p := range list {
				if h := held[p.Addr()]; w.space.all.Contains(p.Addr()) && (h.dying || h.key != key && !slices.Contains(mates, h.key)) {
					w.t.Errorf("the journal says that %s has %s, the space says %+v", key, p, h)
				}
			}
		}
		verify(exposeKey, s.hostAddresses(), nil)
		for i := range s.Endpoints {
			verify(s.Endpoints[i].Key, s.Endpoints[i].Extra, nil)
		}
		for _, x := range s.Reserved {
			if !x.Dead {
				verify(x.Key, []netip.Prefix{x.Address}, nil)
			} else if h, ok := held[x.Address.Addr()]; ok && (h.key != x.Key || !h.dying) {
				w.t.Errorf("the journal says that %s was given back, the space says %+v", x.Address, h)
			}
		}
		for i := range s.Containers {
			e := &s.Containers[i]
			var mates []string
			for _, m := range s.in(e.NS) {
				mates = append(mates, m.Key)
			}
			verify(e.Key, e.held(), mates)
		}
	})
	if len(d.debts.keys()) > 0 {
		w.t.Errorf("owed: %v", d.debts.owed)
	}
	return live
}
