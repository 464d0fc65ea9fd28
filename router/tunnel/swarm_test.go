package tunnel_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/meshtest"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/tunnel"
	"github.com/weftnet/weft/router/wireguard"
)

// swarm is the hosts and what is between them.
type swarm struct {
	t     *testing.T
	net   meshtest.Network
	hosts []*member
	keys  crypto.Keys

	byAddr    map[netip.Addr]*member // of the underlay
	byOverlay map[netip.Addr]*member
	byKey     map[[32]byte]*member

	mu       sync.Mutex // guards what follows
	sent     traffic
	sessions map[[2]int]*session
}

// session is the tunnel between two hosts, the first of which initiated it.
type session struct {
	ends   [2]*member
	shaken time.Time
	passed time.Time    // when anything did
	owed   [2]time.Time // when that end has to answer with a keepalive; zero: it need not
}

// member is one host.
type member struct {
	*swarm
	number  int
	key     *crypto.Key
	public  [32]byte // of WireGuard
	eps     []netip.AddrPort
	mesh    *mesh.Mesh
	tunnels *tunnel.Tunnels
	known   chan func(hello.Result) // of its introductions
	wg      sync.WaitGroup

	// Under the swarm's mu:
	device map[[32]byte]*wireguard.PeerStatus
	alive  map[[32]byte]time.Duration // persistent keepalive; a key is a peer of the device
	bound  map[crypto.Identity]bool
	order  uint64
}

// trip is the time from one host to another; some jitter as everywhere.
func trip() time.Duration { return 500*time.Microsecond + rand.N(100*time.Microsecond) }

func newSwarm(t *testing.T, n int) *swarm {
	t.Helper()
	_ = t.TempDir() // is removed when all have ended
	s := &swarm{
		t: t, keys: crypto.Secret{7}.Keys("idle"),
		byAddr: map[netip.Addr]*member{}, byOverlay: map[netip.Addr]*member{}, byKey: map[[32]byte]*member{},
		sessions: map[[2]int]*session{},
	}
	s.net.Delay(time.Millisecond)
	s.net.Filter(func(from, to netip.Addr) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.session(s.byOverlay[from], s.byOverlay[to]) != nil
	})
	for i := range n {
		m := &member{
			swarm: s, number: i, key: crypto.KeyFromSeed([32]byte{byte(i), byte(i >> 8), 3}),
			known:  make(chan func(hello.Result), 1),
			device: map[[32]byte]*wireguard.PeerStatus{}, alive: map[[32]byte]time.Duration{}, bound: map[crypto.Identity]bool{},
		}
		six := netip.MustParseAddr("2001:db8::").As16()
		six[15] = byte(i + 1)
		for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)}), netip.AddrFrom16(six)} {
			m.eps = append(m.eps, netip.AddrPortFrom(a, 6784))
			s.byAddr[a] = m
		}
		m.public = m.key.WireGuardPublic()
		s.byOverlay[m.key.Identity().Overlay()], s.byKey[m.public] = m, m
		s.hosts = append(s.hosts, m)
	}
	return s
}

// join starts one host after the other; each but the first is told of that one.
func (s *swarm) join(gap time.Duration) {
	ctx, cancel := context.WithCancel(s.t.Context())
	s.t.Cleanup(func() {
		cancel()
		for _, m := range s.hosts {
			m.wg.Wait()
		}
		time.Sleep(5 * time.Minute) // what memberlist left behind ends by its timeouts
	})
	for _, m := range s.hosts {
		m.start(ctx)
		time.Sleep(gap)
	}
	go func() {
		for ctx.Err() == nil {
			time.Sleep(time.Second)
			s.keepalives()
		}
	}()
}

func (m *member) start(ctx context.Context) {
	var targets []string
	if m.number > 0 {
		targets = []string{m.hosts[0].eps[0].Addr().String()}
	}
	id := m.key.Identity()
	var err error
	m.mesh, err = mesh.New(mesh.Config{
		Key: m.key, Keys: m.keys, Boot: uint64(m.number + 1), Nickname: fmt.Sprintf("host%d", m.number+1),
		Version: "test", Datapath: advert.Userspace, StateDir: m.t.TempDir(), Port: 6783,
		Endpoints: func() []netip.AddrPort { return m.eps }, Hello: introducer{m}, Listener: nobody{},
		Transport: &counted{m.net.Transport(netip.AddrPortFrom(id.Overlay(), mesh.GossipPort)), m},
		Targets:   targets, Discovery: true,
		Deliver: func(from crypto.Identity, b []byte) { m.tunnels.Deliver(from, b) },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.tunnels = tunnel.New(tunnel.Config{
		Key: m.key, Keys: m.keys, Boot: uint64(m.number + 1), MTU: 1370,
		Mesh: m.mesh, Device: device{m}, Relay: relayer{m}, Pinger: pinger{m},
		Endpoints: func() []netip.AddrPort { return m.eps }, Usable: advert.Usable,
		Ceiling: func() int { return 1500 },
	})
	m.tunnels.Adopt(mesh.View{})
	m.wg.Go(func() { _ = m.mesh.Run(ctx) })
	m.wg.Go(func() { _ = m.tunnels.Run(ctx) })
	m.wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case v := <-m.mesh.Views():
				m.plan(v)
				m.tunnels.SetView(v)
			case <-m.tunnels.Changed():
			}
		}
	})
	m.mesh.OverlayReady()
}

// plan makes the peers of a view those of the device.
func (m *member) plan(v mesh.View) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range v.Peers {
		c := tunnel.PeerConfig(m.keys, m.key.Identity(), p, m.tunnels.Way(p.Identity))
		m.alive[p.WireGuard] = c.Keepalive
		if m.device[p.WireGuard] == nil {
			m.device[p.WireGuard] = &wireguard.PeerStatus{PublicKey: p.WireGuard}
		}
	}
}

// whole waits until every host reaches every other as a member, and returns how
// long that took.
func (s *swarm) whole(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	begun := time.Now()
	for {
		missing := 0
		for _, m := range s.hosts {
			if m.mesh.Status().Members < len(s.hosts)-1 {
				missing++
				continue
			}
			for _, p := range m.tunnels.Snapshot().Peers {
				if !p.Way.Up || !p.Alive {
					missing++
				}
			}
		}
		took := time.Since(begun)
		if missing == 0 {
			return took
		}
		if took > limit {
			t.Fatalf("%d are missing after %s", missing, took)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// taken is what was sent since it was called last.
func (s *swarm) taken() traffic {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.sent
	s.sent = traffic{}
	return t
}

func headers(a netip.Addr) int {
	if a.Is4() {
		return signal.HeadersIPv4
	}
	return signal.HeadersIPv6
}

// count is called with mu held.
func (s *swarm) count(k kind, bytes int) {
	s.sent[k].packets++
	s.sent[k].bytes += bytes
}

// session is called with mu held; nil: none stands.
func (s *swarm) session(a, b *member) *session {
	if a == nil || b == nil {
		return nil
	}
	return s.sessions[pair(a, b)]
}

func pair(a, b *member) [2]int { return [2]int{min(a.number, b.number), max(a.number, b.number)} }

// shake makes a handshake, when both devices have the other as a peer.
func (s *swarm) shake(from, to *member, at netip.AddrPort) {
	now := time.Now()
	s.count(handshakes, 148+headers(at.Addr()))
	if _, ok := to.alive[from.public]; !ok {
		return
	}
	s.count(handshakes, 92+headers(at.Addr()))
	back := from.eps[0]
	if at.Addr().Is6() {
		back = from.eps[1]
	}
	here, there := from.device[to.public], to.device[from.public]
	here.LastHandshake, there.LastHandshake = now, now
	here.Endpoint, there.Endpoint = at, back
	here.TxBytes, there.RxBytes = here.TxBytes+148, there.RxBytes+148
	here.RxBytes, there.TxBytes = here.RxBytes+92, there.TxBytes+92
	x := &session{ends: [2]*member{from, to}, shaken: now, passed: now}
	s.sessions[pair(from, to)] = x
	s.through(x, from, keepalives, 0) // confirms
}

// through counts a packet of so many bytes inside a tunnel; mu is held.
func (s *swarm) through(x *session, from *member, k kind, inner int) {
	now, end := time.Now(), 0
	if x.ends[1] == from {
		end = 1
	}
	to := x.ends[1-end]
	here, there := from.device[to.public], to.device[from.public]
	n := 32 + (inner+15)&^15
	here.TxBytes, there.RxBytes = here.TxBytes+uint64(n), there.RxBytes+uint64(n)
	s.count(k, n+headers(here.Endpoint.Addr()))
	x.passed, x.owed[end] = now, time.Time{}
	if inner > 0 && x.owed[1-end].IsZero() {
		x.owed[1-end] = now.Add(10 * time.Second)
	}
	if end == 0 && now.Sub(x.shaken) > 120*time.Second {
		s.shake(from, to, here.Endpoint)
	}
}

// keepalives does what WireGuard's timers do.
func (s *swarm) keepalives() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, x := range s.sessions {
		for end, m := range x.ends {
			every := m.alive[x.ends[1-end].public]
			if owed := x.owed[end]; !owed.IsZero() && !owed.After(now) || every > 0 && now.Sub(x.passed) >= every {
				s.through(x, m, keepalives, 0)
			}
		}
	}
}
