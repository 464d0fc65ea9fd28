package mesh

import (
	"fmt"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/hello"
)

// A host says in gossip which versions of the rules between hosts it speaks
// (memberlist's meta data of a node), and with whom there is none in common it
// has nothing to do: neither tunnel nor membership. Memberlist's own negotiation
// is not used for it: there one host that does not fit makes every exchange with
// those who know of it fail.

// hearLocked notes what a known peer says that it speaks; d.mu is held.
func (d *desk) hearLocked(id crypto.Identity, v hello.Versions) {
	if old, heard := d.speaks[id]; heard && old == v {
		return
	}
	d.speaks[id] = v
	d.spoke[id] = v
	d.wake.Ring()
}

// spoken takes what a peer says in gossip. A member stays one: its refutations
// must pass.
func (m *Mesh) spoken(now time.Time, id crypto.Identity, v hello.Versions) {
	p := m.peers[id]
	if p == nil {
		return
	}
	was := p.strange
	_, common := v.Common(m.cfg.Versions)
	if p.speaks, p.strange = v, !common; p.strange == was {
		return
	}
	if p.strange {
		m.log.Warn("peer refused", "peer", p.advert.Name, "nickname", p.advert.Nickname, "err", m.otherVersion(p))
	} else {
		m.log.Info("peer has a protocol version in common with this host again", "peer", p.advert.Name, "nickname", p.advert.Nickname)
		p.join.reset(now)
	}
	m.viewChanged()
}

// agree notes that an introduction found a version in common.
func (m *Mesh) agree(p *peer) {
	if p.strange {
		p.strange = false
		m.desk.unhear(p.advert.Identity)
	}
}

// unhear forgets what a peer said: it says something else now.
func (d *desk) unhear(id crypto.Identity) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.speaks, id)
}

func (m *Mesh) otherVersion(p *peer) error {
	return fmt.Errorf("%w: %s there, %s here; run the same version of weft on both", hello.ErrVersion, p.speaks, m.cfg.Versions)
}

// left reports whether the peer is none to the router.
func (p *peer) left() bool { return p.strange && !p.member }

// strangers are the peers that speak no version of ours, in the form of targets
// that failed, unless they are targets anyway.
func (m *Mesh) strangers() []Target {
	var out []Target
	for id, p := range m.peers {
		if !p.left() || slices.ContainsFunc(m.targets, func(t *target) bool { return t.peer == id }) {
			continue
		}
		out = append(out, Target{Name: p.advert.Nickname, State: Failed, Err: m.otherVersion(p).Error(), Retry: p.join.next, Peer: id})
	}
	slices.SortFunc(out, func(a, b Target) int { return a.Peer.Compare(b.Peer) })
	return out
}
