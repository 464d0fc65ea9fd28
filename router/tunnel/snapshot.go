package tunnel

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/wireguard"
)

// Snapshot is the tunnels at one moment. It does not change.
type Snapshot struct {
	View     mesh.View
	Peers    []Peer           // by nickname and identity
	NAT      topology.NATKind // that we are behind
	Observed []netip.AddrPort // where others see our WireGuard port, best first
	Lost     uint64           // tunnels that stood and ended, since New

	ways map[crypto.Identity]Way
}

// Peer is the tunnel to one peer.
type Peer struct {
	mesh.Peer
	Way     Way
	Path    path.Status
	Device  wireguard.PeerStatus
	Relays  []path.Relay    // that could be used now, best first
	Report  topology.Report // what it tells of its links; zero: nothing yet
	Heard   time.Time       // when bytes came last
	Silent  bool            // it stands and nothing comes
	Stood   bool            // it was established once
	Decider bool            // this host decides about the path
}

// Snapshot returns the tunnels as they were at most a second ago.
func (t *Tunnels) Snapshot() *Snapshot { return t.snapshot.Load() }

// WithFragmented returns the snapshot with numbers that others counted, by
// endpoint; it is s itself when there are none.
func (s *Snapshot) WithFragmented(n map[netip.AddrPort]uint64) *Snapshot {
	if len(n) == 0 {
		return s
	}
	counted := *s
	counted.Peers = slices.Clone(s.Peers)
	for i := range counted.Peers {
		p := &counted.Peers[i]
		p.Device.Fragmented = n[p.Endpoint()]
	}
	return &counted
}

// show makes a new snapshot when something changed, or every second.
func (t *Tunnels) show(now time.Time) {
	if t.showAt.After(now) {
		t.wakeAt(t.showAt)
		return
	}
	t.showAt = now.Add(showGap)
	s := &Snapshot{
		View: t.view, Peers: make([]Peer, 0, len(t.tunnels)), Lost: t.lost,
		NAT:      t.observed.kind(now, t.own),
		Observed: t.observed.told, ways: make(map[crypto.Identity]Way, len(t.tunnels)),
	}
	for id, w := range t.tunnels {
		w.settle(now)
		way := t.way(w)
		s.ways[id] = way
		s.Peers = append(s.Peers, Peer{
			Peer: w.peer, Way: way, Path: w.machine.Status(), Device: w.device,
			Relays: w.relays, Report: t.graph.reports[id],
			Heard: w.heard, Silent: way.Up && t.silent(now, w), Stood: w.stood,
			Decider: t.self.Compare(id) < 0,
		})
	}
	slices.SortFunc(s.Peers, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(a.Nickname, b.Nickname), a.Identity.Compare(b.Identity))
	})
	if n := t.dropped.Swap(0); n > 0 {
		t.log.Warn("answers to probes, pings or binds were lost: more came than could be read", "count", n)
	}
	before := t.snapshot.Swap(s)
	if !maps.Equal(before.ways, s.ways) {
		t.changed.Ring()
	}
}

// Endpoint is where packets to the peer go now, or are tried.
func (p Peer) Endpoint() netip.AddrPort {
	switch {
	case p.Path.Route.Endpoint.IsValid():
		return p.Path.Route.Endpoint
	case p.Device.Endpoint.IsValid():
		return p.Device.Endpoint
	case len(p.Candidates) > 0:
		return p.Candidates[0]
	}
	return netip.AddrPort{}
}

// Label is a host's name for people: its nickname, else its name.
func (s *Snapshot) Label(id crypto.Identity) string {
	for _, p := range s.Peers {
		if p.Identity == id && p.Nickname != "" {
			return p.Nickname
		}
	}
	return id.Name().String()
}

// Via returns the labels of the relays of a route.
func (s *Snapshot) Via(r path.Route) []string {
	var out []string
	for _, id := range r.Via {
		out = append(out, s.Label(id))
	}
	return out
}

// RouteText is a route for people: "192.0.2.1:6784", "192.0.2.9:6783 via host2".
func (s *Snapshot) RouteText(r path.Route) string {
	switch {
	case !r.Endpoint.IsValid():
		return "none"
	case r.Relayed():
		return r.Endpoint.String() + " via " + strings.Join(s.Via(r), ",")
	}
	return r.Endpoint.String()
}

// routeText is RouteText with what the loop knows now.
func (t *Tunnels) routeText(r path.Route) string {
	if !r.Relayed() {
		return (&Snapshot{}).RouteText(r)
	}
	var via []string
	for _, id := range r.Via {
		label := id.Name().String()
		if w := t.tunnels[id]; w != nil && w.peer.Nickname != "" {
			label = w.peer.Nickname
		}
		via = append(via, label)
	}
	return r.Endpoint.String() + " via " + strings.Join(via, ",")
}
