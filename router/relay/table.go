package relay

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/udp"
)

// The limits of a relay (docs/protocol.md#relays).
const (
	bindLife     = 60 * time.Second  // of a bind since it was last accepted
	pendingLife  = 10 * time.Second  // of a session whose initiation nobody answered
	sessionLife  = 240 * time.Second // of a session since its last packet
	conflictRest = 10 * time.Second  // a record used within is not replaced
	seenFor      = 180 * time.Second // a handshake message passes once

	handshakeRate  = 10  // for known hosts, per second and end, in the long run
	handshakeBurst = 100 // at once: who comes back greets everybody
	relayedRate    = 200 // the same for a neighbour that relays itself
	relayedBurst   = 400
	searchRate     = 40000  // hosts tried in vain, per second and neighbour: about 2 % of a core
	allSearchRate  = 400000 // of all neighbours
	bindRate       = 10     // accepted and challenged binds, each, per second and neighbour
	lifeRate       = 1      // new boot ids per second and peer
	lifeBurst      = 4

	maxSessions    = 4096    // of one source, by direction
	maxAllSessions = 1 << 18 // of all sources
	maxSeen        = 1 << 17 // handshake messages remembered, twice
	maxFormer      = 16      // boot ids that a peer had before
	maxHushes      = 8       // of one neighbour
	maxRecent      = 8       // targets of one neighbour that are tried first
	maxNotices     = 64      // indices per second and neighbour
)

// table is what a relay knows and decides by: who is bound here and which
// sessions it carries. It has no socket and no clock, and is not safe for
// concurrent use.
type table struct {
	self   signal.ID
	boot   uint64
	secret [32]byte // of the cookies; as old as boot
	usable func(netip.AddrPort) bool
	room   int // maxAllSessions
	memory int // maxSeen

	peers     map[signal.ID]*peer
	addresses map[netip.AddrPort]*neighbour
	sessions  map[key]*session
	pending   []*session // oldest first: those that wait, and some that do no more
	pairs     int        // sessions of both directions
	seen      [2]map[uint64]struct{}
	turned    time.Time // when seen[0] was begun
	searches  limiter
	number    uint64 // of the last notice or invite
	stopping  bool
	counts    counts
	changed   func(n *neighbour, addr netip.AddrPort) // n is bound at addr now, or at none
}

// peer is a known host.
type peer struct {
	id        crypto.Identity
	key       [32]byte     // of the pair
	wireGuard [32]byte     // its public key
	mac1      *crypto.MAC1 // of that; nil: there is none, or somebody else named it first
	next      crypto.Identity
	pathMTU   int
	single    bool   // packets to it leave one by one
	boot      uint64 // of its last accepted bind; 0: none yet
	former    []uint64
	hushed    uint64        // number of its last hush
	noticed   uint64        // and of its relay's last notice, within boot
	roles     [2]*neighbour // by signal.Role
	attempts  limiter       // binds that got a cookie
	lives     limiter       // new boot ids
}

// neighbour is one port of a peer: packets come from it and go to it.
type neighbour struct {
	peer *peer
	role signal.Role

	bound udp.Flow // where its bind came from; zero: not bound
	since time.Time
	last  time.Time // accepted
	// number of the last accepted bind within the peer's boot.
	number uint64
	// relay is where our own relay port is bound, of a relay port only; zero:
	// nowhere.
	relay netip.AddrPort

	// handshakes are those for known hosts; searches, the hosts that were tried
	// in vain.
	binds, handshakes, searches limiter

	recent         [maxRecent]*peer // targets of its last handshakes, last first
	hushes         []hush
	notices        []notice
	oldest, newest *session // of those that come from here, by use
	sessions       int
}

// hush says that packets of one host are not wanted.
type hush struct {
	of    signal.ID
	until time.Time
}

// notice says when a neighbour was told about an index.
type notice struct {
	index uint32
	at    time.Time
}

func newTable(self crypto.Identity, boot uint64, secret [32]byte, usable func(netip.AddrPort) bool) *table {
	return &table{
		self: signal.IDOf(self), boot: boot, secret: secret, usable: usable,
		room: maxAllSessions, memory: maxSeen,
		peers: make(map[signal.ID]*peer), addresses: make(map[netip.AddrPort]*neighbour),
		sessions: make(map[key]*session), seen: [2]map[uint64]struct{}{make(map[uint64]struct{}), make(map[uint64]struct{})},
		changed: func(*neighbour, netip.AddrPort) {},
	}
}

// set makes the known peers those of list. What is known of those that stay is
// kept; what was of the others is forgotten.
func (t *table) set(list []Peer) {
	gone := make(map[signal.ID]bool, len(t.peers))
	for id := range t.peers {
		gone[id] = true
	}
	for _, c := range list {
		id := signal.IDOf(c.Identity)
		if id == t.self {
			continue
		}
		p := t.peers[id]
		if p == nil || p.id != c.Identity {
			if p != nil {
				t.remove(p)
			}
			p = &peer{id: c.Identity}
			for role := range p.roles {
				p.roles[role] = &neighbour{peer: p, role: signal.Role(role)}
			}
			t.peers[id] = p
		}
		delete(gone, id)
		p.key, p.next, p.pathMTU, p.single = c.Key, c.Next, c.PathMTU, c.Single
		p.roles[signal.RelayPort].relay = netip.AddrPort{}
		if c.Relay.IsValid() && t.usable(c.Relay) {
			p.roles[signal.RelayPort].relay = netip.AddrPortFrom(c.Relay.Addr().Unmap(), c.Relay.Port())
		}
		if c.WireGuard != p.wireGuard {
			p.wireGuard, p.mac1 = c.WireGuard, nil
		}
	}
	for id := range gone {
		t.remove(t.peers[id])
		delete(t.peers, id)
	}
	t.index()
	t.checks(list)
}

// checks makes what is missing of the checks of mac1. Nobody proves a key here,
// so that a host may name another's as its own: the first one keeps it.
func (t *table) checks(list []Peer) {
	taken := map[[32]byte]bool{{}: true} // no key at all
	for _, p := range t.peers {
		if p.mac1 != nil {
			taken[p.wireGuard] = true
		}
	}
	for _, c := range list {
		p := t.known(c.Identity)
		if p != nil && p.mac1 == nil && !taken[p.wireGuard] {
			taken[p.wireGuard] = true
			p.mac1 = crypto.NewMAC1(p.wireGuard)
		}
	}
}

// remove forgets what is known of a peer, but for its place in t.peers.
func (t *table) remove(p *peer) {
	for _, n := range p.roles {
		t.forget(func(s *session) bool { return s.from == n || s.next == n })
		if n.bound.Remote.IsValid() {
			n.bound = udp.Flow{}
			t.changed(n, netip.AddrPort{})
		}
	}
	for _, other := range t.peers {
		for _, n := range other.roles {
			for i := range n.recent {
				if n.recent[i] == p {
					n.recent[i] = nil
				}
			}
		}
	}
}

// index makes t.addresses anew. A bind counts before a configured address: it
// was proven.
func (t *table) index() {
	clear(t.addresses)
	for _, p := range t.peers {
		if n := p.roles[signal.RelayPort]; n.relay.IsValid() {
			t.addresses[n.relay] = n
		}
	}
	for _, p := range t.peers {
		for _, n := range p.roles {
			if n.bound.Remote.IsValid() {
				t.addresses[n.bound.Remote] = n
			}
		}
	}
}

// bindTo gives n the address f, which nobody else has from now on.
func (t *table) bindTo(now time.Time, n *neighbour, f udp.Flow) {
	n.last = now
	if n.bound == f {
		return
	}
	moved := n.bound.Remote != f.Remote
	if moved {
		if other := t.addresses[f.Remote]; other != nil && other != n && other.bound.Remote == f.Remote {
			other.bound = udp.Flow{}
			t.changed(other, netip.AddrPort{})
		}
		n.since = now
	}
	n.bound = f
	if moved {
		t.index()
		t.changed(n, f.Remote)
	}
}

// flow is how packets get to n; its Remote is not valid when they do not.
func (n *neighbour) flow() udp.Flow {
	if n.relay.IsValid() {
		return udp.Flow{Remote: n.relay}
	}
	return n.bound
}

// towards is the neighbour that packets to p go to: its own port, or the next
// relay; nil: there is none.
func (t *table) towards(p *peer) *neighbour {
	if n := p.roles[signal.WireGuardPort]; n.bound.Remote.IsValid() {
		return n
	}
	if next := t.known(p.next); next != nil && next != p {
		if n := next.roles[signal.RelayPort]; n.flow().Remote.IsValid() {
			return n
		}
	}
	return nil
}

// known returns the peer with an identity; nil: none.
func (t *table) known(id crypto.Identity) *peer {
	if p := t.peers[signal.IDOf(id)]; p != nil && p.id == id {
		return p
	}
	return nil
}

// sweep forgets what has expired. It is called about once a second.
func (t *table) sweep(now time.Time) {
	t.sweepSessions(now)
	lost := false
	for _, p := range t.peers {
		for _, n := range p.roles {
			if n.bound.Remote.IsValid() && now.Sub(n.last) >= bindLife {
				n.bound, lost = udp.Flow{}, true
				t.changed(n, netip.AddrPort{})
			}
		}
	}
	if lost {
		t.index()
	}
}

// bound lists who is bound, by identity and role.
func (t *table) bound() []Binding {
	var list []Binding
	for _, p := range t.peers {
		for _, n := range p.roles {
			if n.bound.Remote.IsValid() {
				list = append(list, Binding{p.id, n.role, n.bound.Remote, n.since, n.last})
			}
		}
	}
	slices.SortFunc(list, func(a, b Binding) int {
		return cmp.Or(a.Identity.Compare(b.Identity), cmp.Compare(a.Role, b.Role))
	})
	return list
}

// limiter allows rate events per second in the long run, and burst at once.
type limiter struct {
	spent float64
	at    time.Time
}

func (l *limiter) allow(now time.Time, rate, burst float64) bool {
	return l.take(now, rate, burst, 1)
}

// take is allow of several events at once: all or none.
func (l *limiter) take(now time.Time, rate, burst, events float64) bool {
	l.spent = max(0, l.spent-now.Sub(l.at).Seconds()*rate)
	l.at = now
	if l.spent+events > burst {
		return false
	}
	l.spent += events
	return true
}

// giveBack undoes a take.
func (l *limiter) giveBack(events float64) { l.spent = max(0, l.spent-events) }
