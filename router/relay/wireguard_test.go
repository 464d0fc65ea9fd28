package relay

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/weftnet/weft/router/signal"
)

// air is a network for real devices: packets take a while, overtake one another
// and get lost.
type air struct {
	mu   sync.Mutex // guards what follows
	w    *world
	rand *rand.Rand
	lost float64 // share
	wg   map[netip.AddrPort]chan datagram
	sent map[byte]int // WireGuard's messages that the ends sent, by type
}

// fly sends a packet; the lock is held.
func (a *air) fly(d datagram) {
	if a.rand.Float64() < a.lost {
		return
	}
	time.AfterFunc(time.Duration(2000+a.rand.IntN(6000))*time.Microsecond, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.w.now = time.Now()
		if in := a.wg[d.to]; in != nil && !signal.Is(d.b) {
			select {
			case in <- d:
			default:
			}
			return
		}
		a.w.deliver(d)
		a.flush()
	})
}

// flush sends what hosts want sent.
func (a *air) flush() {
	for _, h := range a.w.hosts {
		for _, s := range h.keeper.Due(a.w.now) {
			a.w.send(h.addr(s.Role), s.To, s.Bytes)
		}
	}
	for _, d := range a.w.queue {
		a.fly(d)
	}
	a.w.queue = nil
}

// airBind is a conn.Bind in the air.
type airBind struct {
	a      *air
	addr   netip.AddrPort
	mu     sync.Mutex
	closed chan struct{}
}

func (b *airBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	in, closed := make(chan datagram, 1000), make(chan struct{})
	b.closed = closed
	b.a.mu.Lock()
	b.a.wg[b.addr] = in
	b.a.mu.Unlock()
	return []conn.ReceiveFunc{func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case <-closed:
			return 0, net.ErrClosed
		case d := <-in:
			sizes[0], eps[0] = copy(bufs[0], d.b), airEndpoint(d.from)
			return 1, nil
		}
	}}, port, nil
}

func (b *airBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		close(b.closed)
	}
	b.closed = nil
	return nil
}

func (b *airBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	b.a.mu.Lock()
	defer b.a.mu.Unlock()
	for _, x := range bufs {
		b.a.sent[x[0]]++
		b.a.fly(datagram{b.addr, netip.AddrPort(ep.(airEndpoint)), append([]byte(nil), x...)})
	}
	return nil
}

func (b *airBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	ep, err := netip.ParseAddrPort(s)
	return airEndpoint(ep), err
}

func (*airBind) SetMark(uint32) error { return nil }
func (*airBind) BatchSize() int       { return 1 }

type airEndpoint netip.AddrPort

func (airEndpoint) ClearSrc()             {}
func (airEndpoint) SrcToString() string   { return "" }
func (e airEndpoint) DstToString() string { return netip.AddrPort(e).String() }
func (e airEndpoint) DstIP() netip.Addr   { return netip.AddrPort(e).Addr() }
func (airEndpoint) SrcIP() netip.Addr     { return netip.Addr{} }
func (e airEndpoint) DstToBytes() []byte {
	b, _ := netip.AddrPort(e).MarshalBinary()
	return b
}

// held keeps wireguard-go's peers from the garbage collector for the life of
// the process: their finalizers read channels, which those of a bubble do not
// allow outside of it.
var held = &struct {
	mu   sync.Mutex
	refs []any
}{refs: []any{}}

// tunnel is a real device at one end of a chain.
type tunnel struct {
	dev  *device.Device
	peer *device.Peer
	tun  *tuntest.ChannelTUN
	addr netip.Addr
	got  chan struct{} // something came out
}

func (a *air) open(t *testing.T, h, other, first *host, n byte) *tunnel {
	x := &tunnel{tun: tuntest.NewChannelTUN(), addr: netip.AddrFrom4([4]byte{10, 0, 0, n}), got: make(chan struct{}, 1)}
	x.dev = device.NewDevice(x.tun.TUN(), &airBind{a: a, addr: h.wg}, device.NewLogger(device.LogLevelSilent, ""))
	private, public := h.key.WireGuardPrivate(), other.key.WireGuardPublic()
	config := fmt.Sprintf("private_key=%s\nlisten_port=6784\npublic_key=%s\nallowed_ip=10.0.0.0/24\n",
		hex.EncodeToString(private[:]), hex.EncodeToString(public[:]))
	if first != nil {
		config += fmt.Sprintf("endpoint=%s\n", first.port)
	}
	must(t, x.dev.IpcSet(config))
	must(t, x.dev.Up())
	x.peer = x.dev.LookupPeer(device.NoisePublicKey(public))
	held.mu.Lock()
	defer held.mu.Unlock()
	held.refs = append(held.refs, x.peer)
	return x
}

// drain takes what comes out of a tunnel.
func (x *tunnel) drain(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.tun.Inbound:
			select {
			case x.got <- struct{}{}:
			default:
			}
		}
	}
}

// send puts a packet into x every 100 ms.
func (x *tunnel) send(ctx context.Context, y *tunnel) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case <-ctx.Done():
			return
		case x.tun.Outbound <- tuntest.Ping(y.addr, x.addr):
		}
	}
}

// within fails the test when nothing comes out of x for so long.
func (x *tunnel) within(t *testing.T, what string, d time.Duration) {
	t.Helper()
	select { // what came before does not count
	case <-x.got:
	default:
	}
	start := time.Now()
	select {
	case <-x.got:
		t.Logf("%s: %v", what, time.Since(start))
	case <-time.After(d):
		t.Fatalf("%s: nothing came within %v", what, d)
	}
}

// Two real devices talk through one and three relays, in spite of loss and
// disorder, and again after any of the relays was restarted: the ends are told,
// and one of them forces a handshake.
func TestWireGuard(t *testing.T) {
	for _, relays := range []int{1, 3} {
		for _, lost := range []float64{0, 0.1} {
			t.Run(fmt.Sprintf("%d relays, %.0f %% lost", relays, 100*lost), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { throughRelays(t, relays, lost) })
			})
		}
	}
}

func throughRelays(t *testing.T, relays int, lost float64) {
	w := chain(t, relays)
	a := &air{
		w: w, rand: rand.New(rand.NewPCG(1, uint64(relays))), lost: lost,
		wg: make(map[netip.AddrPort]chan datagram), sent: make(map[byte]int),
	}
	left, first, _, right := w.ends()
	// One end initiates; the other learns where it is from that.
	x, y := a.open(t, left, right, first, 1), a.open(t, right, left, nil, 2)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { a.run(ctx, left, x) })
	for _, e := range [][2]*tunnel{{x, y}, {y, x}} {
		running.Go(func() { e[0].drain(ctx) })
		running.Go(func() { e[0].send(ctx, e[1]) })
	}
	defer func() {
		stop()
		running.Wait()
		x.dev.Close()
		y.dev.Close()
	}()
	patience, heals := 300*time.Millisecond, 3*time.Second
	if lost > 0 {
		patience, heals = time.Minute, time.Minute // WireGuard tries again every 5 s
	}
	x.within(t, "start, left", patience)
	y.within(t, "start, right", patience)
	for i := range relays {
		r := w.hosts[1+i]
		a.mu.Lock()
		r.start()
		// It invites its neighbours.
		w.hosts[i].keeper.Now(r.id)
		w.hosts[i+2].keeper.Now(r.id)
		a.mu.Unlock()
		time.Sleep(100 * time.Millisecond) // what was under way
		x.within(t, fmt.Sprintf("relay %d restarted, left", i+1), heals)
		y.within(t, fmt.Sprintf("relay %d restarted, right", i+1), heals)
	}
	// Sessions are renewed after two minutes, and nobody notices.
	a.mu.Lock()
	before := a.sent[initiation]
	a.mu.Unlock()
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); {
		time.Sleep(10 * time.Second)
		x.within(t, "later, left", time.Second)
		y.within(t, "later, right", time.Second)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sent[initiation] == before {
		t.Error("no handshake in three minutes")
	}
	if n := first.table.pairs; n == 0 || n > 8 {
		t.Errorf("%d sessions at the first relay", n)
	}
}

// run is the hosts' clocks, and what the ends' daemons do: when a relay does not
// know a session, x forces a handshake.
func (a *air) run(ctx context.Context, left *host, x *tunnel) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var forced time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.mu.Lock()
		a.w.now = time.Now()
		a.flush()
		for _, h := range a.w.hosts {
			h.table.sweep(a.w.now)
		}
		noticed := false
		for _, e := range left.events {
			noticed = noticed || e.Kind == Noticed && e.Role == signal.WireGuardPort
		}
		left.events = nil
		a.mu.Unlock()
		if noticed && time.Since(forced) > 2*time.Second {
			forced = time.Now()
			x.peer.ExpireCurrentKeypairs() // or it would wait for 5 s since the last
			_ = x.peer.SendHandshakeInitiation(false)
		}
	}
}
