// Package kerneltest is a kernel without a kernel: a [Fake] has the methods of
// a *kernel.Kernel and keeps interfaces, addresses, routes, rules, forwarding
// entries and sysctls in memory.
//
// It prints the world, and what was done to it, as `ip` and `bridge` commands.
// It forwards no packets and has no firewall. One table of tests runs on it
// and on a real namespace, so what it does is what Linux does.
package kerneltest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/weftnet/weft/router/kernel"
)

// Fake is one network namespace of an imagined machine.
type Fake struct {
	// Constant after New.

	id      string
	machine *machine

	// Guarded by machine.mu.

	links     []*link
	rules     []kernel.Rule
	routes    []kernel.Route
	sysctls   map[string]string
	changes   []string
	announced []string
	sent      []string
	ears      []*ear
	calls     int // so far
	failAt    int // 0: never
	failWith  error
	watchers  map[*func(kernel.Event)]bool
	pending   kernel.Event // to be told when the lock is released
}

// machine is what all its namespaces share.
type machine struct {
	mu         sync.Mutex
	index      int // last one given to an interface; unique, which makes tests easier to read
	namespaces []*Fake
}

type link struct {
	kernel.Link
	addrs []netip.Prefix
	fdb   []kernel.FDB
	mdb   []kernel.MDB
	peer  *link // of a veth
	home  *Fake

	neighbours []kernel.Neighbour
	behind     []kernel.BridgeFDB // of a bridge port
	proxyARP   bool               // of a bridge port
	diversions []*diversion       // from here
}

// New returns an empty namespace of a machine of its own.
func New(id string) *Fake {
	return newFake(id, new(machine))
}

// Namespace returns another, empty namespace of the same machine: only between
// such can there be a veth.
func (f *Fake) Namespace(id string) *Fake {
	f.machine.mu.Lock()
	defer f.machine.mu.Unlock()
	return newFake(id, f.machine)
}

func newFake(id string, m *machine) *Fake {
	f := &Fake{id: id, machine: m}
	m.namespaces = append(m.namespaces, f)
	f.watchers = map[*func(kernel.Event)]bool{}
	f.sysctls = map[string]string{
		"net/ipv4/ip_forward":                "0",
		"net/ipv4/conf/all/accept_redirects": "1",
		"net/ipv6/conf/all/disable_ipv6":     "0",
		"net/ipv6/conf/default/disable_ipv6": "0",
		"net/ipv6/conf/all/forwarding":       "0",
	}
	f.rules = []kernel.Rule{
		{Priority: 0, Table: 255, SuppressPrefix: -1},
		{Priority: 32766, SuppressPrefix: -1},
		{Priority: 32767, Table: 253, SuppressPrefix: -1},
		{Priority: 0, Table: 255, SuppressPrefix: -1, IPv6: true},
		{Priority: 32766, SuppressPrefix: -1, IPv6: true},
	}
	return f
}

// FailCall makes the n-th call from now (1: the next one) of any method that
// returns an error fail with err, without effect. It replaces an earlier
// FailCall; n = 0 takes it back.
func (f *Fake) FailCall(n int, err error) {
	f.machine.mu.Lock()
	defer f.machine.mu.Unlock()
	f.failAt, f.failWith = 0, err
	if n > 0 {
		f.failAt = f.calls + n
	}
}

// Calls is how many calls were made that FailCall could have let fail.
func (f *Fake) Calls() int {
	f.machine.mu.Lock()
	defer f.machine.mu.Unlock()
	return f.calls
}

// TakeChanges returns what was changed since it was last called, as commands,
// in order.
func (f *Fake) TakeChanges() []string {
	f.machine.mu.Lock()
	defer f.machine.mu.Unlock()
	c := f.changes
	f.changes = nil
	return c
}

// Announced lists the announcements made, "address dev link".
func (f *Fake) Announced() []string {
	f.machine.mu.Lock()
	defer f.machine.mu.Unlock()
	return slices.Clone(f.announced)
}

// Destroy is what happens when the last process of the namespace ends: its
// interfaces go, and with them the other ends of its veths.
func (f *Fake) Destroy() {
	defer f.enter()()
	for len(f.links) > 0 {
		f.remove(f.links[0])
	}
}

// Notify tells the watchers something that did not happen.
func (f *Fake) Notify(e kernel.Event) {
	defer f.enter()()
	f.pending |= e
}

// ID is the id given to New.
func (f *Fake) ID() string { return f.id }

// Close does nothing.
func (f *Fake) Close() error { return nil }

// Do calls fn where it is.
func (f *Fake) Do(fn func() error) error {
	leave, err := f.call()
	leave()
	if err != nil {
		return err
	}
	return fn()
}

// Watch is [kernel.Kernel.Watch].
func (f *Fake) Watch(ctx context.Context, fn func(kernel.Event)) error {
	f.machine.mu.Lock()
	f.watchers[&fn] = true
	f.machine.mu.Unlock()
	fn(kernel.AllChanged)
	<-ctx.Done()
	f.machine.mu.Lock()
	delete(f.watchers, &fn)
	f.machine.mu.Unlock()
	return nil
}

// Announce is [kernel.Kernel.Announce].
func (f *Fake) Announce(name string, a netip.Addr) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	l, err := f.find(name)
	if err != nil {
		return fmt.Errorf("announce %s: %w", a, err)
	}
	if !l.Up {
		return fmt.Errorf("announce %s on %s: %w", a, name, syscall.ENETDOWN)
	}
	f.announced = append(f.announced, fmt.Sprintf("%s dev %s", a, name))
	return nil
}

// FirewallGeneration is an error: there are no rules whose number it could be.
func (f *Fake) FirewallGeneration() (uint32, error) { return 0, errors.ErrUnsupported }

// Sysctl is [kernel.Kernel.Sysctl].
func (f *Fake) Sysctl(key string) (string, error) {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return "", err
	}
	v, ok := f.sysctls[key]
	if !ok {
		return "", fmt.Errorf("read sysctl: open /proc/sys/%s: %w", key, fs.ErrNotExist)
	}
	return v, nil
}

// SetSysctl is [kernel.Kernel.SetSysctl].
func (f *Fake) SetSysctl(key, value string) error {
	leave, err := f.call()
	defer leave()
	if err != nil {
		return err
	}
	if _, ok := f.sysctls[key]; !ok {
		return fmt.Errorf("set sysctl to %s: open /proc/sys/%s: %w", value, key, fs.ErrNotExist)
	}
	f.sysctls[key] = value
	f.did(0, "sysctl -w %s=%s", key, value)
	if name, ok := strings.CutSuffix(strings.TrimPrefix(key, "net/ipv6/conf/"), "/disable_ipv6"); ok && value == "1" {
		for _, l := range f.links {
			if l.Name == name {
				l.addrs = slices.DeleteFunc(l.addrs, isIPv6)
				f.dropRoutes(func(r kernel.Route) bool { return r.Link == name && isIPv6(r.Dst) })
			}
		}
	}
	return nil
}

// enter locks the machine; what it returns unlocks it and tells the watchers.
func (f *Fake) enter() (leave func()) {
	f.machine.mu.Lock()
	return func() {
		var tell []func()
		for _, n := range f.machine.namespaces {
			e := n.pending
			n.pending = 0
			for w := range n.watchers {
				if e != 0 {
					tell = append(tell, func() { (*w)(e) })
				}
			}
		}
		f.machine.mu.Unlock()
		for _, fn := range tell {
			fn()
		}
	}
}

// call is enter for a method that may be told to fail.
func (f *Fake) call() (leave func(), err error) {
	leave = f.enter()
	f.calls++
	if f.calls == f.failAt {
		return leave, f.failWith
	}
	return leave, nil
}

// did records a change.
func (f *Fake) did(e kernel.Event, format string, args ...any) {
	f.pending |= e
	f.changes = append(f.changes, strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (f *Fake) find(name string) (*link, error) {
	for _, l := range f.links {
		if l.Name == name {
			return l, nil
		}
	}
	return nil, fmt.Errorf("link %s: %w", name, fs.ErrNotExist)
}

func isIPv6(p netip.Prefix) bool { return p.Addr().Is6() }
