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
	// observedGap is the least time between two changes of what we tell: every
	// host hears of each, and probes.
	observedGap = 10 * time.Second
	maxObserved = 3 // addresses that others saw in our advert
)

// observed is where other hosts saw our WireGuard port: what a STUN server
// would tell (RFC 8489), told by neighbours in answers to probes.
type observed struct {
	seen   map[observer]observation
	told   []netip.AddrPort // as last offered for the advert
	toldAt time.Time
}

// observer is a peer by one protocol: the two have mappings of their own.
type observer struct {
	peer crypto.Identity
	ipv6 bool
}

type observation struct {
	at   netip.AddrPort
	when time.Time
}

func newObserved() observed { return observed{seen: make(map[observer]observation)} }

func (o *observed) forget() {
	clear(o.seen)
	o.toldAt = time.Time{}
}

// observe takes where a peer says that our packet came from. It is told in an
// authenticated answer, so the peer may lie about it, but nobody else.
func (o *observed) observe(now time.Time, peer crypto.Identity, at netip.AddrPort) {
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	o.seen[observer{peer, at.Addr().Is6()}] = observation{at, now}
}

// stepObserved tells others where we are seen, when that has changed.
func (t *Tunnels) stepObserved(now time.Time) {
	o := &t.observed
	if now.Sub(o.toldAt) < observedGap {
		return
	}
	list := o.list(now, t.own)
	if slices.Equal(list, o.told) {
		return
	}
	o.told, o.toldAt = list, now
	t.log.Info("other hosts see this one elsewhere", "endpoints", list, "nat", o.kind(now, t.own))
	t.showAt = time.Time{}
	t.show(now)
	t.cfg.Mesh.EndpointsChanged()
}

// list returns the addresses that several peers saw, those that most saw
// first; when there is none, the one that a single peer saw. Those of our
// interfaces are left out, and those of a NAT that gives every destination
// another port: nobody else can use them.
func (o *observed) list(now time.Time, own []netip.AddrPort) []netip.AddrPort {
	votes := make(map[netip.AddrPort]int)
	ports := make(map[netip.Addr]int)
	for id, s := range o.seen {
		if now.Sub(s.when) > observedAge {
			delete(o.seen, id)
			continue
		}
		if slices.ContainsFunc(own, func(ep netip.AddrPort) bool { return ep.Addr() == s.at.Addr() }) {
			continue
		}
		if votes[s.at] == 0 {
			ports[s.at.Addr()]++
		}
		votes[s.at]++
	}
	var sure, alone []netip.AddrPort
	for ep, n := range votes {
		switch {
		case ports[ep.Addr()] > 1:
		case n > 1:
			sure = append(sure, ep)
		default:
			alone = append(alone, ep)
		}
	}
	slices.SortFunc(sure, func(a, b netip.AddrPort) int { return cmp.Or(votes[b]-votes[a], a.Compare(b)) })
	slices.SortFunc(alone, netip.AddrPort.Compare)
	if len(sure) == 0 && len(alone) > 0 {
		sure = alone[:1]
		if i := slices.IndexFunc(o.told, func(ep netip.AddrPort) bool { return slices.Contains(alone, ep) }); i >= 0 {
			sure = []netip.AddrPort{o.told[i]} // it is as good as any other, and known already
		}
	}
	return sure[:min(len(sure), maxObserved)]
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
