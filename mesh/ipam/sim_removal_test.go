package ipam

import (
	"errors"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
)

// remove switches a host off and lets others take its space over.
func (w *world) remove(p *host) {
	if !w.takeover || len(w.running()) < 3 || w.truth.ring.IsZero() {
		return
	}
	if w.force && w.p(0.7) {
		w.removeLive(p)
		return
	}
	targets := []*host{p}
	for _, h := range w.hosts {
		if h != p && !h.left && !h.removed && !h.leaving && (h.down || !h.on && w.p(0.5)) && len(targets) < 3 {
			targets = append(targets, h)
		}
	}
	for _, h := range targets {
		h.reboot("switched off")
		h.down = true
	}
	if w.p(0.7) { // or else it is mostly refused, as somebody is out of reach
		w.after(3*time.Second, func() {
			w.net.mend()
			for _, h := range w.hosts {
				if !h.on && !h.down && !h.removed {
					w.revive(h)
				}
			}
		})
	}
	w.after(w.between(3*time.Second, 10*time.Second), func() { w.takeOver(targets) })
	if w.p(0.2) {
		w.after(w.between(3*time.Second, 10*time.Second), func() { w.takeOver(targets) })
	}
}

// removeLive cuts a host off and lets others take its space over although it
// goes on.
func (w *world) removeLive(p *host) {
	friend := w.hosts[w.rnd.IntN(len(w.hosts))]
	w.net.mend()
	w.net.sides(func(h *host) int {
		if h == p || h == friend {
			return 1
		}
		return 0
	})
	w.note(p, "is cut off together with %s, to be removed", friend.nick)
	w.after(w.between(4*time.Second, 8*time.Second), func() {
		by := w.pick(func(h *host) bool {
			return h.core != nil && !h.leaving && h.core.ring != nil && h != p && h.knows(p) && !h.alive[p.n]
		})
		if by != nil {
			w.removing++
			by.ask(nil, func(t ticket) event {
				w.note(by, "%d: rmpeer --force of %s, which runs", t, p.nick)
				return removeEvent{Ticket: t, Peers: []crypto.Identity{p.id}, Force: true}
			}, func(r result) {
				w.removing--
				w.note(by, "rmpeer: %+v %v", r.Taken, r.Err)
				if r.Err == nil {
					w.count["takeovers of live hosts"]++
				}
			})
		}
	})
	w.after(w.between(20*time.Second, 60*time.Second), w.net.mend)
}

// takeOver is `weft rmpeer` of hosts that are switched off. Until it has ended
// they stay off.
func (w *world) takeOver(targets []*host) {
	by := w.pick(func(h *host) bool { return h.core != nil && !h.leaving && h.core.ring != nil })
	var ids []crypto.Identity
	before := make(map[*host]string)
	for _, p := range targets {
		if by != nil && by.knows(p) && p.down && !p.on {
			ids = append(ids, p.id)
			before[p] = p.stale
		}
	}
	if len(ids) == 0 || !w.force && (!w.asksAll(by) || w.forgetful(ids)) {
		w.count["skipped: rmpeer that cannot learn all"]++
		w.release(targets)
		return
	}
	w.removing++
	for p := range before {
		p.stale = beingRemoved
	}
	by.ask(nil, func(t ticket) event {
		w.note(by, "%d: rmpeer of %d hosts", t, len(ids))
		return removeEvent{Ticket: t, Peers: ids, Force: w.force}
	}, func(r result) {
		w.removing--
		w.note(by, "rmpeer: %+v %v", r.Taken, r.Err)
		if r.Err == nil {
			w.count["takeovers"]++
			by.floor = len(by.disk.past)
		} else {
			w.count["takeovers refused"]++
		}
		for _, p := range targets {
			was, asked := before[p]
			switch {
			case asked && (r.Err == nil || errors.Is(r.Err, errNoAnswer)):
				w.wasRemoved(p, r.Err == nil)
			case asked && w.removing == 0:
				p.stale = was
			}
		}
		w.release(targets)
	})
}

// wasRemoved remembers that others own the space of p now, or may do so.
func (w *world) wasRemoved(p *host, sure bool) {
	p.stale, p.removed = wasRemoved, p.removed || sure
	if c := p.probe(); c != nil {
		for a := range c.local {
			w.truth.excused[a] = true
		}
	}
}

// release lets hosts that were to be removed start again, much later.
func (w *world) release(targets []*host) {
	for _, p := range targets {
		w.after(w.between(30*time.Second, 120*time.Second), func() {
			switch {
			case p.on || !p.down || w.calm && p.removed:
			case w.removing > 0:
				w.release([]*host{p})
			default:
				p.down = false
				w.revive(p)
			}
		})
	}
}

// forgetful reports whether somebody who would be asked does not know what it
// gave to the hosts that are to be removed.
func (w *world) forgetful(ids []crypto.Identity) bool {
	return slices.ContainsFunc(w.hosts, func(h *host) bool { return h.stale == oldDisk && !slices.Contains(ids, h.id) })
}

// asksAll reports whether a takeover by h asks everybody that there is, by way
// of those that it knows.
func (w *world) asksAll(h *host) bool {
	asked := make([]bool, len(w.hosts))
	asked[h.n] = true
	list := []*host{h}
	for i := 0; i < len(list); i++ {
		for _, g := range w.hosts {
			if !asked[g.n] && list[i].knows(g) {
				asked[g.n] = true
				list = append(list, g)
			}
		}
	}
	for _, g := range w.hosts {
		if !asked[g.n] && !g.left && !(g.removed && !g.on) && g.advert > 0 {
			return false
		}
	}
	return true
}
