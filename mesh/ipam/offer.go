package ipam

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// offerAsk is how long the receiver of an offer waits before it asks what
// became of it.
const offerAsk = 30 * time.Second

// offer is the leases in the blocks of a host that hands over, which its
// peer keeps before it has the blocks. They mean nothing until then. They end
// when somebody else gets the blocks, or when the giver, which is asked now and
// then, says that nothing came of it; together with that it says which
// registers it has, since it may have forgotten that it gave the blocks.
type offer struct {
	// op is that of the newest message, or one of our own since the start: an
	// answer to a question of an earlier start does not count.
	op    uint64
	addrs map[netip.Addr]ring.Register // of the block, as it was then
	askAt time.Time
}

// takeHandOver keeps leases, and blocks when they come.
func (c *core) takeHandOver(from crypto.Identity, m wire.HandOver) {
	c.findOffers()
	o := c.handOver.offers[from]
	if o != nil && o.op == m.Op && len(m.Leases) == 0 {
		c.mergeRuns(m.Runs)
		c.voidOffer(from)
		return // without an answer, which would be a question
	}
	ours := slices.ContainsFunc(m.Runs, func(r ring.Run) bool { return r.Register.Owner == c.cfg.Self })
	if !ours && (c.handingOver() || c.fencedPeer(from)) {
		c.send(from, wire.HandedOver{Op: m.Op, Refused: true})
		return
	}
	c.mergeRuns(m.Runs)
	if o == nil {
		o = &offer{addrs: make(map[netip.Addr]ring.Register)}
		c.handOver.offers[from] = o
	}
	o.op, o.askAt = m.Op, c.now.Add(offerAsk)
	for _, g := range m.Leases {
		c.keepOffered(from, o, g)
	}
	for _, r := range m.Runs {
		if r.Register.Owner == c.cfg.Self && r.Register.Beats(c.ring.Register(r.First)) {
			return // a fence keeps it out for now; it is sent again
		}
		c.received(c.peer(from), r)
	}
	c.send(from, wire.HandedOver{Op: m.Op})
	c.retry()
}

// keepOffered keeps one lease of an offer, unless we know better.
func (c *core) keepOffered(from crypto.Identity, o *offer, g wire.Granted) {
	block, ok := c.geo.Block(g.Addr)
	if !ok || g.Host == c.cfg.Self {
		return
	}
	reg := c.ring.Register(block)
	if owner, known := c.resolve(reg.Owner); !known || owner != from && (owner != c.cfg.Self || reg.Giver != from) {
		return
	}
	_, local := c.local[g.Addr]
	_, leased := c.leased[g.Addr]
	if local || leased {
		return
	}
	c.setLease(g.Addr, grant{g.Host, holder{g.Key, g.Label, g.Op}})
	o.addrs[g.Addr] = reg
}

// findOffers finds, once after the start, the leases of offers from before it.
func (c *core) findOffers() {
	h := &c.handOver
	if h.offers != nil || c.ring == nil {
		return
	}
	h.offers = make(map[crypto.Identity]*offer)
	for _, addr := range sortedAddrs(c.leased) {
		block, _ := c.geo.Block(addr)
		reg := c.ring.Register(block)
		if owner, ok := c.resolve(reg.Owner); ok && owner != c.cfg.Self {
			if h.offers[owner] == nil {
				h.offers[owner] = &offer{op: c.nextOp(), addrs: make(map[netip.Addr]ring.Register), askAt: c.now}
			}
			h.offers[owner].addrs[addr] = reg
		}
	}
}

// stepOffers ends what came of offers: leases whose block is ours now are like
// any other, those whose block went elsewhere are void.
func (c *core) stepOffers() {
	h := &c.handOver
	c.findOffers()
	if len(h.offers) == 0 {
		return
	}
	if c.ring == nil {
		h.offers = nil
		return
	}
	for _, from := range sortedIDs(h.offers) {
		o := h.offers[from]
		for _, addr := range sortedAddrs(o.addrs) {
			block, _ := c.geo.Block(addr)
			switch reg := c.ring.Register(block); {
			case reg.Owner == c.cfg.Self:
				delete(o.addrs, addr)
			case reg != o.addrs[addr]:
				delete(o.addrs, addr)
				c.dropLease(addr)
			}
		}
		if len(o.addrs) == 0 {
			delete(h.offers, from)
			continue
		}
		if c.due(o.askAt) {
			o.askAt = c.now.Add(offerAsk)
			c.wakeAt(o.askAt)
			c.send(from, wire.HandedOver{Op: o.op, Refused: true})
		}
	}
}

// voidOffer ends an offer. What is ours by now stays.
func (c *core) voidOffer(from crypto.Identity) {
	o := c.handOver.offers[from]
	delete(c.handOver.offers, from)
	for _, addr := range sortedAddrs(o.addrs) {
		block, _ := c.geo.Block(addr)
		if c.ring.Owner(block) != c.cfg.Self {
			c.dropLease(addr)
		}
	}
}
