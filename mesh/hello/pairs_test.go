package hello

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/crypto"
)

// An introduction in the model, with what happens to it in this order.
type meeting struct {
	d, l             *pairs
	di, li           *introduction
	dSays, lSays     bool
	dResult, lResult bool
	dOrder, lOrder   uint64
	step             int
}

// The steps as session takes them: the dialler begins and tells first, the
// listener completes first.
const meetingSteps = 6

func (m *meeting) next(boot uint64) {
	switch m.step {
	case 0:
		m.di = m.d.begin(m.l.self, boot, true)
	case 1:
		m.li = m.l.begin(m.d.self, boot, false)
	case 2:
		m.dSays = m.di.recent()
	case 3:
		m.lSays = m.li.recent()
	case 4:
		m.lResult, m.lOrder = m.li.complete(m.dSays)
	case 5:
		m.dResult, m.dOrder = m.di.complete(m.lSays)
	}
	m.step++
}

// Every interleaving of two introductions in opposite directions, both ways
// round: whoever looks at the last result agrees, and it is the smaller. When
// both proved before either heard of the other, no result ever says otherwise,
// so that no handshake is begun at both ends.
func TestInitiatorEveryInterleaving(t *testing.T) {
	orders := interleavings(meetingSteps, meetingSteps)
	if len(orders) != 924 {
		t.Fatalf("%d interleavings", len(orders))
	}
	for _, order := range orders {
		for _, smallerDials := range []bool{true, false} {
			lo, hi := crypto.Sorted(key(1).Identity(), key(2).Identity())
			a, b := newPairs(lo), newPairs(hi)
			first, second := &meeting{d: a, l: b}, &meeting{d: b, l: a}
			if !smallerDials {
				first, second = second, first
			}
			for _, which := range order {
				if which == 0 {
					first.next(7)
				} else {
					second.next(7)
				}
			}
			atA, atB := last(a, first, second), last(b, first, second)
			if !atA || atB {
				t.Fatalf("order %v, smaller first %v: smaller initiates %v, larger %v", order, smallerDials, atA, atB)
			}
			if order[0] != order[1] {
				for _, m := range []*meeting{first, second} {
					if m.dResult != (m.d == a) || m.lResult != (m.l == a) {
						t.Fatalf("order %v, smaller first %v: dialler %v, listener %v", order, smallerDials, m.dResult, m.lResult)
					}
				}
			}
		}
	}
}

// last is what the result with the greatest order at p says.
func last(p *pairs, meetings ...*meeting) (initiator bool) {
	var order uint64
	for _, m := range meetings {
		if m.d == p && m.dOrder > order {
			order, initiator = m.dOrder, m.dResult
		}
		if m.l == p && m.lOrder > order {
			order, initiator = m.lOrder, m.lResult
		}
	}
	return initiator
}

func interleavings(a, b int) [][]int {
	if a == 0 && b == 0 {
		return [][]int{nil}
	}
	var out [][]int
	if a > 0 {
		for _, rest := range interleavings(a-1, b) {
			out = append(out, append([]int{0}, rest...))
		}
	}
	if b > 0 {
		for _, rest := range interleavings(a, b-1) {
			out = append(out, append([]int{1}, rest...))
		}
	}
	return out
}

// Any number of introductions between two hosts, at any time, in any order:
// once they are over, exactly one of the two thinks that it initiates.
func TestInitiatorAgreesInTime(t *testing.T) {
	type event struct {
		at    time.Duration
		which int
	}
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(rt, "introductions")
		fromA := rapid.SliceOfN(rapid.Bool(), n, n).Draw(rt, "from a")
		var events []event
		for i := range n {
			// Near the ends of the window as well as anywhere.
			at := time.Duration(rapid.IntRange(0, 3).Draw(rt, "windows")) * bothWindow
			if rapid.Bool().Draw(rt, "anywhere") {
				at += time.Duration(rapid.IntRange(0, 9_000).Draw(rt, "start")) * time.Millisecond
			}
			// At most 10 s in all, as a dial may take.
			longest := rapid.SampledFrom([]int{1, 50, 1600}).Draw(rt, "longest step")
			for range meetingSteps {
				at += time.Duration(rapid.IntRange(0, longest).Draw(rt, "step")) * time.Millisecond
				events = append(events, event{at, i})
			}
		}
		// Of events at one time, any may be first.
		events = rapid.Permutation(events).Draw(rt, "order")
		slices.SortStableFunc(events, func(x, y event) int { return cmp.Compare(x.at, y.at) })
		var atA, atB bool
		synctest.Test(t, func(*testing.T) {
			a, b := newPairs(key(1).Identity()), newPairs(key(2).Identity())
			meetings := make([]*meeting, n)
			for i := range meetings {
				meetings[i] = &meeting{d: a, l: b}
				if !fromA[i] {
					meetings[i] = &meeting{d: b, l: a}
				}
			}
			start := time.Now()
			for _, e := range events {
				time.Sleep(e.at - time.Since(start))
				meetings[e.which].next(7)
			}
			atA, atB = last(a, meetings...), last(b, meetings...)
		})
		if atA == atB {
			rt.Fatalf("both say initiator %v", atA)
		}
	})
}

// The window ends for one host a moment before it ends for the other: what one
// of them still counts, both count.
func TestInitiatorAtTheEndOfTheWindow(t *testing.T) {
	for _, late := range []time.Duration{-2 * time.Second, -time.Second, 0, time.Second, 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			lo, hi := crypto.Sorted(key(1).Identity(), key(2).Identity())
			a, b := newPairs(lo), newPairs(hi)
			// a dials; b completes at 0, a one and a half seconds later.
			one, two := &meeting{d: a, l: b}, &meeting{d: b, l: a}
			for range 5 {
				one.next(7)
			}
			time.Sleep(1500 * time.Millisecond)
			one.next(7)
			time.Sleep(bothWindow - 1500*time.Millisecond + late)
			for range meetingSteps {
				two.next(7)
				time.Sleep(100 * time.Millisecond)
			}
			if atA, atB := last(a, one, two), last(b, one, two); atA == atB || two.dResult == two.lResult {
				t.Errorf("%s: smaller initiates %v, larger %v", late, atA, atB)
			}
		})
	}
}

// Of two overlapping introductions in one direction only one is within the
// window of an earlier one in the other, and the ends complete them in
// different orders.
func TestInitiatorOfOverlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lo, hi := crypto.Sorted(key(1).Identity(), key(2).Identity())
		a, b := newPairs(lo), newPairs(hi)
		z, x, y := &meeting{d: a, l: b}, &meeting{d: b, l: a}, &meeting{d: b, l: a}
		do := func(meetings ...*meeting) {
			for _, m := range meetings {
				m.next(7)
			}
		}
		do(z, z, z, z, z, z)
		time.Sleep(bothWindow)
		do(y, y, x, x, x, x)
		time.Sleep(time.Millisecond)
		do(y, y, x, y, y, x)
		if atA, atB := last(a, z, x, y), last(b, z, x, y); !atA || atB {
			t.Errorf("smaller initiates %v, larger %v", atA, atB)
		}
	})
}

// A sole introduction, or two long apart, or of other boots: the dialler.
func TestInitiatorIsTheDialler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lo, hi := crypto.Sorted(key(1).Identity(), key(2).Identity())
		a, b := newPairs(lo), newPairs(hi)
		meet := func(d, l *pairs, boot uint64) (dialler, listener bool) {
			m := &meeting{d: d, l: l}
			for range meetingSteps {
				m.next(boot)
			}
			return m.dResult, m.lResult
		}
		check := func(what string, d, l *pairs, boot uint64, want bool) {
			t.Helper()
			if dr, lr := meet(d, l, boot); dr != want || lr == want {
				t.Errorf("%s: dialler %v, listener %v, want %v", what, dr, lr, want)
			}
		}
		check("larger dials", b, a, 7, true)
		check("larger dials again", b, a, 7, true)
		check("smaller dials after it", a, b, 7, true)
		check("larger dials after that", b, a, 7, false)
		check("another life", b, a, 8, true)
		time.Sleep(bothWindow)
		check("just within 10 s", b, a, 7, false)
		time.Sleep(bothWindow + time.Nanosecond)
		check("later", b, a, 7, true)

		// Failures count for nothing and leave nothing behind.
		time.Sleep(time.Minute)
		i := a.begin(hi, 7, true)
		i.fail()
		i.fail()
		check("after a failure of the other direction", b, a, 7, true)
		time.Sleep(time.Minute)
		a.begin(key(3).Identity(), 1, true).fail()
		a.begin(key(3).Identity(), 1, true).fail()
		if len(a.known) != 1 {
			t.Errorf("%d pairs are remembered", len(a.known))
		}
	})
}

// Whole introductions, both hosts dialling at once over links with delay: every
// result of either agrees with the other end's result of the same
// introduction, and the last ones are the smaller's.
func TestBothDial(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			network := newMemNet()
			base := time.Duration(rnd.IntN(60)) * time.Millisecond
			var mu sync.Mutex
			upTo := func(ms int) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				return time.Duration(rnd.IntN(ms)) * time.Millisecond
			}
			network.delay = func() time.Duration { return base + upTo(30) }
			a, b := newHost(t, network, hostConfig{n: 1}), newHost(t, network, hostConfig{n: 2})
			stopA, stopB := a.serve(t, network.listen(a.addr)), b.serve(t, network.listen(b.addr))
			var dialled [2]Result
			ended := make(chan struct{})
			for i, from := range []*host{a, b} {
				wait := upTo(10)
				to := []*host{b, a}[i]
				go func() {
					defer func() { ended <- struct{}{} }()
					time.Sleep(wait)
					r, err := from.Dial(context.Background(), to.addr, nil)
					if err != nil {
						t.Errorf("seed %d: %v", seed, err)
					}
					dialled[i] = r
				}()
			}
			<-ended
			<-ended
			time.Sleep(time.Second)
			stopA()
			stopB()
			if len(a.got()) != 1 || len(b.got()) != 1 {
				t.Fatalf("seed %d: listeners have %d and %d results", seed, len(a.got()), len(b.got()))
			}
			lastOf := func(x, y Result) bool {
				if x.Order > y.Order {
					return x.Initiator
				}
				return y.Initiator
			}
			for _, h := range []*host{a, b} {
				for _, p := range h.pairs.known {
					if p.way[0].active != 0 || p.way[1].active != 0 {
						t.Errorf("seed %d: something is still under way: %v", seed, p)
					}
				}
			}
			wantA := a.self.Compare(b.self) < 0
			if gotA, gotB := lastOf(dialled[0], a.got()[0]), lastOf(dialled[1], b.got()[0]); gotA != wantA || gotB == wantA {
				t.Errorf("seed %d: a initiates %v, b %v, want a %v", seed, gotA, gotB, wantA)
			}
		})
	}
}

// The addresses both ends report are the other's idea of them.
func TestObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemNet()
		d, l := newHost(t, network, hostConfig{n: 1}), newHost(t, network, hostConfig{n: 2})
		mapped := netip.MustParseAddr("203.0.113.9") // as behind a NAT
		d.dialer = network.dialFrom(netip.AddrFrom16(mapped.As16()))
		stop := l.serve(t, network.listen(l.addr))
		r, err := d.Dial(t.Context(), l.addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		stop()
		if r.Observed != mapped || l.got()[0].Observed != l.addr.Addr() || l.got()[0].Remote.Addr() != mapped {
			t.Errorf("dialler %s, listener %s %s", r.Observed, l.got()[0].Observed, l.got()[0].Remote)
		}
	})
}
