package topology

import (
	"slices"
	"time"
)

const (
	minGap   = time.Second      // between two publications
	maxGap   = 5 * time.Second  // while changes keep coming
	calm     = 30 * time.Second // without a change: minGap again
	slowGap  = 10 * time.Second // before one for the sake of a measurement
	many     = 20               // links; with more of them round trips wait longer
	noticed  = 2 * time.Millisecond
	fraction = 4 // a round trip changes when it does by more than a quarter
)

// Publisher decides when our report is worth being published: every
// publication goes to every host. A link that comes, goes or changes is told
// at once, but no sooner than one second after the last publication; while
// such changes keep coming that doubles up to five seconds, and falls back
// after 30 quiet ones. An MTU that fell is such a change: what was sent by the
// old one gets lost.
//
// Measurements wait for ten seconds: an MTU that grew, as it does during a
// search, and the first round trip. Round trips differ all the time somewhere:
// one that changed by less than a quarter or by less than 2 ms did not change,
// it counts only where we are bound, since nobody else is relayed over the
// link by our word, and with more than 20 links they wait half a second for
// each, so that what all hosts publish in all grows no faster than the cluster.
// Age is never a reason.
//
// The zero Publisher is ready. It is pure and not safe for concurrent use.
type Publisher struct {
	last    Report    // as published; Seq 0: never
	at      time.Time // of the last publication
	changed time.Time // of the last one for the sake of a change
	gap     time.Duration
	next    time.Time
}

// Step takes our links as they are now and reports whether to publish, and
// what: r by peer, with the next Seq. Otherwise it returns what was published
// last. The caller keeps r.Boot the same for the life of the daemon; r.Seq is
// not looked at. Nothing is shared with r or with what is returned.
func (p *Publisher) Step(now time.Time, r Report) (publish bool, out Report) {
	r = r.byPeer()
	p.next = time.Time{}
	what := p.compare(r)
	if now.Sub(p.changed) >= calm {
		p.gap = 0
	}
	switch what {
	case changed:
		p.next = p.at.Add(max(p.gap, minGap))
	case measured:
		p.next = p.at.Add(slowGap)
	case varied:
		p.next = p.at.Add(slowGap * time.Duration(max(many, len(r.Links))) / many)
	default:
		return false, p.last.byPeer()
	}
	if p.last.Seq > 0 && now.Before(p.next) {
		return false, p.last.byPeer()
	}
	if what == changed {
		p.gap = max(minGap, min(2*p.gap, maxGap))
		p.changed = now
	}
	r.Seq = p.last.Seq + 1
	p.last, p.at, p.next = r, now, time.Time{}
	return true, r.byPeer()
}

// Next returns when Step should be called again even if nothing changes; zero:
// there is nothing to tell.
func (p *Publisher) Next() time.Time { return p.next }

// byPeer returns a copy with the links in order.
func (r Report) byPeer() Report {
	r.Links = slices.SortedFunc(slices.Values(r.Links), byPeer)
	return r
}

// difference is how a report differs from another, by how much it hurries.
type difference uint8

const (
	equal    difference = iota
	varied              // a round trip is another
	measured            // something is known that was not, or more gets through
	changed             // others must act on it
)

// compare says how r, with its links by peer, differs from what was published.
func (p *Publisher) compare(r Report) difference {
	was := p.last
	if was.Seq == 0 || r.Owner != was.Owner || r.Boot != was.Boot || r.SwitchMTU != was.SwitchMTU || r.NAT != was.NAT ||
		!slices.EqualFunc(r.Links, was.Links, sameLink) {
		return changed
	}
	most := equal
	for i, l := range r.Links {
		most = max(most, measure(was.Links[i], l))
	}
	return most
}

// measure compares what was measured of a link.
func measure(was, is Link) difference {
	switch {
	case is.MTU > 0 && is.MTU < was.MTU:
		return changed
	case is.MTU != was.MTU, is.Bound && (is.RTT == 0) != (was.RTT == 0):
		return measured
	case is.Bound && rttChanged(was.RTT, is.RTT):
		return varied
	}
	return equal
}

func sameLink(a, b Link) bool {
	return a.Peer == b.Peer && a.State == b.State && a.Bound == b.Bound && a.Outbound == b.Outbound && a.Endpoint == b.Endpoint
}

// rttChanged reports whether somebody might decide differently for it.
func rttChanged(from, to time.Duration) bool {
	by := (to - from).Abs()
	return by > noticed && by > from/fraction
}
