package ipam

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

const (
	handOverTime = 5 * time.Second // how long one peer may take to answer
	handOverAsk  = time.Second     // after which it is asked again
	leasesMost   = 16 << 10        // in one message
)

var errNobodyTakes = errors.New("nobody takes the address space")

// handOver gives all blocks of this host to one peer before the host leaves
// for good. A block that was given cannot be taken back, and a peer that
// learns by gossip that it has one would hand out what others lease there. So
// the leases go first, and only when the peer has kept them the blocks follow.
//
//	offering ──── kept ────▶ the registers name the peer ──── kept ────▶ next part, or done
//	   └── 5 s, or refused: the next peer, none left: error
//
// The other side is in offer.go.
type handOver struct {
	// Owned by the run loop; the giver's.

	tickets  []ticket // who waits
	to       crypto.Identity
	tried    map[crypto.Identity]bool
	op       uint64 // of the part that is under way; zero: none
	part     space.BlockSet
	leases   []wire.Granted // of this part, as offered
	heard    bool           // everybody in reach said what it knows
	given    bool           // the registers of the part name the peer
	ips      uint64         // given and kept so far
	deadline time.Time
	askAt    time.Time
	reason   string // as last told

	// Owned by the run loop; the taker's.

	offers map[crypto.Identity]*offer // by giver; nil: not found yet
}

// startHandOver begins to give everything away.
func (c *core) startHandOver(t ticket) {
	h := &c.handOver
	h.tickets = append(h.tickets, t)
	if len(h.tickets) == 1 {
		h.tried, h.reason = make(map[crypto.Identity]bool), ""
		if !h.given {
			h.ips = 0
		}
		h.deadline, h.askAt, h.heard = c.now.Add(handOverTime), time.Time{}, false
		c.wakeAt(h.deadline)
		c.infos.changed = true
		// What others gave us, and we have not heard of, goes along.
		c.sureness.first = c.sureness.last + 1
		for _, p := range c.mates() {
			p.met = false
			c.closeAsksOf(p.ID)
		}
	}
}

// cancelHandOver forgets one that waits. What was given stays given.
func (c *core) cancelHandOver(t ticket) bool {
	h := &c.handOver
	i := slices.Index(h.tickets, t)
	if i < 0 {
		return false
	}
	c.finish(t, result{Err: errCancelled})
	if h.tickets = slices.Delete(h.tickets, i, i+1); len(h.tickets) == 0 {
		c.endHandOver()
	}
	return true
}

// handingOver reports whether this host is giving everything away: it gives
// nothing else.
func (c *core) handingOver() bool { return len(c.handOver.tickets) > 0 }

// endHandOver ends it for everybody who waits. A part that was given, but of
// which the peer did not say that it has it, is remembered, so that it is told
// again when this host is asked again.
func (c *core) endHandOver() {
	h := &c.handOver
	h.tickets = nil
	if !h.given {
		h.op, h.to, h.leases, h.part = 0, crypto.Identity{}, nil, space.BlockSet{}
	}
	c.infos.changed = true
	c.retry()
}

// stepHandOver does what is due on both sides.
func (c *core) stepHandOver() {
	c.stepOffers()
	h := &c.handOver
	if len(h.tickets) == 0 {
		return
	}
	to, err, done := c.goOnHandOver()
	if !done {
		return
	}
	for _, t := range h.tickets {
		c.finish(t, result{To: to, IPs: h.ips, Err: err})
	}
	if err == nil {
		c.leaveNothing()
	}
	c.endHandOver()
}

// leaveNothing frees what this host's containers, which end with it, have of
// others' blocks, in one message to each owner: of two, one could be late and
// count for nothing.
func (c *core) leaveNothing() {
	owners := make(map[crypto.Identity][]netip.Addr)
	for _, addr := range sortedAddrs(c.local) {
		owner, ok := c.ownerOf(addr)
		if !ok || owner == c.cfg.Self {
			continue
		}
		owners[owner] = append(owners[owner], addr)
		if r := c.holders.claims[addr]; r != nil {
			c.endClaim(r)
		}
		delete(c.holders.dying, addr)
		c.dropLocal(addr)
	}
	for _, owner := range sortedIDs(owners) {
		c.sendHeld(c.peer(owner), owners[owner])
	}
}

// goOnHandOver does what is due on the giver's side.
func (c *core) goOnHandOver() (to crypto.Identity, err error, done bool) {
	h := &c.handOver
	owned := space.BlockSet{}
	if c.ring != nil {
		owned = c.ring.Owned(c.cfg.Self)
	}
	switch {
	case h.given: // wait that it is kept
	case c.ring != nil && !h.heard && !c.hearAll():
		c.tellHandOver("comparing addresses with others")
		return to, nil, false
	case owned.Empty() || !c.ringShared():
		return h.to, nil, true
	case c.sureness.mustMeet || c.sureness.unproven || !c.sureness.adopted:
		// What this host may have given away before it cannot give now.
		if c.due(h.deadline) {
			why := "no other host answers; with --force it is left to 'weft rmpeer' elsewhere"
			if c.sureness.unproven {
				why = c.unprovenReason()
			}
			return to, fmt.Errorf("%w: %s", errNobodyTakes, why), true
		}
		c.tellHandOver("comparing addresses with others")
		return to, nil, false
	case h.op == 0 && !c.offerNext(&owned):
		return to, fmt.Errorf("%w: no other host that has a part of it answers; with --force it is left to 'weft rmpeer' elsewhere",
			errNobodyTakes), true
	}
	if c.due(h.deadline) {
		if h.given {
			return h.to, fmt.Errorf("%s has the address space now and did not confirm it: %w; try again", c.title(h.to), ErrUnreachable), true
		}
		h.tried[h.to], h.op = true, 0
		return c.goOnHandOver()
	}
	if h.askAt.IsZero() || c.due(h.askAt) {
		h.askAt = c.now.Add(handOverAsk)
		c.wakeAt(h.askAt)
		c.sendPart()
	}
	c.tellHandOver("handing the address space over to " + c.title(h.to))
	return to, nil, false
}

// hearAll asks everybody in reach for what it knows, and reports whether all
// have said it or had their time.
func (c *core) hearAll() bool {
	h := &c.handOver
	missing := slices.DeleteFunc(c.mates(), func(p *peer) bool { return p.met })
	if h.heard = len(missing) == 0 || c.due(h.deadline); h.heard {
		h.askAt = time.Time{}
		return true
	}
	if h.askAt.IsZero() || c.due(h.askAt) {
		h.askAt = c.now.Add(handOverAsk)
		c.wakeAt(h.askAt)
		for _, p := range missing {
			c.exchange(p)
		}
	}
	return false
}

func (c *core) tellHandOver(reason string) {
	h := &c.handOver
	if reason == h.reason {
		return
	}
	h.reason = reason
	for _, t := range h.tickets {
		c.wait(t, reason)
	}
}

// offerNext offers the next part to the peer that took the one before, or to
// the one with most blocks that was not tried. It returns false when there is
// none.
func (c *core) offerNext(owned *space.BlockSet) bool {
	h := &c.handOver
	if h.to.IsZero() || h.tried[h.to] || !c.alive(h.to) {
		var best *peer
		for _, p := range c.mates() {
			if h.tried[p.ID] || c.fencedPeer(p.ID) || !c.sharesRing(p) || p.info != nil && p.info.Leaving {
				continue
			}
			if best == nil || c.ring.Count(p.ID) > c.ring.Count(best.ID) {
				best = p
			}
		}
		if best == nil {
			return false
		}
		h.to = best.ID
	}
	h.op, h.given, h.askAt = c.nextOp(), false, time.Time{}
	h.deadline = c.now.Add(handOverTime)
	c.wakeAt(h.deadline)
	h.part, h.leases = space.BlockSet{}, nil
	for block := range owned.All() {
		leased, local := c.leasedIn.sorted(block), c.localIn.sorted(block)
		if len(h.leases) > 0 && len(h.leases)+len(leased)+len(local) > leasesMost {
			break
		}
		h.part.Add(block)
		for _, addr := range leased {
			g := c.leased[addr]
			h.leases = append(h.leases, wire.Granted{Host: g.Host, Lease: wire.Lease{Addr: addr, Op: g.Op, Key: g.Key, Label: g.Label}})
		}
		// Our own, too: should nothing come of the reset they stay in use.
		for _, addr := range local {
			l := c.local[addr]
			h.leases = append(h.leases, wire.Granted{Host: c.cfg.Self, Lease: wire.Lease{Addr: addr, Op: c.lastOp(), Key: l.Key, Label: l.Label}})
		}
	}
	return true
}

// sharesRing reports whether p has our ring.
func (c *core) sharesRing(p *peer) bool {
	return p.info != nil && p.info.Ring == c.ring.ID() || c.ring.Count(p.ID) > 0
}

// ringShared reports whether anybody else ever had our ring, or may come to
// have it: who is only out of reach now would find nobody to ask for space.
func (c *core) ringShared() bool {
	for _, id := range c.known() {
		if info := c.peers[id].info; info == nil || info.Ring.IsZero() || info.Ring == c.ring.ID() {
			return true
		}
	}
	for _, s := range c.ring.Owners() {
		if s.Owner != c.cfg.Self {
			return true
		}
	}
	for _, p := range c.peers {
		if c.sharesRing(p) {
			return true
		}
	}
	return len(c.leased) > 0
}

// receiveHandOver handles a message of a hand-over.
func (c *core) receiveHandOver(from crypto.Identity, m wire.Message) {
	same := c.ring != nil && m.Ring == c.ring.ID()
	switch body := m.Body.(type) {
	case wire.HandOver:
		if !same {
			c.send(from, wire.HandedOver{Op: body.Op, Refused: true})
			return
		}
		c.takeHandOver(from, body)
	case wire.HandedOver:
		if same {
			c.receiveHandedOver(from, body)
		}
	}
}

// receiveHandedOver goes on when the peer kept what was offered or given.
func (c *core) receiveHandedOver(from crypto.Identity, m wire.HandedOver) {
	h := &c.handOver
	current := h.op != 0 && from == h.to
	switch {
	case current && m.Op == h.op && h.given:
		if !m.Refused {
			h.ips += c.geo.IPsIn(h.part.Len())
			h.op, h.given = 0, false
			c.logf(slog.LevelInfo, "address space handed over", "peer", c.title(from), "blocks", h.part.Len())
		}
	case current && m.Op == h.op && m.Refused:
		h.tried[from], h.op = true, 0
	case current && m.Op == h.op && c.handingOver():
		c.giveAway(from)
	case !m.Refused: // too late
	case current && h.given:
		c.sendPart()
	case !current:
		// It asks what became of an offer: nothing, but for what the registers say.
		c.send(from, wire.HandOver{Op: m.Op, Runs: c.ring.AllRuns()})
	}
}

// giveAway makes the blocks of the part the peer's. There is no way back.
func (c *core) giveAway(to crypto.Identity) {
	h := &c.handOver
	for block := range h.part.All() {
		c.giveBlock(block, to)
	}
	// Another op: an answer to the offer says nothing about this.
	h.op, h.given, h.askAt = c.nextOp(), true, time.Time{}
	h.deadline = c.now.Add(handOverTime)
	c.wakeAt(h.deadline)
}

func (c *core) sendPart() {
	h := &c.handOver
	c.send(h.to, wire.HandOver{Op: h.op, Runs: c.ring.Runs(&h.part), Leases: h.leases})
}
