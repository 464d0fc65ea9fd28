package tunnel

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/signal"
)

// A probe is answered from the address that it came to; one that a stranger has
// made is not answered.
func TestProbesAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		tn := start(t, w)
		h := hostOf(t, 2, "host2")
		tn.SetView(mesh.View{Peers: []mesh.Peer{h.peer}})
		time.Sleep(time.Second)
		synctest.Wait()
		id := h.peer.Identity
		from, to := addrPort("203.0.113.7:5555"), netip.MustParseAddr("192.0.2.77")
		for number, key := range [][32]byte{{9}, testKeys.PairKey(tn.self, id)} {
			if n := w.did("probe reply"); n != 0 {
				t.Errorf("%d replies to a stranger", n)
			}
			tn.Receive(from, to, signal.Packet{
				Kind: signal.Probe, From: signal.IDOf(id), To: signal.IDOf(tn.self), Number: uint64(number),
			}.Append(nil, key))
		}
		if w.did("probe reply to 203.0.113.7:5555 from 192.0.2.77") != 1 {
			t.Errorf("done: %q", w.done)
		}
	})
}
