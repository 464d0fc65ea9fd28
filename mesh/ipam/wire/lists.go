package wire

import (
	"cmp"

	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
)

// lease codes what is said of one lease in a list.
func (c *Coder) lease(prev, l *Lease) {
	c.addr(&l.Addr, c.after(valueOf(prev).Addr))
	c.Uint(&l.Op)
	c.Holder(&l.Key, &l.Label)
}

// Holder codes who holds an address, if there is room for it.
func (c *Coder) Holder(key, label *string) {
	var none string
	if !c.reading && c.detail < withKeys {
		key = &none
	}
	if !c.reading && c.detail < withLabels {
		label = &none
	}
	c.Text(key)
	c.Text(label)
}

func (c *Coder) leases(v *[]Lease) {
	set(c, v, MaxAddresses, 4, func(a, b Lease) int { return a.Addr.Compare(b.Addr) }, c.lease)
}

func (c *Coder) granted(v *[]Granted) {
	byAddr := func(a, b Granted) int { return cmp.Or(a.Addr.Compare(b.Addr), a.Host.Compare(b.Host)) }
	set(c, v, MaxAddresses, 5, byAddr, func(prev, g *Granted) {
		c.ID(&g.Host)
		before := valueOf(prev).Lease
		c.lease(&before, &g.Lease)
	})
}

func (c *Coder) fences(v *[]Fence) {
	order := func(a, b Fence) int { return cmp.Or(a.Target.Compare(b.Target), a.Initiator.Compare(b.Initiator)) }
	set(c, v, maxFences, 3, order, func(_, f *Fence) {
		c.ID(&f.Target)
		c.ID(&f.Initiator)
		c.Uint(&f.Epoch)
	})
}

func (c *Coder) removed(v *[]Removed) {
	set(c, v, MaxPeers, 2, func(a, b Removed) int { return a.Peer.Compare(b.Peer) }, func(_, r *Removed) {
		c.ID(&r.Peer)
		c.Uint(&r.Epoch)
	})
}

// runs codes registers. The writer joins neighbours with the same register,
// which it finds apart in what the reader takes for a mistake.
func (c *Coder) runs(v *[]ring.Run) {
	if !c.reading {
		joined := ring.JoinRuns(*v)
		v = &joined
	}
	end := 0 // the block after the run before
	list(c, v, min(maxRegisters, max(c.geo.Blocks(), 1)), 6, func(i int, r *ring.Run) {
		var gap int
		if !c.reading {
			gap = r.First - end
			c.Must(gap >= 0 && r.Count > 0)
		}
		c.int(&gap, c.geo.Blocks())
		c.int(&r.Count, c.geo.Blocks())
		c.Register(&r.Register)
		r.First = end + gap
		end = r.First + r.Count
		c.Must(r.Count > 0 && end <= c.geo.Blocks())
		if i > 0 && gap == 0 {
			c.Must((*v)[i-1].Register != r.Register)
		}
	})
}

// spans codes sets of blocks.
func (c *Coder) spans(v *[]space.Span) {
	end := 0 // the block after the span before
	list(c, v, max(c.geo.Blocks(), 1), 2, func(i int, s *space.Span) {
		var gap int
		if !c.reading {
			gap = s.First - end
			c.Must(gap >= 0)
		}
		c.int(&gap, c.geo.Blocks())
		c.int(&s.Count, c.geo.Blocks())
		s.First = end + gap
		end = s.First + s.Count
		c.Must((i == 0 || gap > 0) && s.Count > 0 && end <= c.geo.Blocks())
	})
}

// Register codes the register of a block of which something is known.
func (c *Coder) Register(r *ring.Register) {
	c.ID(&r.Owner)
	c.ID(&r.Giver)
	c.Uint(&r.Epoch)
	c.Uint(&r.Version)
	c.Must(!r.Owner.IsZero())
}
