package ipam

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/store"
)

// sharedStore is a [memoryStore] that a test may change while it is used.
type sharedStore struct {
	mu     sync.Mutex // guards memory
	memory *memoryStore
}

func newSharedStore() *sharedStore { return &sharedStore{memory: newMemoryStore()} }

func (s *sharedStore) Load() (map[string][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory.Load()
}

func (s *sharedStore) Save(batch []store.Write) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory.Save(batch)
}

func (s *sharedStore) Close() error { return s.memory.Close() }

// change changes how it behaves from now on.
func (s *sharedStore) change(how func(m *memoryStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	how(s.memory)
}

// cable carries messages between allocators that run, at once.
type cable struct {
	mu      sync.Mutex // guards the fields below
	ends    map[crypto.Identity]*end
	broken  bool
	letters int
	bytes   int
}

// end is one allocator on a cable, and its [Net].
type end struct {
	cable   *cable
	id      crypto.Identity
	a       *Allocator
	entries map[string][]byte // guarded by cable.mu
	stop    func()
}

func newCable() *cable { return &cable{ends: make(map[crypto.Identity]*end)} }

func (e *end) deliver(to crypto.Identity, msg []byte) {
	e.cable.mu.Lock()
	other := e.cable.ends[to]
	if other == e || e.cable.broken {
		other = nil
	}
	e.cable.letters, e.cable.bytes = e.cable.letters+1, e.cable.bytes+len(msg)
	e.cable.mu.Unlock()
	if other != nil && other.a != nil {
		other.a.Receive(e.id, msg)
	}
}

func (e *end) Send(to crypto.Identity, msg []byte) { e.deliver(to, msg) }

func (e *end) Broadcast(msg []byte) {
	e.cable.mu.Lock()
	ids := sortedIDs(e.cable.ends)
	e.cable.mu.Unlock()
	for _, id := range ids {
		e.deliver(id, msg)
	}
}

func (e *end) Put(key string, value []byte) error {
	e.cable.mu.Lock()
	defer e.cable.mu.Unlock()
	e.entries[key] = value
	return nil
}

func (e *end) Delete(key string) error {
	e.cable.mu.Lock()
	defer e.cable.mu.Unlock()
	delete(e.entries, key)
	return nil
}

func (e *end) Expel(crypto.Identity) {}

func identity(n byte) crypto.Identity { return crypto.Identity{n, 1, 2, 3} }

// plug opens an allocator with a store in memory and runs it.
func (w *cable) plug(t testing.TB, n byte, s database, change func(*Config)) *end {
	t.Helper()
	e := &end{cable: w, id: identity(n), entries: make(map[string][]byte)}
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
func (w *cable) meet() {
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

// testLog returns a logger whose lines a failed test shows.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
