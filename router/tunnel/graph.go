package tunnel

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/relay"
	"github.com/weftnet/weft/router/signal"
)

const (
	maxBinds     = 16 // relays at which we are bound
	alternatives = 4  // relays that a machine is told of
	// graphGap is the least time between two graphs, since changes come in
	// bursts; in a large cluster, where somebody always changes, it is graphEach
	// for every peer, or graphShare times what the last one took.
	graphGap   = 50 * time.Millisecond
	graphEach  = 2 * time.Millisecond
	graphShare = 10
	// lookups is how many peers with a direct path are told of their relays in
	// one step, since they do not need them yet; maxUrgent how many others are
	// told at once.
	lookups   = 32
	maxUrgent = 64
)

// graph is what all hosts tell of their links, and what follows for us.
type graph struct {
	book     topology.Book
	reports  map[crypto.Identity]topology.Report // those of the book
	built    *topology.Graph
	builtAt  time.Time
	gap      time.Duration
	stale    bool                                // reports, links or binds changed since
	suspects bool                                // a path became suspect, or no longer is
	later    []crypto.Identity                   // whose machines do not know of the last graph
	nexts    []crypto.Identity                   // for whom next is not known by the last graph
	next     map[crypto.Identity]crypto.Identity // our relay's next hop to each peer
	wanted   []relay.Want
	bound    map[bind]netip.AddrPort // where we are bound now, and the relay's address
	rebound  bool                    // that may be true no more
	told     relay.Config
}

func newGraph() graph {
	return graph{stale: true, next: make(map[crypto.Identity]crypto.Identity)}
}

// see reads the reports of a view. One that is refused is a broken or newer
// member's: what it said before holds.
func (g *graph) see(log *slog.Logger, v mesh.View) {
	known := make(map[crypto.Identity]bool, len(v.Peers))
	var news bool
	for _, p := range v.Peers {
		known[p.Identity] = true
		changed, err := g.book.Take(p.Identity, p.Boot, p.Report)
		if err != nil {
			log.Debug("report of links refused", "peer", p.Name, "err", err)
		}
		news = news || changed
	}
	if g.book.Keep(func(id crypto.Identity) bool { return known[id] }) || news || g.reports == nil {
		g.stale = true
		g.reports = make(map[crypto.Identity]topology.Report)
		for _, r := range g.book.Reports() {
			g.reports[r.Owner] = r
		}
	}
}

// stepGraph makes the graph anew when something changed, and tells everybody
// whom it concerns: who has no direct path first, the others a few at a time.
func (t *Tunnels) stepGraph(now time.Time) {
	g := &t.graph
	if g.stale && now.Sub(g.builtAt) < g.gap {
		t.wakeAt(g.builtAt.Add(g.gap))
	} else if g.stale {
		g.stale, g.builtAt = false, now
		g.built = topology.Build(t.self, append(g.book.Reports(), t.ownReport(now)))
		g.gap = max(graphGap, graphShare*time.Since(now), time.Duration(len(t.tunnels))*graphEach)
		t.wantBinds(now)
		g.later, g.nexts = g.later[:0], g.nexts[:0]
		for id, w := range t.tunnels {
			g.nexts = append(g.nexts, id)
			if w.machine.State() == path.Established && w.machine.Route().Direct() {
				g.later = append(g.later, id)
			}
		}
		urgent := 0
		for id, w := range t.tunnels {
			if w.machine.State() == path.Established && w.machine.Route().Direct() {
				continue
			}
			if urgent++; urgent <= maxUrgent {
				t.tellRelays(now, w)
			} else {
				g.later = append(g.later, id) // taken from the end: before the others
			}
		}
	}
	if g.suspects { // as relays they are the last choice now
		g.suspects = false
		for _, w := range t.tunnels {
			if r := w.machine.Route(); r.Relayed() || w.suspect {
				t.tellRelays(now, w)
			}
		}
	}
	for range min(lookups, len(g.later)) {
		id := g.later[len(g.later)-1]
		g.later = g.later[:len(g.later)-1]
		if w := t.tunnels[id]; w != nil {
			t.tellRelays(now, w)
		}
	}
	t.findNexts()
	if len(g.later)+len(g.nexts) > 0 {
		t.wakeAt(now.Add(graphGap))
	}
}

// findNexts finds out, a few at a time, where our relay sends what is for
// others, and tells it when it is known for all.
func (t *Tunnels) findNexts() {
	g := &t.graph
	if len(g.nexts) == 0 {
		return
	}
	for range min(lookups, len(g.nexts)) {
		id := g.nexts[len(g.nexts)-1]
		g.nexts = g.nexts[:len(g.nexts)-1]
		g.next[id], _ = g.built.Next(id)
	}
	if len(g.nexts) == 0 {
		t.tellRelay()
	}
}

// tellRelays tells a machine through whom its peer can be reached now.
func (t *Tunnels) tellRelays(now time.Time, w *tunnel) {
	var list []path.Relay
	if t.graph.built != nil && !t.leaving {
		for _, r := range t.graph.built.Relays(w.peer.Identity, alternatives) {
			if at, ok := t.graph.bound[bind{r.Via[0], signal.WireGuardPort}]; ok {
				list = append(list, path.Relay{Route: path.Route{Endpoint: at, Via: r.Via}, RTT: r.RTT, MTU: r.MTU})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b path.Relay) int { return t.doubt(a) - t.doubt(b) })
	if slices.EqualFunc(list, w.relays, sameRelay) {
		return
	}
	w.relays = list
	t.tell(now, w, path.Relays(slices.Clone(list)))
}

// doubt is 1 when our path to the first relay may be dead.
func (t *Tunnels) doubt(r path.Relay) int {
	if w := t.tunnels[r.Via[0]]; w == nil || w.suspect {
		return 1
	}
	return 0
}

func sameRelay(a, b path.Relay) bool {
	return a.Route.Equal(b.Route) && a.RTT == b.RTT && a.MTU == b.MTU
}

// bind is a registration of one of our ports.
type bind struct {
	relay crypto.Identity
	role  signal.Role
}

// readBinds notes where we are bound now.
func (t *Tunnels) readBinds(now time.Time) {
	was := t.graph.bound
	t.graph.bound = make(map[bind]netip.AddrPort, len(was))
	for _, s := range t.keeper.Status() {
		if !s.Accepted {
			continue
		}
		t.graph.bound[bind{s.Peer, s.Role}] = s.Addr
	}
	if !maps.Equal(was, t.graph.bound) {
		t.findRelayPorts()
	}
	for b, at := range was {
		if t.graph.bound[b] == at {
			continue
		}
		t.graph.stale = true
		// A relay that is reached elsewhere now is told of with the next graph.
		if _, still := t.graph.bound[b]; b.role == signal.WireGuardPort && !still {
			t.tellUsers(now, at, path.Withdrawn{Endpoint: at})
			for _, w := range t.tunnels { // the machines have dropped it
				// Snapshots share the list.
				w.relays = slices.DeleteFunc(slices.Clone(w.relays), func(x path.Relay) bool { return x.Endpoint == at })
			}
		}
	}
}

// findRelayPorts notes where relays are, as far as we can know: where we are
// bound, and where the others say that they are.
func (t *Tunnels) findRelayPorts() {
	clear(t.relayPorts)
	for _, p := range t.view.Peers {
		for _, ep := range slices.Concat(p.Candidates, p.Endpoints) {
			t.relayPorts[netip.AddrPortFrom(ep.Addr(), p.HelloPort)] = p.Identity
		}
	}
	for b, at := range t.graph.bound {
		t.relayPorts[at] = b.relay
	}
}

// relayAt says whose relay an endpoint is from which packets of a peer come;
// false when it is the peer's own. Nobody can make a relay of what the peer
// itself has signed as its address.
func (t *Tunnels) relayAt(p mesh.Peer, ep netip.AddrPort) (crypto.Identity, bool) {
	id, ok := t.relayPorts[ep]
	if !ok || id == p.Identity || slices.Contains(p.Endpoints, ep) {
		return crypto.Identity{}, false
	}
	return id, true
}

// wantBinds chooses where we are bound: with both ports, since whoever is
// relayed to us may be relayed on.
func (t *Tunnels) wantBinds(now time.Time) {
	var wants []relay.Want
	for _, id := range t.graph.built.Binds(maxBinds) {
		w := t.tunnels[id]
		if w == nil || t.leaving {
			continue
		}
		at, ok := relayPort(w)
		if !ok {
			continue
		}
		for _, role := range []signal.Role{signal.WireGuardPort, signal.RelayPort} {
			wants = append(wants, relay.Want{Peer: id, Key: w.key, Addr: at, Role: role})
		}
	}
	if slices.Equal(wants, t.graph.wanted) {
		return
	}
	t.graph.wanted, t.graph.rebound = wants, true
	t.keeper.Set(now, wants)
}

// relayPort is where the relay of a peer is that we reach directly.
func relayPort(w *tunnel) (netip.AddrPort, bool) {
	r := w.machine.Route()
	if !r.Direct() || w.machine.State() != path.Established {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(r.Endpoint.Addr(), w.peer.HelloPort), true
}

// tellRelay tells our relay whom it may relay for, and through whom it reaches
// those who are not bound here.
func (t *Tunnels) tellRelay() {
	c := relay.Config{Peers: make([]relay.Peer, 0, len(t.tunnels))}
	for _, p := range t.view.Peers {
		w := t.tunnels[p.Identity]
		if w == nil {
			continue
		}
		c.Peers = append(c.Peers, relay.Peer{
			Identity: p.Identity, WireGuard: p.WireGuard, Key: w.key, Next: t.graph.next[p.Identity],
			Relay:   t.graph.bound[bind{p.Identity, signal.RelayPort}],
			PathMTU: w.linkMTU(), Single: w.rows.broken(),
		})
	}
	if slices.Equal(c.Peers, t.graph.told.Peers) {
		return
	}
	t.graph.told = c
	t.cfg.Relay.Set(c)
}

// How often we invite a neighbour that is not bound here: at first, and then.
const (
	inviteWait  = 5 * time.Second // a peer that may be behind a NAT binds by itself within one
	inviteGap   = 20 * time.Second
	inviteTimes = 6
	inviteSlow  = 5 * time.Minute
)

// stepInvites asks neighbours that are not bound at our relay to bind: when
// they become neighbours, which spares them the wait after our restart, and
// again, since there may be a NAT or a firewall before us that only our own
// packets open. They bind if they want to.
func (t *Tunnels) stepInvites(now time.Time) {
	if t.invitesAt.After(now) || t.leaving {
		return
	}
	t.invitesAt = now.Add(time.Second)
	bound := make(map[crypto.Identity]bool)
	for _, b := range t.cfg.Relay.Bound() {
		bound[b.Identity] = bound[b.Identity] || b.Role == signal.WireGuardPort
	}
	for id, w := range t.tunnels {
		r := w.machine.Route()
		switch {
		case bound[id] || !r.Direct() || w.machine.State() != path.Established:
		case w.invites == 0 && !t.harmless(w) && now.Sub(w.machine.Status().Since) < inviteWait:
		case w.invites == 0, w.invites < inviteTimes && now.Sub(w.invited) >= inviteGap, now.Sub(w.invited) >= inviteSlow:
			w.invited = now
			w.invites++
			_ = t.cfg.Relay.Invite(id, r.Endpoint) // it is for them to want it
		}
	}
}

// harmless says that an invitation cannot move the peer's port at its NAT: there
// is none, or an entry from when the peer was bound here before. A NAT that lets
// strangers in makes an entry of what comes first, and gives the peer's own
// packets another port for as long as that lasts.
func (t *Tunnels) harmless(w *tunnel) bool {
	r := t.graph.reports[w.peer.Identity]
	return r.NAT == topology.NATNone ||
		slices.ContainsFunc(r.Links, func(l topology.Link) bool { return l.Peer == t.self && l.Bound })
}

// stepKeeper keeps our binds.
func (t *Tunnels) stepKeeper(now time.Time) {
	if next := t.keeper.Next(); !t.graph.rebound && (next.IsZero() || next.After(now)) {
		t.wakeAt(next)
		return
	}
	t.graph.rebound = false
	for _, s := range t.keeper.Due(now) {
		if s.Role == signal.RelayPort {
			_ = t.cfg.Relay.Send(s.To, s.Bytes) // it is tried again
		} else {
			_ = t.sendProbe(s.To, s.Bytes, path.SendOptions{})
		}
	}
	t.readBinds(now)
	t.wakeAt(t.keeper.Next())
}

// rebind binds at a relay again at once.
func (t *Tunnels) rebind(at netip.AddrPort) {
	for _, s := range t.keeper.Status() {
		if s.Addr == at {
			t.keeper.Now(s.Peer)
		}
	}
}
