package tunnel

import (
	"time"

	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router/path"
)

// A NAT or firewall on the way forgets a flow that is quiet for long, after 30 s
// the worst of them. Pings keep it, where they are frequent: WireGuard's keepalive
// only goes when nothing else did. In a large cluster they are not, and a
// thousand keepalives each 25 s would be most of what an idle host sends. So
// where neither end is behind a NAT, which leaves firewalls, they are as rare as
// those allow: no less than two minutes (RFC 6092 REC-14, and RFC 4787 REQ-5).
const (
	keepalive     = 25 * time.Second
	openKeepalive = 110 * time.Second
)

// open reports whether the path to a peer needs few keepalives.
func (t *Tunnels) open(w *tunnel) bool {
	return t.idle > keepalive && w.machine.State() == path.Established && w.machine.Route().Direct() &&
		t.nat == topology.NATNone && t.graph.reports[w.peer.Identity].NAT == topology.NATNone
}

// keepalive is the gap between keepalives on a path.
func (w Way) keepalive() time.Duration {
	if w.Open {
		return openKeepalive
	}
	return keepalive
}

// silent reports whether a tunnel that stands has brought nothing for so long
// that two keepalives must have been lost.
func (t *Tunnels) silent(now time.Time, w *tunnel) bool {
	return now.Sub(w.heard) > 2*t.way(w).keepalive()+5*time.Second
}
