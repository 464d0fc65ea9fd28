package ipam

import (
	"cmp"
	"slices"
)

// lease codes what is said of one lease in a list.
func (c *coder) lease(prev, l *Lease) {
	c.addr(&l.Addr, c.after(valueOf(prev).Addr))
	c.uint(&l.Op)
	c.holder(&l.Key, &l.Label)
}

// holder codes who holds an address, if there is room for it.
func (c *coder) holder(key, label *string) {
	var none string
	if !c.reading && c.detail < withKeys {
		key = &none
	}
	if !c.reading && c.detail < withLabels {
		label = &none
	}
	c.text(key)
	c.text(label)
}

func (c *coder) leases(v *[]Lease) {
	set(c, v, maxAddresses, 4, func(a, b Lease) int { return a.Addr.Compare(b.Addr) }, c.lease)
}

func (c *coder) granted(v *[]Granted) {
	byAddr := func(a, b Granted) int { return cmp.Or(a.Addr.Compare(b.Addr), a.Host.Compare(b.Host)) }
	set(c, v, maxAddresses, 5, byAddr, func(prev, g *Granted) {
		c.id(&g.Host)
		before := valueOf(prev).Lease
		c.lease(&before, &g.Lease)
	})
}

func (c *coder) fences(v *[]Fence) {
	order := func(a, b Fence) int { return cmp.Or(a.Target.Compare(b.Target), a.Initiator.Compare(b.Initiator)) }
	set(c, v, maxFences, 3, order, func(_, f *Fence) {
		c.id(&f.Target)
		c.id(&f.Initiator)
		c.uint(&f.Epoch)
	})
}

func (c *coder) removed(v *[]Removed) {
	set(c, v, maxPeers, 2, func(a, b Removed) int { return a.Peer.Compare(b.Peer) }, func(_, r *Removed) {
		c.id(&r.Peer)
		c.uint(&r.Epoch)
	})
}

// runs codes registers. The writer joins neighbours with the same register,
// which it finds apart in what the reader takes for a mistake.
func (c *coder) runs(v *[]Run) {
	if !c.reading {
		joined := joinRuns(*v)
		v = &joined
	}
	end := 0 // the block after the run before
	list(c, v, min(maxRegisters, max(c.geo.Blocks(), 1)), 6, func(i int, r *Run) {
		var gap int
		if !c.reading {
			gap = r.First - end
			c.must(gap >= 0 && r.Count > 0)
		}
		c.int(&gap, c.geo.Blocks())
		c.int(&r.Count, c.geo.Blocks())
		c.register(&r.Register)
		r.First = end + gap
		end = r.First + r.Count
		c.must(r.Count > 0 && end <= c.geo.Blocks())
		if i > 0 && gap == 0 {
			c.must((*v)[i-1].Register != r.Register)
		}
	})
}

// spans codes sets of blocks.
func (c *coder) spans(v *[]Span) {
	end := 0 // the block after the span before
	list(c, v, max(c.geo.Blocks(), 1), 2, func(i int, s *Span) {
		var gap int
		if !c.reading {
			gap = s.First - end
			c.must(gap >= 0)
		}
		c.int(&gap, c.geo.Blocks())
		c.int(&s.Count, c.geo.Blocks())
		s.First = end + gap
		end = s.First + s.Count
		c.must((i == 0 || gap > 0) && s.Count > 0 && end <= c.geo.Blocks())
	})
}

// register codes the register of a block of which something is known.
func (c *coder) register(r *Register) {
	c.id(&r.Owner)
	c.id(&r.Giver)
	c.uint(&r.Epoch)
	c.uint(&r.Version)
	c.must(!r.Owner.IsZero())
}

// joinRuns returns runs in ascending order and as long as possible.
func joinRuns(runs []Run) []Run {
	sorted := slices.Clone(runs)
	slices.SortStableFunc(sorted, func(a, b Run) int { return cmp.Compare(a.First, b.First) })
	joined := sorted[:0]
	for _, r := range sorted {
		if n := len(joined) - 1; n >= 0 && joined[n].First+joined[n].Count == r.First && joined[n].Register == r.Register {
			joined[n].Count += r.Count
			continue
		}
		joined = append(joined, r)
	}
	return joined
}
