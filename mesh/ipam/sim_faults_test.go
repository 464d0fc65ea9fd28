package ipam

import (
	"math"
	"slices"
	"time"

	"github.com/weftnet/weft/mesh/ipam/space"
)

// act is one operation: something that a user or fate does.
func (w *world) act() {
	if w.p(w.faults) {
		w.fault()
	} else {
		w.use()
	}
}

// nobody lets time pass when no daemon runs; that is not an operation. When
// all are stale they wait for each other, until they are started together.
func (w *world) nobody() {
	w.done--
	w.advance(w.now + time.Second)
	if w.empty++; w.empty%100 == 0 {
		w.net.mend()
		w.startAll()
	}
}

// startAll starts everybody who is not removed; those that were, and came
// back, one by one, so that they meet somebody who knows.
func (w *world) startAll() {
	for _, h := range w.hosts {
		if !h.outcast() && (!h.removed || w.force) {
			h.start()
		}
	}
	for _, h := range w.hosts {
		if h.outcast() && (!h.removed || w.force) {
			w.advance(w.now + 8*time.Second)
			h.start()
		}
	}
}

// outcast reports whether a host was removed, or perhaps was, and has not
// found that out.
func (h *host) outcast() bool { return h.stale == wasRemoved || h.stale == beingRemoved }

// fault does one thing that goes wrong.
func (w *world) fault() {
	h := w.pick(func(h *host) bool { return h.on && !h.leaving })
	if h == nil {
		w.nobody()
		return
	}
	switch x := w.rnd.IntN(100); {
	case w.p(w.rules.remove):
		w.remove(h)
	case x < 28:
		h.doom = doom(1 + w.rnd.IntN(int(dooms)-1))
		w.reviveLater(h)
	case x < 36:
		h.stop("stopped")
		w.reviveLater(h)
	case x < 44:
		h.reboot("machine restarts")
		w.reviveLater(h)
	case x < 49:
		w.oldCopy(h)
	case x < 67:
		w.partition(h)
	case x < 73:
		h.disk.fails += 1 + w.rnd.IntN(4)
	case x < 78:
		h.jump()
	case x < 83:
		h.freeze()
	case x < 90:
		w.join()
	case x < 96:
		w.remove(h)
	case x < 98:
		h.leave()
	default:
		h.ask(nil, func(t ticket) event { return primeEvent{t} }, func(result) {})
	}
}

// reviveLater starts a host again after a while, unless its machine is off.
func (w *world) reviveLater(h *host) {
	life := h.life
	w.after(w.outage(), func() {
		if h.on && h.life == life && h.doom != doomNone {
			h.crash("late") // there was nothing to save
		}
		if !h.on && !h.down {
			w.revive(h)
		}
	})
}

// outage returns how long a host is away: some milliseconds as often as some
// seconds or a minute.
func (w *world) outage() time.Duration {
	return time.Duration(float64(20*time.Millisecond) * math.Exp(w.rnd.Float64()*math.Log(3000)))
}

// revive starts a host, and some of what ran on it.
func (w *world) revive(h *host) {
	company := func(b *host) bool { return b != h && w.net.reaches(h, b) && !(h.outcast() && b.outcast()) }
	rival := func(b *host) bool { return b != h && b.on && h.outcast() && b.outcast() }
	if h.stale != "" && !w.force && !w.calm && (w.pick(company) == nil || w.pick(rival) != nil) {
		w.count["put off: stale and alone"]++
		w.after(w.between(time.Second, 5*time.Second), func() {
			if !h.on && !h.down {
				w.revive(h)
			}
		})
		return
	}
	if !w.noClock && w.p(0.1) {
		h.skew += w.between(-time.Hour, time.Hour)
	}
	h.start()
	if !w.calm && w.p(0.5) {
		for _, p := range slices.Clone(h.dead) {
			if w.p(0.5) {
				h.restart(p)
			}
		}
	}
}

// jump makes the clock of a running host jump ahead, as it does when a machine
// was asleep.
func (h *host) jump() {
	if h.w.noClock || h.hasty() {
		return
	}
	d := h.w.between(time.Second, time.Hour)
	h.w.note(h, "clock jumps by %v", d)
	h.skew += d
	h.push(tickEvent{})
}

// freeze stops a host's daemon for a while.
func (h *host) freeze() {
	if !h.hasty() {
		h.frozen = h.w.now + h.w.between(time.Second, 25*time.Second)
		h.w.note(h, "is frozen until %v", h.frozen)
		h.w.net.notice()
		h.w.after(h.frozen-h.w.now, h.w.net.notice)
	}
}

// hasty reports whether a host would, after a jump of its clock, go on alone
// without having looked for others.
func (h *host) hasty() bool {
	if h.stale != "" && !h.w.force {
		h.w.count["skipped: stale and in no time"]++
		return true
	}
	return false
}

// oldCopy crashes a host and starts it with an older state of its disk, or
// none.
func (w *world) oldCopy(h *host) {
	if !w.oldDisk {
		return
	}
	if !w.force && slices.ContainsFunc(w.hosts, func(g *host) bool { return g.down }) {
		w.count["skipped: old copy while others are removed"]++
		return
	}
	h.stop("its disk is replaced")
	h.disks++
	if w.p(0.6) {
		h.reboot("its disk is replaced")
	}
	n := len(h.disk.past)
	switch {
	case h.floor > 0 && !w.force:
		w.count["old copies that know who took space"]++
		h.disk.restore(h.floor + w.rnd.IntN(n-h.floor+1))
	case w.p(0.3):
		h.disk.wipe()
	default:
		h.disk.restore(w.rnd.IntN(n + 1))
	}
	w.note(h, "goes back by %d of %d saves", n-len(h.disk.past), n)
	h.stale = oldDisk
	w.count["old copies"]++
	w.truth.forget(h)
	w.reviveLater(h)
}

// watch stops a stale host that reaches nobody: that it must ask somebody
// before it allocates is only a promise for when somebody is there.
func (h *host) watch() {
	w, life := h.w, h.life
	var again func()
	again = func() {
		if h.life != life || h.stale == "" {
			return
		}
		if h.core == nil {
			w.after(time.Second, again)
			return
		}
		if s := h.core.sureness; !s.mustMeet && !s.unproven {
			w.note(h, "is sure again")
			h.stale = ""
			w.truth.alone(h, h.mine)
			return
		}
		if slices.Contains(h.alive, true) {
			h.lonely = w.now
		}
		if w.now-h.lonely > 8*time.Second && !w.force {
			w.count["stopped: stale and alone"]++
			h.stop("it is stale and alone")
			w.reviveLater(h)
			return
		}
		w.after(time.Second, again)
	}
	again()
}

// partition changes who hears whom.
func (w *world) partition(h *host) {
	if w.calm {
		return
	}
	n := len(w.hosts)
	switch w.rnd.IntN(5) {
	case 0: // into two or three
		side, groups := make([]int, n), 2+w.rnd.IntN(2)
		for i := range side {
			side[i] = w.rnd.IntN(groups)
		}
		w.note(nil, "parts into %v", side)
		w.net.sides(func(h *host) int { return side[h.n] })
	case 1: // one from the others
		w.note(h, "is cut off")
		w.net.sides(func(g *host) int {
			if g == h {
				return 1
			}
			return 0
		})
	case 2: // one pair, one way
		g := w.hosts[w.rnd.IntN(n)]
		w.note(h, "is not heard by %s", g.nick)
		w.net.cut[h.n][g.n] = g != h
		w.net.notice()
	case 3: // one host, one way
		out := w.p(0.5)
		w.note(h, "is heard by nobody or hears nobody: %v", out)
		for _, g := range w.hosts {
			if out {
				w.net.cut[h.n][g.n] = g != h
			} else {
				w.net.cut[g.n][h.n] = g != h
			}
		}
		w.net.notice()
	default:
		w.note(nil, "joins up")
		w.net.mend()
		return
	}
	w.after(10*w.outage(), func() {
		if w.p(0.7) {
			w.note(nil, "joins up")
			w.net.mend()
		}
	})
}

// join launches another host. Before the first division it could be in a
// majority of its own (see the top of sim_test.go).
func (w *world) join() {
	if len(w.hosts) >= len(w.net.cut) {
		return
	}
	if w.truth.ring.IsZero() {
		w.count["skipped: join before the division"]++
		return
	}
	h := w.add()
	w.note(h, "is launched")
	h.start()
}

// leave hands a host's space over and lets it go for good.
func (h *host) leave() {
	w := h.w
	if !w.leave || h.stale != "" || len(w.running()) < 3 {
		return
	}
	w.note(h, "resets with %d containers", len(h.pods))
	h.leaving = true
	for _, p := range slices.Clone(h.pods) {
		if p.call != nil {
			p.call.cancel()
		}
		p.end(true)
	}
	h.ask(nil, func(t ticket) event { return handOverEvent{t} }, func(r result) {
		h.leaving = false
		w.note(h, "handed over %d to %s: %v", r.IPs, w.title(r.To), r.Err)
		if r.Err != nil {
			w.count["hand-overs refused"]++
			for _, p := range h.dead {
				h.push(diedEvent{p.key})
			}
			return
		}
		w.count["hand-overs"]++
		if to := w.byID[r.To]; to != nil {
			to.floor = len(to.disk.past)
		}
		h.stop("it leaves")
		h.left, h.advert, h.mine, h.dead = true, gone, space.BlockSet{}, nil
		for _, g := range w.hosts {
			if g != h && !w.net.cut[h.n][g.n] {
				w.after(w.between(10*time.Millisecond, time.Second), func() { w.net.hear(g, h.n, gone) })
			}
		}
	})
}

func (w *world) running() []*host {
	return slices.DeleteFunc(slices.Clone(w.hosts), func(h *host) bool { return !h.on })
}
