package ipam

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// finishTakeover makes the targets' blocks ours, with all that is used in them, and
// tells everybody.
func (c *core) finishTakeover(r *removal, a *attempt) []Taken {
	c.takeover.attempt = nil
	var taken space.BlockSet
	for _, id := range a.targets {
		blocks := c.blocksOf(id)
		taken.Or(&blocks)
		r.taken[id] = Taken{Peer: id, IPs: c.geo.IPsIn(blocks.Len())}
		for block := range blocks.All() {
			reg, epoch := c.ring.Register(block), a.epoch
			if reg.Epoch >= epoch { // of a takeover by force that we heard of meanwhile
				epoch = reg.Epoch + 2
			}
			c.setRegister(block, ring.Register{Owner: c.cfg.Self, Giver: c.cfg.Self, Epoch: epoch, Version: reg.Version + 1})
		}
	}
	c.keepUsed(a, &taken)
	if len(a.promises) == len(a.asked) {
		// All that is used in them is known, whatever we forgot ourselves.
		c.sureness.fresh.Or(&taken)
	}
	for _, id := range a.targets {
		c.dropFence(wire.Fence{Target: id, Initiator: c.cfg.Self})
		c.takeGone(wire.Removed{Peer: id, Epoch: a.epoch})
		c.expel(id)
		c.logf(slog.LevelInfo, "space taken over", "peer", c.title(id), "ips", r.taken[id].IPs)
	}
	over := wire.FenceOver{Op: a.op, Targets: a.targets, Epoch: a.epoch, Taken: true}
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
func (c *core) keepUsed(a *attempt, taken *space.BlockSet) {
	lease := func(host crypto.Identity, l wire.Lease) {
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
			lease(g.Host, wire.Lease{Addr: g.Addr, Key: g.Key, Label: g.Label})
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

// freedNothing is the error of a removal by hand of hosts that were removed
// before, and of which nothing is kept here: it says where.
func (c *core) freedNothing(r *removal) error {
	if !r.force || !r.again {
		return nil
	}
	for _, t := range r.taken {
		if t.IPs > 0 || t.Released > 0 {
			return nil
		}
	}
	where := make(map[crypto.Identity]bool)
	for _, g := range c.attachedOf(r.ids) {
		if owner, ok := c.ownerOf(g.Addr); ok {
			where[owner] = true
		}
	}
	if len(where) == 0 && c.ring != nil { // whoever took its space wrote that epoch
		for b := range c.geo.Blocks() {
			reg := c.ring.Register(b)
			for _, id := range r.ids {
				if reg.Epoch > 0 && reg.Epoch == c.takeover.gone[id].Epoch {
					where[reg.Owner] = true
				}
			}
		}
	}
	if where[c.cfg.Self] {
		return nil // all is freed here
	}
	on := "the host that took its space over"
	if len(where) > 0 {
		on = shortened(c.titles(sortedIDs(where)))
	}
	who := strings.Join(c.titles(r.ids), " and ")
	return refusedError(fmt.Sprintf("%s was removed before, and this host keeps no address of it: run 'weft rmpeer --force %s' on %s, which may",
		who, strings.Join(c.callNames(r.ids), " "), on))
}

// attachedOf returns what the given hosts last said that they use.
func (c *core) attachedOf(ids []crypto.Identity) []wire.Granted {
	var list []wire.Granted
	for _, id := range ids {
		p := c.peers[id]
		if p == nil {
			continue
		}
		for _, base := range sortedAddrs(p.groups) {
			for _, item := range p.groups[base] {
				if addr := offset(base, item.Offset); c.geo.Contains(addr) && len(list) < wire.MaxAddresses {
					list = append(list, wire.Granted{Host: id, Lease: wire.Lease{Addr: addr, Label: item.Label}})
				}
			}
		}
	}
	return list
}

// heldElsewhere returns all addresses of ours in blocks that are not ours:
// who asks may see another owner than we do.
func (c *core) heldElsewhere() []wire.Lease {
	var list []wire.Lease
	for _, block := range slices.Sorted(maps.Keys(c.localIn)) {
		if c.ring != nil && c.ring.Owner(block) == c.cfg.Self {
			continue
		}
		for _, addr := range c.localIn.sorted(block) {
			h := c.local[addr]
			list = append(list, wire.Lease{Addr: addr, Op: h.Op, Key: h.Key, Label: h.Label})
		}
	}
	slices.SortFunc(list, func(a, b wire.Lease) int { return a.Addr.Compare(b.Addr) })
	return list
}
