package hello

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// warner reports what goes wrong on the listener without letting strangers
// fill the log: once an hour per address and reason, and in all a burst of 20,
// then one per three seconds. Its memory is bounded.
type warner struct {
	log *slog.Logger // constant

	mu         sync.Mutex
	said       *recent[warning, time.Time]
	budget     float64 // lines that may be written now
	refilled   time.Time
	suppressed int // lines since the last that were over budget
}

type warning struct {
	from   netip.Addr
	reason error // one of the sentinels; nil: all others
}

const (
	warnAgain  = time.Hour
	warnBurst  = 20
	warnRefill = 3 * time.Second
)

func newWarner(log *slog.Logger) *warner {
	return &warner{log: log, said: newRecent[warning, time.Time](1024), budget: warnBurst}
}

func (w *warner) warn(from netip.Addr, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	key := warning{from, reason(err)}
	if last, ok := w.said.get(key); ok && now.Sub(last) < warnAgain {
		return
	}
	if !w.refilled.IsZero() {
		w.budget = min(warnBurst, w.budget+now.Sub(w.refilled).Seconds()/warnRefill.Seconds())
	}
	w.refilled = now
	if w.budget < 1 {
		w.suppressed++
		return
	}
	w.budget--
	w.said.put(key, now)
	args := []any{"remote", from.String(), "err", err.Error()}
	if w.suppressed > 0 {
		args = append(args, "suppressed", w.suppressed)
		w.suppressed = 0
	}
	w.log.Warn("introduction failed", args...)
}

// forget lets everything about an address be said again, because it worked in
// between.
func (w *warner) forget(from netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key := range w.said.at {
		if key.from == from {
			w.said.drop(key)
		}
	}
}
