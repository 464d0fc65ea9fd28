package path

import (
	"fmt"
	"slices"
	"time"
)

// Change is one entry of a peer's history: another route, or a tunnel that was
// gained or lost.
type Change struct {
	At        time.Time
	From, To  Route
	FromState State
	ToState   State
	Why       string // for people: "no answer for 2.1s"
}

// String returns the change in one line, without its time.
func (c Change) String() string {
	return fmt.Sprintf("%s %s -> %s %s: %s", c.FromState, c.From, c.ToState, c.To, c.Why)
}

// historyLength is how many changes are kept for people.
const historyLength = 32

// history keeps the last changes, oldest first.
type history struct {
	count uint64
	last  []Change
}

func (h *history) add(c Change) {
	h.count++
	if len(h.last) == historyLength {
		h.last = slices.Delete(h.last, 0, 1)
	}
	h.last = append(h.last, c)
}
