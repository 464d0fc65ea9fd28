package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/crypto"
)

// wire carries messages between allocators that run, at once.
type wire struct {
	mu      sync.Mutex // guards the fields below
	ends    map[crypto.Identity]*end
	broken  bool
	letters int
	bytes   int
}

// end is one allocator on a wire, and its [Net].
type end struct {
	wire    *wire
	id      crypto.Identity
	a       *Allocator
	entries map[string][]byte // guarded by wire.mu
	stop    func()
}

func newWire() *wire { return &wire{ends: make(map[crypto.Identity]*end)} }

func (e *end) deliver(to crypto.Identity, msg []byte) {
	e.wire.mu.Lock()
	other := e.wire.ends[to]
	if other == e || e.wire.broken {
		other = nil
	}
	e.wire.letters, e.wire.bytes = e.wire.letters+1, e.wire.bytes+len(msg)
	e.wire.mu.Unlock()
	if other != nil && other.a != nil {
		other.a.Receive(e.id, msg)
	}
}

func (e *end) Send(to crypto.Identity, msg []byte) { e.deliver(to, msg) }

func (e *end) Broadcast(msg []byte) {
	e.wire.mu.Lock()
	ids := sortedIDs(e.wire.ends)
	e.wire.mu.Unlock()
	for _, id := range ids {
		e.deliver(id, msg)
	}
}

func (e *end) Put(key string, value []byte) error {
	e.wire.mu.Lock()
	defer e.wire.mu.Unlock()
	e.entries[key] = value
	return nil
}

func (e *end) Delete(key string) error {
	e.wire.mu.Lock()
	defer e.wire.mu.Unlock()
	delete(e.entries, key)
	return nil
}

func (e *end) Expel(crypto.Identity) {}

func identity(n byte) crypto.Identity { return crypto.Identity{n, 1, 2, 3} }

// plug opens an allocator with a store in memory and runs it.
func (w *wire) plug(t testing.TB, n byte, s store, change func(*Config)) *end {
	t.Helper()
	e := &end{wire: w, id: identity(n), entries: make(map[string][]byte)}
	cfg := Config{Self: e.id, Name: e.id.Name(), Range: netip.MustParsePrefix("10.32.0.0/16"), Net: e, New: true, Log: testLog(t)}
	if change != nil {
		change(&cfg)
	}
	var err error
	if e.a, err = open(cfg, s, false); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.ends[e.id] = e
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := e.a.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	e.stop = func() {
		cancel()
		<-done
	}
	return e
}

// meet tells everybody who is there and what they put.
func (w *wire) meet() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.ends {
		var peers []Peer
		var entries []Entry
		for _, id := range sortedIDs(w.ends) {
			if id == e.id {
				continue
			}
			peers = append(peers, Peer{ID: id, Name: id.Name(), Nickname: fmt.Sprintf("host%d", id[0]), Alive: !w.broken})
			for _, k := range sortedStrings(w.ends[id].entries) {
				entries = append(entries, Entry{id, k, w.ends[id].entries[k]})
			}
		}
		e.a.SetPeers(peers)
		e.a.SetEntries(entries)
	}
}

func (e *end) adopt(t testing.TB) {
	t.Helper()
	if err := e.a.Adopt(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
}

func TestRunSingle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
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
		w := newWire()
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
		w := newWire()
		disk := newMemoryStore()
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
		disk.fail = full
		before := disk.snapshot()
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
		if len(before) != len(disk.values) {
			t.Error("something was written")
		}
		disk.fail = nil
		time.Sleep(3 * time.Second)
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
		w := newWire()
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
	w := newWire()
	e := &end{wire: w, id: identity(1), entries: make(map[string][]byte)}
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
	if _, err := Open(cfg); !errors.Is(err, ErrHeld) {
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

func TestRunLeavesNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	synctest.Test(t, func(t *testing.T) {
		e := newWire().plug(t, 1, newMemoryStore(), nil)
		e.stop()
	})
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines more", n-before)
	}
}

// testLog returns a logger whose lines a failed test shows.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
