package ipam

import (
	"time"

	"github.com/weftnet/weft/crypto"
)

// metWithin is how long an owner of blocks that was never met since it is known
// is expected to come into reach, before anybody is told that it is not.
const metWithin = 15 * time.Second

// awaited returns until when an owner out of reach may just not have been met
// yet: the way to it may lead over relays, which takes a moment after a start
// or a join. It is zero for one that was met since our start and was lost, that
// left for good, or was removed: there is nothing to wait for.
func (c *core) awaited(owner crypto.Identity) time.Time {
	since, ok := c.named[owner]
	if id, is := c.resolve(owner); is {
		p := c.peers[id]
		switch {
		case c.removed(id), p != nil && (p.seen || !p.off.IsZero()):
			return time.Time{}
		case p != nil:
			since, ok = p.since, true
		}
	}
	if !ok {
		return time.Time{}
	}
	return since.Add(metWithin)
}

// nameOwners notes who owns blocks, when there is another ring than before.
func (c *core) nameOwners() {
	before := c.named
	c.named = make(map[crypto.Identity]time.Time)
	if c.ring == nil {
		return
	}
	for _, s := range c.ring.Owners() {
		since, ok := before[s.Owner]
		if !ok {
			since = c.now
		}
		c.named[s.Owner] = since
	}
}

// ownerNamed notes that a block has another owner.
func (c *core) ownerNamed(before, after crypto.Identity) {
	if c.ring.Count(before) == 0 {
		delete(c.named, before)
	}
	if _, ok := c.named[after]; !ok {
		c.named[after] = c.now
	}
}
