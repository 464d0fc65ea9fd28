package tunnel

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/relay"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/wireguard"
)

// world is everything around the tunnels of one host; it writes down what was
// done.
type world struct {
	mu      sync.Mutex // guards what follows
	done    []string
	peers   map[[32]byte]wireguard.PeerStatus
	reached map[crypto.Identity][]netip.AddrPort
	entries map[string][]byte
	sent    map[crypto.Identity][][]byte // payloads
	own     []netip.AddrPort
	// answer is called with every packet that leaves the WireGuard port.
	answer func(to netip.AddrPort, p signal.Packet)
	// eats says which rows are lost; nil: none.
	eats       func(to netip.AddrPort, o wireguard.SendOptions) bool
	row        []signal.Packet // the last one
	refuse     error           // why rows cannot be sent; only coalesced ones, if so
	refuseOnly bool
	pinged     func(peer netip.Addr, number uint64)
	reading    func() // the device
	relay      relay.Config
}

func newWorld() *world {
	return &world{
		peers: map[[32]byte]wireguard.PeerStatus{}, reached: map[crypto.Identity][]netip.AddrPort{},
		entries: map[string][]byte{}, sent: map[crypto.Identity][][]byte{},
		own: []netip.AddrPort{addrPort("192.0.2.1:6784")},
	}
}

func (w *world) note(format string, args ...any) {
	w.done = append(w.done, fmt.Sprintf(format, args...))
}

// did reports whether something was done whose text begins so.
func (w *world) did(prefix string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.done {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

func (w *world) set(key [32]byte, ep netip.AddrPort, word string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.peers[key]
	s.PublicKey = key
	if ep.IsValid() {
		s.Endpoint = ep
	}
	w.peers[key] = s
	w.note("%s %s", word, ep)
	return nil
}

// shake completes a handshake with a peer.
func (w *world) shake(p mesh.Peer, from netip.AddrPort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.peers[p.WireGuard]
	s.PublicKey, s.LastHandshake, s.Endpoint = p.WireGuard, time.Now(), from
	s.RxBytes += 92
	w.peers[p.WireGuard] = s
}

type fakeDevice struct{ *world }

func (f fakeDevice) Readd(p wireguard.Peer) error {
	return f.set(p.PublicKey, p.Endpoint, "re-add")
}

func (f fakeDevice) SetEndpoint(key [32]byte, ep netip.AddrPort) error {
	return f.set(key, ep, "endpoint")
}
func (f fakeDevice) Initiate(key [32]byte) error { return f.set(key, netip.AddrPort{}, "initiate") }

func (f fakeDevice) Quiet(from netip.AddrPort, d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("quiet %s %s", from, d)
	return nil
}

func (f fakeDevice) Peers() ([]wireguard.PeerStatus, error) {
	if f.reading != nil {
		f.reading()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []wireguard.PeerStatus
	for _, s := range f.peers {
		list = append(list, s)
	}
	return list, nil
}

func (f fakeDevice) Send(to netip.AddrPort, b []byte, o wireguard.SendOptions) error {
	if o.Segment > 0 {
		return f.sendRow(to, b, o)
	}
	p, err := signal.Parse(b)
	if err != nil {
		return err
	}
	f.mu.Lock()
	from := ""
	if o.From.IsValid() {
		from = " from " + o.From.String()
	}
	f.note("%s to %s%s", p.Kind, to, from)
	answer := f.answer
	f.mu.Unlock()
	if answer != nil {
		answer(to, p)
	}
	return nil
}

type fakeMesh struct{ *world }

func (f fakeMesh) Reachable(id crypto.Identity, ep netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reached[id] = append(f.reached[id], ep)
}

func (f fakeMesh) Put(key string, v []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries[key] = v
	return nil
}

func (f fakeMesh) Send(to crypto.Identity, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent[to] = append(f.sent[to], b)
}

func (f fakeMesh) EndpointsChanged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("endpoints changed")
}

// report is what the host says of its links now.
func (w *world) report(t *testing.T) topology.Report {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.entries[topologyKey]
	if b == nil {
		return topology.Report{}
	}
	r, err := topology.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type fakeRelay struct{ *world }

func (f fakeRelay) Set(c relay.Config) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.relay = c
}

func (f fakeRelay) Send(to netip.AddrPort, b []byte) error {
	return fakeDevice(f).Send(to, b, wireguard.SendOptions{})
}

func (f fakeRelay) Bound() []relay.Binding { return nil }

func (f fakeRelay) Invite(_ crypto.Identity, addr netip.AddrPort) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("invite %s", addr)
	return nil
}

func (f fakeRelay) Forget(crypto.Identity, uint32) {}
func (f fakeRelay) ForgetAll(crypto.Identity)      {}
func (f fakeRelay) Stats() relay.Stats             { return relay.Stats{} }

func (f fakeRelay) Withdraw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note("withdraw")
}

type fakePinger struct{ *world }

func (f fakePinger) Send(peer netip.Addr, number uint64) error {
	f.mu.Lock()
	pinged := f.pinged
	f.mu.Unlock()
	if pinged != nil {
		pinged(peer, number)
	}
	return nil
}

// host is somebody else.
type host struct {
	key  *crypto.Key
	peer mesh.Peer
}

func hostOf(t *testing.T, b byte, nickname string) host {
	t.Helper()
	k := crypto.KeyFromSeed([32]byte{b})
	ep := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, b}), 6784)
	a, err := advert.Sign(k, advert.Advert{
		Nickname: nickname, Boot: uint64(b), Seq: 1, Endpoints: []netip.AddrPort{ep}, HelloPort: 6783,
		Datapath: advert.Userspace, Version: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	return host{k, mesh.Peer{Signed: a, Alive: true, Candidates: []netip.AddrPort{ep}}}
}

// says makes a host's report.
func (h *host) says(t *testing.T, links ...topology.Link) {
	t.Helper()
	r := topology.Report{Owner: h.key.Identity(), Boot: h.peer.Boot, Seq: uint64(time.Now().UnixNano()), Links: links}
	b, err := topology.Sign(h.key, r)
	if err != nil {
		t.Fatal(err)
	}
	h.peer.Report = b
}

var testKeys = crypto.Secret{9}.Keys("test")

// start runs the tunnels of host 1 until the test ends.
func start(t *testing.T, w *world) *Tunnels {
	t.Helper()
	tn := New(Config{
		Key: crypto.KeyFromSeed([32]byte{1}), Keys: testKeys, Boot: 1, MTU: 1370,
		Mesh: fakeMesh{w}, Device: fakeDevice{w}, Relay: fakeRelay{w}, Pinger: fakePinger{w},
		Endpoints: func() []netip.AddrPort { w.mu.Lock(); defer w.mu.Unlock(); return w.own },
		Usable:    advert.Usable,
		Ceiling:   func() int { return 1500 },
	})
	tn.Adopt(mesh.View{})
	go func() { _ = tn.Run(t.Context()) }()
	return tn
}

// pongs makes the peers answer probes at their endpoints, and binds at their
// relays, as long as reachable says so.
func (w *world) pongs(tn *Tunnels, hosts []host, reachable func(netip.AddrPort) bool) {
	self := tn.self
	w.answer = func(to netip.AddrPort, p signal.Packet) {
		if !reachable(to) {
			return
		}
		for _, h := range hosts {
			if signal.IDOf(h.key.Identity()) != p.To {
				continue
			}
			a := signal.Packet{From: p.To, To: p.From, Number: p.Number, Observed: addrPort("192.0.2.1:6784")}
			switch p.Kind {
			case signal.Probe:
				a.Kind = signal.ProbeReply
			case signal.Bind:
				a.Kind, a.Boot, a.Role, a.Accepted, a.Cookie = signal.BindReply, h.peer.Boot, p.Role, p.Cookie != [8]byte{}, [8]byte{1}
			default:
				return
			}
			b := a.Append(nil, testKeys.PairKey(self, h.key.Identity()))
			if a.Role == signal.RelayPort {
				go tn.ReceiveRelay(to, b)
			} else {
				go tn.Receive(to, netip.Addr{}, b)
			}
		}
	}
}

// echoes makes peers answer pings.
func (w *world) echoes(tn *Tunnels) {
	w.pinged = func(peer netip.Addr, number uint64) {
		go tn.Echoed(peer, number, time.Now().Add(time.Millisecond))
	}
}

func TestHandshakeIsToldAndPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		tn := start(t, w)
		h := hostOf(t, 2, "host2")
		h.peer.Alive = false
		id := h.peer.Identity
		w.pongs(tn, []host{h}, func(netip.AddrPort) bool { return true })
		w.echoes(tn)
		tn.SetView(mesh.View{Peers: []mesh.Peer{h.peer}})
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if tn.Way(id).Up {
			t.Fatal("the tunnel stands without a handshake")
		}
		w.shake(h.peer, h.peer.Candidates[0])
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !tn.Way(id).Up {
			t.Fatal("the tunnel does not stand")
		}
		w.mu.Lock()
		reached := w.reached[id]
		w.mu.Unlock()
		if len(reached) == 0 || reached[len(reached)-1] != h.peer.Candidates[0] {
			t.Errorf("the mesh was told of %v", reached)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		r := w.report(t)
		if len(r.Links) != 1 || r.Links[0].Peer != id || r.Links[0].MTU != 1500 {
			t.Errorf("published: %+v", r.Links)
		}
		select {
		case <-tn.Changed():
		default:
			t.Error("nobody was told that the way changed")
		}
		// Nothing comes and nothing is answered any more.
		w.mu.Lock()
		w.answer, w.pinged = nil, nil
		w.mu.Unlock()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if tn.Way(id).Up {
			t.Error("the tunnel still stands")
		}
		if r := w.report(t); len(r.Links) != 0 {
			t.Errorf("still published: %+v", r.Links)
		}
	})
}

// Host 3 is reached by nobody but host 2, which we reach.
func TestRelayIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		tn := start(t, w)
		two, three := hostOf(t, 2, "host2"), hostOf(t, 3, "host3")
		link := func(h host, bound bool) topology.Link {
			return topology.Link{Peer: h.peer.Identity, State: topology.Direct, Endpoint: h.peer.Endpoints[0], RTT: time.Millisecond, MTU: 1500, Bound: bound}
		}
		self := topology.Link{Peer: tn.self, State: topology.Direct, Endpoint: w.own[0], RTT: time.Millisecond, MTU: 1500}
		two.says(t, self, link(three, false))
		three.says(t, link(two, true))
		w.pongs(tn, []host{two, three}, func(ep netip.AddrPort) bool { return ep.Addr() == two.peer.Endpoints[0].Addr() })
		w.echoes(tn)
		tn.SetView(mesh.View{Peers: []mesh.Peer{two.peer, three.peer}})
		time.Sleep(200 * time.Millisecond)
		w.shake(two.peer, two.peer.Candidates[0])
		at := netip.AddrPortFrom(two.peer.Endpoints[0].Addr(), 6783)
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if w.did("endpoint "+at.String())+w.did("re-add "+at.String()) > 0 {
				break
			}
		}
		synctest.Wait()
		if w.did("endpoint "+at.String())+w.did("re-add "+at.String()) == 0 {
			t.Fatalf("the relay at %s is not used: %q", at, w.done)
		}
		w.shake(three.peer, at)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for _, p := range tn.Snapshot().Peers {
			if p.Identity != three.peer.Identity {
				continue
			}
			if p.Path.State != path.Established || len(p.Path.Route.Via) != 1 || p.Path.Route.Via[0] != two.peer.Identity {
				t.Errorf("the path to host3: %+v", p.Path)
			}
			if got := tn.Snapshot().RouteText(p.Path.Route); got != at.String()+" via host2" {
				t.Errorf("it reads %q", got)
			}
		}
		w.mu.Lock()
		for _, ep := range w.reached[three.peer.Identity] {
			if ep.IsValid() {
				t.Errorf("the relay at %s is taken for an endpoint of the peer", ep)
			}
		}
		w.mu.Unlock()
		tn.Withdraw()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if r := w.report(t); len(r.Links) != 0 || w.did("withdraw") != 1 {
			t.Errorf("after the relay withdrew: %+v", r.Links)
		}
	})
}

func TestMovedOnlyWhenElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		tn := start(t, w)
		tn.Moved()
		synctest.Wait()
		if w.did("endpoints changed") != 0 {
			t.Error("the same addresses were told")
		}
		w.mu.Lock()
		w.own = []netip.AddrPort{addrPort("192.0.2.77:6784")}
		w.mu.Unlock()
		tn.Moved()
		synctest.Wait()
		if w.did("endpoints changed") != 1 {
			t.Error("new addresses were not told")
		}
	})
}
