package path

import "time"

// The windows of a [floor].
const (
	floorCount = 8 // measurements at least
	floorTime  = 30 * time.Second
	floorMost  = 5 * time.Minute // with fewer measurements, where pings are rare
)

// floor is the least of what was measured lately: at most two windows ago. What
// waits in queues, or for a processor, comes and goes; this is what the way takes.
type floor struct {
	now, before time.Duration // the least of this window, and of the one before; 0: none
	count       int           // in this window
	begun       time.Time
}

func (f *floor) add(now time.Time, d time.Duration) {
	switch {
	case f.begun.IsZero():
		f.begun = now
	case f.count >= floorCount && now.Sub(f.begun) >= floorTime, now.Sub(f.begun) >= floorMost:
		f.before, f.now, f.count, f.begun = f.now, 0, 0, now
	}
	f.count++
	if f.now == 0 || d < f.now {
		f.now = d
	}
}

// least is 0 when nothing was measured.
func (f *floor) least() time.Duration {
	if f.now == 0 || f.before > 0 && f.before < f.now {
		return f.before
	}
	return f.now
}
