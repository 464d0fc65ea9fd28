package tunnel

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/relay"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/wireguard"
)

// sendRow sends several probes at once.
func (f fakeDevice) sendRow(to netip.AddrPort, b []byte, o wireguard.SendOptions) error {
	f.mu.Lock()
	f.note("row to %s: %d bytes in pieces of %d, coalesced: %t", to, len(b), o.Segment, o.Coalesced)
	eats, refuse := f.eats, f.refuse
	if f.refuseOnly && !o.Coalesced {
		refuse = nil
	}
	f.row = nil
	for one := range slices.Chunk(b, o.Segment) {
		if p, err := signal.Parse(one); err == nil {
			f.row = append(f.row, p)
		}
	}
	f.mu.Unlock()
	if refuse != nil {
		return refuse
	}
	if eats != nil && eats(to, o) {
		return nil
	}
	for one := range slices.Chunk(b, o.Segment) {
		if err := f.Send(to, one, wireguard.SendOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// rowWorld is a world with one peer whose tunnel stands.
func rowWorld(t *testing.T, eats func(to netip.AddrPort, o wireguard.SendOptions) bool) (*world, *Tunnels, host) {
	t.Helper()
	w := newWorld()
	tn := start(t, w)
	h := hostOf(t, 2, "host2")
	w.eats = eats
	w.pongs(tn, []host{h}, func(netip.AddrPort) bool { return true })
	w.echoes(tn)
	tn.SetView(mesh.View{Peers: []mesh.Peer{h.peer}})
	time.Sleep(100 * time.Millisecond)
	w.shake(h.peer, h.peer.Candidates[0])
	return w, tn, h
}

// traffic lets bytes come and go for a while.
func (w *world) traffic(p mesh.Peer, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
		w.mu.Lock()
		s := w.peers[p.WireGuard]
		s.TxBytes, s.RxBytes, s.LastHandshake = s.TxBytes+1e6, s.RxBytes+1e6, time.Now()
		w.peers[p.WireGuard] = s
		w.mu.Unlock()
	}
}

func coalesced(_ netip.AddrPort, o wireguard.SendOptions) bool { return o.Coalesced }

// A way that eats what leaves coalesced is noticed; the device is told, the
// operator asked why is, and our relay as well. An hour later it is tested again,
// if there is traffic.
func TestCoalescedAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, tn, h := rowWorld(t, coalesced)
		begun := time.Now()
		for !tn.Way(h.peer.Identity).Single {
			if time.Since(begun) > 15*time.Second {
				t.Fatalf("not noticed: %q", w.done)
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Logf("FIGURE noticed %s after the handshake", time.Since(begun))
		time.Sleep(time.Second)
		synctest.Wait()
		if p := PeerConfig(testKeys, tn.self, h.peer, tn.Way(h.peer.Identity)); !p.Single || p.PathEndpoint != h.peer.Candidates[0] {
			t.Errorf("the device's peer: %+v", p)
		}
		s := tn.Snapshot()
		if reason, help := s.Explain(s.Peers[0], time.Now()); !strings.Contains(reason, "UDP GSO") || help == "" {
			t.Errorf("why: %q, %q", reason, help)
		}
		w.mu.Lock()
		if len(w.relay.Peers) != 1 || !w.relay.Peers[0].Single {
			t.Errorf("our relay: %+v", w.relay.Peers)
		}
		w.eats = nil // the driver is mended
		w.mu.Unlock()

		before := w.did("row")
		time.Sleep(2 * time.Hour)
		if n := w.did("row"); n != before {
			t.Errorf("%d rows without traffic", n-before)
		}
		w.traffic(h.peer, 2*time.Second)
		synctest.Wait()
		if tn.Way(h.peer.Identity).Single {
			t.Error("not tested again")
		}
		before = w.did("row")
		w.traffic(h.peer, 3*time.Hour)
		if n := w.did("row") - before; n != 3 {
			t.Errorf("%d rows in three hours with traffic, want 3", n)
		}
	})
}

// A good way costs three packets, of the size of the switch's largest.
func TestCoalescedArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, tn, h := rowWorld(t, nil)
		time.Sleep(time.Minute)
		if n := w.did("row"); n != 1 || tn.Way(h.peer.Identity).Single {
			t.Errorf("%d rows, sent one by one: %t", n, tn.Way(h.peer.Identity).Single)
		}
		const payload = 1370 + 70 + 32
		if n := w.did("row to 192.0.2.2:6784: 4416 bytes in pieces of 1472, coalesced: true"); n != 1 || payload != 1472 {
			t.Errorf("%q", w.done)
		}
		// Our interfaces changed: the way may be another one.
		w.mu.Lock()
		w.own, w.eats = []netip.AddrPort{addrPort("192.0.2.77:6784")}, coalesced
		w.mu.Unlock()
		tn.Moved()
		time.Sleep(15 * time.Second)
		if !tn.Way(h.peer.Identity).Single {
			t.Error("not tested again")
		}
		// The peer is elsewhere: what was learnt of the old endpoint is nothing.
		moved := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.99"), 6784)
		w.mu.Lock()
		w.eats = nil
		w.mu.Unlock()
		h.peer.Candidates = []netip.AddrPort{moved}
		tn.SetView(mesh.View{Peers: []mesh.Peer{h.peer}})
		w.shake(h.peer, moved)
		time.Sleep(15 * time.Second)
		if way := tn.Way(h.peer.Identity); way.Endpoint != moved || way.Single || w.did("row to 192.0.2.99") == 0 {
			t.Errorf("after it moved: %+v, %d rows", way, w.did("row to 192.0.2.99"))
		}
	})
}

// A host whose device cannot send rows, as the kernel's, asks once an hour at
// most, and nothing is decided.
func TestRowsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, tn, h := rowWorld(t, nil)
		w.mu.Lock()
		w.refuse = errors.ErrUnsupported
		w.mu.Unlock()
		w.traffic(h.peer, 150*time.Minute)
		if n := w.did("row"); n == 0 || n > 3 || tn.Way(h.peer.Identity).Single {
			t.Errorf("asked %d times; one by one: %t", n, tn.Way(h.peer.Identity).Single)
		}
		if s := tn.prober.Stats(); s.Waiting >= path.RowLength {
			t.Errorf("%d probes are waited for", s.Waiting)
		}
	})
}

// What this host itself refuses to send in one piece does not arrive, either.
func TestCoalescedFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, tn, h := rowWorld(t, nil)
		w.mu.Lock()
		w.refuse = errors.New("operation not permitted")
		w.mu.Unlock()
		time.Sleep(5 * time.Second)
		if tn.Way(h.peer.Identity).Single {
			t.Error("decided though single ones fail as well")
		}
		w.mu.Lock()
		w.refuseOnly = true
		w.mu.Unlock()
		w.traffic(h.peer, 80*time.Second)
		if !tn.Way(h.peer.Identity).Single {
			t.Error("not noticed")
		}
	})
}

// Neither a stranger nor another member can make us send one by one, or coalesced
// again: answers are the peer's, or they are nothing. The stranger sees what we
// send and answers at once, from the peer's address; the member signs with the
// key that it shares with us.
func TestRowsAnsweredByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, tn, h := rowWorld(t, coalesced)
		member := hostOf(t, 3, "host3")
		tn.SetView(mesh.View{Peers: []mesh.Peer{h.peer, member.peer}})
		forged := 0
		w.mu.Lock()
		w.eats = func(to netip.AddrPort, o wireguard.SendOptions) bool {
			if !o.Coalesced || to != h.peer.Candidates[0] {
				return false
			}
			for _, p := range w.row {
				for _, a := range []signal.Packet{
					{Kind: signal.ProbeReply, From: p.To, To: p.From, Number: p.Number, Observed: addrPort("192.0.2.1:6784")},
					{Kind: signal.ProbeReply, From: signal.IDOf(member.key.Identity()), To: p.From, Number: p.Number, Observed: addrPort("192.0.2.1:6784")},
				} {
					go tn.Receive(to, netip.Addr{}, a.Append(nil, testKeys.PairKey(tn.self, member.key.Identity())))
					forged++
				}
			}
			return true
		}
		w.mu.Unlock()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if !tn.Way(h.peer.Identity).Single || forged < 6 {
			t.Errorf("one by one: %t, with %d forged answers", tn.Way(h.peer.Identity).Single, forged)
		}
	})
}

// Packets to a relay go where its own do: they leave one by one as well.
func TestCoalescedToRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		tn := start(t, w)
		two, three := hostOf(t, 2, "host2"), hostOf(t, 3, "host3")
		link := func(h host, bound bool) topology.Link {
			return topology.Link{Peer: h.peer.Identity, State: topology.Direct, Endpoint: h.peer.Endpoints[0], RTT: time.Millisecond, MTU: 1500, Bound: bound}
		}
		two.says(t, topology.Link{Peer: tn.self, State: topology.Direct, Endpoint: w.own[0], RTT: time.Millisecond, MTU: 1500}, link(three, false))
		three.says(t, link(two, true))
		w.eats = coalesced
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
		w.shake(three.peer, at)
		time.Sleep(12 * time.Second)
		synctest.Wait()
		for _, h := range []host{two, three} {
			if way := tn.Way(h.peer.Identity); !way.Up || !way.Single {
				t.Errorf("%s: %+v", h.peer.Nickname, way)
			}
		}
		if way := tn.Way(three.peer.Identity); way.Endpoint != at {
			t.Errorf("host3 is not reached by the relay: %+v", way)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		single := map[bool]int{}
		for _, p := range w.relay.Peers {
			single[p.Single]++
		}
		if single[true] != 1 || single[false] != 1 {
			t.Errorf("our relay was told %v: %+v", single, relay.Config{Peers: w.relay.Peers})
		}
	})
}
