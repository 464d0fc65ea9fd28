package tunnel

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/topology"
)

const (
	// observedAge is how long an observation counts. A NAT forgets a UDP
	// mapping after two or three minutes at the latest (RFC 4787 REQ-5).
	observedAge = 3 * time.Minute
	// maxObserved is how many addresses that others saw go into our advert.
	maxObserved = 3
)

// observed is where other hosts saw our WireGuard port: what a STUN server
// would tell (RFC 8489), told by neighbours.
type observed struct {
	seen map[crypto.Identity]observation
	told []netip.AddrPort // as last offered for the advert
}

type observation struct {
	at   netip.AddrPort
	when time.Time
}

func newObserved() observed { return observed{seen: make(map[crypto.Identity]observation)} }

func (o *observed) forget() { clear(o.seen) }

// observe takes where a peer says that our packet came from. It is told in an
// authenticated answer, so the peer may lie about it, but nobody else.
func (t *Tunnels) observe(now time.Time, peer crypto.Identity, at netip.AddrPort) {
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	t.observed.seen[peer] = observation{at, now}
	if list := t.observed.list(now, t.own); !slices.Equal(list, t.observed.told) {
		t.observed.told = list
		t.showAt = time.Time{}
		t.show(now)
		t.cfg.Mesh.EndpointsChanged()
	}
}

// list returns the addresses that most peers saw, at most [maxObserved],
// without those of our interfaces.
func (o *observed) list(now time.Time, own []netip.AddrPort) []netip.AddrPort {
	votes := make(map[netip.AddrPort]int)
	for id, s := range o.seen {
		if now.Sub(s.when) > observedAge {
			delete(o.seen, id)
			continue
		}
		if !slices.Contains(own, s.at) {
			votes[s.at]++
		}
	}
	list := make([]netip.AddrPort, 0, len(votes))
	for ep := range votes {
		list = append(list, ep)
	}
	slices.SortFunc(list, func(a, b netip.AddrPort) int {
		return cmp.Or(votes[b]-votes[a], a.Compare(b))
	})
	return list[:min(len(list), maxObserved)]
}

// kind says what NAT we are behind, as far as the observations tell. A host
// that nobody sees elsewhere than where it is has none.
func (o *observed) kind(now time.Time, own []netip.AddrPort) topology.NATKind {
	ports := make(map[netip.Addr]map[uint16]bool)
	known := false
	for _, s := range o.seen {
		if now.Sub(s.when) > observedAge {
			continue
		}
		known = true
		if slices.ContainsFunc(own, func(ep netip.AddrPort) bool { return ep.Addr() == s.at.Addr() }) {
			continue
		}
		if ports[s.at.Addr()] == nil {
			ports[s.at.Addr()] = make(map[uint16]bool)
		}
		ports[s.at.Addr()][s.at.Port()] = true
	}
	if !known {
		return topology.NATUnknown
	}
	kind := topology.NATNone
	for _, p := range ports {
		if len(p) > 1 {
			return topology.NATSymmetric
		}
		kind = topology.NATEndpointIndependent
	}
	return kind
}
