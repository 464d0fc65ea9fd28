package hello

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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
			if got := g.admit(from); got != want {
				t.Fatalf("admit = %v, want %v", got, want)
			} else if got {
				g.leave(from)
			}
			if !g.admit(other) {
				t.Fatal("another source is blamed")
			}
			g.leave(other)
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
		if !g.admit(from) || !g.prove(from) {
			t.Fatal("not let in")
		}
		g.done()
		g.fail(from)
		try(true)
	})
}

// The gate against a model that counts, and its memory.
func TestGateCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGate()
		g.maxPending, g.maxPerSource, g.maxProven = 5, 3, 2
		pending, proven := map[netip.Prefix]int{}, 0
		total := func() (n int) {
			for _, v := range pending {
				n += v
			}
			return n
		}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			from := source(netip.AddrFrom4([4]byte{192, 0, 2, rapid.ByteRange(0, 3).Draw(t, "source")}))
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				want := total() < 5 && pending[from] < 3
				if got := g.admit(from); got != want {
					t.Fatalf("admit = %v, want %v", got, want)
				}
				if want {
					pending[from]++
				}
			case 1:
				if pending[from] > 0 {
					g.leave(from)
					pending[from]--
				}
			case 2:
				if pending[from] > 0 {
					pending[from]--
					want := proven < 2
					if got := g.prove(from); got != want {
						t.Fatalf("prove = %v, want %v", got, want)
					}
					if want {
						proven++
					}
				}
			case 3:
				if proven > 0 {
					g.done()
					proven--
				}
			}
			if g.total != total() || g.proven != proven || len(g.pending) > total() {
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
