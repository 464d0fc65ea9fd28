package fdb

import (
	"net/netip"
	"sync"
)

// Times of queries and of what is believed after them (RFC 3376, section 8),
// in seconds.
const (
	queryInterval = 125
	queryResponse = 10
	robustness    = 2
	membership    = robustness*queryInterval + queryResponse

	// settling is from a host's first answer to a query until all its
	// containers have had time to answer, and the query to be repeated.
	settling = 3 * queryResponse

	// unheard is how long after we began to hear a host its answers prove
	// nothing: they may be to a query that others there have answered before.
	// The clock moves in steps, which is in it.
	unheard = queryResponse + QueryAtStart
)

// Memberships that are kept: for a remote of which there are more, and when
// there are more in all, frames are flooded.
const (
	maxMembers    = 1 << 14
	maxMembersOne = 1 << 12
)

// here stands for our own bridge among the remotes.
var here = netip.IPv6Unspecified()

// groups knows which remotes want which multicast groups. A remote is pruned
// only while its containers answer queries: hosts with another data path send
// none, and what was joined there would be forgotten while it is still wanted.
// Answers are told from announcements by the kind of their records.
type groups struct {
	mu sync.Mutex // guards what follows

	tick    uint32
	remotes map[netip.Addr]*hearing
	groups  map[netip.Addr]*group
	total   int // members
	// always are the remotes that get everything; never changed, but replaced,
	// with another generation.
	always     []netip.Addr
	generation uint64
	changes    uint64 // of who gets what
}

// hearing is what one remote was heard to say. Times are ticks; 0: never.
type hearing struct {
	since       uint32 // began to be heard; 0: with the next answer
	first, last uint32 // answer to a query that all there have heard since then, without a pause between them
	router      uint32 // message of a multicast router
	overflow    uint32 // membership that was not kept
	members     int
	flooded     bool // result: in always
}

// group is one multicast group.
type group struct {
	members map[member]uint32  // tick of its last report
	hosts   map[netip.Addr]int // members at each remote
	// old is the tick of the last report of a kind that makes other members be
	// silent, on all hosts: who is a member cannot be known then.
	old        uint32
	list       []netip.Addr // remotes that get it, as of generation
	generation uint64       // 0: list is not right
}

// member is one container that wants a group.
type member struct {
	at     netip.Addr // its host
	mac    MAC
	sender [16]byte
}

func (g *groups) init() {
	g.tick, g.generation = 1, 1
	g.remotes = map[netip.Addr]*hearing{here: {}}
	g.groups = make(map[netip.Addr]*group)
}

// Snoop reads a multicast frame that came from a remote, for reports of group
// membership, queries, and routers.
func (t *Table) Snoop(frame []byte, from netip.Addr) {
	to, src, kind, rest, ok := ether(frame)
	if !ok || to[0]&1 == 0 {
		return
	}
	if m := parseMessage(kind, rest); m.kind != noMessage {
		t.groups.heard(m, src, from)
	}
}

// Members says who gets a multicast or broadcast frame that came from our
// bridge: all remotes when flood is set, else those of the list, which is never
// changed; do not, either. Everything is flooded that might be wanted by
// somebody who did not say so.
func (t *Table) Members(frame []byte) (list []netip.Addr, flood bool) {
	to, src, kind, rest, ok := ether(frame)
	if !ok {
		return nil, true
	}
	g, ok := groupOf(to, kind, rest)
	if !ok || kind == typeIP6 && mayReport(rest[6]) {
		t.overhear(kind, rest, src)
	}
	if !ok {
		return nil, true
	}
	return t.groups.of(g)
}

// set keeps what was heard of remotes that stay. A new one is flooded until it
// was heard to answer.
func (g *groups) set(remotes []Remote) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := make(map[netip.Addr]*hearing, len(remotes)+1)
	next[here] = g.remotes[here]
	for _, r := range remotes {
		h, ok := g.remotes[r.Overlay]
		if !ok {
			h = &hearing{since: g.tick}
		}
		next[r.Overlay] = h
	}
	gone := len(next) < len(g.remotes)
	for a := range g.remotes {
		gone = gone || next[a] == nil
	}
	g.remotes = next
	if gone {
		g.forget(func(m member, _ uint32) bool { return next[m.at] == nil })
	}
	g.judge()
}

// of is Members for a group that is pruned.
func (g *groups) of(a netip.Addr) (list []netip.Addr, flood bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.floodsAll() {
		return nil, true
	}
	e := g.groups[a]
	switch {
	case e == nil:
		return g.always, false
	case e.old != 0:
		return nil, true
	case e.generation != g.generation:
		e.list = append([]netip.Addr(nil), g.always...)
		for at := range e.hosts {
			if !g.remotes[at].flooded {
				e.list = append(e.list, at)
			}
		}
		e.generation = g.generation
	}
	return e.list, false
}

// floodsAll says whether every remote gets everything.
func (g *groups) floodsAll() bool {
	return g.remotes[here].flooded || len(g.always) == len(g.remotes)-1
}

// heard takes what a container at a remote, or here, has said.
func (g *groups) heard(m message, mac MAC, at netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.remotes[at]
	if h == nil {
		return
	}
	switch m.kind {
	case noMessage, isOther:
	case isHidden:
		g.missed(g.remotes[here])
	case isRouter:
		h.router = g.tick
		g.judgeOne(h)
	case isOld:
		if pruned(m.group) {
			g.join(h, m.group, member{at, mac, m.sender}, true)
		}
	case isReport:
		for r, ok := m.next(); ok; r, ok = m.next() {
			if r.kind == recordInclude || r.kind == recordExclude {
				if h.since == 0 {
					h.since = g.tick
				}
				if h.first == 0 && g.passed(h.since, unheard) {
					h.first = g.tick
				}
				h.last = g.tick
			}
			switch {
			case !pruned(r.group):
			case r.joins():
				g.join(h, r.group, member{at, mac, m.sender}, false)
			case r.leaves():
				g.leave(h, r.group, member{at, mac, m.sender})
			}
		}
	}
}

func (g *groups) join(h *hearing, a netip.Addr, m member, old bool) {
	e := g.groups[a]
	if e == nil || e.members[m] == 0 {
		if h.members >= maxMembersOne || g.total >= maxMembers || e == nil && len(g.groups) >= maxMembers {
			g.missed(h)
			if old && e != nil {
				g.silence(e)
			} else if old {
				g.missed(g.remotes[here])
			}
			return
		}
		if e == nil {
			e = &group{members: make(map[member]uint32), hosts: make(map[netip.Addr]int)}
			g.groups[a] = e
		}
		h.members++
		g.total++
		if e.hosts[m.at]++; e.hosts[m.at] == 1 {
			e.generation = 0
			g.changes++
		}
	}
	e.members[m] = g.tick
	if old {
		g.silence(e)
	}
}

// missed notes that something which a remote said is not kept: it gets everything
// for a while; all do for what is missed of here.
func (g *groups) missed(h *hearing) {
	h.overflow = g.tick
	g.judgeOne(h)
}

// silence notes that members of a group may be silent from now on.
func (g *groups) silence(e *group) {
	if e.old == 0 {
		g.changes++
	}
	e.old = g.tick
}

func (g *groups) leave(h *hearing, a netip.Addr, m member) {
	e := g.groups[a]
	if e == nil || e.members[m] == 0 {
		return
	}
	h.members--
	g.drop(e, m)
	if len(e.members) == 0 && e.old == 0 {
		delete(g.groups, a)
	}
}

// drop removes a member of a group, but not from the count of its remote.
func (g *groups) drop(e *group, m member) {
	delete(e.members, m)
	g.total--
	if e.hosts[m.at]--; e.hosts[m.at] == 0 {
		delete(e.hosts, m.at)
		e.generation = 0
		g.changes++
	}
}

// forget drops members, and groups that nobody wants then.
func (g *groups) forget(drop func(m member, seen uint32) bool) {
	for a, e := range g.groups {
		if e.old != 0 && g.passed(e.old, membership) {
			e.old = 0
			g.changes++
		}
		for m, seen := range e.members {
			if drop(m, seen) {
				g.drop(e, m)
				if h := g.remotes[m.at]; h != nil {
					h.members--
				}
			}
		}
		if len(e.members) == 0 && e.old == 0 {
			delete(g.groups, a)
		}
	}
}

func (g *groups) sweep(tick uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tick = tick
	for _, h := range g.remotes {
		if h.first != 0 && g.passed(h.last, membership) {
			h.first, h.since = 0, 0
		}
		if g.passed(h.router, membership) {
			h.router = 0
		}
		if g.passed(h.overflow, membership) {
			h.overflow = 0
		}
	}
	g.forget(func(_ member, seen uint32) bool { return g.passed(seen, membership) })
	g.judge()
}

// passed says whether more than so many seconds went by since.
func (g *groups) passed(since, seconds uint32) bool { return g.tick > since && g.tick-since > seconds }

// floods says whether a remote gets everything.
func (g *groups) floods(at netip.Addr, h *hearing) bool {
	silent := at != here && (h.first == 0 || !g.passed(h.first, settling))
	return silent || h.router != 0 || h.overflow != 0
}

// judge computes who gets everything.
func (g *groups) judge() {
	list, same := make([]netip.Addr, 0, len(g.always)), true
	for at, h := range g.remotes {
		flooded := g.floods(at, h)
		same = same && flooded == h.flooded
		h.flooded = flooded
		if flooded && at != here {
			list = append(list, at)
		}
	}
	if !same || len(list) != len(g.always) {
		g.always = list
		g.generation++
		g.changes++
	}
}

// judgeOne is judge after a message that can only make the remote get more.
func (g *groups) judgeOne(h *hearing) {
	if !h.flooded {
		g.judge()
	}
}

func (g *groups) stats() (groups, flooded int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.groups), len(g.always)
}
