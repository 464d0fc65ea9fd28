package ipam

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh/ipam/store"
)

func TestRunSingle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCable()
		disk := newMemoryStore()
		e := w.plug(t, 1, disk, nil)
		var reasons []string
		early := Request{Key: "k", Label: "early", Waiting: func(why string) { reasons = append(reasons, why) }}
		var wg sync.WaitGroup
		wg.Go(func() {
			if p, err := e.a.Allocate(context.Background(), early); err != nil || p.String() != "10.32.0.1/16" {
				t.Errorf("early: %v %v", p, err)
			}
		})
		synctest.Wait()
		w.meet()
		synctest.Wait()
		e.adopt(t)
		wg.Wait()
		if want := []string{"waiting for the list of known hosts", "looking for addresses that are attached already"}; !slices.Equal(reasons, want) {
			t.Errorf("reasons: %q", reasons)
		}
		ctx := context.Background()
		if err := e.a.Claim(ctx, Request{Key: "c"}, netip.MustParseAddr("10.32.0.9")); err != nil {
			t.Error(err)
		}
		if err := e.a.Prime(ctx, nil); err != nil {
			t.Error(err)
		}
		if s := e.a.Status(); s.State != "ready" || s.Active != 2 || len(s.Shares) != 1 {
			t.Errorf("%+v", s)
		}
		if err := e.a.Move(ctx, "c", Request{Key: "d"}, []netip.Addr{netip.MustParseAddr("10.32.0.9")}); err != nil {
			t.Error(err)
		}
		if freed, err := e.a.Release(ctx, "d", nil); err != nil || len(freed) != 1 {
			t.Errorf("%v %v", freed, err)
		}
		if _, err := e.a.Allocate(ctx, Request{}); err == nil {
			t.Error("a request without key was taken")
		}
		e.stop()
		if _, err := e.a.Allocate(ctx, Request{Key: "z"}); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}

		// Another start knows it all.
		e = w.plug(t, 1, disk, func(c *Config) { c.New = false })
		w.meet()
		if err := e.a.Adopt(ctx, map[string]Found{"k": {"early", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}}); err != nil {
			t.Fatal(err)
		}
		if p, err := e.a.Allocate(ctx, Request{Key: "n"}); err != nil || p.String() != "10.32.0.2/16" {
			t.Errorf("%v %v", p, err)
		}
		e.stop()
	})
}

func TestRunCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCable()
		e := w.plug(t, 1, newMemoryStore(), func(c *Config) { c.Range = netip.MustParsePrefix("10.32.0.0/30") })
		w.meet()
		e.adopt(t)
		for _, k := range []string{"a", "b"} {
			if _, err := e.a.Allocate(t.Context(), Request{Key: k}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, errors.New("tea time"))
		defer cancel()
		if _, err := e.a.Allocate(ctx, Request{Key: "c"}); err == nil || err.Error() != "tea time" {
			t.Errorf("cancelled: %v", err)
		}
		if s := e.a.Status(); len(s.Pending) != 0 || s.Active != 2 {
			t.Errorf("left: %+v", s)
		}
		// One that waits when the daemon ends.
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := e.a.Allocate(t.Context(), Request{Key: "c"}); !errors.Is(err, ErrClosed) {
				t.Errorf("at the end: %v", err)
			}
		})
		synctest.Wait()
		if s := e.a.Status(); len(s.Pending) != 1 {
			t.Errorf("waits: %+v", s)
		}
		e.stop()
		wg.Wait()
	})
}

// A disk that is full: every request gets the error and changes nothing; who
// waited before goes on waiting, and gets what it waited for afterwards.
func TestRunDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newCable()
		disk := newSharedStore()
		e := w.plug(t, 1, disk, func(c *Config) { c.Range = netip.MustParsePrefix("10.32.0.0/30") })
		w.meet()
		e.adopt(t)
		for _, k := range []string{"a", "b"} {
			if _, err := e.a.Allocate(ctx, Request{Key: k}); err != nil {
				t.Fatal(err)
			}
		}
		var reasons []string
		var wg sync.WaitGroup
		wg.Go(func() {
			p, err := e.a.Allocate(ctx, Request{Key: "c", Waiting: func(why string) { reasons = append(reasons, why) }})
			if err != nil || p.Addr() != netip.MustParseAddr("10.32.0.1") {
				t.Errorf("waited: %v %v", p, err)
			}
		})
		time.Sleep(time.Second)
		full := errors.New("no space left on device")
		var before map[string][]byte
		disk.change(func(m *memoryStore) { m.fail, before = full, m.snapshot() })
		if _, err := e.a.Release(ctx, "a", nil); !errors.Is(err, full) || !errors.Is(err, ErrStore) {
			t.Errorf("release: %v", err)
		}
		if _, err := e.a.Allocate(ctx, Request{Key: "d"}); !errors.Is(err, full) {
			t.Errorf("allocate: %v", err)
		}
		e.a.Died("b")
		time.Sleep(5 * time.Second)
		if s := e.a.Status(); s.Active != 2 {
			t.Errorf("%+v", s)
		}
		disk.change(func(m *memoryStore) {
			if !maps.EqualFunc(before, m.values, bytes.Equal) {
				t.Error("something was written")
			}
		})
		if _, err := e.a.Allocate(ctx, Request{Key: "d"}); !errors.Is(err, full) {
			t.Errorf("allocate: %v", err)
		}
		disk.change(func(m *memoryStore) { m.fail = nil }) // whoever asks now is not told of former times
		if p, err := e.a.Allocate(ctx, Request{Key: "b"}); err != nil || p.Addr() != netip.MustParseAddr("10.32.0.2") {
			t.Errorf("b: %v %v", p, err)
		}
		if freed, err := e.a.Release(ctx, "a", nil); err != nil || len(freed) != 1 {
			t.Errorf("release: %v %v", freed, err)
		}
		wg.Wait()
		if !slices.Contains(reasons, full.Error()) {
			t.Errorf("reasons: %q", reasons)
		}
		e.stop()
	})
}

func TestRunTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCable()
		a, b := w.plug(t, 1, newMemoryStore(), nil), w.plug(t, 2, newMemoryStore(), nil)
		w.meet()
		a.adopt(t)
		b.adopt(t)
		var wg sync.WaitGroup
		var mu sync.Mutex
		seen := make(map[netip.Addr]string)
		for i := range 200 {
			e := []*end{a, b}[i%2]
			wg.Go(func() {
				p, err := e.a.Allocate(t.Context(), Request{Key: fmt.Sprint("k", i), Subnet: netip.MustParsePrefix("10.32.0.0/23")})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if other, twice := seen[p.Addr()]; twice {
					t.Errorf("%s for %d and %s", p, i, other)
				}
				seen[p.Addr()] = fmt.Sprint(i)
			})
		}
		wg.Wait()
		time.Sleep(15 * time.Second)
		w.meet()
		time.Sleep(time.Second)
		if x, y := a.a.Status(), b.a.Status(); x.Ring != y.Ring || x.Active+y.Active != 200 || len(x.Duplicates) > 0 {
			t.Errorf("%+v\n%+v", x, y)
		}
		a.stop()
		b.stop()
	})
}

// With the real store: what was answered is there after the next start, a
// second process is kept out, and a damaged file is told of.
func TestOpenRealStore(t *testing.T) {
	dir := t.TempDir()
	w := newCable()
	e := &end{cable: w, id: identity(1), entries: make(map[string][]byte)}
	cfg := Config{
		Self: e.id, Name: e.id.Name(), Range: netip.MustParsePrefix("10.32.0.0/16"), New: true, Net: e,
		Path: filepath.Join(dir, "ipam.db"), Mark: filepath.Join(dir, "ipam.mark"), Log: testLog(t),
	}
	run := func() (a *Allocator, stop func()) {
		a, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		a.SetPeers(nil)
		return a, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	a, stop := run()
	if _, err := Open(cfg); !errors.Is(err, store.ErrHeld) {
		t.Errorf("a second one: %v", err)
	}
	if err := a.Adopt(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	p, err := a.Allocate(t.Context(), Request{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	cfg.New = false
	a, stop = run()
	again, err := a.Allocate(t.Context(), Request{Key: "k"})
	if err != nil || again != p {
		t.Errorf("%v %v, want %v", again, err, p)
	}
	stop()
	for _, bad := range []func(*Config){
		func(c *Config) { c.Range = netip.Prefix{} },
		func(c *Config) { c.Subnet = netip.MustParsePrefix("10.99.0.0/24") },
	} {
		c := cfg
		bad(&c)
		if _, err := Open(c); err == nil {
			t.Errorf("%s in %s was taken", c.Subnet, c.Range)
		}
	}
}
