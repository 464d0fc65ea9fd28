package mesh

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/replica"
)

const (
	// maxGhosts bounds what every host keeps, and names in every digest, of
	// those who are no more.
	maxGhosts     = 256
	reassertEvery = 10 * time.Second

	// believeAfter is when gossip that has an expelled peer alive is believed:
	// by then everybody has noticed the death of one that is dead.
	believeAfter = time.Minute
	lookEvery    = 10 * time.Second
)

// ghost is what is kept of a peer that was forgotten, so that an old advert
// does not bring it back:
//
//	known ──last words, expelled──▶ ghost ──newer advert──────────────▶ known
//	                                      ──introduced, if expelled───▶
//	                                      ──alive to others, if expelled▶
type ghost struct {
	seq    uint64         // of the last advert that counts no more
	since  time.Time      // when it was forgotten, or we started
	advert *advert.Signed // its last words, to be told to others; nil: expelled by us
	order  uint64         // the oldest makes room
}

func (g *ghost) gone() bool { return g.advert != nil }

// admitGone decides about last words of whom nobody here knows: they only
// take a place that is free, or hosts would tell each other for ever what the
// other has dropped.
func (m *Mesh) admitGone(a advert.Signed) error {
	if m.peers[a.Identity] == nil && m.ghosts[a.Identity] == nil && len(m.ghosts) >= maxGhosts {
		return fmt.Errorf("peer %s is gone, and so are %d others", a.Identity.Fingerprint(), len(m.ghosts))
	}
	return nil
}

// departed takes a peer's last words.
func (m *Mesh) departed(now time.Time, a advert.Signed) {
	if p := m.peers[a.Identity]; p != nil {
		m.log.Info("peer left for good", "peer", a.Name, "nickname", a.Nickname, "identity", a.Identity.Fingerprint())
		m.forget(p)
	}
	m.bury(now, a.Identity, &ghost{seq: a.Seq, advert: &a})
}

// expel forgets a peer that is no member.
func (m *Mesh) expel(now time.Time, id crypto.Identity) {
	p := m.peers[id]
	switch {
	case p == nil:
		return
	case p.member:
		m.log.Debug("live member not expelled", "peer", p.advert.Name)
		return
	}
	m.log.Info("peer expelled", "peer", p.advert.Name, "nickname", p.advert.Nickname, "identity", id.Fingerprint())
	m.forget(p)
	m.bury(now, id, &ghost{seq: p.advert.Seq})
}

// forget removes every trace of a peer but what the store has. Workers may
// still hold it; what they report then reaches nobody.
func (m *Mesh) forget(p *peer) {
	id := p.advert.Identity
	delete(m.peers, id)
	if m.names[p.advert.Name] == id {
		delete(m.names, p.advert.Name)
	}
	if m.keys[p.advert.WireGuard] == id {
		delete(m.keys, p.advert.WireGuard)
	}
	if p.member {
		m.counts.members.Add(-1)
	}
	m.clearOutbox(p)
	m.desk.forgotten(id)
	isIts := func(l replica.ID, _ bool) bool { return l.Owner == id && l.Channel != replica.Adverts }
	maps.DeleteFunc(m.casting, isIts)
	maps.DeleteFunc(m.relaying, isIts)
	maps.DeleteFunc(m.hints, func(_ string, x crypto.Identity) bool { return x == id })
	for _, t := range m.targets {
		if t.peer == id {
			t.peer = crypto.Identity{}
		}
	}
}

// bury makes a ghost of somebody who is known no more.
func (m *Mesh) bury(now time.Time, id crypto.Identity, g *ghost) {
	delete(m.ghosts, id)
	for len(m.ghosts) >= maxGhosts {
		oldest := m.ghostsInOrder()[0]
		delete(m.ghosts, oldest)
		m.desk.haunt(oldest, false)
		m.store.Drop(oldest)
	}
	m.buried++
	g.order, g.since = m.buried, now
	m.ghosts[id] = g
	m.desk.haunt(id, !g.gone())
	m.store.Shut(id, g.seq, g.gone())
	m.namesChanged = true
	m.viewChanged()
	m.saveSoon(now)
}

func (m *Mesh) ghostsInOrder() []crypto.Identity {
	return slices.SortedFunc(maps.Keys(m.ghosts), func(a, b crypto.Identity) int {
		if m.ghosts[a].order < m.ghosts[b].order {
			return -1
		}
		return 1
	})
}

// readmit lets a peer that was expelled be known again: it has introduced
// itself, or is alive.
func (m *Mesh) readmit(id crypto.Identity) {
	if g := m.ghosts[id]; g != nil && !g.gone() {
		delete(m.ghosts, id)
		m.desk.haunt(id, false)
		m.store.Open(id)
	}
}

// stepGhosts readmits those that were expelled while they came back: everybody
// else reaches them, and so nobody makes them sign a newer advert.
func (m *Mesh) stepGhosts(now time.Time) {
	if len(m.ghosts) == 0 {
		return
	}
	if m.lookAt.After(now) {
		m.wakeAt(m.lookAt)
		return
	}
	m.lookAt = now.Add(lookEvery)
	m.wakeAt(m.lookAt)
	for _, id := range m.ghostsInOrder() {
		g := m.ghosts[id]
		if !g.gone() && m.desk.aliveAt(id).After(g.since.Add(believeAfter)) {
			m.log.Info("an expelled peer is alive to others: it may return", "identity", id.Fingerprint())
			m.readmit(id)
			m.saveSoon(now)
		}
	}
}

// reassert signs our advert again when a peer that reached us before did not
// know us at an introduction: others may have forgotten us too, and take us
// back only under a newer one.
func (m *Mesh) reassert(now time.Time, p *peer, said []advert.Signed) {
	if !p.good.IsValid() || !m.signAt.IsZero() || now.Before(m.reassertAt) ||
		slices.ContainsFunc(said, func(a advert.Signed) bool { return a.Identity == m.self }) {
		return
	}
	m.log.Info("own advert signed again: a peer had forgotten us", "peer", p.advert.Name)
	m.signAt, m.reassertAt = now, now.Add(reassertEvery)
}

// depart says our last words and tells every member; told hears when that is
// done.
func (m *Mesh) depart(now time.Time, told []chan error) {
	answer := func(err error) {
		for _, c := range told {
			c <- err // it holds one
		}
	}
	if !m.gone {
		m.gone = true
		if err := m.sign(now); err != nil {
			m.gone = false
			answer(fmt.Errorf("sign the last advert: %w", err))
			return
		}
		m.signAt = time.Time{}
		m.log.Info("leaving the cluster for good", "members", m.counts.members.Load())
	}
	msg, ok := m.store.Recent(replica.ID{Owner: m.self, Channel: replica.Adverts}, maxCast)
	if !ok {
		answer(errors.New("the last advert does not fit into a packet"))
		return
	}
	msg.From = m.self
	b, members := msg.Marshal(), m.someMembers(len(m.peers))
	if m.ml == nil || len(members) == 0 {
		answer(nil)
		return
	}
	m.sendDirect(members, [][]byte{b})
	ml := m.ml
	m.workers.Go(func() {
		var next atomic.Int64
		var all sync.WaitGroup
		for range min(maxSends, len(members)) {
			all.Go(func() {
				for i := next.Add(1); i <= int64(len(members)) && m.ctx.Err() == nil; i = next.Add(1) {
					_ = ml.SendReliable(nodeOf(members[i-1]), b) // gossip tells it too
				}
			})
		}
		all.Wait()
		answer(nil)
	})
}
