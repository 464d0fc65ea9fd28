package e2e

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// manner is how a test behaves beside others.
type manner int

const (
	// racing tests are in a race with the daemon, or look at what it does within
	// milliseconds. Without turns they have the machine to themselves.
	racing manner = iota
	// calm tests hold that something does not happen, which is right only while
	// daemons get the processor when they want it.
	calm
	// idle tests wait nearly all the time, and it does not matter for what.
	idle
	// engined tests start engines of containers, or a whole system, and compute a
	// lot: as many as there are processors go on at once.
	engined
	// crowded tests have a dozen daemons that all begin to talk: for two processors
	// there is one.
	crowded
	// ordinary is everything else.
	ordinary
)

// phase orders what must not overlap: what races or is calm has ended before the
// machine becomes busy.
func (m manner) phase() int { return int(min(m, engined)) / int(engined) }

// weight is the share of the room that a test takes.
func (m manner) weight() int {
	switch m {
	case racing:
		return 3
	case crowded:
		return 6
	case idle:
		return 1
	case engined:
		return 4
	default:
		return 2
	}
}

// turn is one test that waits, or runs.
type turn struct {
	manner manner
	about  time.Duration // how long it takes; the longest begins first
	begin  chan struct{} // closed when it may
}

// turns lets tests begin in an order that keeps the machine busy and no busier:
// Go's own takes them as they come, so that the longest may be last, and engines
// all come at once. It is on when -test.parallel is more than anybody means, as in
// make e2e; otherwise Go decides. It is safe for concurrent use.
type turns struct {
	// Constant after newTurns.
	on   bool
	room int
	most map[manner]int // that go on at once

	mu               sync.Mutex
	open             bool // all that begin at once have come
	waiting, running []*turn
}

// enough is a number of parallel tests that says: all of them.
const enough = 100

func newTurns(parallel int) *turns {
	cpus := runtime.NumCPU()
	return &turns{on: parallel >= enough, room: 8 * cpus, most: map[manner]int{engined: cpus, crowded: max(1, cpus/2)}}
}

// parallel runs a test beside others.
func parallel(t *testing.T) {
	t.Helper()
	parallelAs(t, ordinary, 0)
}

// parallelAs runs a test beside others in its manner; it takes about so long. A
// test whose subtests wait for turns of their own must not have one: it calls
// t.Parallel.
func parallelAs(t *testing.T, m manner, about time.Duration) {
	t.Helper()
	if m != racing || run.turns.on {
		t.Parallel()
	}
	if !run.turns.on {
		return
	}
	begun := run.turns.enter(&turn{manner: m, about: about, begin: make(chan struct{})})
	t.Cleanup(func() {
		t.Logf("without waiting for its turn it took %s", run.turns.leave(begun).Round(time.Second/10))
	})
}

// begun is a turn that was taken.
type begun struct {
	*turn
	at time.Time
}

// enter waits for the turn.
func (s *turns) enter(w *turn) begun {
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	switch {
	case s.open:
		s.admitLocked()
	case len(s.waiting) == 1:
		// Go lets all go on at the same moment.
		time.AfterFunc(time.Second/4, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.open = true
			s.admitLocked()
		})
	}
	s.mu.Unlock()
	<-w.begin
	return begun{w, time.Now()}
}

// leave ends a turn and returns how long it was.
func (s *turns) leave(b begun) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = slices.DeleteFunc(s.running, func(r *turn) bool { return r == b.turn })
	s.admitLocked()
	return time.Since(b.at)
}

// admitLocked begins what there is room for. The first that finds none keeps
// those behind it from going ahead, or who needs much would never begin.
func (s *turns) admitLocked() {
	now, room, some := int(ordinary), s.room, map[manner]int{}
	for _, r := range slices.Concat(s.waiting, s.running) {
		if r.manner != idle { // who does not care keeps nobody
			now = min(now, r.manner.phase())
		}
	}
	for _, r := range s.running {
		room -= r.manner.weight()
		some[r.manner]++
	}
	slices.SortStableFunc(s.waiting, func(a, b *turn) int { return int(b.about - a.about) })
	s.waiting = slices.DeleteFunc(s.waiting, func(w *turn) bool {
		switch {
		case w.manner.phase() > now || room <= 0 || s.most[w.manner] > 0 && some[w.manner] == s.most[w.manner]:
			return false
		case w.manner.weight() > room && room < s.room:
			room = 0
			return false
		}
		room -= w.manner.weight()
		some[w.manner]++
		s.running = append(s.running, w)
		close(w.begin)
		return true
	})
}

// TestTurns: every turn comes, early manners first, the longest first among those
// that may begin; an engine that has to wait for another keeps nobody, and there
// is never more than there is room for.
func TestTurns(t *testing.T) {
	s := &turns{on: true, room: 13, most: map[manner]int{engined: 1}, open: true}
	names := map[*turn]string{}
	for _, w := range []struct {
		name   string
		manner manner
		about  time.Duration
	}{
		{"short", ordinary, time.Second},
		{"engine", engined, 2 * time.Second},
		{"long engine", engined, time.Minute},
		{"crowd", crowded, 3 * time.Second},
		{"race", racing, 0},
		{"calm", calm, time.Second},
		{"long calm", calm, time.Minute},
		{"idle", idle, time.Hour},
	} {
		one := &turn{manner: w.manner, about: w.about, begin: make(chan struct{})}
		names[one] = w.name
		s.waiting = append(s.waiting, one)
	}
	var order []string
	for s.admitLocked(); len(s.running) > 0; s.leave(begun{turn: s.running[min(1, len(s.running)-1)]}) {
		weight := 0
		for _, r := range s.running {
			<-r.begin
			weight += r.manner.weight()
			if !slices.Contains(order, names[r]) {
				order = append(order, names[r])
			}
		}
		if weight > s.room {
			t.Errorf("%d of %d is taken", weight, s.room)
		}
	}
	want := []string{"idle", "long calm", "calm", "race", "long engine", "crowd", "short", "engine"}
	if len(s.waiting) > 0 || !slices.Equal(order, want) {
		t.Errorf("they began in the order %q, want %q; %d wait", order, want, len(s.waiting))
	}
}
