package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/udp"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var (
	testKeys = crypto.Secret{7}.Keys("test")
	epoch    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// world is hosts on a network that delivers at once, in order, by a clock that
// only the test moves.
type world struct {
	t     testing.TB
	now   time.Time
	hosts []*host
	queue []datagram
	lose  func(datagram) bool // nil: nothing
	tap   func(datagram)      // sees what is delivered; may be nil
	boots uint64
}

type datagram struct {
	from, to netip.AddrPort
	b        []byte
}

// host is one of them: an end, a relay, and the keeper of its binds. Its
// WireGuard is what the test does in its name.
type host struct {
	w        *world
	key      *crypto.Key
	id       crypto.Identity
	wg, port netip.AddrPort
	table    *table
	keeper   *Keeper
	next     map[*host]*host // which relay gets what is for whom
	wants    []Want

	got    [][]byte // WireGuard's packets that came
	from   []netip.AddrPort
	events []Event
	down   bool
}

func newWorld(t testing.TB, n int) *world {
	w := &world{t: t, now: time.Now().Truncate(time.Second)} // of a bubble, if in one
	for i := range n {
		key := crypto.KeyFromSeed([32]byte{byte(i + 1)})
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		h := &host{
			w: w, key: key, id: key.Identity(), next: make(map[*host]*host),
			wg: netip.AddrPortFrom(a, 6784), port: netip.AddrPortFrom(a, 6783),
		}
		w.hosts = append(w.hosts, h)
	}
	for _, h := range w.hosts {
		h.start()
	}
	return w
}

// start begins a new life of a host's daemon.
func (h *host) start() {
	h.w.boots++
	h.table = newTable(h.id, h.w.boots, [32]byte{byte(h.w.boots)}, netip.AddrPort.IsValid)
	h.keeper = NewKeeper(h.id, h.w.boots)
	h.set()
}

// set gives table and keeper what is wanted now.
func (h *host) set() {
	var peers []Peer
	status := h.keeper.Status()
	for _, o := range h.w.hosts {
		p := Peer{Identity: o.id, WireGuard: o.key.WireGuardPublic(), Key: testKeys.PairKey(h.id, o.id)}
		if n := h.next[o]; n != nil {
			p.Next = n.id
		}
		for _, s := range status {
			if s.Peer == o.id && s.Role == signal.RelayPort && s.Accepted {
				p.Relay = s.Addr
			}
		}
		peers = append(peers, p)
	}
	h.table.set(peers)
	h.keeper.Set(h.w.now, h.wants)
}

// bindAt makes h want both its ports bound at the relay of each of others, and
// the other way round.
func (h *host) bindAt(others ...*host) {
	for _, o := range others {
		for _, x := range []struct{ a, b *host }{{h, o}, {o, h}} {
			for _, role := range []signal.Role{signal.WireGuardPort, signal.RelayPort} {
				x.a.wants = append(x.a.wants, Want{Peer: x.b.id, Key: testKeys.PairKey(h.id, o.id), Addr: x.b.port, Role: role})
			}
			x.a.set()
		}
	}
}

// addr is where a role's packets leave from.
func (h *host) addr(role signal.Role) netip.AddrPort {
	if role == signal.RelayPort {
		return h.port
	}
	return h.wg
}

func (w *world) send(from, to netip.AddrPort, b []byte) {
	w.queue = append(w.queue, datagram{from, to, bytes.Clone(b)})
}

// run sends what is due and delivers what is sent until nothing is left.
func (w *world) run() {
	for rounds := 0; ; rounds++ {
		if rounds > 10000 {
			w.t.Fatal("this does not end")
		}
		for _, h := range w.hosts {
			if h.down {
				continue
			}
			for _, s := range h.keeper.Due(w.now) {
				w.send(h.addr(s.Role), s.To, s.Bytes)
			}
		}
		if len(w.queue) == 0 {
			return
		}
		d := w.queue[0]
		w.queue = w.queue[1:]
		if w.lose != nil && w.lose(d) {
			continue
		}
		if w.tap != nil {
			w.tap(d)
		}
		w.deliver(d)
	}
}

func (w *world) deliver(d datagram) {
	for _, h := range w.hosts {
		switch {
		case h.down:
		case d.to == h.port:
			h.relay(d)
		case d.to == h.wg && signal.Is(d.b):
			h.handle(signal.WireGuardPort, d)
		case d.to == h.wg:
			h.got, h.from = append(h.got, d.b), append(h.from, d.from)
		}
	}
}

// relay is what a Relay's loop does.
func (h *host) relay(d datagram) {
	var out output
	h.table.message(h.w.now, &udp.Message{Flow: udp.Flow{Remote: d.from}, Bytes: d.b}, &out)
	for _, m := range out.answers {
		h.handle(signal.RelayPort, datagram{m.Flow.Remote, d.to, m.Bytes})
	}
	for _, m := range out.wide[0] {
		if len(m.Bytes) > len(d.b) {
			h.w.t.Errorf("%d bytes because of %d", len(m.Bytes), len(d.b))
		}
		h.w.send(h.port, m.Flow.Remote, m.Bytes)
	}
}

// handle is what the daemon does with signals for the keeper.
func (h *host) handle(role signal.Role, d datagram) {
	p, err := signal.Parse(d.b)
	must(h.w.t, err)
	e := h.keeper.Handle(h.w.now, d.from, role, p, d.b)
	if e.Kind == Nothing {
		return
	}
	h.events = append(h.events, e)
	if e.Role == signal.RelayPort {
		switch e.Kind {
		case Noticed:
			h.table.forgetIndex(h.table.known(e.Peer), e.Index)
		case Bound:
			h.set()
		case Restarted:
			h.table.forget(func(s *session) bool { return s.next == h.table.known(e.Peer).roles[signal.RelayPort] })
		default:
		}
	}
}

// sleep moves the clock, and everybody does what is due meanwhile.
func (w *world) sleep(d time.Duration) {
	const step = 100 * time.Millisecond
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(min(step, end.Sub(w.now)))
		if w.now.Truncate(time.Second).Equal(w.now) {
			for _, h := range w.hosts {
				h.table.sweep(w.now)
			}
		}
		w.run()
	}
}

// take returns what came to a host since it was asked last.
func (h *host) take() [][]byte {
	list := h.got
	h.got, h.from = nil, nil
	return list
}

// seed makes forged messages differ.
var random = rand.New(rand.NewPCG(1, 2))

// forge makes a message of WireGuard's for a host; of handshakes only the MAC is
// real.
func forge(kind uint32, to *host, indices ...uint32) []byte {
	b := make([]byte, map[uint32]int{initiation: initiationSize, response: responseSize, cookie: cookieSize, transport: 96}[kind])
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	binary.LittleEndian.PutUint32(b, kind)
	for i, x := range indices {
		binary.LittleEndian.PutUint32(b[4+4*i:], x)
	}
	if kind == initiation || kind == response {
		crypto.NewMAC1(to.key.WireGuardPublic()).Put(b)
	}
	return b
}

// arrives sends a packet from a host's WireGuard port to a relay and says
// whether it came to another host as it was, once, by the last relay.
func (h *host) arrives(b []byte, by, last, to *host) error {
	to.take()
	h.w.send(h.wg, by.port, b)
	h.w.run()
	from := to.from
	switch got := to.take(); {
	case len(got) != 1:
		return fmt.Errorf("%d packets came", len(got))
	case !bytes.Equal(got[0], b):
		return fmt.Errorf("%x came, want %x", got[0], b)
	case from[0] != last.port:
		return fmt.Errorf("came from %s, want %s", from[0], last.port)
	}
	return nil
}
