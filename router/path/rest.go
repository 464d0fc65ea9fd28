package path

import (
	"net/netip"
	"time"
)

// How long what failed is left alone.
const (
	firstRest  = 10 * time.Second
	maxRest    = 60 * time.Second
	firstHold  = 10 * time.Second
	maxHold    = 5 * time.Minute
	goodReturn = 10 * time.Minute // a return that lasted so long was right
)

// rests remembers which endpoints died, for a while.
type rests map[netip.AddrPort]rest

type rest struct {
	died time.Time
	span time.Duration
}

// add lets an endpoint rest: 10 s, and twice as long each time it fails again
// soon after.
func (r *rests) add(now time.Time, ep netip.AddrPort) {
	if *r == nil {
		*r = make(rests)
	}
	for old, s := range *r {
		if now.Sub(s.died) > goodReturn {
			delete(*r, old)
		}
	}
	span := firstRest
	if s, ok := (*r)[ep]; ok {
		span = min(2*s.span, maxRest)
	}
	(*r)[ep] = rest{now, span}
}

// has reports whether the endpoint rests.
func (r rests) has(now time.Time, ep netip.AddrPort) bool {
	s, ok := r[ep]
	return ok && now.Sub(s.died) < s.span
}

// end is when the endpoint has rested; zero: it did not have to.
func (r rests) end(ep netip.AddrPort) time.Time {
	s, ok := r[ep]
	if !ok {
		return time.Time{}
	}
	return s.died.Add(s.span)
}

// hold is the hold-down of direct paths as such: one that dies soon after each
// return is not returned to as often.
type hold struct {
	until     time.Time
	span      time.Duration
	returned  time.Time // when a direct path was taken again
	shortened time.Time // when one was taken for being faster than another
}

// died begins a hold-down after a direct path failed.
func (h *hold) died(now time.Time) {
	if within(now, h.returned, goodReturn) {
		h.span = min(max(2*h.span, firstHold), maxHold)
	} else {
		h.span = firstHold
	}
	h.until = now.Add(h.span)
}

// over reports whether a direct path may be taken again.
func (h *hold) over(now time.Time) bool { return !now.Before(h.until) }
