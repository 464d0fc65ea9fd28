package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/kernel"
)

// wish is an attach request after its syntax was checked.
type wish struct {
	asks       []ask
	mac        kernel.MAC // zero: any
	hosts      []hostLine // --add-host
	rewrite    bool
	withoutDNS bool
	multicast  bool
}

// parseAttach checks everything about a request that needs no container.
func (w *Workload) parseAttach(r api.AttachRequest) (wish, error) {
	q := wish{rewrite: r.RewriteHosts, withoutDNS: r.WithoutDNS, multicast: !r.NoMulticastRoute}
	var err error
	if q.asks, err = w.parseWanted(r.Addresses); err != nil {
		return wish{}, err
	}
	if q.mac, err = parseMAC(r.MAC); err != nil {
		return wish{}, err
	}
	if len(r.AddHosts) > 0 && !r.RewriteHosts {
		return wish{}, usage("--add-host needs --rewrite-hosts")
	}
	if q.hosts, err = parseHosts(r.AddHosts); err != nil {
		return wish{}, err
	}
	return q, nil
}

// Attach puts a container on the switch. See api.Backend. It waits for
// [Workload.Restore], and for addresses as long as there are none.
func (w *Workload) Attach(ctx context.Context, r api.AttachRequest) (api.Addresses, error) {
	q, err := w.parseAttach(r)
	if err != nil {
		return nil, err
	}
	t, err := w.resolve(ctx, r.Container)
	if err != nil {
		return nil, err
	}
	if err := t.attachable(r.Container); err != nil {
		return nil, err
	}
	if q.rewrite && t.pid == 0 {
		return nil, usage("container %s: a network namespace has no /etc/hosts; name a process in it as pid:N", r.Container)
	}
	asked := q.asks
	has, err := w.byEngine(t, &q)
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", r.Container, err)
	}
	if len(has) > 0 && len(q.asks) == 0 {
		return has, nil
	}
	got, err := w.persevere(ctx, func() ([]netip.Prefix, error) { return w.attachOnce(ctx, t, q) })
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", r.Container, err)
	}
	if len(has) == 0 {
		return got, nil
	}
	return answer(asked, union(has, got)), nil
}

// byEngine returns what was asked for that the container has by way of its
// engine, and leaves the rest in q: for that it gets another interface.
func (w *Workload) byEngine(t target, q *wish) (has []netip.Prefix, err error) {
	var held []netip.Prefix
	mac := ""
	w.journal.view(func(s *state) {
		for _, e := range s.endpointsFor("", t) {
			held, mac = union(held, e.held()), e.MAC
		}
	})
	var rest []ask
	for _, a := range q.asks {
		if p, ok := a.among(held); ok {
			has = union(has, []netip.Prefix{p})
		} else {
			rest = append(rest, a)
		}
	}
	if q.asks = rest; len(rest) == 0 && q.mac != (kernel.MAC{}) && q.mac.String() != mac {
		return nil, conflict("its engine gave its interface MAC address %s", mac)
	}
	return has, nil
}

// taken says that another container holds what was asked for.
type taken struct {
	key  string
	addr netip.Addr // zero: a MAC address
	err  error
}

func (e *taken) Error() string { return e.err.Error() }
func (e *taken) Unwrap() error { return e.err }

// attachOnce finds addresses, without a lock that others who have to do with
// the container would wait for, and then does the work.
func (w *Workload) attachOnce(ctx context.Context, t target, q wish) (got []netip.Prefix, err error) {
	f, err := w.takeOff(ctx, t)
	if err != nil {
		return nil, err
	}
	defer w.land(f)
	if err := w.ready(f); err != nil {
		return nil, err
	}
	if old, ok := w.journal.entry(f.key); ok && old.NS != t.ns {
		// The container was restarted: what it had died with its namespace.
		if err := w.dropIfGone(f.ctx, f.key); err != nil {
			return nil, err
		}
	}
	var has, shared []netip.Prefix
	w.journal.view(func(s *state) {
		has, shared = s.has(t, f.key)
		all, static := expected(q.asks, has)
		_, err = s.admit(t, q, static, all)
	})
	if err != nil {
		return nil, err
	}
	got, err = w.obtain(f, q.asks, has, shared)
	if err == nil {
		err = w.attachTo(f, q, got)
	}
	if err != nil {
		return nil, w.failed("attach "+f.label, err, w.giveBack(f, got))
	}
	return got, nil
}

// attachTo does the work, under the namespace's lock.
func (w *Workload) attachTo(f *flight, q wish, got []netip.Prefix) (err error) {
	unlock, err := w.locks.lock(f.ctx, f.ns)
	if err != nil {
		return err
	}
	defer unlock()
	t := f.target
	w.journal.view(func(s *state) { t = s.adopt(t) })
	if t.key != f.key {
		return errStale // it stands for another holder since
	}
	before, _ := w.journal.entry(t.key)
	var after entry
	var spec attach.Spec
	version, err := w.journal.change(func(s *state) error {
		if err := w.ended(f); err != nil {
			return err
		}
		e, err := s.reserve(t, q, got)
		if err != nil {
			return err
		}
		after, spec = e.clone(), s.spec(t.ns)
		return nil
	})
	if err != nil {
		return err
	}
	var undo undo
	undo.push(func() error { return w.retract(t.key, before, after.Adding) })
	defer func() {
		if err != nil {
			err = w.failed("attach "+t.label, err, undo.run())
		}
	}()
	if err := w.journal.save(version); err != nil {
		return err
	}
	st, err := w.attacher.Set(t.path, t.ns, spec)
	if err != nil {
		return err
	}
	if !q.withoutDNS {
		after.Names = withNames(after.Names, w.autoNames(t.docker, got))
		if err := w.setNames(t.key, after.container(), after.Names); err != nil {
			return err
		}
	}
	if q.rewrite {
		restore, err := w.rewriteHosts(t, q, after)
		if err != nil {
			return err
		}
		undo.push(restore)
	}
	err = w.journal.update(func(s *state) error {
		e := s.find(t.key)
		if e == nil {
			return errors.New("it was forgotten meanwhile; try again")
		}
		e.Addresses, e.Adding = union(e.Addresses, e.Adding), nil
		e.Names, e.Interface, e.MAC = after.Names, st.Interface, st.MAC.String()
		return nil
	})
	if err == nil && len(st.Changed) > 0 {
		w.log.Info("attached", "container", after.who(), "addresses", got,
			"interface", st.Interface, "mac", st.MAC.String())
	}
	return err
}

// has returns what t has on its interface, of its own first, and what others
// have there.
func (s *state) has(t target, key string) (own, shared []netip.Prefix) {
	if e := s.find(key); e != nil && e.NS == t.ns {
		own = e.Addresses
	}
	for _, k := range s.entriesOf(t) {
		if e := s.find(k); e.NS == t.ns {
			own = union(own, e.Addresses)
		}
	}
	for _, e := range s.in(t.ns) {
		shared = union(shared, e.Addresses)
	}
	return own, without(shared, own)
}

// admit says why a request cannot be, if so: static is the addresses that are
// known by now, all includes the subnets of the others. It returns the MAC
// address of the interface.
func (s *state) admit(t target, q wish, static, all []netip.Prefix) (mac string, err error) {
	var here []netip.Prefix // on the same interface
	mac = q.mac.String()
	if q.mac == (kernel.MAC{}) {
		mac = attach.NewMAC().String()
	}
	asked := mac
	for i := range s.Containers {
		e := &s.Containers[i]
		if e.NS == t.ns {
			here = union(here, e.held())
			if e.MAC != "" {
				mac = e.MAC
			}
			continue
		}
		for _, p := range static {
			if holds(e.held(), p.Addr()) {
				return "", &taken{e.Key, p.Addr(), conflict("address %s is held by container %s of this host", p.Addr(), e.who())}
			}
		}
		if e.MAC == asked {
			return "", &taken{e.Key, netip.Addr{}, conflict("MAC address %s is held by container %s of this host", asked, e.who())}
		}
	}
	for _, p := range static {
		if holds(s.hostAddresses(), p.Addr()) {
			return "", conflict("address %s is held by this host itself (%s)", p.Addr(), api.ExposeName)
		}
		if who := s.engineHolder(p.Addr()); who != "" {
			return "", conflict("address %s is held by container %s of this host", p.Addr(), who)
		}
	}
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; e.MAC == asked {
			return "", conflict("MAC address %s is held by container %s of this host", asked, e.who())
		}
	}
	if q.mac != (kernel.MAC{}) && mac != asked {
		return "", conflict("its interface has MAC address %s; detach it first to give it another", mac)
	}
	return mac, checkSubnets(here, all)
}

// reserve adds the intent of q to the state, or says why that cannot be.
func (s *state) reserve(t target, q wish, got []netip.Prefix) (*entry, error) {
	mac, err := s.admit(t, q, got, got)
	if err != nil {
		return nil, err
	}
	e := s.find(t.key)
	if e == nil {
		s.Containers = append(s.Containers, entry{Key: t.key, Label: t.label, NS: t.ns})
		e = &s.Containers[len(s.Containers)-1]
	}
	if e.NS != t.ns {
		return nil, errors.New("it was restarted just now; try again")
	}
	e.refresh(t)
	e.MAC = mac
	e.Multicast = e.Multicast || q.multicast
	e.Adding = union(e.Adding, without(got, e.Addresses))
	e.Removing = without(e.Removing, got)
	s.takeOver(got)
	return e, nil
}

// refresh remembers how the container was found this time. An engine's
// container stays what it is, also when it was found by way of a process.
func (e *entry) refresh(t target) {
	if t.docker != nil {
		e.ID, e.Name = t.docker.ID, t.docker.Name
	} else if e.ID != "" {
		return
	}
	e.Path, e.PID, e.Start = t.path, t.pid, t.start
}

// spec returns the desired state of the interface in ns: what all entries of
// the namespace have or are about to have.
func (s *state) spec(ns attach.Namespace) attach.Spec {
	var spec attach.Spec
	for _, e := range s.in(ns) {
		if spec.Label == "" {
			spec.Label = e.who()
		}
		if hw, err := parseMAC(e.MAC); err == nil && spec.MAC == (kernel.MAC{}) {
			spec.MAC = hw
		}
		spec.Addresses = union(spec.Addresses, union(e.Addresses, e.Adding))
		spec.Remove = union(spec.Remove, e.Removing)
		spec.Multicast = spec.Multicast || e.Multicast
	}
	spec.Remove = without(spec.Remove, spec.Addresses)
	return spec
}

// retract takes an intent back, as a detach would: what cannot be done now is
// left to the next sweep.
func (w *Workload) retract(key string, before entry, added []netip.Prefix) error {
	err := w.journal.update(func(s *state) error {
		if e := s.find(key); e != nil {
			e.release(added)
			e.Multicast, e.Names = before.Multicast, before.Names
		}
		return nil
	})
	_, cerr := w.complete(key)
	return errors.Join(err, cerr)
}

// set is Attacher.Set for when addresses go: an interface without any is
// removed, and one whose namespace is gone is as it should be.
func (w *Workload) set(path string, ns attach.Namespace, spec attach.Spec) error {
	if len(spec.Addresses) == 0 || path == "" {
		return w.attacher.Remove(ns)
	}
	_, err := w.attacher.Set(path, ns, spec)
	if isGone(err) || errors.Is(err, attach.ErrChanged) {
		return w.attacher.Remove(ns)
	}
	return err
}
