package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/replica"
)

// The real thing satisfies what we declare.
var _ Hello = (*hello.Hello)(nil)

func TestGossipConfig(t *testing.T) {
	keys := crypto.Secret{1}.Keys("test")
	c := gossipConfig(crypto.KeyFromSeed(testSeed(0)).Identity(), keys)
	got := map[string]any{
		"ProbeInterval": c.ProbeInterval, "ProbeTimeout": c.ProbeTimeout, "IndirectChecks": c.IndirectChecks,
		"SuspicionMult": c.SuspicionMult, "SuspicionMaxTimeoutMult": c.SuspicionMaxTimeoutMult,
		"GossipInterval": c.GossipInterval, "GossipNodes": c.GossipNodes, "PushPullInterval": c.PushPullInterval,
		"TCPTimeout": c.TCPTimeout, "GossipToTheDeadTime": c.GossipToTheDeadTime, "UDPBufferSize": c.UDPBufferSize,
		"EnableCompression": c.EnableCompression, "BindPort": c.BindPort, "AdvertisePort": c.AdvertisePort,
		"CIDRsAllowed": fmt.Sprint(c.CIDRsAllowed), "encrypted": c.GossipVerifyIncoming && c.GossipVerifyOutgoing && len(c.SecretKey) == 32,
	}
	want := map[string]any{
		"ProbeInterval": 2 * time.Second, "ProbeTimeout": time.Second, "IndirectChecks": 3,
		"SuspicionMult": 6, "SuspicionMaxTimeoutMult": 3,
		"GossipInterval": 200 * time.Millisecond, "GossipNodes": 3, "PushPullInterval": 30 * time.Second,
		"TCPTimeout": 5 * time.Second, "GossipToTheDeadTime": 5 * time.Minute, "UDPBufferSize": 1150,
		"EnableCompression": false, "BindPort": 6786, "AdvertisePort": 6786,
		"CIDRsAllowed": "[{fd77:6566:7400:: ffffffffffff00000000000000000000}]", "encrypted": true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if other := gossipConfig(crypto.Identity{}, crypto.Secret{1}.Keys("other")); other.Label == c.Label || len(c.Label) != 16 {
		t.Errorf("labels %q and %q", c.Label, other.Label)
	}
}

func TestSplitLine(t *testing.T) {
	for _, tt := range []struct {
		in    string
		level slog.Level
		text  string
	}{
		{"[DEBUG] memberlist: Stream connection from=1\n", slog.LevelDebug, "Stream connection from=1"},
		{"[INFO] memberlist: Updating address\n", slog.LevelInfo, "Updating address"},
		{"[WARN] memberlist: Rejected node x\n", slog.LevelWarn, "Rejected node x"},
		{"[ERR] memberlist: Decrypt packet failed\n", slog.LevelError, "Decrypt packet failed"},
		{"[ERROR] memberlist: Failed to compress\n", slog.LevelError, "Failed to compress"},
		{"[ERR] Failed to shutdown transport: x\n", slog.LevelError, "Failed to shutdown transport: x"},
		{"[WARN] memberlist: ignoring alive message for 'x': y\n", slog.LevelDebug, "ignoring alive message for 'x': y"},
		{"[ERR] memberlist: Push/Pull with x failed: y\n", slog.LevelDebug, "Push/Pull with x failed: y"},
		{"Err: Could not set the deadline\n", slog.LevelWarn, "Err: Could not set the deadline"},
		{"[odd\n", slog.LevelWarn, "[odd"},
		{"", slog.LevelWarn, ""},
		{`[ERR] memberlist: discarding stream with unacceptable label "": from=10.1.2.3:4` + "\n", slog.LevelDebug, `discarding stream with unacceptable label "": from=10.1.2.3:4`},
		{`[ERR] memberlist: discarding stream with unacceptable label "other": from=10.1.2.3:4` + "\n", slog.LevelError, `discarding stream with unacceptable label "other": from=10.1.2.3:4`},
	} {
		if level, text := splitLine(tt.in); level != tt.level || text != tt.text {
			t.Errorf("%q: %v %q, want %v %q", tt.in, level, text, tt.level, tt.text)
		}
	}
}

func TestAlive(t *testing.T) {
	self, peer, stranger := crypto.KeyFromSeed(testSeed(0)).Identity(), crypto.KeyFromSeed(testSeed(1)).Identity(), crypto.KeyFromSeed(testSeed(2)).Identity()
	m := &Mesh{self: self, desk: newDesk(hello.Versions{})}
	d := &delegate{m}
	node := func(id crypto.Identity, overlay netip.Addr, port uint16) *memberlist.Node {
		return &memberlist.Node{Name: id.String(), Addr: net.IP(overlay.AsSlice()), Port: port}
	}
	check := func(step string, n *memberlist.Node, want error) {
		t.Helper()
		if got := d.NotifyAlive(n); !errors.Is(got, want) {
			t.Errorf("%s: %v, want %v", step, got, want)
		}
	}
	check("ourselves", node(self, self.Overlay(), GossipPort), nil)
	check("ourselves elsewhere", node(self, peer.Overlay(), GossipPort), errNotPeer)
	check("unknown", node(peer, peer.Overlay(), GossipPort), errUnknown)
	m.desk.reachable(peer, netip.AddrPort{})
	check("reachable, but unknown", node(peer, peer.Overlay(), GossipPort), errUnknown)
	m.desk.setKnown(peer)
	check("known", node(peer, peer.Overlay(), GossipPort), errNotReachable)
	m.desk.reachable(peer, netip.AddrPort{})
	check("reachable", node(peer, peer.Overlay(), GossipPort), nil)
	check("at another's address", node(peer, stranger.Overlay(), GossipPort), errNotPeer)
	check("at another port", node(peer, peer.Overlay(), 7946), errNotPeer)
	check("at an IPv4 address", &memberlist.Node{Name: peer.String(), Addr: net.IPv4(192, 0, 2, 1).To4(), Port: GossipPort}, errNotPeer)
	check("without address", &memberlist.Node{Name: peer.String(), Port: GossipPort}, errNotPeer)
	d.NotifyJoin(node(peer, peer.Overlay(), GossipPort))
	check("a member", node(peer, peer.Overlay(), GossipPort), nil)
	check("forged about a member", node(peer, self.Overlay(), GossipPort), errNotPeer)

	// A member is never refused, whatever else has been forgotten.
	m.desk.standing[stranger] = standing{member: true}
	check("a member alone", node(stranger, stranger.Overlay(), GossipPort), nil)
	for _, name := range []string{"", "host1", peer.String()[1:], peer.String() + "0", fmt.Sprintf("%X", peer[:])} {
		if err := d.NotifyAlive(&memberlist.Node{Name: name, Addr: net.IP(peer.Overlay().AsSlice()), Port: GossipPort}); err == nil {
			t.Errorf("name %q is taken", name)
		}
	}
}

// Forged statements sent with the cluster's key, by memberlist itself.
func TestForged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 4)
		// A peer that everybody knows and reached, long dead and forgotten by
		// memberlist: its place is free.
		dead := c.nodes[3]
		dead.kill()
		rest := c.nodes[:3]
		time.Sleep(20 * time.Minute)
		victim, forged := c.nodes[0], crypto.KeyFromSeed(testSeed(50)).Identity()
		for i, n := range []struct {
			name string
			addr netip.Addr
		}{
			{c.nodes[1].id().String(), forged.Overlay()}, // a member at a wrong address
			{forged.String(), forged.Overlay()},          // nobody knows it
			{"no identity", forged.Overlay()},
			{dead.id().String(), forged.Overlay()},
		} {
			// The attacker is what it says towards itself, and joins.
			conf := gossipConfig(c.nodes[1].id(), victim.keys)
			conf.Name, conf.Logger = n.name, nil
			conf.LogOutput = logWriter{slog.New(slog.DiscardHandler)}
			conf.Transport = attacker{c.net.Transport(netip.AddrPortFrom(forged.Overlay(), GossipPort)), n.addr}
			c.net.Filter(nil)
			ml, err := memberlist.Create(conf)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ml.Join([]string{joinAddress(victim.id())}); err != nil {
				t.Logf("join %d: %v", i, err)
			}
			time.Sleep(5 * time.Second)
			if !whole(rest) {
				t.Errorf("forgery %d: members %v", i, victim.members())
			}
			if got := victim.mesh.gossip.members(); got != 3 {
				t.Errorf("forgery %d: memberlist counts %d", i, got)
			}
			_ = ml.Shutdown()
			c.net.Filter(c.tunnel)
			time.Sleep(time.Minute)
		}
		if !whole(rest) {
			t.Error("the forgeries killed somebody")
		}
	})
}

// members is what memberlist counts, us included.
func (g *gossip) members() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ml.NumMembers()
}

type attacker struct {
	memberlist.NodeAwareTransport
	addr netip.Addr
}

func (a attacker) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IP(a.addr.AsSlice()), GossipPort, nil
}

func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 4)
		n := c.nodes[3]
		if err := n.mesh.Put("n/a", nil); err != nil {
			t.Fatal(err)
		}
		c.until(time.Second, "entry", allSee(c.nodes, n, "n/a= "))
		start := time.Now()
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
		defer stop()
		if err := n.mesh.Leave(ctx); err != nil {
			t.Error(err)
		}
		t.Logf("Leave took %v", time.Since(start))
		t.Logf("gone everywhere %v later", c.until(time.Second, "gone", func() bool {
			return whole(c.nodes[:3]) && allSee(c.nodes[:3], n, "")()
		}))
		n.kill()
		if err := n.mesh.Leave(t.Context()); err != nil {
			t.Errorf("after the end: %v", err)
		}
		n.start()
		t.Logf("started again: back after %v", c.until(10*time.Second, "back", func() bool { return whole(c.nodes) }))
	})
}

// What does not fit into the queue is dropped and counted; nothing waits.
func TestQueueFull(t *testing.T) {
	m := &Mesh{desk: newDesk(hello.Versions{}), messages: make(chan []byte, 2)}
	d := &delegate{m}
	b := replica.Message{Kind: replica.KindDigest}.Marshal()
	for range 5 {
		d.NotifyMsg(b)
	}
	d.MergeRemoteState(make([]byte, maxDigest+1), false)
	d.NotifyMsg(make([]byte, maxMessage+1))
	if got := m.counts.dropped.Load(); got != 5 || len(m.messages) != 2 {
		t.Errorf("%d dropped, %d queued", got, len(m.messages))
	}
	b[0] = 0xff
	if first := <-m.messages; first[0] == 0xff {
		t.Error("the message was not copied")
	}
}

// The transport over sockets, on loopback: what it dialled ends with ctx.
func TestOverlayTransport(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithCancel(t.Context())
	conf := memberlist.DefaultLANConfig()
	conf.BindAddr, conf.BindPort = "127.0.0.1", 0
	conf.Logger = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	tr, err := listenOverlay(ctx, conf)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", tr.GetAutoBindPort())
	out, err := tr.DialAddressTimeout(memberlist.Address{Addr: addr, Name: "x"}, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	in := <-tr.StreamCh()
	tr.most = 10 * time.Millisecond // for one who does not read
	stuck, err := tr.DialTimeout(addr, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	never := <-tr.StreamCh()
	if _, err := stuck.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a write that nobody reads: %v", err)
	}
	_, _ = stuck.Close(), never.Close()
	cancel()
	if _, err := out.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlives its context")
	}
	_, _ = in.Close(), out.Close()
	if _, err := tr.DialTimeout(addr, time.Second); err == nil {
		t.Error("dialled after the end")
	}
	if err := tr.Shutdown(); err != nil {
		t.Error(err)
	}
	conf.BindAddr = "192.0.2.1"
	if _, err := listenOverlay(ctx, conf); err == nil {
		t.Error("listens on an address that is not here")
	}
}

// Two hosts with the real introduction over TCP, no gossip.
func TestRealHello(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithCancel(t.Context())
	keys := crypto.Secret{7}.Keys("test")
	var done []chan error
	start := func(i int, targets ...string) *Mesh {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var m *Mesh
		key, boot := crypto.KeyFromSeed(testSeed(i)), uint64(i+1)
		h := hello.New(hello.Config{
			Key: key, Keys: keys, Boot: boot,
			Adverts: func() []advert.Signed { return m.Adverts() },
			Check:   func(a advert.Signed) error { return m.Check(a) },
		})
		m, err = New(Config{
			Key: key, Keys: keys, Boot: boot, Datapath: advert.Kernel, StateDir: t.TempDir(),
			Port: uint16(ln.Addr().(*net.TCPAddr).Port), Hello: h, Listener: ln, Targets: targets, Discovery: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		end := make(chan error, 1)
		done = append(done, end)
		go func() { end <- m.Run(ctx) }()
		return m
	}
	a := start(0)
	b := start(1, fmt.Sprintf("127.0.0.1:%d", a.cfg.Port))
	find := func(m *Mesh) Peer {
		for {
			select {
			case v := <-m.Views():
				if len(v.Peers) == 1 {
					return v.Peers[0]
				}
			case <-time.After(20 * time.Second):
				t.Fatal("not introduced")
			}
		}
	}
	pa, pb := find(b), find(a)
	if pa.Identity != a.self || pa.Introduced != 1 || !pa.Initiator || pa.Candidates[0].Port() != a.cfg.Port+1 {
		t.Errorf("the dialler sees %+v", pa)
	}
	if pb.Identity != b.self || pb.Introduced != 1 || pb.Initiator || pb.Candidates[0] != netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.cfg.Port+1) {
		t.Errorf("the listener sees %+v", pb)
	}
	cancel()
	for _, end := range done {
		if err := <-end; err != nil {
			t.Error(err)
		}
	}
}
