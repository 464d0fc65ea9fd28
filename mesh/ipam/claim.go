package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// startClaim takes an address that somebody chose.
func (c *core) startClaim(e claimEvent) {
	r := &request{ticket: e.Ticket, kind: wantThis, key: e.Key, label: e.Label, addr: e.Addr}
	c.addRequest(r)
	c.tryClaim(r)
}

// tryClaim answers r if it can, or asks the owner of its block.
func (c *core) tryClaim(r *request) {
	if !c.geo.Contains(r.addr) {
		c.endRequest(r, result{})
		return
	}
	h, has := c.local[r.addr]
	switch {
	case !has || !c.trusted(r.addr):
	case c.dying(r.addr) && !c.reusable(r.addr): // nobody here uses it, and others may
	case h.Key == r.key:
		c.revive(r.addr)
		c.endRequest(r, result{})
		return
	case c.dying(r.addr): // the grace is against chance, not against people
		c.rename(r.addr, r.key, r.label)
		c.endRequest(r, result{Fresh: true})
		return
	default:
		c.refuseClaim(r, wire.Conflict{Addr: r.addr, Host: c.cfg.Self, Key: h.Key, Label: h.Label})
		return
	}
	if c.ring == nil {
		c.reason(r, c.ringReason())
		return
	}
	if why := c.halted(); why != "" {
		c.reason(r, why)
		return
	}
	owner, known := c.ownerOf(r.addr)
	if known && owner == c.cfg.Self {
		c.claimOwn(r)
		return
	}
	c.claimForeign(r, owner, known)
}

// claimOwn takes an address of our own blocks.
func (c *core) claimOwn(r *request) {
	block, _ := c.geo.Block(r.addr)
	if own := c.own(); !own.Has(block) {
		c.reason(r, c.unprovenReason())
		return
	}
	taken, is := c.conflict(c.cfg.Self, r.addr)
	if g, lent := c.leased[r.addr]; lent { // whatever dead one had it here
		taken, is = wire.Conflict{Addr: r.addr, Host: g.Host, Key: g.Key, Label: g.Label}, true
	}
	if is {
		c.refuseClaim(r, taken)
		return
	}
	c.setLocal(r.addr, holder{Key: r.key, Label: r.label})
	c.endRequest(r, result{Fresh: true})
}

// claimForeign asks the owner of the block. Only a claim whose owner is in
// reach, or may just not have been met yet, waits: the user can choose another
// address.
func (c *core) claimForeign(r *request, owner crypto.Identity, known bool) {
	if !known || !c.alive(owner) {
		c.claimAway(r)
		return
	}
	if c.sureness.unproven && !c.peer(owner).met {
		c.reason(r, "comparing addresses with "+c.title(owner))
		return
	}
	if r.ask == nil && r.again.IsZero() {
		c.reason(r, fmt.Sprintf("asking %s for %s", c.title(owner), r.addr))
	}
	c.askFor(r, owner)
}

// claimAway refuses an address whose owner is out of reach. It waits for one
// that may just not have been met yet: to advise its removal would be wrong.
func (c *core) claimAway(r *request) {
	block, _ := c.geo.Block(r.addr)
	of := c.ring.Owner(block)
	if until := c.awaited(of); !until.IsZero() && !c.due(until) {
		c.closeAsk(r.ask)
		c.reason(r, fmt.Sprintf("looking for %s for up to %d s: %s is in its space", c.title(of), metWithin/time.Second, r.addr))
		return
	}
	c.endRequest(r, result{Err: fmt.Errorf("%s is in the space of %s, which is %w; choose another address, or 'weft rmpeer %s' if it is gone",
		r.addr, c.title(of), ErrUnreachable, c.callName(of))})
}

// grantedThis is called when the owner of the block lets us have the address.
func (c *core) grantedThis(r *request, op uint64) {
	if r.ticket == 0 {
		c.confirmed(r, op)
		return
	}
	c.dropDoubtful(r.addr)
	h, used := c.local[r.addr]
	if used && !c.dying(r.addr) {
		return // another container was faster, and r gets to know that
	}
	if claim := c.holders.claims[r.addr]; claim != nil {
		c.endClaim(claim)
	}
	c.revive(r.addr)
	c.setLocal(r.addr, holder{r.key, r.label, op})
	c.endRequest(r, result{Fresh: h.Key != r.key})
}

// receiveConflict ends a claim, or says that an address of ours is somebody
// else's, too.
func (c *core) receiveConflict(p *peer, m wire.Conflict) {
	if m.Op == 0 {
		c.disputed(m)
		return
	}
	a := c.requests.asks[m.Op]
	if a == nil || a.to != p.ID || a.req.kind != wantThis {
		return
	}
	c.closeAsk(a)
	switch {
	case m.Host == c.cfg.Self:
		c.leasedAlready(p, a)
	case a.req.ticket == 0:
		c.disputed(m)
	default:
		c.refuseClaim(a.req, m)
	}
}

// leasedAlready is called when the owner has the address down for this host,
// for another holder than the one that a is for.
func (c *core) leasedAlready(p *peer, a *ask) {
	r := a.req
	if r.ticket == 0 { // we have it, and Held says for whom
		c.confirmed(r, a.op)
		return
	}
	_, local := c.local[r.addr]
	for _, o := range c.requests.asks { // the answer to one of these may be on its way
		local = local || o.to == p.ID && (o.req.kind == wantAny || o.req.addr == r.addr)
	}
	if !local {
		c.sendHeld(p, []netip.Addr{r.addr})
	}
	r.again = c.now.Add(roundLeast)
	c.due(r.again)
}

func (c *core) refuseClaim(r *request, m wire.Conflict) {
	c.endRequest(r, result{Err: conflictError(fmt.Sprintf("address %s is held by %s", m.Addr, c.inUse(m)))})
}

// conflictError is an [ErrConflict] that says no more than who.
type conflictError string

func (e conflictError) Error() string        { return string(e) }
func (e conflictError) Is(target error) bool { return target == ErrConflict }

// inUse names the holder of an address.
func (c *core) inUse(m wire.Conflict) string {
	if label := cmp.Or(m.Label, m.Key); label != "" {
		return fmt.Sprintf("container %s of %s", label, c.title(m.Host))
	}
	return "a container of " + c.title(m.Host)
}
