package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/mesh/ipam/space"
)

// pod is a container, from the begin of its first attach to its end. Whoever
// starts again under the same key is another pod.
type pod struct {
	h      *host
	key    string
	label  string
	subnet netip.Prefix // of its first address; zero: static
	addrs  []netip.Addr // in use
	call   *call        // attach or detach that goes on
	over   bool
	again  bool // it was there before, and may get any address that it had then
}

// call is a request of a user that is not answered.
type call struct {
	h         *host
	p         *pod // nil for prime, rmpeer, reset
	event     event
	began     time.Duration
	reason    string // why it waits
	cancelled bool
	done      func(result)
}

func compareTickets(a, b ticket) int { return cmp.Compare(a, b) }

// ticketOf returns the ticket of a request, zero for other events.
func ticketOf(e event) ticket {
	switch e := e.(type) {
	case allocateEvent:
		return e.Ticket
	case claimEvent:
		return e.Ticket
	case releaseEvent:
		return e.Ticket
	case adoptEvent:
		return e.Ticket
	case primeEvent:
		return e.Ticket
	case removeEvent:
		return e.Ticket
	case handOverEvent:
		return e.Ticket
	}
	return 0
}

// ask makes a request. done is called once, with errNoAnswer when the daemon
// ends before it answers.
func (h *host) ask(p *pod, build func(ticket) event, done func(result)) *call {
	h.w.tickets++
	c := &call{h: h, p: p, event: build(h.w.tickets), began: h.w.now, done: done}
	h.calls[h.w.tickets] = c
	if p != nil {
		p.call = c
	}
	h.push(c.event)
	return c
}

func (c *call) answer(r result) {
	delete(c.h.calls, ticketOf(c.event))
	if c.p != nil {
		c.p.call = nil
	}
	c.done(r)
}

func (c *call) lost() {
	if c.p != nil {
		c.p.call = nil
	}
	c.done(result{Err: errNoAnswer})
}

func (c *call) cancel() {
	if !c.cancelled {
		c.cancelled = true
		c.h.w.note(c.h, "cancel %d (%T)", ticketOf(c.event), c.event)
		c.h.push(cancelEvent{ticketOf(c.event)})
	}
}

// create begins a container.
func (h *host) create() *pod {
	h.w.pods++
	p := &pod{h: h, key: fmt.Sprintf("docker:%d", h.w.pods), label: fmt.Sprintf("c%d", h.w.pods)}
	h.pods = append(h.pods, p)
	return p
}

// attach gives the pod an address of subnet.
func (p *pod) attach(subnet netip.Prefix) {
	w, h := p.h.w, p.h
	p.subnet = subnet
	var had []netip.Addr
	for _, a := range p.addrs {
		if subnet.Contains(a) && !w.geo.Reserved(a, subnet) {
			had = append(had, a)
		}
	}
	op := w.log.begin(w, p)
	h.ask(p, func(t ticket) event {
		w.note(h, "%d: allocate for %s in %s", t, p.key, subnet)
		return allocateEvent{Ticket: t, Key: p.key, Label: p.label, Subnet: subnet}
	}, func(r result) {
		addr := r.Addr.Addr()
		op.allocated(w, r)
		if r.Err != nil {
			p.refused("allocate in "+subnet.String(), r.Err)
			return
		}
		w.note(h, "%s got %s", p.key, r.Addr)
		block, ok := w.geo.Block(addr)
		switch {
		case !ok || !subnet.Contains(addr) || r.Addr.Bits() != subnet.Bits():
			w.fail(-1, "%s: %s asked for an address in %s and got %s", h.nick, p.key, subnet, r.Addr)
		case w.geo.Reserved(addr, subnet):
			w.fail(block, "%s: %s got the network or broadcast address %s of %s", h.nick, p.key, addr, subnet)
		case len(had) > 0 && !p.over && !p.again && !slices.Contains(had, addr):
			w.fail(block, "%s: %s has %v in %s and got %s as well", h.nick, p.key, had, subnet, addr)
		default:
			p.got(addr)
		}
	})
}

// claim gives the pod this address.
func (p *pod) claim(addr netip.Addr) {
	w, h := p.h.w, p.h
	op := w.log.begin(w, p)
	h.ask(p, func(t ticket) event {
		w.note(h, "%d: claim of %s for %s", t, addr, p.key)
		return claimEvent{Ticket: t, Key: p.key, Label: p.label, Addr: addr}
	}, func(r result) {
		op.claimed(w, addr, r)
		if errors.Is(r.Err, ErrUnreachable) {
			h.refusedEarly(r.Err)
		}
		if r.Err != nil {
			p.refused("claim of "+addr.String(), r.Err)
			return
		}
		w.note(h, "%s got %s as it claimed", p.key, addr)
		if w.space.Contains(addr) {
			p.got(addr)
		}
	})
}

// refusedEarly fails when a user is told to remove a host that this one, which has
// just begun, may only not have met yet.
func (h *host) refusedEarly(err error) {
	w := h.w
	if w.now-h.began >= metWithin || h.skew != h.skewed {
		return
	}
	_, owner, _ := strings.Cut(err.Error(), "in the space of ")
	owner, _, _ = strings.Cut(owner, ",")
	for _, o := range w.hosts {
		if o.nick != owner && o.name.String() != owner {
			continue
		}
		w.count["refused in the first seconds"]++
		if !h.seen[o.n] && h.knows(o) && h.expelled[o.n] == 0 && !h.core.removed(o.id) {
			w.fail(-1, "%s began %v ago, never met %s, and says: %v", h.nick, w.now-h.began, o.nick, err)
		}
	}
}

// got makes the address used, or gives it back when the pod ended meanwhile.
func (p *pod) got(addr netip.Addr) {
	if p.over {
		p.release(p.h.w.log.begin(p.h.w, p), []netip.Addr{addr})
		return
	}
	if !slices.Contains(p.addrs, addr) {
		p.addrs = append(p.addrs, addr)
		p.h.w.truth.take(p, addr)
	}
}

// refused is the end of a pod that has no address.
func (p *pod) refused(what string, err error) {
	w := p.h.w
	w.note(p.h, "%s: %s: %v", p.key, what, err)
	switch {
	case errors.Is(err, ErrConflict):
		w.count["conflicts"]++
	case errors.Is(err, ErrUnreachable):
		w.count["unreachable"]++
	case errors.Is(err, errDiskFull), errors.Is(err, errNoAnswer), errors.Is(err, errCancelled):
	default:
		w.count["other errors"]++
	}
	if len(p.addrs) == 0 && !p.over {
		p.end(false)
	}
}

// release frees addresses of a pod; what is used ends before it is said.
func (p *pod) release(op *operation, addrs []netip.Addr) {
	w, h := p.h.w, p.h
	if !h.on {
		return
	}
	h.ask(p, func(t ticket) event {
		w.note(h, "%d: release of %v of %s", t, addrs, p.key)
		return releaseEvent{Ticket: t, Key: p.key, Addrs: addrs}
	}, func(r result) {
		op.released(w, addrs, r)
		if r.Err != nil {
			w.note(h, "%s: release: %v", p.key, r.Err)
			if errors.Is(r.Err, errDiskFull) {
				p.releaseAgain(op, addrs)
			}
		}
	})
}

// releaseAgain is what the user does when the disk was full.
func (p *pod) releaseAgain(op *operation, addrs []netip.Addr) {
	life := p.h.life
	p.h.w.after(p.h.w.between(time.Second, 10*time.Second), func() {
		switch {
		case p.h.life != life:
			op.released(p.h.w, addrs, result{Err: errNoAnswer})
		case p.call != nil:
			p.releaseAgain(op, addrs)
		default:
			p.release(op, addrs)
		}
	})
}

// detach ends the pod, or only the use of some of its addresses.
func (p *pod) detach(addrs []netip.Addr) {
	w := p.h.w
	op := w.log.begin(w, p)
	if addrs == nil {
		addrs = slices.Clone(p.addrs)
		p.end(false)
		p.release(op, addrs)
		return
	}
	for _, a := range addrs {
		p.unuse(a)
	}
	p.release(op, addrs)
}

// die ends the pod without anybody asking for it; it may be started again.
func (p *pod) die() {
	w := p.h.w
	w.note(p.h, "%s dies with %v", p.key, slices.Clone(p.addrs))
	if p.call != nil {
		p.call.cancel()
	}
	p.end(true)
	p.h.push(diedEvent{p.key})
}

// end makes the pod use nothing any more.
func (p *pod) end(again bool) {
	for _, a := range slices.Clone(p.addrs) {
		p.unuse(a)
		if again {
			p.h.w.log.died(p.h.w, p, a)
		}
	}
	p.over = true
	p.h.pods = slices.DeleteFunc(p.h.pods, func(q *pod) bool { return q == p })
	if again {
		p.h.dead = append(p.h.dead, p)
	}
}

func (p *pod) unuse(a netip.Addr) {
	if i := slices.Index(p.addrs, a); i >= 0 {
		p.addrs = slices.Delete(p.addrs, i, i+1)
		p.h.w.truth.drop(p, a)
	}
}

// restart starts a pod that died under its old key.
func (h *host) restart(p *pod) {
	h.dead = slices.DeleteFunc(h.dead, func(q *pod) bool { return q == p })
	if p.call != nil || slices.ContainsFunc(h.pods, func(q *pod) bool { return q.key == p.key }) {
		return
	}
	q := &pod{h: h, key: p.key, label: p.label, again: true}
	h.pods = append(h.pods, q)
	if p.subnet.IsValid() {
		q.attach(p.subnet)
	} else {
		q.attach(h.w.space)
	}
}

// use is one operation of a user.
func (w *world) use() {
	h := w.pick(func(h *host) bool { return h.on && !h.leaving })
	if h == nil {
		w.nobody()
		return
	}
	if h.stale != "" && !w.force && !slices.Contains(h.alive, true) {
		w.count["skipped: stale and alone"]++
		return
	}
	waiting := slices.DeleteFunc(sortedKeys(h.calls, compareTickets), func(t ticket) bool {
		_, own := h.calls[t].event.(adoptEvent)
		return own
	})
	if len(waiting) > 5 || len(waiting) > 0 && w.p(0.04) {
		h.calls[waiting[w.rnd.IntN(len(waiting))]].cancel()
		return
	}
	churn := w.churn
	if w.done/200%2 == 1 {
		churn = 1 - w.churn // ebb
	}
	x := w.rnd.Float64()
	switch p := h.idlePod(); {
	case p != nil && (x < churn*0.8 || len(h.pods) > 120):
		w.finish(p)
	case p != nil && x < churn*0.8+0.05:
		p.more()
	case len(h.dead) > 0 && w.p(0.3):
		h.restart(h.dead[w.rnd.IntN(len(h.dead))])
	default:
		h.create().first()
	}
	if n := len(h.dead); n > 20 {
		h.dead = h.dead[n-20:]
	}
}

// idlePod returns a random pod for which nothing is going on.
func (h *host) idlePod() *pod {
	for range min(4, len(h.pods)) {
		if p := h.pods[h.w.rnd.IntN(len(h.pods))]; p.call == nil {
			return p
		}
	}
	return nil
}

func (w *world) finish(p *pod) {
	switch x := w.rnd.Float64(); {
	case x < 0.25:
		p.die()
	case x < 0.35 && len(p.addrs) > 1:
		p.detach([]netip.Addr{p.addrs[w.rnd.IntN(len(p.addrs))]})
	default:
		p.detach(nil)
	}
}

// first is the first attach of a pod, more another one.
func (p *pod) first() {
	if w := p.h.w; w.p(w.static) {
		p.claim(w.someAddr())
	} else {
		p.attach(w.someSubnet())
	}
}

func (p *pod) more() {
	if p.subnet.IsValid() && p.h.w.p(0.3) {
		p.attach(p.subnet) // the same again
	} else {
		p.first()
	}
}

// someSubnet returns the whole space, or one of few subnets, so that hosts
// want the same blocks.
func (w *world) someSubnet() netip.Prefix {
	if !w.p(w.narrow) {
		return w.space
	}
	host := w.space.Addr().BitLen() - w.space.Bits()
	choice := w.rnd.IntN(6)
	size := min([]int{3, 3, 4, 5, 6, 8}[choice], host)
	addr := w.geo.Addr(space.NumOf(w.space.Masked().Addr()).Add(space.Num{Lo: uint64(choice*7919) % (1 << min(host, 24))}))
	return netip.PrefixFrom(addr, addr.BitLen()-size).Masked()
}

// someAddr returns an address that others are likely to want, too; sometimes
// one outside the space.
func (w *world) someAddr() netip.Addr {
	if w.p(0.05) {
		return netip.MustParseAddr("192.0.2.7")
	}
	s := w.someSubnet()
	for {
		n := uint64(w.rnd.IntN(1 << min(s.Addr().BitLen()-s.Bits(), 6)))
		if a := w.geo.Addr(space.NumOf(s.Addr()).Add(space.Num{Lo: n})); !w.geo.Reserved(a, s) && !w.geo.Reserved(a, w.space) {
			return a
		}
	}
}

// pick returns a random host with a property, nil when none has it.
func (w *world) pick(ok func(*host) bool) *host {
	from := w.rnd.IntN(len(w.hosts))
	for i := range w.hosts {
		if h := w.hosts[(from+i)%len(w.hosts)]; ok(h) {
			return h
		}
	}
	return nil
}
