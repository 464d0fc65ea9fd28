package path

import (
	"fmt"
	"net/netip"
	"time"
)

// transmit sends something from a host to an address; arrive gets the source
// address as seen there. It is a relay's or one of the other host's.
func (s *sim) transmit(h *simHost, to netip.AddrPort, arrive func(source netip.AddrPort)) {
	for _, r := range s.relays {
		if r.endpoint == to {
			source := h.source(0, to)
			s.carry(h.name(), r.name, func() { arrive(source) })
			return
		}
	}
	h.toPeer(to, h.local, 0, func(source netip.AddrPort, k int) {
		h.peer().heardOn = k
		arrive(source)
	})
}

// source is the address that packets of a host show behind its NAT.
func (h *simHost) source(k int, to netip.AddrPort) netip.AddrPort {
	if h.nat != nil {
		return h.nat.out(h.s.now, to)
	}
	return simEndpoint(h.id, k)
}

// toPeer sends to an address of the other host, directly, from an interface of
// ours; routed: the one that fits. What arrives is told of the interface too.
func (h *simHost) toPeer(to netip.AddrPort, from, ttl int, arrive func(source netip.AddrPort, k int)) {
	p := h.peer()
	k := 0
	public := p.nat != nil && to.Addr() == p.nat.public
	for i := range p.up {
		if to == simEndpoint(p.id, i) {
			k = i
		}
	}
	mine := from
	if from == routed {
		mine = min(k, len(h.up)-1)
	}
	source := h.source(mine, to) // even when it gets nowhere, our NAT has seen it
	switch {
	case ttl > 0 || !h.up[mine]:
	case public:
		h.s.carry(h.direct(mine), p.direct(mine), func() {
			if p.nat.in(h.s.now, source, to.Port()) {
				arrive(source, 0)
			}
		})
	case p.nat == nil && k < len(p.up) && p.up[k] && to == simEndpoint(p.id, k):
		h.s.carry(h.direct(mine), p.direct(k), func() { arrive(source, k) })
	}
}

// direct names an interface.
func (h *simHost) direct(k int) string { return fmt.Sprintf("%d.%d", h.id, k) }

// deliver brings something from a relay to a host.
func (s *sim) deliver(relay string, from netip.AddrPort, host int, to netip.AddrPort, arrive func(source netip.AddrPort)) {
	h := s.hosts[host]
	s.carry(relay, h.name(), func() {
		if h.nat != nil && !h.nat.in(s.now, from, to.Port()) || h.nat == nil && to != simEndpoint(h.id, 0) {
			return
		}
		h.heardOn = 0
		arrive(from)
	})
}

// simNAT is a router in front of a host that maps each destination on its own,
// as Linux does.
type simNAT struct {
	public  netip.Addr
	random  bool // mapped ports are; else they are kept if that is possible
	answers bool // unsolicited packets leave a trace that takes the port away
	port    uint16
	entries map[netip.AddrPort]*simMapping
	traces  map[netip.AddrPort]time.Duration
}

type simMapping struct {
	port    uint16
	used    time.Duration
	replied bool
}

func newNAT(host int, answers, random bool) *simNAT {
	return &simNAT{
		public: netip.AddrFrom4([4]byte{198, 51, 100, byte(host)}), answers: answers, random: random, port: 20000,
		entries: make(map[netip.AddrPort]*simMapping), traces: make(map[netip.AddrPort]time.Duration),
	}
}

const simMappingLife = 30 * time.Second

func (n *simNAT) live(now time.Duration, to netip.AddrPort) *simMapping {
	m := n.entries[to]
	if m == nil || now-m.used > simMappingLife && !m.replied || now-m.used > 4*simMappingLife {
		return nil
	}
	return m
}

// out maps a packet to somewhere and returns its source address.
func (n *simNAT) out(now time.Duration, to netip.AddrPort) netip.AddrPort {
	m := n.live(now, to)
	if m == nil {
		m = &simMapping{port: 6784}
		trace, ok := n.traces[to]
		if n.random || ok && now-trace <= simMappingLife {
			n.port++
			m.port = n.port
		}
		n.entries[to] = m
	}
	m.used = now
	return netip.AddrPortFrom(n.public, m.port)
}

// in reports whether a packet passes.
func (n *simNAT) in(now time.Duration, from netip.AddrPort, port uint16) bool {
	if m := n.live(now, from); m != nil && m.port == port {
		m.used, m.replied = now, true
		return true
	}
	if n.answers && port == 6784 {
		n.traces[from] = now
	}
	return false
}

// simPublic is where a host behind a NAT is seen, if its port is kept.
func simPublic(host int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(host)}), 6784)
}
