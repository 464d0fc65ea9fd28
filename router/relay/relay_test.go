package relay

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/udp"
)

// text is a log that tests read.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (x *text) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(b)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// end is an end of tunnels with a real socket as its WireGuard port.
type end struct {
	key    *crypto.Key
	keeper *Keeper
	s      *udp.Socket
	relay  netip.AddrPort
}

// openRelay runs a relay on loopback whose peers are n ends: those with an even
// number have IPv4, the others IPv6.
func openRelay(t testing.TB, n int, o Options) (*Relay, []*end) {
	t.Helper()
	us := crypto.KeyFromSeed([32]byte{100}).Identity()
	o.Self, o.Boot = us, 5
	r, err := Open(o)
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		must(t, <-done)
	})
	var ends []*end
	var c Config
	for i := range n {
		e := &end{key: crypto.KeyFromSeed([32]byte{byte(i + 1)})}
		network, host := "udp4", netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if i%2 == 1 {
			network, host = "udp6", netip.IPv6Loopback()
		}
		e.s, err = udp.Listen(network, 0)
		must(t, err)
		t.Cleanup(func() { must(t, e.s.Close()) })
		e.relay = netip.AddrPortFrom(host, r.Port())
		id, key := e.key.Identity(), testKeys.PairKey(e.key.Identity(), us)
		e.keeper = NewKeeper(id, uint64(i+1))
		e.keeper.Set(time.Now(), []Want{{Peer: us, Key: key, Addr: e.relay}})
		ends = append(ends, e)
		c.Peers = append(c.Peers, Peer{Identity: id, WireGuard: e.key.WireGuardPublic(), Key: key})
	}
	r.Set(c)
	for _, e := range ends {
		e.bind(t)
	}
	return r, ends
}

// send sends packets to the relay.
func (e *end) send(t testing.TB, b ...[]byte) {
	t.Helper()
	must(t, e.s.Send(b, udp.Flow{Remote: e.relay}))
}

// receive waits for n bytes and returns the messages as they came.
func (e *end) receive(t testing.TB, n int) (list []udp.Message) {
	t.Helper()
	r, bufs, into := e.s.NewReceiver(), make([][]byte, 8), make([]udp.Message, 8)
	for n > 0 {
		for i := range bufs {
			bufs[i] = make([]byte, 1<<16)
		}
		k, err := r.Receive(bufs, into)
		must(t, err)
		for _, m := range into[:k] {
			if m.Flow.Remote != e.relay {
				t.Fatalf("from %s, want %s", m.Flow.Remote, e.relay)
			}
			list = append(list, m)
			n -= len(m.Bytes)
		}
	}
	return list
}

// bind does what the keeper says until it is bound.
func (e *end) bind(t testing.TB) {
	t.Helper()
	for !e.keeper.Status()[0].Accepted {
		for _, s := range e.keeper.Due(time.Now()) {
			e.send(t, s.Bytes)
		}
		for _, m := range e.receive(t, 1) {
			p, err := signal.Parse(m.Bytes)
			must(t, err)
			e.keeper.Handle(time.Now(), m.Flow.Remote, signal.WireGuardPort, p, m.Bytes)
		}
	}
}

// greet makes two ends exchange handshakes.
func greet(t testing.TB, a, b *end) {
	t.Helper()
	for _, x := range []struct {
		from, to *end
		b        []byte
	}{
		{a, b, forge(initiation, &host{key: b.key}, 1)},
		{b, a, forge(response, &host{key: a.key}, 2, 1)},
	} {
		x.from.send(t, x.b)
		if got := x.to.receive(t, len(x.b)); !bytes.Equal(got[0].Bytes, x.b) {
			t.Fatal("another packet came")
		}
	}
}

// Ends of both families talk, and what leaves as one arrives as one.
func TestSockets(t *testing.T) {
	log := new(text)
	r, ends := openRelay(t, 2, Options{Log: slog.New(slog.NewTextHandler(log, nil))})
	a, b := ends[0], ends[1]
	greet(t, a, b)
	for round := range 20 {
		var batch [][]byte
		var want []byte
		for range 30 {
			batch = append(batch, forge(transport, nil, 2))
			want = append(want, batch[len(batch)-1]...)
		}
		a.send(t, batch...)
		list := b.receive(t, len(want))
		var got []byte
		for _, m := range list {
			got = append(got, m.Bytes...)
		}
		if !bytes.Equal(got, want) {
			t.Fatal("other bytes came")
		}
		if len(list) != 1 {
			t.Errorf("round %d: one message came as %d", round, len(list))
		}
	}
	// To a narrow path they leave one by one.
	r.mu.Lock()
	r.table.known(b.key.Identity()).pathMTU = 60
	r.mu.Unlock()
	x, y := forge(transport, nil, 2), forge(transport, nil, 2)
	a.send(t, x, y)
	if got := b.receive(t, len(x)+len(y)); len(got) != 2 || !bytes.Equal(got[0].Bytes, x) || !bytes.Equal(got[1].Bytes, y) {
		t.Errorf("%d messages came, want two", len(got))
	}
	s := r.Stats()
	if s.Packets != 604 || s.Bytes != 602*96+148+92 || s.Sessions != 1 || s.Bound != 2 || s.Dropped["unbound"] != 0 {
		t.Errorf("stats %+v", s)
	}
	list := r.Bound()
	if len(list) != 2 || list[0].Role != signal.WireGuardPort || time.Since(list[0].Last) > time.Minute {
		t.Errorf("bound %+v", list)
	}
	if n := strings.Count(log.String(), `msg="host bound at this relay"`); n != 2 {
		t.Errorf("log:\n%s", log)
	}
	r.Set(Config{})
	if n := strings.Count(log.String(), `msg="host no longer bound at this relay"`); n != 2 || r.Stats().Sessions != 0 {
		t.Errorf("log:\n%s", log)
	}
}

// Answers to the relay's own binds are handed up, and only those that their
// sender has made.
func TestReceive(t *testing.T) {
	got := make(chan []byte, 10)
	r, ends := openRelay(t, 1, Options{Receive: func(_ netip.AddrPort, b []byte) { got <- bytes.Clone(b) }})
	a := ends[0]
	us, id := r.table.self, signal.IDOf(a.key.Identity())
	right := r.table.known(a.key.Identity()).key
	for number, key := range [][32]byte{{99}, right} {
		for k := signal.Probe; k <= signal.Invite; k++ {
			a.send(t, signal.Packet{Kind: k, From: id, To: us, Number: uint64(number)}.Append(nil, key))
		}
	}
	for _, want := range []signal.Kind{signal.BindReply, signal.Notice, signal.Invite} {
		if p, err := signal.Parse(<-got); err != nil || p.Kind != want || p.Number != 1 {
			t.Errorf("%v %d, want %v of the second row", p.Kind, p.Number, want)
		}
	}
	must(t, r.Invite(a.key.Identity(), netip.AddrPortFrom(a.relay.Addr(), a.s.Port())))
	m := a.receive(t, 1)[0]
	p, err := signal.Parse(m.Bytes)
	must(t, err)
	if e := a.keeper.Handle(time.Now(), m.Flow.Remote, signal.WireGuardPort, p, m.Bytes); e.Kind != Invited {
		t.Errorf("event %+v of %+v", e, p)
	}
	if err := r.Invite(crypto.Identity{1}, a.relay); err == nil {
		t.Error("a stranger was invited")
	}
}

// node is a relay with the keeper of its own binds, as a daemon has it.
type node struct {
	*Relay
	id     crypto.Identity
	mu     sync.Mutex // guards keeper
	keeper *Keeper
	events chan Event
}

func openNode(t *testing.T, seed byte) *node {
	t.Helper()
	n := &node{id: crypto.KeyFromSeed([32]byte{seed}).Identity(), events: make(chan Event, 10)}
	n.keeper = NewKeeper(n.id, uint64(seed))
	var err error
	n.Relay, err = Open(Options{Self: n.id, Boot: uint64(seed), Receive: func(from netip.AddrPort, b []byte) {
		p, err := signal.Parse(b)
		must(t, err)
		n.mu.Lock()
		defer n.mu.Unlock()
		if e := n.keeper.Handle(time.Now(), from, signal.RelayPort, p, b); e.Kind != Nothing {
			n.events <- e
		}
		n.due()
	}})
	must(t, err)
	done := make(chan error)
	go func() { done <- n.Run(context.Background()) }()
	t.Cleanup(func() {
		must(t, n.Close())
		must(t, <-done)
	})
	return n
}

// due sends what the keeper wants sent; mu is held.
func (n *node) due() {
	for _, s := range n.keeper.Due(time.Now()) {
		_ = n.Send(s.To, s.Bytes)
	}
}

// Two relays between two ends: the second tells the first what it does not
// know, and the first tells the end.
func TestTwoRelays(t *testing.T) {
	one, two := openNode(t, 101), openNode(t, 102)
	a, b := &end{key: crypto.KeyFromSeed([32]byte{1})}, &end{key: crypto.KeyFromSeed([32]byte{2})}
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for _, x := range []struct {
		e *end
		n *node
	}{{a, one}, {b, two}} {
		var err error
		x.e.s, err = udp.Listen("udp4", 0)
		must(t, err)
		t.Cleanup(func() { must(t, x.e.s.Close()) })
		x.e.relay = netip.AddrPortFrom(local, x.n.Port())
		x.e.keeper = NewKeeper(x.e.key.Identity(), 1)
		x.e.keeper.Set(time.Now(), []Want{{Peer: x.n.id, Key: testKeys.PairKey(x.e.key.Identity(), x.n.id), Addr: x.e.relay}})
	}
	config := func(n, other *node, relay netip.AddrPort) {
		c := Config{Peers: []Peer{{Identity: other.id, Key: testKeys.PairKey(n.id, other.id), Relay: relay}}}
		for _, e := range []*end{a, b} {
			id := e.key.Identity()
			c.Peers = append(c.Peers, Peer{Identity: id, WireGuard: e.key.WireGuardPublic(), Key: testKeys.PairKey(n.id, id), Next: other.id})
		}
		n.Set(c)
	}
	config(one, two, netip.AddrPort{})
	config(two, one, netip.AddrPort{})
	a.bind(t)
	b.bind(t)
	// The first binds at the second, which is enough for both ways.
	one.mu.Lock()
	one.keeper.Set(time.Now(), []Want{{Peer: two.id, Key: testKeys.PairKey(one.id, two.id), Addr: b.relay, Role: signal.RelayPort}})
	one.due()
	one.mu.Unlock()
	if e := <-one.events; e.Kind != Bound || e.Peer != two.id || e.Addr != b.relay {
		t.Fatalf("event %+v", e)
	}
	config(one, two, b.relay)
	greet(t, a, b)
	data := forge(transport, nil, 2)
	a.send(t, data)
	if got := b.receive(t, len(data)); !bytes.Equal(got[0].Bytes, data) {
		t.Fatal("another packet came")
	}
	// The second forgets, and says so; so does the first, and says so.
	two.table.mustForget(two.Relay)
	a.send(t, data)
	if e := <-one.events; e.Kind != Noticed || e.Index != 2 {
		t.Fatalf("event %+v", e)
	} else {
		one.Forget(e.Peer, e.Index)
	}
	a.send(t, data)
	p, err := signal.Parse(a.receive(t, 1)[0].Bytes)
	must(t, err)
	if p.Kind != signal.Notice || p.Index != 2 {
		t.Errorf("%+v came", p)
	}
	// It may also forget all that goes by the other, but not what does not.
	greet(t, a, b)
	one.ForgetAll(a.key.Identity())
	if one.Stats().Sessions != 1 {
		t.Error("sessions of others are gone")
	}
	one.ForgetAll(two.id)
	if one.Stats().Sessions != 0 {
		t.Error("sessions are left")
	}
	one.Withdraw()
	before := one.Stats().Dropped["refused"]
	a.send(t, forge(initiation, &host{key: b.key}, 9), forge(transport, nil, 3)) // the notice comes after the first was refused
	a.receive(t, 1)
	if n := one.Stats().Dropped["refused"] - before; n != 1 {
		t.Errorf("%d packets refused, want one", n)
	}
}

// mustForget drops all sessions of a running relay.
func (t *table) mustForget(r *Relay) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.forget(func(*session) bool { return true })
}

func TestOpenFails(t *testing.T) {
	if _, err := Open(Options{}); err == nil {
		t.Error("opened without a boot id")
	}
	c, err := net.ListenUDP("udp4", nil)
	must(t, err)
	defer c.Close()
	if _, err := Open(Options{Boot: 1, Port: uint16(c.LocalAddr().(*net.UDPAddr).Port)}); err == nil {
		t.Error("opened a port in use")
	}
	r, err := Open(Options{Boot: 1})
	must(t, err)
	must(t, r.Close())
	must(t, r.Run(context.Background()))
	if err := r.Send(netip.MustParseAddrPort("127.0.0.1:9"), []byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send when closed: %v", err)
	}
}

// BenchmarkRelay sends batches of full packets by a relay: what an end sends as
// one message leaves as one. The rate is that of all three together.
func BenchmarkRelay(b *testing.B) {
	_, ends := openRelay(b, 3, Options{})
	from, to := ends[0], ends[2]
	greet(b, from, to)
	const packets, size = 40, 1452
	batch := make([][]byte, packets)
	for i := range batch {
		batch[i] = make([]byte, size)
		copy(batch[i], forge(transport, nil, 2))
	}
	r, bufs, into := to.s.NewReceiver(), make([][]byte, 8), make([]udp.Message, 8)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	b.SetBytes(packets * size)
	b.ReportAllocs()
	for b.Loop() {
		from.send(b, batch...)
		for got := 0; got < packets*size; {
			n, err := r.Receive(bufs, into)
			must(b, err)
			for _, m := range into[:n] {
				got += len(m.Bytes)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*packets), "ns/packet")
}

// BenchmarkTable is the decision alone: a packet that comes alone, and one of
// 40 in a message.
func BenchmarkTable(b *testing.B) {
	for _, packets := range []int{1, 40} {
		name := map[int]string{1: "alone", 40: "of40"}[packets]
		b.Run(name, func(b *testing.B) {
			w, r := star(b, 2)
			x, y := w.hosts[1], w.hosts[2]
			r.step(x.wg, forge(initiation, y, 1))
			r.step(y.wg, forge(response, x, 2, 1))
			m := udp.Message{Flow: flowTo(x.wg), Segment: 96}
			for range packets {
				m.Bytes = append(m.Bytes, forge(transport, nil, 2)...)
			}
			var out output
			b.ReportAllocs()
			for b.Loop() {
				out.reset()
				r.table.message(w.now, &m, &out)
			}
			if len(out.wide[0]) != 1 {
				b.Fatal("not sent on as one")
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*packets), "ns/packet")
		})
	}
}
