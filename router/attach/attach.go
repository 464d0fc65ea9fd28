// Package attach owns one thing: the interface that puts a network namespace
// on the switch. That is a veth pair, `wv…` on the bridge and `weft0` (then
// `weft1`…) inside, with its addresses and routes.
//
// It does not know containers, names or who holds which address
// (router/workload does), and it makes neither the bridge nor the firewall
// (router/bridge does). It keeps no state: what is there is asked of the
// kernel every time.
package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"

	"github.com/weftnet/weft/router/kernel"
)

// Errors of [Attacher.Identify] and [Attacher.Set].
var (
	// ErrHostNetwork says that the namespace is the host's own.
	ErrHostNetwork = errors.New("it uses the host's network and cannot be attached")
	// ErrChanged says that the path leads to another namespace than before.
	ErrChanged = errors.New("its network namespace is another one now")
)

// Guest is what is needed of the kernel inside a container's namespace.
// [kernel.Kernel] satisfies it.
type Guest interface {
	ID() string
	Do(f func() error) error
	Links() ([]kernel.Link, error)
	Addrs(link string) ([]netip.Prefix, error)
	Routes(table int) ([]kernel.Route, error)
	AddAddr(link string, p netip.Prefix, nodad bool) error
	DelAddr(link string, p netip.Prefix) error
	ReplaceRoute(r kernel.Route) error
	DelRoute(r kernel.Route) error
	AddRule(r kernel.Rule) error
	DelRule(r kernel.Rule) error
	SetUp(name string, up bool) error
	SetMTU(name string, mtu int) error
	Sysctl(key string) (string, error)
	SetSysctl(key, value string) error
	Announce(link string, a netip.Addr) error
	Close() error
}

// Host is what is needed of the kernel in the host's namespace.
// [kernel.Kernel] satisfies it.
type Host interface {
	ID() string
	Do(f func() error) error
	Links() ([]kernel.Link, error)
	Link(name string) (kernel.Link, error)
	Routes(table int) ([]kernel.Route, error)
	AddVeth(host string, mtu int, guest kernel.Guest, guestName string, guestMAC kernel.MAC) error
	DelLink(name string) error
	SetUp(name string, up bool) error
	SetMTU(name string, mtu int) error
	SetMaster(name, master string) error
	SetAlias(name, alias string) error
	Sysctl(key string) (string, error)
	SetSysctl(key, value string) error
}

// Opener opens the namespace at a path such as /proc/123/ns/net. The attacher
// closes it again soon: an open namespace outlives its container.
type Opener func(path string) (Guest, error)

// Config says what interfaces are attached to.
type Config struct {
	Bridge string     // name of the switch's bridge; empty: weft
	MTU    func() int // of the switch; asked at every Set
	DNS    netip.Addr // gets a /32 route inside; zero: none
	// Redirect leads what is asked of any name server inside a namespace to
	// DNS, by way of an interface of the switch, for endpoints; Withdraw takes
	// that back. nil: it is not done.
	Redirect func(g Guest, link string) error
	Withdraw func(g Guest) error
	Log      *slog.Logger
}

// Attacher makes and removes container interfaces. It is safe for concurrent
// use, but two calls for one namespace must not overlap: the caller holds a
// lock for each container anyhow.
type Attacher struct {
	// Constant after New.
	host   Host
	open   Opener
	bridge string
	mtu    func() int
	dns    netip.Addr
	log    *slog.Logger

	redirect func(Guest, string) error // nil: not done
	withdraw func(Guest) error         // likewise
}

// New returns an attacher for the host's namespace.
func New(host Host, open Opener, c Config) *Attacher {
	a := &Attacher{host: host, open: open, bridge: c.Bridge, mtu: c.MTU, dns: c.DNS, log: c.Log, redirect: c.Redirect, withdraw: c.Withdraw}
	if a.bridge == "" {
		a.bridge = "weft"
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	return a
}

// Spec is the whole desired state of one container interface.
type Spec struct {
	Label     string         // for people, becomes the alias of the host end
	MAC       kernel.MAC     // of a new interface; an existing one keeps its own
	Addresses []netip.Prefix // that must be there; others are left alone
	Remove    []netip.Prefix // that must not
	Multicast bool           // route 224.0.0.0/4 through it
	NoDNS     bool           // no route to the name server
}

// State is what [Attacher.Set] reached.
type State struct {
	Interface string     // inside
	MAC       kernel.MAC // inside
	Made      bool       // the interface is new
	Changed   []string   // what was done, for the log; announcements not counted
}

// Identify opens the namespace at path and says which one it is. A path that
// is gone gives [fs.ErrNotExist], the host's own namespace [ErrHostNetwork].
func (a *Attacher) Identify(path string) (Namespace, error) {
	g, ns, err := a.enter(path)
	if err != nil {
		return Namespace{}, err
	}
	return ns, g.Close()
}

// Set brings the interface of the namespace at path into the state s, making
// it if needed. Calling it again changes nothing. If it fails, what this call
// added is gone again. It gives [ErrChanged] when path is no longer ns, and
// [fs.ErrNotExist] when path is gone.
func (a *Attacher) Set(path string, ns Namespace, s Spec) (State, error) {
	g, now, err := a.enter(path)
	if err != nil {
		return State{}, err
	}
	defer g.Close()
	if now != ns {
		return State{}, ErrChanged
	}
	r := run{Attacher: a, guest: g, end: ns.HostEnd(), spec: s}
	st, err := r.converge()
	if err != nil {
		if uerr := r.undo(); uerr != nil {
			a.log.Warn("what was begun is not undone; the next sweep tries again", "end", r.end, "err", uerr)
		}
		return State{}, err
	}
	return st, nil
}

// Remove deletes the interface of ns, both ends. It needs no access to the
// namespace, and is nil when the interface or the namespace is gone.
func (a *Attacher) Remove(ns Namespace) error {
	if err := a.host.DelLink(ns.HostEnd()); err != nil {
		return fmt.Errorf("delete %s: %w", ns.HostEnd(), err)
	}
	return nil
}

// Announce tells the switch again where the addresses of the interface called
// name in ns are. It gives [ErrChanged] when path is no longer ns.
func (a *Attacher) Announce(path string, ns Namespace, name string, addresses []netip.Prefix) error {
	g, now, err := a.enter(path)
	if err != nil {
		return err
	}
	defer g.Close()
	if now != ns {
		return ErrChanged
	}
	var errs []error
	for _, p := range addresses {
		errs = append(errs, g.Announce(name, p.Addr()))
	}
	return errors.Join(errs...)
}

// Sound reports, from a list of the host's links, whether the host end of ns
// is there, up and on the bridge. It is the cheap question to ask when the
// kernel says that some link changed; [Attacher.Set] answers the whole one.
func (a *Attacher) Sound(links []kernel.Link, ns Namespace) bool {
	_, sound := a.sound(links, ns.HostEnd())
	return sound
}

func (a *Attacher) sound(links []kernel.Link, name string) (there, sound bool) {
	var end, bridge *kernel.Link
	for i := range links {
		switch links[i].Name {
		case name:
			end = &links[i]
		case a.bridge:
			bridge = &links[i]
		}
	}
	return end != nil, end != nil && end.Up && bridge != nil && end.Master == bridge.Index
}

// Links lists the host's links, for [Attacher.Sound].
func (a *Attacher) Links() ([]kernel.Link, error) { return a.host.Links() }

// enter opens the namespace at path.
func (a *Attacher) enter(path string) (Guest, Namespace, error) {
	g, err := a.open(path)
	if err != nil {
		return nil, Namespace{}, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	if g.ID() == a.host.ID() {
		return nil, Namespace{}, errors.Join(ErrHostNetwork, g.Close())
	}
	cookie, err := readCookie(g)
	if err != nil {
		return nil, Namespace{}, errors.Join(fmt.Errorf("network namespace %s: %w", path, err), g.Close())
	}
	return g, Namespace{ID: g.ID(), Cookie: cookie}, nil
}

// missing drops fs.ErrNotExist: what should go is gone.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
