package tunnel

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/topology"
)

// An invitation that comes before the peer's own packets moves its port at a
// NAT that lets strangers in, and hole punching shoots at the wrong one for
// ever. Whoever may have such a NAT is left alone until it should have bound by
// itself.
func TestInvitationsMoveNoPort(t *testing.T) {
	for _, c := range []struct {
		name string
		says func(h *host, self topology.Link) // nil: no report yet
		soon bool
	}{
		{"nothing known", nil, false},
		{"a NAT that keeps ports", func(h *host, self topology.Link) { h.saysNAT(t, topology.NATEndpointIndependent, self) }, false},
		{"no NAT", func(h *host, self topology.Link) { h.saysNAT(t, topology.NATNone, self) }, true},
		{"it was bound here before", func(h *host, self topology.Link) {
			self.Bound = true
			h.saysNAT(t, topology.NATEndpointIndependent, self)
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				tn := start(t, w)
				h := hostOf(t, 2, "host2")
				if c.says != nil {
					c.says(&h, topology.Link{Peer: tn.self, State: topology.Direct, Endpoint: w.own[0], RTT: time.Millisecond, MTU: 1500})
				}
				w.pongs(tn, []host{h}, func(netip.AddrPort) bool { return true })
				w.echoes(tn)
				tn.SetView(mesh.View{Peers: []mesh.Peer{h.peer}})
				time.Sleep(100 * time.Millisecond)
				w.shake(h.peer, h.peer.Candidates[0])
				invite := "invite " + h.peer.Candidates[0].String()
				time.Sleep(3 * time.Second)
				synctest.Wait()
				if got := w.did(invite) > 0; got != c.soon {
					t.Errorf("invited within 3 s: %t, want %t; %q", got, c.soon, w.done)
				}
				time.Sleep(8 * time.Second)
				synctest.Wait()
				if w.did(invite) == 0 {
					t.Errorf("never invited: %q", w.done)
				}
			})
		})
	}
}

// saysNAT is says, with what the host knows of its NAT.
func (h *host) saysNAT(t *testing.T, kind topology.NATKind, links ...topology.Link) {
	t.Helper()
	r := topology.Report{Owner: h.key.Identity(), Boot: h.peer.Boot, Seq: uint64(time.Now().UnixNano()), NAT: kind, Links: links}
	b, err := topology.Sign(h.key, r)
	if err != nil {
		t.Fatal(err)
	}
	h.peer.Report = b
}
