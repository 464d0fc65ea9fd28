package hello

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestSource(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":         "192.0.2.1/32",
		"::ffff:192.0.2.1":  "192.0.2.1/32",
		"2001:db8:1:2:3::1": "2001:db8:1:2::/64",
		"fe80::1%eth0":      "fe80::/64",
	} {
		if got := source(netip.MustParseAddr(in)); got.String() != want {
			t.Errorf("source(%s) = %s, want %s", in, got, want)
		}
	}
	if source(netip.Addr{}).IsValid() {
		t.Error("no address has a source")
	}
}

func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		from, other := source(netip.MustParseAddr("192.0.2.1")), source(netip.MustParseAddr("192.0.2.2"))
		try := func(want bool) {
			t.Helper()
			if p := g.admit(from, nil); p != nil != want {
				t.Fatalf("admit = %v, want %v", p, want)
			} else if p != nil {
				g.leave(p)
			}
			p := g.admit(other, nil)
			if p == nil {
				t.Fatal("another source is blamed")
			}
			g.leave(p)
		}
		for range 5 {
			g.fail(from)
			try(true)
		}
		for _, wait := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
			g.fail(from)
			try(false)
			time.Sleep(wait*time.Second - 1)
			try(false)
			time.Sleep(time.Nanosecond)
			try(true)
		}
		// Forgotten after ten minutes without another.
		time.Sleep(10*time.Minute + 1)
		g.fail(from)
		try(true)
		for range 10 {
			g.fail(from)
		}
		try(false)
		time.Sleep(30 * time.Second)
		// A proof forgives.
		if p := g.admit(from, nil); p == nil || !g.prove(p) {
			t.Fatal("not let in")
		}
		g.done()
		g.fail(from)
		try(true)
	})
}

// The gate against a list that is searched, and its memory.
func TestGateCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGate()
		g.maxPending, g.maxPerSource, g.maxProven = 5, 3, 2
		g.makeRoom = rapid.Bool().Draw(t, "make room")
		type conn struct {
			from  netip.Prefix
			place *place
			ended bool
		}
		var pending, gone []*conn // as they arrived; and those that were ended
		proven := 0
		count := func(from netip.Prefix) (n int) {
			for _, c := range pending {
				if c.from == from {
					n++
				}
			}
			return n
		}
		// victim is who must make room: the oldest of those whose source has most.
		victim := func(from netip.Prefix) *conn {
			var v *conn
			for _, c := range pending {
				if v == nil || count(c.from) > count(v.from) {
					v = c
				}
			}
			if v == nil || !g.makeRoom || count(from) >= count(v.from) {
				return nil
			}
			return v
		}
		remove := func(c *conn) {
			pending = slices.DeleteFunc(pending, func(x *conn) bool { return x == c })
		}
		pick := func() *conn {
			all := slices.Concat(pending, gone)
			if len(all) == 0 {
				return nil
			}
			c := all[rapid.IntRange(0, len(all)-1).Draw(t, "which")]
			remove(c)
			gone = slices.DeleteFunc(gone, func(x *conn) bool { return x == c })
			return c
		}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			from := source(netip.AddrFrom4([4]byte{192, 0, 2, rapid.ByteRange(0, 3).Draw(t, "source")}))
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				want := count(from) < 3
				var v *conn
				if want && len(pending) >= 5 {
					v = victim(from)
					want = v != nil
				}
				c := &conn{from: from}
				if c.place = g.admit(from, func() { c.ended = true }); c.place != nil != want {
					t.Fatalf("admit = %v, want %v", c.place, want)
				}
				if v != nil {
					if !v.ended {
						t.Fatal("another one was ended, or none")
					}
					remove(v)
					gone = append(gone, v)
				}
				if want {
					pending = append(pending, c)
				}
			case 2:
				if c := pick(); c != nil && g.leave(c.place) != c.ended {
					t.Fatalf("ended: want %v", c.ended)
				}
			case 3:
				if c := pick(); c != nil {
					want := proven < 2 && !c.ended
					if got := g.prove(c.place); got != want {
						t.Fatalf("prove = %v, want %v", got, want)
					}
					if want {
						proven++
					}
				}
			case 4:
				if proven > 0 {
					g.done()
					proven--
				}
			}
			for _, c := range pending {
				if c.ended {
					t.Fatal("one more was ended")
				}
			}
			if g.total != len(pending) || g.proven != proven || len(g.pending) > len(pending) {
				t.Fatalf("%d pending, %d proven, %d sources", g.total, g.proven, len(g.pending))
			}
		}
	})
}

func TestGateMemory(t *testing.T) {
	g := newGate()
	for i := range 100_000 {
		g.fail(source(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})))
	}
	if n := len(g.failures.at); n != 4096 || g.failures.order.Len() != n {
		t.Errorf("%d failures are remembered", n)
	}
}

// recent against a slice.
func TestRecent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 4
		r := newRecent[int, int](most)
		type pair struct{ k, v int }
		var twin []pair
		drop := func(k int) {
			for i, p := range twin {
				if p.k == k {
					twin = append(twin[:i:i], twin[i+1:]...)
					return
				}
			}
		}
		for range rapid.IntRange(0, 50).Draw(t, "steps") {
			k, v := rapid.IntRange(0, 7).Draw(t, "key"), rapid.Int().Draw(t, "value")
			if rapid.Bool().Draw(t, "put") {
				r.put(k, v)
				drop(k)
				twin = append(twin, pair{k, v})
				if len(twin) > most {
					twin = twin[1:]
				}
			} else {
				r.drop(k)
				drop(k)
			}
			if len(r.at) != len(twin) || r.order.Len() != len(twin) {
				t.Fatalf("%d entries, want %d", len(r.at), len(twin))
			}
			for _, p := range twin {
				if got, ok := r.get(p.k); !ok || got != p.v {
					t.Fatalf("get(%d) = %d, %v, want %d", p.k, got, ok, p.v)
				}
			}
		}
	})
}

func TestWarner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := &logBuffer{}
		w := newWarner(slog.New(slog.NewTextHandler(logs, nil)))
		lines := func() int { return strings.Count(logs.String(), "\n") }
		a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		want := func(n int, what string) {
			t.Helper()
			if lines() != n {
				t.Fatalf("%s: %d lines, want %d:\n%s", what, lines(), n, logs)
			}
		}
		w.warn(a, ErrSecret)
		w.warn(a, fmt.Errorf("again: %w", ErrSecret))
		want(1, "same address, same reason")
		w.warn(a, ErrCluster)
		w.warn(b, ErrSecret)
		want(3, "other reason, other address")
		w.warn(a, errors.New("connection lost"))
		w.warn(a, errors.New("connection lost differently"))
		want(4, "all others are one reason")
		w.forget(a)
		w.warn(a, ErrSecret)
		w.warn(b, ErrSecret)
		want(5, "after success")
		time.Sleep(time.Hour)
		w.warn(b, ErrSecret)
		want(6, "after an hour")

		time.Sleep(time.Hour)
		before := lines()
		for i := range 5000 {
			w.warn(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), errStranger)
		}
		want(before+20, "a flood")
		if len(w.said.at) > 1024 {
			t.Errorf("%d warnings are remembered", len(w.said.at))
		}
		time.Sleep(3 * time.Second)
		w.warn(a, ErrVersion)
		w.warn(a, ErrClone)
		want(before+21, "one more after three seconds")
		if !strings.Contains(logs.String(), "suppressed=4980") {
			t.Error("what was left out is not counted")
		}
	})
}
