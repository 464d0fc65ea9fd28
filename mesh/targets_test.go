package mesh

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/crypto"
)

func TestParseTarget(t *testing.T) {
	for _, tt := range []struct{ in, host, port string }{
		{"192.0.2.1", "192.0.2.1", "6783"},
		{"192.0.2.1:7000", "192.0.2.1", "7000"},
		{"::1", "::1", "6783"},
		{"2001:DB8::0:1", "2001:db8::1", "6783"},
		{"[::1]", "::1", "6783"},
		{"[2001:db8::1]:1", "2001:db8::1", "1"},
		{"fe80::1%eth0", "fe80::1%eth0", "6783"},
		{"[fe80::1%eth0]:65535", "fe80::1%eth0", "65535"},
		{"::ffff:192.0.2.1", "192.0.2.1", "6783"},
		{"Host1", "host1", "6783"},
		{"host1.example.com.:6784", "host1.example.com", "6784"},
		{"a_b-c.d", "a_b-c.d", "6783"},
		{"1host", "1host", "6783"},
	} {
		got, err := parseTarget(tt.in, 6783)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if want := tt.host + " " + tt.port; got.typed != tt.in || want != strings.Join([]string{got.host, portText(got)}, " ") {
			t.Errorf("%s: read as %s %s, want %s", tt.in, got.host, portText(got), want)
		}
	}
	for _, in := range []string{
		"", ":", ":6783", "host:", "host:0", "host:65536", "host:-1", "host:+1", "host:http", "a b", "a/b", "-a", "a-.b", "a..b", ".",
		"[::1", "::1]", "[::1]6783", "[]", "[]:1", "[192.0.2.1]", "[host]:1", "1.2.3", "1.2.3.4.5", "1.2.3.4:5:6", "host:1:2",
		"ü", "a\n", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "aa",
	} {
		if got, err := parseTarget(in, 6783); err == nil {
			t.Errorf("%q is taken as %q port %d", in, got.host, got.port)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error of several lines: %v", in, err)
		}
	}
}

func portText(t targetSpec) string {
	_, p, _ := strings.Cut(netip.AddrPortFrom(netip.IPv4Unspecified(), t.port).String(), ":")
	return p
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"192.0.2.1:7000", "[::1]:6783", "host1.example.com", "fe80::1%eth0", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTarget(s, 6783)
		if err != nil {
			return
		}
		again, err := parseTarget(targetKey(got), 1)
		if err != nil || !again.same(got) {
			t.Errorf("%q is read as %s, and that as %+v, %v", s, targetKey(got), again, err)
		}
	})
}

func TestInfo(t *testing.T) {
	at := time.Date(2026, 11, 20, 18, 55, 38, 7, time.UTC)
	for _, tt := range []struct {
		in   Target
		want string
	}{
		{Target{State: Connecting}, ""},
		{Target{State: Retrying, Err: "dial tcp 192.0.2.14:6783: connect: no route to host", Retry: at}, "dial tcp 192.0.2.14:6783: connect: no route to host"},
		{Target{State: Failed, Err: "cannot connect to ourself", Never: true}, "cannot connect to ourself, retry: never"},
		{Target{State: Failed, Err: "wrong password", Retry: at}, "wrong password, retry: 2026-11-20 18:55:38 +0000 UTC"},
		{Target{State: Failed, Err: "wrong password"}, "wrong password, retry: now"},
	} {
		if got := tt.in.Info(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// state returns a target's state as one line.
func (n *node) state(i int) string {
	all := n.mesh.Status().Targets
	if i >= len(all) {
		return "" // the loop has not seen it yet
	}
	t := all[i]
	s := string(t.State) + " " + t.Info()
	if i := strings.Index(s, "retry: 2"); i >= 0 {
		s = s[:i] + "retry: later"
	}
	return s
}

func TestTargetStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.nodes[1].keys = crypto.Secret{9}.Keys("test") // another password
		c.nodes[1].start()
		n := c.nodes[0]
		// Itself; a wrong password; a host that is off; nobody.
		n.start("192.0.2.1", "192.0.2.2", "192.0.2.3:6783", "192.0.2.99")
		if got := n.state(3); got != "connecting " {
			t.Errorf("at first: %s", got)
		}
		time.Sleep(30 * time.Second)
		for i, want := range []string{
			"failed cannot connect to ourself, retry: never",
			"failed wrong password, retry: later",
			"retrying dial tcp 192.0.2.3:6783: connection refused",
			"retrying dial tcp 192.0.2.99:6783: i/o timeout",
		} {
			if got := n.state(i); got != want {
				t.Errorf("target %d: got %q, want %q", i, got, want)
			}
		}
		if got := n.mesh.Status().Targets[3].Address.String(); got != "192.0.2.99:6783" {
			t.Errorf("address %s", got)
		}
		// What can heal is tried again, ever more slowly.
		before := n.dials.Load()
		time.Sleep(10 * time.Minute)
		if tries := n.dials.Load() - before; tries < 25 || tries > 45 {
			t.Errorf("%d attempts at three targets in ten minutes", tries)
		}
		c.nodes[2].start()
		t.Logf("a host that was off is a member %v after its start",
			c.until(80*time.Second, "started", func() bool { return n.state(2) == "established " }))
		c.nodes[1].kill()
		c.nodes[1].keys = n.keys
		c.nodes[1].start()
		t.Logf("a host with the wrong password is a member %v after it got the right one",
			c.until(80*time.Second, "right password", func() bool { return n.state(1) == "established " }))
		// A member is not dialled; one that is lost is.
		before = n.dials.Load()
		time.Sleep(5 * time.Minute)
		if tries := n.dials.Load() - before; tries > 12 { // of the fourth
			t.Errorf("%d attempts while two of three are members", tries)
		}
		c.nodes[2].kill()
		c.until(time.Minute, "lost", func() bool {
			return strings.HasPrefix(n.state(2), "retrying dial tcp 192.0.2.3:6783: connection refused")
		})
	})
}

func TestTargetByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		n := c.nodes[0]
		var at atomic.Int32 // 0: unknown name
		n.resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			if i := at.Load(); i > 0 && host == "host.example" {
				return []netip.Addr{netip.MustParseAddr("192.0.2.77"), c.nodes[i].addr.Addr()}, nil
			}
			return nil, errors.New("no such host")
		}
		c.nodes[1].start()
		c.nodes[2].start()
		n.start("host.example")
		time.Sleep(5 * time.Second)
		if got, want := n.state(0), "retrying look up host.example: no such host"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		time.Sleep(10 * time.Minute)
		at.Store(1)
		t.Logf("a name that appears leads to a member after %v",
			c.until(90*time.Second, "name appears", func() bool { return n.state(0) == "established " }))
		c.nodes[1].kill()
		at.Store(2)
		t.Logf("a name that changes leads to a member after %v",
			c.until(3*time.Minute, "name changes", func() bool {
				s := n.mesh.Status().Targets[0]
				return s.State == Established && s.Peer == c.nodes[2].id() && s.Address == c.nodes[2].addr
			}))
	})
}

func TestConnectForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.nodes[1].start()
		c.nodes[2].start()
		n := c.nodes[0]
		n.start("192.0.2.50")
		check := func(step string, err error, want ...string) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			if diff := cmp.Diff(want, n.mesh.Targets()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", step, diff)
			}
		}
		check("connect", n.mesh.Connect([]string{"192.0.2.2:6783"}, false), "192.0.2.50", "192.0.2.2:6783")
		check("the same in other words", n.mesh.Connect([]string{"192.0.2.2"}, false), "192.0.2.50", "192.0.2.2:6783")
		c.until(5*time.Second, "connected", func() bool { return n.state(1) == "established " })
		if err := n.mesh.Connect([]string{"192.0.2.3", "bad name"}, true); err == nil {
			t.Error("a bad name is taken")
		}
		check("after an error", nil, "192.0.2.50", "192.0.2.2:6783")
		check("forget", n.mesh.Forget([]string{"192.0.2.50", "nobody"}), "192.0.2.2:6783")
		check("replace", n.mesh.Connect([]string{"192.0.2.3"}, true), "192.0.2.3")
		c.until(5*time.Second, "replaced", func() bool { return n.state(0) == "established " })
		time.Sleep(time.Minute)
		if !slices.Equal(n.members(), []int{2, 3}) {
			t.Errorf("members %v: a tunnel that stands stays", n.members())
		}

		n.kill()
		n.resume = true
		n.start()
		check("resumed", nil, "192.0.2.3")
		before := n.dials.Load()
		time.Sleep(time.Minute)
		if d := n.dials.Load(); d != before {
			t.Errorf("a known peer was introduced %d times", d-before)
		}
		n.kill()
		n.resume = false
		n.start("192.0.2.2")
		check("a plain start", nil, "192.0.2.2")
		n.kill()

		if err := n.mesh.Connect(slices.Repeat([]string{"h"}, 3), false); err != nil {
			t.Errorf("after the end: %v", err)
		}
		var many []string
		for i := range maxTargets + 1 {
			many = append(many, "h"+strings.Repeat("x", i%50)+string(rune('a'+i/50)))
		}
		if err := n.mesh.Connect(many, true); err == nil {
			t.Error("too many targets are taken")
		}
	})
}

func TestUnmetTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		c.nodes[1].start()
		n := c.nodes[0]
		check := func(step string, want int) {
			t.Helper()
			if got := n.mesh.UnmetTargets(); got != want {
				t.Errorf("%s: %d, want %d", step, got, want)
			}
		}
		n.start("192.0.2.1", "192.0.2.2", "192.0.2.99") // itself, a host, nobody
		check("at first", 3)
		c.until(time.Second, "two of them met", func() bool { return n.mesh.UnmetTargets() == 1 })
		synctest.Wait()
		if v := n.latest(); v.UnmetTargets != 1 || len(v.Peers) != 1 {
			t.Errorf("in the view: %d, %d peers", v.UnmetTargets, len(v.Peers))
		}
		if err := n.mesh.Connect([]string{"192.0.2.98"}, false); err != nil {
			t.Fatal(err)
		}
		check("one more", 2)
		c.until(time.Second, "in the view", func() bool { return n.latest().UnmetTargets == 2 })
		if err := n.mesh.Forget([]string{"192.0.2.98", "192.0.2.99"}); err != nil {
			t.Fatal(err)
		}
		check("forgotten", 0)
		c.until(5*time.Second, "member", func() bool { return whole(c.nodes) })
		time.Sleep(time.Minute)
		c.nodes[1].kill()
		c.until(time.Minute, "dead", func() bool { return len(n.members()) == 0 })
		check("a dead peer is known", 0)
		n.kill()
		check("after the end", 0)
		n.resume = true
		n.start()
		check("resumed", 1) // itself
		c.until(time.Second, "itself again", func() bool { return n.mesh.UnmetTargets() == 0 })
	})
}

// With a token's issuer as pin, the only target must be that host.
func TestPin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		c.nodes[1].start()
		pin := crypto.KeyFromSeed(testSeed(77)).Identity()
		m, err := New(Config{
			Key: c.nodes[0].key, Keys: c.nodes[0].keys, Port: 6783, StateDir: c.nodes[0].dir, Datapath: 1,
			Hello: (*fakeHello)(c.nodes[0]), Targets: []string{"192.0.2.2"}, Pin: &pin,
		})
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[0].mesh = m
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		time.Sleep(time.Second)
		if got, want := c.nodes[0].state(0), "failed identity is not the expected one, retry: later"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
