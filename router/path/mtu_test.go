package path

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/router/signal"
)

// TestMTUFound: 50 ms, no loss, silence about what does not fit. The times are
// in the table because a change that makes the search slow should be seen.
func TestMTUFound(t *testing.T) {
	for _, tt := range []struct {
		v6               bool
		ceiling, carries int
		most             time.Duration
	}{
		{false, 1500, 1500, 50 * time.Millisecond},
		{true, 1500, 1500, 50 * time.Millisecond},
		{false, 0, 9000, 50 * time.Millisecond},
		{false, 9000, 9000, 50 * time.Millisecond},
		{false, 9001, 9001, 50 * time.Millisecond},
		{false, 65535, 65535, 50 * time.Millisecond},
		{false, 576, 576, 0},
		{false, 100, 100, 0}, // a ceiling below the floor is not believed
		{false, 9000, 1500, 9 * time.Second},
		{false, 9000, 1400, 9 * time.Second},
		{false, 9000, 8999, 9 * time.Second},
		{false, 65535, 9001, 10 * time.Second},
		{false, 1500, 1499, 7 * time.Second},
		{false, 1500, 1492, 7 * time.Second},
		{false, 1500, 1420, 7 * time.Second},
		{false, 1500, 1400, 7 * time.Second},
		{false, 1500, 1280, 7 * time.Second},
		{false, 1500, 1000, 7 * time.Second},
		{false, 1500, 728, 7 * time.Second}, // UDP of at most 700 bytes
		{false, 1500, 577, 7 * time.Second},
		{false, 1500, 576, 7 * time.Second},
		{false, 1500, 400, 7 * time.Second}, // nobody may: the floor
		{true, 1500, 1280, 6 * time.Second},
		{true, 1500, 1350, 6 * time.Second},
		{true, 9000, 1280, 9 * time.Second},
	} {
		t.Run(fmt.Sprintf("v6=%v ceiling=%d carries=%d", tt.v6, tt.ceiling, tt.carries), func(t *testing.T) {
			p := newMTUPath(tt.v6, tt.ceiling, tt.carries, 50*time.Millisecond, 1)
			if got := p.search.MTU(); got != 0 {
				t.Errorf("MTU is %d before anything was sent", got)
			}
			took := p.settle(t)
			p.wantMTU(t)
			if took > tt.most {
				t.Errorf("took %v, want at most %v", took, tt.most)
			}
			if n := p.crowd(); n > maxRepliesToAddr {
				t.Errorf("%d packets within a second, a peer answers %d", n, maxRepliesToAddr)
			}
			for size, n := range p.tries {
				if size > tt.carries && n < mtuTries {
					t.Errorf("%d was tried %d times, and is not carried", size, n)
				}
			}
			t.Logf("%d after %v: %d packets, %d bytes", p.search.MTU(), took, p.sent, p.bytes)
		})
	}
}

// TestMTUEveryPath: whatever the path carries, is lost and takes, the search
// ends with the right size and never reports one that is not carried.
func TestMTUEveryPath(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		p := newMTUPath(v6, rapid.IntRange(0, 9500).Draw(t, "ceiling"), 0,
			time.Duration(rapid.IntRange(0, 1400).Draw(t, "rtt"))*time.Millisecond, rapid.Uint64().Draw(t, "seed"))
		p.carries = rapid.IntRange(p.search.floor, 9500).Draw(t, "carries")
		p.loss = rapid.SampledFrom([]float64{0, 0, 0.1, 0.3, 0.51}).Draw(t, "loss")
		if rapid.Bool().Draw(t, "egress speaks") {
			p.egress = rapid.IntRange(p.search.floor, 9500).Draw(t, "egress")
		}
		p.step(MTUTick{})
		for i := 0; p.search.Searching(); i++ {
			if got := p.search.MTU(); got > max(min(p.carries, p.search.ceiling), p.search.floor) {
				t.Fatalf("reports %d, which is not carried", got)
			}
			if i > 2000 || !p.next(p.now.Add(time.Hour)) {
				t.Fatalf("no end of the search: %+v", p.search)
			}
		}
		p.wantMTU(t)
	})
}

// TestMTUSilenceIsNoProof: where nothing gets lost except in outages, no size
// that is carried is ever refuted, however long the answers take.
func TestMTUSilenceIsNoProof(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newMTUPath(false, 1500, rapid.IntRange(576, 1500).Draw(t, "carries"),
			rapid.SampledFrom([]time.Duration{0, 50, 250, 700, 1450}).Draw(t, "rtt")*time.Millisecond, 1)
		p.slow = rapid.SampledFrom([]time.Duration{0, 1}).Draw(t, "slow") * max(p.rtt, mtuGap-50*time.Millisecond)
		p.outageTakes = time.Duration(rapid.IntRange(0, 5000).Draw(t, "outage")) * time.Millisecond
		p.step(MTUTick{})
		for end := p.now.Add(15 * time.Minute); p.next(end); {
			if p.search.high <= p.carries {
				t.Fatalf("%d is refuted, and %d carried", p.search.high, p.carries)
			}
			if since := p.now.Sub(p.outage); since > time.Minute && rapid.IntRange(0, 9).Draw(t, "begin an outage") == 0 {
				p.outage = p.now
			}
		}
	})
}

// TestMTUFoundUnderLoss: with 30 % lost each way, 51 % of the probes, a wrong
// result is rare.
func TestMTUFoundUnderLoss(t *testing.T) {
	const paths = 2000
	var took, longest time.Duration
	for seed := range uint64(paths) {
		p := newMTUPath(false, 1500, 577+int(seed)%924, 50*time.Millisecond, seed)
		p.loss = 0.51
		d := p.settle(t)
		took, longest = took+d, max(longest, d)
		p.wantMTU(t)
	}
	t.Logf("%v on average, at most %v", took/paths, longest)
	if longest > 3*time.Minute {
		t.Errorf("the longest search took %v", longest)
	}
}

// TestMTUHoldsUnderLoss: with as much loss, the size stays for half an hour.
func TestMTUHoldsUnderLoss(t *testing.T) {
	const paths = 200
	wrong := 0
	for seed := range uint64(paths) {
		p := newMTUPath(false, 1500, []int{1500, 1420, 900}[seed%3], 50*time.Millisecond, seed)
		p.loss = 0.51
		p.settle(t)
		p.least = math.MaxInt
		found := p.search.MTU()
		p.run(30 * time.Minute)
		if p.least < found {
			wrong++
			t.Logf("seed %d: fell from %d to %d", seed, found, p.least)
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d paths fell, want none", wrong, paths)
	}
}

// TestMTUShrinksAndGrows: what is carried changes while the path stays.
func TestMTUShrinksAndGrows(t *testing.T) {
	for _, loss := range []float64{0, 0.3} {
		p := newMTUPath(false, 1500, 1500, 50*time.Millisecond, 7)
		p.loss = loss
		p.settle(t)
		p.run(95 * time.Second)

		p.carries = 1000
		changed := p.now
		for p.search.MTU() > 1000 {
			if !p.next(changed.Add(time.Minute)) {
				t.Fatal("the path carries less, and nobody sees it")
			}
		}
		took := p.now.Sub(changed)
		if most := mtuConfirmGap + 3*time.Second; loss == 0 && took > most {
			t.Errorf("seen after %v, want at most %v", took, most)
		}
		p.settle(t)
		p.wantMTU(t)

		for _, p.carries = range []int{1300, 9000} {
			p.run(mtuLookGap + time.Minute)
			p.wantMTU(t)
		}
	}
}

// TestMTULargeOnesLost: when a search meets a moment in which only small packets
// pass, its result is corrected soon after, and at most a minute later when that
// moment came after the search.
func TestMTULargeOnesLost(t *testing.T) {
	for _, tt := range []struct {
		ceiling int
		before  time.Duration // that all is well; 0: not at first
	}{{9000, 0}, {1500, 0}, {9000, 5 * time.Minute}, {1500, time.Hour}} {
		p := newMTUPath(false, tt.ceiling, tt.ceiling, 50*time.Millisecond, 1)
		p.run(tt.before)
		p.carries = 1000
		p.run(mtuConfirmGap + 20*time.Second)
		if got := p.search.MTU(); got > 1000 {
			t.Errorf("%+v: MTU is %d while no more than 1000 is carried", tt, got)
		}
		p.carries = tt.ceiling
		well := p.now
		for p.search.MTU() < tt.ceiling {
			if !p.next(well.Add(time.Minute)) {
				t.Errorf("%+v: MTU is %d a minute after", tt, p.search.MTU())
				break
			}
		}
	}
}

// TestMTURefusedLater: the interface itself becomes narrower, which is known
// at once.
func TestMTURefusedLater(t *testing.T) {
	p := newMTUPath(false, 1500, 1500, 50*time.Millisecond, 1)
	p.settle(t)
	p.egress = 1300
	p.run(mtuConfirmGap)
	if got := p.search.MTU(); got > 1300 || got == 0 {
		t.Errorf("MTU is %d after a refusal", got)
	}
	p.settle(t)
	p.wantMTU(t)
}

// TestMTUDeadPath: when nothing is answered, nothing is learnt, and little is
// sent.
func TestMTUDeadPath(t *testing.T) {
	p := newMTUPath(false, 1500, 1500, 50*time.Millisecond, 1)
	p.settle(t)
	p.carries = 0
	p.sent = 0
	p.run(time.Hour)
	if got := p.search.MTU(); got != 1500 {
		t.Errorf("MTU is %d, want the last one: the path is dead, not narrow", got)
	}
	if p.sent > 400 {
		t.Errorf("%d packets in an hour to nobody", p.sent)
	}
	p.carries = 1400
	p.run(mtuRareGap + 10*time.Second)
	if got := p.search.MTU(); got > 1400 {
		t.Errorf("MTU is %d long after the path is back", got)
	}
	p.settle(t)
	p.wantMTU(t)

	p = newMTUPath(false, 1500, 0, 50*time.Millisecond, 1)
	p.step(MTUTick{})
	p.run(time.Hour)
	if got := p.search.MTU(); got != 0 {
		t.Errorf("MTU is %d, and nothing was ever answered", got)
	}
}

// TestMTURestart: perhaps another path; the former result holds until more is
// known, and is tried at once.
func TestMTURestart(t *testing.T) {
	for _, tt := range []struct{ ceiling, carries, least int }{
		{9000, 9000, 1400},
		{1500, 1400, 1400},
		{1300, 9000, 1300}, // our interface is narrower now
		{1500, 1000, 576},
	} {
		p := newMTUPath(false, 1500, 1400, 50*time.Millisecond, 1)
		p.settle(t)
		p.carries, p.flying, p.least = tt.carries, nil, math.MaxInt
		p.step(MTURestart{tt.ceiling})
		if got := p.search.MTU(); got != min(1400, tt.ceiling) {
			t.Errorf("%+v: the MTU is %d at once", tt, got)
		}
		p.settle(t)
		p.wantMTU(t)
		if p.least != tt.least {
			t.Errorf("%+v: the MTU was %d in between", tt, p.least)
		}
	}
}

// TestMTUTicksMayBeRare: a pair without traffic need not be looked at. All that
// is due is then done by one tick.
func TestMTUTicksMayBeRare(t *testing.T) {
	for _, carries := range []int{mtuFloor4, 1400} {
		p := newMTUPath(false, 1500, carries, 50*time.Millisecond, 1)
		p.settle(t)
		found := p.search.MTU()
		for range 20 {
			p.now = p.now.Add(25 * time.Minute)
			p.step(MTUTick{})
			if again := p.search.Step(p.now, MTUTick{}); again != nil {
				t.Errorf("path of %d: asks twice at one time: %v", carries, again)
			}
			for _, a := range p.flying {
				p.now = a.at
				p.step(MTUAnswered{a.size})
			}
			p.flying = nil
		}
		if got := p.search.MTU(); got != found {
			t.Errorf("MTU is %d, was %d", got, found)
		}
	}
}

// TestMTUIdleCost holds what a settled path costs: one probe and a small one
// every 20 s, and nine looks for more in the first hour.
func TestMTUIdleCost(t *testing.T) {
	p := newMTUPath(false, 1500, 1400, 50*time.Millisecond, 1)
	p.settle(t)
	p.sent = 0
	p.run(time.Hour)
	if want := 2*180 + 9*9; p.sent > want {
		t.Errorf("%d packets in an hour, want at most %d", p.sent, want)
	}
}

// TestMTUByProber joins a search with the prober that asks for it and one that
// answers, whose limit must not be in the way.
func TestMTUByProber(t *testing.T) {
	for _, tt := range []struct {
		to      netip.AddrPort
		carries int
	}{
		{probeAddrB, 1400},
		{probeAddrB, 8999},
		{netip.MustParseAddrPort("[2001:db8::2]:6784"), 1350},
	} {
		a, b := probePair()
		m, now := NewMTUSearch(tt.to.Addr().Is6(), 9000), probeTime
		e := MTUEvent(MTUTick{})
		for limit := 0; m.Searching(); limit++ {
			for _, size := range m.Step(now, e) {
				if err := a.Probe(now, b.id, tt.to, size, 0, true); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range a.sent {
				if len(s.b)+signal.Headers(tt.to.Addr()) <= tt.carries {
					b.Handle(now, probeAddrA, netip.Addr{}, s.b)
				}
			}
			for _, s := range b.sent {
				a.Handle(now, tt.to, netip.Addr{}, s.b)
			}
			a.sent, b.sent = nil, nil
			if e = (MTUTick{}); len(a.results) > 0 {
				e = MTUAnswered{a.results[0].Size}
				a.results = a.results[1:]
			} else if at := m.Next(); at.After(now) {
				now = at
			}
			if limit > 1000 {
				t.Fatalf("no end: %+v", m)
			}
		}
		if got := m.MTU(); got > tt.carries || got < tt.carries-mtuResolution {
			t.Errorf("%v carries %d: MTU is %d", tt.to, tt.carries, got)
		}
		if n := b.Stats().Limited; n > 0 {
			t.Errorf("%v carries %d: %d replies were not sent", tt.to, tt.carries, n)
		}
	}
}

// FuzzMTUSearch: no order of events makes it panic, ask for what is out of
// bounds or ask without end.
func FuzzMTUSearch(f *testing.F) {
	f.Add(false, []byte{0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, v6 bool, script []byte) {
		script = script[:min(len(script), 4096)]
		m := NewMTUSearch(v6, 1500)
		now := time.Unix(1000, 0)
		last := []int{0}
		for i := 0; i+1 < len(script); i += 2 {
			size := last[int(script[i+1])%len(last)]
			now = now.Add(time.Duration(script[i]>>2) * 50 * time.Millisecond)
			var e MTUEvent
			switch script[i] & 3 {
			case 0:
				e = MTUTick{}
			case 1:
				e = MTUAnswered{size}
			case 2:
				e = MTURefused{size}
			case 3:
				e = MTURestart{int(script[i+1]) * 40}
			}
			sizes := m.Step(now, e)
			for _, s := range sizes {
				if s > m.ceiling || s < mtuControl || len(sizes) > 4 {
					t.Fatalf("asks for %v, ceiling %d", sizes, m.ceiling)
				}
			}
			if len(sizes) > 0 {
				last = sizes
			}
			if mtu := m.MTU(); mtu != 0 && (mtu < m.floor || mtu > m.ceiling || mtu >= m.high) {
				t.Fatalf("MTU %d, floor %d, ceiling %d, refuted %d", mtu, m.floor, m.ceiling, m.high)
			}
			if again := m.Step(now, MTUTick{}); again != nil {
				t.Fatalf("asks twice at one time: %v", again)
			}
			if !m.Next().After(now) {
				t.Fatalf("wants a tick at %v, now is %v", m.Next(), now)
			}
		}
	})
}
