package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// Status is what people are told of the address space. It is immutable.
type Status struct {
	// State is idle, "awaiting consensus (quorum: Q, known: K)", priming,
	// ready, "waiting for IP(s) to become available", or "all IP ranges owned
	// by unreachable peers - use 'rmpeer' if they are dead".
	State         string
	Range, Subnet netip.Prefix
	RangeIPs      uint64  // saturates
	Active        uint64  // addresses that containers of this host have
	Ring          ring.ID // zero: not divided yet
	Shares        []Share
	Pending       []Pending   // the oldest first
	Duplicates    []Duplicate // by address
	Warnings      []string    // for people
	Others        []Peer      // hosts that are known, or have blocks or leases; by identity
	Former        []Peer      // hosts that were removed and are none of these; by identity

	UnreachablePeers int    // owners that are out of reach
	UnreachableIPs   uint64 // in their blocks; saturates
}

// Share is what one host has of the range; this host's is the first one.
type Share struct {
	ID        crypto.Identity // zero: only its name is known
	Owner     crypto.Identity // what [Allocator.Remove] calls it: ID, or a placeholder for its name
	Name      crypto.Name
	Nickname  string
	Token     netip.Addr // the first address
	IPs       uint64     // saturates
	Blocks    int
	Version   uint64 // the highest of its blocks
	Active    int    // addresses that its containers have; -1: not known
	Self      bool
	Known     bool // as a peer
	Reachable bool
}

// Pending is a request that waits.
type Pending struct {
	Claim bool // of one address; else any of a subnet
	Key   string
	Label string
	What  netip.Prefix // the address or the subnet
	Why   string
	Since time.Time
}

// Duplicate is an address that several hosts use.
type Duplicate struct {
	Addr    netip.Addr
	Holders []Holder
}

// Holder is one of those that use a [Duplicate].
type Holder struct {
	Host  string // as people call it
	Label string
}

// status describes the core.
func (c *core) status() *Status {
	s := &Status{
		Range: c.geo.Range(), Subnet: c.cfg.Subnet, RangeIPs: c.geo.IPs(), Active: uint64(len(c.local)), Ring: c.ringID(),
		Pending: c.pendingRequests(), Duplicates: c.duplicates(),
	}
	if c.ring != nil {
		s.Shares = c.shares()
	}
	inReach := false
	for _, h := range s.Shares {
		if h.Reachable {
			inReach = inReach || h.Blocks > 0
			continue
		}
		s.UnreachablePeers++
		s.UnreachableIPs += h.IPs
		if s.UnreachableIPs < h.IPs {
			s.UnreachableIPs = ^uint64(0)
		}
	}
	for _, id := range sortedIDs(c.peers) {
		switch p := c.peers[id]; {
		case c.matters(p):
			s.Others = append(s.Others, p.Peer)
		case c.removed(id):
			s.Former = append(s.Former, p.Peer)
		}
	}
	s.State = c.state(inReach)
	s.Warnings = c.warnings()
	return s
}

func (c *core) state(inReach bool) string {
	waiting := slices.ContainsFunc(c.requests.list, func(r *request) bool { return r.kind == wantAny })
	switch {
	case c.ring == nil && len(c.requests.list) == 0:
		return "idle"
	case c.ring == nil && c.cfg.Mode.Kind == ModeObserver:
		return "priming"
	case c.ring == nil:
		return c.divisionReason()
	case !inReach:
		return "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
	case waiting:
		return "waiting for IP(s) to become available"
	}
	return "ready"
}

// shares returns what each host has, this one first, also when it has nothing.
func (c *core) shares() []Share {
	list := []Share{c.share(c.cfg.Self)}
	index := map[crypto.Identity]int{c.cfg.Self: 0}
	for b := range c.geo.Blocks() {
		reg := c.ring.Register(b)
		i, ok := index[reg.Owner]
		if !ok {
			id, known := c.resolve(reg.Owner)
			if !known {
				id = reg.Owner
			}
			if i, ok = index[id]; !ok {
				i = len(list)
				list = append(list, c.share(reg.Owner))
				index[id] = i
			}
			index[reg.Owner] = i
		}
		if list[i].Blocks == 0 {
			list[i].Token = c.geo.First(b)
		}
		list[i].Blocks++
		list[i].Version = max(list[i].Version, reg.Version)
	}
	for i := range list {
		list[i].IPs = c.geo.IPsIn(list[i].Blocks)
	}
	slices.SortStableFunc(list, func(a, b Share) int {
		if a.Self != b.Self {
			if a.Self {
				return -1
			}
			return 1
		}
		return slices.Compare(a.Name[:], b.Name[:])
	})
	return list
}

func (c *core) share(owner crypto.Identity) Share {
	name, _ := ring.PlaceholderName(owner)
	h := Share{Owner: owner, Name: name, Active: -1}
	id, ok := c.resolve(owner)
	if !ok {
		return h
	}
	h.ID, h.Owner, h.Name = id, id, id.Name()
	if id == c.cfg.Self {
		h.Name, h.Self, h.Known, h.Reachable, h.Active = c.cfg.Name, true, true, true, len(c.local)
		return h
	}
	if p := c.peers[id]; p != nil {
		h.Name, h.Nickname, h.Known, h.Reachable = p.Name, p.Nickname, p.listed, p.Alive
		if p.info != nil {
			h.Active = int(min(p.info.Local, 1<<31))
		}
	}
	return h
}

func (c *core) pendingRequests() []Pending {
	var list []Pending
	for _, r := range c.requests.list {
		switch r.kind {
		case wantAny:
			list = append(list, Pending{Key: r.key, Label: r.label, What: r.subnet, Why: r.reason, Since: r.since})
		case wantThis:
			list = append(list, r.pendingClaim())
		case wantRing: // has the state
		}
	}
	for _, addr := range sortedAddrs(c.holders.claims) {
		if r := c.holders.claims[addr]; r.reason != "" {
			list = append(list, r.pendingClaim())
		}
	}
	slices.SortStableFunc(list, func(a, b Pending) int { return a.Since.Compare(b.Since) })
	return list
}

func (r *request) pendingClaim() Pending {
	return Pending{
		Claim: true, Key: r.key, Label: r.label, What: netip.PrefixFrom(r.addr, r.addr.BitLen()),
		Why: r.reason, Since: r.since,
	}
}

func (c *core) duplicates() []Duplicate {
	var list []Duplicate
	for _, addr := range sortedAddrs(c.infos.twice) {
		d := Duplicate{Addr: addr}
		for _, id := range c.infos.twice[addr].users {
			d.Holders = append(d.Holders, Holder{c.fullTitle(id), c.labelOf(id, addr)})
		}
		list = append(list, d)
	}
	return list
}

// labelOf returns what people call the one who uses an address of a host.
func (c *core) labelOf(id crypto.Identity, addr netip.Addr) string {
	if id == c.cfg.Self {
		return c.local[addr].Label
	}
	if p := c.peers[id]; p != nil {
		base := wire.GroupBase(addr)
		for _, item := range p.groups[base] {
			if offset(base, item.Offset) == addr {
				return item.Label
			}
		}
	}
	return ""
}

// warnings says what people should know or do.
func (c *core) warnings() []string {
	var list []string
	if what := c.ringConflict(); what != "" {
		list = append(list, what)
	}
	if c.sureness.unproven && c.peersKnown && c.ring != nil && len(c.missing()) > 0 {
		list = append(list, c.unprovenReason())
	}
	for _, id := range sortedIDs(c.peers) {
		p := c.peers[id]
		if p.alien.IsValid() && p.Alive {
			list = append(list, fmt.Sprintf("%s has the address range %s: its addresses and ours are apart", c.title(id), p.alien))
		}
		if p.reminded {
			list = append(list, fmt.Sprintf("%s has been out of reach since %s; if it is gone: weft rmpeer %s",
				c.title(id), p.since.Format(time.DateTime), c.callName(id)))
		}
	}
	for _, r := range c.removedPeers() {
		if n := len(c.leasedTo[r.Peer]); n > 0 && c.removed(r.Peer) {
			list = append(list, fmt.Sprintf("%d addresses that containers of %s had are kept for them; weft rmpeer --force %s frees them",
				n, c.title(r.Peer), c.callName(r.Peer)))
		}
	}
	return list
}
