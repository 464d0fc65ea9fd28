package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
)

// oracle sees all hosts at once. It is told what changes, so that its cost
// does not grow with what exists.
type oracle struct {
	w     *world
	steps int
	// users has who uses each address; more than one only where the run
	// allows it.
	users map[netip.Addr][]*pod
	// excused are addresses that a host which was removed held when it was
	// switched off: they may be given to somebody else, and the host may use
	// them again when it is back, if nobody ever heard that it did.
	excused map[netip.Addr]bool
	ring    ring.ID         // the only one, in a run that has only one
	regs    []ring.Register // the newest of each block that anybody persisted
}

func (o *oracle) init(w *world) {
	o.w = w
	o.users = make(map[netip.Addr][]*pod)
	o.excused = make(map[netip.Addr]bool)
	o.regs = make([]ring.Register, w.geo.Blocks())
}

// take is called when a pod begins to use an address.
func (o *oracle) take(p *pod, a netip.Addr) {
	others := o.users[a]
	o.users[a] = append(slices.Clip(others), p)
	for _, q := range others {
		block, _ := o.w.geo.Block(a)
		switch {
		case q.h == p.h:
			o.w.fail(block, "%s is given to %s and %s of %s", a, q.key, p.key, p.h.nick)
		case o.w.force:
			o.w.count["duplicates"]++
		case o.excused[a]:
			o.w.count["excused duplicates"]++
		default:
			o.w.fail(block, "%s is given to %s of %s while %s of %s uses it", a, p.key, p.h.nick, q.key, q.h.nick)
		}
	}
}

// drop is called when a pod does not use an address any more.
func (o *oracle) drop(p *pod, a netip.Addr) {
	o.users[a] = slices.DeleteFunc(o.users[a], func(q *pod) bool { return q == p })
	if len(o.users[a]) == 0 {
		delete(o.users, a)
	}
}

// saved looks at what changed on a host's disk with its last batch.
func (o *oracle) saved(h *host) {
	c := h.core
	if c.ring == nil {
		return
	}
	if h.ring != c.ring.ID() {
		h.ring, h.hash, h.regs = c.ring.ID(), 0, make([]ring.Register, o.w.geo.Blocks())
		h.mine = space.BlockSet{}
		switch {
		case o.ring.IsZero():
			o.ring = h.ring
		case o.ring != h.ring && !o.w.force:
			o.w.fail(0, "%s has ring %s, others have %s: the range was divided twice", h.nick, h.ring, o.ring)
		}
	}
	if hash := c.ring.Hash(); hash != h.hash {
		h.hash = hash
		o.compare(h)
	}
}

// compare checks the registers of a host against the newest ones.
func (o *oracle) compare(h *host) {
	for b := range h.regs {
		reg := h.core.ring.Register(b)
		if reg == h.regs[b] {
			continue
		}
		h.regs[b] = reg
		newest := &o.regs[b]
		if reg.Epoch == newest.Epoch && reg.Version == newest.Version && reg != *newest && !newest.IsZero() && !o.w.force {
			o.w.fail(b, "%s has a register of block %d with the number of another one:\n  %s\n  %s", h.nick, b,
				o.register(reg), o.register(*newest))
		}
		if reg.Beats(*newest) {
			*newest = reg
		}
	}
	mine := h.core.ring.Owned(h.id)
	gained := mine
	gained.AndNot(&h.mine)
	h.mine = mine
	o.alone(h, gained)
}

// alone checks that nobody but h thinks to own blocks.
func (o *oracle) alone(h *host, blocks space.BlockSet) {
	if blocks.Empty() || o.w.force || h.stale != "" {
		return
	}
	for _, g := range o.w.hosts {
		if g == h || g.stale != "" || g.ring != h.ring {
			continue
		}
		both := blocks
		both.And(&g.mine)
		for b := range both.All() {
			o.w.fail(b, "block %d belongs to both %s and %s", b, h.nick, g.nick)
			return
		}
	}
}

// forget is called when a host's disk is replaced by an older one: what only
// that disk knew never was.
func (o *oracle) forget(h *host) {
	h.ring, h.hash, h.regs, h.mine = ring.ID{}, 0, nil, space.BlockSet{}
	clear(o.regs)
	o.ring = ring.ID{}
	for _, g := range o.w.hosts {
		r := g.rings()
		if r != nil {
			o.ring = r.ID()
		}
		for b := range o.regs {
			if r != nil && r.Register(b).Beats(o.regs[b]) {
				o.regs[b] = r.Register(b)
			}
		}
	}
}

// rings returns the ring that the host has, or would have if it were started.
func (h *host) rings() *ring.Ring {
	if h.left {
		return nil
	}
	if c := h.probe(); c != nil {
		return c.ring
	}
	return nil
}

// probe returns the core of the host, or what it would be if it were started.
func (h *host) probe() *core {
	if h.core != nil {
		return h.core
	}
	stored, proven := h.disk.load()
	c, err := newCore(h.cfg, stored, proven, h.now())
	if err != nil {
		return nil
	}
	return c
}

func (o *oracle) register(r ring.Register) string {
	return fmt.Sprintf("owner %s, giver %s, epoch %d, version %d", o.w.title(r.Owner), o.w.title(r.Giver), r.Epoch, r.Version)
}

// describe is all that is known of a block, for a failure.
func (w *world) describe(block int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  block %d, %s to %s:\n", block, w.geo.First(block), w.geo.Last(block))
	for _, h := range w.hosts {
		r := h.rings()
		if r == nil {
			fmt.Fprintf(&b, "    %s has no ring\n", h.nick)
			continue
		}
		fmt.Fprintf(&b, "    %s knows %s\n", h.nick, w.truth.register(r.Register(block)))
		if h.core == nil {
			continue
		}
		for _, a := range sortedAddrs(h.core.local) {
			if n, _ := w.geo.Block(a); n == block {
				fmt.Fprintf(&b, "      local  %s %+v\n", a, h.core.local[a])
			}
		}
		for _, a := range sortedAddrs(h.core.leased) {
			if n, _ := w.geo.Block(a); n == block {
				g := h.core.leased[a]
				fmt.Fprintf(&b, "      leased %s to %s %+v\n", a, w.title(g.Host), g.holder)
			}
		}
	}
	for _, a := range sortedAddrs(w.truth.users) {
		if n, _ := w.geo.Block(a); n == block {
			for _, p := range w.truth.users[a] {
				fmt.Fprintf(&b, "      %s is used by %s of %s\n", a, p.key, p.h.nick)
			}
		}
	}
	return b.String()
}

func (w *world) title(id [32]byte) string {
	if h := w.byID[id]; h != nil {
		return h.nick
	}
	if name, ok := ring.PlaceholderName(id); ok {
		return "seed " + name.String()
	}
	return fmt.Sprintf("%x", id[:4])
}

// String is a line about the host, for a failure.
func (h *host) String() string {
	state := "off"
	if h.on {
		state = "on"
	}
	if h.left {
		state = "left"
	}
	var reached []string
	for i, alive := range h.alive {
		if alive {
			reached = append(reached, h.w.hosts[i].nick)
		}
	}
	s := fmt.Sprintf("%s %.4x %s, %d blocks, reaches %v", h.nick, h.id[:4], state, h.mine.Len(), reached)
	if h.stale != "" {
		s += ", " + h.stale
	}
	if h.core != nil && !h.core.sure() {
		s += fmt.Sprintf(", not sure: %q, %q", h.core.halted(), h.core.unprovenReason())
	}
	if h.core != nil {
		for _, f := range h.core.pending(func(fenceKey) bool { return true }) {
			s += fmt.Sprintf(", fence of %s against %s, epoch %d", h.w.title(f.Initiator), h.w.title(f.Target), f.Epoch)
		}
	}
	for _, t := range sortedKeys(h.calls, compareTickets) {
		c := h.calls[t]
		s += fmt.Sprintf("\n      %d waits for %v since %v: %s: %+v", t, h.w.now-c.began, c.began, c.reason, c.event)
	}
	return s
}
