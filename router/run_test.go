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
	"github.com/weftnet/weft/router/bridge"
	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/vxlan"
	"github.com/weftnet/weft/router/wireguard"
)

// world is a fake of everything below the router; it writes down the order in
// which it was changed.
type world struct {
	mu      sync.Mutex // guards what follows
	done    []string
	peers   map[[32]byte]wireguard.PeerStatus
	remotes int
	fail    string // the next call whose text begins with this fails
	reached map[crypto.Identity]int
	entries map[string]string
}

func newWorld() *world {
	return &world{
		peers: map[[32]byte]wireguard.PeerStatus{}, reached: map[crypto.Identity]int{}, entries: map[string]string{},
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

// told returns how often the mesh was told that a peer is reached.
func (w *world) told(id crypto.Identity) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reached[id]
}

// published returns what the other hosts see of the connection to a peer.
func (w *world) published(id crypto.Identity) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.entries[linkKeys+id.String()]
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

func (f fakeMesh) Put(key string, v []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries[key] = string(v)
	return nil
}

func (f fakeMesh) Delete(key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.entries, key)
	return nil
}

func (f fakeMesh) Reachable(id crypto.Identity, _ netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reached[id]++
}

type fakeDevice struct{ *world }

func (f fakeDevice) Set(c wireguard.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(c.Peers) == len(f.peers) && f.fail == "" {
		return nil
	}
	now := map[[32]byte]wireguard.PeerStatus{}
	for _, p := range c.Peers {
		s := f.peers[p.PublicKey]
		s.PublicKey = p.PublicKey
		now[p.PublicKey] = s
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

func (f fakeDevice) set(key [32]byte, ep netip.AddrPort, word string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.peers[key]
	if ep.IsValid() {
		s.Endpoint = ep
	}
	f.peers[key] = s
	return f.note(word)
}

func (f fakeDevice) Readd(p wireguard.Peer) error { return f.set(p.PublicKey, p.Endpoint, "re-add") }

func (f fakeDevice) SetEndpoint(key [32]byte, ep netip.AddrPort) error {
	return f.set(key, ep, "endpoint")
}

func (f fakeDevice) Initiate(key [32]byte) error { return f.set(key, netip.AddrPort{}, "initiate") }

func (f fakeDevice) Peers() ([]wireguard.PeerStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []wireguard.PeerStatus
	for _, s := range f.peers {
		list = append(list, s)
	}
	return list, nil
}

// shake completes a handshake with everybody.
func (w *world) shake(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, s := range w.peers {
		s.LastHandshake = at
		w.peers[key] = s
	}
}

type fakePort struct{ *world }

func (f fakePort) Set(c vxlan.Config) error {
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
	r := New(Config{Host: host(1), Mesh: fakeMesh{w, views}, Device: fakeDevice{w}, VXLAN: fakePort{w}, Bridge: fakeBridge{w}})
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
		peer.Introduced, peer.Initiator = 1, true
		views <- mesh.View{Peers: []mesh.Peer{peer}}
		synctest.Wait()
		if got := w.take(); !strings.HasPrefix(got, "add peer, add remote, re-add") {
			t.Errorf("a peer appears: %s", got)
		}
		views <- mesh.View{}
		synctest.Wait()
		if got := w.take(); got != "remove remote, remove peer" {
			t.Errorf("a peer goes: %s", got)
		}
	})
}

func TestHandshakeIsToldAndPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w, views := start(t)
		peer := peerOf(t, 2, "host2")
		peer.Alive = false
		views <- mesh.View{Peers: []mesh.Peer{peer}}
		synctest.Wait()
		if w.frames() != 0 {
			t.Error("frames go to a host that is neither member nor reached")
		}
		w.shake(time.Now())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := w.told(peer.Identity); n != 1 {
			t.Errorf("the mesh was told %d times of one handshake", n)
		}
		if w.frames() != 1 {
			t.Error("no frames to a host whose tunnel stands")
		}
		if v := w.published(peer.Identity); !strings.HasPrefix(v, "pending ") {
			t.Errorf("published: %q", v)
		}
		r.Complete()
		s, err := r.Status(t.Context())
		if err != nil || !s.Ready || len(s.Connections) != 1 || len(s.Peers) != 1 {
			t.Errorf("status: %+v, %v", s, err)
		}
		time.Sleep(5 * time.Minute) // no new handshake: the tunnel is lost
		synctest.Wait()
		if v := w.published(peer.Identity); w.frames() != 0 || v != "" {
			t.Errorf("after the tunnel was lost: %d remotes, published %q", w.frames(), v)
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
		w.peers[peer.WireGuard] = wireguard.PeerStatus{PublicKey: peer.WireGuard, LastHandshake: time.Now().Add(-time.Minute)}
		w.remotes = 1
		views <- mesh.View{Peers: []mesh.Peer{peer}}
		startOn(t, w, views)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := w.take(); got != "gossip" {
			t.Errorf("done: %s", got)
		}
		if w.told(peer.Identity) != 1 {
			t.Error("the mesh does not know that the tunnel stands")
		}
	})
}

// Whoever undoes something while the daemon stops is not kept waiting.
func TestExposeEndsWithTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		close(r.ended)
		if err := r.SetExposed(context.WithoutCancel(t.Context()), nil, nil); err == nil {
			t.Error("no error")
		}
	})
}
