package tunnel

import "time"

// glanceEach is the time between two looks at all tunnels, for every one of them:
// what they wait for there takes seconds, and in a large cluster something happens
// every millisecond.
const glanceEach = 100 * time.Microsecond

// glance is a look at all tunnels that is not made each time the loop turns.
type glance struct {
	at  time.Time // not before
	due time.Time // when a tunnel first wants one; zero: none does
}

// skip reports whether it is too early for a look, and says when there will be
// one; else the look begins.
func (g *glance) skip(now time.Time, t *Tunnels) bool {
	if !now.Before(g.at) {
		g.at, g.due = now.Add(time.Duration(len(t.tunnels))*glanceEach), time.Time{}
		return false
	}
	if !g.due.IsZero() && g.due.Before(g.at) {
		g.due = g.at
	}
	t.wakeAt(g.due)
	return true
}

// want asks for a look; zero: for none.
func (g *glance) want(at time.Time) {
	if !at.IsZero() && (g.due.IsZero() || at.Before(g.due)) {
		g.due = at
	}
}
