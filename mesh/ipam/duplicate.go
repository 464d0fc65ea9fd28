package ipam

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// calmBefore is how long a duplicate lasts before it is logged: entries lag
// behind moves.
const calmBefore = 3 * time.Second

// duplicate is an address that two hosts use.
type duplicate struct {
	users []crypto.Identity // ascending
	since time.Time
	told  bool
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
	for i := range uint8(wire.GroupSize) {
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

// inherit is called when one of those that use an address of our own blocks
// has let it go. Another one that has it all the same keeps it: it is not free.
// An entry of one that told us that it dropped the address only lags behind.
func (c *core) inherit(addr netip.Addr) {
	d := c.infos.twice[addr]
	owner, ok := c.ownerOf(addr)
	if d == nil || !ok || owner != c.cfg.Self {
		return
	}
	if _, taken := c.conflict(c.cfg.Self, addr); taken {
		return
	}
	for _, id := range d.users {
		if p := c.peers[id]; p != nil && p.Alive && c.sharesRing(p) && c.usedBy(p, addr) && !p.dropped[addr] {
			// Its next full Held confirms or ends that.
			c.setLease(addr, grant{id, holder{Label: c.labelOf(id, addr), Op: p.heldOp}})
			return
		}
	}
}

// usedBy reports whether a peer says that a container there has an address.
func (c *core) usedBy(p *peer, addr netip.Addr) bool {
	base := wire.GroupBase(addr)
	return slices.ContainsFunc(p.groups[base], func(i wire.Item) bool { return offset(base, i.Offset) == addr })
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
				"hosts", strings.Join(c.fullTitles(d.users), " "))
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
