package ipam

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

const (
	answerTime = time.Second            // for a Want; then somebody else is asked
	roundEvery = 3 * time.Second        // after nobody had anything
	roundLeast = 250 * time.Millisecond // even when somebody has more now
	busyEvery  = time.Second            // when somebody was comparing addresses
)

// requests is what containers of this host wait for.
type requests struct {
	list     []*request // in order of arrival
	byTicket map[ticket]*request
	asks     map[uint64]*ask // that are open, by op
	searches map[netip.Prefix]*search
	hurry    bool // a peer has more than before
}

// requestKind is what a request wants.
type requestKind uint8

const (
	wantAny  requestKind = iota // an address of subnet
	wantThis                    // addr
	wantRing
)

// request waits.
type request struct {
	ticket     ticket // zero: nobody waits, see holders.claims
	kind       requestKind
	key, label string
	subnet     netip.Prefix // of wantAny
	addr       netip.Addr   // of wantThis
	since      time.Time
	reason     string

	ask   *ask      // nil: none open
	again time.Time // of wantThis: not asked before
}

// ask is a Want that is open: only its answer is taken.
type ask struct {
	op       uint64
	to       crypto.Identity
	deadline time.Time
	req      *request
}

func (q *requests) init() {
	q.byTicket = make(map[ticket]*request)
	q.asks = make(map[uint64]*ask)
	q.searches = make(map[netip.Prefix]*search)
}

// addRequest makes r wait.
func (c *core) addRequest(r *request) {
	r.since = c.now
	c.requests.list = append(c.requests.list, r)
	c.requests.byTicket[r.ticket] = r
}

// endRequest answers r.
func (c *core) endRequest(r *request, res result) {
	q := &c.requests
	c.closeAsk(r.ask)
	if i := slices.Index(q.list, r); i >= 0 {
		q.list = slices.Delete(q.list, i, i+1)
	}
	delete(q.byTicket, r.ticket)
	c.finish(r.ticket, res)
}

// cancel ends a request of which nobody wants to know the answer any more.
func (c *core) cancel(t ticket) {
	if r := c.requests.byTicket[t]; r != nil {
		c.endRequest(r, result{Err: errCancelled})
		return
	}
	if !c.cancelTakeover(t) {
		c.cancelHandOver(t)
	}
}

// reason says why r waits.
func (c *core) reason(r *request, why string) {
	if r.reason == why {
		return
	}
	r.reason = why
	if r.ticket != 0 {
		c.wait(r.ticket, why)
	}
}

// wantsRing reports whether something waits for the range to be divided, and
// nothing else is to be done before.
func (c *core) wantsRing() bool { return len(c.requests.list) > 0 && c.halted() == "" }

// startPrime waits for the ring.
func (c *core) startPrime(t ticket) {
	r := &request{ticket: t, kind: wantRing}
	c.addRequest(r)
	c.tryRequest(r)
}

// tryRequest answers r if that is possible now, and asks others if not.
func (c *core) tryRequest(r *request) {
	switch r.kind {
	case wantRing:
		c.tryPrime(r)
	case wantAny:
		c.tryAllocate(r)
	case wantThis:
		c.tryClaim(r)
	}
}

func (c *core) tryPrime(r *request) {
	if c.ring != nil {
		c.endRequest(r, result{})
		return
	}
	c.reason(r, c.ringReason())
}

// ringReason says why there is no ring.
func (c *core) ringReason() string {
	if why := c.halted(); why != "" {
		return why
	}
	return c.divisionReason()
}

// stepRequests tries those that wait.
func (c *core) stepRequests() {
	again := c.again
	c.again = false
	if len(c.requests.list) == 0 && len(c.requests.searches) == 0 {
		c.requests.hurry = false
		return
	}
	full := make(map[netip.Prefix]bool) // subnets in which nothing of ours is free
	for _, r := range slices.Clone(c.requests.list) {
		switch {
		case r.kind == wantAny && !again:
		case r.kind == wantAny && full[r.subnet]:
			c.tryHeld(r)
		case r.kind == wantAny:
			full[r.subnet] = !c.tryAllocate(r)
		default:
			c.tryRequest(r)
		}
	}
	c.stepSearches()
	if c.again {
		c.wakeAt(c.now)
	}
}

// askFor sends a Want for r, unless one is open or it is not yet time.
func (c *core) askFor(r *request, to crypto.Identity) {
	if r.ask != nil {
		if r.ask.to == to && !c.due(r.ask.deadline) {
			return
		}
		c.closeAsk(r.ask)
	}
	if !r.again.IsZero() && !c.due(r.again) {
		return
	}
	r.again = time.Time{}
	a := &ask{op: c.nextOp(), to: to, deadline: c.now.Add(answerTime), req: r}
	r.ask = a
	c.requests.asks[a.op] = a
	c.peer(to).wanted = true
	c.wakeAt(a.deadline)
	w := wire.Want{Op: a.op, Subnet: r.subnet, Addr: r.addr, Key: r.key, Label: r.label, Unsure: !c.sure()}
	if r.kind == wantThis {
		w.Subnet = c.geo.Range()
	}
	c.send(to, w)
}

// closeAsk makes an answer to a come too late.
func (c *core) closeAsk(a *ask) {
	if a != nil {
		delete(c.requests.asks, a.op)
		a.req.ask = nil
	}
}

// closeAsksOf lets nobody wait for a peer that is out of reach.
func (c *core) closeAsksOf(id crypto.Identity) {
	for _, a := range c.requests.asks {
		if a.to == id {
			a.deadline = c.now
		}
	}
}

// granted is called when an address was leased to us for an open Want.
func (c *core) granted(a *ask, addr netip.Addr) {
	r := a.req
	if r.kind == wantThis {
		if r.addr == addr {
			c.grantedThis(r, a.op)
		}
		return
	}
	c.dropDoubtful(addr)
	if _, used := c.local[addr]; used || !r.subnet.Contains(addr) || c.geo.Reserved(addr, r.subnet) {
		c.askRefused(a, false) // its owner forgot that we have it; Held reminds it
		return
	}
	c.setLocal(addr, holder{r.key, r.label, a.op})
	c.endAllocate(r, addr)
}

// askRefused is called when an answer brought nothing.
func (c *core) askRefused(a *ask, busy bool) {
	r := a.req
	if r.kind == wantAny {
		if s := c.requests.searches[r.subnet]; s != nil {
			s.tried[a.to] = struct{}{}
			if busy {
				s.busy, s.owed = true, append(s.owed, c.title(a.to)+" is comparing addresses with other hosts first")
			}
		}
		return
	}
	r.again = c.now.Add(roundLeast)
	if busy {
		r.again = c.now.Add(busyEvery)
		c.reason(r, c.title(a.to)+" is comparing addresses with other hosts first")
	}
}
