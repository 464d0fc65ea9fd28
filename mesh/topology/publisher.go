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
	noticed  = 2 * time.Millisecond
	fraction = 4 // a round trip changes when it does by more than a quarter
)

// Publisher decides when our report is worth being published: every
// publication goes to every host. A link that comes, goes or changes is told
// at once, but no sooner than one second after the last publication; while
// such changes keep coming that doubles up to five seconds, and falls back
// after 30 quiet ones. Measurements wait for ten seconds, and a round trip that
// changed by less than a quarter or by less than 2 ms did not change. Age is
// never a reason.
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
	change, measured := p.compare(r)
	if now.Sub(p.changed) >= calm {
		p.gap = 0
	}
	switch {
	case change:
		p.next = p.at.Add(max(p.gap, minGap))
	case measured:
		p.next = p.at.Add(slowGap)
	default:
		return false, p.last.byPeer()
	}
	if p.last.Seq > 0 && now.Before(p.next) {
		return false, p.last.byPeer()
	}
	if change {
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

// compare says how r, with its links by peer, differs from what was published:
// by a change that others act on, or by what was measured.
func (p *Publisher) compare(r Report) (change, measured bool) {
	was := p.last
	if was.Seq == 0 || r.Owner != was.Owner || r.Boot != was.Boot || r.SwitchMTU != was.SwitchMTU || r.NAT != was.NAT ||
		!slices.EqualFunc(r.Links, was.Links, sameLink) {
		return true, false
	}
	for i, l := range r.Links {
		if l.MTU != was.Links[i].MTU || rttChanged(was.Links[i].RTT, l.RTT) {
			return false, true
		}
	}
	return false, false
}

func sameLink(a, b Link) bool {
	return a.Peer == b.Peer && a.State == b.State && a.Bound == b.Bound && a.Outbound == b.Outbound && a.Endpoint == b.Endpoint
}

// rttChanged reports whether somebody might decide differently for it.
func rttChanged(from, to time.Duration) bool {
	if (from == 0) != (to == 0) {
		return true
	}
	by := (to - from).Abs()
	return by > noticed && by > from/fraction
}
