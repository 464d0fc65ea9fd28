package mesh

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
)

// TestSockets runs two hosts with real sockets everywhere, in a network
// namespace of its own whose loopback device has both overlay addresses: this
// test binary again, as a child in that namespace.
func TestSockets(t *testing.T) {
	const child = "MESH_TEST_NAMESPACE"
	if os.Getenv(child) != "" {
		socketsInNamespace(t)
		return
	}
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root for a network namespace")
		}
		t.Skip("NEEDS ROOT for a network namespace")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestSockets$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

func socketsInNamespace(t *testing.T) {
	defer func() { // it looks for half a second, in which not everybody may have had a processor
		for deadline := time.Now().Add(20 * time.Second); goleak.Find() != nil && time.Now().Before(deadline); {
		}
		goleak.VerifyNone(t)
	}()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		a := crypto.KeyFromSeed(testSeed(i)).Identity().Overlay()
		err := netlink.AddrAdd(lo, &netlink.Addr{
			IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(128, 128)}, Flags: syscall.IFA_F_NODAD,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var hosts []*Mesh
	done, got := make(chan error, 2), make(chan int, 2)
	for i := range 2 {
		var m *Mesh
		var targets []string
		key, port := crypto.KeyFromSeed(testSeed(i)), uint16(7000+10*i)
		ln, err := net.Listen("tcp", fmt.Sprintf("[::1]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			targets = []string{"[::1]:7000"}
		}
		keys := crypto.Secret{7}.Keys("test")
		m, err = New(Config{
			Key: key, Keys: keys, Boot: uint64(i + 1), Datapath: advert.Kernel, StateDir: t.TempDir(), Port: port,
			Hello: hello.New(hello.Config{
				Key: key, Keys: keys, Boot: uint64(i + 1),
				Adverts: func() []advert.Signed { return m.Adverts() },
				Check:   func(a advert.Signed) error { return m.Check(a) },
			}),
			Listener: ln, Targets: targets, Discovery: true,
			Deliver: func(_ crypto.Identity, payload []byte) { got <- len(payload) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Put("n/a", []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		m.OverlayReady()
		hosts = append(hosts, m)
		go func() { done <- m.Run(ctx) }()
	}
	start := time.Now()
	for i, m := range hosts {
		for seen := false; !seen; {
			select {
			case v := <-m.Views():
				for _, p := range v.Peers { // loopback is always reachable
					m.Reachable(p.Identity, netip.AddrPort{})
					seen = p.Alive && len(v.Entries) == 2
				}
			case <-time.After(time.Minute):
				t.Fatalf("host %d does not see the other: %+v", i, m.Status())
			}
		}
	}
	t.Logf("joined, with entries, after %v", time.Since(start))
	start = time.Now()
	hosts[0].Send(hosts[1].self, make([]byte, MaxPayload))
	if n := <-got; n != MaxPayload {
		t.Errorf("%d bytes came", n)
	}
	t.Logf("a large payload was there after %v", time.Since(start))
	hosts[1].Broadcast(make([]byte, MaxBroadcast))
	if n := <-got; n != MaxBroadcast {
		t.Errorf("%d bytes came", n)
	}
	start = time.Now()
	if err := hosts[0].LeaveForGood(ctx); err != nil {
		t.Error(err)
	}
	for v := range hosts[1].Views() {
		if len(v.Peers) == 0 {
			break
		}
	}
	cancel()
	for range hosts {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Logf("left and ended after %v", time.Since(start))
}
