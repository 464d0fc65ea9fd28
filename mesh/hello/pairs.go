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
// one in the other direction, under way or completed in the last 10 seconds,
// or of one in either that already counted as both; it counts when either end
// does, or when such a one completed since. The results of the introduction
// that each end completed last then agree in every order. What remains is an
// introduction that completes on the listener and breaks before the dialler
// hears of it, which the dialler repeats.
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

// pair is what is known of introductions with one life of one peer.
type pair struct {
	way  [2]way // by direction
	both event  // last one that counted as both
}

// way is one direction.
type way struct {
	active    int // introductions under way
	completed event
}

// event is when something happened last; zero: never.
type event struct {
	at    time.Time
	order uint64 // pairs.order then
}

func (e event) recent(now time.Time) bool { return e.order > 0 && now.Sub(e.at) <= bothWindow }

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
	p.known[key].way[direction(dialled)].active++
	return &introduction{pairs: p, key: key, dialled: dialled, began: p.order}
}

func (v *pair) idle(now time.Time) bool {
	for _, w := range v.way {
		if w.active > 0 || w.completed.recent(now) {
			return false
		}
	}
	return true // both is never later than a completion
}

func direction(dialled bool) int {
	if dialled {
		return 1
	}
	return 0
}

// recent is what to tell the peer: that this may not be the only introduction
// of the two, and the dialler must not be taken for the initiator.
func (i *introduction) recent() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	now, v := time.Now(), i.known[i.key]
	other := v.way[direction(!i.dialled)]
	i.told = other.active > 0 || other.completed.recent(now) || v.both.recent(now)
	return i.told
}

// complete ends the introduction and says whether we initiate. peerRecent is
// what the peer's recent answered.
func (i *introduction) complete(peerRecent bool) (initiator bool, order uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended = true
	i.order++
	e, v := event{time.Now(), i.order}, i.known[i.key]
	v.way[direction(i.dialled)].active--
	v.way[direction(i.dialled)].completed = e
	other := v.way[direction(!i.dialled)].completed
	if !i.told && !peerRecent && max(other.order, v.both.order) <= i.began {
		return i.dialled, i.order
	}
	v.both = e
	return i.self.Compare(i.key.peer) < 0, i.order
}

// fail ends an introduction that did not complete.
func (i *introduction) fail() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.ended {
		i.ended = true
		i.known[i.key].way[direction(i.dialled)].active--
	}
}
