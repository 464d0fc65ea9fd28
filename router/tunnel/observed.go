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
	observedGap  = 10 * time.Second
	observedLook = 200 * time.Millisecond // between comparisons
	maxObserved  = 3                      // addresses that others saw in our advert
)

// observed is where other hosts saw our WireGuard port: what a STUN server
// would tell (RFC 8489), told by neighbours in answers to probes.
type observed struct {
	seen   map[observer]observation
	told   []netip.AddrPort // as last offered for the advert
	toldAt time.Time
	lookAt time.Time // when it is compared again
	// known is the NAT that was seen last. Whether there is one changes with our
	// addresses only, and those who could tell may all be idle.
	known topology.NATKind
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
	o.toldAt, o.lookAt, o.known = time.Time{}, time.Time{}, topology.NATUnknown
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
	if now.Sub(o.toldAt) < observedGap || o.lookAt.After(now) {
		return
	}
	o.lookAt = now.Add(observedLook)
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

// outside is one address at which others see this host though it is none of our
// interfaces': a NAT's.
type outside struct {
	best    netip.AddrPort // the port that most see
	agree   int            // who sees that
	seenBy  int            // who sees any port of the address
	perPort map[uint16]int
}

// steady reports whether the NAT gives us one port whoever we send to. One of
// three may have an old observation, or lie.
func (a outside) steady() bool { return 3*a.agree >= 2*a.seenBy }

// outsides returns the addresses of NATs, by address. Observations that are too
// old are dropped.
func (o *observed) outsides(now time.Time, own []netip.AddrPort) []outside {
	by := make(map[netip.Addr]*outside)
	for id, s := range o.seen {
		if now.Sub(s.when) > observedAge {
			delete(o.seen, id)
			continue
		}
		if slices.ContainsFunc(own, func(ep netip.AddrPort) bool { return ep.Addr() == s.at.Addr() }) {
			continue
		}
		a := by[s.at.Addr()]
		if a == nil {
			a = &outside{perPort: make(map[uint16]int)}
			by[s.at.Addr()] = a
		}
		a.seenBy++
		a.perPort[s.at.Port()]++
	}
	list := make([]outside, 0, len(by))
	for addr, a := range by {
		for port, n := range a.perPort {
			if ep := netip.AddrPortFrom(addr, port); n > a.agree || n == a.agree && port < a.best.Port() {
				a.best, a.agree = ep, n
			}
		}
		list = append(list, *a)
	}
	slices.SortFunc(list, func(a, b outside) int { return cmp.Or(b.agree-a.agree, a.best.Compare(b.best)) })
	return list
}

// list returns the addresses that several peers saw, those that most saw
// first; when there is none, the one that a single peer saw. Those of a NAT
// that gives every destination another port are left out: nobody else can use
// them.
func (o *observed) list(now time.Time, own []netip.AddrPort) []netip.AddrPort {
	var sure, alone []netip.AddrPort
	for _, a := range o.outsides(now, own) {
		switch {
		case !a.steady():
		case a.agree > 1:
			sure = append(sure, a.best)
		default:
			alone = append(alone, a.best)
		}
	}
	if len(sure) > 0 || len(alone) == 0 {
		return sure[:min(len(sure), maxObserved)]
	}
	if i := slices.IndexFunc(o.told, func(ep netip.AddrPort) bool { return slices.Contains(alone, ep) }); i >= 0 {
		return []netip.AddrPort{o.told[i]} // it is as good as any other, and known already
	}
	return alone[:1]
}

// kind says what NAT we are behind, as far as the observations tell. A host
// that nobody ever saw elsewhere than where it is, at these addresses, has none.
func (o *observed) kind(now time.Time, own []netip.AddrPort) topology.NATKind {
	list := o.outsides(now, own)
	if len(o.seen) == 0 {
		return o.known
	}
	kind := max(o.known, topology.NATNone) // who sees none may be beside us
	var most int
	for _, a := range list { // what most see counts
		switch {
		case a.seenBy <= most:
		case a.steady():
			kind, most = topology.NATEndpointIndependent, a.seenBy
		default:
			kind, most = topology.NATSymmetric, a.seenBy
		}
	}
	o.known = kind
	return kind
}
