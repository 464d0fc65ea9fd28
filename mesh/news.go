package mesh

import (
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/replica"
)

// A host that was introduced to one member must be known to all of them at once:
// it may need them as relays, and they may have to begin. Gossip alone is not
// enough, as its packets may get lost, and who became a member between the
// exchange of states and the introduction would hear of it with the next
// exchange, up to half a minute later. So the member that was told tells the
// others over connections, and whoever becomes a member soon after, too.
const (
	newsFor   = 30 * time.Second       // until push/pull has told everybody
	newsDelay = 100 * time.Millisecond // introductions within it are told together
	maxNews   = 256                    // peers
	// With few, their adverts are sent; else what versions there are, and each
	// asks for what it lacks.
	maxNewsSent = 8
	// So many members are told over connections. In a larger cluster those
	// cast it again, as they do with what comes by broadcast.
	tellReliably = 64
	newsInPacket = 12 // summaries that fit beside those of greet

	greetAgain = time.Second // after a message was not sent, doubling
	maxGreets  = 5           // of these
)

// news is what introductions brought lately.
type news struct {
	at     map[crypto.Identity]time.Time // whom, and when
	untold []crypto.Identity
	tellAt time.Time
}

// brought notes that an introduction told of a peer that was not known, or not
// in this version.
func (m *Mesh) brought(now time.Time, id crypto.Identity) {
	n := &m.news
	if n.at == nil {
		n.at = make(map[crypto.Identity]time.Time)
	}
	if len(n.at) >= maxNews {
		m.oldNews(now)
	}
	if len(n.at) >= maxNews {
		return // gossip and push/pull have to do
	}
	n.at[id] = now
	if m.counts.members.Load() == 0 {
		return // whoever becomes one is told then
	}
	if len(n.untold) == 0 {
		n.tellAt = now.Add(newsDelay)
	}
	if !slices.Contains(n.untold, id) {
		n.untold = append(n.untold, id)
	}
}

func (m *Mesh) oldNews(now time.Time) {
	for id, at := range m.news.at {
		if now.Sub(at) > newsFor {
			delete(m.news.at, id)
		}
	}
}

// stepNews tells the members, and again those whom a message did not reach.
func (m *Mesh) stepNews(now time.Time) {
	for id, p := range m.peers {
		switch {
		case p.out.greetAt.IsZero():
		case !p.member:
			p.out.greetAt = time.Time{}
		case p.out.greetAt.After(now):
			m.wakeAt(p.out.greetAt)
		default:
			// By a packet: another connection in vain would hold up what is
			// sent meanwhile, and take it along.
			p.out.greetAt = time.Time{}
			m.greetBy(now, id, true)
		}
	}
	n := &m.news
	if len(n.untold) == 0 {
		return
	}
	if n.tellAt.After(now) {
		m.wakeAt(n.tellAt)
		return
	}
	about := n.untold
	n.untold = nil
	msgs := m.tidings(about)
	for _, to := range m.someMembers(tellReliably) {
		if !slices.Equal(about, []crypto.Identity{to}) {
			m.send(to, msgs...)
		}
	}
}

// tidings are messages about adverts; who gets them passes them on when they
// are news.
func (m *Mesh) tidings(about []crypto.Identity) []replica.Message {
	msg := replica.Message{Kind: replica.KindDigest, Relay: true}
	var pulls []replica.Pull
	slices.SortFunc(about, crypto.Identity.Compare)
	for _, owner := range about {
		id := replica.ID{Owner: owner, Channel: replica.Adverts}
		if sum := m.store.Summary(id); sum.Version > 0 {
			msg.Digest = append(msg.Digest, sum)
			pulls = append(pulls, replica.Pull{ID: id, Full: true})
		}
	}
	if len(about) > maxNewsSent {
		return []replica.Message{msg}
	}
	msgs := m.store.Answer(pulls)
	for i := range msgs {
		msgs[i].Relay = true
	}
	return msgs
}

// greet tells a new member what we have of it, of ourselves, and of those who
// were introduced lately, so that nobody waits for the next push/pull. In a
// large cluster a packet has to do.
func (m *Mesh) greet(now time.Time, id crypto.Identity) {
	m.greetBy(now, id, m.counts.members.Load() > tellReliably)
}

func (m *Mesh) greetBy(now time.Time, id crypto.Identity, packet bool) {
	msg := replica.Message{Kind: replica.KindDigest, Answer: true}
	for _, owner := range sorted(m.self, id) {
		for _, ch := range []uint8{replica.Adverts, entries} {
			msg.Digest = append(msg.Digest, m.store.Summary(replica.ID{Owner: owner, Channel: ch}))
		}
	}
	m.oldNews(now)
	for owner := range m.news.at {
		sum := m.store.Summary(replica.ID{Owner: owner, Channel: replica.Adverts})
		if owner == id || sum.Version == 0 || packet && len(msg.Digest) == 4+newsInPacket {
			continue
		}
		msg.Digest = append(msg.Digest, sum)
	}
	slices.SortFunc(msg.Digest, func(a, b replica.Summary) int { return a.ID.Compare(b.ID) })
	switch {
	case m.ml == nil:
	case packet:
		msg.From = m.self
		m.sendDirect([]crypto.Identity{id}, [][]byte{msg.Marshal()})
	default:
		m.send(id, msg)
	}
}

func sorted(a, b crypto.Identity) []crypto.Identity {
	a, b = crypto.Sorted(a, b)
	return []crypto.Identity{a, b}
}

// unreached plans to greet a member again to whom a message was not sent.
func (m *Mesh) unreached(now time.Time, p *peer) {
	if p.member && p.out.failed < maxGreets {
		p.out.greetAt = now.Add(greetAgain << p.out.failed)
		p.out.failed++
	}
}
