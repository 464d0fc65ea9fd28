// Package fdb decides where the frames of a switch port go: which host an
// address is at, which hosts want a multicast group, and what can be answered
// here instead of being asked everywhere.
//
// It is pure: it sends nothing, reads no clock but the one it was given, and
// does not know the kernel, the tunnels or the device that frames come from.
package fdb

import (
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultLimit = 1 << 16
	defaultAge   = 5 * time.Minute

	// maxRemotes is what the index of a remote can count.
	maxRemotes = 1<<16 - 1
)

// Options of a table; zero values mean the defaults.
type Options struct {
	Limit     int              // learnt entries; 0: 65,536
	PerRemote int              // learnt entries of one remote; 0: a quarter of Limit
	Age       time.Duration    // of learnt entries, in whole seconds; 0: 5 minutes
	Now       func() time.Time // nil: time.Now
}

// Table knows where every address is. Its methods never block for long and may
// be called from any goroutine. Lookup, Learn and Local take no lock unless
// something changes, and allocate nothing.
//
// Its clock stands still between calls of Sweep.
type Table struct {
	// Constant after New.

	limit, share int64
	age          uint32 // seconds
	now          func() time.Time
	began        time.Time

	// Atomic.

	state atomic.Pointer[state]
	tick  atomic.Uint32 // seconds since it began, as of the last Sweep; 1 at the start

	moves, refused, astray, answered atomic.Uint64

	mu sync.Mutex // held by whoever changes state or adds to and removes from its slots

	groups groups // has its own mutex, below the one above
}

// state is what one lookup needs, all of one moment. It is immutable but for
// what was learnt.
type state struct {
	remotes []Remote              // sorted; entries name them by their index
	ids     map[netip.Addr]uint16 // index of each
	known   map[uint64]uint16     // by MAC: index of its remote
	owners  map[netip.Addr]MAC    // by address on the switch
	learnt  *slots
}

// New returns a table without remotes: nothing can be learnt yet.
func New(o Options) *Table {
	if o.Limit <= 0 {
		o.Limit = defaultLimit
	}
	if o.PerRemote <= 0 {
		o.PerRemote = max(o.Limit/4, 1)
	}
	if o.Age <= 0 {
		o.Age = defaultAge
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	t := &Table{
		limit: int64(o.Limit), share: int64(o.PerRemote),
		age: uint32(max(o.Age/time.Second, 1)), now: o.Now, began: o.Now(),
	}
	t.tick.Store(1)
	t.state.Store(&state{learnt: newSlots(0, 0)})
	t.groups.init()
	return t
}

// Set replaces the remotes and the known attachments; the caller may change
// the lists afterwards. What was learnt about remotes that are gone goes, too.
//
// An attachment counts while its host is a remote. An address that two hosts
// claim is nobody's: a MAC is learnt then, and questions are forwarded. So are
// those about link-local addresses: the name server has one, and of an IPv6 one
// the answer would have to say whether it is a router's.
func (t *Table) Set(remotes []Remote, known []Known) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.state.Load()
	next := makeState(remotes, known)
	if slices.EqualFunc(old.remotes, next.remotes, sameOverlay) {
		next.learnt = old.learnt
	} else {
		next.learnt = old.learnt.copied(len(next.remotes), func(_ uint64, id uint16) (uint16, bool) {
			to, ok := next.ids[old.remotes[id].Overlay]
			return to, ok
		})
	}
	for mac := range next.known {
		if at, _, ok := next.learnt.find(mac); ok {
			next.learnt.remove(at) // exact knowledge replaces it
		}
	}
	t.state.Store(next)
	t.groups.set(next.remotes)
}

func sameOverlay(a, b Remote) bool { return a.Overlay == b.Overlay }

func makeState(remotes []Remote, known []Known) *state {
	s := &state{remotes: slices.Clone(remotes)}
	slices.SortStableFunc(s.remotes, func(a, b Remote) int { return a.Overlay.Compare(b.Overlay) })
	s.remotes = slices.CompactFunc(s.remotes, sameOverlay)
	if len(s.remotes) > maxRemotes {
		s.remotes = s.remotes[:maxRemotes]
	}
	s.ids = make(map[netip.Addr]uint16, len(s.remotes))
	for i, r := range s.remotes {
		s.ids[r.Overlay] = uint16(i)
	}
	s.known = make(map[uint64]uint16, len(known))
	s.owners = make(map[netip.Addr]MAC, len(known))
	twice := make(map[uint64]bool)
	for _, k := range known {
		id, ok := s.ids[k.At]
		if !ok || !unicast(k.MAC) {
			continue
		}
		if other, ok := s.known[key(k.MAC)]; ok && other != id {
			twice[key(k.MAC)] = true
		}
		s.known[key(k.MAC)] = id
	}
	for mac := range twice {
		delete(s.known, mac)
	}
	for _, k := range known {
		if id, ok := s.known[key(k.MAC)]; !ok || s.remotes[id].Overlay != k.At {
			continue
		}
		for _, a := range k.Addrs {
			if a = a.Unmap(); !a.IsGlobalUnicast() {
				continue
			}
			if other, ok := s.owners[a]; ok && other != k.MAC {
				s.owners[a] = MAC{} // two say it is theirs
				continue
			}
			s.owners[a] = k.MAC
		}
	}
	return s
}

// Lookup says at which remote an address is.
func (t *Table) Lookup(m MAC) (at netip.Addr, ok bool) {
	r, ok := t.Remote(m)
	return r.Overlay, ok
}

// Remote is Lookup with all that is known of the remote.
func (t *Table) Remote(m MAC) (r Remote, ok bool) {
	if !unicast(m) {
		return Remote{}, false
	}
	s := t.state.Load()
	id, ok := s.known[key(m)]
	if !ok {
		if _, id, ok = s.learnt.find(key(m)); !ok {
			return Remote{}, false
		}
	}
	return s.remotes[id], true
}

// Remotes is the sorted list of remotes. It is never changed; do not, either.
func (t *Table) Remotes() []Remote { return t.state.Load().remotes }

// Learn notes the source of a frame that came from a remote. Addresses of
// known attachments are not learnt, nor are those of groups, nor anything from
// a host that is no remote.
func (t *Table) Learn(m MAC, from netip.Addr) {
	if !unicast(m) {
		return
	}
	s, mac := t.state.Load(), key(m)
	if id, ok := s.known[mac]; ok {
		if s.remotes[id].Overlay != from {
			t.astray.Add(1)
		}
		return
	}
	at, id, found := s.learnt.find(mac)
	if found && s.remotes[id].Overlay == from {
		s.learnt.touch(at, t.tick.Load())
		return
	}
	id, ok := s.ids[from]
	switch {
	case !ok:
	case !found && s.learnt.full(id, t.limit, t.share):
		t.refused.Add(1) // without the lock: there may be many
	default:
		t.learn(mac, from)
	}
}

// learn adds an entry or moves it.
func (t *Table) learn(mac uint64, from netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state.Load()
	id, ok := s.ids[from]
	if _, known := s.known[mac]; !ok || known {
		return
	}
	tick := t.tick.Load()
	if at, is, ok := s.learnt.find(mac); ok {
		switch {
		case is == id:
			s.learnt.touch(at, tick)
		case s.learnt.full(id, math.MaxInt64, t.share):
			s.learnt.remove(at) // it is not where it was
			t.refused.Add(1)
		default:
			s.learnt.move(at, id, tick)
			t.moves.Add(1)
		}
		return
	}
	if s.learnt.full(id, t.limit, t.share) {
		t.refused.Add(1)
		return
	}
	if !s.learnt.room() {
		s = t.renew(s)
	}
	s.learnt.add(mac, id, tick)
}

// renew replaces the slots by new ones with room. The caller holds mu.
func (t *Table) renew(s *state) *state {
	next := *s
	next.learnt = s.learnt.copied(len(s.remotes), func(_ uint64, id uint16) (uint16, bool) { return id, true })
	t.state.Store(&next)
	return &next
}

// Local notes the source of a frame that came from our own bridge: what was
// learnt about it is wrong now. A known attachment stays where it is known to
// be.
func (t *Table) Local(m MAC) {
	s := t.state.Load()
	if !unicast(m) {
		return
	}
	mac := key(m)
	if _, ok := s.known[mac]; ok {
		t.astray.Add(1)
		return
	}
	if _, _, ok := s.learnt.find(mac); !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s = t.state.Load()
	if at, _, ok := s.learnt.find(mac); ok {
		s.learnt.remove(at)
	}
}

// Sweep lets time pass: what was not seen for longer than the age goes. It is
// called every few seconds.
func (t *Table) Sweep() {
	tick := uint32(t.now().Sub(t.began)/time.Second) + 1
	t.tick.Store(tick)
	t.mu.Lock()
	s := t.state.Load()
	for at := range s.learnt.word {
		if w := s.learnt.word[at].Load(); w == empty || w == deleted {
			continue
		}
		if seen := s.learnt.seen[at].Load(); tick > seen && tick-seen > t.age {
			s.learnt.remove(at)
		}
	}
	if gone := s.learnt.used - int(s.learnt.live.Load()); gone > len(s.learnt.word)/4 {
		t.renew(s)
	}
	t.mu.Unlock()
	t.groups.sweep(tick)
}

// Stats are counts, and counters since New.
type Stats struct {
	Known, Learnt int // addresses now
	Groups        int // multicast groups that somebody far away wants
	Flooded       int // remotes that get every multicast frame

	Moves    uint64 // learnt addresses that changed their remote
	Refused  uint64 // not learnt, because a limit was reached
	Astray   uint64 // frames of known attachments that came from elsewhere
	Answered uint64 // questions answered here
}

// Stats says what the table holds and did.
func (t *Table) Stats() Stats {
	s := t.state.Load()
	st := Stats{
		Known: len(s.known), Learnt: int(s.learnt.live.Load()),
		Moves: t.moves.Load(), Refused: t.refused.Load(), Astray: t.astray.Load(), Answered: t.answered.Load(),
	}
	st.Groups, st.Flooded = t.groups.stats()
	return st
}
