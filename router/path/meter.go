package path

import "time"

// What counts as traffic.
const (
	// pingBytes is what a ping or its answer adds to the device's counters: 64
	// bytes in ICMPv6 in IPv6, padded to 16, in a WireGuard message.
	pingBytes = 144
	// peerPings is what the peer's own pings may bring per second without
	// counting as traffic. They cannot be told apart; without this allowance
	// the pings of each end would keep those of the other going.
	peerPings    = 3
	trafficBytes = 1000 // in a window
	window       = 10   // seconds
	// livelyGap is the longest gap between bytes of a stream that is dense
	// enough that a pause of stallTime is worth a ping.
	livelyGap  = 250 * time.Millisecond
	livelyTime = time.Second
	stallTime  = 300 * time.Millisecond
	// unansweredTime is how long what we send may bring nothing back.
	unansweredTime = 500 * time.Millisecond
)

// meter reads the device's counters: does the pair have traffic, do authentic
// bytes come.
type meter struct {
	begun   bool
	rx, tx  uint64 // as last read
	rxAt    time.Time
	txAt    time.Time // when other bytes than pings went last
	lively  time.Time // since when bytes come without a gap
	unheard time.Time // when we sent something that nothing came back for; zero: never
	pings   int       // bytes of pings that went, and are not in tx yet
	slots   [window]struct{ rx, tx int }
	start   time.Time
	slot    int64 // of the last one, in seconds since start
	total   int   // bytes that came since reset
}

// read takes the counters. It reports whether bytes came.
func (r *meter) read(now time.Time, rx, tx uint64) bool {
	drx, dtx := grown(r.rx, rx), grown(r.tx, tx)
	r.rx, r.tx = rx, tx
	if !r.begun {
		r.begun = true
		return false
	}
	r.turn(now)
	s := &r.slots[r.slot%window]
	s.rx += drx
	r.total += drx
	s.tx += dtx
	own := min(dtx, r.pings)
	r.pings -= own
	if dtx > own {
		r.txAt = now
	}
	switch {
	case drx > 0:
		if now.Sub(r.rxAt) > livelyGap {
			r.lively = now
		}
		r.rxAt, r.unheard = now, time.Time{}
	case dtx > own && r.unheard.IsZero():
		r.unheard = now
	}
	return drx > 0
}

// grown is by how much a counter grew; one that fell began anew.
func grown(old, cur uint64) int {
	if cur < old {
		old = 0
	}
	return int(min(cur-old, 1<<30))
}

// turn empties the slots of the seconds that passed.
func (r *meter) turn(now time.Time) {
	if r.start.IsZero() {
		r.start = now
	}
	sec := int64(now.Sub(r.start) / time.Second)
	for i := max(r.slot+1, sec-window+1); i <= sec; i++ {
		r.slots[i%window].rx, r.slots[i%window].tx = 0, 0
	}
	r.slot = max(r.slot, sec)
}

// pinged takes a ping out of the account before it goes.
func (r *meter) pinged(now time.Time) {
	r.turn(now)
	r.slots[r.slot%window].tx -= pingBytes
	r.pings = min(r.pings+pingBytes, 32*pingBytes)
}

// echoed takes the answer to a ping out of the account.
func (r *meter) echoed(now time.Time) {
	r.turn(now)
	r.slots[r.slot%window].rx -= pingBytes
}

// busy reports whether the pair has traffic.
func (r *meter) busy(now time.Time) bool {
	r.turn(now)
	var rx, tx int
	for _, s := range r.slots {
		rx += s.rx
		tx += s.tx
	}
	const quiet = peerPings*window*pingBytes + trafficBytes
	return rx >= quiet || tx >= quiet || reached(now, r.silentAt())
}

// silentAt is when what we sent counts as unanswered; zero: it does not.
func (r *meter) silentAt() time.Time {
	if r.unheard.IsZero() {
		return time.Time{}
	}
	return r.unheard.Add(unansweredTime)
}

// stalled reports whether a dense stream of bytes from the peer ended just now
// while we send: the first sign of a death.
func (r *meter) stalled(now time.Time) bool {
	return !r.unheard.IsZero() && now.Sub(r.rxAt) >= stallTime &&
		r.rxAt.Sub(r.lively) >= livelyTime
}
