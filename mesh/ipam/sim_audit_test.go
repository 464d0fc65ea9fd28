package ipam

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
)

// heal ends every fault: everybody is reached, no letter is lost, disks have
// room, and everybody runs who is not removed for good. Users pause, and time
// passes.
func (w *world) heal() {
	w.calm = true
	w.note(nil, "everything heals")
	w.net.mend()
	for _, h := range w.hosts {
		h.disk.fails, h.frozen, h.doom = 0, 0, doomNone
	}
	w.advance(w.now + 20*time.Second)
	for w.removing > 0 && w.err == nil { // who is being removed has to stay off
		w.advance(w.now + 10*time.Second)
	}
	w.startAll()
	for range 2 { // what is divided only now may have been promised before
		w.advance(w.now + 20*time.Second)
		w.clear()
	}
	w.advance(w.now + 70*time.Second)
}

// clear does what the operator has to do when a host left for good and not
// everybody heard of it, or space was given to it that it never heard of.
func (w *world) clear() {
	var ids []crypto.Identity
	missed := func(h, p *host) bool {
		return h.core != nil && (h.knows(p) || h.core.ring != nil && h.core.ring.Count(p.id) > 0 || len(h.core.fencesOf(p.id)) > 0)
	}
	for _, p := range w.hosts {
		if p.left && slices.ContainsFunc(w.hosts, func(h *host) bool { return missed(h, p) }) {
			ids = append(ids, p.id)
		}
		seed := ring.Placeholder(p.name) // it left before it took its share
		if p.left && slices.ContainsFunc(w.hosts, func(h *host) bool {
			return h.core != nil && h.core.ring != nil && h.core.ring.Count(seed) > 0
		}) {
			ids = append(ids, seed)
		}
	}
	by := w.pick(func(h *host) bool { return h.on })
	if len(ids) == 0 || by == nil {
		return
	}
	w.count["rmpeer of hosts that left"]++
	by.ask(nil, func(t ticket) event {
		w.note(by, "%d: rmpeer of %d hosts that left", t, len(ids))
		return removeEvent{Ticket: t, Peers: ids}
	}, func(r result) {
		w.note(by, "rmpeer: %v", r.Err)
	})
}

// audit compares what every host knows with what is, in a world that healed.
func (w *world) audit() {
	if w.err != nil {
		return
	}
	w.count["audits"]++
	w.auditRings()
	for _, h := range w.hosts {
		if h.on && !h.core.sure() {
			w.fail(-1, "%s is not sure although it could ask everybody", h.nick)
		}
	}
	w.auditAddresses()
	w.auditWaits()
	w.auditDuplicates()
}

// auditRings checks that everybody has the same ring and every block an owner.
func (w *world) auditRings() {
	var first *host
	for _, h := range w.hosts {
		switch {
		case !h.on || h.core.ring == nil:
			if h.on && first != nil {
				w.fail(-1, "%s has no ring and %s has", h.nick, first.nick)
			}
		case first == nil:
			first = h
		case h.core.ring.ID() != first.core.ring.ID() && w.rings:
		case h.core.ring.ID() != first.core.ring.ID():
			w.fail(0, "%s and %s have different rings", first.nick, h.nick)
		case h.core.ring.Hash() != first.core.ring.Hash():
			for b := range w.geo.Blocks() {
				if h.core.ring.Register(b) != first.core.ring.Register(b) {
					w.fail(b, "%s and %s have different registers of block %d", first.nick, h.nick, b)
				}
			}
		}
	}
	if first == nil || w.rings {
		return
	}
	for b := range w.geo.Blocks() {
		reg := first.core.ring.Register(b)
		owner := w.byID[reg.Owner]
		switch {
		case reg.IsZero():
			w.fail(b, "block %d belongs to nobody", b)
		case owner == nil:
			w.fail(b, "block %d belongs to %s, whom nobody knows", b, w.title(reg.Owner))
		case owner.left:
			w.fail(b, "block %d belongs to %s, which left", b, owner.nick)
		case owner.removed && !owner.on:
			w.fail(b, "block %d belongs to %s, which was removed", b, owner.nick)
		}
	}
}

// auditAddresses checks that each host's addresses are those that its
// containers use, and that the owners of foreign ones know of them.
func (w *world) auditAddresses() {
	for _, h := range w.hosts {
		if !h.on || w.err != nil {
			continue
		}
		used := make(map[netip.Addr]*pod)
		for _, p := range h.pods {
			for _, a := range p.addrs {
				used[a] = p
			}
		}
		for _, a := range sortedAddrs(h.core.local) {
			block, _ := w.geo.Block(a)
			switch p := used[a]; {
			case p == nil:
				w.fail(block, "%s keeps %s for %+v, which does not use it", h.nick, a, h.core.local[a])
			case p.key != h.core.local[a].Key:
				w.fail(block, "%s keeps %s for %s, but %s uses it", h.nick, a, h.core.local[a].Key, p.key)
			}
		}
		for _, a := range sortedAddrs(used) {
			block, _ := w.geo.Block(a)
			if _, ok := h.core.local[a]; !ok {
				w.fail(block, "%s does not know that %s uses %s", h.nick, used[a].key, a)
			}
			w.auditForeign(h, a, block)
		}
	}
	w.auditLeases()
}

// auditLeases checks that what is leased is used.
func (w *world) auditLeases() {
	for _, h := range w.hosts {
		if !h.on {
			continue
		}
		for _, a := range sortedAddrs(h.core.leased) {
			block, _ := w.geo.Block(a)
			g := h.core.leased[a]
			holder := w.byID[g.Host]
			if holder != nil && holder.left {
				w.count["leases of hosts that left"]++
				continue
			}
			if _, ok := h.core.local[a]; ok && len(w.truth.users[a]) < 2 {
				w.fail(block, "%s uses %s and leases it to %s", h.nick, a, w.title(g.Host))
			}
			if h.core.ring == nil || h.core.ring.Register(block).Owner != h.id {
				w.fail(block, "%s leases %s, which is not in its space", h.nick, a)
			}
			if holder != nil && holder.on && !holder.uses(a) && len(w.hosts) > 12 {
				// The Held that ends it was lost; the next one comes with an
				// exchange, of which there is one in ten seconds with somebody.
				w.count["leases that end late"]++
				continue
			}
			if holder == nil || holder.on && !holder.uses(a) {
				w.fail(block, "%s leases %s to %s, which does not use it", h.nick, a, w.title(g.Host))
			}
		}
	}
}

// auditForeign checks that the owner of an address knows that h uses it.
func (w *world) auditForeign(h *host, a netip.Addr, block int) {
	if h.core.ring == nil {
		return
	}
	owner := w.byID[h.core.ring.Register(block).Owner]
	if owner == h || owner == nil || !owner.on || len(w.truth.users[a]) > 1 {
		return
	}
	g, ok := owner.core.leased[a]
	if p := w.byID[g.Host]; ok && p != nil && p.left {
		w.count["leases of hosts that left"]++
	} else if !ok || p != h {
		w.fail(block, "%s uses %s and its owner %s does not know", h.nick, a, owner.nick)
	}
}

func (h *host) uses(a netip.Addr) bool {
	return slices.ContainsFunc(h.pods, func(p *pod) bool { return slices.Contains(p.addrs, a) })
}

// auditWaits checks that nothing waits whose cause is gone.
func (w *world) auditWaits() {
	for _, h := range w.hosts {
		if !h.on {
			continue
		}
		for _, t := range sortedKeys(h.calls, compareTickets) {
			c := h.calls[t]
			e, ok := c.event.(allocateEvent)
			if !ok {
				w.fail(-1, "%s: ticket %d (%T) waits for %v: %s", h.nick, t, c.event, w.now-c.began, c.reason)
				return
			}
			if a, free := w.freeAddr(e.Subnet); free && c.began < w.now-20*time.Second {
				block, _ := w.geo.Block(a)
				w.fail(block, "%s: ticket %d waits for an address in %s for %v although %s is free: %s", h.nick, t, e.Subnet,
					w.now-c.began, a, c.reason)
				return
			}
		}
	}
}

// freeAddr returns an address of subnet that nobody uses nor is kept for
// anybody.
func (w *world) freeAddr(subnet netip.Prefix) (netip.Addr, bool) {
	taken := func(a netip.Addr) bool {
		for _, h := range w.hosts {
			if h.on {
				_, local := h.core.local[a]
				_, leased := h.core.leased[a]
				if local || leased {
					return true
				}
			}
		}
		return false
	}
	n := 0
	for a := subnet.Masked().Addr(); subnet.Contains(a) && n < 1<<16; a = a.Next() {
		if n++; w.space.Contains(a) && !w.geo.Reserved(a, subnet) && !taken(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// auditDuplicates checks that status lists exactly the addresses that have
// two users.
func (w *world) auditDuplicates() {
	listed := make(map[netip.Addr]bool)
	for _, h := range w.hosts {
		if !h.on {
			continue
		}
		for _, d := range h.core.status().Duplicates {
			listed[d.Addr] = true
			if len(w.truth.users[d.Addr]) < 2 {
				block, _ := w.geo.Block(d.Addr)
				w.fail(block, "%s lists %+v as a duplicate, which it is not", h.nick, d)
			}
		}
	}
	for _, a := range sortedAddrs(w.truth.users) {
		users := w.truth.users[a]
		if len(users) > 1 && !listed[a] && !slices.ContainsFunc(users, func(p *pod) bool { return !p.h.on }) {
			block, _ := w.geo.Block(a)
			w.fail(block, "nobody lists %s as a duplicate, which %s of %s and %s of %s use", a, users[0].key,
				users[0].h.nick, users[1].key, users[1].h.nick)
		}
		if len(users) > 1 {
			w.count["duplicates reported"]++
		}
	}
}

// watchDuplicates checks, as long as the world lasts, that an address with
// users on two hosts that have met again is listed by one of them. Entries
// take some seconds to arrive, more when letters are lost.
func (w *world) watchDuplicates() {
	const patience = 15 * time.Second
	since := make(map[netip.Addr]time.Duration)
	var again func()
	again = func() {
		now := make(map[netip.Addr]time.Duration)
		for _, a := range sortedAddrs(w.truth.users) {
			users := w.truth.users[a]
			if len(users) < 2 || !w.met(users[0].h, users[1].h) {
				continue
			}
			now[a] = w.now
			if t, ok := since[a]; ok {
				now[a] = t
			} else {
				w.count["duplicates of hosts that met"]++
			}
			if w.now-now[a] > patience && !users[0].h.lists(a) && !users[1].h.lists(a) {
				block, _ := w.geo.Block(a)
				w.fail(block, "neither %s nor %s lists %s as a duplicate, %v after they met", users[0].h.nick, users[1].h.nick, a, patience)
			}
		}
		since = now
		w.after(time.Second, again)
	}
	again()
}

// met reports whether two hosts run, for a while already, and know that the
// other one does.
func (w *world) met(a, b *host) bool {
	return a.core != nil && b.core != nil && a.alive[b.n] && b.alive[a.n] && w.net.linked(a, b) && w.now > a.frozen && w.now > b.frozen
}

func (h *host) lists(a netip.Addr) bool {
	return slices.ContainsFunc(h.core.status().Duplicates, func(d Duplicate) bool { return d.Addr == a })
}
