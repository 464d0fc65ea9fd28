package ipam

import (
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/record"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// Who was removed is a number that only grows, so that hosts agree whatever
// they hear first: the epoch of the takeover, which is even, and one more as
// soon as anybody saw the host again.

// removed reports whether a host was removed and has not come back since.
func (c *core) removed(id crypto.Identity) bool {
	g, ok := c.takeover.gone[id]
	return ok && g.Epoch&1 == 0
}

// removedPeers returns who was removed, and who came back after that.
func (c *core) removedPeers() []wire.Removed {
	list := make([]wire.Removed, 0, len(c.takeover.gone))
	for _, id := range sortedIDs(c.takeover.gone) {
		list = append(list, c.takeover.gone[id].Removed)
	}
	return list[:min(len(list), wire.MaxPeers)]
}

// concerns reports whether it matters here what becomes of a host: it is or
// was listed, or has something of ours, or blocks, or began a takeover that is
// pending here. So there is a bound on what others can make this host remember.
func (c *core) concerns(id crypto.Identity) bool {
	_, gone := c.takeover.gone[id]
	for key := range c.takeover.fences {
		gone = gone || key.initiator == id
	}
	return id == c.cfg.Self || gone || c.peers[id] != nil || len(c.leasedTo[id]) > 0 ||
		c.ring != nil && c.ring.Count(id) > 0
}

// learnRemoved takes over what another host knows of that.
func (c *core) learnRemoved(list []wire.Removed) {
	for _, r := range list {
		if c.concerns(r.Peer) {
			c.takeGone(r)
		}
	}
}

// takeGone is learnRemoved of one host that matters here.
func (c *core) takeGone(r wire.Removed) {
	c.takeover.init()
	known := c.takeover.gone[r.Peer]
	if r.Epoch <= known.Epoch {
		return
	}
	again := r.Epoch&^1 > known.Epoch&^1
	if r.Peer == c.cfg.Self {
		r.Epoch |= 1 // we are back, aren't we
		if again {
			c.setUnsure("it was removed by rmpeer meanwhile")
		}
	}
	c.setGone(r)
}

// noticeReturns notes who is back. It is called in every step.
func (c *core) noticeReturns() {
	var back, late []crypto.Identity
	for id, g := range c.takeover.gone {
		switch p := c.peers[id]; {
		case g.Epoch&1 == 1 || p == nil:
		case p.Alive:
			back = append(back, id)
		case p.listed && c.due(p.since.Add(expelAfter)):
			late = append(late, id)
		}
	}
	for _, id := range union(back, nil) {
		g := c.takeover.gone[id]
		g.Epoch |= 1
		c.setGone(g.Removed)
	}
	for _, id := range union(late, nil) {
		// Of a removal that was only heard of it is not certain that the host
		// did not come back since; now it would be here.
		c.peers[id].since = c.now
		c.expel(id)
	}
	c.forgetRemoved()
}

// forgetAfter is how long it is remembered that a host was removed, after it
// matters to nobody: others may have heard of it late, and are told.
const forgetAfter = time.Hour

// forgetRemoved forgets whoever is not listed and has nothing any more.
func (c *core) forgetRemoved() {
	k := &c.takeover
	if len(k.gone) == 0 {
		k.forgetAt = time.Time{}
		return
	}
	if k.forgetAt.IsZero() {
		k.forgetAt = c.now.Add(forgetAfter)
	}
	if !c.due(k.forgetAt) {
		return
	}
	k.forgetAt = c.now.Add(forgetAfter)
	c.wakeAt(k.forgetAt)
	named := make(map[crypto.Identity]bool)
	if c.ring != nil {
		for b := range c.geo.Blocks() {
			reg := c.ring.Register(b)
			named[reg.Owner], named[reg.Giver] = true, true
		}
	}
	for _, id := range sortedIDs(k.gone) {
		p := c.peers[id]
		if id == c.cfg.Self || named[id] || len(c.leasedTo[id]) > 0 || p != nil && (p.listed || c.now.Before(p.off.Add(forgetAfter))) {
			continue
		}
		c.forget(&record.Removed{Removed: wire.Removed{Peer: id}})
		delete(k.gone, id)
		if p != nil {
			c.unlisted(p)
		}
	}
}

// expelAfter is how long a host that others removed is out of reach before
// the mesh is told to forget it.
const expelAfter = time.Minute

// expel makes the mesh forget a host that was removed.
func (c *core) expel(id crypto.Identity) {
	if _, unmet := ring.PlaceholderName(id); !unmet && c.removed(id) && !c.alive(id) {
		c.out.Expels = append(c.out.Expels, id)
	}
}

// setGone keeps that a host was removed or has come back.
func (c *core) setGone(r wire.Removed) {
	s := record.Removed{Removed: r, Name: r.Peer.Name()}
	if p := c.peers[r.Peer]; p != nil {
		s.Name, s.Nickname = p.Name, p.Nickname
	}
	if old, ok := c.takeover.gone[r.Peer]; ok && s.Nickname == "" {
		s.Name, s.Nickname = old.Name, old.Nickname
	}
	c.takeover.gone[r.Peer] = s
	c.put(&s)
	c.sureness.look = true // it does not matter to us any more what it knows
	if r.Epoch&1 == 1 || c.alive(r.Peer) {
		return
	}
	// What it was about to take over it will not.
	for _, f := range c.fencesOf(r.Peer) {
		c.dropFence(f)
	}
	c.retry()
}
