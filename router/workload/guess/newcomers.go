package guess

import (
	"context"
	"slices"
	"sync"
	"time"
)

// newcomer is a container that was made and not started yet, on one of our
// networks as far as we know.
type newcomer struct {
	id     string
	at     time.Time
	served bool          // somebody got an address meanwhile, probably this one
	unsure chan struct{} // closed when its networks are known; nil: they are
}

// newcomerTime is how long a container that is not started counts as about to
// be.
const newcomerTime = 30 * time.Second

// SureTime is how long an engine that asks for an address waits until it has
// told us about those that were made just before: a few milliseconds, mostly.
const SureTime = time.Second

// Newcomers are the containers that were made and may ask for their first
// address. It is safe for concurrent use; the zero value is ready.
type Newcomers struct {
	mu      sync.Mutex // guards what follows
	created []newcomer // oldest first
}

// Add notes that a container was made, on whatever network.
func (l *Newcomers) Add(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.indexLocked(id) < 0 {
		l.created = append(l.created, newcomer{id: id, at: time.Now(), unsure: make(chan struct{})})
	}
}

// Has reports whether a container was made and is a newcomer still.
func (l *Newcomers) Has(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.indexLocked(id) >= 0
}

// Confirm notes that one which was made is on a network of ours, unless it
// started or went since.
func (l *Newcomers) Confirm(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.indexLocked(id); i >= 0 {
		l.created[i].sureLocked()
	}
}

// Start notes that a container runs and is no newcomer any more.
func (l *Newcomers) Start(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.indexLocked(id)
	if i < 0 {
		return
	}
	if !l.created[i].served {
		// What was put down to another one was for this one.
		if k := slices.IndexFunc(l.created, func(n newcomer) bool { return n.served }); k >= 0 {
			l.created[k].served = false
		}
	}
	l.dropLocked(i)
}

// Remove notes that a container is gone.
func (l *Newcomers) Remove(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.indexLocked(id); i >= 0 {
		l.dropLocked(i)
	}
}

// Decline notes that a container does not want an address of ours: what was put
// down to it was for another one.
func (l *Newcomers) Decline(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.indexLocked(id)
	if i < 0 {
		return
	}
	served := l.created[i].served
	l.dropLocked(i)
	if served {
		l.serveLocked()
	}
}

func (l *Newcomers) indexLocked(id string) int {
	return slices.IndexFunc(l.created, func(n newcomer) bool { return n.id == id })
}

func (l *Newcomers) dropLocked(i int) {
	l.created[i].sureLocked()
	l.created = slices.Delete(l.created, i, i+1)
}

func (n *newcomer) sureLocked() {
	if n.unsure != nil {
		close(n.unsure)
		n.unsure = nil
	}
}

// Sure waits until it is known of every container that was made whether it is
// on a network of ours, for SureTime at most: one of which it is not is taken
// for such a one.
func (l *Newcomers) Sure(ctx context.Context) {
	l.mu.Lock()
	var waits []chan struct{}
	for _, n := range l.created {
		if n.unsure != nil {
			waits = append(waits, n.unsure)
		}
	}
	l.mu.Unlock()
	if len(waits) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, SureTime)
	defer cancel()
	for _, wait := range waits {
		select {
		case <-wait:
		case <-ctx.Done():
			return
		}
	}
}

// Count counts those who are about to ask for their first address.
func (l *Newcomers) Count(now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.created = slices.DeleteFunc(l.created, func(n newcomer) bool {
		old := now.Sub(n.at) >= newcomerTime
		if old {
			n.sureLocked()
		}
		return old
	})
	count := 0
	for _, n := range l.created {
		if !n.served {
			count++
		}
	}
	return count
}

// Serve notes that somebody got an address of their own: the oldest newcomer,
// as long as nothing says otherwise.
func (l *Newcomers) Serve() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serveLocked()
}

func (l *Newcomers) serveLocked() {
	for i := range l.created {
		if !l.created[i].served {
			l.created[i].served = true
			return
		}
	}
}
