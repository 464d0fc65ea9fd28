package ipam

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/record"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// A host that owns blocks lends single addresses of them to others. Who may
// end a lease is settled without clocks: every message of a host that speaks
// of its leases has a number, op, that the host never uses twice and that only
// grows, also over restarts. A lease has the op of the Want that it answers; a
// Held says which ops are over. So an owner can tell a lease that its holder
// gave up, or never heard of, from one that is on its way.

const (
	heldEvery     = 30 * time.Second
	conflictsMost = 64 // told in answer to one Held
)

// nextOp returns a number that this host never used before.
func (c *core) nextOp() uint64 {
	if c.seq++; c.seq == 0 {
		c.boot++
		c.putMeta()
	}
	return c.lastOp()
}

func (c *core) lastOp() uint64 { return uint64(c.boot)<<32 | uint64(c.seq) }

// raiseOps makes later ops higher than one of ours that somebody remembers: an
// old copy of the database does not.
func (c *core) raiseOps(last uint64) {
	if boot := last >> 32; last > c.lastOp() && boot < math.MaxUint32 {
		c.boot, c.seq = uint32(boot)+1, 0
		c.putMeta()
	}
}

// receiveWant gives blocks, or one address, or nothing.
func (c *core) receiveWant(p *peer, w wire.Want) {
	if w.Op <= p.wantOp || c.fencedPeer(p.ID) {
		return // twice, or too late: it asks again with another op
	}
	p.wantOp, p.lastOp = w.Op, max(p.lastOp, w.Op)
	switch {
	case !c.sure():
		c.send(p.ID, wire.Give{Op: w.Op, Busy: true})
	case p.info != nil && p.info.Leaving: // what came too late for its hand-over would be nobody's
		c.send(p.ID, wire.Give{Op: w.Op})
	case w.Addr.IsValid():
		c.lendThis(p, w)
	default:
		c.send(p.ID, c.give(p, w))
	}
}

// give answers a Want for any address.
func (c *core) give(p *peer, w wire.Want) wire.Give {
	owned := c.ring.Owned(c.cfg.Self)
	free := c.used.WhollyFree(&owned, w.Subnet)
	if n := free.Len(); n > 0 {
		if n = (n + 1) / 2; w.Unsure {
			n = 1
		}
		free = free.Highest(n)
		for b := range free.All() {
			c.giveBlock(b, p.ID)
		}
		c.put(&record.Op{Host: p.ID, Op: p.lastOp})
		c.infos.changed = true
		return wire.Give{Op: w.Op, Runs: c.ring.Runs(&free)}
	}
	if addr, ok := c.used.LowestFree(&owned, w.Subnet); ok {
		c.lend(p, w, addr)
		return wire.Give{Op: w.Op, Addr: addr}
	}
	return wire.Give{Op: w.Op}
}

// giveBlock makes a block of ours somebody else's.
func (c *core) giveBlock(block int, to crypto.Identity) {
	reg := c.ring.Register(block)
	reg.Owner, reg.Giver, reg.Version = to, c.cfg.Self, reg.Version+1
	if c.cfg.sabotage.sameVersion {
		reg.Version--
		// Merging takes no such register: a ring is made in which it was there first.
		r := ring.New(c.ring.ID(), c.geo)
		r.MergeRuns(c.ring.AllRuns(), func(b int, _ ring.Register) bool { return b != block })
		r.Merge(block, reg)
		c.ring = r
		c.put(&record.Block{Block: block, Register: reg})
		c.changed.Add(block)
		return
	}
	c.setRegister(block, reg)
}

func (c *core) lend(p *peer, w wire.Want, addr netip.Addr) {
	c.setLease(addr, grant{p.ID, holder{w.Key, w.Label, w.Op}})
	c.put(&record.Op{Host: p.ID, Op: p.lastOp})
}

// lendThis answers a Want for one address.
func (c *core) lendThis(p *peer, w wire.Want) {
	block, ok := c.geo.Block(w.Addr)
	if !ok || c.ring.Owner(block) != c.cfg.Self {
		if ok { // so that it asks the right one
			one := space.BlockSetOf(block)
			c.send(p.ID, wire.State{Runs: c.ring.Runs(&one)})
		}
		c.send(p.ID, wire.Give{Op: w.Op})
		return
	}
	if refusal, taken := c.conflict(p.ID, w.Addr); taken {
		refusal.Op = w.Op
		c.send(p.ID, refusal)
		return
	}
	if g, ok := c.leased[w.Addr]; ok && g.Key != w.Key {
		// It asked for this lease with another op, which may be open: the lease
		// must not follow this one. If it has given it up it says so now.
		c.send(p.ID, wire.Conflict{Op: w.Op, Addr: w.Addr, Host: g.Host, Key: g.Key, Label: g.Label})
		return
	}
	c.lend(p, w, w.Addr)
	c.send(p.ID, wire.Give{Op: w.Op, Addr: w.Addr})
}

// conflict says who has an address of our blocks, unless that is id itself or
// nobody.
func (c *core) conflict(id crypto.Identity, addr netip.Addr) (wire.Conflict, bool) {
	if h, ok := c.local[addr]; ok {
		return wire.Conflict{Addr: addr, Host: c.cfg.Self, Key: h.Key, Label: h.Label}, true
	}
	if g, ok := c.leased[addr]; ok && g.Host != id {
		return wire.Conflict{Addr: addr, Host: g.Host, Key: g.Key, Label: g.Label}, true
	}
	return wire.Conflict{}, false
}

// receiveGive takes what a Want of ours brought.
func (c *core) receiveGive(p *peer, g wire.Give) {
	c.mergeRuns(g.Runs)
	a := c.requests.asks[g.Op]
	if a == nil || a.to != p.ID {
		// The request is over. Blocks are ours all the same, an address goes back.
		if _, has := c.local[g.Addr]; g.Addr.IsValid() && !has {
			c.sendHeld(p, []netip.Addr{g.Addr})
		}
		return
	}
	c.closeAsk(a)
	for _, run := range g.Runs {
		c.received(p, run)
	}
	switch {
	case g.Addr.IsValid():
		c.granted(a, g.Addr)
	case len(g.Runs) > 0:
		c.retry()
	default:
		c.askRefused(a, g.Busy)
	}
}

// received notes blocks that were given to us just now: what we know of them
// is all there is to know, whatever we forgot before.
func (c *core) received(p *peer, run ring.Run) {
	for b := run.First; b-run.First < run.Count && b < c.geo.Blocks(); b++ {
		if reg := c.ring.Register(b); reg == run.Register && reg.Owner == c.cfg.Self && reg.Giver == p.ID {
			c.sureness.fresh.Add(b)
		}
	}
}

// receiveHeld takes over what another host says of the addresses that it has
// of our blocks.
func (c *core) receiveHeld(p *peer, h wire.Held) {
	if h.UpTo <= p.heldOp {
		return // we have had a newer one
	}
	p.heldOp, p.lastOp = h.UpTo, max(p.lastOp, h.UpTo)
	held := make(map[netip.Addr]struct{}, len(h.Held))
	for _, l := range h.Held {
		held[l.Addr] = struct{}{}
	}
	over := h.Dropped
	if h.Full {
		over = append(slices.Clone(over), c.leasesIn(p.ID, h.Blocks)...)
	}
	for _, addr := range over {
		g, ok := c.leased[addr]
		if _, has := held[addr]; ok && !has && g.Host == p.ID && g.Op <= h.UpTo && !slices.Contains(h.Open, g.Op) {
			c.dropLease(addr)
			if c.usedBy(p, addr) {
				p.dropped[addr] = true
			}
			c.inherit(addr)
		}
	}
	conflicts := 0
	for _, l := range h.Held {
		block, ok := c.geo.Block(l.Addr)
		if !ok || c.ring.Owner(block) != c.cfg.Self {
			continue
		}
		c.dropDoubtful(l.Addr)
		if taken, is := c.conflict(p.ID, l.Addr); is {
			if conflicts++; conflicts <= conflictsMost {
				c.send(p.ID, taken)
			}
			continue
		}
		switch g, has := c.leased[l.Addr]; {
		case !has: // no Held from before this one may end it
			c.setLease(l.Addr, grant{p.ID, holder{l.Key, l.Label, h.UpTo}})
		case g.Key != l.Key || g.Label != l.Label: // another container of that host has it now
			c.setLease(l.Addr, grant{p.ID, holder{l.Key, l.Label, g.Op}})
		}
	}
}

// leasesIn returns the addresses that a host has of some of our blocks.
func (c *core) leasesIn(id crypto.Identity, spans []space.Span) []netip.Addr {
	var blocks space.BlockSet
	for _, s := range spans {
		for b := s.First; b < s.First+s.Count; b++ {
			blocks.Add(b)
		}
	}
	return slices.DeleteFunc(c.leasedTo.sorted(id), func(addr netip.Addr) bool {
		b, ok := c.geo.Block(addr)
		return !ok || !blocks.Has(b)
	})
}

// heldFor returns everything that this host has of the blocks of another.
func (c *core) heldFor(id crypto.Identity) wire.Held {
	h := c.heldHead(id)
	blocks := c.blocksOf(id)
	for _, b := range sortedKeys(c.localIn, cmp.Compare[int]) {
		if !blocks.Has(b) {
			continue
		}
		for _, addr := range c.localIn.sorted(b) {
			if c.doubtful(addr) {
				continue
			}
			l := c.local[addr]
			h.Held = append(h.Held, wire.Lease{Addr: addr, Op: l.Op, Key: l.Key, Label: l.Label})
		}
	}
	if len(h.Held) > wire.MaxAddresses {
		h.Held = h.Held[:wire.MaxAddresses]
	} else if c.sureness.adopted {
		h.Full, h.Blocks = true, blocks.Spans()
	}
	return h
}

func (c *core) heldHead(id crypto.Identity) wire.Held {
	h := wire.Held{UpTo: c.nextOp()}
	for _, op := range sortedKeys(c.requests.asks, cmp.Compare[uint64]) {
		if c.requests.asks[op].to == id {
			h.Open = append(h.Open, op)
		}
	}
	if len(h.Open) > wire.MaxOpen {
		// Without all of them nothing may end.
		h.UpTo, h.Open = h.Open[0]-1, nil
	}
	return h
}

// sendHeld tells the owner of blocks which addresses of them are free again,
// nil: all that this host has of them.
func (c *core) sendHeld(p *peer, dropped []netip.Addr) {
	if c.ring == nil {
		return
	}
	if dropped == nil {
		if h := c.heldFor(p.ID); c.ring.Count(p.ID) > 0 {
			c.send(p.ID, h)
		}
		p.wanted = false
		return
	}
	h := c.heldHead(p.ID)
	h.Dropped = dropped
	p.wanted = true // in case that this is lost
	c.send(p.ID, h)
}
