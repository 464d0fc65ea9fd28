package mesh

import (
	"net"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/replica"
)

const (
	retransmitMult = 4
	// maxCast is what a broadcast may take of a packet: 1,150 bytes less
	// memberlist's label, encryption and framing, and a little for others.
	maxCast   = 1000
	maxOutbox = 256 // messages to one peer
	maxSends  = 64  // peers to whom we send at once
	maxHeard  = 4096

	castDelay   = 10 * time.Millisecond
	directCasts = 64
	// maxCastPulls is how many logs are asked for in a packet: 45 bytes each.
	maxCastPulls = 16
)

// outbox holds reliable messages to one peer. One goroutine sends them.
type outbox struct {
	queue   [][]byte
	bytes   int // in queue
	sending bool
	sent    int // bytes that are being sent

	failed  int       // messages in a row that were not sent
	greetAt time.Time // when to try another one; zero: never
}

// receive handles a message of another host's mesh.
func (m *Mesh) receive(now time.Time, b message) {
	msg, err := replica.Parse(b)
	if err != nil {
		m.NotUnderstood("message")
		m.log.Debug("message not understood", "err", err)
		return
	}
	if m.peers[msg.From] == nil && msg.Kind != replica.KindDelta {
		return // nobody we could answer
	}
	switch msg.Kind {
	case replica.KindDigest:
		d := m.store.Compare(msg.Digest)
		for _, id := range d.Continued {
			m.log.Info("own log continued above an older one", "channel", id.Channel, "version", m.store.Version(id))
			m.viewChanged()
			m.cast(id)
		}
		if msg.Relay {
			for _, w := range d.Want {
				m.heard(w.ID)
			}
		}
		m.ask(msg.From, d.Want, msg.Relay)
		if msg.Answer {
			m.send(msg.From, m.store.Answer(d.Give)...)
		}
	case replica.KindRequest:
		m.send(msg.From, m.store.Answer(msg.Pulls)...)
	case replica.KindDelta:
		for _, c := range msg.Chunks {
			m.apply(now, msg, c)
		}
	}
}

func (m *Mesh) apply(now time.Time, msg replica.Message, c replica.Chunk) {
	r := m.store.Apply(c)
	switch {
	case r.Err != nil:
		m.log.Debug("log refused", "owner", c.Owner.Fingerprint(), "channel", c.Channel, "err", r.Err)
	case r.Want != nil:
		from := msg.From
		if p := m.peers[c.Owner]; msg.Relay && p != nil && p.member {
			from = c.Owner // who has it for certain
		}
		if msg.Relay {
			m.heard(c.ID)
		}
		m.ask(from, []replica.Pull{*r.Want}, msg.Relay)
	case r.Ahead && c.Channel == replica.Adverts:
		m.overtaken(now, m.verified)
	case r.Ahead:
		m.log.Info("own log continued above an older one", "channel", c.Channel, "version", m.store.Version(c.ID))
		m.viewChanged()
		m.cast(c.ID)
	case r.Changed:
		if c.Channel == replica.Adverts {
			m.setAdvert(now, m.verified)
		}
		m.viewChanged()
		// What came by broadcast is passed on by broadcast, and so is what
		// had to be fetched because of one.
		if msg.Relay || m.relaying[c.ID] {
			delete(m.relaying, c.ID)
			m.cast(c.ID)
		}
	}
}

// heard notes that a broadcast told of a version that has to be fetched.
func (m *Mesh) heard(id replica.ID) {
	if len(m.relaying) >= maxHeard {
		clear(m.relaying)
	}
	m.relaying[id] = true
}

// ask fetches what is wanted of another host. For entries that were heard of by
// a broadcast it asks by a packet: a connection costs ten, and a question that
// gets lost is asked again when the broadcast comes from somebody else, or with
// the next digest.
func (m *Mesh) ask(from crypto.Identity, pulls []replica.Pull, cast bool) {
	msgs := replica.Requests(pulls)
	if !cast || m.ml == nil || len(pulls) > maxCastPulls ||
		slices.ContainsFunc(pulls, func(p replica.Pull) bool { return p.Channel == replica.Adverts }) {
		m.send(from, msgs...)
		return
	}
	var packets [][]byte
	for _, msg := range msgs {
		msg.From = m.self
		packets = append(packets, msg.Marshal())
	}
	if len(packets) > 0 {
		m.sendDirect([]crypto.Identity{from}, packets)
	}
}

// send queues messages to a peer. What does not fit is dropped: the next
// digest finds the difference again.
func (m *Mesh) send(to crypto.Identity, msgs ...replica.Message) {
	p := m.peers[to]
	if p == nil || m.ml == nil {
		return
	}
	for _, msg := range msgs {
		if len(p.out.queue) >= maxOutbox {
			m.counts.dropped.Add(1)
			continue
		}
		msg.From = m.self
		m.enqueue(p, msg.Marshal())
	}
	m.startSend(p)
}

func (m *Mesh) enqueue(p *peer, b []byte) {
	p.out.queue = append(p.out.queue, b)
	p.out.bytes += len(b)
	m.outBytes += len(b)
}

func (m *Mesh) startSend(p *peer) {
	if p.out.sending || len(p.out.queue) == 0 || m.sending >= maxSends {
		return
	}
	batch := p.out.queue
	p.out.queue, p.out.sending = nil, true
	p.out.sent, p.out.bytes = p.out.bytes, 0
	m.sending++
	ml, to := m.ml, nodeOf(p.advert.Identity)
	m.workers.Go(func() {
		e := sent{peer: p}
		for i, b := range batch {
			if e.err = ml.SendReliable(to, b); e.err != nil || m.ctx.Err() != nil {
				m.counts.unsent(batch[i:])
				break
			}
			m.counts.sent(b)
		}
		m.report(e)
	})
}

func (m *Mesh) sendEnded(now time.Time, e sent) {
	m.sending--
	p := e.peer // it may have been forgotten meanwhile
	p.out.sending = false
	m.outBytes -= p.out.sent
	p.out.sent = 0
	if e.err == nil {
		p.out.failed = 0
	} else {
		m.clearOutbox(p)
		m.unreached(now, p)
		m.log.Debug("message not sent", "peer", p.advert.Name, "err", e.err)
	}
	m.startSend(p)
	if m.sending < maxSends {
		for _, p := range m.peers { // who waited for a place
			m.startSend(p)
		}
	}
}

func (m *Mesh) clearOutbox(p *peer) {
	m.counts.unsent(p.out.queue)
	m.outBytes -= p.out.bytes
	p.out.queue, p.out.bytes = nil, 0
}

// cast tells everybody by broadcast that a log has changed. Changes within
// castDelay make one broadcast.
func (m *Mesh) cast(id replica.ID) {
	if m.counts.members.Load() == 0 {
		return // whoever comes compares digests first
	}
	if len(m.casting) == 0 {
		m.castAt = time.Now().Add(castDelay)
	}
	m.casting[id] = true
}

// stepCasts sends the latest changes of a log when they fit into a packet,
// else its version, and whoever lacks it asks. A newer broadcast about a log
// replaces an older one. Gossip alone takes a second to the last of 20 hosts;
// so what is ours goes to many at once as well.
func (m *Mesh) stepCasts(now time.Time) {
	if len(m.casting) == 0 {
		return
	}
	if m.castAt.After(now) {
		m.wakeAt(m.castAt)
		return
	}
	var direct [][]byte
	for id := range m.casting {
		msg, ok := m.store.Recent(id, maxCast)
		if !ok {
			msg = replica.Message{
				Kind: replica.KindDigest, Relay: true,
				Digest: []replica.Summary{m.store.Summary(id)},
			}
		}
		msg.From = m.self
		b := msg.Marshal()
		m.casts.QueueBroadcast(&broadcast{name: id.Owner.String() + string('0'+rune(id.Channel)), data: b})
		if id.Owner == m.self {
			direct = append(direct, b)
		}
	}
	clear(m.casting)
	if len(direct) > 0 && m.ml != nil {
		m.sendDirect(m.someMembers(directCasts), direct)
	}
}

// sendDirect sends packets to members at once. What gets lost comes by gossip,
// or shows in the next digest.
func (m *Mesh) sendDirect(to []crypto.Identity, packets [][]byte) {
	ml := m.ml
	m.workers.Go(func() {
		for _, id := range to {
			for _, b := range packets {
				_ = ml.SendBestEffort(nodeOf(id), b)
			}
		}
	})
}

func nodeOf(id crypto.Identity) *memberlist.Node {
	return &memberlist.Node{Name: id.String(), Addr: net.IP(id.Overlay().AsSlice()), Port: GossipPort}
}

// someMembers returns up to n members; Go's order of maps is random enough.
func (m *Mesh) someMembers(n int) []crypto.Identity {
	var out []crypto.Identity
	for id, p := range m.peers {
		if len(out) >= n {
			break
		}
		if p.member {
			out = append(out, id)
		}
	}
	return out
}

// broadcast is one message in memberlist's queue.
type broadcast struct {
	name string
	data []byte
}

var _ memberlist.NamedBroadcast = (*broadcast)(nil)

func (b *broadcast) Name() string    { return b.name }
func (b *broadcast) Message() []byte { return b.data }
func (b *broadcast) Finished()       {}

func (b *broadcast) Invalidates(o memberlist.Broadcast) bool {
	other, ok := o.(*broadcast)
	return ok && other.name == b.name
}
