package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/kernel"
)

// endpoint is the place of one container on one network of its engine. The
// engine puts the interface into the container and gives it its addresses; we
// make the interface, and do what the engine cannot.
//
//	AddEndpoint ─▶ known ── JoinEndpoint ─▶ joined ── the engine moved it ─▶ settled
//	                 ▲                         │                               │
//	                 └────── LeaveEndpoint, or its namespace ended ────────────┘
//
// One that left is remembered until its engine removes it. It does not keep its
// address from who names that: an engine that could not reach us at its start
// forgets endpoints without a word, and starts their containers anew.
type endpoint struct {
	ID         string           `json:"id"` // the engine's
	Network    string           `json:"network,omitempty"`
	Key        string           `json:"key"` // holder of Extra in the space
	MAC        string           `json:"mac"`
	Addresses  []netip.Prefix   `json:"addresses,omitempty"` // the engine sets them
	Extra      []netip.Prefix   `json:"extra,omitempty"`     // we do
	Container  string           `json:"container,omitempty"` // full id, when known
	Name       string           `json:"name,omitempty"`      // the container's, when known
	Names      []name           `json:"names,omitempty"`
	Joined     bool             `json:"joined,omitempty"`
	Left       bool             `json:"left,omitempty"`    // it was joined and is not any more
	Sandbox    string           `json:"sandbox,omitempty"` // path of the namespace that it is joined to
	NS         attach.Namespace `json:"ns,omitzero"`       // when settled
	Path       string           `json:"path,omitempty"`    // where NS was found
	Interface  string           `json:"interface,omitempty"`
	Multicast  bool             `json:"multicast,omitempty"`
	WithoutDNS bool             `json:"without_dns,omitempty"`
}

// who names the container in messages.
func (e *endpoint) who() string {
	if e.Name != "" {
		return e.Name
	}
	return e.label()
}

// label is how `weft ps` prints it.
func (e *endpoint) label() string {
	if e.Container != "" {
		return e.Container[:min(12, len(e.Container))]
	}
	return "endpoint:" + e.ID[:min(12, len(e.ID))]
}

// container names it in DNS records.
func (e *endpoint) container() string { return cmp.Or(e.Container, e.label()) }

// held returns all its addresses.
func (e *endpoint) held() []netip.Prefix { return union(e.Addresses, e.Extra) }

// settled reports whether it is known to be in a container.
func (e *endpoint) settled() bool { return e.Joined && !e.NS.IsZero() }

func (e *endpoint) clone() endpoint {
	c := *e
	c.Addresses, c.Extra, c.Names = slices.Clone(e.Addresses), slices.Clone(e.Extra), slices.Clone(e.Names)
	return c
}

// spec returns the desired state of its interface.
func (e *endpoint) spec(addresses []netip.Prefix) attach.Spec {
	s := attach.Spec{Addresses: addresses, Multicast: e.Multicast, NoDNS: e.WithoutDNS}
	if hw, err := parseMAC(e.MAC); err == nil {
		s.MAC = hw
	}
	return s
}

// namesKey is the key of an endpoint's names.
func namesKey(id string) string { return "endpoint:" + id }

// endpointLock is the name of the lock for work on an endpoint.
func endpointLock(id string) string { return "endpoint " + id }

// endpoint returns the one with an id, or nil. It points into s.
func (s *state) endpoint(id string) *endpoint {
	for i := range s.Endpoints {
		if s.Endpoints[i].ID == id {
			return &s.Endpoints[i]
		}
	}
	return nil
}

// endpointOf returns a copy of an endpoint.
func (w *Workload) endpointOf(id string) (e endpoint, ok bool) {
	w.journal.view(func(s *state) {
		if found := s.endpoint(id); found != nil {
			e, ok = found.clone(), true
		}
	})
	return e, ok
}

// endpointsFor returns the endpoints that a container has, or has had, that was
// resolved, or that is called arg. They point into s.
func (s *state) endpointsFor(arg string, t target) []*endpoint {
	var list []*endpoint
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		switch {
		case t.docker != nil && e.Container == t.docker.ID,
			t.docker != nil && slices.ContainsFunc(t.docker.Networks, func(n Network) bool { return n.Endpoint == e.ID }),
			!t.ns.IsZero() && e.NS == t.ns,
			arg != "" && (e.label() == arg || e.Name == arg),
			len(arg) >= 12 && strings.HasPrefix(e.Container, arg):
			list = append(list, e)
		}
	}
	return list
}

// endpointIDs returns the ids of those that match; nil: of all.
func (w *Workload) endpointIDs(match func(e *endpoint) bool) []string {
	var ids []string
	w.journal.view(func(s *state) {
		for i := range s.Endpoints {
			if match == nil || match(&s.Endpoints[i]) {
				ids = append(ids, s.Endpoints[i].ID)
			}
		}
	})
	return ids
}

// parseEndpoint checks what needs nobody else.
func (w *Workload) parseEndpoint(r api.EndpointRequest) (endpoint, []ask, error) {
	e := endpoint{
		ID: r.ID, Network: r.Network, Container: r.Container, Addresses: union(nil, r.Addresses),
		Multicast: !r.NoMulticastRoute, WithoutDNS: r.WithoutDNS,
	}
	if r.ID == "" || len(r.ID) > 128 || strings.ContainsFunc(r.ID+r.Network+r.Container, notOfID) {
		return e, nil, usage("endpoint %q: want the ids of an engine, letters and digits", r.ID)
	}
	mac, err := parseMAC(r.MAC)
	if err != nil {
		return e, nil, err
	}
	if mac == (kernel.MAC{}) {
		mac = attach.NewMAC()
	}
	e.MAC = mac.String()
	if len(e.Addresses) == 0 {
		return e, nil, usage("endpoint %s: it has no IPv4 address", e.label())
	}
	for _, p := range e.Addresses {
		if err := checkAddress(p); err != nil {
			return e, nil, err
		}
	}
	asks, err := w.parseAsks(r.Extra)
	if err != nil {
		return e, nil, err
	}
	// A container that is restarted gets an endpoint of another id.
	e.Key = "endpoint:" + e.Network[:min(12, len(e.Network))] + ":" + cmp.Or(e.Container, e.ID)
	return e, asks, nil
}

func notOfID(c rune) bool {
	return (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '_' && c != '.'
}

// AddEndpoint notes an endpoint. See api.Backend.
func (w *Workload) AddEndpoint(ctx context.Context, r api.EndpointRequest) (api.Endpoint, error) {
	e, asks, err := w.parseEndpoint(r)
	if err != nil {
		return api.Endpoint{}, err
	}
	ctx, cancel := forEngine(ctx)
	defer cancel()
	if err := w.known(ctx); err != nil {
		return api.Endpoint{}, err
	}
	unlock, err := w.locks.lock(ctx, endpointLock(e.ID))
	if err != nil {
		return api.Endpoint{}, err
	}
	defer unlock()
	if old, ok := w.endpointOf(e.ID); ok {
		return w.answerEndpoint(&old), nil
	}
	if err := w.addEndpoint(ctx, &e, asks); err != nil {
		return api.Endpoint{}, err
	}
	return w.answerEndpoint(&e), nil
}

func (w *Workload) answerEndpoint(e *endpoint) api.Endpoint {
	a := api.Endpoint{ID: e.ID, MAC: e.MAC, Addresses: e.held(), Multicast: e.Multicast, Prefix: "weft"}
	if e.Joined {
		_, a.Interface = attach.EndpointEnds(e.ID)
	}
	if !e.WithoutDNS {
		a.DNS = w.dns
	}
	return a
}

// addEndpoint does it, under the endpoint's lock.
func (w *Workload) addEndpoint(ctx context.Context, e *endpoint, asks []ask) (err error) {
	var claimed []reservation // for this, of which the journal knows nothing yet
	revived := map[string]bool{}
	defer func() {
		if err != nil {
			err = w.failed("add "+e.label(), err, w.dropClaims(ctx, e, claimed, revived))
		}
	}()
	for _, p := range e.Addresses {
		var x *reservation
		w.journal.view(func(s *state) {
			if err = s.admitEngine(p.Addr()); err != nil {
				return
			}
			if x = s.reserved(p.Addr()); x != nil {
				copied := *x
				x = &copied
			}
		})
		if err != nil {
			return err
		}
		if x != nil && !x.Dead {
			continue
		}
		fresh := reservation{Key: keyOf(p.Addr()), Address: p, Label: e.Network[:min(12, len(e.Network))], Container: e.Container, Bound: true}
		if x != nil {
			fresh.Key, revived[x.Key] = x.Key, true
		}
		if err := w.claim(ctx, fresh); err != nil {
			return err
		}
		claimed = append(claimed, fresh)
	}
	if len(asks) > 0 {
		f := &flight{ctx: ctx, key: e.Key, label: e.label()}
		if e.Extra, err = w.obtain(f, asks, nil, nil); err != nil {
			return err
		}
		e.Extra = without(e.Extra, e.Addresses)
	}
	w.memory.touch(e.ID) // its engine writes it down when it is joined
	return w.journal.update(func(s *state) error {
		if err := s.admitEndpoint(e); err != nil {
			return err
		}
		for _, x := range claimed {
			s.unreserve(x.Key)
			s.Reserved = append(s.Reserved, x)
		}
		for _, p := range e.Addresses {
			x := s.reserved(p.Addr())
			if x == nil || x.Dead {
				return errors.New("its address was given back meanwhile; try again")
			}
			x.Endpoint = e.ID
			if e.Container != "" {
				x.Container = e.Container
			}
		}
		s.Endpoints = append(s.Endpoints, e.clone())
		return nil
	})
}

// dropClaims takes back what was claimed for an endpoint that was not added.
func (w *Workload) dropClaims(ctx context.Context, e *endpoint, claimed []reservation, revived map[string]bool) error {
	var errs []error
	errs = append(errs, w.journal.update(func(s *state) error { // where the disk failed it is there
		s.dropEndpoint(e.ID)
		for _, x := range claimed {
			if old := s.reserved(x.Address.Addr()); old != nil && old.Key == x.Key {
				if old.Dead = true; !revived[x.Key] {
					s.unreserve(x.Key)
				}
			}
		}
		return nil
	}))
	for _, x := range claimed {
		if revived[x.Key] {
			w.died(x.Key)
			continue
		}
		errs = append(errs, w.release(context.WithoutCancel(ctx), x.Key, w.ours([]netip.Prefix{x.Address})))
	}
	w.died(e.Key)
	return errors.Join(errs...)
}

// dropEndpoint forgets an endpoint: what it had is nobody's, and dead is what
// was to go with it.
func (s *state) dropEndpoint(id string) (dead []string) {
	s.Endpoints = slices.DeleteFunc(s.Endpoints, func(e endpoint) bool { return e.ID == id })
	for i := range s.Reserved {
		x := &s.Reserved[i]
		if x.Endpoint != id {
			continue
		}
		if x.Endpoint = ""; x.Bound && !x.Pinned {
			x.Dead, dead = true, append(dead, x.Key)
		}
		x.Bound = false
	}
	return dead
}

// admitEndpoint says why an endpoint cannot be, if so.
func (s *state) admitEndpoint(e *endpoint) error {
	for _, p := range e.held() {
		if err := s.admitEngine(p.Addr()); err != nil {
			return err
		}
	}
	for _, p := range e.Extra {
		if who := s.engineHolder(p.Addr()); who != "" {
			return conflict("address %s is held by container %s of this host", p.Addr(), who)
		}
	}
	if who := s.macHolder(e.MAC); who != "" {
		return conflict("MAC address %s is held by container %s of this host", e.MAC, who)
	}
	return checkSubnets(e.Addresses, e.Extra)
}

// macHolder says who has a MAC address; nothing when nobody does.
func (s *state) macHolder(mac string) string {
	for i := range s.Containers {
		if e := &s.Containers[i]; e.MAC == mac {
			return e.who()
		}
	}
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; e.MAC == mac && !e.Left {
			return e.who()
		}
	}
	return ""
}

// RemoveEndpoint forgets an endpoint. See api.Backend.
func (w *Workload) RemoveEndpoint(ctx context.Context, id string) error {
	return w.leaveWith(ctx, id, true)
}

// forgetEndpoint does it, under the endpoint's lock, when nothing of it stands
// any more. If the disk fails it is forgotten all the same, until a restart.
func (w *Workload) forgetEndpoint(e *endpoint) error {
	var dead []string
	err := w.journal.update(func(s *state) error {
		dead = s.dropEndpoint(e.ID)
		return nil
	})
	for _, key := range dead {
		w.died(key)
	}
	if len(e.Extra) > 0 {
		w.died(e.Key)
	}
	w.memory.forget([]string{e.ID})
	if err != nil {
		return fmt.Errorf("forget %s: %w", e.label(), err)
	}
	return nil
}
