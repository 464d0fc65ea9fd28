package router

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/bell"
	"github.com/weftnet/weft/router/bridge"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/relay"
	"github.com/weftnet/weft/router/tunnel"
	"github.com/weftnet/weft/router/wireguard"
)

// world is a fake of everything below the router; it writes down the order in
// which it was changed.
type world struct {
	mu      sync.Mutex // guards what follows
	done    []string
	peers   map[[32]byte]bool
	remotes int
	fail    string // the next call whose text begins with this fails
	up      map[crypto.Identity]bool
	changed bell.Bell
	cut     map[netip.AddrPort]uint64 // constant
	cutErr  error                     // constant
}

func newWorld() *world {
	return &world{
		peers: map[[32]byte]bool{}, up: map[crypto.Identity]bool{}, changed: bell.New(),
	}
}

func (w *world) note(s string) error {
	if w.fail != "" && strings.HasPrefix(s, w.fail) {
		w.fail = ""
		return errors.New("no " + s)
	}
	w.done = append(w.done, s)
	return nil
}

// take returns what was done since the last call.
func (w *world) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(w.done, ", ")
	w.done = nil
	return s
}

// frames returns how many hosts frames go to.
func (w *world) frames() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.remotes
}

type fakeMesh struct {
	*world
	views chan mesh.View
}

func (f fakeMesh) Views() <-chan mesh.View      { return f.views }
func (f fakeMesh) OverlayReady()                { f.mu.Lock(); defer f.mu.Unlock(); _ = f.note("gossip") }
func (f fakeMesh) Connect([]string, bool) error { return nil }
func (f fakeMesh) Forget([]string) error        { return nil }
func (f fakeMesh) Targets() []string            { return nil }
func (f fakeMesh) Status() mesh.Status          { return mesh.Status{} }

// LeaveForGood has nobody to tell.
func (f fakeMesh) LeaveForGood(context.Context) error { return nil }

type fakeDevice struct{ *world }

func (f fakeDevice) Set(c wireguard.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(c.Peers) == len(f.peers) && f.fail == "" {
		return nil
	}
	now := map[[32]byte]bool{}
	for _, p := range c.Peers {
		now[p.PublicKey] = true
	}
	word := "add peer"
	if len(now) < len(f.peers) {
		word = "remove peer"
	}
	if err := f.note(word); err != nil {
		return err
	}
	f.peers = now
	return nil
}

func (f fakeDevice) Check() ([]string, error) { return nil, nil }

// fakeTunnels stand or not as the test says.
type fakeTunnels struct{ *world }

func (f fakeTunnels) Adopt(v mesh.View)   { f.see("adopt", v) }
func (f fakeTunnels) SetView(v mesh.View) { f.see("drive", v) }

func (f fakeTunnels) see(word string, v mesh.View) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(v.Peers) > 0 {
		_ = f.note(word)
	}
}

func (f fakeTunnels) Moved()                   {}
func (f fakeTunnels) Changed() <-chan struct{} { return f.changed }

func (f fakeTunnels) Way(id crypto.Identity) tunnel.Way {
	f.mu.Lock()
	defer f.mu.Unlock()
	return tunnel.Way{Up: f.up[id], MTU: 1440}
}

func (f fakeTunnels) Snapshot() *tunnel.Snapshot { return &tunnel.Snapshot{} }

type fakeRelay struct{}

func (fakeRelay) Stats() relay.Stats { return relay.Stats{} }

// stand makes a tunnel stand or not.
func (w *world) stand(id crypto.Identity, up bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.up[id] = up
	w.changed.Ring()
}

type fakePort struct{ *world }

func (f fakePort) Set(c fdb.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch n := len(c.Remotes); {
	case n > f.remotes:
		f.remotes = n
		return f.note("add remote")
	case n < f.remotes:
		f.remotes = n
		return f.note("remove remote")
	}
	return nil
}

func (f fakePort) Check() ([]string, error) { return nil, nil }

type fakeBridge struct{ *world }

func (f fakeBridge) Set(_ context.Context, c bridge.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(c.Exposed) > 0 {
		return f.note("expose " + c.Exposed[0].String())
	}
	return nil
}

func (f fakeBridge) Fragmented(context.Context) (map[netip.AddrPort]uint64, error) {
	return f.cut, f.cutErr
}

func (f fakeBridge) CheckAfter(context.Context, kernel.Event) ([]string, error) { return nil, nil }

// start runs a router on a fake world until the test ends.
func start(t *testing.T) (*Router, *world, chan mesh.View) {
	t.Helper()
	w, views := newWorld(), make(chan mesh.View, 1)
	return startOn(t, w, views), w, views
}

// startOn does the same on a world that a predecessor left.
func startOn(t *testing.T, w *world, views chan mesh.View) *Router {
	t.Helper()
	r := New(Config{Observer: silent{}, Host: host(1), Mesh: fakeMesh{w, views}, Device: fakeDevice{w}, Tunnels: fakeTunnels{w}, Relay: fakeRelay{}, Port: fakePort{w}, Bridge: fakeBridge{w}})
	ctx, stop := context.WithCancel(t.Context())
	end := make(chan error, 1)
	go func() { end <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-end; err != nil {
			t.Error(err)
		}
	})
	<-r.Built()
	return r
}

func TestTunnelBeforeFramesAndTheOtherWayRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w, views := start(t)
		synctest.Wait()
		w.take()
		peer := peerOf(t, 2, "host2")
		views <- mesh.View{Peers: []mesh.Peer{peer}}
		synctest.Wait()
		if got := w.take(); got != "add peer, add remote, drive" {
			t.Errorf("a peer appears: %s", got)
		}
		views <- mesh.View{}
		synctest.Wait()
		if got := w.take(); got != "remove remote, remove peer" {
			t.Errorf("a peer goes: %s", got)
		}
	})
}

func TestFramesFollowTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w, views := start(t)
		peer := peerOf(t, 2, "host2")
		peer.Alive = false
		views <- mesh.View{Peers: []mesh.Peer{peer}}
		synctest.Wait()
		if w.frames() != 0 {
			t.Error("frames go to a host that is neither member nor reached")
		}
		w.stand(peer.Identity, true)
		synctest.Wait()
		if w.frames() != 1 {
			t.Error("no frames to a host whose tunnel stands")
		}
		r.Complete()
		if s, err := r.Status(t.Context()); err != nil || !s.Ready || len(s.Peers) != 1 {
			t.Errorf("status: %+v, %v", s, err)
		}
		w.stand(peer.Identity, false)
		synctest.Wait()
		if w.frames() != 0 {
			t.Error("frames go to a host whose tunnel was lost")
		}
	})
}

func TestPlanThatCannotBeAppliedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w, views := start(t)
		w.mu.Lock()
		w.fail = "add peer"
		w.mu.Unlock()
		views <- mesh.View{Peers: []mesh.Peer{peerOf(t, 2, "host2")}}
		synctest.Wait()
		if w.frames() != 0 {
			t.Error("frames go to a host without a tunnel")
		}
		time.Sleep(2 * retryTime)
		synctest.Wait()
		if w.frames() != 1 {
			t.Errorf("not tried again: %s", w.take())
		}
	})
}

func TestExposeThatFailsChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w, _ := start(t)
		good, bad := netip.MustParsePrefix("10.32.0.1/12"), netip.MustParsePrefix("10.32.0.2/12")
		if err := r.SetExposed(t.Context(), []netip.Prefix{good}, nil); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.fail = "expose " + bad.String()
		w.mu.Unlock()
		if err := r.SetExposed(t.Context(), []netip.Prefix{bad}, nil); err == nil {
			t.Error("no error")
		}
		if got := w.take(); !strings.HasSuffix(got, "expose "+good.String()) {
			t.Errorf("not put back: %s", got)
		}
	})
}

// A daemon that was killed is started again: tunnels that stand on the kernel's
// device and the way of frames through them are left alone.
func TestStartAdoptsWhatStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, views := newWorld(), make(chan mesh.View, 1)
		peer := peerOf(t, 2, "host2")
		peer.Alive = false // no gossip yet
		w.peers[peer.WireGuard], w.up[peer.Identity] = true, true
		w.remotes = 1
		views <- mesh.View{Peers: []mesh.Peer{peer}}
		startOn(t, w, views)
		synctest.Wait()
		if got := w.take(); got != "adopt, gossip" {
			t.Errorf("done: %s", got)
		}
	})
}

// Whoever undoes something while the daemon stops is not kept waiting.
func TestExposeEndsWithTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Observer: silent{}})
		close(r.ended)
		if err := r.SetExposed(context.WithoutCancel(t.Context()), nil, nil); err == nil {
			t.Error("no error")
		}
	})
}
