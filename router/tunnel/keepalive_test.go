package tunnel

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/topology"
)

// Keepalives are rare only in a large cluster, on a direct path whose other end
// says that it sees us where we are.
func TestKeepalive(t *testing.T) {
	const own = "192.0.2.1:6784"
	for _, c := range []struct {
		name          string
		seen          string // where the peer sees us; empty: it does not say
		state         topology.LinkState
		idle          time.Duration
		direct, stand bool
		want          time.Duration
	}{
		{"large and open", own, topology.Direct, time.Minute, true, true, openKeepalive},
		{"pings are frequent", own, topology.Direct, keepalive, true, true, keepalive},
		{"we have a NAT", "203.0.113.1:6784", topology.Direct, time.Minute, true, true, keepalive},
		{"it changes the port only", "192.0.2.1:40000", topology.Direct, time.Minute, true, true, keepalive},
		{"the peer does not say", "", topology.Direct, time.Minute, true, true, keepalive},
		{"the peer has no path", own, topology.Pending, time.Minute, true, true, keepalive},
		{"it is relayed to us", own, topology.Relayed, time.Minute, true, true, keepalive},
		{"relayed", own, topology.Direct, time.Minute, false, true, keepalive},
		{"no tunnel", own, topology.Direct, time.Minute, true, false, keepalive},
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
				tn.own, tn.idle = []netip.AddrPort{addrPort(own)}, c.idle
				// One beside us sees no NAT, whatever there is.
				tn.observed.observe(time.Now(), other.peer.Identity, addrPort(own))
				report := topology.Report{NAT: topology.NATNone}
				if c.seen != "" {
					report.Links = []topology.Link{{Peer: tn.self, State: c.state, Endpoint: addrPort(c.seen)}}
				}
				tn.graph.reports[h.peer.Identity] = report
				x := tn.tunnels[h.peer.Identity]
				got := PeerConfig(testKeys, tn.self, h.peer, tn.way(x)).Keepalive
				if got != c.want {
					t.Errorf("keepalive %s, want %s", got, c.want)
				}
				now := time.Now()
				most := keepalive // what the peer may do, whatever we do
				if c.idle > keepalive {
					most = openKeepalive
				}
				x.heard = now.Add(-2 * most)
				if tn.silent(now, x) || !tn.silent(now.Add(6*time.Second), x) {
					t.Error("two keepalives do not make the silence")
				}
			})
		})
	}
}
