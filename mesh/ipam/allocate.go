package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
)

// startAllocate gives an address, or waits for one.
func (c *core) startAllocate(e allocateEvent) {
	subnet := e.Subnet
	if !subnet.IsValid() {
		subnet = c.cfg.Subnet
	}
	subnet = subnet.Masked()
	if err := c.checkSubnet(subnet); err != nil {
		c.finish(e.Ticket, result{Err: err})
		return
	}
	r := &request{ticket: e.Ticket, kind: wantAny, key: e.Key, label: e.Label, subnet: subnet}
	waits := slices.ContainsFunc(c.requests.list, func(o *request) bool { return o.kind == wantAny && o.subnet == subnet })
	c.addRequest(r)
	switch {
	case !waits:
		c.tryAllocate(r)
	case !c.tryHeld(r):
		c.retry() // in its turn
	}
}

// checkSubnet reports whether addresses of subnet can be given at all.
func (c *core) checkSubnet(subnet netip.Prefix) error {
	r := c.geo.Range()
	if !subnet.IsValid() || subnet.Bits() < r.Bits() || !r.Contains(subnet.Addr()) {
		return fmt.Errorf("subnet %s: %w %s", subnet, ErrRange, r)
	}
	if c.geo.Usable(subnet) == 0 {
		return fmt.Errorf("subnet %s has no address for a container: %w %s", subnet, ErrRange, r)
	}
	return nil
}

// tryHeld answers r with an address that its key has, or had when it died.
func (c *core) tryHeld(r *request) bool {
	for _, addr := range c.keys[r.key] {
		if r.subnet.Contains(addr) && !c.geo.Reserved(addr, r.subnet) && c.trusted(addr) && (!c.dying(addr) || c.reusable(addr)) {
			c.revive(addr)
			c.endRequest(r, result{Addr: netip.PrefixFrom(addr, r.subnet.Bits())})
			return true
		}
	}
	return false
}

// tryAllocate answers r with what its key has, or with the lowest free address
// of our blocks.
func (c *core) tryAllocate(r *request) bool {
	if c.tryHeld(r) {
		return true
	}
	own := c.own()
	addr, ok := c.used.LowestFree(&own, r.subnet)
	if ok {
		c.setLocal(addr, holder{Key: r.key, Label: r.label})
		c.endAllocate(r, addr)
	}
	return ok
}

func (c *core) endAllocate(r *request, addr netip.Addr) {
	c.endRequest(r, result{Addr: netip.PrefixFrom(addr, r.subnet.Bits()), Fresh: true})
}

// search asks one host after the other for addresses of one subnet, for the
// first request that waits for any; what comes is for all of them.
type search struct {
	req   *request                     // the first one
	tried map[crypto.Identity]struct{} // in this round
	owed  []string                     // of these, those that may have some: why they said nothing
	busy  bool                         // one of them is about to know
	ended time.Time                    // the last round; zero: this is the first
	next  time.Time                    // when a round begins; zero: one is going on
	why   string                       // they wait
}

// stepSearches goes on with all searches, and ends those that nobody waits for.
func (c *core) stepSearches() {
	q := &c.requests
	var first []*request
	seen := make(map[netip.Prefix]bool)
	for _, r := range q.list {
		if r.kind == wantAny && !seen[r.subnet] {
			seen[r.subnet] = true
			first = append(first, r)
		}
	}
	for subnet := range q.searches {
		if !seen[subnet] {
			delete(q.searches, subnet)
		}
	}
	for _, r := range first {
		s := q.searches[r.subnet]
		if s == nil {
			s = &search{tried: make(map[crypto.Identity]struct{})}
			q.searches[r.subnet] = s
		}
		if s.req != r {
			s.req = r
			if s.ended.IsZero() { // news for this one
				clear(s.tried)
			}
		}
		s.why = cmp.Or(c.stepSearch(s), s.why)
		for _, o := range q.list {
			if o.kind == wantAny && o.subnet == r.subnet {
				c.reason(o, s.why)
			}
		}
	}
	q.hurry = false
}

// stepSearch goes on with one search, and returns why it takes so long; empty:
// as before.
func (c *core) stepSearch(s *search) string {
	if c.ring == nil {
		return c.ringReason()
	}
	if why := c.halted(); why != "" {
		return why
	}
	r := s.req
	if r.ask != nil {
		if !c.due(r.ask.deadline) {
			return ""
		}
		s.tried[r.ask.to] = struct{}{}
		s.owed = append(s.owed, c.title(r.ask.to)+" does not answer")
		c.closeAsk(r.ask)
	}
	if !s.next.IsZero() {
		if c.requests.hurry {
			s.next = s.ended.Add(roundLeast)
		}
		if !c.due(s.next) {
			return ""
		}
		s.next, s.busy, s.owed = time.Time{}, false, nil
	}
	if to, ok := c.donor(r.subnet, s.tried); ok {
		c.askFor(r, to)
		if s.ended.IsZero() {
			return fmt.Sprintf("asking %s for addresses of %s", c.title(to), r.subnet)
		}
		return ""
	}
	every := roundEvery
	if s.busy {
		every = busyEvery
	}
	s.ended, s.next = c.now, c.now.Add(every)
	clear(s.tried)
	c.due(s.next)
	return c.fullReason(r.subnet, s.owed)
}

// donor chooses whom to ask for addresses of subnet: by chance, weighted by
// wholly free blocks; those that say that they have none come last.
func (c *core) donor(subnet netip.Prefix, tried map[crypto.Identity]struct{}) (crypto.Identity, bool) {
	var with, some, rest []crypto.Identity
	total := 0
	for _, owner := range c.ring.OwnersIn(subnet) {
		id, ok := c.resolve(owner.Owner)
		p := c.peers[id]
		if _, was := tried[id]; !ok || was || p == nil || !p.Alive || !c.takesPart(p) || c.sureness.unproven && !p.met {
			continue
		}
		switch {
		case p.info != nil && p.info.Free > 0 && p.info.Ring == c.ring.ID():
			with, total = append(with, id), total+p.info.Free
		case p.info == nil || p.info.FreeIPs > 0:
			some = append(some, id)
		default:
			rest = append(rest, id)
		}
	}
	if total > 0 {
		n := c.rand.IntN(total)
		for _, id := range with {
			if n -= c.peers[id].info.Free; n < 0 {
				return id, true
			}
		}
	}
	for _, list := range [][]crypto.Identity{some, rest} {
		if len(list) > 0 {
			return list[c.rand.IntN(len(list))], true
		}
	}
	return crypto.Identity{}, false
}

// fullReason says why nobody gave an address of subnet. Those in owed may have
// some.
func (c *core) fullReason(subnet netip.Prefix, owed []string) string {
	if c.halted() == "" && !c.sure() {
		if len(c.missing()) > 0 {
			return c.unprovenReason()
		}
	}
	var out, gone []string
	for _, owner := range c.ring.OwnersIn(subnet) {
		if id, ok := c.resolve(owner.Owner); !ok || id != c.cfg.Self && !c.alive(id) {
			out = append(out, c.title(owner.Owner))
			if !c.now.Before(c.awaited(owner.Owner)) { // or else it may be on its way
				gone = append(gone, c.callName(owner.Owner))
			}
		}
	}
	slices.Sort(out)
	slices.Sort(gone)
	if len(owed) > 0 {
		slices.Sort(owed)
		return fmt.Sprintf("nobody gave an address of %s: %s; asked again", subnet, shortened(owed))
	}
	if len(out) == 0 {
		return fmt.Sprintf("all addresses of %s are in use", subnet)
	}
	why := fmt.Sprintf("all addresses of %s that are in reach are in use; out of reach: %s", subnet, shortened(out))
	if len(gone) > 0 {
		why += "; if gone: weft rmpeer " + strings.Join(gone, " ")
	}
	return why
}
