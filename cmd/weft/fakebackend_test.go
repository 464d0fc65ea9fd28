package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/router/api"
)

// fakeBackend behaves as weftd towards the command line: it knows the
// containers web and db, and keeps in memory what it is told.
type fakeBackend struct {
	noEndpoints

	stopped func()        // constant; called by Stop
	logFile func() []byte // constant
	ready   func() bool   // constant; nil: at once

	mu       sync.Mutex
	changes  int // what was asked of it beyond looking
	status   api.Status
	attached map[string]api.Addresses
	exposed  api.Addresses
	names    []api.NameEntry
	waits    []string // what a request that needs an allocator waits for; the last for ever
	joined   int      // looks at the status until connections are established; 0: never
}

var _ api.Backend = (*fakeBackend)(nil)

func newFakeBackend() *fakeBackend {
	return &fakeBackend{
		stopped: func() {}, logFile: func() []byte { return []byte("level=INFO msg=started\n") },
		attached: map[string]api.Addresses{},
		status: api.Status{
			Ready: true, Version: "0.1.0", Protocol: "weft 1", Name: "8a:3e:3e:3e:3e:3e", Nickname: "host1",
			Cluster: "weft", Datapath: "userspace", PeerDiscovery: true, Port: 6783, MTU: 1370,
			DNS: &api.DNS{Domain: "weft.internal.", Address: "169.254.67.83:53", TTL: 1, Upstream: []string{"192.0.2.53"}},
		},
	}
}

func (f *fakeBackend) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

func (f *fakeBackend) lock() func() {
	f.mu.Lock()
	f.changes++
	return f.mu.Unlock
}

func (f *fakeBackend) Status(context.Context) (api.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	if f.ready != nil && f.ready() {
		s.Ready, s.Waiting, s.Warnings = true, "", []string{"the cluster secret was replaced"}
	}
	s.Connections = slices.Clone(s.Connections)
	for i, t := range s.Targets {
		c := api.Connection{
			Address: t, Outbound: true, State: api.Connecting,
			Name: fmt.Sprintf("02:00:00:00:00:%02x", i+1), Nickname: t, Encrypted: true, Datapath: "userspace", MTU: 1370, RTT: 400 * time.Microsecond,
		}
		if f.joined == 1 {
			c.State = api.Established
		}
		s.Connections = append(s.Connections, c)
	}
	if f.joined > 1 {
		f.joined--
	}
	if s.DNS != nil {
		d := *s.DNS
		d.Entries = slices.Clone(f.names)
		s.DNS = &d
	}
	return s, nil
}

// Why knows the peers of the connections, and the same of each.
func (f *fakeBackend) Why(ctx context.Context, peer string) (api.Why, error) {
	s, err := f.Status(ctx)
	if err != nil {
		return api.Why{}, err
	}
	var known []api.PeerID
	for _, c := range s.Connections {
		if c.Name != "" {
			known = append(known, api.PeerID{Name: c.Name, Nickname: c.Nickname})
		}
	}
	found, err := api.FindPeers(known, []string{peer})
	if err != nil {
		return api.Why{}, err
	}
	w := relayedWhy()
	w.Name, w.Nickname = found[0].Name, found[0].Nickname
	return w, nil
}

func (f *fakeBackend) Connect(_ context.Context, r api.ConnectRequest) error {
	defer f.lock()()
	if r.Replace {
		f.status.Targets = nil
	}
	for _, t := range r.Targets {
		if !slices.Contains(f.status.Targets, t) {
			f.status.Targets = append(f.status.Targets, t)
		}
	}
	return nil
}

func (f *fakeBackend) Forget(_ context.Context, targets []string) error {
	defer f.lock()()
	for _, t := range targets {
		if !slices.Contains(f.status.Targets, t) {
			return fmt.Errorf("forget %s: %w among the peers to connect to", t, api.ErrNotFound)
		}
	}
	f.status.Targets = slices.DeleteFunc(f.status.Targets, func(t string) bool { return slices.Contains(targets, t) })
	return nil
}

func (f *fakeBackend) find(container string) error {
	if container != "web" && container != "db" && !strings.HasPrefix(container, "netns:/") {
		return fmt.Errorf("container %s: %w", container, api.ErrNotFound)
	}
	return nil
}

func (f *fakeBackend) Attach(ctx context.Context, r api.AttachRequest) (api.Addresses, error) {
	defer f.lock()()
	if err := f.find(r.Container); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	if held := f.attached[r.Container]; len(r.Addresses) == 0 && len(held) > 0 {
		return held, nil
	}
	list, err := f.addresses(ctx, r.Addresses)
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", r.Container, err)
	}
	for other, held := range f.attached {
		for _, a := range list {
			if other != r.Container && slices.Contains(held, a) {
				return nil, fmt.Errorf("attach %s: %s is held by %s: %w", r.Container, a, other, api.ErrConflict)
			}
		}
	}
	f.attached[r.Container] = list
	for _, a := range list {
		if !r.WithoutDNS && !strings.HasPrefix(r.Container, "netns:") {
			f.names = append(f.names, api.NameEntry{
				Hostname: r.Container + ".weft.internal.", Origin: f.status.Name, ContainerID: "0123456789abcdef" + r.Container, Address: a.Addr(), Version: 1,
			})
		}
	}
	return list, nil
}

func (f *fakeBackend) Detach(_ context.Context, r api.DetachRequest) (api.Addresses, error) {
	defer f.lock()()
	if err := f.find(r.Container); err != nil {
		return nil, fmt.Errorf("detach: %w", err)
	}
	list, err := f.parse(r.Addresses)
	if err != nil || len(list) > 0 {
		return list, err
	}
	list = f.attached[r.Container]
	delete(f.attached, r.Container)
	return list, nil
}

func (f *fakeBackend) Expose(ctx context.Context, r api.ExposeRequest) (api.Addresses, error) {
	defer f.lock()()
	list, err := f.addresses(ctx, r.Addresses)
	if err != nil {
		return nil, fmt.Errorf("expose: %w", err)
	}
	f.exposed = append(f.exposed, list...)
	if r.FQDN != "" {
		f.names = append(f.names, api.NameEntry{Hostname: full(r.FQDN), Origin: f.status.Name, ContainerID: "weft:expose", Address: list[0].Addr()})
	}
	return list, nil
}

func (f *fakeBackend) Hide(_ context.Context, r api.HideRequest) (api.Addresses, error) {
	defer f.lock()()
	list, err := f.parse(r.Addresses)
	if err == nil && len(list) == 0 {
		list = f.exposed
	}
	f.exposed = slices.DeleteFunc(slices.Clone(f.exposed), func(p netip.Prefix) bool { return slices.Contains(list, p) })
	return list, err
}

func (f *fakeBackend) DNSAdd(_ context.Context, r api.NameRequest) error {
	defer f.lock()()
	name, id := full(r.FQDN), "weft:extern"
	if r.Container != "" {
		if err := f.find(r.Container); err != nil {
			return fmt.Errorf("dns-add: %w", err)
		}
		id = "0123456789abcdef" + r.Container
		if name == "" {
			name = r.Container + ".weft.internal."
		}
		if len(r.Addresses) == 0 {
			for _, p := range f.attached[r.Container] {
				r.Addresses = append(r.Addresses, p.Addr())
			}
		}
	}
	for _, a := range r.Addresses {
		f.names = append(f.names, api.NameEntry{Hostname: name, Origin: f.status.Name, ContainerID: id, Address: a})
	}
	return nil
}

func (f *fakeBackend) DNSRemove(_ context.Context, r api.NameRequest) error {
	defer f.lock()()
	if r.Container != "" {
		if err := f.find(r.Container); err != nil {
			return fmt.Errorf("dns-remove: %w", err)
		}
	}
	f.names = slices.DeleteFunc(f.names, func(e api.NameEntry) bool {
		return (r.FQDN == "" || e.Hostname == full(r.FQDN)) && (r.Container == "" || strings.HasSuffix(e.ContainerID, r.Container)) &&
			(len(r.Addresses) == 0 || slices.Contains(r.Addresses, e.Address))
	})
	return nil
}

func (f *fakeBackend) DNSLookup(_ context.Context, name string) (api.Addresses, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list api.Addresses
	for _, e := range f.names {
		if e.Hostname == full(name) {
			list = append(list, netip.PrefixFrom(e.Address, e.Address.BitLen()))
		}
	}
	return list, nil
}

func (f *fakeBackend) PS(_ context.Context, containers []string) ([]api.Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := []api.Attachment{{Container: api.ExposeName, MAC: "8a:3e:3e:3e:3e:3e", Addresses: f.exposed}}
	for _, c := range []string{"db", "web", "netns:/run/netns/blue"} {
		if a := f.attached[c]; a != nil {
			list = append(list, api.Attachment{Container: c, Interface: "weft0", MAC: "02:00:00:00:00:0" + fmt.Sprint(len(list)), Addresses: a})
		}
	}
	for _, c := range containers {
		if c != api.ExposeName {
			if err := f.find(c); err != nil {
				return nil, err
			}
		}
	}
	return slices.DeleteFunc(list, func(a api.Attachment) bool {
		return len(containers) > 0 && !slices.Contains(containers, a.Container)
	}), nil
}

func (f *fakeBackend) Token(context.Context) (api.Token, error) {
	return api.Token{Token: "weft1.secret", Join: "weft launch --token=weft1.secret 192.0.2.11"}, nil
}

func (f *fakeBackend) Logs(ctx context.Context, follow bool, w io.Writer) error {
	if _, err := w.Write(f.logFile()); err != nil || !follow {
		return err
	}
	<-ctx.Done()
	return nil
}

// Events tells three, and those that come: none.
func (f *fakeBackend) Events(ctx context.Context, r api.EventRequest) iter.Seq2[api.Event, error] {
	list := fakeEvents()
	if r.Last > 0 {
		list = list[max(0, len(list)-r.Last):]
	}
	return func(yield func(api.Event, error) bool) {
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
		if r.Follow {
			<-ctx.Done()
		}
	}
}

func (f *fakeBackend) UI(context.Context, api.UIRequest) (api.UI, error) {
	return api.UI{URL: "http://127.0.0.1:6782/ui/?code=fake", Expires: time.Unix(1763600000, 0)}, nil
}

// Doctor finds what the script put into the status.
func (f *fakeBackend) Doctor(_ context.Context, r api.DoctorRequest) (api.Diagnosis, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := api.Diagnosis{
		Host: "host1", Version: "0.1.0", Time: time.Date(2026, 11, 20, 18, 55, 38, 0, time.UTC), Took: time.Second, Daemon: true, Peer: r.Peer,
		Findings: append(slices.Clone(f.status.Findings), api.Finding{ID: "daemon", Severity: api.OK, What: "the daemon answers"}),
	}
	return d, nil
}

func (f *fakeBackend) Stop(context.Context) error {
	defer f.lock()()
	f.stopped()
	return nil
}
