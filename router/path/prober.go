package path

import (
	"container/list"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
)

// The limits of a [Prober].
const (
	probeLifetime    = 3 * time.Second // how long an answer is waited for
	maxProbes        = 4096            // that wait for one; more push the oldest out
	maxProbesSeen    = 4096            // of others, remembered so that a replay gets nothing
	probeReplyWindow = time.Second     // over which the next three count
	maxProbeReplies  = 2000
	// Many peers may be behind one NAT, each of which searches for a path MTU;
	// but one address does not get all that there is.
	maxRepliesToAddr = 1000
	maxRepliesToPeer = 16 // that authenticated itself
)

// ErrProbePeer is returned by [Prober.Probe] for a peer that was not given to
// [Prober.Set].
var ErrProbePeer = errors.New("peer is not known to the prober")

// ProbePeer is a peer that may be probed and may probe us.
type ProbePeer struct {
	Identity crypto.Identity
	Key      [32]byte // of the pair, [crypto.Keys.PairKey]
}

// SendOptions says how a probe leaves.
type SendOptions struct {
	TTL          int // or hop limit; 0: the system's
	DontFragment bool
	From         netip.Addr // of ours; zero, or no address any more: the system chooses
	Segment      int        // these are several packets, each of so many bytes; 0: it is one
	Coalesced    bool       // they leave in one piece, not one by one
}

// Sender sends a packet from the WireGuard port. It must not block and must
// not keep b. Prober calls it from several goroutines at once.
type Sender func(to netip.AddrPort, b []byte, o SendOptions) error

// ProbeResult is what was learnt from one packet that a peer authenticated.
type ProbeResult struct {
	Peer crypto.Identity
	// Endpoint is what we asked; or, if Request, where the peer asked from.
	Endpoint netip.AddrPort
	// From is where the packet came from. It differs from Endpoint when the
	// answer came from elsewhere: another interface of the peer, or a NAT.
	From netip.AddrPort
	RTT  time.Duration // zero if Request
	// Observed is where the peer saw us, as it says; zero if Request.
	Observed netip.AddrPort
	Size     int    // of the whole IP packet that got through, in bytes
	Request  bool   // the peer asked, we did not
	Row      uint32 // that the probe was part of; 0: it was sent alone
	Place    int    // in the row, from 0
}

// ProbeStats counts since the prober was made.
type ProbeStats struct {
	Asked    uint64 // probes sent
	Answered uint64 // of them
	Lost     uint64 // of them: without an answer in time
	Requests uint64 // authentic probes of peers, replays not counted
	Replies  uint64 // sent to them
	Limited  uint64 // replies not sent because there were too many
	Ignored  uint64 // packets that nothing was done about: malformed, of strangers, replays, too late
	Waiting  int    // probes that wait for an answer, now
}

// Prober asks candidate endpoints whether a peer hears us there, and answers
// the peers that ask us. It has no socket and no goroutine: it sends through a
// function and is handed what comes in. It is safe for concurrent use.
//
// It sends wherever it is told to; that an endpoint may be sent to at all is
// for the caller to know, and so is how often.
type Prober struct {
	// Constant after NewProber.
	self   signal.ID
	send   Sender
	result func(ProbeResult)

	mu sync.Mutex // guards all following fields
	// peers by what packets call them. Of two identities that begin alike one
	// is served; to make such a pair takes 2^64 keys.
	peers   map[signal.ID]ProbePeer
	waiting map[uint64]*list.Element // of order, by number
	order   *list.List               // of probeWaiting, oldest first
	seen    probeNumbers
	window  time.Time // when the counting of replies began
	replies int       // in this window
	toAddr  map[netip.Addr]int
	toPeer  map[signal.ID]int
	stats   ProbeStats
}

// probeWaiting is a probe without an answer yet.
type probeWaiting struct {
	number uint64
	peer   crypto.Identity
	to     netip.AddrPort
	size   int
	sent   time.Time
	row    uint32 // 0: none
	place  int
}

// NewProber returns a prober that knows no peer yet. result is told what is
// learnt, by the goroutine that called Handle; it must not block and may call
// the prober.
func NewProber(self crypto.Identity, send Sender, result func(ProbeResult)) *Prober {
	return &Prober{
		self: signal.IDOf(self), send: send, result: result,
		waiting: make(map[uint64]*list.Element), order: list.New(), toAddr: make(map[netip.Addr]int), toPeer: make(map[signal.ID]int),
	}
}

// Set replaces the peers. Answers of those that are gone are ignored from now
// on. Ourselves in the list is nobody.
func (p *Prober) Set(peers []ProbePeer) {
	m := make(map[signal.ID]ProbePeer, len(peers))
	for _, peer := range peers {
		if id := signal.IDOf(peer.Identity); id != p.self {
			m[id] = peer
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peers = m
}

// Stats returns the counters.
func (p *Prober) Stats() ProbeStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Waiting = p.order.Len()
	return s
}

// Probe asks a peer at an endpoint. size is that of the whole IP packet in
// bytes, and what is less than a probe needs, zero above all, is the least. An
// answer within 3 s becomes a result; its absence does not.
//
// The error is [ErrProbePeer], what is wrong with to or size, or the Sender's,
// which a caller that sends with df recognises as a packet too large.
func (p *Prober) Probe(now time.Time, peer crypto.Identity, to netip.AddrPort, size, ttl int, df bool) error {
	return p.probe(now, peer, to, size, make([]probeWaiting, 1), SendOptions{TTL: ttl, DontFragment: df})
}

// ProbeRow asks a peer at an endpoint with [RowLength] probes at once, each of
// them as in [Prober.Probe]; size is that of each. Each answer is a result. It
// fails where the Sender can send no row.
func (p *Prober) ProbeRow(now time.Time, peer crypto.Identity, to netip.AddrPort, size int, row Row) error {
	list := make([]probeWaiting, RowLength)
	for i := range list {
		list[i].row, list[i].place = row.Number, i
	}
	return p.probe(now, peer, to, size, list, SendOptions{Coalesced: row.Coalesced})
}

// probe sends as many probes as there are in list, of which it fills in the
// rest.
func (p *Prober) probe(now time.Time, peer crypto.Identity, to netip.AddrPort, size int, list []probeWaiting, o SendOptions) error {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	payload := max(size-signal.Headers(to.Addr()), signal.Probe.Least())
	switch {
	case !to.IsValid() || to.Port() == 0:
		return fmt.Errorf("probe %s: no endpoint: %q", peer.Fingerprint(), to)
	case payload > signal.MaxSize/len(list):
		return fmt.Errorf("probe %s: no packet has %d bytes", peer.Fingerprint(), size*len(list))
	}
	if len(list) > 1 {
		o.Segment = payload
	}
	var b []byte
	for i := range list {
		w := &list[i]
		w.number, w.peer, w.to, w.size, w.sent = rand.Uint64(), peer, to, payload+signal.Headers(to.Addr()), now
		key, err := p.expect(now, *w)
		if err != nil {
			return fmt.Errorf("probe %s: %w", peer.Fingerprint(), err)
		}
		b = signal.Packet{
			Kind: signal.Probe, From: p.self, To: signal.IDOf(peer), Number: w.number, Size: payload,
		}.Append(b, key)
	}
	if err := p.send(to, b, o); err != nil {
		for _, w := range list {
			p.forget(w.number)
		}
		return fmt.Errorf("probe %s at %s: %w", peer.Fingerprint(), to, err)
	}
	return nil
}

// expect notes a probe before it is sent, since the answer may come before
// send returns, and gives the key to send it with.
func (p *Prober) expect(now time.Time, w probeWaiting) ([32]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.peers[signal.IDOf(w.peer)]
	if !ok || known.Identity != w.peer {
		return [32]byte{}, ErrProbePeer
	}
	p.expireLocked(now)
	if p.order.Len() >= maxProbes {
		p.dropLocked(p.order.Front())
		p.stats.Lost++
	}
	p.waiting[w.number] = p.order.PushBack(w)
	p.stats.Asked++
	return known.Key, nil
}

// forget takes back a probe that did not leave.
func (p *Prober) forget(number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.waiting[number]; ok {
		p.dropLocked(e)
		p.stats.Asked--
	}
}

func (p *Prober) expireLocked(now time.Time) {
	for e := p.order.Front(); e != nil && now.Sub(e.Value.(probeWaiting).sent) > probeLifetime; e = p.order.Front() {
		p.dropLocked(e)
		p.stats.Lost++
	}
}

func (p *Prober) dropLocked(e *list.Element) {
	delete(p.waiting, p.order.Remove(e).(probeWaiting).number)
}

// Handle takes a packet that came in at the WireGuard port, to one of our
// addresses; zero: not known. Probes of peers are answered, from that address:
// elsewhere the NAT of who asks knows nobody. Answers that are waited for become
// results, and everything else is ignored: strangers learn nothing from us, not
// even that we are here. It keeps no part of b.
func (p *Prober) Handle(now time.Time, from netip.AddrPort, to netip.Addr, b []byte) {
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	packet, err := signal.Parse(b)
	if err != nil || packet.Kind != signal.Probe && packet.Kind != signal.ProbeReply {
		p.ignore()
		return
	}
	p.mu.Lock()
	peer, ok := p.peers[packet.From]
	p.mu.Unlock()
	if !ok || packet.To != p.self || !signal.Verify(b, peer.Key) {
		p.ignore()
		return
	}
	if packet.Kind == signal.Probe {
		p.asked(now, peer, from, to, packet)
	} else {
		p.answered(now, peer, from, packet)
	}
}

func (p *Prober) ignore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Ignored++
}

// asked answers a probe. The reply is unpadded, so that it is never longer, and
// there is one for each probe: who replays it from elsewhere gets nothing.
func (p *Prober) asked(now time.Time, peer ProbePeer, from netip.AddrPort, to netip.Addr, packet signal.Packet) {
	p.mu.Lock()
	if !p.seen.add(packet.From, packet.Number) {
		p.stats.Ignored++
		p.mu.Unlock()
		return
	}
	p.stats.Requests++
	reply := p.mayReplyLocked(now, packet.From, from.Addr())
	p.mu.Unlock()

	if !reply {
		return // a flood of hints would be no better
	}
	b := signal.Packet{
		Kind: signal.ProbeReply, From: p.self, To: packet.From, Number: packet.Number, Observed: from,
	}.Append(nil, peer.Key)
	_ = p.send(from, b, SendOptions{From: to}) // the peer asks again
	p.result(ProbeResult{
		Peer: peer.Identity, Endpoint: from, From: from, Size: packet.Size + signal.Headers(from.Addr()), Request: true,
	})
}

// mayReplyLocked counts a reply, unless there were too many within a second.
func (p *Prober) mayReplyLocked(now time.Time, peer signal.ID, to netip.Addr) bool {
	if d := now.Sub(p.window); d >= probeReplyWindow || d < 0 {
		p.window, p.replies = now, 0
		clear(p.toAddr)
		clear(p.toPeer)
	}
	if p.replies >= maxProbeReplies || p.toAddr[to] >= maxRepliesToAddr || p.toPeer[peer] >= maxRepliesToPeer {
		p.stats.Limited++
		return false
	}
	p.replies++
	p.toAddr[to]++
	p.toPeer[peer]++
	p.stats.Replies++
	return true
}

func (p *Prober) answered(now time.Time, peer ProbePeer, from netip.AddrPort, packet signal.Packet) {
	p.mu.Lock()
	p.expireLocked(now)
	e, ok := p.waiting[packet.Number]
	if !ok || e.Value.(probeWaiting).peer != peer.Identity {
		p.stats.Ignored++
		p.mu.Unlock()
		return
	}
	w := e.Value.(probeWaiting)
	p.dropLocked(e)
	p.stats.Answered++
	p.mu.Unlock()

	p.result(ProbeResult{
		Peer: peer.Identity, Endpoint: w.to, From: from,
		RTT: max(now.Sub(w.sent), 0), Observed: packet.Observed, Size: w.size,
		Row: w.row, Place: w.place,
	})
}

// probeNumbers remembers the last [maxProbesSeen] numbers of others.
type probeNumbers struct {
	known map[probeNumber]struct{}
	ring  []probeNumber // the oldest at next, once it is full
	next  int
}

type probeNumber struct {
	from   signal.ID
	number uint64
}

// add remembers a number and reports whether it is new.
func (s *probeNumbers) add(from signal.ID, number uint64) bool {
	n := probeNumber{from, number}
	if _, ok := s.known[n]; ok {
		return false
	}
	if s.known == nil {
		s.known = make(map[probeNumber]struct{})
	}
	s.known[n] = struct{}{}
	if len(s.ring) < maxProbesSeen {
		s.ring = append(s.ring, n)
		return true
	}
	delete(s.known, s.ring[s.next])
	s.ring[s.next] = n
	s.next = (s.next + 1) % maxProbesSeen
	return true
}
