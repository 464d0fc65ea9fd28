package path

import (
	"slices"
	"time"
)

// The times of pings (docs/protocol.md#paths).
const (
	busyGap  = 500 * time.Millisecond
	burstGap = 100 * time.Millisecond
	proveGap = 250 * time.Millisecond // while a change to a relay is verified
	renewGap = time.Second

	burst = 16 // lost in a row, without a byte from the peer: dead
	// oneWayBurst lost in a row are a death although bytes come from the peer. At
	// 30 % loss each way that is wrong for one of a thousand pairs in 5 minutes.
	oneWayBurst = burst + 4

	// A ping is missed after 3 RTT, within these bounds; in a burst, where
	// others follow it, after less.
	minWait      = 400 * time.Millisecond
	minBurstWait = 200 * time.Millisecond
	maxWait      = time.Second
	burstWaits   = 4 // lost in a row from which the second bound holds

	// After this host was late itself, an answer gets lateGrace at least to be
	// read, and lateMost more than usual at most: a death is found all the same.
	lateGrace = 100 * time.Millisecond
	lateMost  = 2 * time.Second

	// renewAge is when a ping makes WireGuard renew a session that nothing
	// else used: its initiator does so from 120 s, or on receipt from 165 s.
	renewAge = 167 * time.Second
)

// pulse sends pings and counts what became of them.
type pulse struct {
	number  uint64 // of the last ping
	flying  []sent // neither answered nor missed, oldest first
	last    time.Time
	slack   time.Duration // so that many idle tunnels are not pinged at once
	anxious bool          // a burst without a miss
	streak  int           // lost in a row
	mute    time.Time     // when the first of these was sent
	lostAt  []time.Time   // when these were sent, the last oneWayBurst of them
	answer  time.Time     // when the last answer came
	rtt     time.Duration // smoothed; 0: not known on this route
	floor   floor         // of rtt as measured on this route
	sent    uint64
	lost    uint64
	results uint64 // one bit for each of the last 64: lost
	count   int    // of these
}

type sent struct {
	number uint64
	at     time.Time
	late   time.Duration // that more is waited for its answer
}

// forget drops what was measured of a route that was left.
func (p *pulse) forget() {
	p.flying, p.lostAt = p.flying[:0], p.lostAt[:0]
	p.streak, p.rtt, p.anxious, p.floor = 0, 0, false, floor{}
	p.last = time.Time{}
}

// send takes the next ping.
func (p *pulse) send(now time.Time) Ping {
	p.number++
	p.sent++
	p.last = now
	p.flying = append(p.flying, sent{number: p.number, at: now})
	return Ping{p.number}
}

// echo takes an answer and reports whether a ping waited for it. One that comes
// late is as good a sign of life.
func (p *pulse) echo(now time.Time, number uint64, rtt time.Duration) bool {
	if number == 0 || number > p.number {
		return false
	}
	p.answer, p.streak, p.lostAt, p.anxious = now, 0, p.lostAt[:0], false
	i := slices.IndexFunc(p.flying, func(s sent) bool { return s.number == number })
	if i < 0 {
		return false
	}
	for range i { // overtaken: lost, but no sign of anything
		p.result(true)
	}
	p.result(false)
	p.flying = slices.Delete(p.flying, 0, i+1)
	if p.rtt == 0 {
		p.rtt = rtt
	}
	p.rtt += (rtt - p.rtt) / 8
	p.floor.add(now, rtt)
	return true
}

// expire counts the pings that were not answered in time.
func (p *pulse) expire(now time.Time) {
	for len(p.flying) > 0 && !now.Before(p.expiry()) {
		p.result(true)
		if p.streak == 0 {
			p.mute = p.flying[0].at
		}
		p.streak++
		if len(p.lostAt) == oneWayBurst {
			p.lostAt = slices.Delete(p.lostAt, 0, 1)
		}
		p.lostAt = append(p.lostAt, p.flying[0].at)
		p.flying = slices.Delete(p.flying, 0, 1)
	}
}

// expiry is when the oldest ping counts as missed; zero: none waits.
func (p *pulse) expiry() time.Time {
	if len(p.flying) == 0 {
		return time.Time{}
	}
	return p.flying[0].at.Add(p.flying[0].late + p.wait())
}

// late gives the pings under way more time.
func (p *pulse) late(now time.Time, by time.Duration) {
	for i := range p.flying {
		s := &p.flying[i]
		s.late = min(max(s.late+by, now.Sub(s.at)+lateGrace-p.wait()), lateMost)
	}
}

func (p *pulse) wait() time.Duration {
	switch {
	case p.rtt == 0:
		return maxWait
	case p.streak >= burstWaits:
		return min(max(3*p.rtt, minBurstWait), maxWait)
	}
	return min(max(3*p.rtt, minWait), maxWait)
}

func (p *pulse) result(lost bool) {
	p.results <<= 1
	p.count = min(p.count+1, 64)
	if lost {
		p.results |= 1
		p.lost++
	}
}

// verdict is what the pings say.
type verdict uint8

const (
	alive  verdict = iota
	dead           // nothing comes
	oneWay         // something comes, but nothing of ours is answered
)

// judge says what it means that pings were lost, given when bytes came last
// from the peer.
func (p *pulse) judge(heard time.Time) verdict {
	switch {
	case p.streak < burst:
		return alive
	case heard.Before(p.lostAt[len(p.lostAt)-burst]):
		return dead
	case p.streak >= oneWayBurst:
		return oneWay
	}
	return alive
}
