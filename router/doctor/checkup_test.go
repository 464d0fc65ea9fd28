package doctor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/crypto"
)

// wire carries checkups between two hosts, as slowly as it is told.
type wire struct {
	to       *Checkups
	me, peer crypto.Identity
	delay    time.Duration
	lose     bool
	sent     atomic.Int64
}

func (w *wire) Send(to crypto.Identity, payload []byte) {
	w.sent.Add(1)
	if w.lose || to != w.peer {
		return
	}
	payload = slices.Clone(payload)
	time.AfterFunc(w.delay, func() { w.to.Receive(w.me, payload) })
}

// looker answers what the test says.
type looker struct {
	back, names Reach
	dials       atomic.Int64
	takes       time.Duration
}

func (l *looker) DialBack(ctx context.Context, _ crypto.Identity) Reach {
	l.dials.Add(1)
	select {
	case <-time.After(l.takes):
	case <-ctx.Done():
	}
	return l.back
}

func (l *looker) OwnNames(context.Context) Reach { return l.names }

// pair is two hosts; the clock of the second is skewed.
func pair(skew, delay time.Duration) (a, b *Checkups, ab, ba *wire, there *looker) {
	idA, idB := crypto.Identity{1}, crypto.Identity{2}
	ab, ba = &wire{me: idA, peer: idB, delay: delay}, &wire{me: idB, peer: idA, delay: delay}
	there = &looker{back: Closed, names: Reached}
	a, b = NewCheckups(ab, &looker{}), NewCheckups(ba, there)
	b.now = func() time.Time { return time.Now().Add(skew) }
	ab.to, ba.to = b, a
	return a, b, ab, ba, there
}

func TestCheckups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, skew := range []time.Duration{0, time.Hour, -3 * time.Second} {
			a, _, _, _, there := pair(skew, 40*time.Millisecond)
			got := a.Ask(t.Context(), []crypto.Identity{{2}}, nil)[crypto.Identity{2}]
			if want := (Checkup{Answered: true, RTT: 80 * time.Millisecond, Skew: skew, Back: Closed, Names: Reached}); got != want {
				t.Errorf("skew %s: %+v, want %+v", skew, got, want)
			}
			if got := a.Ask(t.Context(), []crypto.Identity{{2}}, nil)[crypto.Identity{2}]; !got.Answered || got.Back != Closed || got.Names != Reached || there.dials.Load() != 1 {
				t.Errorf("asked again at once: %+v after %d dials; want the news of before", got, there.dials.Load())
			}
			time.Sleep(askGap)
			if got := a.Ask(t.Context(), []crypto.Identity{{2}}, nil)[crypto.Identity{2}]; got.Back != Closed || there.dials.Load() != 2 {
				t.Errorf("asked again later: %+v after %d dials", got, there.dials.Load())
			}
		}
	})
}

// TestNewsAreAsked: a look at the clock alone makes nobody dial.
func TestNewsAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, _, _, there := pair(0, time.Millisecond)
		begun := time.Now()
		got := a.Ask(t.Context(), []crypto.Identity{{2}}, func(crypto.Identity) bool { return false })[crypto.Identity{2}]
		if !got.Answered || got.Back != Unknown || there.dials.Load() != 0 || time.Since(begun) > 10*time.Millisecond {
			t.Errorf("%+v after %d dials and %s", got, there.dials.Load(), time.Since(begun))
		}
	})
}

// TestDialsAreBounded: many members that ask make at most 16 dials at a time,
// and one in ten seconds for each.
func TestDialsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b, _, _, there := pair(0, time.Millisecond)
		there.takes = time.Second
		ask := func() {
			for i := range 100 {
				for range 3 {
					b.Receive(crypto.Identity{2, byte(i)}, checkup(kindAsk, [8]byte{byte(i)}))
				}
			}
			synctest.Wait()
		}
		for i, want := range []int64{16, 32, 48} {
			if ask(); there.dials.Load() != want {
				t.Errorf("%d: %d dials, want %d", i, there.dials.Load(), want)
			}
			time.Sleep(2 * time.Second)
		}
		time.Sleep(askGap)
		for range 5 {
			b.Receive(crypto.Identity{2, 1}, checkup(kindAsk, [8]byte{1}))
			time.Sleep(askGap / 6)
		}
		if there.dials.Load() != 49 {
			t.Errorf("%d dials", there.dials.Load())
		}
	})
}

// TestSilentPeers: who does not answer costs a bounded time, and an answer
// without news counts.
func TestSilentPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, ab, _, there := pair(0, time.Millisecond)
		there.takes = time.Hour
		begun := time.Now()
		got := a.Ask(t.Context(), []crypto.Identity{{2}, {3}}, nil)
		if took := time.Since(begun); took > askTime || !got[crypto.Identity{2}].Answered || got[crypto.Identity{3}].Answered {
			t.Errorf("%+v after %s", got, took)
		}
		ab.lose = true
		if got := a.Ask(t.Context(), []crypto.Identity{{2}}, nil); got[crypto.Identity{2}] != (Checkup{}) || len(a.asked) != 0 {
			t.Errorf("%+v, %d left", got, len(a.asked))
		}
		time.Sleep(time.Minute)
	})
}

// TestCheckupsOfStrangers: an answer counts only from who was asked, once, and
// what is malformed is dropped.
func TestCheckupsOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, ab, _, _ := pair(0, time.Millisecond)
		ab.lose = true
		go func() {
			time.Sleep(time.Millisecond)
			a.mu.Lock()
			var nonce [8]byte
			for nonce = range a.asked {
			}
			a.mu.Unlock()
			a.Receive(crypto.Identity{3}, checkup(kindAnswer, nonce, 0, 0, 0, 0, 0, 0, 0, 1)) // another host
			a.Receive(crypto.Identity{2}, checkup(kindAnswer, [8]byte{9}, 0, 0, 0, 0, 0, 0, 0, 1))
			a.Receive(crypto.Identity{2}, checkup(kindAnswer, nonce, 0))
			a.Receive(crypto.Identity{2}, checkup(kindNews, nonce, 7, 0))
			a.Receive(crypto.Identity{2}, checkup(9, nonce))
			a.Receive(crypto.Identity{2}, nil)
		}()
		if got := a.Ask(t.Context(), []crypto.Identity{{2}}, nil); got[crypto.Identity{2}] != (Checkup{}) {
			t.Errorf("%+v", got)
		}
		if ab.sent.Load() != 1 {
			t.Errorf("%d sent in answer to garbage", ab.sent.Load()-1)
		}
	})
}

// letters keeps what is sent.
type letters struct {
	mu   sync.Mutex
	to   []crypto.Identity
	sent []string
}

func (l *letters) Send(to crypto.Identity, payload []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to, l.sent = append(l.to, to), append(l.sent, string(payload))
}

// FuzzCheckup: only a whole question is answered, to who asked, with what
// belongs to it; and whatever is learnt from an answer is all that was in it.
func FuzzCheckup(f *testing.F) {
	nonce := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	for _, rest := range [][]byte{nil, {1, 2}, {3, 0}, {0, 0, 0, 0, 0, 0, 0, 1}, {0x80, 0, 0, 0, 0, 0, 0, 0}} {
		for kind := range byte(6) {
			f.Add(checkup(kind, nonce, rest...))
		}
	}
	peer := crypto.Identity{1}
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			l := &letters{}
			c := NewCheckups(l, &looker{back: Closed, names: Reached})
			q := &question{peer: peer, sent: c.now(), done: make(chan struct{})}
			c.asked[nonce] = q
			before, at := string(b), uint64(c.now().UnixNano())
			c.Receive(peer, b)
			time.Sleep(time.Second) // for the news
			synctest.Wait()
			if string(b) != before {
				t.Errorf("%x became %x", before, b)
			}

			var want []string
			if len(b) == checkupHead && (b[2] == kindAsk || b[2] == kindTime) && bytes.HasPrefix(b, []byte{CheckupByte, checkupVersion}) {
				asker := [8]byte(b[3:])
				want = append(want, string(checkup(kindAnswer, asker, binary.BigEndian.AppendUint64(nil, at)...)))
				if b[2] == kindAsk {
					want = append(want, string(checkup(kindNews, asker, byte(Closed), byte(Reached))))
				}
			}
			if !slices.Equal(l.sent, want) || slices.ContainsFunc(l.to, func(to crypto.Identity) bool { return to != peer }) {
				t.Errorf("%x is answered by %x to %x, want %x", b, l.sent, l.to, want)
			}

			var learnt []byte
			switch theirs := q.sent.Round(0).Add(q.got.Skew); {
			case q.got.Answered && (q.got.Skew == math.MaxInt64 || q.got.Skew == math.MinInt64):
				return // their clock is further off than can be said
			case q.got.Answered:
				learnt = checkup(kindAnswer, nonce, binary.BigEndian.AppendUint64(nil, uint64(theirs.UnixNano()))...)
			case q.news:
				learnt = checkup(kindNews, nonce, byte(q.got.Back), byte(q.got.Names))
			}
			told := len(b) == checkupHead+8 && b[2] == kindAnswer || len(b) == checkupHead+2 && b[2] == kindNews && max(b[11], b[12]) <= byte(Closed)
			if told = told && bytes.HasPrefix(b, checkup(b[2], nonce)); told && !bytes.Equal(learnt, b) || !told && learnt != nil {
				t.Errorf("of %x is learnt %+v", b, q.got)
			}
		})
	})
}

// TestGather: a step that hangs is given up, said, and not begun again while it
// hangs; what it finds later changes nothing.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, free := NewGatherer(), make(chan struct{})
		var begins atomic.Int32
		steps := []Step{
			{Name: "fine", Run: func(context.Context) (func(*Facts), error) { return func(f *Facts) { f.Version = "x" }, nil }},
			{Name: "fails", Run: func(context.Context) (func(*Facts), error) { return nil, errors.New("no") }},
			{Name: "hangs", Run: func(context.Context) (func(*Facts), error) {
				begins.Add(1)
				<-free
				return func(f *Facts) { f.Port = 7 }, nil
			}},
			{Name: "heeds", Run: func(ctx context.Context) (func(*Facts), error) {
				<-ctx.Done()
				return func(f *Facts) { f.Datapath = "half" }, ctx.Err()
			}},
		}
		begun := time.Now()
		for _, hangs := range []string{"no answer within 3s; it was given up", "it hangs since an earlier look"} {
			f := g.Gather(t.Context(), Facts{}, steps...)
			said := map[string]string{}
			for _, s := range f.Stuck {
				said[s.Step] = s.Err
			}
			if f.Version != "x" || f.Datapath != "half" || f.Port != 0 || said["hangs"] != hangs || said["fails"] != "no" || said["heeds"] == "" || len(said) != 3 {
				t.Errorf("%+v", f)
			}
		}
		if took := time.Since(begun); took > 2*stepTime+2*time.Second || begins.Load() != 1 {
			t.Errorf("took %s, begun %d times", took, begins.Load())
		}
		close(free)
		synctest.Wait()
	})
}
