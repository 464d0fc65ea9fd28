package path

import (
	"math/rand/v2"
	"slices"
	"time"
)

// mtuPath is a path to a peer that answers probes, and the clock of a test.
type mtuPath struct {
	search  *MTUSearch
	carries int           // bytes of an IP packet
	egress  int           // of our interface: more is refused at once; 0: does not say
	loss    float64       // of a probe or its answer
	rtt     time.Duration // of a probe and its answer
	slow    time.Duration // more for 1500 bytes
	rand    *rand.Rand

	now         time.Time
	flying      []mtuAnswer
	outage      time.Time // since when, and for how long, everything is lost
	outageTakes time.Duration
	sent        int // packets
	bytes       int
	times       []time.Time // of the packets
	tries       map[int]int // of each size
	least       int         // of MTU(); who wants to know it sets it before
}

type mtuAnswer struct {
	at   time.Time
	size int
}

func newMTUPath(v6 bool, ceiling, carries int, rtt time.Duration, seed uint64) *mtuPath {
	return &mtuPath{
		search: NewMTUSearch(v6, ceiling), carries: carries, rtt: rtt,
		rand: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(1000, 0), tries: make(map[int]int),
	}
}

func (p *mtuPath) step(e MTUEvent) {
	sizes := p.search.Step(p.now, e)
	p.least = min(p.least, p.search.MTU())
	for _, size := range sizes {
		p.sent++
		p.bytes += size
		p.times = append(p.times, p.now)
		p.tries[size]++
		switch {
		case p.egress > 0 && size > p.egress:
			p.step(MTURefused{size})
		case !p.outage.IsZero() && !p.now.Before(p.outage) && p.now.Sub(p.outage) < p.outageTakes:
		case size <= p.carries && p.rand.Float64() >= p.loss && p.rtt <= probeLifetime:
			takes := p.rtt + p.slow*time.Duration(size)/1500
			p.flying = append(p.flying, mtuAnswer{p.now.Add(takes), size})
			slices.SortStableFunc(p.flying, func(a, b mtuAnswer) int { return a.at.Compare(b.at) })
		}
	}
}

// next lets the next thing happen, but not after the end; false: nothing left.
func (p *mtuPath) next(end time.Time) bool {
	at, answer := p.search.Next(), false
	if at.Before(p.now) {
		at = p.now
	}
	if len(p.flying) > 0 && p.flying[0].at.Before(at) {
		at, answer = p.flying[0].at, true
	}
	if at.After(end) {
		p.now = end
		return false
	}
	p.now = at
	if answer {
		size := p.flying[0].size
		p.flying = p.flying[1:]
		p.step(MTUAnswered{size})
	} else {
		p.step(MTUTick{})
	}
	return true
}

func (p *mtuPath) run(d time.Duration) {
	for end := p.now.Add(d); p.next(end); {
	}
}

// crowd returns the greatest number of packets within a second.
func (p *mtuPath) crowd() (most int) {
	for i, first := range p.times {
		n := 0
		for ; i+n < len(p.times) && p.times[i+n].Sub(first) < time.Second; n++ {
		}
		most = max(most, n)
	}
	return most
}

// settle returns how long it takes until the search ends.
func (p *mtuPath) settle(t interface {
	Helper()
	Fatalf(string, ...any)
},
) time.Duration {
	t.Helper()
	begin := p.now
	if p.now.Equal(time.Unix(1000, 0)) {
		p.step(MTUTick{})
	}
	for p.search.Searching() {
		if !p.next(begin.Add(10 * time.Minute)) {
			t.Fatalf("no end of the search: %+v", p.search)
		}
	}
	return p.now.Sub(begin)
}

// wantMTU is what a search should find: exact if usual, near otherwise.
func (p *mtuPath) wantMTU(t interface {
	Helper()
	Errorf(string, ...any)
},
) {
	t.Helper()
	most := min(p.carries, p.search.ceiling)
	if p.egress > 0 {
		most = min(most, p.egress)
	}
	least := max(most-mtuResolution+1, p.search.floor)
	if slices.Contains(mtuUsualSizes, most) || most == p.search.ceiling {
		least = most
	}
	if got := p.search.MTU(); got < least || got > max(most, p.search.floor) {
		t.Errorf("MTU is %d, want %d to %d", got, least, most)
	}
}
