package ipam

import (
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

const (
	digestEvery = 10 * time.Second // on average, to one peer by chance
	castMost    = 900              // bytes of a broadcast
)

// gossip spreads registers: what is news is cast to all, and hosts compare
// all they know now and then.
type gossip struct {
	at time.Time // of the next digest to somebody
}

// receive handles a message.
func (c *core) receive(from crypto.Identity, data []byte) {
	p := c.peers[from]
	if p == nil || !p.listed {
		return // the list of peers lags behind; it comes again
	}
	m, err := wire.ParseMessage(data)
	if err != nil {
		if !p.garbled {
			p.garbled = true
			c.logf(slog.LevelWarn, "message about addresses not understood", "peer", c.title(from), "err", err)
		}
		return
	}
	if m.Range != c.geo.Range() {
		if p.alien != m.Range {
			p.alien, c.sureness.look = m.Range, true
			c.logf(slog.LevelWarn, "peer has another address range: its messages about addresses are ignored",
				"peer", c.title(from), "range", m.Range, "ours", c.geo.Range())
		}
		return
	}
	if !p.heard || p.alien.IsValid() {
		p.heard, p.alien, c.sureness.look = true, netip.Prefix{}, true
	}
	c.dispatch(p, m)
}

// dispatch hands a message to whom it is for.
func (c *core) dispatch(p *peer, m wire.Message) {
	if !m.Ring.IsZero() && m.Ring != c.ringID() {
		c.meetMessage(p.ID, m)
	}
	same := c.ring != nil && m.Ring == c.ring.ID()
	switch body := m.Body.(type) {
	case wire.Digest:
		c.receiveDigest(p, body, m.Ring)
	case wire.State:
		c.receiveState(p, body, m.Ring)
	case wire.Want:
		if same {
			c.receiveWant(p, body)
		}
	case wire.Give:
		if same {
			c.receiveGive(p, body)
		}
	case wire.Held:
		if same {
			c.receiveHeld(p, body)
		}
	case wire.Conflict:
		if same {
			c.receiveConflict(p, body)
		}
	case wire.Prepare, wire.Promise, wire.Nack, wire.Off, wire.Accept, wire.Accepted, wire.Elect:
		c.receiveDivision(p.ID, m.Body)
	case wire.FenceAsk, wire.FencePromise, wire.FenceRefuse, wire.FenceOver:
		c.receiveTakeover(p.ID, m)
	case wire.HandOver, wire.HandedOver:
		c.receiveHandOver(p.ID, m)
	}
}

// ringID returns the id of our ring, zero: none.
func (c *core) ringID() ring.ID {
	if c.ring == nil {
		return ring.ID{}
	}
	return c.ring.ID()
}

// digest sums up what we know, for a peer or, with a zero one, for all.
func (c *core) digest(exchange uint64, to crypto.Identity) wire.Digest {
	d := wire.Digest{Exchange: exchange}
	if c.ring != nil {
		d.Hash, d.Groups = c.ring.Hash(), c.ring.Groups()
	}
	if !to.IsZero() {
		d.Pending = c.fencesOf(to)
	}
	return d
}

// receiveDigest answers with what differs.
func (c *core) receiveDigest(p *peer, d wire.Digest, theirs ring.ID) {
	c.toldFences(p.ID, d.Pending)
	if c.ring == nil && !theirs.IsZero() && (p.asked.IsZero() || !c.now.Before(p.asked.Add(askAgain))) {
		c.exchange(p) // its answer has the whole ring
	}
	if d.Exchange == 0 {
		// A broadcast: its sender knows something, and is asked for no more
		// than that by each of us.
		if theirs == c.ringID() && c.ring != nil && d.Hash != c.ring.Hash() {
			c.send(p.ID, wire.State{Wanted: c.ring.Differing(d.Groups)})
		}
		return
	}
	if !c.sureness.adopted {
		return // we could not say yet what we hold; it asks again
	}
	st := wire.State{Re: d.Exchange, LastOp: p.lastOp, Against: c.fencesAgainst(p.ID), Pending: c.fencesOf(p.ID), Removed: c.removedPeers()}
	if c.ring != nil {
		st.Held = c.heldFor(p.ID)
		if theirs == c.ring.ID() {
			st.Wanted = c.ring.Differing(d.Groups)
			st.Runs = c.ring.GroupRuns(st.Wanted)
		} else {
			st.Runs = c.ring.AllRuns()
		}
	}
	c.send(p.ID, st)
}

// receiveState takes over what others know.
func (c *core) receiveState(p *peer, st wire.State, theirs ring.ID) {
	c.learnRemoved(st.Removed)
	if c.ring != nil && theirs == c.ring.ID() {
		c.mergeRuns(st.Runs)
		c.toldFences(p.ID, st.Pending)
		if runs := c.ring.GroupRuns(st.Wanted); len(runs) > 0 {
			c.send(p.ID, wire.State{Runs: runs})
		}
	}
	if st.Re == 0 {
		return
	}
	c.raiseOps(st.LastOp)
	if slices.ContainsFunc(st.Against, func(f wire.Fence) bool { return !slices.Contains(p.against, f) }) {
		c.setUnsure(c.title(st.Against[0].Initiator) + " is taking them over")
	}
	p.against = st.Against
	if c.ring != nil && theirs == c.ring.ID() {
		c.receiveHeld(p, st.Held)
		c.sendHeld(p, nil)
	}
	c.exchanged(p, st.Re, theirs)
}

// stepGossip casts what is news and compares now and then.
func (c *core) stepGossip() {
	if c.ring != nil && !c.changed.Empty() {
		c.lookForLastWords()
		c.castChanged()
	}
	if c.gossip.at.IsZero() {
		c.gossip.at = c.now.Add(c.jitter(digestEvery))
	}
	if !c.due(c.gossip.at) {
		return
	}
	c.gossip.at = c.now.Add(c.jitter(digestEvery))
	c.due(c.gossip.at)
	if mates := c.mates(); len(mates) > 0 {
		c.exchange(mates[c.rand.IntN(len(mates))])
	}
}

// castChanged tells all hosts the registers that are news to us; each that
// learns something from it does the same. What is too long for a broadcast is
// only pointed to.
func (c *core) castChanged() {
	runs := c.ring.Runs(&c.changed)
	c.changed = space.BlockSet{}
	if data := c.pack(wire.State{Runs: runs}); len(data) <= castMost {
		c.out.Casts = append(c.out.Casts, data)
		return
	}
	c.cast(c.digest(0, crypto.Identity{}))
}
