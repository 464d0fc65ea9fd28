package ipam

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/record"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

const (
	fenceTime = 5 * time.Second // how long others may take to promise
	fenceAsk  = time.Second     // after which who has not answered is asked again
	// epochStep is the largest step of an epoch. Each attempt of a host has a
	// higher one, so that what is late from an earlier one says nothing of it.
	// Steps are random for the sake of hosts that forgot the earlier one, since
	// they were restored from an old copy of their disk.
	epochStep = 1 << 16
)

// takeover takes over the space of hosts that are gone, and keeps what this
// host promised to others that do. See fence.go for that other half.
//
//	asking ──── all known hosts promised ───────▶ taken, told to all
//	  ├── 5 s, somebody reaches a target ───────▶ given up, told to all
//	  ├── 5 s, somebody does not answer ────────▶ given up, or taken with --force
//	  └── one with a smaller identity is at it ─▶ given up, again when that is over
type takeover struct {
	// Owned by the run loop; on the disk, too.

	fences map[fenceKey]uint64                // promises that are pending: epoch
	gone   map[crypto.Identity]record.Removed // by peer; see removedEpoch
	floor  uint64                             // highest epoch that this host ever asked with; kept as a fence against itself

	// Owned by the run loop.

	queue   []*removal // requests of this host, the first of which is at it
	attempt *attempt   // nil: none, or put off
	again   time.Time  // when one that was put off begins again
	askAt   time.Time  // when the initiators of fences are asked what became of them

	forgetAt time.Time // when those of gone that matter no more are looked for
}

// removal is one rmpeer.
type removal struct {
	ticket ticket
	ids    []crypto.Identity // ascending
	force  bool
	again  bool                      // all were removed before
	taken  map[crypto.Identity]Taken // what is done already
	reason string                    // as last told
}

// attempt asks everybody for one removal.
type attempt struct {
	op       uint64
	epoch    uint64
	targets  []crypto.Identity // ascending
	asked    map[crypto.Identity]bool
	promises map[crypto.Identity]wire.FencePromise
	refusals map[crypto.Identity]wire.FenceRefuse
	deadline time.Time
	askAt    time.Time
}

// refusedError is an [ErrRefused] that says no more than why.
type refusedError string

func (e refusedError) Error() string        { return string(e) }
func (e refusedError) Is(target error) bool { return target == ErrRefused }

// startTakeover begins a removal, or puts it behind the one that is going on.
func (c *core) startTakeover(t ticket, ids []crypto.Identity, force bool) {
	ids = union(ids, nil)
	if slices.Contains(ids, c.cfg.Self) {
		c.finish(t, result{Err: refusedError("this host cannot be removed by itself; use 'weft reset'")})
		return
	}
	k := &c.takeover
	again := !slices.ContainsFunc(ids, func(id crypto.Identity) bool { return !c.removed(id) })
	k.queue = append(k.queue, &removal{ticket: t, ids: ids, force: force, again: again, taken: make(map[crypto.Identity]Taken)})
}

// cancelTakeover ends a removal that is not done.
func (c *core) cancelTakeover(t ticket) bool {
	k := &c.takeover
	i := slices.IndexFunc(k.queue, func(r *removal) bool { return r.ticket == t })
	if i < 0 {
		return false
	}
	if i == 0 {
		c.giveUp()
		k.again = time.Time{}
	}
	k.queue = slices.Delete(k.queue, i, i+1)
	c.finish(t, result{Err: errCancelled})
	return true
}

// stepTakeover goes on with the first removal of the queue.
func (c *core) stepTakeover() {
	k := &c.takeover
	c.noticeReturns()
	c.askInitiators()
	for len(k.queue) > 0 {
		r := k.queue[0]
		if k.attempt == nil && !c.beginAttempt(r) {
			return
		}
		taken, err, done := c.goOn(r)
		if !done {
			return
		}
		if err != nil {
			c.giveUp()
		}
		k.queue = k.queue[1:]
		c.finish(r.ticket, result{Taken: taken, Err: err})
	}
}

// beginAttempt begins to ask, unless it was put off or there is nothing to
// ask: then the attempt has no targets. It returns false while it is put off.
func (c *core) beginAttempt(r *removal) bool {
	k := &c.takeover
	if !k.again.IsZero() && !c.due(k.again) || !c.peersKnown {
		return false
	}
	k.again = time.Time{}
	a := &attempt{
		asked:    make(map[crypto.Identity]bool),
		promises: make(map[crypto.Identity]wire.FencePromise),
		refusals: make(map[crypto.Identity]wire.FenceRefuse),
	}
	for _, id := range r.ids {
		if blocks := c.blocksOf(id); !c.removed(id) || !blocks.Empty() {
			a.targets = append(a.targets, id)
		} else if _, done := r.taken[id]; !done {
			r.taken[id] = Taken{Peer: id, Released: c.releaseByHand(id, r.force)}
		}
	}
	if len(a.targets) > 0 && c.targetAlive(a) == nil {
		if c.disturbed(a.targets) {
			c.waitForOther(r)
			return false
		}
		c.fence(a, 0)
	}
	k.attempt = a
	return true
}

// fence makes an attempt ask from the beginning, with an epoch above all that
// are known and above.
func (c *core) fence(a *attempt, above uint64) {
	for _, id := range a.targets {
		c.dropFence(wire.Fence{Target: id, Initiator: c.cfg.Self})
	}
	// Epochs of takeovers are even, see removedEpoch.
	highest := max(c.highestEpoch(), c.takeover.floor, above)
	a.op, a.epoch = c.nextOp(), (highest+2)&^1+2*c.rand.Uint64N(epochStep/2)
	c.takeover.floor = a.epoch
	c.put(&record.Fence{Fence: wire.Fence{Target: c.cfg.Self, Initiator: c.cfg.Self, Epoch: a.epoch}})
	for _, id := range a.targets {
		c.putFence(wire.Fence{Target: id, Initiator: c.cfg.Self, Epoch: a.epoch})
	}
	clear(a.promises)
	clear(a.refusals)
	a.deadline, a.askAt = c.now.Add(fenceTime), time.Time{}
	for _, id := range c.mayHold(a.targets) {
		a.asked[id] = true
	}
}

// goOn does what is due in an attempt and reports whether it is done.
func (c *core) goOn(r *removal) (taken []Taken, err error, done bool) {
	a := c.takeover.attempt
	if len(a.targets) == 0 {
		c.takeover.attempt = nil
		return r.results(), c.freedNothing(r), true
	}
	if err := c.targetAlive(a); err != nil {
		return nil, err, true
	}
	for _, id := range sortedIDs(a.asked) {
		if c.removed(id) && !c.alive(id) {
			delete(a.asked, id) // by somebody else, as we were told just now
		}
	}
	missing := slices.DeleteFunc(sortedIDs(a.asked), func(id crypto.Identity) bool {
		_, ok := a.promises[id]
		return ok
	})
	if len(missing) == 0 || c.cfg.sabotage.unasked {
		return c.finishTakeover(r, a), nil, true
	}
	if c.due(a.deadline) {
		if err := c.refusal(a); err != nil {
			return nil, err, true
		}
		if !r.force {
			return nil, c.outOfReach(a, missing), true
		}
		return c.finishTakeover(r, a), nil, true
	}
	if a.askAt.IsZero() || c.due(a.askAt) {
		a.askAt = c.now.Add(fenceAsk)
		c.wakeAt(a.askAt)
		for _, id := range missing {
			c.send(id, wire.FenceAsk{Op: a.op, Targets: a.targets, Epoch: a.epoch})
		}
	}
	c.tell(r, fmt.Sprintf("asking %s what %s gave them", shortened(c.titles(missing)), strings.Join(c.titles(a.targets), " and ")))
	return nil, nil, false
}

func (c *core) tell(r *removal, reason string) {
	if reason != r.reason {
		r.reason = reason
		c.wait(r.ticket, reason)
	}
}

func (r *removal) results() []Taken {
	var list []Taken
	for _, id := range r.ids {
		list = append(list, r.taken[id])
	}
	return list
}

// targetAlive returns an error if one of the targets answers.
func (c *core) targetAlive(a *attempt) error {
	for _, id := range a.targets {
		if c.reached(id) {
			return refusedError(c.title(id) + " counts as alive (its death is noticed within half a minute); stop it first, or wait")
		}
	}
	return nil
}

// refusal returns an error if somebody reaches one of the targets.
func (c *core) refusal(a *attempt) error {
	for _, id := range sortedIDs(a.refusals) {
		m := a.refusals[id]
		if _, promised := a.promises[id]; promised || m.Why != wire.RefuseAlive {
			continue
		}
		return refusedError(fmt.Sprintf("%s reaches %s; stop it first", c.title(id), c.title(m.Peer)))
	}
	return nil
}

// outOfReach says who did not answer.
func (c *core) outOfReach(a *attempt, missing []crypto.Identity) error {
	targets := strings.Join(c.titles(a.targets), " and ")
	verb, them, they := "is", "it", "it is"
	if len(missing) > 1 {
		verb, them, they = "are", "them", "they are"
	}
	return refusedError(fmt.Sprintf("%s %s out of reach and may hold space that %s gave away: name %s too if %s gone, "+
		"or use --force (an address may then be given twice)", strings.Join(c.titles(missing), " and "), verb, targets, them, they))
}

// giveUp ends the attempt and lifts its fences everywhere. Who does not hear
// of it asks in its next digest.
func (c *core) giveUp() {
	a := c.takeover.attempt
	c.takeover.attempt = nil
	if a == nil || a.epoch == 0 {
		return
	}
	for _, id := range a.targets {
		c.dropFence(wire.Fence{Target: id, Initiator: c.cfg.Self})
	}
	for _, id := range sortedIDs(a.asked) {
		c.send(id, wire.FenceOver{Op: a.op, Targets: a.targets, Epoch: a.epoch})
	}
}

// putOff gives up for now, since another host is at it.
func (c *core) putOff() {
	if k := &c.takeover; k.attempt != nil {
		c.giveUp()
		c.waitForOther(k.queue[0])
	}
}

func (c *core) waitForOther(r *removal) {
	k := &c.takeover
	k.again = c.now.Add(c.jitter(2 * time.Second))
	c.wakeAt(k.again)
	c.tell(r, "another host is taking over space; this one goes on after that")
}

// receivePromise counts an answer. Its registers are taken whether or not
// anything comes of the attempt: its sender had them before it promised.
func (c *core) receivePromise(from crypto.Identity, m wire.FencePromise, theirs ring.ID) {
	a := c.takeover.attempt
	if a == nil || a.epoch == 0 || m.Op != a.op || !a.asked[from] {
		return
	}
	if c.ring == nil && !theirs.IsZero() || c.disturbed(a.targets) {
		return // first its ring must become ours, or the other fence end; it is asked again
	}
	if m.Epoch != a.epoch {
		if m.Epoch > a.epoch {
			c.fence(a, m.Epoch)
		}
		return // of an attempt before this one
	}
	if theirs != c.ringID() {
		// It has no part in our ring and holds nothing of it.
		m.Runs, m.Held = nil, nil
	}
	c.mergePast(m.Runs, func(ring.Register) bool { return true })
	c.learnRemoved(m.Removed)
	a.promises[from] = m
	for _, id := range m.Known {
		if id != c.cfg.Self && !a.asked[id] && !c.removed(id) && !slices.Contains(a.targets, id) {
			a.asked[id], a.askAt = true, time.Time{}
			a.deadline = c.now.Add(fenceTime)
		}
	}
}

// receiveRefusal notes why somebody does not promise; it is asked again until
// the deadline.
func (c *core) receiveRefusal(from crypto.Identity, m wire.FenceRefuse) {
	a := c.takeover.attempt
	if a == nil || a.epoch == 0 || m.Op != a.op || !a.asked[from] {
		return
	}
	switch m.Why {
	case wire.RefuseBusy:
		if from.Compare(c.cfg.Self) < 0 {
			c.putOff()
		}
	case wire.RefuseEpoch:
		if m.Epoch >= a.epoch {
			c.fence(a, m.Epoch)
		}
	case wire.RefuseAlive:
		a.refusals[from] = m
	}
}
