package ipam

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh/ipam/wire"
)

// A death is on the disk: a write that fails later does not undo it.
func TestDeathOutlivesFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newCable()
		disk := newSharedStore()
		e := w.plug(t, 1, disk, nil)
		w.meet()
		e.adopt(t)
		if _, err := e.a.Allocate(ctx, Request{Key: "a"}); err != nil {
			t.Fatal(err)
		}
		e.a.Died("a")
		time.Sleep(grace / 2)
		disk.change(func(m *memoryStore) { m.fail = errors.New("full") })
		if _, err := e.a.Allocate(ctx, Request{Key: "b"}); !errors.Is(err, ErrStore) {
			t.Fatalf("allocate: %v", err)
		}
		disk.change(func(m *memoryStore) { m.fail = nil })
		time.Sleep(grace - time.Second)
		want(t, "in its grace, which began anew", e.a.Status().Active, 1)
		time.Sleep(3 * time.Second)
		want(t, "after it", e.a.Status().Active, 0)

		// One that came back lives on.
		if _, err := e.a.Allocate(ctx, Request{Key: "c"}); err != nil {
			t.Fatal(err)
		}
		e.a.Died("c")
		if _, err := e.a.Allocate(ctx, Request{Key: "c"}); err != nil {
			t.Fatal(err)
		}
		disk.change(func(m *memoryStore) { m.fail = errors.New("full") })
		e.a.Died("nobody")
		time.Sleep(time.Minute)
		disk.change(func(m *memoryStore) { m.fail = nil })
		time.Sleep(2 * grace)
		want(t, "who came back", e.a.Status().Active, 1)
		e.stop()
	})
}

// Nor is a death lost with the batch that it came in, also when what was found
// at the start is not written yet.
func TestDeathInFailedBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCable()
		disk := newSharedStore()
		disk.change(func(m *memoryStore) { m.fail = errors.New("full") })
		e := w.plug(t, 1, disk, nil)
		w.meet()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := e.a.Adopt(t.Context(), map[string]Found{"a": {"box", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}}); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		e.a.Died("a")
		time.Sleep(5 * time.Second)
		disk.change(func(m *memoryStore) { m.fail = nil })
		wg.Wait()
		want(t, "found", e.a.Status().Active, 1)
		time.Sleep(grace + time.Second)
		want(t, "after the grace", e.a.Status().Active, 0)
		e.stop()
	})
}

// A host that came back compares addresses with somebody before it gives a
// dead container's address again.
func TestDeadAddressWaitsForContact(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("a", ""))
	h1.got(h1.claim("lent", "10.32.0.5"))
	own := h1.got(h1.allocate("own", "10.32.0.128/25"))
	b.cut = func(_, _ *wired) bool { return true }
	b.meet()
	b.run(5 * time.Second)
	h1.step(diedEvent{"lent"})
	h1.step(diedEvent{"own"})
	b.cut = nil
	b.spy = func(_, _ *wired, m wire.Message) bool { _, ok := m.Body.(wire.State); return !ok }
	b.meet()
	waits := []ticket{
		h1.allocate("own", "10.32.0.128/25"), h1.claim("new", "10.32.0.5"), h1.claim("own", strings.TrimSuffix(own, "/25")),
	}
	b.run(3 * time.Second)
	for _, tk := range waits {
		wantText(t, "reason", h1.waiting(tk), "comparing addresses with host0")
	}
	b.spy = nil
	b.run(3 * time.Second)
	want(t, "the same again", h1.got(waits[0]), own)
	h1.got(waits[1])
	h1.got(waits[2])
	b.run(2 * grace)
	want(t, "holder", h1.core.local[netip.MustParseAddr("10.32.0.5")].Key, "new")
	want(t, "at the owner", h0.core.leased[netip.MustParseAddr("10.32.0.5")].Key, "new")
}

// The address of a dead container that is another host's by the owner of its
// block is not given again, neither there nor by the owner itself.
func TestDeadAddressInDispute(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	one, five, nine := netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("10.32.0.5"), netip.MustParseAddr("10.32.0.9")
	h0.got(h0.allocate("a", ""))
	h1.got(h1.claim("b", "10.32.0.5"))
	h0.step(adoptEvent{Live: map[string]Found{"a": {"box a", []netip.Addr{one}}, "x": {"box x", []netip.Addr{five}}}})
	h1.step(adoptEvent{Live: map[string]Found{"b": {"box b", []netip.Addr{five}}, "y": {"box y", []netip.Addr{one}}}})
	b.run(3 * time.Second)
	h0.step(diedEvent{"x"})
	h1.step(diedEvent{"y"})
	for _, key := range []string{"y", "new"} {
		wantText(t, "foreign", h1.failed(h1.claim(key, "10.32.0.1")).Error(), "box a of host0")
	}
	for _, key := range []string{"x", "new"} {
		wantText(t, "own", h0.failed(h0.claim(key, "10.32.0.5")).Error(), "box b of host1")
	}
	want(t, "another one", h1.got(h1.allocate("y", "10.32.0.0/29")) != "10.32.0.1/29", true)
	want(t, "another one", h0.got(h0.allocate("x", "10.32.0.4/30")), "10.32.0.6/30")

	// One that nobody was asked about yet: the owner gives it to who claims it.
	b.spy = func(_, _ *wired, m wire.Message) bool { w, ok := m.Body.(wire.Want); return !ok || w.Key != "z" }
	live := map[string]Found{"z": {"box z", []netip.Addr{nine}}}
	for key, addrs := range h1.core.keys {
		live[key] = Found{key, addrs}
	}
	h1.step(adoptEvent{Live: live})
	b.run(100 * time.Millisecond)
	h1.step(diedEvent{"z"})
	tk := h1.claim("new", "10.32.0.9")
	b.run(100 * time.Millisecond)
	want(t, "at once", h1.answers[tk].Fresh, true)
	b.spy = nil
	b.run(2 * grace)
	want(t, "holder", h1.core.local[nine].Key, "new")
	want(t, "at the owner", h0.core.leased[nine].Key, "new")
	want(t, "to be confirmed", h1.core.holders.claims[nine] == nil, true)
}

// brittleStore is a store that cannot be read either.
type brittleStore struct {
	*sharedStore
	unread error // guarded by mu
}

func (s *brittleStore) Load() (map[string][]byte, error) {
	s.mu.Lock()
	err := s.unread
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return s.sharedStore.Load()
}

// lines is a log in memory.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// As long as the disk fails status says so once, and so does the log per
// change.
func TestDiskFailsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		w := newCable()
		disk := &brittleStore{sharedStore: newSharedStore()}
		e := w.plug(t, 1, disk, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		w.meet()
		e.adopt(t)
		fail := func(err, unread error) {
			disk.change(func(m *memoryStore) { m.fail, disk.unread = err, unread })
			for range 20 {
				if _, err := e.a.Release(t.Context(), "a", nil); (err == nil) != (disk.memory.fail == nil) {
					t.Errorf("release: %v", err)
				}
				time.Sleep(time.Second)
			}
		}
		full := errors.New("no space left on device")
		fail(full, nil)
		if s := e.a.Status(); len(s.Warnings) != 1 || s.Warnings[0] != full.Error() {
			t.Errorf("warnings: %q", s.Warnings)
		}
		want(t, "not read", log.count("not read"), 0)
		fail(full, errors.New("input/output error"))
		want(t, "not read", log.count("not read"), 1)
		fail(full, errors.New("bad sector"))
		want(t, "not read", log.count("not read"), 2)
		want(t, "warnings", len(e.a.Status().Warnings), 1)
		fail(nil, nil)
		want(t, "warnings", len(e.a.Status().Warnings), 0)
		want(t, "not written", log.count("not written"), 1)
		fail(full, errors.New("bad sector"))
		want(t, "not read again", log.count("not read"), 3)
		e.stop()
	})
}

func TestDroppedMessagesAreLoggedSeldom(t *testing.T) {
	var log lines
	w := newCable()
	e := &end{cable: w, id: identity(1), entries: make(map[string][]byte)}
	a, err := open(Config{
		Self: e.id, Name: e.id.Name(), Range: netip.MustParsePrefix("10.32.0.0/16"), Net: e, New: true,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	}, newMemoryStore(), false)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for i := range 100 {
		a.round(start.Add(time.Duration(i)*500*time.Millisecond), inbox{lost: 2})
	}
	want(t, "lines", log.count("dropped"), 1)
	for i := range 10 {
		a.round(start.Add(time.Minute+time.Duration(i)*time.Second), inbox{})
	}
	want(t, "lines", log.count("dropped"), 2)
	want(t, "the first", log.count("count=2\n"), 1)
	want(t, "the rest", log.count("count=198\n"), 1)
}

// One duplicate is one warning; what the owner of the block says of it is said
// once, too, and in other words.
func TestDuplicateIsToldOnce(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	one := netip.MustParseAddr("10.32.0.1")
	h0.got(h0.allocate("a", ""))
	h1.step(adoptEvent{Live: map[string]Found{"b": {"box b", []netip.Addr{one}}}})
	b.run(10 * time.Second)
	told := func(text string) int { return strings.Count(strings.Join(h1.logs, "\n"), text) }
	want(t, "warnings", told("address used twice"), 1)
	want(t, "lent", told("is lent to another one by the owner of its block"), 1)
	h1.core.endClaim(h1.core.holders.claims[one])
	h1.core.holders.unsettled = true // as when a block changes hands twice
	b.run(time.Minute)
	want(t, "pending", len(h1.core.status().Pending), 1)
	want(t, "warnings", told("address used twice"), 1)
	want(t, "lent", told("is lent to another one by the owner of its block"), 1)

	// The end of it is forgotten with it.
	h0.release("a")
	b.run(time.Minute)
	want(t, "pending", len(h1.core.status().Pending), 0)
	want(t, "remembered", len(h1.core.holders.told), 0)
}

// Who sends too much loses messages, and nobody else does.
func TestDeskShares(t *testing.T) {
	d := newDesk()
	for range 1000 {
		d.receive(identity(1), []byte{wire.MessageByte})
	}
	for range 10 {
		d.receive(identity(2), []byte{wire.MessageByte})
	}
	big := make([]byte, wire.MaxMessage)
	for range 100 {
		d.receive(identity(3), big)
	}
	for range 10 {
		d.receive(identity(4), []byte{wire.MessageByte})
	}
	from, size, lost := make(map[byte]int), 0, 0
	for in := d.take(); len(in.items) > 0; in = d.take() {
		lost += in.lost
		for _, it := range in.items {
			m := it.event.(messageEvent)
			from[m.From[0]]++
			if m.From[0] == 3 {
				size += len(m.Data)
			}
		}
	}
	want(t, "noisy", from[1], maxFromOne)
	want(t, "calm", from[2], 10)
	want(t, "calm", from[4], 10)
	if size > maxFromOneBytes || size < maxFromOneBytes-wire.MaxMessage {
		t.Errorf("large: %d bytes in %d messages", size, from[3])
	}
	want(t, "lost", lost, 1000-maxFromOne+100-from[3])
	d.receive(identity(1), []byte{wire.MessageByte}) // there is room again
	want(t, "afterwards", len(d.take().items), 1)
	want(t, "senders", len(d.from), 0)
}
