package mesh

import (
	"bytes"

	"github.com/hashicorp/memberlist"

	"github.com/weftnet/weft/crypto"
)

// A payload travels in an envelope: byte 0x41, which no replica message begins
// with, 32 bytes sender, then the payload as it was given. Like the sender of
// a replica message it is believed because all who hold the cluster's key are.
const (
	payloadKind = 0x41
	payloadHead = 1 + crypto.IdentitySize

	// MaxPayload is the largest payload that [Mesh.Send] takes, in bytes.
	MaxPayload = 1 << 20
	// MaxBroadcast is the largest payload that [Mesh.Broadcast] takes, in
	// bytes: one packet.
	MaxBroadcast = maxCast - payloadHead

	maxPosts       = 4096                           // payloads that the loop has not taken
	maxPostBytes   = 16 << 20                       // and their bytes
	maxOutboxBytes = 4 * (MaxPayload + payloadHead) // for one peer
	maxOutBytes    = 64 << 20                       // for all
	maxQueued      = 64                             // broadcasts that gossip repeats
	// Everybody for whom a payload is news casts it again: a few at each step
	// reach all in a few steps, and gossip whom they miss.
	directPayloads = 8
)

// post is an envelope on its way to the loop.
type post struct {
	to   crypto.Identity // zero: all
	data []byte
}

// seal puts a payload into its envelope.
func seal(from crypto.Identity, payload []byte) []byte {
	b := make([]byte, 0, payloadHead+len(payload))
	b = append(append(b, payloadKind), from[:]...)
	return append(b, payload...)
}

// unseal opens an envelope; the payload shares its memory.
func unseal(b []byte) (from crypto.Identity, payload []byte, ok bool) {
	if len(b) <= payloadHead || len(b) > payloadHead+MaxPayload || b[0] != payloadKind {
		return from, nil, false
	}
	return crypto.Identity(b[1:payloadHead]), b[payloadHead:], true
}

// Send sends a payload to a member, over a connection: it comes at most once,
// and gets lost only with the connection or when too much is waiting for that
// member. Two of them may overtake each other. It is dropped when the peer is
// not a member, and when it is empty or larger than [MaxPayload]. It is copied,
// and Send does not block.
func (m *Mesh) Send(to crypto.Identity, payload []byte) {
	if to.IsZero() || len(payload) > MaxPayload {
		m.dropPayload("to", to.Fingerprint(), "bytes", len(payload))
		return
	}
	m.offer(to, payload)
}

// Broadcast sends a payload to all members, some of them at once and the
// others by gossip; it may get lost, come late, and come more than once. The
// mesh does not pass it on at the receivers: they do, by another Broadcast,
// when it was news. It is dropped when it is empty or larger than
// [MaxBroadcast]. It is copied, and Broadcast does not block.
func (m *Mesh) Broadcast(payload []byte) {
	if len(payload) > MaxBroadcast {
		m.dropPayload("to", "all", "bytes", len(payload))
		return
	}
	m.offer(crypto.Identity{}, payload)
}

func (m *Mesh) offer(to crypto.Identity, payload []byte) {
	if len(payload) == 0 || !m.desk.post(post{to, seal(m.self, payload)}) {
		m.dropPayload("to", to.Fingerprint(), "bytes", len(payload))
	}
}

func (m *Mesh) dropPayload(args ...any) {
	m.counts.payloadsDropped.Add(1)
	m.log.Debug("payload dropped", args...)
}

// post keeps an envelope for the loop and reports false when too many wait.
func (d *desk) post(p post) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.posts) >= maxPosts || d.postBytes+len(p.data) > maxPostBytes {
		return false
	}
	d.posts = append(d.posts, p)
	d.postBytes += len(p.data)
	d.wake.Ring()
	return true
}

// post sends what was offered.
func (m *Mesh) post(posts []post) {
	var casts [][]byte
	for _, p := range posts {
		if p.to.IsZero() {
			casts = append(casts, p.data)
		} else {
			m.sendPayload(p)
		}
	}
	if len(casts) == 0 || m.ml == nil || m.counts.members.Load() == 0 {
		return
	}
	m.counts.payloadsCast.Add(uint64(len(casts)))
	for _, b := range casts {
		// When too many wait, a new one still goes to some, and they pass it
		// on. (Its length has to be asked for: the queue does not tell of
		// each item that it drops.)
		if m.payloads.NumQueued() < maxQueued {
			m.payloads.QueueBroadcast(payloadCast(b))
		}
	}
	m.sendDirect(m.someMembers(directPayloads), casts)
}

func (m *Mesh) sendPayload(o post) {
	p := m.peers[o.to]
	switch {
	case p == nil || !p.member || m.ml == nil:
		m.dropPayload("to", o.to.Fingerprint(), "why", "it is not a member")
	case len(p.out.queue) >= maxOutbox || p.out.bytes+p.out.sent+len(o.data) > maxOutboxBytes ||
		m.outBytes+len(o.data) > maxOutBytes:
		m.dropPayload("to", p.advert.Name, "why", "too much is waiting", "bytes", m.outBytes)
	default:
		m.enqueue(p, o.data)
		m.startSend(p)
	}
}

// deliver hands on what memberlist brought. It is called by memberlist, and
// the receiver copies and returns as we do.
func (m *Mesh) deliver(b []byte) {
	from, payload, ok := unseal(b)
	if !ok || m.cfg.Deliver == nil || from == m.self || !m.desk.known(from) {
		m.counts.payloadsDropped.Add(1)
		return
	}
	m.counts.payloadsReceived.Add(1)
	m.counts.payloadBytesReceived.Add(uint64(len(payload)))
	m.cfg.Deliver(from, bytes.Clone(payload))
}

// sent counts a message that went to one peer, unsent those that did not.
func (c *counts) sent(b []byte) {
	if b[0] == payloadKind {
		c.payloadsSent.Add(1)
		c.payloadBytesSent.Add(uint64(len(b) - payloadHead))
		return
	}
	c.messageBytesSent.Add(uint64(len(b)))
}

func (c *counts) unsent(batch [][]byte) {
	for _, b := range batch {
		if b[0] == payloadKind {
			c.payloadsDropped.Add(1)
		}
	}
}

// broadcasts fills a packet from both queues, which take turns to be first: in a
// storm of one kind the other still gets through.
func (m *Mesh) broadcasts(overhead, limit int) [][]byte {
	first, second := m.casts, m.payloads
	if m.counts.packets.Add(1)%2 == 0 {
		first, second = second, first
	}
	out := first.GetBroadcasts(overhead, limit)
	for _, b := range out {
		limit -= overhead + len(b)
	}
	return append(out, second.GetBroadcasts(overhead, limit)...)
}

// payloadCast is a payload in memberlist's queue.
type payloadCast []byte

var _ memberlist.UniqueBroadcast = payloadCast(nil)

func (c payloadCast) Invalidates(memberlist.Broadcast) bool { return false }
func (c payloadCast) Message() []byte                       { return c }
func (c payloadCast) Finished()                             {}

// UniqueBroadcast implements memberlist.UniqueBroadcast: none replaces another.
func (c payloadCast) UniqueBroadcast() {}
