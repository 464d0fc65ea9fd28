package ipam

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// bench is a few cores that are wired by hand, with a clock of their own.
// Messages arrive in order after a millisecond; tests cut wires and look at
// what is said.
type bench struct {
	t     *testing.T
	now   time.Time
	cores []*wired
	queue []sentLetter
	cut   func(from, to *wired) bool                      // nil: nothing is cut
	spy   func(from, to *wired, m wire.Message) (ok bool) // nil: all pass
	last  ticket
	space netip.Prefix
}

type sentLetter struct {
	from, to *wired
	data     []byte
}

// wired is a core and what a run loop would keep for it.
type wired struct {
	b       *bench
	n       int
	id      crypto.Identity
	cfg     coreConfig
	core    *core // nil: down
	disk    map[string][]byte
	proven  bool
	entries map[string][]byte
	answers map[ticket]result
	waits   map[ticket]string
	logs    []string
	expels  []crypto.Identity
}

func newBench(t *testing.T, r string, modes ...string) *bench {
	b := &bench{t: t, now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), space: netip.MustParsePrefix(r)}
	for i, m := range modes {
		mode, err := ParseMode(m)
		if err != nil {
			t.Fatal(err)
		}
		// The same in every run, and in the order of their numbers.
		id := crypto.Identity(sha256.Sum256(fmt.Appendf(nil, "host%d", i)))
		id[0] = byte(i + 1)
		w := &wired{
			b: b, n: i, id: id, proven: true,
			cfg:  coreConfig{Self: id, Name: id.Name(), Range: b.space, Mode: mode, Seed: sha256.Sum256(id[:])},
			disk: make(map[string][]byte), entries: make(map[string][]byte),
		}
		b.cores = append(b.cores, w)
	}
	return b
}

// pair returns two hosts that run and know each other.
func pair(t *testing.T, r string) (*bench, *wired, *wired) {
	b := newBench(t, r, "consensus", "consensus")
	b.startAll()
	return b, b.cores[0], b.cores[1]
}

func (b *bench) startAll() {
	for _, w := range b.cores {
		w.start(nil)
	}
	b.meet()
	b.run(time.Second)
}

// start starts a core with what is on its disk.
func (w *wired) start(live map[string]Found) {
	w.b.t.Helper()
	w.cfg.Seed = sha256.Sum256(w.cfg.Seed[:])
	c, err := newCore(w.cfg, maps.Clone(w.disk), w.proven, w.b.now)
	if err != nil {
		w.b.t.Fatal(err)
	}
	w.core, w.proven = c, true
	w.answers, w.waits = make(map[ticket]result), make(map[ticket]string)
	w.step(adoptEvent{Live: live})
}

func (w *wired) stop() { w.core = nil }

// meet tells all cores that run who is there.
func (b *bench) meet() {
	for _, w := range b.cores {
		if w.core != nil {
			w.step(w.peersEvent())
		}
	}
	b.spread()
}

func (w *wired) peersEvent() peersEvent {
	var e peersEvent
	for _, o := range w.b.cores {
		if o != w {
			e.Peers = append(e.Peers, Peer{ID: o.id, Name: o.id.Name(), Nickname: fmt.Sprintf("host%d", o.n), Alive: w.b.linked(w, o)})
		}
	}
	return e
}

func (b *bench) linked(x, y *wired) bool {
	return x.core != nil && y.core != nil && (b.cut == nil || !b.cut(x, y) && !b.cut(y, x))
}

// spread tells everybody the entries of those in reach.
func (b *bench) spread() {
	for _, w := range b.cores {
		if w.core == nil {
			continue
		}
		var e entriesEvent
		for _, o := range b.cores {
			if o != w && b.linked(w, o) {
				for _, k := range sortedStrings(o.entries) {
					e.Entries = append(e.Entries, Entry{o.id, k, o.entries[k]})
				}
			}
		}
		w.step(e)
	}
}

// step handles an event, writes, and sends.
func (w *wired) step(e event) {
	w.b.t.Helper()
	w.core.step(w.b.now, e)
	if err := w.core.check(); err != nil {
		w.b.t.Fatalf("host%d after %T: %v", w.n, e, err)
	}
	w.carryOut(w.core.take())
}

func (w *wired) carryOut(out effects) {
	for _, x := range out.Writes {
		if x.Value == nil {
			delete(w.disk, x.Key)
		} else {
			w.disk[x.Key] = bytes.Clone(x.Value)
		}
	}
	for _, l := range out.Sends {
		for _, to := range w.b.cores {
			if to.id == l.To {
				w.b.queue = append(w.b.queue, sentLetter{w, to, l.Data})
			}
		}
	}
	for _, data := range out.Casts {
		for _, to := range w.b.cores {
			if to != w {
				w.b.queue = append(w.b.queue, sentLetter{w, to, data})
			}
		}
	}
	for k, v := range out.Puts {
		if w.entries[k] = v; v == nil {
			delete(w.entries, k)
		}
	}
	for _, a := range out.Answers {
		w.answers[a.Ticket] = a.Result
	}
	for _, x := range out.Waits {
		w.waits[x.Ticket] = x.Reason
	}
	for _, l := range out.Logs {
		w.logs = append(w.logs, fmt.Sprintf("%s %v", l.Msg, l.Args))
	}
	w.expels = append(w.expels, out.Expels...)
}

// deliver carries what is on its way, and what comes of it.
func (b *bench) deliver() {
	for n := 0; len(b.queue) > 0; n++ {
		if n > 100_000 {
			b.t.Fatal("messages without end")
		}
		b.now = b.now.Add(time.Millisecond)
		l := b.queue[0]
		b.queue = b.queue[1:]
		if !b.linked(l.from, l.to) {
			continue
		}
		if b.spy != nil {
			m, err := wire.ParseMessage(l.data)
			if err != nil {
				b.t.Fatalf("host%d says what nobody understands: %v", l.from.n, err)
			}
			if !b.spy(l.from, l.to, m) {
				continue
			}
		}
		l.to.step(messageEvent{l.from.id, l.data})
	}
}

// run lets time pass.
func (b *bench) run(d time.Duration) {
	b.t.Helper()
	end := b.now.Add(d)
	b.deliver()
	for i := 0; ; i++ {
		next := end
		for _, w := range b.cores {
			if w.core != nil && w.core.wake().Before(next) {
				next = w.core.wake()
			}
		}
		if !next.Before(end) || i > 100_000 {
			break
		}
		if next.After(b.now) {
			b.now = next
		}
		for _, w := range b.cores {
			if w.core != nil && !w.core.wake().After(b.now) {
				w.step(tickEvent{})
			}
		}
		b.deliver()
		b.spread()
		b.deliver()
	}
	if b.now.Before(end) {
		b.now = end
	}
}

// begin makes a request.
func (w *wired) begin(build func(ticket) event) ticket {
	w.b.t.Helper()
	w.b.last++
	w.step(build(w.b.last))
	return w.b.last
}

func (w *wired) allocate(key, subnet string) ticket {
	w.b.t.Helper()
	var p netip.Prefix
	if subnet != "" {
		p = netip.MustParsePrefix(subnet)
	}
	return w.begin(func(t ticket) event { return allocateEvent{t, key, "box " + key, p} })
}

func (w *wired) claim(key, addr string) ticket {
	w.b.t.Helper()
	return w.begin(func(t ticket) event { return claimEvent{t, key, "box " + key, netip.MustParseAddr(addr)} })
}

func (w *wired) release(key string, addrs ...netip.Addr) {
	w.b.t.Helper()
	w.begin(func(t ticket) event { return releaseEvent{t, key, addrs} })
}

// got returns the address that a request brought within a few seconds.
func (w *wired) got(t ticket) string {
	w.b.t.Helper()
	w.b.run(8 * time.Second)
	r, ok := w.answers[t]
	if !ok {
		w.b.t.Fatalf("host%d: request %d waits: %s", w.n, t, w.waits[t])
	}
	if r.Err != nil {
		w.b.t.Fatalf("host%d: request %d: %v", w.n, t, r.Err)
	}
	if !r.Addr.IsValid() {
		return ""
	}
	return r.Addr.String()
}

// waiting returns why a request waits.
func (w *wired) waiting(t ticket) string {
	w.b.t.Helper()
	if r, ok := w.answers[t]; ok {
		w.b.t.Fatalf("host%d: request %d does not wait: %+v", w.n, t, r)
	}
	return w.waits[t]
}

// failed returns the error of a request.
func (w *wired) failed(t ticket) error {
	w.b.t.Helper()
	w.b.run(3 * time.Second)
	r, ok := w.answers[t]
	if !ok || r.Err == nil {
		w.b.t.Fatalf("host%d: request %d: want an error, got %+v, waits: %s", w.n, t, r, w.waits[t])
	}
	return r.Err
}

func wantText(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: got %q, want %q in it", what, got, want)
	}
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
