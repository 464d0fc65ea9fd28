package ipam

import (
	"cmp"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/record"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/wire"
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
func (c *core) loadFence(f wire.Fence) {
	switch {
	case f.Initiator == c.cfg.Self && f.Target == c.cfg.Self:
		c.takeover.floor = f.Epoch
		return
	case f.Initiator == c.cfg.Self:
		c.forget(&record.Fence{Fence: f})
		return
	}
	c.takeover.init()
	c.takeover.fences[fenceKey{f.Target, f.Initiator}] = f.Epoch
}

// loadRemoved takes over from the store who was removed.
func (c *core) loadRemoved(s record.Removed) {
	c.takeover.init()
	c.takeover.gone[s.Peer] = s
}

func (k *takeover) init() {
	if k.fences == nil {
		k.fences = make(map[fenceKey]uint64)
		k.gone = make(map[crypto.Identity]record.Removed)
	}
}

func (c *core) putFence(f wire.Fence) {
	c.takeover.init()
	c.takeover.fences[fenceKey{f.Target, f.Initiator}] = f.Epoch
	c.put(&record.Fence{Fence: f})
}

// dropFence lifts a fence, of which the epoch does not matter.
func (c *core) dropFence(f wire.Fence) {
	key := fenceKey{f.Target, f.Initiator}
	if _, ok := c.takeover.fences[key]; ok {
		delete(c.takeover.fences, key)
		c.forget(&record.Fence{Fence: f})
		c.retry()
	}
}

// pending returns the fences that are pending here and match, in order.
func (c *core) pending(match func(fenceKey) bool) []wire.Fence {
	var list []wire.Fence
	for key, epoch := range c.takeover.fences {
		if match(key) {
			list = append(list, wire.Fence{Target: key.target, Initiator: key.initiator, Epoch: epoch})
		}
	}
	slices.SortFunc(list, func(a, b wire.Fence) int {
		return cmp.Or(a.Target.Compare(b.Target), a.Initiator.Compare(b.Initiator))
	})
	return list
}

// fencesAgainst returns the fences with that target.
func (c *core) fencesAgainst(target crypto.Identity) []wire.Fence {
	return c.pending(func(k fenceKey) bool { return k.target == target })
}

// fencesOf returns the fences of that initiator.
func (c *core) fencesOf(initiator crypto.Identity) []wire.Fence {
	return c.pending(func(k fenceKey) bool { return k.initiator == initiator })
}

// fencedPeer reports whether a host's space is being taken over, or was and
// it is not back: it is given nothing.
func (c *core) fencedPeer(id crypto.Identity) bool {
	if c.removed(id) {
		return true
	}
	for key := range c.takeover.fences {
		if key.target == id {
			return true
		}
	}
	return false
}

// fenced reports whether a register is not to be merged now.
func (c *core) fenced(reg ring.Register) bool { return c.fencedBut(reg, crypto.Identity{}) }

// fencedBut is fenced without the fences of one initiator. One with a higher
// epoch than the fence was written by a host that came back, and has taken over
// space itself since.
func (c *core) fencedBut(reg ring.Register, initiator crypto.Identity) bool {
	for key, epoch := range c.takeover.fences {
		if key.target == reg.Giver && key.initiator != initiator && reg.Epoch < epoch {
			return true
		}
	}
	return false
}

// mergePast merges registers like mergeRuns, but past the fences for which it
// is told so.
func (c *core) mergePast(runs []ring.Run, past func(reg ring.Register) bool) {
	if c.ring == nil {
		return
	}
	for _, run := range runs {
		if !past(run.Register) {
			continue
		}
		for block := max(run.First, 0); block < min(run.First+run.Count, c.geo.Blocks()); block++ {
			c.setRegister(block, run.Register)
		}
	}
}

// receiveTakeover handles a message of a takeover, whatever its ring.
func (c *core) receiveTakeover(from crypto.Identity, m wire.Message) {
	switch body := m.Body.(type) {
	case wire.FenceAsk:
		c.receiveFenceAsk(from, body, m.Ring)
	case wire.FencePromise:
		c.receivePromise(from, body, m.Ring)
	case wire.FenceRefuse:
		c.receiveRefusal(from, body)
	case wire.FenceOver:
		c.receiveFenceOver(from, body, m.Ring)
	}
}

// receiveFenceAsk promises or refuses.
func (c *core) receiveFenceAsk(from crypto.Identity, m wire.FenceAsk, theirs ring.ID) {
	if !c.sureness.adopted || !c.peersKnown {
		return // what we hold, or who is alive, is not known yet; it asks again
	}
	refuse := wire.FenceRefuse{Op: m.Op, Epoch: c.highestEpoch()}
	for _, id := range m.Targets {
		if c.reached(id) {
			refuse.Why, refuse.Peer = wire.RefuseAlive, id
			c.send(from, refuse)
			return
		}
	}
	if slices.Contains(m.Targets, from) || c.removed(from) {
		return
	}
	if a := c.takeover.attempt; a != nil && a.epoch > 0 {
		if c.cfg.Self.Compare(from) < 0 {
			refuse.Why = wire.RefuseBusy
			c.send(from, refuse)
			return
		}
		// From now on it may know less of our registers than we would make.
		c.putOff()
	}
	if !c.promised(from, m) {
		if m.Epoch <= refuse.Epoch {
			refuse.Why = wire.RefuseEpoch
			c.send(from, refuse)
			return
		}
		c.dropStale(from, m.Epoch)
		for _, id := range m.Targets {
			c.putFence(wire.Fence{Target: id, Initiator: from, Epoch: m.Epoch})
			// What it gives us for these would be used past the promise.
			c.closeAsksOf(id)
		}
	}
	promise := wire.FencePromise{
		Op: m.Op, Epoch: c.highestEpoch(), Known: c.mayHold(m.Targets),
		Removed: c.removedPeers(), Attached: c.attachedOf(m.Targets),
	}
	if c.ring != nil && theirs == c.ring.ID() {
		promise.Runs, promise.Held = c.ring.AllRuns(), c.heldElsewhere()
	}
	c.send(from, promise)
}

// dropStale drops the fences of an earlier attempt against hosts that do not
// matter here: no host can pile up more of them than fit into one message.
func (c *core) dropStale(initiator crypto.Identity, epoch uint64) {
	for _, f := range c.fencesOf(initiator) {
		if f.Epoch < epoch && !c.concerns(f.Target) {
			c.dropFence(f)
		}
	}
}

// promised reports whether all that is asked was promised already.
func (c *core) promised(initiator crypto.Identity, m wire.FenceAsk) bool {
	for _, id := range m.Targets {
		if epoch, ok := c.takeover.fences[fenceKey{id, initiator}]; !ok || epoch != m.Epoch {
			return false
		}
	}
	return true
}

// receiveFenceOver takes over what came of an attempt, and lifts its fences.
// Those of another attempt of the same host stay.
//
// If space was taken, a fence is lifted only when this host knows all that was
// taken: another fence, of a takeover of the sender's own space, may keep some
// of it out. That one has a higher epoch, so of several fences that with the
// highest can always be lifted.
func (c *core) receiveFenceOver(from crypto.Identity, m wire.FenceOver, theirs ring.ID) {
	// Before its blocks are another's: a host of which we knew no more than these.
	gone := slices.DeleteFunc(slices.Clone(m.Targets), func(id crypto.Identity) bool { return !c.concerns(id) })
	if theirs == c.ringID() {
		c.mergePast(m.Runs, func(reg ring.Register) bool { return !c.fencedBut(reg, from) })
		if m.Taken && !c.knowsFrom(m.Epoch, m.Runs) {
			return
		}
	}
	for _, id := range m.Targets {
		if c.takeover.fences[fenceKey{id, from}] == m.Epoch {
			c.dropFence(wire.Fence{Target: id, Initiator: from})
		}
	}
	if m.Taken {
		for _, id := range gone {
			c.takeGone(wire.Removed{Peer: id, Epoch: m.Epoch})
			c.expel(id)
		}
	}
	c.hurryTakeover()
}

// knowsFrom reports whether all registers in runs with that epoch or a higher
// one are known, or have been replaced.
func (c *core) knowsFrom(epoch uint64, runs []ring.Run) bool {
	if c.ring == nil {
		return true
	}
	for _, run := range runs {
		for block := max(run.First, 0); block < min(run.First+run.Count, c.geo.Blocks()); block++ {
			if run.Register.Epoch >= epoch && run.Register.Beats(c.ring.Register(block)) {
				return false
			}
		}
	}
	return true
}

// hurryTakeover begins an attempt that was put off as soon as there is no
// fence of somebody alive left.
func (c *core) hurryTakeover() {
	if k := &c.takeover; !k.again.IsZero() && !c.disturbed(nil) {
		k.again = c.now
	}
}

// disturbed reports whether somebody who is alive, and not one of the targets,
// has a fence here. What this host learns meanwhile may lack something.
func (c *core) disturbed(targets []crypto.Identity) bool {
	for key := range c.takeover.fences {
		if key.initiator != c.cfg.Self && c.alive(key.initiator) && !slices.Contains(targets, key.initiator) {
			return true
		}
	}
	return false
}

// askInitiators asks, now and then, what became of the takeovers for which
// there are fences here.
func (c *core) askInitiators() {
	k := &c.takeover
	waiting := make(map[crypto.Identity]bool)
	for key := range k.fences {
		if key.initiator != c.cfg.Self && c.alive(key.initiator) {
			waiting[key.initiator] = true
		}
	}
	switch {
	case len(waiting) == 0:
		k.askAt = time.Time{}
	case k.askAt.IsZero():
		k.askAt = c.now.Add(fenceTime)
		c.wakeAt(k.askAt)
	case c.due(k.askAt):
		k.askAt = c.now.Add(fenceTime)
		c.wakeAt(k.askAt)
		for _, id := range sortedIDs(waiting) {
			c.exchange(c.peers[id])
		}
	}
}

// toldFences answers a host that has fences of ours pending which are not, as
// our word that they are over was lost, or came before them.
func (c *core) toldFences(from crypto.Identity, pending []wire.Fence) {
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
		m := wire.FenceOver{Targets: union(over[o], nil), Epoch: o.epoch, Taken: o.taken}
		if o.taken && c.ring != nil {
			m.Runs = c.ring.AllRuns()
		}
		c.send(from, m)
	}
}

// highestEpoch returns the highest epoch that this host ever heard of and
// that may still matter.
func (c *core) highestEpoch() uint64 {
	var highest uint64
	if c.ring != nil {
		for block := range c.geo.Blocks() {
			highest = max(highest, c.ring.Register(block).Epoch)
		}
	}
	for _, epoch := range c.takeover.fences {
		highest = max(highest, epoch)
	}
	for _, g := range c.takeover.gone {
		highest = max(highest, g.Epoch)
	}
	return highest
}
