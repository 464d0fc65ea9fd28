package tunnel

import (
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router/path"
)

// A NAT or firewall on the way forgets a flow that is quiet for long, after 30 s
// the worst of them. Pings keep it, where they are frequent: WireGuard's keepalive
// only goes when nothing else did. In a large cluster they are not, and a
// thousand keepalives each 25 s would be most of what an idle host sends. So
// where no NAT changes our address, which leaves firewalls, they are as rare as
// those allow: no less than two minutes (RFC 6092 REC-14, and RFC 4787 REQ-5).
// Each end keeps the NAT or firewall before itself open.
const (
	keepalive     = 25 * time.Second
	openKeepalive = 110 * time.Second
)

// open reports whether the path to a peer needs few keepalives of ours: the peer
// tells that it sees us where we are. What other hosts see says nothing about it;
// one beside us sees no NAT.
func (t *Tunnels) open(w *tunnel) bool {
	if t.idle <= keepalive || w.machine.State() != path.Established || !w.machine.Route().Direct() {
		return false
	}
	links := t.graph.reports[w.peer.Identity].Links
	i, ok := slices.BinarySearchFunc(links, t.self, func(l topology.Link, id crypto.Identity) int { return l.Peer.Compare(id) })
	return ok && links[i].State == topology.Direct && slices.Contains(t.own, links[i].Endpoint)
}

// keepalive is the gap between keepalives on a path.
func (w Way) keepalive() time.Duration {
	if w.Open {
		return openKeepalive
	}
	return keepalive
}

// silent reports whether a tunnel that stands has brought nothing for so long
// that two keepalives must have been lost. How rare the peer's are is for the peer
// to say, whatever ours are.
func (t *Tunnels) silent(now time.Time, w *tunnel) bool {
	gap := keepalive
	if t.idle > keepalive {
		gap = openKeepalive
	}
	return now.Sub(w.heard) > 2*gap+5*time.Second
}
