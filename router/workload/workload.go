// Package workload owns the life of containers on this host's switch: which
// one holds which address and name, what was asked for and not yet done, and
// what becomes of it all when a container, the daemon or the machine dies.
// The host's own place on the switch is kept here too, for the addresses of
// both come from one space.
//
// It does not make interfaces (router/attach does), does not choose addresses
// (whoever implements [Space] does), does not know how names spread (whoever
// implements [Names] does) and does not talk to Docker (whoever implements
// [Resolver] does).
package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/router/attach"
	"github.com/weftnet/weft/router/bell"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/workload/guess"
)

// Resolver finds containers of an engine. The error of Inspect wraps
// [api.ErrNotFound] only when the engine answered and knows no such
// container: everything about it is then forgotten.
type Resolver interface {
	Inspect(ctx context.Context, nameOrID string) (Container, error)
	// Summary is Inspect by the full id, with little more than the state and
	// the networks. It does not wait for what the engine does to the container.
	Summary(ctx context.Context, id string) (Container, error)
	// Endpoints returns the containers that are on networks of ours, full ids
	// by the ids of their endpoints. What is just being made may be missing, or
	// have no container yet.
	Endpoints(ctx context.Context) (map[string]string, error)
	// Networks returns the names and the ids of the networks that are ours.
	Networks(ctx context.Context) ([]string, error)
}

// Container is what an engine says about one of its containers.
type Container struct {
	ID          string // full
	Name        string // without the leading slash
	Hostname    string
	Domainname  string
	PID         int // in the daemon's PID namespace; 0 when it does not run
	Running     bool
	HostNetwork bool   // it has no namespace of its own
	HostsPath   string // of the file that it sees as /etc/hosts
	Created     bool   // it never ran
	Networks    []Network
}

// Attacher makes container interfaces; [attach.Attacher] satisfies it.
type Attacher interface {
	Identify(path string) (attach.Namespace, error)
	Set(path string, ns attach.Namespace, s attach.Spec) (attach.State, error)
	Remove(ns attach.Namespace) error
	Announce(path string, ns attach.Namespace, name string, addresses []netip.Prefix) error
	Links() ([]kernel.Link, error)
	Sound(links []kernel.Link, ns attach.Namespace) bool
	Strangers(keep []string) ([]kernel.Link, error)
	Look(path string, ns attach.Namespace) (attach.Sight, error)
	Sweep(keep []string) ([]string, error)
	HostRoutes() ([]kernel.Route, error)

	AddEndpoint(id string, mac kernel.MAC, anew bool) (guest string, err error)
	SettleEndpoint(path, id string, s attach.Spec, more []netip.Prefix) (attach.Namespace, attach.State, error)
	SetEndpoint(path string, ns attach.Namespace, id string, s attach.Spec) (attach.State, error)
	RemoveEndpoint(id string) error
	WithdrawDNS(path string, ns attach.Namespace) error
	SoundEndpoint(links []kernel.Link, id string) (there, sound bool)
	LookEndpoint(path string, ns attach.Namespace, id string) (attach.Sight, error)
}

// Names takes the names of this host's containers. Set replaces all records of
// the container called key; none removes it. It must not block for long.
type Names interface {
	Set(key string, records []dns.Record) error
}

// Host puts the host itself on the switch. SetExposed takes the whole desired
// state: the addresses of the bridge, and those of them whose subnet reaches
// the outside through the host. MAC is the bridge's.
type Host interface {
	SetExposed(ctx context.Context, addresses, masquerade []netip.Prefix) error
	MAC() kernel.MAC
}

// Keys under which names are set that belong to no container.
const (
	externKey = "weft:extern" // dns-add without a container
	exposeKey = "weft:expose"
)

// Config is what a [Workload] needs.
type Config struct {
	StateDir string // keeps workloads.json
	BootID   string // another one than the journal's: the machine was restarted
	Domain   string // with or without the final dot; empty: no names
	Docker   Resolver
	Attacher Attacher
	Names    Names
	Host     Host
	Space    Space // nil: addresses are explicit
	// DNS is where containers reach the name server through their interface;
	// zero: they do not.
	DNS netip.Addr
	// Attachments is told what stands; nil: nobody is.
	Attachments Attachments
	Proc        string // empty: /proc
	Log         *slog.Logger
}

// Workload implements the container half of api.Backend. All its methods are
// safe for concurrent use; work on one network namespace is done one at a
// time, in the goroutine of whoever asked.
type Workload struct {
	// Constant after New.
	domain   string // lower case, with the final dot; empty: no names
	boot     string
	docker   *hasty // nil: none
	attacher Attacher
	names    Names
	host     Host
	space    Space // nil: addresses are explicit
	dns      netip.Addr
	proc     string
	log      *slog.Logger
	restored chan struct{} // closed by Restore when it knows who holds what

	attachments Attachments // nil: nobody is told
	publishing  sync.Mutex  // held while they are told: the last word is the last state

	// Each locks itself.
	journal   *journal
	locks     locks
	flights   flights
	debts     debts
	memory    memory
	newcomers guess.Newcomers
	settles   settles
}

// New reads the journal. Nothing else is touched before [Workload.Restore].
func New(c Config) (*Workload, error) {
	w := &Workload{
		boot:        c.BootID,
		attacher:    c.Attacher,
		names:       c.Names,
		host:        c.Host,
		space:       c.Space,
		dns:         c.DNS,
		restored:    make(chan struct{}),
		attachments: c.Attachments,
		proc:        c.Proc,
		log:         c.Log,
		memory:      memory{begun: time.Now()},
		settles:     settles{wake: bell.New()},
	}
	if c.Docker != nil {
		w.docker = &hasty{Resolver: c.Docker}
	}
	if w.proc == "" {
		w.proc = "/proc"
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if c.Domain != "" {
		domain, err := dns.ParseName(c.Domain)
		if err != nil {
			return nil, fmt.Errorf("dns domain: %w", err)
		}
		w.domain = strings.ToLower(domain)
	}
	var err error
	if w.journal, err = openJournal(filepath.Join(c.StateDir, "workloads.json"), writeAtomically); err != nil {
		return nil, err
	}
	w.journal.forgetUnless(w.boot)
	w.journal.changed = w.publish
	return w, nil
}

// setNames publishes what the journal says of an entry.
func (w *Workload) setNames(key, container string, names []name) error {
	if w.names == nil || w.domain == "" {
		return nil
	}
	records := make([]dns.Record, 0, len(names))
	for _, n := range names {
		records = append(records, dns.Record{Hostname: n.Hostname, Container: container, Addr: n.Addr})
	}
	if err := w.names.Set(key, records); err != nil {
		return fmt.Errorf("register names: %w", err)
	}
	return nil
}

// failed returns err; that it could not be undone is for the log.
func (w *Workload) failed(what string, err, undone error) error {
	if undone != nil {
		w.log.Error("something failed and is not undone; the next sweep or start tries again",
			"what", what, "err", undone)
	}
	return err
}

// undo is a stack of what must be done if the rest fails.
type undo []func() error

func (u *undo) push(f func() error) { *u = append(*u, f) }

// run undoes, newest first.
func (u *undo) run() error {
	var errs []error
	for len(*u) > 0 {
		last := len(*u) - 1
		errs = append(errs, (*u)[last]())
		*u = (*u)[:last]
	}
	return errors.Join(errs...)
}
