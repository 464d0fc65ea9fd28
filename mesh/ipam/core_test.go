package ipam

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
)

// bench is a few cores that are wired by hand, with a clock of their own.
// Messages arrive in order after a millisecond; tests cut wires and look at
// what is said.
type bench struct {
	t     *testing.T
	now   time.Time
	cores []*wired
	queue []sentLetter
	cut   func(from, to *wired) bool                 // nil: nothing is cut
	spy   func(from, to *wired, m Message) (ok bool) // nil: all pass
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
			m, err := ParseMessage(l.data)
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

func TestAloneGivesAtOnce(t *testing.T) {
	b := newBench(t, "10.32.0.0/24", "consensus")
	a := b.cores[0]
	a.start(nil)
	early := a.allocate("k0", "")
	wantText(t, "before the peers are known", a.waiting(early), "list of known hosts")
	b.meet()
	want(t, "first", a.got(early), "10.32.0.1/24")
	// No time passes, nobody is asked.
	second := a.allocate("k1", "")
	want(t, "second", a.answers[second].Addr.String(), "10.32.0.2/24")
	want(t, "the same again", a.got(a.allocate("k1", "")), "10.32.0.2/24")
	want(t, "in a subnet", a.got(a.allocate("k1", "10.32.0.64/26")), "10.32.0.65/26")
	want(t, "in the last subnet", a.got(a.allocate("k2", "10.32.0.252/30")), "10.32.0.253/30")
	want(t, "and the last in it", a.got(a.allocate("k3", "10.32.0.252/30")), "10.32.0.254/30")
	full := a.allocate("k4", "10.32.0.252/30")
	b.run(5 * time.Second)
	wantText(t, "full", a.waiting(full), "all addresses of 10.32.0.252/30 are in use")
	want(t, "state", a.core.status().State, "waiting for IP(s) to become available")
	a.release("k2")
	want(t, "after a release", a.got(full), "10.32.0.253/30")
	want(t, "state", a.core.status().State, "ready")
	for _, s := range []string{"10.33.0.0/24", "10.0.0.0/8"} {
		if err := a.failed(a.allocate("k5", s)); !errors.Is(err, ErrRange) {
			t.Errorf("in %s: %v", s, err)
		}
	}
}

func TestGraceOfTheDead(t *testing.T) {
	b := newBench(t, "10.32.0.0/24", "consensus")
	a := b.cores[0]
	a.start(nil)
	b.meet()
	for i := range 3 {
		a.got(a.allocate(fmt.Sprint("k", i), ""))
	}
	a.step(diedEvent{"k0"})
	a.step(diedEvent{"k1"})
	b.run(29 * time.Second)
	want(t, "comes back", a.got(a.allocate("k1", "")), "10.32.0.2/24") // 8 s later
	want(t, "the dead one's", a.got(a.allocate("k9", "")), "10.32.0.1/24")
	b.run(time.Minute)
	want(t, "k1 lives on", len(a.core.keys["k1"]), 1)

	// A start in which one of them is not there any more, and one has another key.
	a.stop()
	a.start(map[string]Found{
		"k2":  {"box", []netip.Addr{netip.MustParseAddr("10.32.0.3")}},
		"new": {"box", []netip.Addr{netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("10.32.0.77")}},
	})
	b.meet()
	want(t, "still k1's", a.got(a.allocate("x0", "")), "10.32.0.4/24")
	b.run(31 * time.Second)
	want(t, "k1's", a.got(a.allocate("x1", "")), "10.32.0.2/24")
	want(t, "found", a.core.local[netip.MustParseAddr("10.32.0.77")].Key, "new")
	want(t, "renamed", a.core.local[netip.MustParseAddr("10.32.0.1")].Key, "new")
	want(t, "k9 has nothing", len(a.core.keys["k9"]), 0)
}

func TestMove(t *testing.T) {
	b := newBench(t, "10.32.0.0/24", "consensus")
	a := b.cores[0]
	a.start(nil)
	b.meet()
	a.got(a.allocate("old", ""))
	one, other := netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("10.32.0.9")
	a.step(diedEvent{"old"})
	a.begin(func(t ticket) event { return moveEvent{t, "old", "new", "box", []netip.Addr{one, other}} })
	b.run(time.Minute)
	want(t, "holder", a.core.local[one].Key, "new")
	want(t, "of the other", a.core.local[other].Key, "")
}

func TestBlocksAndLeases(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/28") // 16 blocks of one address
	want(t, "first", h0.got(h0.allocate("a", "")), "10.32.0.1/28")
	want(t, "shares", h1.core.ring.Count(h1.id), 8)
	for i := range 13 {
		h0.got(h0.allocate(fmt.Sprint("b", i), ""))
	}
	full := h0.allocate("more", "")
	b.run(4 * time.Second)
	want(t, "reason", h0.waiting(full), "all addresses of 10.32.0.0/28 are in use")
	h0.release("b12")
	h0.got(full)
	for _, w := range b.cores {
		want(t, "hash", w.core.ring.Hash(), h0.core.ring.Hash())
	}
	// In a range with blocks of many addresses one is lent.
	b, h0, h1 = pair(t, "10.32.0.0/16") // blocks of 16
	subnet := "10.32.0.0/28"
	want(t, "own", h0.got(h0.allocate("a", subnet)), "10.32.0.1/28")
	leased := h1.got(h1.allocate("b", subnet))
	want(t, "lent", leased, "10.32.0.2/28")
	want(t, "at the owner", h0.core.leased[netip.MustParseAddr("10.32.0.2")].Host, h1.id)
	want(t, "next", h0.got(h0.allocate("c", subnet)), "10.32.0.3/28")
	h1.release("b")
	b.run(time.Second)
	want(t, "after the release", h0.got(h0.allocate("d", subnet)), "10.32.0.2/28")
}

func TestClaims(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	h0.got(h0.allocate("a", ""))
	want(t, "outside", h0.got(h0.claim("x", "192.168.1.1")), "")
	h0.got(h0.claim("x", "10.32.0.77"))
	h0.got(h0.claim("x", "10.32.0.77")) // again
	err := h0.failed(h0.claim("y", "10.32.0.77"))
	wantText(t, "here", err.Error(), "10.32.0.77: address in use by box x on this host")
	err = h1.failed(h1.claim("y", "10.32.0.77"))
	wantText(t, "there", err.Error(), "10.32.0.77: address in use by box x on host0")
	if !errors.Is(err, ErrConflict) {
		t.Errorf("%v is no ErrConflict", err)
	}
	h1.got(h1.claim("y", "10.32.0.78"))
	err = h0.failed(h0.claim("x", "10.32.0.78"))
	wantText(t, "lent", err.Error(), "box y on host1")

	// The owner is out of reach.
	b.cut = func(_, _ *wired) bool { return true }
	b.meet()
	err = h1.failed(h1.claim("z", "10.32.0.79"))
	wantText(t, "cut", err.Error(), "10.32.0.79 is in the space of host0, which is out of reach; choose another address, or 'weft rmpeer host0' if it is gone")
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v is no ErrUnreachable", err)
	}
	h1.got(h1.claim("z", "10.32.200.1")) // our own half
	h1.release("y")
	b.cut = nil
	b.meet()
	b.run(30 * time.Second) // the owner hears of the release
	h0.got(h0.claim("x", "10.32.0.78"))
}

func TestCancelLeavesNothing(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	subnet := "10.32.0.0/28"
	h0.got(h0.allocate("a", subnet))
	gives := 0
	b.spy = func(_, _ *wired, m Message) bool {
		g, ok := m.Body.(Give)
		if ok && g.Addr.IsValid() {
			gives++
		}
		return !ok // the answer is lost
	}
	waits := h1.allocate("b", subnet)
	claims := h1.claim("b", "10.32.0.9")
	b.run(2500 * time.Millisecond)
	if gives < 2 {
		t.Fatalf("the address was lent %d times", gives)
	}
	for _, c := range []ticket{waits, claims} {
		h1.step(cancelEvent{c})
		want(t, "cancelled", h1.answers[c].Err, errCancelled)
	}
	want(t, "still lent", len(h0.core.leased) > 0, true)
	b.spy = nil
	b.run(45 * time.Second)
	want(t, "lent after a while", len(h0.core.leased), 0)
	want(t, "held", len(h1.core.local), 0)
	want(t, "requests", len(h1.core.requests.list)+len(h1.core.requests.asks)+len(h1.core.requests.searches), 0)
}

// A lease that arrives when nobody waits any more goes back at once.
func TestLateGive(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	subnet := "10.32.0.0/28"
	h0.got(h0.allocate("a", subnet))
	var late []Message
	b.spy = func(_, _ *wired, m Message) bool {
		if g, ok := m.Body.(Give); ok && g.Addr.IsValid() {
			late = append(late, m)
			return false
		}
		return true
	}
	waits := h1.allocate("b", subnet)
	b.run(500 * time.Millisecond)
	h1.step(cancelEvent{waits})
	b.spy = nil
	for _, m := range late {
		data, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		h1.step(messageEvent{h0.id, data})
	}
	b.deliver()
	want(t, "lent", len(h0.core.leased), 0)
}

// A Want that is doubled or comes late brings nothing twice.
func TestDoubledWants(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	h0.got(h0.allocate("a", "10.32.0.0/28"))
	h0.core.step(b.now, messageEvent{h1.id, h1.core.pack(Want{Op: h1.core.nextOp(), Subnet: netip.MustParsePrefix("10.32.0.0/17"), Key: "k", Label: "l"})})
	out := h0.core.take()
	had := h0.core.ring.Count(h0.id)
	h0.carryOut(out)
	data := h1.core.pack(Want{Op: h1.core.lastOp(), Subnet: netip.MustParsePrefix("10.32.0.0/17"), Key: "k", Label: "l"})
	h0.step(messageEvent{h1.id, data})
	want(t, "blocks", h0.core.ring.Count(h0.id), had)
	b.run(time.Second)
	want(t, "at the other", h1.core.ring.Count(h0.id), had)
}

func TestOutOfContactComparesFirst(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("a", ""))
	b.cut = func(_, _ *wired) bool { return true }
	b.meet()
	// Alone: goes on at once.
	want(t, "alone", h1.answers[h1.allocate("b", "")].Addr.IsValid(), true)
	b.cut = nil
	b.spy = func(_, _ *wired, m Message) bool { _, ok := m.Body.(State); return !ok }
	b.meet()
	waits := h1.allocate("c", "")
	b.run(3 * time.Second)
	wantText(t, "reason", h1.waiting(waits), "comparing addresses with host0")
	b.spy = nil
	b.run(2 * time.Second)
	h1.got(waits)
}

func TestStartAlone(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("a", ""))
	h0.stop()
	h1.stop()
	h0.start(map[string]Found{"a": {"box", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}})
	b.meet()
	waits := h0.allocate("b", "")
	wantText(t, "reason", h0.waiting(waits), "looking for other hosts")
	b.run(9 * time.Second)
	h0.waiting(waits)
	b.run(2 * time.Second)
	h0.got(waits)
	want(t, "twice", h0.core.boot, 2)
}

// A host whose disk is an old copy gives nothing of its own before everybody
// said what it gave away, but it gets an address from those in reach.
func TestOldDisk(t *testing.T) {
	b := newBench(t, "10.32.0.0/22", "consensus", "consensus", "consensus")
	b.startAll()
	h0, h1, h2 := b.cores[0], b.cores[1], b.cores[2]
	h0.got(h0.allocate("a", ""))
	old := maps.Clone(h0.disk)
	// It gives space to host1, which host2 does not hear of.
	b.cut = func(x, y *wired) bool { return x == h2 || y == h2 }
	b.meet()
	for i := 0; h1.core.ring.Count(h0.id) == h2.core.ring.Count(h0.id); i++ {
		h1.got(h1.allocate(fmt.Sprint("b", i), "10.32.0.0/23"))
	}
	h0.stop()
	h0.disk, h0.proven = old, false
	b.cut = func(x, y *wired) bool { return x == h1 || y == h1 }
	h0.start(map[string]Found{"a": {"box", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}})
	b.meet()
	b.run(time.Second)
	first := h0.got(h0.allocate("x", ""))
	fresh := h0.core.sureness.fresh
	block, _ := h0.core.geo.Block(netip.MustParsePrefix(first).Addr())
	want(t, "in a new block", fresh.Has(block), true)
	want(t, "still unproven", h0.core.sureness.unproven, true)
	waits := h0.claim("y", "10.32.0.3")
	b.run(5 * time.Second)
	wantText(t, "reason", h0.waiting(waits), "host1 (out of reach) must first say what this host gave away before it was restarted; if gone: weft rmpeer host1")

	// It does not forget this by another start.
	h0.stop()
	h0.start(map[string]Found{"a": {"box", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}})
	b.meet()
	b.run(time.Second)
	want(t, "unproven after a start", h0.core.sureness.unproven, true)
	b.cut = nil
	b.meet()
	b.run(5 * time.Second)
	want(t, "proven", h0.core.sureness.unproven, false)
	want(t, "ring", h0.core.ring.Hash(), h1.core.ring.Hash())
	if seen := h1.core.peers[h0.id].lastOp; h0.core.lastOp() < seen {
		t.Errorf("op %x, and %x was used before", h0.core.lastOp(), seen)
	}
}

func TestLostDatabase(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/16")
	subnet := "10.32.0.0/28"
	h0.got(h0.allocate("a", subnet))
	h1.got(h1.allocate("b", subnet)) // lent by host0
	h0.stop()
	h0.disk, h0.proven = make(map[string][]byte), false
	h0.start(map[string]Found{"a": {"box a", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}})
	b.meet()
	b.run(3 * time.Second)
	want(t, "ring", h0.core.ring.id, h1.core.ring.id)
	want(t, "next", h0.got(h0.allocate("c", subnet)), "10.32.0.3/28")
	err := h1.failed(h1.claim("x", "10.32.0.1"))
	wantText(t, "found", err.Error(), "box a on host0")

	// And the one that has something lent.
	h1.stop()
	h1.disk, h1.proven = make(map[string][]byte), false
	h1.start(map[string]Found{"b": {"box b", []netip.Addr{netip.MustParseAddr("10.32.0.2")}}})
	b.meet()
	b.run(3 * time.Second)
	want(t, "confirmed", len(h1.core.holders.claims), 0)
	err = h0.failed(h0.claim("x", "10.32.0.2"))
	wantText(t, "lent", err.Error(), "box b on host1")
}

func TestOtherRangeForgets(t *testing.T) {
	b := newBench(t, "10.32.0.0/24", "consensus")
	a := b.cores[0]
	a.start(nil)
	b.meet()
	a.got(a.allocate("a", ""))
	a.stop()
	a.cfg.Range = netip.MustParsePrefix("10.40.0.0/24")
	a.start(map[string]Found{"b": {"box", []netip.Addr{netip.MustParseAddr("10.40.0.1")}}})
	b.meet()
	wantText(t, "log", strings.Join(a.logs, "\n"), "address space forgotten")
	want(t, "next", a.got(a.allocate("c", "")), "10.40.0.2/24")
	for key := range a.disk {
		if strings.HasPrefix(key, keyLocals+"10.32.") {
			t.Errorf("%s is still stored", key)
		}
	}
}

func TestDuplicatesAreListed(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	h0.got(h0.allocate("a", ""))
	b.cut = func(_, _ *wired) bool { return true }
	b.meet()
	mine := netip.MustParsePrefix(h1.got(h1.allocate("b", ""))).Addr()
	// host0 finds a container with that address: its state was lost, say.
	h0.step(adoptEvent{Live: map[string]Found{"a": {"box a", []netip.Addr{netip.MustParseAddr("10.32.0.1")}}, "c": {"box c", []netip.Addr{mine}}}})
	b.run(2 * time.Second)
	b.cut = nil
	b.meet()
	b.run(5 * time.Second)
	for _, w := range b.cores {
		s := w.core.status()
		if len(s.Duplicates) != 1 || s.Duplicates[0].Addr != mine || len(s.Duplicates[0].Holders) != 2 {
			t.Fatalf("host%d: %+v", w.n, s.Duplicates)
		}
		wantText(t, "log", strings.Join(w.logs, "\n"), "address used twice")
	}
	s := h0.core.status()
	if len(s.Pending) != 1 || !s.Pending[0].Claim || s.Pending[0].Why != "box b on host1" {
		t.Errorf("pending: %+v", s.Pending)
	}
	h1.release("b")
	b.run(40 * time.Second)
	want(t, "duplicates", len(h0.core.status().Duplicates), 0)
	want(t, "pending", len(h0.core.status().Pending), 0)
	wantText(t, "log", strings.Join(h0.logs, "\n"), "no longer used twice")
}

func TestStatus(t *testing.T) {
	b, h0, h1 := pair(t, "10.32.0.0/24")
	want(t, "state", h0.core.status().State, "idle")
	h0.got(h0.allocate("a", ""))
	h1.got(h1.allocate("b", ""))
	b.run(3 * time.Second)
	s := h0.core.status()
	if len(s.Shares) != 2 || !s.Shares[0].Self || s.Shares[0].IPs != 128 || s.Shares[0].Active != 1 || s.Shares[1].Active != 1 ||
		s.Shares[1].Nickname != "host1" || !s.Shares[1].Reachable || !s.Shares[1].Known || s.Shares[0].Token != netip.MustParseAddr("10.32.0.0") {
		t.Errorf("shares: %+v", s.Shares)
	}
	h1.stop()
	b.meet()
	s = h0.core.status()
	if s.Shares[1].Reachable || s.UnreachablePeers != 1 || s.UnreachableIPs != 128 {
		t.Errorf("%+v", s)
	}
	for i := range 130 {
		h0.allocate(fmt.Sprint("c", i), "")
	}
	b.run(4 * time.Second)
	s = h0.core.status()
	want(t, "state", s.State, "waiting for IP(s) to become available")
	wantText(t, "why", s.Pending[0].Why, "all addresses of 10.32.0.0/24 that are in reach are in use; out of reach: host1; if gone: weft rmpeer host1")
	want(t, "pending", len(s.Pending), 130-126)
	if !slices.IsSortedFunc(s.Pending, func(a, b Pending) int { return cmp.Compare(a.Since.UnixNano(), b.Since.UnixNano()) }) {
		t.Error("pending requests are not in order")
	}
}
