package ipam

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
)

// takesPart reports whether p has an allocator with our range, as far as is
// known.
func (c *core) takesPart(p *peer) bool {
	switch {
	case p.info != nil:
		return p.info.Role != RoleOff && p.info.Range == c.geo.Range()
	case p.alien.IsValid():
		return false
	case p.Alive && !p.heard && !c.now.Before(p.since.Add(meetGrace)):
		return false // an older version, perhaps: it had time to say something
	}
	return true
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

func (c *core) removed(id crypto.Identity) bool {
	_, ok := c.removedEpoch(id)
	return ok
}

func (c *core) alive(id crypto.Identity) bool {
	p := c.peers[id]
	return p != nil && p.Alive
}

// resolve returns the host that an owner is. It returns false for a
// placeholder whose host is not known.
func (c *core) resolve(owner crypto.Identity) (crypto.Identity, bool) {
	name, is := placeholderName(owner)
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
	if name, is := placeholderName(id); is {
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

// titles returns the titles of several hosts.
func (c *core) titles(ids []crypto.Identity) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = c.title(id)
	}
	return list
}

// lookAt finds the duplicates in a group.
func (c *core) lookAt(base netip.Addr) {
	users := make(map[netip.Addr][]crypto.Identity)
	for _, item := range c.ownItems(base) {
		addr := offset(base, item.Offset)
		users[addr] = append(users[addr], c.cfg.Self)
	}
	for _, id := range sortedIDs(c.infos.byGroup[base]) {
		p := c.peers[id]
		if !p.Alive || !c.takesPart(p) {
			continue
		}
		for _, item := range p.groups[base] {
			addr := offset(base, item.Offset)
			users[addr] = append(users[addr], id)
		}
	}
	for i := range uint8(groupSize) {
		addr := offset(base, i)
		old, now := c.infos.twice[addr], users[addr]
		switch {
		case len(now) < 2 && old != nil:
			if delete(c.infos.twice, addr); old.told {
				c.logf(slog.LevelInfo, "address no longer used twice", "address", addr)
			}
		case len(now) >= 2 && old == nil:
			slices.SortFunc(now, crypto.Identity.Compare)
			c.infos.twice[addr] = &duplicate{users: now, since: c.now}
		case len(now) >= 2:
			slices.SortFunc(now, crypto.Identity.Compare)
			old.users = now
		}
	}
}

func offset(base netip.Addr, n uint8) netip.Addr {
	b := base.AsSlice()
	b[len(b)-1] |= n
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// tellDuplicates logs those that last.
func (c *core) tellDuplicates() {
	if len(c.infos.twice) == 0 {
		return
	}
	for _, addr := range sortedAddrs(c.infos.twice) {
		d := c.infos.twice[addr]
		if !d.told && c.due(d.since.Add(calmBefore)) {
			d.told = true
			c.logf(slog.LevelWarn, "address used twice: detach one of them", "address", addr,
				"hosts", strings.Join(c.titles(d.users), " "))
		}
	}
}

// remind asks the operator what should become of space that has been out of
// reach for long.
func (c *core) remind() {
	if c.cfg.ReclaimAfter <= 0 || c.ring == nil {
		return
	}
	for _, p := range slices.SortedFunc(maps.Values(c.peers), func(a, b *peer) int { return a.ID.Compare(b.ID) }) {
		if p.Alive || p.reminded || c.ring.Count(p.ID) == 0 || !c.due(p.since.Add(c.cfg.ReclaimAfter)) {
			continue
		}
		p.reminded = true
		c.logf(slog.LevelWarn, "space of a peer has been out of reach for long: if it is gone, use rmpeer",
			"peer", c.title(p.ID), "since", p.since.Format(time.DateTime), "blocks", c.ring.Count(p.ID))
	}
}
