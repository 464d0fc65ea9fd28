package router

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/bridge"
	"github.com/weftnet/weft/router/kernel"
)

// seeingBridge writes down when it is looked at and set.
type seeingBridge struct{ fakeBridge }

func (f seeingBridge) Set(ctx context.Context, c bridge.Config) error {
	f.mu.Lock()
	_ = f.note("set bridge")
	f.mu.Unlock()
	return f.fakeBridge.Set(ctx, c)
}

func (f seeingBridge) CheckAfter(context.Context, kernel.Event) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return nil, f.note("bridge")
}

// seeingContainers do the same; whatever else is asked of them panics.
type seeingContainers struct {
	Containers
	*world
}

func (f seeingContainers) Announce(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.note("announce containers")
}

func (f seeingContainers) Sweep(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return nil, f.note("sweep containers")
}

func (f seeingContainers) Exposed() (addresses, masquerade []netip.Prefix) { return nil, nil }

func (f seeingContainers) LinksChanged(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return nil, f.note("containers")
}

// startSeeing runs a router with its task for containers until the test ends.
func startSeeing(t *testing.T) (*Router, *world, chan mesh.View) {
	t.Helper()
	w := newWorld()
	views := make(chan mesh.View, 1)
	r := New(Config{
		Host: host(1), Mesh: fakeMesh{w, views}, Device: fakeDevice{w}, Tunnels: fakeTunnels{w}, Relay: fakeRelay{}, Port: fakePort{w}, Bridge: seeingBridge{fakeBridge{w}},
	})
	r.SetContainers(seeingContainers{world: w})
	ctx, stop := context.WithCancel(t.Context())
	end := make(chan error, 2)
	go func() { end <- r.Run(ctx) }()
	go func() { end <- r.Tend(ctx) }()
	t.Cleanup(func() {
		stop()
		for range 2 {
			if err := <-end; err != nil {
				t.Error(err)
			}
		}
	})
	<-r.Built()
	synctest.Wait()
	w.take()
	return r, w, views
}

// Containers hang on the bridge: it is repaired before anybody looks at them.
func TestBridgeIsLookedAtBeforeContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w, _ := startSeeing(t)
		for _, tc := range []struct {
			event kernel.Event
			want  string
		}{
			{kernel.LinkChanged, "bridge, containers"},
			{kernel.FirewallChanged, "bridge"},
			{kernel.LinkChanged | kernel.AddrChanged, "bridge, containers"},
		} {
			r.changed.Or(uint32(tc.event))
			r.changes.Ring()
			synctest.Wait()
			if got := w.take(); got != tc.want {
				t.Errorf("after event %b: %q, want %q", tc.event, got, tc.want)
			}
		}
		time.Sleep(sweepTime)
		synctest.Wait()
		if got := w.take(); got != "bridge, sweep containers" {
			t.Errorf("the sweep: %q", got)
		}
	})
}

// What the plan does not change is left to those who say what they repair.
func TestViewLeavesTheBridgeAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w, views := startSeeing(t)
		views <- mesh.View{Peers: []mesh.Peer{peerOf(t, 2, "host2")}}
		synctest.Wait()
		if got := w.take(); !strings.HasPrefix(got, "add peer, add remote") || strings.Contains(got, "bridge") {
			t.Errorf("a peer appears: %q", got)
		}
		w.mu.Lock()
		w.fail = "remove remote"
		w.mu.Unlock()
		views <- mesh.View{}
		time.Sleep(2 * retryTime)
		synctest.Wait()
		if got := w.take(); !strings.HasSuffix(got, "set bridge, remove peer") {
			t.Errorf("after a plan that failed: %q", got)
		}
	})
}

// A host that frames did not reach may remember who had an address of ours in
// the meantime.
func TestContainersAreAnnouncedToANewRemote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w, views := startSeeing(t)
		for _, tc := range []struct {
			peers []mesh.Peer
			want  bool
		}{
			{[]mesh.Peer{peerOf(t, 2, "host2")}, true},
			{[]mesh.Peer{peerOf(t, 2, "host2"), peerOf(t, 3, "host3")}, true},
			{[]mesh.Peer{peerOf(t, 3, "host3")}, false},
		} {
			views <- mesh.View{Peers: tc.peers}
			synctest.Wait()
			if got := w.take(); strings.Contains(got, "announce containers") != tc.want {
				t.Errorf("with %d peers: %q; announced: want %v", len(tc.peers), got, tc.want)
			}
		}
	})
}
