package relay

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/udp"
)

// A valid initiation that is replayed from 10,000 sources is forwarded once.
func TestReplayed(t *testing.T) {
	w, r := star(t, 20)
	b, msg := w.hosts[1], forge(initiation, w.hosts[1], 5)
	sent := 0
	for i := range 10000 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 6784)
		if i%500 == 0 {
			from = w.hosts[2+i/500%18].wg // some of them are bound
		}
		if v := r.step(from, msg); v.to.Remote.IsValid() {
			sent++
		}
		w.now = w.now.Add(time.Millisecond)
	}
	if sent != 1 {
		t.Errorf("forwarded %d times", sent)
	}
	// Within 180 s it stays so, however much comes between.
	for range 17 {
		w.now = w.now.Add(10 * time.Second)
		for _, h := range w.hosts[1:] {
			h.keeper.Now()
		}
		w.run()
		r.step(b.wg, forge(initiation, w.hosts[2], random.Uint32()))
		if v := r.step(w.hosts[3].wg, msg); v.why != replayed {
			t.Fatalf("forwarded again: %s", reasonNames[v.why])
		}
	}
}

// Handshakes are limited by source, and more are allowed from a relay.
func TestHandshakeRate(t *testing.T) {
	for role, limit := range map[signal.Role][2]int{
		signal.WireGuardPort: {handshakeRate, handshakeBurst}, signal.RelayPort: {relayedRate, relayedBurst},
	} {
		w, r := star(t, 2)
		a, b := w.hosts[1], w.hosts[2]
		for second := range 3 {
			sent, want := 0, limit[0]
			if second == 0 {
				want = limit[1]
			}
			for range 2000 {
				if v := r.step(a.addr(role), forge(initiation, b, random.Uint32())); v.why == none {
					sent++
				} else if v.why != limited {
					t.Fatal(reasonNames[v.why])
				}
			}
			if sent != want {
				t.Errorf("%s, second %d: %d sent, want %d", role, second, sent, want)
			}
			w.now = w.now.Add(time.Second)
		}
		// The other port has its own share, and data has no limit.
		if v := r.step(b.wg, forge(initiation, a, 1)); v.why != none {
			t.Errorf("another source suffers: %s", reasonNames[v.why])
		}
	}
}

// The sessions of one source are bounded, and it is the oldest that go.
func TestSessionsBounded(t *testing.T) {
	w, r := star(t, 2)
	a, b := w.hosts[1], w.hosts[2]
	const extra = 100
	used := uint32(1000000) // a session that is used all the time
	for i := range uint32(maxSessions + extra) {
		index := 2 * i
		if i == 0 {
			index = used
		}
		w.now = w.now.Add(5 * time.Millisecond) // 200/s
		if v := r.step(a.port, forge(initiation, b, index)); v.why != none {
			t.Fatal(reasonNames[v.why])
		}
		r.table.addresses[b.wg].handshakes = limiter{} // limits have their own test
		if v := r.step(b.wg, forge(response, a, index+1, index)); v.why != none {
			t.Fatal(reasonNames[v.why])
		}
		if i%100 == 0 {
			if v := r.step(b.wg, forge(transport, nil, used)); v.why != none {
				t.Fatalf("after %d: %s", i, reasonNames[v.why])
			}
		}
	}
	n := r.table.addresses[b.wg].sessions
	if n != maxSessions {
		t.Errorf("%d sessions of one source, want %d", n, maxSessions)
	}
	if v := r.step(b.wg, forge(transport, nil, 2)); v.why != unknown {
		t.Errorf("the oldest: %s", reasonNames[v.why])
	}
	if v := r.step(b.wg, forge(transport, nil, 2*(maxSessions+extra-1))); v.why != none {
		t.Errorf("the newest: %s", reasonNames[v.why])
	}
	check(t, r.table)
}

// So are those of all sources together, and what is remembered of handshakes.
func TestAllBounded(t *testing.T) {
	w, r := star(t, 4)
	r.table.room, r.table.memory = 10, 20
	for i := range uint32(200) {
		w.now = w.now.Add(100 * time.Millisecond)
		from, to := w.hosts[1+i%4], w.hosts[1+(i+1+i/4%3)%4]
		if v := r.step(from.wg, forge(initiation, to, i)); v.why != none && v.why != conflict {
			t.Fatal(reasonNames[v.why])
		}
		check(t, r.table)
		if n := len(r.table.sessions); n > 10 {
			t.Fatalf("%d sessions", n)
		}
		if n := len(r.table.seen[0]) + len(r.table.seen[1]); n > 2*20 {
			t.Fatalf("%d handshakes remembered", n)
		}
	}
	if len(r.table.sessions) != 10 {
		t.Errorf("%d sessions, want as many as there is room for", len(r.table.sessions))
	}
}

// Binds are answered so often and no more, also those of many lives.
func TestBindRate(t *testing.T) {
	w := newWorld(t, 2)
	a, r := w.hosts[0], w.hosts[1]
	number := uint64(0)
	answered := func(c [8]byte, boot func(i uint64) uint64) (n int, last signal.Packet) {
		for i := range uint64(50) {
			number++
			p := a.binding(r, 0, number, c)
			p.Boot = boot(i)
			if v := r.step(a.wg, a.seal(r, p)); v.reply != nil {
				n++
				last = answer(t, v)
			} else if v.why != limited {
				t.Fatal(reasonNames[v.why])
			}
		}
		return n, last
	}
	one := func(uint64) uint64 { return 1000 }
	n, p := answered([8]byte{}, one)
	if n != bindRate {
		t.Errorf("%d cookies at once, want %d", n, bindRate)
	}
	if n, p = answered(p.Cookie, one); n != bindRate || !p.Accepted {
		t.Errorf("%d binds at once, want %d", n, bindRate)
	}
	w.now = w.now.Add(time.Second)
	if n, _ := answered(p.Cookie, func(i uint64) uint64 { return 2000 + i }); n > lifeBurst {
		t.Errorf("%d lives at once, want at most %d", n, lifeBurst)
	}
}

// A flood of anything from anywhere takes no memory beyond the bounds.
func TestFlood(t *testing.T) {
	w, r := star(t, 3)
	check(t, r.table)
	addresses, peers := len(r.table.addresses), len(r.table.peers)
	for i := range 200000 {
		from := w.hosts[1+i%3].addr(signal.Role(i % 2))
		if i%4 == 0 {
			from = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), uint16(i))
		}
		b := make([]byte, 148)
		binary.LittleEndian.PutUint32(b, uint32(i%6))
		binary.LittleEndian.PutUint32(b[4:], uint32(i))
		binary.LittleEndian.PutUint32(b[116:], uint32(i))
		if i%5 == 0 {
			b[0] = signal.First
		}
		if v := r.step(from, b); v.to.Remote.IsValid() {
			t.Fatal("forwarded")
		}
	}
	tb := r.table
	if len(tb.addresses) != addresses || len(tb.peers) != peers || len(tb.sessions) != 0 || len(tb.seen[0])+len(tb.seen[1]) != 0 {
		t.Error("garbage was remembered")
	}
	// Real handshakes, as many as the limits let through, for ten minutes.
	most := 0
	for range 600 {
		w.now = w.now.Add(time.Second)
		r.table.sweep(w.now)
		for _, h := range w.hosts[1:] {
			h.keeper.Now()
			w.run()
			for range handshakeRate {
				r.step(h.wg, forge(initiation, w.hosts[1+random.IntN(3)], random.Uint32()))
			}
		}
		most = max(most, len(tb.seen[0])+len(tb.seen[1])+len(tb.sessions)+len(tb.pending))
	}
	if limit := 3*handshakeRate*(2*180+2*11) + 3*handshakeBurst; most > limit {
		t.Errorf("%d things remembered, want at most %d", most, limit)
	}
	check(t, tb)
}

// check looks at what always holds in a table.
func check(t interface {
	Helper()
	Fatalf(string, ...any)
}, tb *table,
) {
	t.Helper()
	listed, pairs := 0, 0
	for _, p := range tb.peers {
		for _, n := range p.roles {
			count := 0
			var last *session
			for s := n.oldest; s != nil; s = s.newer {
				if s.older != last || s.from != n || tb.sessions[s.key] != s {
					t.Fatalf("a list is broken")
				}
				last = s
				count++
				if s.back != nil {
					pairs++
					if s.back.back != s || s.back.from != s.next || s.back.next != s.from {
						t.Fatalf("a pair is broken")
					}
				}
				if s.next.peer == n.peer {
					t.Fatalf("a session that goes back")
				}
			}
			if n.newest != last || count != n.sessions || count > maxSessions {
				t.Fatalf("%d sessions listed, %d counted", count, n.sessions)
			}
			listed += count
		}
	}
	if listed != len(tb.sessions) || pairs != 2*tb.pairs {
		t.Fatalf("%d sessions listed of %d, %d in pairs, %d pairs counted", listed, len(tb.sessions), pairs, tb.pairs)
	}
	for a, n := range tb.addresses {
		if n.bound.Remote != a && n.relay != a {
			t.Fatalf("%s is an address of nobody", a)
		}
	}
}

// naive is a table of sessions as docs/protocol.md#sessions describes it, without
// care for speed.
type naive struct {
	list []naiveSession
}

type naiveSession struct {
	from, to   netip.AddrPort
	index      uint32
	made, last time.Time
	answered   bool
	id, back   int
}

func (n *naive) alive(now time.Time, s naiveSession) bool {
	if !s.answered {
		return now.Sub(s.made) < pendingLife
	}
	last := s.last
	for _, o := range n.list {
		if o.id == s.back && o.last.After(last) {
			last = o.last
		}
	}
	return now.Sub(last) < sessionLife
}

func (n *naive) find(now time.Time, from netip.AddrPort, index uint32) int {
	for i, s := range n.list {
		if s.from == from && s.index == index && n.alive(now, s) {
			return i
		}
	}
	return -1
}

// TestTwin compares the table with the naive one in random histories: few
// hosts and few indices, so that everything collides.
func TestTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, r := star(&testing.T{}, 3)
		w.t = &testing.T{}
		ends := w.hosts[1:]
		var n naive
		ids := 0
		forget := func(id int) {
			n.list = slices.DeleteFunc(n.list, func(s naiveSession) bool { return s.id == id })
		}
		// put is what record does.
		put := func(from, to netip.AddrPort, index uint32) *naiveSession {
			for i, s := range n.list {
				if s.from != from || s.index != index {
					continue
				}
				alive := n.alive(w.now, s)
				if alive && s.to == to {
					n.list[i].last = w.now
					return &n.list[i]
				}
				used := s.last
				for _, o := range n.list {
					if s.answered && o.id == s.back && o.last.After(used) {
						used = o.last
					}
				}
				if alive && w.now.Sub(used) < conflictRest {
					return nil
				}
				if s.answered {
					forget(s.back)
				}
				forget(s.id)
				break
			}
			ids++
			n.list = append(n.list, naiveSession{from: from, to: to, index: index, made: w.now, last: w.now, id: ids})
			return &n.list[len(n.list)-1]
		}
		host := rapid.SampledFrom(ends)
		number := rapid.Uint32Range(1, 4)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			for _, p := range r.table.peers {
				for _, x := range p.roles {
					x.handshakes = limiter{} // limits have their own test
					x.last = w.now           // and so have binds
				}
			}
			from, to := host.Draw(t, "from"), host.Draw(t, "to")
			i, j := number.Draw(t, "i"), number.Draw(t, "j")
			want := netip.AddrPort{}
			var got verdict
			switch rapid.SampledFrom([]string{"initiation", "response", "data", "data", "wait"}).Draw(t, "what") {
			case "initiation":
				got = r.step(from.wg, forge(initiation, to, i))
				if from != to && put(to.wg, from.wg, i) != nil {
					want = to.wg
				}
			case "response":
				got = r.step(from.wg, forge(response, to, j, i))
				k := n.find(w.now, from.wg, i)
				if from == to || k >= 0 && n.list[k].answered {
					break
				}
				one := put(from.wg, to.wg, i)
				if one == nil {
					break
				}
				id := one.id
				other := put(to.wg, from.wg, j)
				if other == nil || other.answered {
					break
				}
				other.answered, other.back = true, id
				otherID := other.id
				for k := range n.list {
					if n.list[k].id == id {
						n.list[k].answered, n.list[k].back = true, otherID
						want = to.wg
					}
				}
			case "data":
				got = r.step(from.wg, forge(transport, nil, i))
				if k := n.find(w.now, from.wg, i); k >= 0 {
					n.list[k].last = w.now
					want = n.list[k].to
				}
			case "wait":
				w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{1, 5, 9, 10, 100, 231, 240}).Draw(t, "seconds")) * time.Second)
				if rapid.Bool().Draw(t, "sweep") {
					r.table.sweepSessions(w.now)
				}
			}
			if got.to.Remote != want {
				t.Fatalf("sent to %s (%s), want %s", got.to.Remote, reasonNames[got.why], want)
			}
			check(t, r.table)
		}
	})
}

// FuzzStep: whatever comes from whomever, nothing longer goes back, nothing
// goes to where it came from, and the table stays whole.
func FuzzStep(f *testing.F) {
	w, r := star(f, 2)
	a, b := w.hosts[1], w.hosts[2]
	f.Add(uint8(0), forge(initiation, b, 1))
	f.Add(uint8(1), forge(response, a, 2, 1))
	f.Add(uint8(2), forge(transport, nil, 2))
	f.Add(uint8(0), a.seal(r, a.binding(r, 0, 7, [8]byte{})))
	s, _ := a.keeper.Hush(r.id, b.id, time.Second)
	f.Add(uint8(0), s.Bytes)
	f.Fuzz(func(t *testing.T, who uint8, in []byte) {
		from := []netip.AddrPort{a.wg, b.wg, a.port, b.port, netip.MustParseAddrPort("198.51.100.1:1")}[who%5]
		var out output
		m := udp.Message{Flow: flowTo(from), Bytes: in, Segment: int(who) * 8}
		r.table.message(w.now, &m, &out)
		w.now = w.now.Add(time.Millisecond)
		total := 0
		known := maps.Clone(r.table.addresses)
		for _, x := range out.wide[0] {
			total += len(x.Bytes)
			if _, ok := known[x.Flow.Remote]; !ok && x.Flow.Remote != from {
				t.Errorf("sent to %s", x.Flow.Remote)
			}
		}
		if total > len(in) {
			t.Errorf("%d bytes in answer to %d", total, len(in))
		}
		check(t, r.table)
	})
}
