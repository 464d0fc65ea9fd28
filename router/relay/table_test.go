package relay

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/udp"
)

// from is a flow that ends at an address.
func flowTo(a netip.AddrPort) udp.Flow { return udp.Flow{Remote: a} }

// step gives a host's relay one packet and checks what holds for every verdict.
func (h *host) step(from netip.AddrPort, b []byte) verdict {
	v := h.table.step(h.w.now, flowTo(from), b)
	if len(v.reply) > len(b) {
		h.w.t.Errorf("%d bytes in answer to %d", len(v.reply), len(b))
	}
	if v.to.Remote.IsValid() && (v.why != none || v.reply != nil || v.to.Remote == from) {
		h.w.t.Errorf("sent on to %s and yet %v", v.to.Remote, reasonNames[v.why])
	}
	return v
}

// binding makes a bind from a host.
func (h *host) binding(at *host, role signal.Role, number uint64, cookie [8]byte) signal.Packet {
	return signal.Packet{
		Kind: signal.Bind, From: signal.IDOf(h.id), To: signal.IDOf(at.id), Number: number, Boot: h.keeper.boot, Role: role, Cookie: cookie,
	}
}

func (h *host) seal(at *host, p signal.Packet) []byte {
	return p.Append(nil, testKeys.PairKey(h.id, at.id))
}

// answer reads a verdict that is an answer to a host.
func answer(t testing.TB, v verdict) signal.Packet {
	t.Helper()
	if v.reply == nil {
		t.Fatalf("no answer: %s", reasonNames[v.why])
	}
	p, err := signal.Parse(v.reply)
	must(t, err)
	return p
}

func TestBind(t *testing.T) {
	w := newWorld(t, 3)
	a, r, stranger := w.hosts[0], w.hosts[1], netip.MustParseAddrPort("198.51.100.66:6784")
	send := func(from netip.AddrPort, role signal.Role, number uint64, c [8]byte) verdict {
		return r.step(from, a.seal(r, a.binding(r, role, number, c)))
	}
	bound := func() string {
		s := ""
		for _, b := range r.table.bound() {
			s += fmt.Sprintf("%s %s;", b.Addr, b.Role)
		}
		return s
	}
	// Without the cookie nothing holds, whatever the number.
	p := answer(t, send(a.wg, signal.WireGuardPort, 5, [8]byte{}))
	if p.Accepted || p.Observed != a.wg || p.Number != 5 || p.Boot != r.table.boot || p.Role != signal.WireGuardPort || bound() != "" {
		t.Fatalf("answer %+v, bound %q", p, bound())
	}
	if !signal.Verify(r.step(a.wg, a.seal(r, a.binding(r, 0, 5, [8]byte{}))).reply, testKeys.PairKey(a.id, r.id)) {
		t.Fatal("an answer that is not authentic")
	}
	c := p.Cookie
	other := answer(t, send(stranger, signal.WireGuardPort, 6, c)) // a copy from elsewhere
	if other.Accepted || other.Cookie == c || bound() != "" {
		t.Fatalf("another address takes the bind: %+v", other)
	}
	if x := answer(t, send(a.wg, signal.RelayPort, 6, c)); x.Accepted {
		t.Fatal("the cookie of one role serves another")
	}
	// The copy was faster: the bind itself still counts.
	if p = answer(t, send(a.wg, signal.WireGuardPort, 6, c)); !p.Accepted {
		t.Fatal("the right cookie is refused")
	}
	want := a.wg.String() + " wireguard port;"
	if bound() != want {
		t.Fatalf("bound %q, want %q", bound(), want)
	}
	// Replays, older numbers, and a bind that lost its way.
	for _, tt := range []struct {
		what string
		v    verdict
		why  reason
	}{
		{"replay", send(a.wg, signal.WireGuardPort, 6, c), replayed},
		{"older", send(a.wg, signal.WireGuardPort, 4, c), replayed},
		{"replay from elsewhere", send(stranger, signal.WireGuardPort, 6, c), replayed},
		{"for another relay", r.step(a.wg, a.seal(w.hosts[2], a.binding(w.hosts[2], 0, 9, c))), unbound},
		{"of a stranger", r.step(stranger, signal.Packet{Kind: signal.Bind, From: signal.ID{9}, To: signal.IDOf(r.id), Number: 1, Boot: 1}.Append(nil, [32]byte{})), unbound},
		{"with another key", r.step(a.wg, a.binding(r, 0, 9, c).Append(nil, [32]byte{1})), unbound},
		{"a probe", r.step(a.wg, a.seal(r, signal.Packet{Kind: signal.Probe, From: signal.IDOf(a.id), To: signal.IDOf(r.id)})), malformed},
		{"garbage", r.step(a.wg, []byte{signal.First, 1, 2}), malformed},
	} {
		if tt.v.why != tt.why || tt.v.reply != nil {
			t.Errorf("%s: %s, want %s", tt.what, reasonNames[tt.v.why], reasonNames[tt.why])
		}
	}
	// A new life of the daemon; then the former one is void.
	old := a.keeper.boot
	a.keeper.boot = 999
	if p := answer(t, send(a.wg, signal.WireGuardPort, 1, c)); !p.Accepted {
		t.Error("a new boot id is refused")
	}
	a.keeper.boot = old
	if v := send(a.wg, signal.WireGuardPort, 1000, c); v.why != replayed {
		t.Errorf("a former boot id: %s", reasonNames[v.why])
	}
	// It expires, and moves.
	w.now = w.now.Add(bindLife - 1)
	r.table.sweep(w.now)
	if bound() != want {
		t.Error("expired early")
	}
	w.now = w.now.Add(1)
	r.table.sweep(w.now)
	if bound() != "" || len(r.table.addresses) != 0 {
		t.Errorf("still bound: %q", bound())
	}
	a.keeper.boot = 999
	c = answer(t, send(stranger, signal.WireGuardPort, 20, c)).Cookie
	if !answer(t, send(stranger, signal.WireGuardPort, 21, c)).Accepted || r.table.addresses[stranger] == nil {
		t.Error("not bound again from elsewhere")
	}
	r.table.stopping = true
	if v := send(stranger, signal.WireGuardPort, 22, c); v.why != refused {
		t.Errorf("a relay that stops: %s", reasonNames[v.why])
	}
}

// Addresses that nothing may be sent to take no bind.
func TestUsable(t *testing.T) {
	w := newWorld(t, 2)
	a, r := w.hosts[0], w.hosts[1]
	r.table.usable = func(ep netip.AddrPort) bool { return ep.Addr().IsGlobalUnicast() }
	bad := netip.MustParseAddrPort("127.0.0.1:6784")
	if v := r.step(bad, a.seal(r, a.binding(r, 0, 1, [8]byte{}))); v.why != refused || v.reply != nil {
		t.Errorf("answered: %+v", v)
	}
	r.table.set([]Peer{{Identity: a.id, Relay: bad}})
	if len(r.table.addresses) != 0 {
		t.Error("a relay at loopback")
	}
}

// Two hosts cannot have one address: who shows last that it is there has it.
func TestOneAddress(t *testing.T) {
	w := newWorld(t, 3)
	a, r, b := w.hosts[0], w.hosts[1], w.hosts[2]
	for _, h := range []*host{a, b} {
		c := answer(t, r.step(a.wg, h.seal(r, h.binding(r, 0, 1, [8]byte{})))).Cookie
		if !answer(t, r.step(a.wg, h.seal(r, h.binding(r, 0, 2, c)))).Accepted {
			t.Fatal("refused")
		}
		if list := r.table.bound(); len(list) != 1 || list[0].Identity != h.id {
			t.Errorf("bound: %+v", list)
		}
	}
}

// star is a world whose first host is the relay of all others, bound there.
func star(t testing.TB, leaves int) (*world, *host) {
	w := newWorld(t, leaves+1)
	for _, h := range w.hosts[1:] {
		h.bindAt(w.hosts[0])
	}
	w.run()
	return w, w.hosts[0]
}

func TestRules(t *testing.T) {
	w, r := star(t, 3)
	a, b, c := w.hosts[1], w.hosts[2], w.hosts[3]
	nobody := netip.MustParseAddrPort("198.51.100.66:6784")
	once := forge(initiation, b, 50)
	long := append(forge(initiation, b, 1), 0)
	odd := forge(transport, nil, 2)
	odd[1] = 1
	outsider := &host{key: crypto.KeyFromSeed([32]byte{99})}
	for _, tt := range []struct {
		what string
		from netip.AddrPort
		b    []byte
		to   netip.AddrPort
		why  reason
	}{
		{"nothing", a.wg, nil, netip.AddrPort{}, malformed},
		{"short", a.wg, make([]byte, 31), netip.AddrPort{}, malformed},
		{"a long initiation", a.wg, long, netip.AddrPort{}, malformed},
		{"a reserved byte", a.wg, odd, netip.AddrPort{}, malformed},
		{"type 5", a.wg, append([]byte{5}, make([]byte, 100)...), netip.AddrPort{}, malformed},
		{"unbound initiation", nobody, forge(initiation, b, 1), netip.AddrPort{}, unbound},
		{"unbound data", nobody, forge(transport, nil, 1), netip.AddrPort{}, unbound},
		{"initiation", a.wg, once, b.wg, none},
		{"the same again", a.wg, once, netip.AddrPort{}, replayed},
		{"the same from another", c.wg, once, netip.AddrPort{}, replayed},
		{"to an outsider", a.wg, forge(initiation, outsider, 1), netip.AddrPort{}, noTarget},
		{"to itself", a.wg, forge(initiation, a, 1), netip.AddrPort{}, loop},
		{"to the relay itself", a.wg, forge(initiation, r, 1), netip.AddrPort{}, noTarget},
		{"another's index", c.wg, forge(initiation, b, 50), netip.AddrPort{}, conflict},
		{"data of nobody's session", a.wg, forge(transport, nil, 60), netip.AddrPort{}, unknown},
		{"cookie of nobody's session", a.wg, forge(cookie, nil, 60), netip.AddrPort{}, unknown},
		{"cookie", b.wg, forge(cookie, nil, 50), a.wg, none},
		{"response", b.wg, forge(response, a, 60, 50), a.wg, none},
		{"another response", b.wg, forge(response, a, 61, 50), netip.AddrPort{}, conflict},
		{"a response for whom it is not", c.wg, forge(response, b, 62, 50), b.wg, none}, // after a restart there is no record to compare
		{"data", a.wg, forge(transport, nil, 60), b.wg, none},
		{"data back", b.wg, forge(transport, nil, 50), a.wg, none},
		{"data of another's session", c.wg, forge(transport, nil, 60), netip.AddrPort{}, unknown},
		{"cookie to a response", a.wg, forge(cookie, nil, 60), b.wg, none},
		{"its own index again", b.wg, forge(initiation, a, 60), a.wg, none},
	} {
		if v := r.step(tt.from, tt.b); v.why != tt.why || v.to.Remote != tt.to {
			t.Errorf("%s: to %s, %q; want %s, %q", tt.what, v.to.Remote, reasonNames[v.why], tt.to, reasonNames[tt.why])
		}
	}
	w.now = w.now.Add(conflictRest) // nobody has used it
	if v := r.step(c.wg, forge(initiation, b, 50)); v.why != none {
		t.Errorf("an index that rested: %s", reasonNames[v.why])
	}
	if v := r.step(b.wg, forge(transport, nil, 50)); v.to.Remote != c.wg {
		t.Errorf("the index is still another's: %+v", v)
	}
	r.table.stopping = true
	if v := r.step(a.wg, forge(initiation, b, 70)); v.why != refused {
		t.Errorf("a relay that stops: %s", reasonNames[v.why])
	}
	if v := r.step(b.wg, forge(response, c, 71, 50)); v.to.Remote != c.wg {
		t.Errorf("a relay that stops drops what has begun: %+v", v)
	}
}

// A host that is not bound here is reached by the next relay, and one that is known no more is not reached at all.
func TestTargets(t *testing.T) {
	w, r := star(t, 2)
	a, b := w.hosts[1], w.hosts[2]
	far := &host{key: crypto.KeyFromSeed([32]byte{99})}
	far.id = far.key.Identity()
	peers := func(next crypto.Identity) []Peer {
		var list []Peer
		for _, h := range []*host{a, b} {
			list = append(list, Peer{Identity: h.id, WireGuard: h.key.WireGuardPublic(), Key: testKeys.PairKey(r.id, h.id)})
		}
		return append(list, Peer{Identity: far.id, WireGuard: far.key.WireGuardPublic(), Next: next})
	}
	for _, tt := range []struct {
		what string
		next crypto.Identity
		to   *host
		why  reason
	}{
		{"by b", b.id, far, none},
		{"by nobody", crypto.Identity{}, far, noRoute},
		{"by an outsider", crypto.KeyFromSeed([32]byte{98}).Identity(), far, noRoute},
		{"by itself", far.id, far, noRoute},
		{"back", a.id, far, loop},
	} {
		r.table.set(peers(tt.next))
		v := r.step(a.wg, forge(initiation, tt.to, random.Uint32()))
		if v.why != tt.why || (v.to.Remote == b.port) != (tt.why == none) {
			t.Errorf("%s: to %s, %q", tt.what, v.to.Remote, reasonNames[v.why])
		}
	}
	// Who is no peer any more is not bound, and its sessions are gone.
	r.table.set(peers(b.id)[:1])
	for _, s := range r.table.sessions {
		t.Errorf("session from %s to %s", s.from.bound.Remote, s.next.bound.Remote)
	}
	if v := r.step(b.wg, forge(transport, nil, 1)); v.why != unbound {
		t.Errorf("a host that left: %s", reasonNames[v.why])
	}
	if list := r.table.bound(); len(list) != 2 {
		t.Errorf("bound: %+v", list)
	}
	if s := (&Relay{table: r.table}).Stats(); s.Bound != 1 { // by two ports
		t.Errorf("%d hosts are bound", s.Bound)
	}
}

// A host that names another's key as its own gets none of its handshakes.
func TestStolenKey(t *testing.T) {
	w, r := star(t, 3)
	a, victim, thief := w.hosts[1], w.hosts[2], w.hosts[3]
	list := []Peer{{Identity: a.id, WireGuard: a.key.WireGuardPublic()}}
	stolen := victim.key.WireGuardPublic()
	r.table.set(append(list, Peer{Identity: thief.id, WireGuard: stolen}, Peer{Identity: victim.id, WireGuard: stolen}))
	for range 5 {
		if v := r.step(a.wg, forge(initiation, victim, random.Uint32())); v.to.Remote != victim.wg {
			t.Fatalf("sent to %s, %s", v.to.Remote, reasonNames[v.why])
		}
	}
	// A host without a key is not the target of what is for nobody.
	r.table.set(append(list, Peer{Identity: thief.id}))
	b := forge(initiation, victim, 1)
	crypto.NewMAC1([32]byte{}).Put(b)
	if v := r.step(a.wg, b); v.why != noTarget {
		t.Errorf("sent to %s, %s", v.to.Remote, reasonNames[v.why])
	}
}

func TestNotices(t *testing.T) {
	w, r := star(t, 2)
	a := w.hosts[1]
	data := func(i uint32, size int) []byte { return forge(transport, nil, i)[:size] }
	n := answer(t, r.step(a.wg, data(7, 96)))
	if n.Kind != signal.Notice || n.Index != 7 || n.Boot != r.table.boot || n.From != signal.IDOf(r.id) || n.To != signal.IDOf(a.id) {
		t.Fatalf("notice %+v", n)
	}
	if v := r.step(a.wg, data(7, 96)); v.reply != nil {
		t.Error("told twice")
	}
	if v := r.step(a.wg, data(8, signal.Notice.Least()-1)); v.reply != nil {
		t.Error("told at length")
	}
	if m := answer(t, r.step(a.wg, data(8, signal.Notice.Least()))); m.Number <= n.Number {
		t.Error("numbers do not grow")
	}
	w.now = w.now.Add(time.Second)
	told := 0
	for i := range uint32(1000) {
		if v := r.step(a.wg, data(i, 96)); v.reply != nil {
			told++
		}
	}
	if told != maxNotices || len(r.table.addresses[a.wg].notices) > maxNotices {
		t.Errorf("%d notices at once, want %d", told, maxNotices)
	}
}

func TestHush(t *testing.T) {
	w, r := star(t, 3)
	a, b, c := w.hosts[1], w.hosts[2], w.hosts[3]
	exchange := func(x, y *host, i uint32) {
		for _, m := range []struct {
			from *host
			b    []byte
		}{{x, forge(initiation, y, i)}, {y, forge(response, x, i+1, i)}} {
			if v := r.step(m.from.wg, m.b); v.why != none {
				t.Fatal(reasonNames[v.why])
			}
		}
	}
	exchange(a, b, 10) // b sends to 10, a to 11
	exchange(c, a, 20) // a sends to 20, c to 21
	open := func(h *host, i uint32) bool { return r.step(h.wg, forge(transport, nil, i)).why == none }
	s, ok := a.keeper.Hush(r.id, b.id, time.Second)
	if !ok || s.Role != signal.WireGuardPort || s.To != r.port {
		t.Fatalf("hush %+v, %t", s, ok)
	}
	if v := r.step(c.wg, s.Bytes); v.why != unbound {
		t.Errorf("a hush from elsewhere: %s", reasonNames[v.why])
	}
	if v := r.step(a.wg, s.Bytes); v.why != none || v.reply != nil {
		t.Fatalf("hush: %+v", v)
	}
	if open(b, 10) || !open(a, 11) || !open(c, 21) {
		t.Errorf("b to a %t, want false; a to b %t, c to a %t, want true", open(b, 10), open(a, 11), open(c, 21))
	}
	if v := r.step(b.wg, forge(initiation, a, 99)); v.why != hushed {
		t.Errorf("a handshake of b: %s", reasonNames[v.why])
	}
	if v := r.step(a.wg, s.Bytes); v.why != replayed {
		t.Errorf("the same hush: %s", reasonNames[v.why])
	}
	w.now = w.now.Add(time.Second)
	if !open(b, 10) {
		t.Error("still quiet after its time")
	}
	if _, ok := a.keeper.Hush(c.id, b.id, time.Second); ok {
		t.Error("a hush at who is no relay of ours")
	}
	for i := range 20 { // a host cannot make the list long
		s, _ = a.keeper.Hush(r.id, crypto.Identity{byte(i)}, time.Hour)
		r.step(a.wg, s.Bytes)
	}
	if n := len(r.table.addresses[a.wg].hushes); n > maxHushes {
		t.Errorf("%d hushes", n)
	}
}

// Several packets in one are decided about one by one, and those that go the
// same way in a row stay together.
func TestMessage(t *testing.T) {
	w, r := star(t, 3)
	a, b, c := w.hosts[1], w.hosts[2], w.hosts[3]
	for i, h := range []*host{b, c, b} {
		x := uint32(10 * (i + 1))
		r.step(a.wg, forge(initiation, h, x))
		r.step(h.wg, forge(response, a, x+1, x))
	}
	const toB, toC, alsoB, none = 11, 21, 31, 77
	var m udp.Message
	for _, i := range []uint32{toB, toB, toB, alsoB, toC, none, toC, toB, toB} {
		m.Bytes = append(m.Bytes, forge(transport, nil, i)...)
	}
	m.Bytes, m.Segment, m.Flow = m.Bytes[:len(m.Bytes)-40], 96, flowTo(a.wg)
	var out output
	before := r.table.counts
	r.table.message(w.now, &m, &out)
	got := ""
	for _, x := range out.wide[0] {
		who := map[netip.AddrPort]string{a.wg: "a", b.wg: "b", c.wg: "c"}[x.Flow.Remote]
		got += fmt.Sprintf("%s %d/%d at %d; ", who, len(x.Bytes), x.Segment, bytes.Index(m.Bytes, x.Bytes))
	}
	if want := "b 384/96 at 0; c 96/96 at 384; a 54/0 at -1; c 96/96 at 576; b 152/96 at 672; "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// Those that are too large for a path are kept apart, in order.
	r.table.known(b.id).pathMTU, r.table.known(c.id).single = 96+28-1, true
	out.reset()
	r.table.message(w.now, &m, &out)
	if len(out.narrow[0]) != 2 || len(out.wide[0]) != 2 || out.narrow[0][0].Flow.Remote != b.wg || out.wide[0][0].Flow.Remote != c.wg {
		t.Errorf("%d narrow, %d wide", len(out.narrow[0]), len(out.wide[0]))
	}
	if out.narrow[0][0].Flow.Single || !out.wide[0][0].Flow.Single {
		t.Error("packets to one of them should leave one by one")
	}
	if n, k := r.table.counts.packets-before.packets, r.table.counts.bytes-before.bytes; n != 16 || k != 2*(8*96-40) {
		t.Errorf("counted %d packets, %d bytes", n, k)
	}
}
