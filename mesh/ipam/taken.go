package ipam

import (
	"log/slog"
	"maps"
	"slices"

	"github.com/weftnet/weft/crypto"
)

// finishTakeover makes the targets' blocks ours, with all that is used in them, and
// tells everybody.
func (c *core) finishTakeover(r *removal, a *attempt) []Taken {
	c.takeover.attempt = nil
	var taken blockSet
	for _, id := range a.targets {
		blocks := c.blocksOf(id)
		taken.Or(&blocks)
		r.taken[id] = Taken{Peer: id, IPs: c.geo.ipsIn(blocks.Len())}
		for block := range blocks.All() {
			reg := c.ring.Register(block)
			c.setRegister(block, Register{Owner: c.cfg.Self, Giver: c.cfg.Self, Epoch: a.epoch, Version: reg.Version + 1})
		}
	}
	c.keepUsed(a, &taken)
	if len(a.promises) == len(a.asked) {
		// All that is used in them is known, whatever we forgot ourselves.
		c.sureness.fresh.Or(&taken)
	}
	for _, id := range a.targets {
		c.dropFence(Fence{Target: id, Initiator: c.cfg.Self})
		c.learnRemoved([]Removed{{id, a.epoch}})
		c.expel(id)
		c.logf(slog.LevelInfo, "space taken over", "peer", c.title(id), "ips", r.taken[id].IPs)
	}
	over := FenceOver{Op: a.op, Targets: a.targets, Epoch: a.epoch, Taken: true}
	if c.ring != nil {
		over.Runs = c.ring.AllRuns()
	}
	for _, id := range union(sortedIDs(a.asked), c.known()) {
		c.send(id, over)
	}
	c.retry()
	return r.results()
}

// keepUsed makes leases of the addresses that are used in blocks that were
// taken: first what its holders said themselves, then what was last known of
// those who could not be asked.
func (c *core) keepUsed(a *attempt, taken *blockSet) {
	lease := func(host crypto.Identity, l Lease) {
		block, ok := c.geo.Block(l.Addr)
		if !ok || !taken.Has(block) || host == c.cfg.Self {
			return
		}
		if _, local := c.local[l.Addr]; local {
			return
		}
		if _, leased := c.leased[l.Addr]; !leased {
			c.setLease(l.Addr, grant{host, holder{l.Key, l.Label, l.Op}})
		}
	}
	for _, id := range sortedIDs(a.promises) {
		for _, l := range a.promises[id].Held {
			lease(id, l)
		}
	}
	for _, id := range sortedIDs(a.promises) {
		for _, g := range a.promises[id].Attached {
			lease(g.Host, Lease{Addr: g.Addr, Key: g.Key, Label: g.Label})
		}
	}
	for _, id := range sortedIDs(c.peers) {
		if _, answered := a.promises[id]; answered {
			continue
		}
		for _, g := range c.attachedOf([]crypto.Identity{id}) {
			lease(id, g.Lease)
		}
	}
}

// releaseByHand frees what is kept for a host that was removed, in our blocks.
func (c *core) releaseByHand(id crypto.Identity, force bool) int {
	if !force || c.alive(id) {
		return 0
	}
	addrs := c.leasedTo.sorted(id)
	for _, addr := range addrs {
		c.dropLease(addr)
	}
	return len(addrs)
}

// reached reports whether a target answers; it may be a placeholder of which
// the host is known.
func (c *core) reached(id crypto.Identity) bool {
	id, ok := c.resolve(id)
	return ok && (id == c.cfg.Self || c.alive(id))
}

// blocksOf returns the blocks that a host has, also under its name.
func (c *core) blocksOf(id crypto.Identity) blockSet {
	var blocks blockSet
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

// attachedOf returns what the given hosts last said that they use.
func (c *core) attachedOf(ids []crypto.Identity) []Granted {
	var list []Granted
	for _, id := range ids {
		p := c.peers[id]
		if p == nil {
			continue
		}
		for _, base := range sortedAddrs(p.groups) {
			for _, item := range p.groups[base] {
				if addr := offset(base, item.Offset); c.geo.Contains(addr) && len(list) < maxAddresses {
					list = append(list, Granted{Host: id, Lease: Lease{Addr: addr, Label: item.Label}})
				}
			}
		}
	}
	return list
}

// heldElsewhere returns all addresses of ours in blocks that are not ours:
// who asks may see another owner than we do.
func (c *core) heldElsewhere() []Lease {
	var list []Lease
	for _, block := range slices.Sorted(maps.Keys(c.localIn)) {
		if c.ring != nil && c.ring.Owner(block) == c.cfg.Self {
			continue
		}
		for _, addr := range c.localIn.sorted(block) {
			h := c.local[addr]
			list = append(list, Lease{Addr: addr, Op: h.Op, Key: h.Key, Label: h.Label})
		}
	}
	slices.SortFunc(list, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return list
}

// highestEpoch returns the highest epoch that this host ever heard of and
// that may still matter.
func (c *core) highestEpoch() uint64 {
	var highest uint64
	if c.ring != nil {
		for block := range c.geo.Blocks() {
			highest = max(highest, c.ring.Register(block).Epoch)
		}
	}
	for _, epoch := range c.takeover.fences {
		highest = max(highest, epoch)
	}
	for _, g := range c.takeover.gone {
		highest = max(highest, g.Epoch)
	}
	return highest
}

// ipsIn returns the number of addresses in n blocks, saturating.
func (g Geometry) ipsIn(n int) uint64 {
	size := g.Size()
	if total := uint64(n) * size; n == 0 || total/uint64(n) == size {
		return total
	}
	return ^uint64(0)
}
