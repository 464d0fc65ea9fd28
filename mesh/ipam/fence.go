package ipam

import (
	"cmp"
	"slices"

	"github.com/weftnet/weft/crypto"
)

// This file is the part of takeover that everybody has: fences, which are
// promises to somebody who takes a host's space over, and the memory of who
// was removed.
//
// While a fence is pending here, no register that its target wrote is merged.
// So what the promise said is all that this host will ever know of what the
// target gave away, until the initiator says that it is over; after that the
// higher epoch keeps out what was under way.

type fenceKey struct{ target, initiator crypto.Identity }

// loadFence takes over a fence from the store. One of our own is of an attempt
// that ended with the process.
func (c *core) loadFence(f Fence) {
	switch {
	case f.Initiator == c.cfg.Self && f.Target == c.cfg.Self:
		c.takeover.floor = f.Epoch
		return
	case f.Initiator == c.cfg.Self:
		c.forget(&storedFence{f})
		return
	}
	c.takeover.init()
	c.takeover.fences[fenceKey{f.Target, f.Initiator}] = f.Epoch
}

// loadRemoved takes over from the store who was removed.
func (c *core) loadRemoved(s storedRemoved) {
	c.takeover.init()
	c.takeover.gone[s.Peer] = s
}

func (k *takeover) init() {
	if k.fences == nil {
		k.fences = make(map[fenceKey]uint64)
		k.gone = make(map[crypto.Identity]storedRemoved)
	}
}

func (c *core) putFence(f Fence) {
	c.takeover.init()
	c.takeover.fences[fenceKey{f.Target, f.Initiator}] = f.Epoch
	c.put(&storedFence{f})
}

// dropFence lifts a fence, of which the epoch does not matter.
func (c *core) dropFence(f Fence) {
	key := fenceKey{f.Target, f.Initiator}
	if _, ok := c.takeover.fences[key]; ok {
		delete(c.takeover.fences, key)
		c.forget(&storedFence{f})
		c.retry()
	}
}

// pending returns the fences that are pending here and match, in order.
func (c *core) pending(match func(fenceKey) bool) []Fence {
	var list []Fence
	for key, epoch := range c.takeover.fences {
		if match(key) {
			list = append(list, Fence{key.target, key.initiator, epoch})
		}
	}
	slices.SortFunc(list, func(a, b Fence) int {
		return cmp.Or(a.Target.Compare(b.Target), a.Initiator.Compare(b.Initiator))
	})
	return list
}

// fencesAgainst returns the fences with that target.
func (c *core) fencesAgainst(target crypto.Identity) []Fence {
	return c.pending(func(k fenceKey) bool { return k.target == target })
}

// fencesOf returns the fences of that initiator.
func (c *core) fencesOf(initiator crypto.Identity) []Fence {
	return c.pending(func(k fenceKey) bool { return k.initiator == initiator })
}

// fencedPeer reports whether a host's space is being taken over, or was and
// it is not back: it is given nothing.
func (c *core) fencedPeer(id crypto.Identity) bool {
	return c.removed(id) || c.fencedBut(id, crypto.Identity{})
}

// fencedBut leaves out the fences of one initiator.
func (c *core) fencedBut(target, initiator crypto.Identity) bool {
	for key := range c.takeover.fences {
		if key.target == target && key.initiator != initiator {
			return true
		}
	}
	return false
}

// fenced reports whether a register is not to be merged now. Its epoch does
// not matter: the target may have taken over space itself before it died.
func (c *core) fenced(reg Register) bool {
	return c.fencedBut(reg.Giver, crypto.Identity{})
}

// mergeBut merges registers like mergeRuns, but past the fences of one
// initiator.
func (c *core) mergeBut(runs []Run, initiator crypto.Identity) {
	if c.ring == nil {
		return
	}
	for _, run := range runs {
		if c.fencedBut(run.Register.Giver, initiator) {
			continue
		}
		for block := max(run.First, 0); block < min(run.First+run.Count, c.geo.Blocks()); block++ {
			c.setRegister(block, run.Register)
		}
	}
}

// receiveTakeover handles a message of a takeover, whatever its ring.
func (c *core) receiveTakeover(from crypto.Identity, m Message) {
	switch body := m.Body.(type) {
	case FenceAsk:
		c.receiveFenceAsk(from, body, m.Ring)
	case FencePromise:
		c.receivePromise(from, body, m.Ring)
	case FenceRefuse:
		c.receiveRefusal(from, body)
	case FenceOver:
		c.receiveFenceOver(from, body, m.Ring)
	}
}

// receiveFenceAsk promises or refuses.
func (c *core) receiveFenceAsk(from crypto.Identity, m FenceAsk, ring RingID) {
	if !c.sureness.adopted || !c.peersKnown {
		return // what we hold, or who is alive, is not known yet; it asks again
	}
	refuse := FenceRefuse{Op: m.Op, Epoch: c.highestEpoch()}
	for _, id := range m.Targets {
		if c.reached(id) {
			refuse.Why, refuse.Peer = RefuseAlive, id
			c.send(from, refuse)
			return
		}
	}
	if slices.Contains(m.Targets, from) || c.removed(from) {
		return
	}
	if a := c.takeover.attempt; a != nil && a.epoch > 0 {
		if c.cfg.Self.Compare(from) < 0 {
			refuse.Why = RefuseBusy
			c.send(from, refuse)
			return
		}
		// From now on it may know less of our registers than we would make.
		c.putOff(from)
	}
	if !c.promised(from, m) {
		if m.Epoch <= refuse.Epoch {
			refuse.Why = RefuseEpoch
			c.send(from, refuse)
			return
		}
		for _, id := range m.Targets {
			c.putFence(Fence{Target: id, Initiator: from, Epoch: m.Epoch})
			// What it gives us for these would be used past the promise.
			c.closeAsksOf(id)
		}
	}
	promise := FencePromise{
		Op: m.Op, Epoch: c.highestEpoch(), Known: c.mayHold(m.Targets),
		Removed: c.removedPeers(), Attached: c.attachedOf(m.Targets),
	}
	if c.ring != nil && ring == c.ring.id {
		promise.Runs, promise.Held = c.ring.AllRuns(), c.heldElsewhere()
	}
	c.send(from, promise)
}

// promised reports whether all that is asked was promised already.
func (c *core) promised(initiator crypto.Identity, m FenceAsk) bool {
	for _, id := range m.Targets {
		if epoch, ok := c.takeover.fences[fenceKey{id, initiator}]; !ok || epoch != m.Epoch {
			return false
		}
	}
	return true
}

// receiveFenceOver takes over what came of an attempt, and lifts its fences.
// Those of another attempt of the same host stay.
func (c *core) receiveFenceOver(from crypto.Identity, m FenceOver, ring RingID) {
	if c.fencedBut(from, crypto.Identity{}) {
		return // its own space is being taken over, by somebody who knows what it had
	}
	if ring == c.ringID() {
		c.mergeBut(m.Runs, from)
	}
	for _, id := range m.Targets {
		if c.takeover.fences[fenceKey{id, from}] == m.Epoch {
			c.dropFence(Fence{Target: id, Initiator: from})
		}
	}
	if m.Taken {
		for _, id := range m.Targets {
			c.learnRemoved([]Removed{{id, m.Epoch}})
		}
	}
	c.hurryTakeover()
}

// hurryTakeover begins an attempt that was put off as soon as there is no
// fence of somebody alive left.
func (c *core) hurryTakeover() {
	k := &c.takeover
	if !k.again.IsZero() && len(c.pending(func(f fenceKey) bool { return c.alive(f.initiator) })) == 0 {
		k.again = c.now
	}
}

// toldFences answers a host that has fences of ours pending which are not, as
// our word that they are over was lost, or came before them.
func (c *core) toldFences(from crypto.Identity, pending []Fence) {
	type outcome struct {
		epoch uint64
		taken bool
	}
	over := make(map[outcome][]crypto.Identity)
	for _, f := range pending {
		if f.Initiator != c.cfg.Self {
			continue
		}
		if epoch, ok := c.takeover.fences[fenceKey{f.Target, c.cfg.Self}]; ok && epoch == f.Epoch {
			continue // still at it
		}
		o := outcome{f.Epoch, c.takeover.gone[f.Target].Epoch&^1 == f.Epoch}
		over[o] = append(over[o], f.Target)
	}
	order := func(a, b outcome) int { return cmp.Compare(a.epoch, b.epoch) }
	for _, o := range sortedKeys(over, order) {
		m := FenceOver{Targets: union(over[o], nil), Epoch: o.epoch, Taken: o.taken}
		if o.taken && c.ring != nil {
			m.Runs = c.ring.AllRuns()
		}
		c.send(from, m)
	}
}

// Who was removed is a number that only grows, so that hosts agree whatever
// they hear first: the epoch of the takeover, which is even, and one more as
// soon as anybody saw the host again.

// removedEpoch returns the epoch of the takeover of a host, and false for one
// that was not removed or has come back since.
func (c *core) removedEpoch(id crypto.Identity) (uint64, bool) {
	g, ok := c.takeover.gone[id]
	return g.Epoch &^ 1, ok && g.Epoch&1 == 0
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
		if g := c.takeover.gone[id]; g.Epoch&1 == 0 && c.alive(id) {
			g.Epoch |= 1
			c.setGone(g.Removed)
		}
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
	if _, unmet := placeholderName(r.Peer); unmet || r.Epoch&1 == 1 || c.alive(r.Peer) {
		return
	}
	// What it was about to take over it will not.
	for _, f := range c.fencesOf(r.Peer) {
		c.dropFence(f)
	}
	c.out.Expels = append(c.out.Expels, r.Peer)
	c.retry()
}
