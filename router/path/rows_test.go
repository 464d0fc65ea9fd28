package path

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// rowPath is a way to a peer that answers probes, and the clock of a test.
type rowPath struct {
	test *RowTest
	rand *rand.Rand
	rtt  time.Duration
	loss float64 // of a probe or its answer
	// eats says which packets of rows are lost besides, whenever; nil: none.
	eats func(r Row, place int) bool
	dead func(now time.Time) bool // everything is lost

	now    time.Time
	flying []rowAnswer
	sent   []sentRow
	broken int // times that it became so
}

type rowAnswer struct {
	at time.Time
	RowAnswered
}

func newRowPath(seed uint64) *rowPath {
	r := rand.New(rand.NewPCG(seed, 0))
	return &rowPath{
		test: NewRowTest(r.Uint32), rand: r, rtt: 50 * time.Millisecond, now: time.Unix(1000, 0),
		eats: func(Row, int) bool { return false }, dead: func(time.Time) bool { return false },
	}
}

func (p *rowPath) step(e RowEvent) {
	before := p.test.Broken()
	row, ok := p.test.Step(p.now, e)
	if p.test.Broken() && !before {
		p.broken++
	}
	if !ok {
		return
	}
	p.sent = append(p.sent, sentRow{Row: row, at: p.now})
	for place := range RowLength {
		if p.rand.Float64() < p.loss || p.eats(row, place) || p.dead(p.now) || p.rtt > probeLifetime {
			continue
		}
		p.flying = append(p.flying, rowAnswer{p.now.Add(p.rtt), RowAnswered{row.Number, place, p.rtt}})
		slices.SortStableFunc(p.flying, func(a, b rowAnswer) int { return a.at.Compare(b.at) })
	}
}

// next lets the next thing happen, but not after the end.
func (p *rowPath) next(end time.Time) bool {
	at, answer := p.test.Next(), false
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
		e := p.flying[0].RowAnswered
		p.flying = p.flying[1:]
		p.step(e)
	} else {
		p.step(RowTick{})
	}
	return true
}

func (p *rowPath) run(d time.Duration) {
	for end := p.now.Add(d); p.next(end); {
	}
}

// settle runs until the test under way ends and returns how long that took.
func (p *rowPath) settle(t *testing.T) time.Duration {
	t.Helper()
	begin := p.now
	for p.step(RowTick{}); p.test.Testing(); {
		if !p.next(begin.Add(10 * time.Minute)) {
			t.Fatalf("no end: %+v", p.test)
		}
	}
	return p.now.Sub(begin)
}

func coalescedRow(r Row, _ int) bool { return r.Coalesced }

// TestRowVerdicts: what is lost, what the verdict is, how long it takes and what
// it costs.
func TestRowVerdicts(t *testing.T) {
	dead := func(time.Time) bool { return true }
	for _, tt := range []struct {
		name   string
		change func(*rowPath)
		broken bool
		took   time.Duration
		rows   int
		again  time.Duration // after which it is tested again
	}{
		{"nothing", func(*rowPath) {}, false, 50 * time.Millisecond, 1, time.Hour},
		{"nothing, far away", func(p *rowPath) { p.rtt = 700 * time.Millisecond }, false, 700 * time.Millisecond, 3, time.Hour},
		{"coalesced ones", func(p *rowPath) { p.eats = coalescedRow }, true, 7200 * time.Millisecond, 24, time.Hour},
		{"the first of them", func(p *rowPath) { p.eats = func(r Row, i int) bool { return r.Coalesced && i == 0 } }, true, 7200 * time.Millisecond, 24, time.Hour},
		{"all but the first", func(p *rowPath) { p.eats = func(r Row, i int) bool { return r.Coalesced && i > 0 } }, true, 7200 * time.Millisecond, 24, time.Hour},
		{"the last of them", func(p *rowPath) { p.eats = func(r Row, i int) bool { return r.Coalesced && i == 2 } }, true, 7200 * time.Millisecond, 24, time.Hour},
		{"coalesced ones, far away", func(p *rowPath) { p.eats, p.rtt = coalescedRow, time.Second }, true, time.Minute, 36, time.Hour},
		{"single ones", func(p *rowPath) { p.eats = func(r Row, _ int) bool { return !r.Coalesced } }, false, 50 * time.Millisecond, 1, time.Hour},
		{"all", func(p *rowPath) { p.dead = dead }, false, 2400 * time.Millisecond, 8, time.Minute},
		{"answers come too late", func(p *rowPath) { p.rtt = time.Minute }, false, 2400 * time.Millisecond, 8, time.Minute},
		// Every other 300 ms, as pairs go: it is chance that decides which kind is lost.
		{"what is first of each pair", func(p *rowPath) {
			p.dead = func(now time.Time) bool { return now.Sub(time.Unix(1000, 0))%(2*rowGap) < rowGap }
		}, false, 5 * time.Second, 16, time.Hour},
		// A queue of two packets, or a peer that limits its answers: both kinds alike.
		{"the third of all", func(p *rowPath) { p.eats = func(_ Row, i int) bool { return i == 2 } }, false, time.Minute, rowMost, 10 * time.Minute},
		{"all but the first of all", func(p *rowPath) { p.eats = func(_ Row, i int) bool { return i > 0 } }, false, time.Minute, rowMost, 10 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newRowPath(1)
			tt.change(p)
			took := p.settle(t)
			if p.test.Broken() != tt.broken || took > tt.took || len(p.sent) > tt.rows {
				t.Errorf("broken: %t after %s and %d rows, want %t, %s, %d", p.test.Broken(), took, len(p.sent), tt.broken, tt.took, tt.rows)
			}
			if again := p.test.Next().Sub(p.now); again != tt.again {
				t.Errorf("again after %s, want %s", again, tt.again)
			}
			for i, s := range p.sent {
				if i > 0 && s.at.Sub(p.sent[i-1].at) < rowGap {
					t.Errorf("row %d comes %s after the one before", i, s.at.Sub(p.sent[i-1].at))
				}
				if i%2 == 1 && s.Coalesced == p.sent[i-1].Coalesced {
					t.Errorf("rows %d and %d are of one kind", i-1, i)
				}
			}
			t.Logf("broken: %t after %s and %d rows", p.test.Broken(), took, len(p.sent))
		})
	}
}

// TestRowsComeBack: what was broken is tested once an hour, and when the way may
// be another one; the verdict holds meanwhile.
func TestRowsComeBack(t *testing.T) {
	p := newRowPath(1)
	p.eats = coalescedRow
	p.run(6 * time.Hour)
	if !p.test.Broken() || p.broken != 1 || len(p.sent) > 7*24 {
		t.Errorf("broken: %t, became so %d times; %d rows", p.test.Broken(), p.broken, len(p.sent))
	}
	p.test.Restart()
	if p.step(RowTick{}); !p.test.Broken() || !p.test.Testing() {
		t.Error("the verdict is forgotten, or not tested")
	}
	p.eats = func(Row, int) bool { return false }
	if p.settle(t); p.test.Broken() {
		t.Error("it stays broken")
	}
	p.step(RowRefused{}) // by a kernel that cannot do it any more
	if p.test.Testing() || p.test.Broken() || p.test.Next().Sub(p.now) != time.Hour {
		t.Errorf("refused: %+v", p.test)
	}
}

// TestRowsUnderLoss: a broken way is noticed though much is lost, and whatever is
// lost, a good one is not taken for broken: in a thousand times an hour, with up
// to 40 % of the packets lost each way, at random or in bursts.
func TestRowsUnderLoss(t *testing.T) {
	const paths = 1000
	for _, each := range []float64{0, 0.05, 0.1, 0.2, 0.3, 0.4} {
		for _, eaten := range []bool{false, true} {
			var wrong, tests int
			var longest time.Duration
			for seed := range uint64(paths) {
				p := newRowPath(seed)
				p.loss = 1 - (1-each)*(1-each)
				if eaten {
					p.eats = coalescedRow
					// With 64 % lost one test may end without a verdict.
					for !p.test.Broken() && p.now.Sub(time.Unix(1000, 0)) < time.Hour {
						if !p.next(p.now.Add(time.Hour)) {
							break
						}
					}
					longest = max(longest, p.now.Sub(time.Unix(1000, 0)))
					if !p.test.Broken() {
						wrong++
					}
					continue
				}
				// The hour has one test; many more are made instead.
				for range 20 {
					p.settle(t)
					p.test.Restart()
					tests++
				}
				wrong += p.broken
			}
			if wrong > 0 {
				t.Errorf("%.0f %% lost each way, coalesced ones too: %t: %d of %d are wrong", 100*each, eaten, wrong, paths)
			}
			t.Logf("FIGURE %.0f %% lost each way, coalesced ones too: %t: none of %d paths is wrong; %d tests, longest %s", 100*each, eaten, paths, tests, longest)
		}
	}
}

// TestRowsNeverWrong: neither bursts of loss, nor outages that come and go, nor
// round trips that change, nor the death of the path break what is good.
func TestRowsNeverWrong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newRowPath(rapid.Uint64().Draw(t, "seed"))
		p.rtt = time.Duration(rapid.IntRange(0, 3200).Draw(t, "rtt")) * time.Millisecond
		p.loss = rapid.SampledFrom([]float64{0, 0.2, 0.4, 0.64, 0.9}).Draw(t, "loss")
		period := time.Duration(rapid.IntRange(100, 20_000).Draw(t, "period")) * time.Millisecond
		out := time.Duration(rapid.IntRange(0, 100).Draw(t, "percent of it dead")) * period / 100
		dies := p.now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "dies after")) * time.Second)
		p.dead = func(now time.Time) bool {
			return now.Sub(time.Unix(1000, 0))%period < out || now.After(dies) && now.Before(dies.Add(20*time.Minute))
		}
		short := rapid.IntRange(0, RowLength).Draw(t, "queue") // so many packets of each row pass
		p.eats = func(_ Row, place int) bool { return place >= short }
		slower := time.Duration(rapid.SampledFrom([]int{0, 500, 2000}).Draw(t, "slower by")) * time.Millisecond
		half := p.now.Add(4 * time.Second)
		for end := p.now.Add(time.Hour); p.next(end); {
			if p.now.After(half) {
				p.rtt, slower = p.rtt+slower, 0
			}
		}
		if p.broken > 0 {
			t.Fatalf("broken %d times", p.broken)
		}
	})
}

// A stranger, or somebody on the way, who does not know the numbers of rows
// changes nothing by saying that they were answered.
func TestRowAnswersOfOthers(t *testing.T) {
	p := newRowPath(1)
	p.eats = coalescedRow
	p.step(RowTick{})
	for i := range 100 {
		p.step(RowAnswered{Number: uint32(i), Place: i % RowLength})
		p.step(RowAnswered{Number: p.sent[0].Number, Place: RowLength})
		p.step(RowAnswered{Number: p.sent[0].Number, Place: -1})
	}
	if p.settle(t); !p.test.Broken() {
		t.Error("answers to nothing count")
	}
}

// byChance against counting.
func TestByChance(t *testing.T) {
	for _, tt := range []struct{ sent, heard, others int }{{1, 1, 1}, {2, 1, 3}, {3, 3, 3}, {4, 2, 4}, {5, 0, 5}, {0, 0, 3}, {4, 3, 0}} {
		all, none := 0, 0
		for set := range 1 << (tt.sent + tt.others) {
			bits := 0
			for b := set; b > 0; b &= b - 1 {
				bits++
			}
			if bits == tt.heard {
				all++
				if set>>tt.sent == 0 {
					none++
				}
			}
		}
		want := float64(none) / float64(all)
		if got := byChance(tt.sent, tt.heard, tt.others); math.Abs(got-want) > 1e-12 {
			t.Errorf("%v: %g, want %g", fmt.Sprint(tt), got, want)
		}
	}
	if p, q := byChance(12, 12, 12), byChance(11, 11, 11); p > rowDoubt || q <= rowDoubt {
		t.Errorf("after eleven and twelve pairs: %g, %g", q, p)
	}
}
