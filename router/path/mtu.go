package path

import (
	"math"
	"slices"
	"time"
)

// The times and sizes of a search for a path MTU.
const (
	mtuFloor4 = 576  // what every host takes in fragments at least (RFC 791)
	mtuFloor6 = 1280 // what every link carries (RFC 8200 section 5)

	mtuUsual      = 1500 // tried at once, and the ceiling when there is none
	mtuResolution = 8    // bytes; usual sizes are found exactly
	mtuControl    = 128  // bytes of the least of the small probes

	mtuGap        = 300 * time.Millisecond // between tries of a size, or two round trips
	mtuMaxGap     = 3 * time.Second        // later answers do not reach us, see Prober
	mtuSpacing    = 200 * time.Millisecond // after a success: a peer answers 16 times a second
	mtuQuick      = 32                     // tries before they become rare
	mtuRareGap    = 30 * time.Second
	mtuConfirmGap = 20 * time.Second
	mtuFirstLook  = 30 * time.Second // a busy moment is over by then; doubling
	mtuLookGap    = 10 * time.Minute

	mtuTries      = 3    // of a size before it is refuted, and more when packets get lost
	mtuHeard      = 2    // small probes that must be answered meanwhile
	mtuFirstDoubt = 1e-2 // chance of an error when a size is refuted by the search
	mtuLastDoubt  = 1e-5 // the same for the size at which it ends
	mtuFallDoubt  = 1e-6 // the same for one that was carried before
	mtuMemory     = 32   // small probes that the loss is told from
)

// mtuUsualSizes are what paths mostly carry: PPPoE, tunnels of several kinds,
// the networks of the large clouds, jumbo frames. They are preferred as steps
// and found exactly.
var mtuUsualSizes = []int{1280, 1350, 1400, 1420, 1440, 1450, 1460, 1480, 1492, mtuUsual, 8896, 9000, 9001}

// MTUEvent is something that a search must know.
type MTUEvent interface{ mtuEvent() }

// MTUAnswered says that a probe of this size was answered: of the whole IP
// packet in bytes, as Step asked for it.
type MTUAnswered struct{ Size int }

// MTURefused says that this host itself refuses to send so much (EMSGSIZE).
type MTURefused struct{ Size int }

// MTURestart says that the path may be another one, so that all is measured
// again. The former result holds until something is known. Ceiling is the MTU
// of the interface the path leaves by; 0: unknown, then 1500.
type MTURestart struct{ Ceiling int }

// MTUTick says that time has passed.
type MTUTick struct{}

func (MTUAnswered) mtuEvent() {}
func (MTURefused) mtuEvent()  {}
func (MTURestart) mtuEvent()  {}
func (MTUTick) mtuEvent()     {}

// MTUSearch finds the largest IP packet that a path carries from here to a
// peer, by probes that must not be fragmented; it believes no ICMP. It tries
// the largest size first, then narrows down between what was carried and what
// was not. The result is confirmed every 20 s, and it looks whether more is
// carried by now: after half a minute, since what gets lost is the large packets
// first where there is too much traffic, then ever more rarely, down to once in 10
// minutes.
//
// Silence is no proof: a probe may be lost for other reasons. Therefore each
// volley ends with a small probe, which any path carries. A size is refuted
// when so many probes of it in a row stayed unanswered that this is unlikely
// given how many of the small ones get lost; when those get lost all, nothing
// is learnt.
//
// It is pure and not safe for concurrent use. The floors, 576 bytes for IPv4
// and 1280 for IPv6, are taken for granted.
type MTUSearch struct {
	// Constant after NewMTUSearch.
	floor int

	// Owned by the caller's loop.
	ceiling int       // of the interface: nothing larger is tried
	low     int       // carried; or the floor
	high    int       // refuted, the least such size; ceiling+1: none
	former  int       // result before a restart; 0: none
	known   bool      // something was carried or refuted since
	done    bool      // low and high are as near as they come
	round   mtuRound  // under way, unless its aim is mtuIdle
	confirm time.Time // when low is to be confirmed, once done
	look    time.Time // when to look for more, once done
	lookGap time.Duration

	volleys [mtuMemory]mtuVolley // the last ones, by seq; also those of former rounds
	seq     int                  // of the next volley
	rtt     time.Duration        // smoothed upwards at once, downwards slowly
}

// mtuVolley is what was sent at one moment: sizes and a small probe whose own
// size tells which volley an answer is for.
type mtuVolley struct {
	at    time.Time
	heard bool // the small probe was answered
}

// mtuAim is why a round is made.
type mtuAim uint8

const (
	mtuIdle     mtuAim = iota // there is none
	mtuNarrow                 // to narrow down
	mtuMakeSure               // the refuted size next to the result, once more
	mtuConfirm                // the result
	mtuLook                   // for more
)

// doubt is the chance of an error that a round with this aim may leave.
func (a mtuAim) doubt() float64 {
	switch a {
	case mtuMakeSure:
		return mtuLastDoubt
	case mtuConfirm:
		return mtuFallDoubt
	default:
		return mtuFirstDoubt
	}
}

// mtuRound is a set of sizes that are tried until one is answered or all are
// refuted.
type mtuRound struct {
	aim   mtuAim
	sizes []int     // ascending
	first int       // seq of its first volley
	due   time.Time // of the next volley, or of the verdict
}

// NewMTUSearch returns a search that has not begun: the first Step does it,
// usually with [MTUTick]. ceiling is as in [MTURestart].
func NewMTUSearch(v6 bool, ceiling int) *MTUSearch {
	m := &MTUSearch{floor: mtuFloor4}
	if v6 {
		m.floor = mtuFloor6
	}
	m.restart(ceiling)
	return m
}

// MTU returns the largest IP packet in bytes that is known to be carried, or
// the floor while it is only known that more is not; 0: nothing is known yet.
// It grows during a search.
func (m *MTUSearch) MTU() int {
	if !m.known {
		return m.former
	}
	return m.low
}

// Searching reports whether [MTUSearch.MTU] may still grow soon.
func (m *MTUSearch) Searching() bool { return !m.done }

// Next returns when an [MTUTick] will do something; zero: at once. A late one
// does no harm: who has nothing to send need not confirm.
func (m *MTUSearch) Next() time.Time {
	switch {
	case m.round.aim != mtuIdle:
		return m.round.due
	case !m.done:
		return time.Time{}
	case m.low < m.ceiling && m.look.Before(m.confirm):
		return m.look
	default:
		return m.confirm
	}
}

// Step takes one event and returns the sizes to probe now, each once and
// without fragmentation. Times must not go back from one step to the next.
func (m *MTUSearch) Step(now time.Time, e MTUEvent) []int {
	switch e := e.(type) {
	case MTUAnswered:
		m.answered(now, e.Size)
	case MTURefused:
		m.refused(now, e.Size)
	case MTURestart:
		m.restart(e.Ceiling)
	case MTUTick:
	}
	return m.time(now)
}

func (m *MTUSearch) restart(ceiling int) {
	if ceiling <= 0 {
		ceiling = mtuUsual
	}
	m.former = m.MTU()
	m.ceiling = min(max(ceiling, m.floor), math.MaxUint16)
	m.former = min(m.former, m.ceiling)
	m.low, m.high, m.known, m.done = m.floor, m.ceiling+1, false, false
	m.round, m.seq, m.rtt = mtuRound{}, 0, 0
	m.volleys = [mtuMemory]mtuVolley{}
}

func (m *MTUSearch) answered(now time.Time, size int) {
	if size >= mtuControl && size < mtuControl+mtuMemory {
		m.heard(now, size-mtuControl)
		return
	}
	if size <= m.floor || size > m.ceiling {
		return
	}
	if size <= m.low {
		if size == m.low && m.round.aim == mtuConfirm {
			m.settle(now)
		}
		return
	}
	m.low, m.known, m.done = size, true, false
	if size >= m.high {
		m.high = m.ceiling + 1 // it was refuted by mistake, or the path is better now
	}
	m.leave(now, func(s int) bool { return s > size })
}

// leave goes on with those sizes of the round that pass, or with the next
// round when there are none.
func (m *MTUSearch) leave(now time.Time, pass func(size int) bool) {
	m.round.aim = mtuNarrow
	m.round.sizes = slices.DeleteFunc(m.round.sizes, func(s int) bool { return !pass(s) })
	if len(m.round.sizes) == 0 {
		m.plan(now)
	}
}

// heard takes the answer to the small probe of a volley.
func (m *MTUSearch) heard(now time.Time, i int) {
	v := &m.volleys[i]
	if v.at.IsZero() || v.heard {
		return
	}
	v.heard = true
	rtt := now.Sub(v.at)
	m.rtt = max(rtt, m.rtt-(m.rtt-rtt)/8)
	if m.round.aim != mtuIdle && m.seq-m.round.first > mtuQuick {
		// The path was dead and is back.
		m.round.first, m.round.due = m.seq, now
	}
}

// refused takes that this host cannot send a size, which needs no doubt.
func (m *MTUSearch) refused(now time.Time, size int) {
	if size <= m.floor || size >= m.high {
		return
	}
	m.high, m.known, m.done = size, true, false
	if m.low >= size {
		m.low = m.floor
	}
	m.leave(now, func(s int) bool { return m.low < s && s < size })
}

// gap is how long an answer is waited for.
func (m *MTUSearch) gap() time.Duration { return min(max(mtuGap, 2*m.rtt), mtuMaxGap) }

// time does all that is due.
func (m *MTUSearch) time(now time.Time) []int {
	for {
		if m.round.aim == mtuIdle {
			m.next(now)
		}
		if m.round.aim == mtuIdle || now.Before(m.round.due) {
			return nil
		}
		if !m.refuted(now) {
			return m.volley(now)
		}
		m.verdict(now)
	}
}

// next begins the round that is due, if one is.
func (m *MTUSearch) next(now time.Time) {
	if m.done && m.low == m.floor && !now.Before(m.confirm) {
		m.settle(now) // the floor needs no proof
	}
	switch {
	case !m.done:
		m.plan(now)
	case !now.Before(m.confirm):
		m.begin(now, mtuConfirm, m.low)
	case m.low < m.ceiling && !now.Before(m.look):
		m.begin(now, mtuLook, m.high, m.ceiling)
	}
}

// volley sends what is left of the round, and a small probe. That one is last:
// if a peer limits its answers, it is not the large ones that suffer.
func (m *MTUSearch) volley(now time.Time) []int {
	i := m.seq % mtuMemory
	m.volleys[i] = mtuVolley{at: now}
	m.seq++
	m.round.due = now.Add(m.gap())
	if n := m.seq - m.round.first; n > mtuQuick {
		m.round.due = now.Add(min(m.gap()<<min(n-mtuQuick, 7), mtuRareGap))
	}
	return append(slices.Clone(m.round.sizes), mtuControl+i)
}

// refuted reports whether the silence about the sizes of the round says more
// than that packets get lost.
func (m *MTUSearch) refuted(now time.Time) bool {
	tries, heardInRound := 0, 0
	sent, lost := 0.0, 0.0
	for seq := max(m.seq-mtuMemory, 0); seq < m.seq; seq++ {
		v := m.volleys[seq%mtuMemory]
		if now.Sub(v.at) < m.gap() {
			break // this one and the later ones may still be answered
		}
		sent++
		if !v.heard {
			lost++
		}
		if seq >= m.round.first {
			tries++
			if v.heard {
				heardInRound++
			}
		}
	}
	// Jeffreys' estimate of a share: few samples do not make it 0 or 1.
	loss := (lost + 0.5) / (sent + 1)
	return tries >= mtuTries && heardInRound >= mtuHeard && math.Pow(loss, float64(tries)) <= m.round.aim.doubt()
}

// verdict ends a round whose sizes are refuted.
func (m *MTUSearch) verdict(now time.Time) {
	m.known = true
	switch m.round.aim {
	case mtuNarrow:
		m.high = m.round.sizes[0]
		m.plan(now)
	case mtuMakeSure:
		m.lookGap = mtuFirstLook
		m.look = now.Add(m.lookGap)
		m.settle(now)
	case mtuConfirm:
		m.low, m.high, m.done = m.floor, m.low, false
		m.plan(now)
	case mtuLook:
		m.lookGap = min(2*m.lookGap, mtuLookGap)
		m.look = now.Add(m.lookGap)
		m.round = mtuRound{}
	case mtuIdle:
	}
}

// settle ends a search, or a confirmation.
func (m *MTUSearch) settle(now time.Time) {
	m.known, m.done = true, true
	m.round = mtuRound{}
	m.confirm = now.Add(mtuConfirmGap)
}

// plan begins the next round of a search, or ends the search.
func (m *MTUSearch) plan(now time.Time) {
	switch steps := m.steps(); {
	case m.low >= m.ceiling:
		m.settle(now)
	case m.high > m.ceiling: // nothing is refuted: what is likely
		likely := []int{m.former, mtuUsual, m.ceiling}
		m.begin(now, mtuNarrow, slices.DeleteFunc(likely, func(s int) bool { return s <= m.low || s > m.ceiling })...)
	case len(steps) > 0:
		m.begin(now, mtuNarrow, steps...)
	default:
		m.begin(now, mtuMakeSure, m.high)
	}
}

// begin begins a round, now or a pause after the last volley.
func (m *MTUSearch) begin(now time.Time, aim mtuAim, sizes ...int) {
	slices.Sort(sizes)
	m.round = mtuRound{aim: aim, sizes: slices.Compact(sizes), first: m.seq, due: now}
	if m.seq == 0 {
		return
	}
	if soonest := m.volleys[(m.seq-1)%mtuMemory].at.Add(mtuSpacing); soonest.After(now) {
		m.round.due = soonest
	}
}

// steps returns one or two sizes that cut what is between low and high into
// three, or nearly so if that makes them usual ones; none when that is narrow
// enough.
func (m *MTUSearch) steps() (steps []int) {
	width := m.high - m.low
	if width > mtuResolution {
		for _, third := range []int{m.low + width/3, m.low + 2*width/3} {
			steps = append(steps, mtuNearest(third, width/6))
		}
		return steps
	}
	for _, usual := range mtuUsualSizes {
		if m.low < usual && usual < m.high {
			return []int{usual}
		}
	}
	return nil
}

// mtuNearest returns the usual size next to this one and at most so far away;
// without any, the size itself.
func mtuNearest(size, most int) int {
	best, away := size, most+1
	for _, usual := range mtuUsualSizes {
		if d := max(usual-size, size-usual); d < away {
			best, away = usual, d
		}
	}
	return best
}
