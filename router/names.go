package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/api"
)

// nameKeys is where names stand among the entries of a host.
const nameKeys = "n/"

// NameServer is the embedded name server as the status shows it.
type NameServer struct {
	Zone      *dns.Zone
	Server    Lookup
	Address   netip.AddrPort
	TTL       uint32
	Upstreams func() []netip.AddrPort
}

// Lookup resolves as the embedded server would.
type Lookup interface {
	Lookup(ctx context.Context, name string) ([]netip.Addr, error)
}

// Replica is where a host's own entries are kept.
type Replica interface {
	Put(key string, value []byte) error
	Delete(key string) error
}

// Book turns the names of containers into entries of the replica. It is safe
// for concurrent use.
type Book struct {
	replica Replica // constant after New

	mu    sync.Mutex // guards what follows
	pages map[string]map[string]string
}

// NewBook returns an empty book.
func NewBook(r Replica) *Book {
	return &Book{replica: r, pages: make(map[string]map[string]string)}
}

// Set makes the names of one container exactly those given; none removes it.
// They replicate to all hosts.
func (b *Book) Set(container string, records []dns.Record) error {
	want := make(map[string]string, len(records))
	for _, rec := range records {
		value, err := rec.Marshal()
		if err != nil {
			return fmt.Errorf("name %s: %w", rec.Hostname, err)
		}
		key := strings.Join([]string{container, strings.ToLower(rec.Hostname), rec.Addr.String()}, "/")
		want[nameKeys+key] = string(value)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	have := b.pages[container]
	if have == nil {
		have = make(map[string]string)
		b.pages[container] = have
	}
	var errs []error
	for key, value := range want {
		if have[key] == value {
			continue
		}
		if err := b.replica.Put(key, []byte(value)); err != nil {
			errs = append(errs, err)
			continue
		}
		have[key] = value
	}
	for key := range have {
		if _, ok := want[key]; ok {
			continue
		}
		if err := b.replica.Delete(key); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(have, key)
	}
	if len(have) == 0 {
		delete(b.pages, container)
	}
	return errors.Join(errs...)
}

// owned reads the names out of the cluster's entries. What does not parse was
// written by a newer or a broken member: it is counted, not shown.
func owned(entries []mesh.Entry) (names []dns.Owned, bad int) {
	for _, e := range entries {
		if !strings.HasPrefix(e.Key, nameKeys) {
			continue
		}
		rec, err := dns.Parse(e.Value)
		if err != nil {
			bad++
			continue
		}
		names = append(names, dns.Owned{Record: rec, Owner: e.OwnerName.String(), Version: e.Version})
	}
	return names, bad
}

func (n *NameServer) status() *api.DNS {
	if n == nil {
		return nil
	}
	s := &api.DNS{Domain: n.Zone.Domain(), Address: n.Address.String(), TTL: n.TTL}
	for _, u := range n.Upstreams() {
		s.Upstream = append(s.Upstream, u.Addr().String())
	}
	for _, e := range n.Zone.Entries() {
		s.Entries = append(s.Entries, api.NameEntry{
			Hostname: e.Hostname, Origin: e.Owner, ContainerID: e.Container,
			Address: e.Addr, Version: e.Version,
		})
	}
	return s
}

// feedZone shows the view's names to the name server.
func (r *Router) feedZone() {
	if r.cfg.Names == nil {
		return
	}
	names, bad := owned(r.view.Entries)
	if bad > r.badNames {
		r.log.Warn("entries of other hosts are no names", "count", bad)
	}
	r.badNames = bad
	r.cfg.Names.Zone.Set(names)
}
