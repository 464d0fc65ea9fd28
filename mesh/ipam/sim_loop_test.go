package ipam

import (
	"maps"
	"slices"
	"time"
)

// What Allocator.Run does with a core, a store and a network, the host does
// here, with crashes in between.

// push hands an event to the run loop.
func (h *host) push(e event) {
	if h.on {
		h.inbox = append(h.inbox, e)
		h.plan(h.w.between(0, 2*time.Millisecond))
	}
}

// plan makes the run loop run d from now.
func (h *host) plan(d time.Duration) {
	if h.busy {
		return
	}
	h.busy = true
	life := h.life
	h.w.after(max(d, h.frozen-h.w.now), func() {
		if h.life == life {
			h.busy = false
			h.run()
		}
	})
}

// run is one round of the run loop: some events, one save, then their effects.
func (h *host) run() {
	w := h.w
	batch := h.inbox[:min(len(h.inbox), batchMost)]
	h.inbox = h.inbox[len(batch):]
	if len(h.inbox) > 0 {
		h.plan(0)
	}
	for _, e := range batch {
		if _, ok := e.(diedEvent); ok {
			h.died = append(h.died, e)
		}
	}
	if h.core == nil {
		asks := slices.ContainsFunc(batch, func(e event) bool { return ticketOf(e) != 0 })
		if w.now < h.retryAt && !asks || !h.reload() {
			h.refuse(batch)
			h.schedule()
			return
		}
	}
	if len(batch) == 0 {
		batch = []event{tickEvent{}}
	}
	for _, e := range batch {
		if t := ticketOf(e); t != 0 {
			h.open[t] = true
		}
		if !h.step(e) {
			return
		}
	}
	out := h.core.take()
	if h.doom == doomUnsaved {
		h.crash("before its save")
		return
	}
	if err := h.disk.save(out.Writes); err != nil {
		w.count["failed saves"]++
		w.note(h, "save fails in a batch of %d", len(batch))
		h.core, h.retryAt = nil, w.now+storeAgain
		h.refuse(batch)
		h.schedule()
		return
	}
	if h.doom == doomUnmarked {
		h.crash("before its mark")
		return
	}
	h.disk.stamp()
	h.died = nil
	h.proven = h.proven || len(out.Writes) > 0 // what is doubtful about it, it says itself
	w.truth.saved(h)
	if h.doom == doomUnsaid {
		h.crash("before it said anything")
		return
	}
	h.emit(out)
	if h.on {
		h.schedule()
	}
}

// step shows the core an event, and checks what may never be.
func (h *host) step(e event) bool {
	w := h.w
	h.core.step(h.now(), e)
	w.truth.steps++
	// To look at a large ring after every step would take half of the time.
	if w.geo.Blocks() > 1024 && w.truth.steps%16 != 0 {
		return true
	}
	if err := h.core.check(); err != nil {
		w.fail(-1, "%s: invariant after %T: %v", h.nick, e, err)
		return false
	}
	return true
}

// crash ends the run that it happens in. What was written counts.
func (h *host) crash(where string) {
	h.w.count["crashes"]++
	if h.doom != doomUnsaved && h.core != nil {
		h.w.truth.saved(h)
	}
	if h.w.p(0.3) {
		h.reboot("machine crashes " + where)
	} else {
		h.stop("crashes " + where)
	}
}

// refuse answers the requests of a batch that came to nothing. What was found
// attached at the start is true in any case.
func (h *host) refuse(batch []event) {
	for _, e := range batch {
		t := ticketOf(e)
		if _, ok := e.(adoptEvent); ok {
			h.open[t] = true
		} else if t != 0 {
			h.answer(t, result{Err: errDiskFull})
		}
	}
	for _, e := range batch {
		if e, ok := e.(cancelEvent); ok && h.open[e.Ticket] {
			h.answer(e.Ticket, result{Err: errCancelled})
		}
	}
}

// reload makes a core of what is on the disk, and shows it everything that is
// known.
func (h *host) reload() bool {
	stored, _ := h.disk.load()
	if !h.wake(stored, h.proven) {
		return false
	}
	list := []event{h.peersEvent(), h.entriesEvent()}
	var late []event
	for _, t := range sortedKeys(h.open, compareTickets) {
		if e, ok := h.calls[t].event.(adoptEvent); ok {
			list = append(list, e) // what was found at the start is older than any death
		} else {
			late = append(late, h.calls[t].event)
		}
	}
	for _, e := range slices.Concat(list, h.died, late) {
		if !h.step(e) {
			return false
		}
	}
	return h.step(tickEvent{})
}

// answer ends a request.
func (h *host) answer(t ticket, r result) {
	c := h.calls[t]
	if c == nil {
		h.w.fail(-1, "%s answers ticket %d, which nobody waits for: %+v", h.nick, t, r)
		return
	}
	delete(h.open, t)
	c.answer(r)
}

// emit does what a step wants done.
func (h *host) emit(out effects) {
	w := h.w
	half := h.doom == doomHalfSaid
	for i, l := range out.Sends {
		if half && i == len(out.Sends)/2 {
			h.crash("half way")
			return
		}
		w.stir(uint64(len(l.Data)), uint64(l.Data[len(l.Data)-1]))
		if to := w.byID[l.To]; to != nil {
			w.net.send(h, to, l.Data)
		} else {
			w.fail(-1, "%s sends to %s, whom nobody knows", h.nick, l.To)
		}
	}
	for _, data := range out.Casts {
		for _, to := range w.hosts {
			w.net.send(h, to, data)
		}
	}
	if half {
		h.crash("half way")
		return
	}
	if len(out.Puts) > 0 {
		all := make(map[string][]byte, len(h.own.all)+len(out.Puts))
		if h.renewed { // the first of a core are all there are
			maps.Copy(all, h.own.all)
		}
		h.renewed = true
		for k, v := range out.Puts {
			if v == nil {
				delete(all, k)
			} else {
				all[k] = v
			}
		}
		h.own = entries{h.own.version + 1, all}
		w.net.spread(h)
	}
	for _, id := range out.Expels {
		p := w.byID[id]
		if p == nil || h.alive[p.n] { // it came back just now
			continue
		}
		h.expelled[p.n], h.known[p.n] = max(h.known[p.n], h.expelled[p.n]), 0
		h.peersChanged()
	}
	for _, l := range out.Logs {
		w.note(h, "log: %s %v", l.Msg, l.Args)
	}
	for _, a := range out.Waits {
		if c := h.calls[a.Ticket]; c != nil {
			c.reason = a.Reason
		}
	}
	for _, a := range out.Answers {
		h.answer(a.Ticket, a.Result)
	}
}

// schedule plans the tick that the core wants.
func (h *host) schedule() {
	at := h.retryAt
	if h.core != nil {
		at = h.core.wake().Sub(h.now()) + h.w.now
	}
	at = max(at, h.w.now+time.Millisecond)
	if h.tick >= 0 && h.tick <= at && h.tick > h.w.now {
		return
	}
	h.tick = at
	life := h.life
	h.w.after(at-h.w.now, func() {
		if h.life == life && h.tick == at {
			h.tick = -1
			h.plan(0)
		}
	})
}
