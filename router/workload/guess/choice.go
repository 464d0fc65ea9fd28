// Package guess says which address an engine gets for a container that it does not
// name: one that comes back wants the address that it had, and one that is new
// shall not get it. It knows what happened and when, and owns the rules. It does
// not reserve addresses, ask an engine or keep anything on the disk.
package guess

import (
	"net/netip"
	"time"
)

// Candidate is an address that was given back a short while ago.
type Candidate struct {
	Key   string // of the reservation
	Addr  netip.Addr
	Freed time.Time
	Known bool // its container exists, so that it may come back
}

// Choose returns the address that somebody gets who names none: the one given
// back last by a container that may come back, because a container that is
// restarted asks again at once. Newcomers are containers that were made just
// now and never had one: as long as there are some, the answer is no.
func Choose(list []Candidate, newcomers int) (best Candidate, ok bool) {
	if newcomers > 0 {
		return Candidate{}, false
	}
	for _, c := range list {
		if !c.Known {
			continue
		}
		if !ok || c.Freed.After(best.Freed) || c.Freed.Equal(best.Freed) && c.Addr.Less(best.Addr) {
			best, ok = c, true
		}
	}
	return best, ok
}

// Spare returns the address to be given when no other is free: the one that
// waits longest of those whose containers do not come back, else, if it must
// be, of the others. The grace is against chance, and not a reason to refuse.
func Spare(list []Candidate, must bool) (best Candidate, ok bool) {
	for _, c := range list {
		if c.Known && !must {
			continue
		}
		better := !c.Known && best.Known || c.Known == best.Known && (c.Freed.Before(best.Freed) ||
			c.Freed.Equal(best.Freed) && c.Addr.Less(best.Addr))
		if !ok || better {
			best, ok = c, true
		}
	}
	return best, ok
}
