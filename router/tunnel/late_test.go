package tunnel

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/signal"
)

// What was answered while the loop was held up waits in its queue, behind other
// news of the same peer: it is not lost.
func TestLateLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var hold atomic.Bool
		w.reading = func() { // takes long now and then, and tells of traffic
			if hold.Swap(false) {
				time.Sleep(1500 * time.Millisecond)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			for key, s := range w.peers {
				s.RxBytes += 2000
				s.TxBytes += 2000
				w.peers[key] = s
			}
		}
		tn := start(t, w)
		h := hostOf(t, 2, "host2")
		id, ep := h.peer.Identity, h.peer.Candidates[0]
		w.pongs(tn, []host{h}, func(netip.AddrPort) bool { return true })
		begun := time.Now()
		var asked atomic.Uint64
		w.pinged = func(peer netip.Addr, number uint64) {
			hold.Store(number%5 == 0 && time.Since(begun) < 2*time.Minute)
			time.AfterFunc(200*time.Millisecond, func() {
				tn.Receive(ep, netip.Addr{}, signal.Packet{
					Kind: signal.Probe, From: signal.IDOf(id), To: signal.IDOf(tn.self), Number: asked.Add(1),
				}.Append(nil, testKeys.PairKey(tn.self, id)))
				tn.Echoed(peer, number, time.Now())
			})
		}
		w.shake(h.peer, ep)
		tn.SetView(mesh.View{Peers: []mesh.Peer{h.peer}})
		time.Sleep(2*time.Minute + 5*time.Second)
		synctest.Wait()
		p := tn.Snapshot().Peers[0].Path
		if p.Pings < 50 || p.Unanswered > 0 {
			t.Errorf("%d of %d pings were lost", p.Unanswered, p.Pings)
		}
		if p.RTT < 200*time.Millisecond || p.RTT > 250*time.Millisecond {
			t.Errorf("the round trip is said to be %s, it is 200ms", p.RTT)
		}
	})
}
