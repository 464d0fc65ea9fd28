package path

import (
	"testing"
	"time"
)

func TestPulse(t *testing.T) {
	const trip = 50 * time.Millisecond
	at := func(d time.Duration) time.Time { return epoch.Add(d) }
	for _, c := range []struct {
		name  string
		heard time.Duration // when bytes came last
		gap   time.Duration
		lost  int // pings, after three that were answered
		want  verdict
	}{
		{"15 lost", 0, burstGap, burst - 1, alive},
		{"16 lost", 0, burstGap, burst, dead},
		{"16 lost, and a byte in between", 3 * time.Second, burstGap, burst, alive},
		{"19 lost, and a byte before the last 16", 1700 * time.Millisecond, burstGap, oneWayBurst - 1, dead},
		{"19 lost, and bytes all the time", time.Hour, burstGap, oneWayBurst - 1, alive},
		{"20 lost, and bytes all the time", time.Hour, burstGap, oneWayBurst, oneWay},
		{"100 lost", 0, burstGap, 100, dead},
	} {
		var p pulse
		now := time.Duration(0)
		for range 3 {
			p.send(at(now))
			p.echo(at(now+trip), p.number, trip)
			now += busyGap
		}
		for range c.lost {
			p.send(at(now))
			now += c.gap
			p.expire(at(now))
		}
		p.expire(at(now + maxWait))
		if got := p.judge(at(c.heard)); got != c.want || p.streak != c.lost {
			t.Errorf("%s: verdict %d, streak %d, want %d, %d", c.name, got, p.streak, c.want, c.lost)
		}
		if want := float64(min(c.lost, 64)) / float64(min(c.lost+3, 64)); p.loss() != want {
			t.Errorf("%s: loss %f, want %f", c.name, p.loss(), want)
		}
		// One late answer is a sign of life, and counts as loss all the same.
		lost := p.lost
		if p.echo(at(now+2*maxWait), p.number, 3*time.Second) || p.streak != 0 || p.judge(at(c.heard)) != alive || p.lost != lost || p.rtt != trip {
			t.Errorf("%s: after a late answer: %+v", c.name, p)
		}
	}
}

func TestPulseIgnoresStrangeAnswers(t *testing.T) {
	var p pulse
	p.send(epoch)
	for _, n := range []uint64{0, 2, 1 << 63} {
		if p.echo(epoch, n, time.Second) || !p.answer.IsZero() {
			t.Errorf("answer to ping %d is taken", n)
		}
	}
	if !p.echo(epoch, 1, time.Second) || p.echo(epoch, 1, time.Millisecond) || p.rtt != time.Second {
		t.Errorf("not once: %+v", p)
	}
}

// An answer that overtakes others makes them lost, but no sign of a death.
func TestPulseOvertaken(t *testing.T) {
	var p pulse
	for range 10 {
		p.send(epoch)
	}
	p.echo(epoch, 10, time.Millisecond)
	p.expire(epoch.Add(time.Hour))
	if p.streak != 0 || p.lost != 9 || !p.expiry().IsZero() {
		t.Errorf("%+v", p)
	}
}

// How long a ping may take.
func TestPulseWait(t *testing.T) {
	for _, c := range []struct {
		rtt    time.Duration
		streak int
		want   time.Duration
	}{
		{0, 0, maxWait},
		{time.Millisecond, 0, 400 * time.Millisecond},
		{200 * time.Millisecond, 0, 600 * time.Millisecond},
		{time.Second, 0, maxWait},
		{time.Millisecond, burstWaits, 200 * time.Millisecond},
		{100 * time.Millisecond, burstWaits, 300 * time.Millisecond},
		{time.Second, burstWaits, maxWait},
	} {
		if got := (&pulse{rtt: c.rtt, streak: c.streak}).wait(); got != c.want {
			t.Errorf("RTT %s, %d lost: %s, want %s", c.rtt, c.streak, got, c.want)
		}
	}
}

// Two ends that ping each other have no traffic, whatever the pings do, and
// a little more is some.
func TestMeterTraffic(t *testing.T) {
	for _, c := range []struct {
		name      string
		rx, tx    uint64 // bytes a second beyond pings
		own, peer int    // pings a second
		lost      bool   // ours are
		busy      bool
	}{
		{"nothing", 0, 0, 0, 0, false, false},
		{"pings of both", 0, 0, 2, 2, false, false},
		{"pings of the peer", 0, 0, 0, 2, false, false},
		{"a burst of ours", 0, 0, 10, 0, false, false},
		{"lost pings of ours", 0, 0, 10, 0, true, false},
		{"much comes", 2000, 0, 2, 2, false, true},
		{"much goes", 100, 2000, 2, 2, false, true},
		{"something goes, nothing comes", 0, 100, 0, 0, false, true},
		{"something goes, something comes", 100, 100, 0, 0, false, false},
	} {
		var m meter
		var rx, tx uint64
		busy := 0
		for i := range 30 {
			now := epoch.Add(time.Duration(i) * time.Second)
			for range c.own {
				m.pinged(now)
				tx += pingBytes
				if !c.lost {
					rx += pingBytes
					m.echoed(now)
				}
			}
			rx += c.rx + uint64(c.peer)*pingBytes
			tx += c.tx + uint64(c.peer)*pingBytes
			m.read(now, rx, tx)
			if i > 0 && m.busy(now.Add(unansweredTime)) {
				busy++
			}
		}
		if (busy > 15) != c.busy || !c.busy && busy > 0 {
			t.Errorf("%s: busy in %d of 29 s, want %t", c.name, busy, c.busy)
		}
	}
}

func TestMeterReads(t *testing.T) {
	var m meter
	now := epoch
	if m.read(now, 1<<40, 1<<40) {
		t.Error("the first reading is no growth")
	}
	for _, c := range []struct {
		rx   uint64
		want bool
	}{{1 << 40, false}, {1<<40 + 1, true}, {0, false}, {500, true}, {100, true}, {100, false}} {
		now = now.Add(time.Second)
		if got := m.read(now, c.rx, 0); got != c.want {
			t.Errorf("at %d: grew %t, want %t", c.rx, got, c.want)
		}
	}
	// After a long pause all slots are old.
	m.read(now, 1e6, 0)
	if !m.busy(now) || m.busy(now.Add(time.Hour)) {
		t.Error("traffic is not forgotten")
	}
}

// A dense stream that ends, while we send, is worth a ping at once.
func TestMeterStalls(t *testing.T) {
	for _, c := range []struct {
		name    string
		every   time.Duration
		replies bool // we send, too, after the stream's end
		want    bool
	}{
		{"dense", 100 * time.Millisecond, true, true},
		{"dense, but we are silent too", 100 * time.Millisecond, false, false},
		{"sparse", 400 * time.Millisecond, true, false},
	} {
		var m meter
		now := epoch
		var rx, tx uint64
		for range 20 {
			now = now.Add(c.every)
			rx, tx = rx+1000, tx+100
			m.read(now, rx, tx)
		}
		var got bool
		for range 5 {
			now = now.Add(100 * time.Millisecond)
			if c.replies {
				tx += 100
			}
			m.read(now, rx, tx)
			got = got || m.stalled(now)
		}
		if got != c.want {
			t.Errorf("%s: stalled %t, want %t", c.name, got, c.want)
		}
	}
}

func TestRests(t *testing.T) {
	var r rests
	now := epoch
	for _, want := range []time.Duration{10, 20, 40, 60, 60} {
		r.add(now, one)
		if !r.has(now.Add(want*time.Second-1), one) || r.has(now.Add(want*time.Second), one) || r.has(now, two) {
			t.Errorf("does not rest for %d s: %v", want, r)
		}
		now = now.Add(2 * time.Minute)
	}
	now = now.Add(goodReturn)
	if r.add(now, one); r.has(now.Add(firstRest), one) {
		t.Error("old deaths are not forgotten")
	}
}

func TestHold(t *testing.T) {
	var h hold
	now := epoch
	if !h.over(now) {
		t.Error("held down without a death")
	}
	for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		h.died(now)
		if h.over(now.Add(want*time.Second-1)) || !h.over(now.Add(want*time.Second)) {
			t.Errorf("held down for %s, want %d s", h.span, want)
		}
		now = h.until.Add(time.Minute)
		h.returned = now.Add(-time.Second)
	}
	h.returned = now.Add(-goodReturn - 1)
	if h.died(now); !h.over(now.Add(firstHold)) {
		t.Error("a return that lasted is not forgiven")
	}
}
