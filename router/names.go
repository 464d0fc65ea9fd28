package router

import (
	"context"
	"net/netip"
	"strings"

	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/api"
)

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

// owned reads the names out of the cluster's entries. What does not parse was
// written by a newer or a broken member: it is counted, not shown.
func owned(entries []mesh.Entry) (names []dns.Owned, bad int) {
	for _, e := range entries {
		if !strings.HasPrefix(e.Key, dns.EntryPrefix) {
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
