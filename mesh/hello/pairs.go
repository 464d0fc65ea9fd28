package hello

import (
	"sync"
	"time"

	"github.com/weftnet/weft/crypto"
)

// bothWindow is how long two introductions in opposite directions count as one
// meeting.
const bothWindow = 10 * time.Second

// pairs decides who initiates WireGuard after an introduction: the dialler,
// unless both hosts dialled each other, then the smaller identity.
//
// Two hosts that dial each other at once see the two introductions complete in
// different orders, so "both" must not depend on what an end happened to see
// first. Each end tells the other inside the introduction whether it knows of
// one in the other direction, under way or completed in the last 10 seconds;
// it counts when either does, or when one completed since. The results of the
// introduction that each end completed last then agree in every order; what
// remains is an introduction that completes on the listener and breaks before
// the dialler hears of it, which the dialler repeats.
type pairs struct {
	self crypto.Identity // constant

	mu    sync.Mutex
	order uint64 // counts completed introductions
	known map[pairKey]*pair
}

// pairKey is one life of one peer.
type pairKey struct {
	peer crypto.Identity
	boot uint64
}

// pair holds both directions, indexed by direction.
type pair [2]struct {
	active    int       // introductions under way
	completed time.Time // zero: never
	order     uint64    // of the last completed one
}

func newPairs(self crypto.Identity) *pairs {
	return &pairs{self: self, known: make(map[pairKey]*pair)}
}

// introduction is one under way: for the dialler from the moment before it
// proves itself, for the listener from the moment after. One goroutine owns it.
type introduction struct {
	*pairs
	key     pairKey
	dialled bool
	began   uint64 // pairs.order then
	told    bool   // what recent answered
	ended   bool
}

// begin notes an introduction under way. It must end by complete or fail; fail
// after complete does nothing.
func (p *pairs) begin(peer crypto.Identity, boot uint64, dialled bool) *introduction {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for k, v := range p.known {
		if v.idle(now) {
			delete(p.known, k)
		}
	}
	key := pairKey{peer, boot}
	if p.known[key] == nil {
		p.known[key] = new(pair)
	}
	p.known[key][direction(dialled)].active++
	return &introduction{pairs: p, key: key, dialled: dialled, began: p.order}
}

func (v *pair) idle(now time.Time) bool {
	for _, d := range v {
		if d.active > 0 || !d.completed.IsZero() && now.Sub(d.completed) <= bothWindow {
			return false
		}
	}
	return true
}

func direction(dialled bool) int {
	if dialled {
		return 1
	}
	return 0
}

// recent is what to tell the peer: whether the other direction is under way or
// completed in the last 10 seconds.
func (i *introduction) recent() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	other := i.known[i.key][direction(!i.dialled)]
	i.told = other.active > 0 || !other.completed.IsZero() && time.Since(other.completed) <= bothWindow
	return i.told
}

// complete ends the introduction and says whether we initiate. peerRecent is
// what the peer's recent answered.
func (i *introduction) complete(peerRecent bool) (initiator bool, order uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended = true
	i.order++
	v := i.known[i.key]
	mine, other := &v[direction(i.dialled)], v[direction(!i.dialled)]
	mine.active--
	mine.completed, mine.order = time.Now(), i.order
	if i.told || peerRecent || other.order > i.began {
		return i.self.Compare(i.key.peer) < 0, i.order
	}
	return i.dialled, i.order
}

// fail ends an introduction that did not complete.
func (i *introduction) fail() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.ended {
		i.ended = true
		i.known[i.key][direction(i.dialled)].active--
	}
}
