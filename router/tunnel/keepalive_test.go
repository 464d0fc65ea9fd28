package tunnel

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/topology"
)

// Keepalives are rare only in a large cluster, on a direct path between hosts
// that are not behind a NAT, as far as both know.
func TestKeepalive(t *testing.T) {
	for _, c := range []struct {
		name          string
		own, theirs   topology.NATKind
		idle          time.Duration
		direct, stand bool
		want          time.Duration
	}{
		{"large and open", topology.NATNone, topology.NATNone, time.Minute, true, true, openKeepalive},
		{"pings are frequent", topology.NATNone, topology.NATNone, keepalive, true, true, keepalive},
		{"we have a NAT", topology.NATEndpointIndependent, topology.NATNone, time.Minute, true, true, keepalive},
		{"the peer has", topology.NATNone, topology.NATSymmetric, time.Minute, true, true, keepalive},
		{"not known of us", topology.NATUnknown, topology.NATNone, time.Minute, true, true, keepalive},
		{"not known of the peer", topology.NATNone, topology.NATUnknown, time.Minute, true, true, keepalive},
		{"relayed", topology.NATNone, topology.NATNone, time.Minute, false, true, keepalive},
		{"no tunnel", topology.NATNone, topology.NATNone, time.Minute, true, false, keepalive},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				h, other := hostOf(t, 2, "host2"), hostOf(t, 3, "host3")
				at := h.peer.Candidates[0]
				if !c.direct {
					at = addrPort("192.0.2.3:6783")
				}
				if c.stand {
					w.shake(h.peer, at)
				}
				tn := New(Config{
					Key: hostOf(t, 1, "").key, Keys: testKeys, Boot: 1, MTU: 1370,
					Mesh: fakeMesh{w}, Device: fakeDevice{w}, Relay: fakeRelay{w}, Pinger: fakePinger{w},
					Endpoints: func() []netip.AddrPort { return w.own }, Ceiling: func() int { return 1500 },
				})
				tn.Adopt(mesh.View{Peers: []mesh.Peer{h.peer, other.peer}})
				tn.nat, tn.idle = c.own, c.idle
				tn.graph.reports[h.peer.Identity] = topology.Report{NAT: c.theirs}
				x := tn.tunnels[h.peer.Identity]
				got := PeerConfig(testKeys, tn.self, h.peer, tn.way(x)).Keepalive
				if got != c.want {
					t.Errorf("keepalive %s, want %s", got, c.want)
				}
				now := time.Now()
				x.heard = now.Add(-2 * got)
				if tn.silent(now, x) || !tn.silent(now.Add(6*time.Second), x) {
					t.Error("two keepalives do not make the silence")
				}
			})
		})
	}
}
