package ipam

import (
	"time"

	"github.com/weftnet/weft/crypto"
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
func (c *core) removedPeers() []Removed {
	list := make([]Removed, 0, len(c.takeover.gone))
	for _, id := range sortedIDs(c.takeover.gone) {
		list = append(list, c.takeover.gone[id].Removed)
	}
	return list[:min(len(list), maxPeers)]
}

// learnRemoved takes over what another host knows of that.
func (c *core) learnRemoved(list []Removed) {
	c.takeover.init()
	for _, r := range list {
		known := c.takeover.gone[r.Peer]
		if r.Epoch <= known.Epoch {
			continue
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
}

// noticeReturns notes who is back.
func (c *core) noticeReturns() {
	for _, id := range sortedIDs(c.takeover.gone) {
		g, p := c.takeover.gone[id], c.peers[id]
		switch {
		case g.Epoch&1 == 1 || p == nil:
		case p.Alive:
			g.Epoch |= 1
			c.setGone(g.Removed)
		case p.listed && c.due(p.since.Add(expelAfter)):
			// Of a removal that was only heard of it is not certain that the
			// host did not come back since; now it would be here.
			p.since = c.now
			c.expel(id)
		}
	}
}

// expelAfter is how long a host that others removed is out of reach before
// the mesh is told to forget it.
const expelAfter = time.Minute

// expel makes the mesh forget a host that was removed.
func (c *core) expel(id crypto.Identity) {
	if _, unmet := placeholderName(id); !unmet && c.removed(id) && !c.alive(id) {
		c.out.Expels = append(c.out.Expels, id)
	}
}

// setGone keeps that a host was removed or has come back.
func (c *core) setGone(r Removed) {
	s := storedRemoved{Removed: r, Name: r.Peer.Name()}
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
