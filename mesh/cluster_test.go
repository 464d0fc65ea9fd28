package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/meshtest"
)

// cluster is hosts in a synctest bubble: a real Mesh with a real memberlist
// each, over a network in memory, and in place of the router a model of
// WireGuard: packets pass between two hosts when each has the other in its
// view and a handshake was made since.
type cluster struct {
	t     *testing.T
	net   meshtest.Network
	nodes []*node
	log   *slog.Logger

	mu       sync.Mutex // guards the fields below
	sessions map[[2]int]session
	booted   uint64
}

// session is what both ends of a tunnel had when its handshake was made.
type session struct{ boots, introduced [2]uint64 }

type node struct {
	c    *cluster
	i    int
	key  *crypto.Key
	keys crypto.Keys
	dir  string
	addr netip.AddrPort // of introductions
	over netip.Addr     // in the overlay

	// change before start
	discovery bool
	name      crypto.Name
	resume    bool
	resolve   func(context.Context, string) ([]netip.Addr, error)
	deliver   func(crypto.Identity, []byte)
	versions  hello.Versions
	counts    *GossipCounts

	mesh  *Mesh // other goroutines than the test's use current
	stop  func()
	dials atomic.Int64

	mu      sync.Mutex // guards the fields below
	up      bool
	boot    uint64
	view    View
	since   map[crypto.Identity]time.Time // when a peer was added to WireGuard
	eps     []netip.AddrPort
	ordered uint64
}

func testSeed(i int) (s [32]byte) {
	s[0], s[1] = byte(i), 0x77
	return s
}

func newCluster(t *testing.T, n int) *cluster {
	t.Helper()
	if time.Now().Year() != 2000 {
		t.Fatal("a cluster lives in a bubble of testing/synctest, where waiting takes no time")
	}
	c := &cluster{t: t, sessions: make(map[[2]int]session)}
	level := slog.LevelError + 4
	if os.Getenv("MESH_LOG") != "" {
		level = slog.LevelDebug
	}
	c.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	keys := crypto.Secret{1, 2, 3}.Keys("test")
	for i := range n {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 6783)
		key := crypto.KeyFromSeed(testSeed(i))
		c.nodes = append(c.nodes, &node{
			c: c, i: i, key: key, over: key.Identity().Overlay(), keys: keys, dir: t.TempDir(), addr: addr,
			discovery: true,
			eps:       []netip.AddrPort{netip.AddrPortFrom(addr.Addr(), addr.Port()+1)},
		})
	}
	c.net.Delay(5 * time.Millisecond)
	c.net.Filter(c.tunnel)
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.kill()
		}
		time.Sleep(5 * time.Minute) // what memberlist left behind ends by its timeouts
	})
	return c
}

func (n *node) current() *Mesh {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mesh
}

func (n *node) id() crypto.Identity { return n.key.Identity() }
func (n *node) overlay() netip.Addr { return n.over }

// start launches the host with targets.
func (n *node) start(targets ...string) {
	n.c.t.Helper()
	n.c.mu.Lock()
	n.c.booted++
	boot := n.c.booted
	n.c.mu.Unlock()
	m, err := New(Config{
		Key: n.key, Keys: n.keys, Boot: boot, Name: n.name, Nickname: fmt.Sprintf("host%d", n.i+1),
		Version: "test", Datapath: advert.Userspace, StateDir: n.dir, Port: n.addr.Port(),
		Endpoints: n.endpoints, Hello: (*fakeHello)(n), Listener: fakeListener{},
		Transport: n.c.net.Transport(netip.AddrPortFrom(n.overlay(), GossipPort)),
		Resolve:   n.resolve, Targets: targets, Resume: n.resume, Discovery: n.discovery,
		Deliver: n.deliver, Versions: n.versions, Counts: n.counts, Log: n.c.log.With("host", n.i+1),
	})
	if err != nil {
		n.c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	n.mu.Lock()
	n.mesh, n.boot, n.up = m, boot, true
	n.since = make(map[crypto.Identity]time.Time)
	n.view = View{}
	n.mu.Unlock()
	wg.Go(func() {
		if err := m.Run(ctx); err != nil {
			n.c.t.Errorf("host %d: %v", n.i+1, err)
		}
	})
	wg.Go(func() { n.route(ctx) })
	m.OverlayReady()
	n.stop = func() {
		n.mu.Lock()
		n.up = false
		n.mu.Unlock()
		cancel()
		wg.Wait()
	}
}

// kill ends the host without a word to anybody.
func (n *node) kill() {
	if n.stop != nil {
		n.stop()
		n.stop = nil
	}
}

func (n *node) endpoints() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.eps)
}

// route is the model of router and WireGuard.
func (n *node) route(ctx context.Context) {
	m := n.current()
	poll := time.NewTicker(250 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case v := <-m.Views():
			n.mu.Lock()
			n.view = v
			for _, p := range v.Peers {
				if _, ok := n.since[p.Identity]; !ok {
					n.since[p.Identity] = time.Now()
				}
			}
			n.mu.Unlock()
		case <-poll.C:
			v := n.latest()
			for _, p := range v.Peers {
				n.handshake(p)
			}
		}
	}
}

func (n *node) latest() View {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.view
}

// half is what one end has of a tunnel.
func (n *node) half(peer crypto.Identity) (boot, introduced uint64, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.up {
		return 0, 0, false
	}
	for _, p := range n.view.Peers {
		if p.Identity == peer {
			return n.boot, p.Introduced, true
		}
	}
	return 0, 0, false
}

// handshake initiates one when it is our turn and there is none.
func (n *node) handshake(p Peer) {
	o := n.c.find(p.Identity)
	n.mu.Lock()
	waited := time.Since(n.since[p.Identity])
	n.mu.Unlock()
	if o == nil || !p.Initiator && waited < 3*time.Second ||
		!slices.Contains(p.Candidates, netip.AddrPortFrom(o.addr.Addr(), o.addr.Port()+1)) {
		return
	}
	if !n.c.net.Open(n.overlay(), o.overlay()) || !n.c.net.Open(o.overlay(), n.overlay()) {
		return
	}
	key, s, ok := n.c.ends(n, o)
	if !ok {
		return
	}
	n.c.mu.Lock()
	fresh := n.c.sessions[key] != s
	n.c.sessions[key] = s
	n.c.mu.Unlock()
	if fresh {
		n.current().Reachable(o.id(), netip.AddrPortFrom(o.addr.Addr(), o.addr.Port()+1))
		o.current().Reachable(n.id(), netip.AddrPortFrom(n.addr.Addr(), n.addr.Port()+1))
	}
}

func (c *cluster) ends(a, b *node) (key [2]int, s session, ok bool) {
	if a.i > b.i {
		a, b = b, a
	}
	b0, i0, ok0 := a.half(b.id())
	b1, i1, ok1 := b.half(a.id())
	return [2]int{a.i, b.i}, session{[2]uint64{b0, b1}, [2]uint64{i0, i1}}, ok0 && ok1
}

// tunnel is the network's filter.
func (c *cluster) tunnel(from, to netip.Addr) bool {
	a, b := c.byOverlay(from), c.byOverlay(to)
	if a == nil || b == nil {
		return false
	}
	key, s, ok := c.ends(a, b)
	c.mu.Lock()
	defer c.mu.Unlock()
	return ok && c.sessions[key] == s
}

func (c *cluster) byOverlay(a netip.Addr) *node {
	for _, n := range c.nodes {
		if n.overlay() == a {
			return n
		}
	}
	return nil
}

func (c *cluster) find(id crypto.Identity) *node {
	for _, n := range c.nodes {
		if n.id() == id {
			return n
		}
	}
	return nil
}

// until waits until cond holds and returns how long that took.
func (c *cluster) until(most time.Duration, what string, cond func() bool) time.Duration {
	c.t.Helper()
	start := time.Now()
	for !cond() {
		if time.Since(start) > most {
			for _, n := range c.nodes {
				if n.mesh != nil {
					c.t.Logf("host %d: members %v, status %+v", n.i+1, n.members(), n.mesh.Status())
				}
			}
			c.t.Fatalf("%s: not within %v", what, most)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// members returns the hosts that are alive in n's view, by number.
func (n *node) members() []int {
	var out []int
	for _, p := range n.latest().Peers {
		if p.Alive {
			out = append(out, n.c.find(p.Identity).i+1)
		}
	}
	slices.Sort(out)
	return out
}

// whole reports whether the hosts all see each other, and nobody else.
func whole(nodes []*node) bool {
	for _, n := range nodes {
		if len(n.members()) != len(nodes)-1 {
			return false
		}
	}
	return true
}

// entries returns what n sees of an owner's entries.
func (n *node) entries(owner *node) string {
	out := ""
	for _, e := range n.latest().Entries {
		if e.Owner == owner.id() {
			out += fmt.Sprintf("%s=%s ", e.Key, e.Value)
		}
	}
	return out
}

func allSee(nodes []*node, owner *node, want string) func() bool {
	return func() bool {
		for _, n := range nodes {
			if n.entries(owner) != want {
				return false
			}
		}
		return true
	}
}

func addrs(nodes []*node) []netip.Addr {
	var out []netip.Addr
	for _, n := range nodes {
		out = append(out, n.overlay())
	}
	return out
}

// fakeHello introduces hosts of the cluster as mesh/hello does, by their
// addresses, without TCP.
type fakeHello node

func (h *fakeHello) Serve(ctx context.Context, _ net.Listener, _ func(hello.Result)) error {
	<-ctx.Done()
	return nil
}

func (h *fakeHello) Dial(ctx context.Context, addr netip.AddrPort, pin *crypto.Identity) (hello.Result, error) {
	n := (*node)(h)
	n.dials.Add(1)
	fail := func(err error) (hello.Result, error) {
		return hello.Result{}, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	var o *node
	for _, x := range n.c.nodes {
		if x.addr == addr {
			o = x
		}
	}
	if o == nil || o != n && (!n.c.net.Open(n.overlay(), o.overlay()) || !n.c.net.Open(o.overlay(), n.overlay())) {
		select {
		case <-ctx.Done():
			return fail(ctx.Err())
		case <-time.After(10 * time.Second):
			return fail(os.ErrDeadlineExceeded)
		}
	}
	time.Sleep(20 * time.Millisecond)
	o.mu.Lock()
	up := o.up
	o.mu.Unlock()
	switch {
	case !up:
		return fail(syscall.ECONNREFUSED)
	case o == n:
		return hello.Result{}, hello.ErrSelf
	case o.keys != n.keys:
		return hello.Result{}, hello.ErrSecret
	case pin != nil && *pin != o.id():
		return hello.Result{}, hello.ErrIdentity
	}
	version, common := n.versions.Common(o.versions)
	if !common {
		return hello.Result{}, fmt.Errorf("%w: %s there, %s here", hello.ErrVersion, o.versions, n.versions)
	}
	here, there := n.current(), o.current()
	ours, theirs := here.Adverts(), there.Adverts()
	if err := errors.Join(there.Check(ours[0]), here.Check(theirs[0])); err != nil {
		return hello.Result{}, fmt.Errorf("%w: %w", hello.ErrRefused, err)
	}
	there.desk.introduce(hello.Result{
		Peer: n.id(), Boot: here.cfg.Boot, Adverts: ours, Version: version, Order: o.order(), Remote: netip.AddrPortFrom(n.addr.Addr(), 40000),
	})
	return hello.Result{
		Peer: o.id(), Boot: there.cfg.Boot, Adverts: theirs, Version: version, Dialled: true, Initiator: true, Order: n.order(), Remote: addr,
	}, nil
}

func (n *node) order() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ordered++
	return n.ordered
}

type fakeListener struct{ net.Listener }
