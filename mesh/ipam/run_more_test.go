package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/store"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// A request that is cancelled while it is being written gives back what it
// got.
func TestRunCancelWhileWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCable()
		disk := newSharedStore()
		e := w.plug(t, 1, disk, nil)
		w.meet()
		e.adopt(t)
		if err := e.a.Prime(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		for _, what := range []func(context.Context) error{
			func(ctx context.Context) error {
				_, err := e.a.Allocate(ctx, Request{Key: "k"})
				return err
			},
			func(ctx context.Context) error {
				return e.a.Claim(ctx, Request{Key: "k"}, netip.MustParseAddr("10.32.0.9"))
			},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			disk.change(func(m *memoryStore) {
				m.lose = func(w store.Write) bool {
					if strings.HasPrefix(w.Key, "l/") {
						cancel()
					}
					return false
				}
			})
			if err := what(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			disk.change(func(m *memoryStore) { m.lose = nil })
			if s := e.a.Status(); s.Active != 0 {
				t.Errorf("left: %+v", s)
			}
		}
		e.stop()
	})
}

func TestRunRemoveAndHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newCable()
		a, b := w.plug(t, 1, newMemoryStore(), nil), w.plug(t, 2, newMemoryStore(), nil)
		w.meet()
		a.adopt(t)
		b.adopt(t)
		if _, err := a.a.Allocate(ctx, Request{Key: "k"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		w.meet()
		if _, err := a.a.Remove(ctx, []crypto.Identity{b.id}, false, nil); !errors.Is(err, ErrRefused) {
			t.Errorf("remove of one that answers: %v", err)
		}
		to, ips, err := b.a.HandOver(ctx, nil)
		if err != nil || to != a.id || ips == 0 {
			t.Errorf("hand over: %v %v %v", to, ips, err)
		}
		synctest.Wait()
		if s := a.a.Status(); len(s.Shares) != 1 {
			t.Errorf("after the hand-over: %+v", s.Shares)
		}
		b.stop()
		w.mu.Lock()
		delete(w.ends, b.id)
		w.mu.Unlock()
		a.a.SetPeers([]Peer{{ID: b.id, Name: b.id.Name(), Nickname: "host2"}})
		taken, err := a.a.Remove(ctx, []crypto.Identity{b.id}, false, nil)
		if err != nil || len(taken) != 1 || taken[0].IPs != 0 {
			t.Errorf("remove: %+v %v", taken, err)
		}
		a.stop()
	})
}

// count returns how many entries are put.
func (e *end) count() int {
	e.cable.mu.Lock()
	defer e.cable.mu.Unlock()
	return len(e.entries)
}

// stubborn is a [Net] that cannot put entries.
type stubborn struct{ silence }

func (stubborn) Put(string, []byte) error { return errors.New("too many entries") }

func TestRunEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newCable()
		disk := newSharedStore()
		e := w.plug(t, 1, disk, nil)
		w.meet()
		e.adopt(t)
		for i := range 20 {
			if _, err := e.a.Allocate(ctx, Request{Key: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		if e.count() != 3 { // the info and two groups
			t.Errorf("%d entries", e.count())
		}
		// What goes while the disk is full goes from the entries afterwards.
		if _, err := e.a.Release(ctx, "15", nil); err != nil {
			t.Fatal(err)
		}
		for i := 16; i < 20; i++ {
			if _, err := e.a.Release(ctx, fmt.Sprint(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		disk.change(func(m *memoryStore) { m.fail = errors.New("full") })
		if _, err := e.a.Release(ctx, "0", nil); err == nil {
			t.Fatal("released")
		}
		disk.change(func(m *memoryStore) { m.fail = nil })
		time.Sleep(4 * time.Second)
		if e.count() != 2 {
			t.Errorf("%d entries", e.count())
		}
		e.stop()

		w = newCable()
		other := w.plug(t, 3, newMemoryStore(), func(c *Config) { c.Net = stubborn{} })
		w.meet()
		other.adopt(t)
		if _, err := other.a.Allocate(ctx, Request{Key: "k"}); err != nil {
			t.Error(err)
		}
		other.stop()
	})
}

// The first division hears of named peers that are met.
func TestRunTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var targets atomic.Int64
		targets.Store(2)
		w := newCable()
		e := w.plug(t, 1, newMemoryStore(), func(c *Config) { c.Targets = func() int { return int(targets.Load()) } })
		w.meet()
		e.adopt(t)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		var why string
		if err := e.a.Prime(ctx, func(reason string) { why = reason }); err == nil {
			t.Error("divided alone")
		}
		if why != "awaiting consensus (quorum: 2, known: 1)" {
			t.Errorf("reason: %q", why)
		}
		targets.Store(0) // they were forgotten
		if err := e.a.Prime(t.Context(), nil); err != nil {
			t.Error(err)
		}
		e.stop()
	})
}

func TestDeskDropsMessages(t *testing.T) {
	d := newDesk()
	for i := range maxWaiting + 3 {
		d.receive(identity(byte(i/maxFromOne)), []byte{wire.MessageByte})
	}
	total := 0
	for lost := 0; ; {
		in := d.take()
		if total += len(in.items); len(in.items) > batchMost {
			t.Fatalf("%d at once", len(in.items))
		}
		if lost += in.lost; len(in.items) == 0 {
			if lost != 3 {
				t.Errorf("%d lost", lost)
			}
			break
		}
	}
	if total != maxWaiting || d.all != (load{}) || len(d.from) != 0 {
		t.Errorf("%d taken, %d with %d bytes left", total, d.all.messages, d.all.size)
	}
}

func TestParseMode(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", "consensus"},
		{"consensus", "consensus"},
		{"consensus=3", "consensus=3"},
		{"observer", "observer"},
		{"seed=::2,02:00:00:00:00:01,::2", "seed=00:00:00:00:00:02,02:00:00:00:00:01"},
		{"consensus=0", ""},
		{"consensus=x", ""},
		{"seed=", ""},
		{"seed", ""},
		{"observer=1", ""},
		{"quorum", ""},
	} {
		m, err := ParseMode(tt.in)
		if got := m.String(); (err != nil) != (tt.want == "") || err == nil && got != tt.want {
			t.Errorf("%q: got %q %v, want %q", tt.in, got, err, tt.want)
		}
		if again, err := ParseMode(m.String()); tt.want != "" && (err != nil || again.String() != tt.want) {
			t.Errorf("%q: %v %v", m, again, err)
		}
	}
}
