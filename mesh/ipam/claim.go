package ipam

import (
	"cmp"
	"fmt"

	"github.com/weftnet/weft/crypto"
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
	case h.Key == r.key:
		c.revive(r.addr)
		c.endRequest(r, result{})
		return
	case c.dying(r.addr): // the grace is against chance, not against people
		c.rename(r.addr, r.key, r.label)
		c.endRequest(r, result{Fresh: true})
		return
	default:
		c.refuseClaim(r, Conflict{Addr: r.addr, Host: c.cfg.Self, Key: h.Key, Label: h.Label})
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
	if taken, is := c.conflict(c.cfg.Self, r.addr); is {
		c.refuseClaim(r, taken)
		return
	}
	c.setLocal(r.addr, holder{Key: r.key, Label: r.label})
	c.endRequest(r, result{Fresh: true})
}

// claimForeign asks the owner of the block. Only a claim whose owner is in
// reach waits: the user can choose another address.
func (c *core) claimForeign(r *request, owner crypto.Identity, known bool) {
	if !known || !c.alive(owner) {
		block, _ := c.geo.Block(r.addr)
		who := c.title(c.ring.Owner(block))
		c.endRequest(r, result{Err: fmt.Errorf("%s is in the space of %s, which is %w; choose another address, or 'weft rmpeer %s' if it is gone",
			r.addr, who, ErrUnreachable, who)})
		return
	}
	if c.sureness.unproven && !c.peer(owner).met {
		c.reason(r, "comparing addresses with "+c.title(owner))
		return
	}
	if r.reason == "" {
		c.reason(r, fmt.Sprintf("asking %s for %s", c.title(owner), r.addr))
	}
	c.askFor(r, owner)
}

// grantedThis is called when the owner of the block lets us have the address.
func (c *core) grantedThis(r *request, op uint64) {
	if r.ticket == 0 {
		c.confirmed(r, op)
		return
	}
	c.dropDoubtful(r.addr)
	if _, used := c.local[r.addr]; !used {
		c.setLocal(r.addr, holder{r.key, r.label, op})
		c.endRequest(r, result{Fresh: true})
	}
}

// receiveConflict ends a claim, or says that an address of ours is somebody
// else's, too.
func (c *core) receiveConflict(p *peer, m Conflict) {
	if m.Op == 0 {
		c.disputed(m)
		return
	}
	a := c.requests.asks[m.Op]
	if a == nil || a.to != p.ID || a.req.kind != wantThis {
		return
	}
	c.closeAsk(a)
	if a.req.ticket == 0 {
		c.disputed(m)
		return
	}
	c.refuseClaim(a.req, m)
}

func (c *core) refuseClaim(r *request, m Conflict) {
	c.endRequest(r, result{Err: conflictError(fmt.Sprintf("address %s is held by %s", m.Addr, c.inUse(m)))})
}

// conflictError is an [ErrConflict] that says no more than who.
type conflictError string

func (e conflictError) Error() string        { return string(e) }
func (e conflictError) Is(target error) bool { return target == ErrConflict }

// inUse names the holder of an address.
func (c *core) inUse(m Conflict) string {
	if label := cmp.Or(m.Label, m.Key); label != "" {
		return fmt.Sprintf("container %s of %s", label, c.title(m.Host))
	}
	return "a container of " + c.title(m.Host)
}
