package ipam

import (
	"errors"
	"fmt"
	"net/netip"
)

// check returns an error if something is true that never may be. It is called
// after every step of every test; it looks at everything.
func (c *core) check() error {
	return errors.Join(c.checkLocal(), c.checkLeased(), c.checkRing(), c.checkRequests())
}

func (c *core) checkLocal() error {
	total, used := 0, len(c.leased)
	for key, addrs := range c.keys {
		for i, addr := range addrs {
			if h, ok := c.local[addr]; !ok || h.Key != key {
				return fmt.Errorf("%s is listed for %q, and is %+v", addr, key, h)
			}
			if i > 0 && !addrs[i-1].Less(addr) {
				return fmt.Errorf("addresses of %q are out of order: %v", key, addrs)
			}
		}
		total += len(addrs)
	}
	for addr := range c.local {
		block, ok := c.geo.Block(addr)
		if _, in := c.localIn[block][addr]; !ok || !in || !c.used.Used(addr) {
			return fmt.Errorf("local address %s: in range %v, indexed %v, used %v", addr, ok, in, c.used.Used(addr))
		}
		if _, both := c.leased[addr]; !both {
			used++
		}
	}
	if total != len(c.local) || c.localIn.len() != total || c.used.Len() != used {
		return fmt.Errorf("local addresses: %d, by key %d, by block %d; used %d, want %d", len(c.local), total, c.localIn.len(), c.used.Len(), used)
	}
	for addr := range c.holders.doubtful {
		if _, ok := c.holders.dying[addr]; !ok {
			return fmt.Errorf("%s is doubtful and not dying", addr)
		}
	}
	for addr := range c.holders.dying {
		if _, ok := c.local[addr]; !ok {
			return fmt.Errorf("%s is dying and nobody's", addr)
		}
	}
	for addr := range c.holders.claims {
		if _, ok := c.local[addr]; !ok {
			return fmt.Errorf("%s is to be confirmed and nobody's", addr)
		}
	}
	return nil
}

func (c *core) checkLeased() error {
	for addr, g := range c.leased {
		block, ok := c.geo.Block(addr)
		_, in := c.leasedIn[block][addr]
		_, to := c.leasedTo[g.Host][addr]
		if !ok || !in || !to || !c.used.Used(addr) || g.Host == c.cfg.Self {
			return fmt.Errorf("leased address %s to %s: in range %v, indexed %v %v, used %v", addr, g.Host.Fingerprint(), ok, in, to, c.used.Used(addr))
		}
		if c.ring == nil || c.ring.Owner(block) != c.cfg.Self && !c.offered(addr) {
			return fmt.Errorf("%s is leased to %s and block %d is not ours", addr, g.Host.Fingerprint(), block)
		}
	}
	if n := len(c.leased); c.leasedIn.len() != n || c.leasedTo.len() != n {
		return fmt.Errorf("leased addresses: %d, by block %d, by host %d", n, c.leasedIn.len(), c.leasedTo.len())
	}
	return nil
}

func (c *core) checkRing() error {
	if c.ring == nil {
		return nil
	}
	blocks := 0
	for _, s := range c.ring.Owners() {
		blocks += s.Blocks
	}
	if blocks != c.geo.Blocks() {
		return fmt.Errorf("%d of %d blocks have an owner", blocks, c.geo.Blocks())
	}
	owned := c.ring.Owned(c.cfg.Self)
	if foreign := c.sureness.fresh; !foreign.Empty() {
		foreign.AndNot(&owned)
		if !foreign.Empty() {
			return fmt.Errorf("%d blocks that were given to us are not ours", foreign.Len())
		}
	}
	return nil
}

func (c *core) checkRequests() error {
	q := &c.requests
	if len(q.list) != len(q.byTicket) {
		return fmt.Errorf("%d requests, %d tickets", len(q.list), len(q.byTicket))
	}
	for _, r := range q.list {
		if q.byTicket[r.ticket] != r || r.reason == "" {
			return fmt.Errorf("request %d of %q waits for %q", r.ticket, r.key, r.reason)
		}
		if r.ask != nil && q.asks[r.ask.op] != r.ask {
			return fmt.Errorf("request %d has an ask that is closed", r.ticket)
		}
	}
	for op, a := range q.asks {
		if a.op != op || a.req.ask != a || a.to == c.cfg.Self {
			return fmt.Errorf("open op %x of request %d", op, a.req.ticket)
		}
		if r := a.req; q.byTicket[r.ticket] != r && c.holders.claims[r.addr] != r {
			return fmt.Errorf("open op %x of a request that is over", op)
		}
	}
	return nil
}

func (x index[K]) len() int {
	n := 0
	for _, set := range x {
		n += len(set)
	}
	return n
}

// offered reports whether addr is leased by an offer: its block is not ours.
func (c *core) offered(addr netip.Addr) bool {
	for _, o := range c.handOver.offers {
		if _, ok := o.addrs[addr]; ok {
			return true
		}
	}
	return false
}
