package relay

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/udp"
)

// WireGuard's messages (whitepaper, section 5.4): the type is a little-endian
// word; then come indices, each chosen by who it names.
const (
	initiation = 1 // sender
	response   = 2 // sender, receiver
	cookie     = 3 // receiver
	transport  = 4 // receiver

	initiationSize = 148
	responseSize   = 92
	cookieSize     = 64
	leastTransport = 32
)

// reason is why a packet was not sent on.
type reason uint8

const (
	none        reason = iota
	unbound            // nobody known sends from there
	malformed          // neither WireGuard's nor a signal for a relay
	limited            // too many
	replayed           // a handshake message or a signal came before
	noTarget           // a handshake with nobody known
	noRoute            // the next hop cannot be reached
	loop               // it would go back to where it came from
	conflict           // another session has the index
	unknown            // no handshake of this session came by here
	hushed             // the receiver does not want it now
	refused            // this relay is stopping, or the address is not for packets
	sendFailed         // the kernel did not take it
	reasonCount        // not a reason
)

// reasonNames are the reasons in metrics and status.
var reasonNames = [...]string{
	unbound: "unbound", malformed: "malformed", limited: "limited", replayed: "replayed",
	noTarget: "no_target", noRoute: "no_route", loop: "loop", conflict: "conflict", unknown: "unknown_session",
	hushed: "hushed", refused: "refused", sendFailed: "send_failed",
}

// counts is what a relay has done.
type counts struct {
	packets, bytes uint64 // sent on
	dropped        [reasonCount]uint64
}

// verdict is what to do with a packet: send it on, or answer the sender, or
// neither. A packet that is not sent on has a reason, unless it was for the
// relay.
type verdict struct {
	to     udp.Flow // valid Remote: send it there
	limit  int      // of UDP payload; what is longer leaves in fragments; 0: none
	reply  []byte   // not nil: answer with this
	answer bool     // it is another known relay's authentic answer to us
	why    reason
}

// step decides about one packet (docs/protocol.md#sessions). It keeps nothing of b.
func (t *table) step(now time.Time, from udp.Flow, b []byte) verdict {
	if signal.Is(b) {
		return t.signal(now, from, b)
	}
	n := t.addresses[from.Remote]
	if n == nil {
		return verdict{why: unbound}
	}
	if len(b) < leastTransport {
		return verdict{why: malformed}
	}
	switch kind := binary.LittleEndian.Uint32(b); {
	case kind == transport, kind == cookie && len(b) == cookieSize:
		return t.follow(now, n, kind, b)
	case kind == initiation && len(b) == initiationSize:
		return t.initiate(now, n, b)
	case kind == response && len(b) == responseSize:
		return t.respond(now, n, b)
	}
	return verdict{why: malformed}
}

// index reads one of a message's indices.
func index(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }

// follow sends a packet along the recorded state: the handshake that made it
// was free of loops, so this is.
func (t *table) follow(now time.Time, n *neighbour, kind uint32, b []byte) verdict {
	s := t.find(now, key{n, index(b, 4)})
	if s == nil {
		if kind == transport {
			return t.notice(now, n, index(b, 4), len(b))
		}
		return verdict{why: unknown}
	}
	v := s.next.deliver(now, s.sender)
	if v.why == none {
		s.touch(now)
	}
	return v
}

// deliver is the verdict that sends a packet of sender to n.
func (n *neighbour) deliver(now time.Time, sender signal.ID) verdict {
	if len(n.hushes) > 0 && n.hushed(now, sender) {
		return verdict{why: hushed}
	}
	f := n.flow()
	if !f.Remote.IsValid() {
		return verdict{why: noRoute}
	}
	f.Single = n.peer.single
	return verdict{to: f, limit: limit(f.Remote.Addr(), n.peer.pathMTU)}
}

// limit is the longest UDP payload in an IP packet to a; 0: not known.
func limit(a netip.Addr, pathMTU int) int {
	if pathMTU == 0 {
		return 0
	}
	return pathMTU - signal.Headers(a)
}

// owner is whose packets come from n; zero: a relay's may be anybody's.
func (n *neighbour) owner() signal.ID {
	if n.role == signal.RelayPort {
		return signal.ID{}
	}
	return signal.IDOf(n.peer.id)
}

// admit finds whom a handshake message is for; likely is who it may well be,
// nil: nobody. Only what is for a known host, and new, counts as a handshake of
// the neighbour: anybody can write its address on garbage, and copy what it
// sent.
func (t *table) admit(now time.Time, n *neighbour, likely *peer, b []byte) (*peer, reason) {
	rate, burst := float64(handshakeRate), float64(handshakeBurst)
	if n.role == signal.RelayPort {
		rate, burst = relayedRate, relayedBurst
	}
	mac1 := binary.LittleEndian.Uint64(b[len(b)-32:])
	for _, seen := range t.seen {
		if _, ok := seen[mac1]; ok {
			return nil, replayed
		}
	}
	// Limits come before hashes.
	if !n.handshakes.allow(now, rate, burst) {
		return nil, limited
	}
	p, why := t.target(now, n, likely, b)
	if why != none {
		n.handshakes.giveBack(1)
		return nil, why
	}
	if now.Sub(t.turned) >= seenFor || len(t.seen[0]) >= t.memory {
		t.seen[0], t.seen[1] = make(map[uint64]struct{}), t.seen[0]
		t.turned = now
	}
	t.seen[0][mac1] = struct{}{}
	return p, none
}

// target is the peer under whose key the message's mac1 verifies. Few are tried
// always: the likely one, and those whom the neighbour spoke to last. To try all
// costs what a flood could use up, so that the handshakes of these go on in one.
func (t *table) target(now time.Time, n *neighbour, likely *peer, b []byte) (*peer, reason) {
	if likely != nil && likely.receives(b) {
		n.remember(likely)
		return likely, none
	}
	for _, p := range n.recent {
		if p != nil && p != likely && p.receives(b) {
			n.remember(p)
			return p, none
		}
	}
	cost := float64(len(t.peers))
	if !n.searches.take(now, searchRate, max(searchRate, cost), cost) {
		return nil, limited
	}
	if !t.searches.take(now, allSearchRate, max(allSearchRate, cost), cost) {
		n.searches.giveBack(cost)
		return nil, limited
	}
	for _, p := range t.peers {
		if p.receives(b) {
			n.searches.giveBack(cost)
			t.searches.giveBack(cost)
			n.remember(p)
			return p, none
		}
	}
	return nil, noTarget
}

// remember makes p the first of n's recent targets.
func (n *neighbour) remember(p *peer) {
	last := len(n.recent) - 1
	if i := slices.Index(n.recent[:], p); i >= 0 {
		last = i
	}
	copy(n.recent[1:last+1], n.recent[:last])
	n.recent[0] = p
}

func (p *peer) receives(b []byte) bool {
	return p.mac1 != nil && p.mac1.Verify(b)
}

// initiate sends an initiation on, and records where its answers go.
func (t *table) initiate(now time.Time, n *neighbour, b []byte) verdict {
	if t.stopping {
		return verdict{why: refused}
	}
	p, why := t.admit(now, n, nil, b)
	if why != none {
		return verdict{why: why}
	}
	next := t.towards(p)
	switch {
	case p == n.peer || next != nil && next.peer == n.peer:
		return verdict{why: loop}
	case next == nil:
		return verdict{why: noRoute}
	}
	v := next.deliver(now, n.owner())
	if v.why == none && t.record(now, key{next, index(b, 4)}, n, signal.IDOf(p.id)) == nil {
		v = verdict{why: conflict}
	}
	return v
}

// respond sends a response back along its initiation's way, and records the
// session. A relay that was restarted in between finds the way by mac1.
func (t *table) respond(now time.Time, n *neighbour, b []byte) verdict {
	there, back := key{n, index(b, 8)}, index(b, 4)
	s := t.find(now, there)
	var likely *peer // who asked
	if s != nil && s.next.role == signal.WireGuardPort {
		likely = s.next.peer
	}
	p, why := t.admit(now, n, likely, b)
	if why != none {
		return verdict{why: why}
	}
	next, owner := t.towards(p), n.owner()
	if s != nil {
		if s.back != nil {
			return verdict{why: conflict} // it has its answer
		}
		if s.next == p.roles[signal.WireGuardPort] || s.next.role == signal.RelayPort {
			next = s.next
		}
		if owner == (signal.ID{}) {
			owner = s.sender
		}
	}
	switch {
	case p == n.peer || next != nil && next.peer == n.peer:
		return verdict{why: loop}
	case next == nil:
		return verdict{why: noRoute}
	}
	v := next.deliver(now, owner)
	if v.why != none {
		return v
	}
	one := t.record(now, there, next, owner)
	if one == nil {
		return verdict{why: conflict}
	}
	other := t.record(now, key{next, back}, n, signal.IDOf(p.id))
	if other == nil || other.back != nil || t.sessions[there] != one {
		return verdict{why: conflict}
	}
	t.pair(one, other)
	return v
}

// output collects what a batch is to send, for IPv4 and IPv6, and the answers of
// other relays in it.
type output struct {
	wide, narrow [2][]udp.Message
	answers      []udp.Message
}

func (o *output) reset() {
	for i := range o.wide {
		o.wide[i], o.narrow[i] = o.wide[i][:0], o.narrow[i][:0]
	}
	o.answers = o.answers[:0]
}

func (o *output) add(m udp.Message, narrow bool) {
	list := &o.wide
	if narrow {
		list = &o.narrow
	}
	i := 0
	if m.Flow.Remote.Addr().Is6() {
		i = 1
	}
	list[i] = append(list[i], m)
}

// message decides about a packet, or about several that came as one. Those that
// go the same way in a row stay together, and what is to be sent are parts of m,
// not copies.
func (t *table) message(now time.Time, m *udp.Message, out *output) {
	size := len(m.Bytes)
	if m.Segment > 0 {
		size = min(size, m.Segment)
	}
	var run udp.Message
	var start int
	var narrow bool
	for at := 0; at < len(m.Bytes); {
		b := m.Bytes[at:min(at+size, len(m.Bytes))]
		v := t.step(now, m.Flow, b)
		packets, end := 1, at+len(b)
		// Packets of one session follow one another: look it up once.
		for v.to.Remote.IsValid() && b[0] == transport && end+leastTransport <= len(m.Bytes) &&
			string(m.Bytes[end:end+8]) == string(b[:8]) {
			packets++
			end = min(end+size, len(m.Bytes))
		}
		if v.to != run.Flow {
			if run.Flow.Remote.IsValid() {
				run.Bytes = m.Bytes[start:at]
				out.add(run, narrow)
			}
			run, start, narrow = udp.Message{Flow: v.to, Segment: size}, at, v.limit > 0 && len(b) > v.limit
		}
		if v.to.Remote.IsValid() {
			t.counts.packets += uint64(packets)
			t.counts.bytes += uint64(end - at)
		} else {
			t.counts.dropped[v.why]++ // of none as well, which nobody reads
		}
		if v.answer {
			out.answers = append(out.answers, udp.Message{Flow: m.Flow, Bytes: b})
		}
		if v.reply != nil {
			out.add(udp.Message{Flow: m.Flow, Bytes: v.reply}, false)
		}
		at = end
	}
	if run.Flow.Remote.IsValid() {
		run.Bytes = m.Bytes[start:]
		out.add(run, narrow)
	}
}
