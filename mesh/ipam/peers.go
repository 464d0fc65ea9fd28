package ipam

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/record"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// peer is what is known of another host.
type peer struct {
	Peer
	listed bool       // in the list of known peers
	seen   bool       // was alive since we started
	since  time.Time  // when Alive changed, or we started
	off    time.Time  // when it was taken from the list; zero: it is there, or never was
	had    []ring.Run // the blocks of one that left for good, while its last words are awaited; nil: they are not

	info     *wire.Info                 // nil: none seen
	groups   map[netip.Addr][]wire.Item // what it last said it uses
	raw      map[string][]byte          // the entries that these came from
	alien    netip.Prefix               // the range of its messages, when it is another one
	heard    bool                       // a message came since it is alive
	garbled  bool                       // a message of it was not understood; logged
	reminded bool                       // of --ipalloc-reclaim-after

	met      bool                // has finished an exchange, see sureness
	greeted  bool                // has got a Digest since it is alive
	asked    time.Time           // when it got the last one
	exchange uint64              // of that
	waited   time.Time           // since when an answer of it is owed; zero: none is
	against  []wire.Fence        // pending there with this host as the target
	dropped  map[netip.Addr]bool // addresses that its entries still have and that it told us to be free

	wantOp uint64 // the highest op of its Wants
	heldOp uint64 // the highest op of its Helds
	lastOp uint64 // the highest op of all, also in former starts
	wanted bool   // it got a Want since the last full Held
}

// peer returns the record of a host, made when there is none.
func (c *core) peer(id crypto.Identity) *peer {
	p := c.peers[id]
	if p == nil {
		p = &peer{Peer: Peer{ID: id, Name: id.Name()}, since: c.now, groups: make(map[netip.Addr][]wire.Item), dropped: make(map[netip.Addr]bool), raw: make(map[string][]byte)}
		c.peers[id] = p
	}
	return p
}

// setPeers takes over the list of known peers.
func (c *core) setPeers(list []Peer, targets int) {
	first := !c.peersKnown
	c.peersKnown, c.targets = true, targets
	var before []*peer
	for _, id := range sortedIDs(c.peers) {
		if p := c.peers[id]; p.listed {
			p.listed = false
			before = append(before, p)
		}
	}
	clear(c.infos.names)
	for _, l := range list {
		if l.ID == c.cfg.Self {
			continue
		}
		p := c.peer(l.ID)
		alive := p.Alive
		p.Peer, p.listed, p.off, p.had = l, true, time.Time{}, nil
		c.infos.names[l.Name] = l.ID
		if alive != l.Alive {
			c.aliveChanged(p)
		}
		if first { // space may have been taken from us while we were off
			c.sureness.mustMeet = true
		}
	}
	for _, p := range before {
		if !p.listed {
			p.off = c.now
			c.left(p)
		}
	}
	for _, id := range sortedIDs(c.peers) {
		if p := c.peers[id]; !p.listed {
			c.unlisted(p)
		}
	}
	c.sureness.look = true
	c.retry()
}

func (c *core) aliveChanged(p *peer) {
	p.since = c.now
	p.heard, p.greeted, p.asked, p.waited, p.reminded = false, false, time.Time{}, time.Time{}, false
	for base := range p.groups {
		c.infos.look[base] = struct{}{}
	}
	if p.Alive {
		p.seen = true
		c.requests.hurry = true
	} else {
		c.closeAsksOf(p.ID)
	}
}

// left ends the leases of a peer that has left for good: the mesh forgets no
// other but those that were removed. What it said of them last may be lost.
func (c *core) left(p *peer) {
	if c.ring == nil || c.removed(p.ID) {
		return
	}
	// It gave its blocks to somebody, of which we may not have heard. If it did
	// not, since it left by force, its containers may still be there.
	owned := c.ring.Owned(p.ID)
	p.had = c.ring.Runs(&owned)
	if len(p.had) == 0 {
		c.endLeases(p)
	}
}

// lastWords ends the leases of a peer that has left for good when we hear that
// it gave all its blocks away before. A higher epoch says that they were taken.
func (c *core) lastWords(p *peer) {
	if len(p.had) == 0 || c.ring == nil || c.ring.Count(p.ID) > 0 {
		return
	}
	given := !c.fencedPeer(p.ID)
	for _, run := range p.had {
		for b := run.First; b-run.First < run.Count && b < c.geo.Blocks(); b++ {
			given = given && c.ring.Register(b).Epoch == run.Register.Epoch
		}
	}
	if p.had = nil; given {
		c.endLeases(p)
	}
}

func (c *core) endLeases(p *peer) {
	for _, addr := range c.leasedTo.sorted(p.ID) {
		c.dropLease(addr)
	}
}

// lookForLastWords is called when registers changed.
func (c *core) lookForLastWords() {
	for _, id := range sortedIDs(c.peers) {
		if p := c.peers[id]; len(p.had) > 0 {
			c.unlisted(p)
		}
	}
}

// unlisted handles a peer that is not known to the mesh: one that left for
// good, was expelled, or was never met. It is remembered if it has space.
func (c *core) unlisted(p *peer) {
	if p.Alive {
		p.Alive = false
		c.aliveChanged(p)
	}
	c.lastWords(p)
	if c.ring != nil && c.ring.Count(p.ID) > 0 || len(c.leasedTo[p.ID]) > 0 {
		return
	}
	if c.removed(p.ID) {
		return
	}
	for _, base := range sortedAddrs(p.groups) {
		c.setGroup(p, base, nil)
	}
	if p.lastOp > 0 {
		c.forget(&record.Op{Host: p.ID})
	}
	delete(c.peers, p.ID)
}

// takesPart reports whether p has an allocator with our range, as far as is
// known.
func (c *core) takesPart(p *peer) bool {
	switch {
	case p.info != nil:
		return p.info.Role != wire.RoleOff && p.info.Range == c.geo.Range()
	case p.alien.IsValid():
		return false
	case p.Alive && !p.heard && !c.hasTraces(p) && !c.now.Before(p.since.Add(meetGrace)):
		return false // an older version, perhaps: it had time to say something
	}
	return true
}

// hasTraces reports whether something here is of a peer's allocator: it has
// one, however silent it is.
func (c *core) hasTraces(p *peer) bool {
	return c.ring != nil && c.ring.Count(p.ID) > 0 || len(c.leasedTo[p.ID]) > 0 || p.lastOp > 0 || len(p.groups) > 0
}

// mates returns the hosts that can be asked now, ascending.
func (c *core) mates() []*peer {
	var list []*peer
	for _, id := range sortedIDs(c.peers) {
		if p := c.peers[id]; p.Alive && c.takesPart(p) {
			list = append(list, p)
		}
	}
	return list
}

// known returns the other hosts of the mesh that take part, alive or not,
// ascending. Hosts that were removed are not in it.
func (c *core) known() []crypto.Identity {
	var ids []crypto.Identity
	for _, id := range sortedIDs(c.peers) {
		if p := c.peers[id]; p.listed && c.takesPart(p) && !c.removed(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// others returns the hosts that may know of space that this host gave away:
// the known ones and all other owners of blocks, ascending.
func (c *core) others() []crypto.Identity {
	set := make(map[crypto.Identity]struct{})
	for _, id := range c.known() {
		set[id] = struct{}{}
	}
	if c.ring != nil {
		for _, s := range c.ring.Owners() {
			id, ok := c.resolve(s.Owner)
			if p := c.peers[id]; ok && id != c.cfg.Self && !c.removed(id) && (p == nil || c.takesPart(p)) {
				set[id] = struct{}{}
			}
		}
	}
	return sortedIDs(set)
}

// mayHold returns the hosts that may have space of ours or of the targets,
// without these and us, ascending.
func (c *core) mayHold(targets []crypto.Identity) []crypto.Identity {
	ids := c.others()
	if c.ring != nil {
		for _, s := range c.ring.Owners() {
			if id, ok := c.resolve(s.Owner); ok {
				ids = append(ids, id)
			}
		}
	}
	for key := range c.takeover.fences {
		ids = append(ids, key.initiator)
	}
	return slices.DeleteFunc(union(ids, nil), func(id crypto.Identity) bool {
		return id == c.cfg.Self || c.removed(id) || slices.Contains(targets, id)
	})
}

// blocksOf returns the blocks that a host has, also under its name.
func (c *core) blocksOf(id crypto.Identity) space.BlockSet {
	var blocks space.BlockSet
	if c.ring == nil {
		return blocks
	}
	for _, s := range c.ring.Owners() {
		if owner, ok := c.resolve(s.Owner); s.Owner == id || ok && owner == id {
			set := c.ring.Owned(s.Owner)
			blocks.Or(&set)
		}
	}
	return blocks
}

// reached reports whether a target answers; it may be a placeholder of which
// the host is known.
func (c *core) reached(id crypto.Identity) bool {
	id, ok := c.resolve(id)
	return ok && (id == c.cfg.Self || c.alive(id))
}

func (c *core) alive(id crypto.Identity) bool {
	p := c.peers[id]
	return p != nil && p.Alive
}

// resolve returns the host that an owner is. It returns false for a
// placeholder whose host is not known.
func (c *core) resolve(owner crypto.Identity) (crypto.Identity, bool) {
	name, is := ring.PlaceholderName(owner)
	if !is {
		return owner, true
	}
	if name == c.cfg.Name {
		return c.cfg.Self, true
	}
	id, ok := c.infos.names[name]
	return id, ok
}

// ownerOf returns the host that has the block of an address.
func (c *core) ownerOf(addr netip.Addr) (owner crypto.Identity, ok bool) {
	block, ok := c.geo.Block(addr)
	if !ok || c.ring == nil {
		return crypto.Identity{}, false
	}
	return c.resolve(c.ring.Owner(block))
}

// title returns what people call a host.
func (c *core) title(id crypto.Identity) string {
	if name, is := ring.PlaceholderName(id); is {
		return name.String()
	}
	if id == c.cfg.Self {
		return "this host"
	}
	if p := c.peers[id]; p != nil {
		if p.Nickname != "" {
			return p.Nickname
		}
		return p.Name.String()
	}
	return id.Name().String()
}

// matters reports whether a peer is known to the mesh, or has something here.
func (c *core) matters(p *peer) bool {
	return p.listed || len(c.leasedTo[p.ID]) > 0 || c.ring != nil && c.ring.Count(p.ID) > 0
}

// callName returns how a command can name a host: by its title, or by its name
// where another one that matters, or this one, has the same nickname.
func (c *core) callName(id crypto.Identity) string {
	p := c.peers[id]
	if p == nil || p.Nickname == "" {
		return c.title(id)
	}
	if p.Nickname == c.cfg.Nickname {
		return p.Name.String()
	}
	for _, o := range c.peers {
		if o != p && o.Nickname == p.Nickname && c.matters(o) {
			return p.Name.String()
		}
	}
	return p.Nickname
}

// callNames are the callName of each.
func (c *core) callNames(ids []crypto.Identity) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = c.callName(id)
	}
	return list
}

// fullTitles are name(nickname): a log and a report are read elsewhere, too.
func (c *core) fullTitles(ids []crypto.Identity) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = c.fullTitle(id)
	}
	return list
}

func (c *core) fullTitle(id crypto.Identity) string {
	name, nickname := id.Name(), ""
	if p := c.peers[id]; p != nil {
		name, nickname = p.Name, p.Nickname
	}
	if id == c.cfg.Self {
		name, nickname = c.cfg.Name, c.cfg.Nickname
	}
	if nickname == "" {
		return name.String()
	}
	return name.String() + "(" + nickname + ")"
}

// titles returns the titles of several hosts.
func (c *core) titles(ids []crypto.Identity) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = c.title(id)
	}
	return list
}
