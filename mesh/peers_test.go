package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/replica"
)

// alone returns a mesh that does not run: its steps are called by the test.
func alone(t *testing.T, change func(*Config)) *Mesh {
	t.Helper()
	cfg := Config{
		Key: crypto.KeyFromSeed(testSeed(0)), Boot: 100, Nickname: "self", Datapath: advert.Kernel,
		StateDir: t.TempDir(), Port: 6783, Hello: new(fakeHello), Discovery: true,
	}
	if change != nil {
		change(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.workers.Wait)
	return m
}

func signed(t *testing.T, i int, change func(*advert.Advert)) advert.Signed {
	t.Helper()
	a := advert.Advert{
		Nickname: fmt.Sprintf("host%d", i), Boot: uint64(i), Seq: 1, Datapath: advert.Userspace, HelloPort: 6783,
		Endpoints: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 6784)},
	}
	if change != nil {
		change(&a)
	}
	s, err := advert.Sign(crypto.KeyFromSeed(testSeed(i)), a)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (m *Mesh) latestView() View {
	m.publish()
	return <-m.views
}

func TestCandidates(t *testing.T) {
	now := time.Now()
	m := alone(t, nil)
	a := signed(t, 1, func(a *advert.Advert) {
		a.Endpoints = append(a.Endpoints, netip.MustParseAddrPort("127.0.0.1:6784"),
			netip.MustParseAddrPort("[fd77:6566:7400::1]:6784"), netip.MustParseAddrPort("192.0.2.9:7001"))
	})
	peer := func() Peer {
		t.Helper()
		v := m.latestView()
		if len(v.Peers) != 1 {
			t.Fatalf("%d peers", len(v.Peers))
		}
		return v.Peers[0]
	}
	check := func(step string, introduced uint64, initiator bool, want ...string) {
		t.Helper()
		p := peer()
		var got []string
		for _, c := range p.Candidates {
			got = append(got, c.String())
		}
		if diff := cmp.Diff(want, got); diff != "" || p.Introduced != introduced || p.Initiator != initiator {
			t.Errorf("%s: introduced %d, initiator %v, candidates (-want +got):\n%s", step, p.Introduced, p.Initiator, diff)
		}
	}
	if _, err := m.learn(now, a); err != nil {
		t.Fatal(err)
	}
	smaller := m.self.Compare(a.Identity) < 0
	check("by gossip", 0, smaller, "198.51.100.1:6784", "192.0.2.9:7001")
	r := hello.Result{Peer: a.Identity, Adverts: []advert.Signed{a}, Order: 5, Initiator: true, Dialled: true, Remote: netip.MustParseAddrPort("192.0.2.9:7000")}
	m.introduced(now, r)
	check("we dialled", 1, true, "192.0.2.9:7001", "198.51.100.1:6784")
	r.Order, r.Initiator, r.Dialled, r.Remote = 4, false, false, netip.MustParseAddrPort("[::ffff:192.0.2.8]:55555")
	m.introduced(now, r)
	check("an older result arrives later", 2, true, "192.0.2.8:6784", "198.51.100.1:6784", "192.0.2.9:7001")
	m.reached(now, a.Identity, netip.MustParseAddrPort("203.0.113.1:1234"))
	m.reached(now, a.Identity, netip.AddrPort{})
	check("a handshake", 2, true, "203.0.113.1:1234", "192.0.2.8:6784", "198.51.100.1:6784", "192.0.2.9:7001")

	restarted := signed(t, 1, func(a *advert.Advert) { a.Seq, a.Boot = 2, 99 })
	for range 2 {
		if _, err := m.learn(now, restarted); err != nil {
			t.Fatal(err)
		}
		check("it restarted", 2, smaller, "203.0.113.1:1234", "192.0.2.8:6784", "198.51.100.1:6784")
	}
	r.Adverts, r.Order, r.Initiator = []advert.Signed{restarted}, 1, !smaller
	m.introduced(now, r)
	check("introduced after the restart", 3, !smaller, "203.0.113.1:1234", "192.0.2.8:6784", "198.51.100.1:6784")
	m.introduced(now, hello.Result{Peer: crypto.Identity{1}}) // of nobody we know
	m.reached(now, crypto.Identity{1}, netip.AddrPort{})
}

func TestWhoIsDialled(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name      string
		discovery bool
		limit     int
		want      string // 1 target, 2 introduced, 3 member, 4 known
	}{
		{"all", true, 0, "1234"},
		{"limit", true, 2, "13"},
		{"no discovery", false, 0, "12"},
	} {
		m := alone(t, func(c *Config) {
			c.Discovery, c.ConnLimit, c.Targets = tt.discovery, tt.limit, []string{"198.51.100.1"}
		})
		for i := range 4 {
			if _, err := m.learn(now, signed(t, i+1, nil)); err != nil {
				t.Fatal(err)
			}
		}
		id := func(i int) crypto.Identity { return crypto.KeyFromSeed(testSeed(i)).Identity() }
		m.targets[0].peer = id(1)
		m.nameTargets()
		m.peers[id(2)].introduced = 1
		m.peers[id(3)].member = true
		got := ""
		for i := range 4 {
			for _, p := range m.latestView().Peers {
				if p.Identity == id(i+1) && len(p.Candidates) > 0 {
					got += fmt.Sprint(i + 1)
				} else if p.Identity == id(i+1) && p.Initiator {
					t.Errorf("%s: we initiate to %d without an endpoint", tt.name, i+1)
				}
			}
		}
		if got != tt.want {
			t.Errorf("%s: %s are dialled, want %s", tt.name, got, tt.want)
		}
	}
}

func TestNameTaken(t *testing.T) {
	now := time.Now()
	m := alone(t, nil)
	a, b := signed(t, 1, nil), signed(t, 2, nil)
	if _, err := m.learn(now, a); err != nil {
		t.Fatal(err)
	}
	m.publish()
	thief := signed(t, 3, func(x *advert.Advert) { x.Name = a.Name })
	for what, err := range map[string]error{
		"introduction": m.Check(thief),
		"advert":       func() error { _, err := m.learn(now, thief); return err }(),
		"gossip":       m.verifyAdvert(thief.Identity, thief.Seq, thief.Bytes()),
		"our own name": m.Check(signed(t, 4, func(x *advert.Advert) { x.Name = m.cfg.Name })),
	} {
		if err == nil || !strings.Contains(err.Error(), "give one of the two another with --name") {
			t.Errorf("%s: %v", what, err)
		} else if what != "our own name" && (!strings.Contains(err.Error(), a.Identity.Fingerprint()) || !strings.Contains(err.Error(), thief.Identity.Fingerprint())) {
			t.Errorf("%s: fingerprints are missing: %v", what, err)
		}
	}
	if err := errors.Join(m.Check(a), m.Check(b)); err != nil {
		t.Error(err)
	}
	if got := m.latestView(); len(got.Peers) != 1 || len(m.Status().Warnings) != 1 {
		t.Errorf("%d peers, warnings %q", len(got.Peers), m.Status().Warnings)
	}
	// A peer that takes another name frees its old one.
	renamed := signed(t, 1, func(x *advert.Advert) { x.Name, x.Seq = crypto.Name{2, 2}, 2 })
	if _, err := m.learn(now, renamed); err != nil {
		t.Fatal(err)
	}
	if _, err := m.learn(now, thief); err != nil {
		t.Errorf("the name is free: %v", err)
	}
}

// One device cannot have two peers with one key: an advert that repeats one
// would keep a host from setting up any peer.
func TestWireGuardKeyTaken(t *testing.T) {
	now := time.Now()
	m := alone(t, nil)
	a := signed(t, 1, nil)
	if _, err := m.learn(now, a); err != nil {
		t.Fatal(err)
	}
	for what, key := range map[string][32]byte{"a peer's": a.WireGuard, "our own": m.advert.WireGuard} {
		thief := signed(t, 3, func(x *advert.Advert) { x.WireGuard = key })
		if _, err := m.learn(now, thief); err == nil || !strings.Contains(err.Error(), "claims the WireGuard key of") {
			t.Errorf("%s key was taken: %v", what, err)
		}
	}
	if got := m.latestView(); len(got.Peers) != 1 {
		t.Errorf("%d peers", len(got.Peers))
	}
}

func TestVerifyAdvert(t *testing.T) {
	m := alone(t, nil)
	a := signed(t, 1, nil)
	raw := a.Bytes()
	for what, err := range map[string]error{
		"another owner":  m.verifyAdvert(crypto.Identity{1}, a.Seq, raw),
		"another number": m.verifyAdvert(a.Identity, a.Seq+1, raw),
		"cut off":        m.verifyAdvert(a.Identity, a.Seq, raw[:len(raw)-1]),
		"changed":        m.verifyAdvert(a.Identity, a.Seq, append(bytes.Clone(raw[:40]), append([]byte{raw[40] ^ 1}, raw[41:]...)...)),
	} {
		if err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if err := m.verifyAdvert(a.Identity, a.Seq, raw); err != nil {
		t.Error(err)
	}
}

// Our own advert with a higher number: we continue above it, at once the first
// time, ever more slowly against somebody who does the same.
func TestOvertaken(t *testing.T) {
	now := time.Now()
	m := alone(t, nil)
	m.step(now, tick{})
	old := func(seq, boot uint64) advert.Signed {
		return signed(t, 0, func(a *advert.Advert) { a.Seq, a.Boot, a.Name = seq, boot, m.cfg.Name })
	}
	m.overtaken(now, m.advert)
	m.overtaken(now, old(m.advert.Seq-1, 5))
	m.step(now, tick{})
	if m.advert.Seq != 1 {
		t.Fatalf("sequence number %d", m.advert.Seq)
	}
	m.overtaken(now, old(50, 5))
	m.step(now, tick{})
	if m.advert.Seq != 51 || m.advert.Boot != 100 {
		t.Fatalf("sequence number %d", m.advert.Seq)
	}
	m.overtaken(now, old(51, 5)) // the same number, another text
	m.step(now.Add(time.Second+1), tick{})
	if m.advert.Seq != 52 || len(m.warnings) != 0 {
		t.Errorf("sequence number %d, warnings %q", m.advert.Seq, m.warnings)
	}
	at := now
	for i := range 60 {
		at = at.Add(time.Minute)
		m.overtaken(at, old(m.advert.Seq+1, 5))
		before := m.advert.Seq
		m.step(at, tick{})
		if i > 10 && m.advert.Seq != before {
			t.Fatalf("signed at once for the %dth time", i)
		}
		at = at.Add(time.Minute + time.Second)
		m.step(at, tick{})
		if m.advert.Seq <= before {
			t.Fatalf("not signed again after a minute")
		}
	}
	if len(m.warnings) != 1 || !strings.Contains(m.warnings[0], "another host has our identity") {
		t.Errorf("warnings %q", m.warnings)
	}
}

func TestBoots(t *testing.T) {
	for _, tt := range []struct {
		name string
		seen []uint64
		want int // at which it is first reported, -1: never
	}{
		{"one", []uint64{1, 1, 1}, -1},
		{"restarts", []uint64{1, 2, 3, 4, 5, 6, 7}, -1},
		{"restored disk", []uint64{1, 2, 1, 2, 2, 2}, -1},
		{"two hosts", []uint64{1, 2, 1, 2, 1, 2, 1, 2}, 4},
		{"one of two restarts", []uint64{1, 2, 1, 3, 1, 3, 1}, 5},
	} {
		var b boots
		got := -1
		for i, boot := range tt.seen {
			if b.see(boot) && got < 0 {
				got = i
			}
		}
		if got != tt.want {
			t.Errorf("%s: reported at %d, want %d", tt.name, got, tt.want)
		}
	}
}

// A clone of a peer shows in its adverts, once.
func TestCloneReported(t *testing.T) {
	now := time.Now()
	m := alone(t, nil)
	for i := range 20 {
		a := signed(t, 1, func(a *advert.Advert) { a.Seq, a.Boot = uint64(i+1), uint64(i%2+7) })
		if _, err := m.learn(now, a); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.warnings) != 1 || !strings.Contains(m.warnings[0], "two hosts have the identity of peer") {
		t.Errorf("warnings %q", m.warnings)
	}
}

func TestEndpointsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 3)
		n := c.nodes[0]
		set := func(s ...string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.eps = nil
			for _, x := range s {
				n.eps = append(n.eps, netip.MustParseAddrPort(x))
			}
		}
		seen := func(want string) func() bool {
			return func() bool {
				for _, o := range c.nodes[1:] {
					for _, p := range o.latest().Peers {
						if p.Identity == n.id() && fmt.Sprint(p.Endpoints) != want {
							return false
						}
					}
				}
				return true
			}
		}
		set("192.0.2.1:6784", "203.0.113.5:6784", "127.0.0.1:6784", "[fd77:6566:7400::1]:6784", "203.0.113.5:6784")
		t.Logf("new endpoints are everywhere after %v",
			c.until(6*time.Second, "polled", seen("[192.0.2.1:6784 203.0.113.5:6784]")))
		set("192.0.2.1:6784")
		n.mesh.EndpointsChanged()
		t.Logf("when told, after %v", c.until(time.Second, "told", seen("[192.0.2.1:6784]")))
		seq := n.mesh.Status().Seq
		time.Sleep(time.Minute)
		if got := n.mesh.Status().Seq; got != seq {
			t.Errorf("signed %d times without a change", got-seq)
		}
	})
}

// A host without discovery does not dial whom it hears of; the others dial it.
func TestNoDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		quiet := c.nodes[2]
		quiet.discovery = false
		c.nodes[0].start()
		c.nodes[1].start("192.0.2.1")
		quiet.start("192.0.2.1")
		c.until(10*time.Second, "one cluster", func() bool { return whole(c.nodes) })
		for _, p := range quiet.latest().Peers {
			if target := p.Identity == c.nodes[0].id(); len(p.Candidates) > 0 != target || p.Target != "" != target {
				t.Errorf("candidates of %s (%q): %v", p.Nickname, p.Target, p.Candidates)
			}
			if p.Passive != (p.Target == "" && p.Introduced == 0) {
				t.Errorf("%s passive: %t", p.Nickname, p.Passive)
			}
		}
	})
}

func TestOwnEntries(t *testing.T) {
	m := alone(t, nil)
	for range 2 {
		if err := errors.Join(m.Put("n/a", []byte("1")), m.Put("l", nil), m.Put("n/b", nil), m.Delete("n/b"), m.Delete("n/c")); err != nil {
			t.Fatal(err)
		}
		m.step(time.Now(), m.desk.take())
		got := ""
		for _, e := range m.latestView().Entries {
			got += fmt.Sprintf("%s=%s@%s ", e.Key, e.Value, e.OwnerName)
		}
		if want := fmt.Sprintf("l=@%s n/a=1@%s ", m.cfg.Name, m.cfg.Name); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if v := m.store.Version(replica.ID{Owner: m.self, Channel: entries}); v != 2 {
		t.Errorf("version %d: entries that did not change were written", v)
	}
	if err := m.Put("", nil); err == nil {
		t.Error("an empty key is taken")
	}
	if err := m.Put("k", make([]byte, replica.MaxValue+1)); !errors.Is(err, replica.ErrTooLarge) {
		t.Error(err)
	}
	for i := range replica.MaxEntries {
		if err := m.Put(fmt.Sprint(i), nil); err != nil {
			if i != replica.MaxEntries-2 || !errors.Is(err, replica.ErrFull) {
				t.Errorf("entry %d: %v", i, err)
			}
			break
		}
	}
	// When it is full, one can still be replaced by another within one step.
	m.step(time.Now(), m.desk.take())
	if err := errors.Join(m.Delete("0"), m.Put("new", nil)); err != nil {
		t.Fatal(err)
	}
	m.step(time.Now(), m.desk.take())
	if got := len(m.latestView().Entries); got != replica.MaxEntries {
		t.Errorf("%d entries", got)
	}
}

func TestRunOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("listener is gone")
		m := alone(t, func(c *Config) { c.Hello, c.Listener = brokenHello{err: gone}, fakeListener{} })
		if err := m.Run(t.Context()); !errors.Is(err, gone) {
			t.Errorf("Run: %v", err)
		}
		if err := m.Run(t.Context()); err == nil {
			t.Error("Run again is no error")
		}
	})
}

type brokenHello struct {
	Hello
	err error
}

func (b brokenHello) Serve(context.Context, net.Listener, func(hello.Result)) error { return b.err }
