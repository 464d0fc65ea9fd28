package path

import (
	"net/netip"
	"slices"
	"time"
)

// The bounds of what is kept of a peer's endpoints (docs/protocol.md#endpoints).
const (
	maxListed = 8
	maxHints  = 8 // endpoints that nobody lists: where it probed us from, or moved to
)

// What an answer is worth.
const (
	freshAnswer = 15 * time.Second // it answers now
	goodProbes  = 3                // within freshAnswer: good enough to return to
	goodGap     = 700 * time.Millisecond
	provenTime  = 5 * time.Minute // worth asking often
	compareRow  = 5               // probes answered in a row before an RTT is compared
)

// candidate is what is known of one direct endpoint of the peer.
type candidate struct {
	endpoint netip.AddrPort
	listed   bool      // the peer names it, or a neighbour saw it
	hinted   time.Time // when the peer came from there without that
	asked    time.Time
	answered time.Time
	tried    time.Time     // when the follower tried it, see lead
	carried  time.Time     // when it was in use last
	faster   time.Time     // since when it is much faster than the one in use
	due      time.Time     // of the next probe; zero: none
	gap      time.Duration // between the last two, doubling
	rtt      time.Duration // smoothed; 0: not known
	row      int           // probes answered in a row
	waiting  int           // probes since the last answer
	goods    [goodProbes]time.Time
}

// answers reports whether it answered since t.
func (c *candidate) answers(t time.Time) bool {
	return !c.answered.IsZero() && !c.answered.Before(t)
}

// opens reports whether it seems to answer now: it did lately, and at most one
// probe since then was in vain.
func (c *candidate) opens(now time.Time) bool {
	return within(now, c.answered, freshAnswer) && c.waiting <= 1
}

// proven reports whether it worked not long ago, so that it may soon again.
func (c *candidate) proven(now time.Time) bool {
	return within(now, c.answered, provenTime) || within(now, c.carried, provenTime)
}

// good reports whether the last goodProbes answers are fresh.
func (c *candidate) good(now time.Time) bool { return within(now, c.goods[0], freshAnswer) }

// pong takes an answer.
func (c *candidate) pong(now time.Time, rtt time.Duration) {
	if c.rtt == 0 {
		c.rtt = rtt
	}
	c.rtt += (rtt - c.rtt) / 4
	if c.waiting > 0 {
		c.row++
	}
	c.waiting = 0
	c.answered = now
	if now.Sub(c.goods[goodProbes-1]) >= goodGap {
		copy(c.goods[:], c.goods[1:])
		c.goods[goodProbes-1] = now
	}
}

// double returns the next of the gaps that double up to most.
func (c *candidate) double(most time.Duration) time.Duration {
	c.gap = min(max(2*c.gap, probeGap), most)
	return c.gap
}

// hurry asks soon, and often again: at most once a second all the same.
func (c *candidate) hurry(now time.Time) {
	c.gap = 0
	c.due = c.soonest(now)
}

// soonest is when it may be asked again.
func (c *candidate) soonest(t time.Time) time.Time {
	if c.asked.IsZero() {
		return t
	}
	return laterOf(t, c.asked.Add(probeGap))
}

// ends are the peer's own endpoints: those that are listed, best first, then
// the hints.
type ends []*candidate

func (s ends) find(ep netip.AddrPort) *candidate {
	for _, c := range s {
		if c.endpoint == ep {
			return c
		}
	}
	return nil
}

// replace takes a new list and reports whether one is new. Who still answers,
// and what is in use, is kept as a hint; those that are new are asked soon.
func (s *ends) replace(now time.Time, list []netip.AddrPort, use netip.AddrPort) (fresh bool) {
	var kept ends
	for _, ep := range list {
		if !ep.IsValid() || kept.find(ep) != nil || len(kept) == maxListed {
			continue
		}
		c := s.find(ep)
		if c == nil {
			c = &candidate{endpoint: ep, due: now}
			fresh = true
		}
		c.listed = true
		kept = append(kept, c)
	}
	for _, c := range *s {
		if kept.find(c.endpoint) != nil {
			continue
		}
		c.listed = false
		if c.endpoint == use || c.proven(now) || within(now, c.hinted, provenTime) {
			kept = append(kept, c)
		}
	}
	*s = kept
	s.limit(use)
	return fresh
}

// hint returns the candidate for an endpoint that the peer came from.
func (s *ends) hint(now time.Time, ep, use netip.AddrPort) *candidate {
	c := s.find(ep)
	if c == nil {
		c = &candidate{endpoint: ep}
		*s = append(*s, c)
	}
	c.hinted = now
	s.limit(use)
	return c
}

// limit drops the oldest hints when there are too many.
func (s *ends) limit(use netip.AddrPort) {
	for {
		var hints int
		oldest := -1
		for i, c := range *s {
			if c.listed || c.endpoint == use {
				continue
			}
			hints++
			if oldest < 0 || c.last().Before((*s)[oldest].last()) {
				oldest = i
			}
		}
		if hints <= maxHints {
			return
		}
		*s = slices.Delete(*s, oldest, oldest+1)
	}
}

// last is when something came from there.
func (c *candidate) last() time.Time { return laterOf(c.answered, c.hinted) }

// best returns the first candidate of those that are wanted, unless another is
// much faster; nil: none is wanted.
func (s ends) best(want func(*candidate) bool) *candidate {
	var best *candidate
	for _, c := range s {
		if want(c) && (best == nil || muchBetter(c.rtt, best.rtt, fasterMargin)) {
			best = c
		}
	}
	return best
}

// listed returns the endpoints that are listed.
func (s ends) listed() []netip.AddrPort {
	var list []netip.AddrPort
	for _, c := range s {
		if c.listed {
			list = append(list, c.endpoint)
		}
	}
	return list
}

// next is when one is to be asked; zero: none is.
func (s ends) next() (t time.Time) {
	for _, c := range s {
		t = first(t, c.due)
	}
	return t
}

func (s ends) hurry(now time.Time) {
	for _, c := range s {
		c.hurry(now)
	}
}
