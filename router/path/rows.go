package path

import (
	"math/rand/v2"
	"slices"
	"time"
)

// RowLength is how many probes make a row. Who cuts a piece up wrongly may do so
// at its end only, or between.
const RowLength = 3

// The times and bounds of a test of rows.
const (
	rowGap    = 300 * time.Millisecond // between rows, or two round trips: a peer answers 16 times a second
	rowMaxGap = 3 * time.Second        // later answers do not reach us, see Prober
	rowMost   = 128                    // rows of a test, then it ends without a verdict
	rowSilent = 8                      // rows one after the other of which nothing is heard: there is no path
	rowDoubt  = 1e-6                   // chance that a place is silent for no reason but loss

	rowAgain     = time.Hour // after a verdict
	rowUncertain = 10 * time.Minute
	rowNoPath    = time.Minute
)

// Row is what a test wants to be sent: [RowLength] probes of one size, one
// right after the other.
type Row struct {
	Number    uint32 // not zero
	Coalesced bool   // given to the kernel in one piece, to be cut up below (UDP GSO); else one by one
}

// RowEvent is something that a test of rows must know.
type RowEvent interface{ rowEvent() }

// RowAnswered says that a probe of a row was answered.
type RowAnswered struct {
	Number uint32
	Place  int // in the row, from 0
	RTT    time.Duration
}

// RowRefused says that this host cannot send such a row.
type RowRefused struct{}

// RowTick says that time has passed.
type RowTick struct{}

func (RowAnswered) rowEvent() {}
func (RowRefused) rowEvent()  {}
func (RowTick) rowEvent()     {}

// RowTest finds out whether packets that leave coalesced reach a peer as single
// ones do. Some kernels, drivers and network cards corrupt or lose them: pings,
// probes and handshakes pass, which are alone, and whatever is much vanishes.
//
//	testing ── each place of coalesced rows was heard ──────▶ works   ─┐
//	   ▲  │ ── one place never was, though in single rows ──▶ broken  ─┤
//	   │  └─── cannot be told ─────────▶ as before ────────────────────┤
//	   └───────────── an hour, 10 min or 1 min later, Restart ─────────┘
//
// It sends rows of both kinds in pairs, in random order, so that what happens
// on the way happens to both: loss, bursts of it, a queue that is too short for
// three packets, a peer that limits its answers, outages. A place of a row is
// taken for broken when as few answers in coalesced rows, none, would be seen
// by chance once in a million times, given all the answers in both (Fisher's
// exact test); whatever is lost, that is no more likely. Without loss it takes
// twelve pairs. When nothing is heard at all there is no verdict. Nor can
// anybody on the way tell the two kinds apart: they look the same.
//
// It is pure and not safe for concurrent use.
type RowTest struct {
	// Constant after NewRowTest.
	rand func() uint32

	// Owned by the caller's loop.
	broken  bool
	testing bool
	due     time.Time // of the next row; or of the next test
	rows    []sentRow // of the test under way
	rtt     time.Duration
}

// sentRow is a row and what was heard of it.
type sentRow struct {
	Row
	at    time.Time
	heard [RowLength]bool
}

// NewRowTest returns a test that has not begun: the first Step does it, usually
// with [RowTick]. Until there is a verdict coalesced packets are taken to
// arrive. rand returns a random number; nil takes the system's.
func NewRowTest(random func() uint32) *RowTest {
	if random == nil {
		random = rand.Uint32
	}
	return &RowTest{rand: random, testing: true}
}

// Broken reports whether coalesced packets do not arrive.
func (r *RowTest) Broken() bool { return r.broken }

// Testing reports whether a test is under way.
func (r *RowTest) Testing() bool { return r.testing }

// Restart says that the way to the peer may be another one: the next Step begins
// a test. The former verdict holds until there is a new one.
func (r *RowTest) Restart() { r.testing, r.due, r.rows = true, time.Time{}, nil }

// Next returns when a [RowTick] will do something; zero: at once. A late one
// does no harm.
func (r *RowTest) Next() time.Time { return r.due }

// Step takes one event; ok says that a row is to be sent now. Times must not
// go back from one step to the next.
func (r *RowTest) Step(now time.Time, e RowEvent) (row Row, ok bool) {
	switch e := e.(type) {
	case RowAnswered:
		r.answered(e)
	case RowRefused:
		r.rest(now, rowAgain)
		return Row{}, false
	case RowTick:
	}
	if !r.testing {
		if now.Before(r.due) {
			return Row{}, false
		}
		r.Restart()
	}
	if r.judge(now); !r.testing || now.Before(r.due) {
		return Row{}, false
	}
	r.due = now.Add(r.gap())
	if len(r.rows) == rowMost {
		return Row{}, false // the last one may still be answered
	}
	row = Row{Number: r.rand() | 1, Coalesced: r.kind()}
	r.rows = append(r.rows, sentRow{Row: row, at: now})
	return row, true
}

func (r *RowTest) rest(now time.Time, d time.Duration) {
	r.testing, r.due, r.rows = false, now.Add(d), nil
}

// kind is that of the next row. The very first is coalesced: mostly nothing is
// broken, and no other is needed.
func (r *RowTest) kind() (coalesced bool) {
	switch n := len(r.rows); {
	case n == 0:
		return true
	case n%2 == 1:
		return !r.rows[n-1].Coalesced
	}
	return r.rand()>>31 == 1
}

// gap is how long an answer is waited for.
func (r *RowTest) gap() time.Duration { return min(max(rowGap, 2*r.rtt), rowMaxGap) }

func (r *RowTest) answered(e RowAnswered) {
	i := slices.IndexFunc(r.rows, func(s sentRow) bool { return s.Number == e.Number })
	if i < 0 || e.Place < 0 || e.Place >= RowLength {
		return
	}
	r.rows[i].heard[e.Place] = true
	r.rtt = max(e.RTT, r.rtt-(r.rtt-e.RTT)/8)
}

// judge ends the test when enough is known.
func (r *RowTest) judge(now time.Time) {
	var heard [RowLength]bool // of coalesced rows
	// Of rows that are not to be answered any more:
	var sent [2]int // single, coalesced
	var single [RowLength]int
	silent := 0
	for _, s := range r.rows {
		if s.Coalesced {
			for i, yes := range s.heard {
				heard[i] = heard[i] || yes
			}
		}
		if now.Sub(s.at) < r.gap() {
			continue
		}
		silent++
		if s.heard != [RowLength]bool{} {
			silent = 0
		}
		if s.Coalesced {
			sent[1]++
			continue
		}
		sent[0]++
		for i, yes := range s.heard {
			if yes {
				single[i]++
			}
		}
	}
	if !slices.Contains(heard[:], false) {
		r.broken = false
		r.rest(now, rowAgain)
		return
	}
	for i := range heard {
		if !heard[i] && byChance(sent[0], single[i], sent[1]) <= rowDoubt {
			r.broken = true
			r.rest(now, rowAgain)
			return
		}
	}
	switch {
	case silent >= rowSilent:
		r.rest(now, rowNoPath)
	case sent[0]+sent[1] == rowMost:
		r.rest(now, rowUncertain)
	}
}

// byChance is how likely it is that of sent + others packets, heard of which were
// answered, none of the others is among those.
func byChance(sent, heard, others int) float64 {
	p := 1.0
	for i := range heard {
		p *= float64(sent-i) / float64(sent+others-i)
	}
	return p
}
