package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/replica"
)

const (
	pollEndpoints = 5 * time.Second
	cloneReturns  = 3 // boot ids that came back before a clone is reported
)

// peer is a known peer.
type peer struct {
	advert  advert.Signed
	boots   boots
	member  bool
	speaks  hello.Versions // as it said last; zero: not heard of
	strange bool           // none of these is ours
	dial    bool           // see chooseDialled
	target  string         // as typed

	introduced uint64
	decided    bool // by an introduction in this run of both daemons:
	initiator  bool
	order      uint64         // of the result that decided it
	met        netip.AddrPort // WireGuard at the address of the last introduction
	good       netip.AddrPort // where a handshake completed last

	join   joining
	pulsed time.Time // when it had its turn in a pulse last
	out    outbox
}

// candidates returns endpoints of a peer's WireGuard port, best first, without
// our own: a host that was reset meets its former self in what others know.
func (m *Mesh) candidates(p *peer) []netip.AddrPort {
	var out []netip.AddrPort
	add := func(ep netip.AddrPort) {
		if ep.IsValid() && m.cfg.Usable(ep) && !slices.Contains(out, ep) && !slices.Contains(m.advert.Endpoints, ep) {
			out = append(out, ep)
		}
	}
	add(p.good)
	add(p.met)
	for _, ep := range p.advert.Endpoints {
		if advert.Usable(ep) {
			add(ep)
		}
	}
	return out
}

// known is what introductions need to know, in a form that never changes.
type known struct {
	adverts []advert.Signed // our own first
	names   map[crypto.Name]crypto.Identity
}

func (k *known) check(a advert.Signed) error {
	if a.Gone {
		return errors.New("it has left the cluster for good")
	}
	if id, ok := k.names[a.Name]; ok && id != a.Identity {
		return nameTaken(a.Name, id, a.Identity)
	}
	if len(k.names) >= replica.MaxOwners && k.names[a.Name] != a.Identity {
		return fmt.Errorf("%d peers are known already, more are not taken", len(k.names))
	}
	return nil
}

func nameTaken(n crypto.Name, have, other crypto.Identity) error {
	return fmt.Errorf("peer name %s is known as that of %s and cannot be that of %s too; give one of the two another with --name",
		n, have.Fingerprint(), other.Fingerprint())
}

// boots watches the boot ids of one identity. A daemon takes a new one at each
// start and never an old one again: one that comes back means two daemons.
// (The advert of an earlier run may turn up once after a restored disk.)
type boots struct {
	current uint64
	former  []uint64
	returns int
}

// see reports whether boot shows that there are two.
func (b *boots) see(boot uint64) bool {
	if boot == b.current {
		return false
	}
	if b.current != 0 {
		b.former = append(b.former, b.current)
		if len(b.former) > 4 {
			b.former = b.former[1:]
		}
	}
	b.current = boot
	i := slices.Index(b.former, boot)
	if i < 0 {
		return false
	}
	b.former = slices.Delete(b.former, i, i+1)
	b.returns++
	return b.returns >= cloneReturns
}

// verifyAdvert is the hook of replica.Store: it is called within the loop.
func (m *Mesh) verifyAdvert(owner crypto.Identity, seq uint64, value []byte) error {
	a, err := advert.Parse(value)
	if err != nil {
		return err
	}
	if a.Identity != owner || a.Seq != seq {
		return errors.New("advert is not what it is said to be")
	}
	if owner != m.self {
		if err := m.admit(a); err != nil {
			return err
		}
	}
	m.verified = a
	return nil
}

// admit refuses a second identity with a known name or WireGuard key: one
// device cannot have two peers with one key, so such an advert would keep every
// host from setting up any.
func (m *Mesh) admit(a advert.Signed) error {
	if a.Gone {
		return m.admitGone(a)
	}
	if id, ok := m.keys[a.WireGuard]; ok && id != a.Identity {
		err := fmt.Errorf("peer %s claims the WireGuard key of %s", a.Identity.Fingerprint(), id.Fingerprint())
		m.warn("key "+a.Identity.String(), err.Error())
		return err
	}
	id, ok := m.names[a.Name]
	if !ok || id == a.Identity {
		return nil
	}
	err := nameTaken(a.Name, id, a.Identity)
	m.warn("name "+a.Identity.String(), err.Error())
	return err
}

// learn takes an advert that an introduction brought or the file kept, and
// reports whether it was news.
func (m *Mesh) learn(now time.Time, a advert.Signed) (bool, error) {
	raw := a.Bytes()
	if a.Identity == m.self {
		m.overtaken(now, a)
		return false, nil
	}
	if g := m.ghosts[a.Identity]; g != nil && a.Seq <= g.seq {
		return false, nil
	}
	if err := m.admit(a); err != nil {
		return false, err
	}
	news, err := m.store.SetAdvert(a.Identity, a.Seq, raw)
	if err != nil {
		m.warn("full", err.Error())
		return false, err
	}
	if news {
		m.setAdvert(now, a)
	}
	return news, nil
}

// setAdvert makes an advert that is in the store the peer's.
func (m *Mesh) setAdvert(now time.Time, a advert.Signed) {
	if a.Gone {
		m.departed(now, a)
		return
	}
	delete(m.ghosts, a.Identity)
	m.desk.haunt(a.Identity, false)
	p := m.peers[a.Identity]
	if p == nil {
		p = &peer{}
		m.peers[a.Identity] = p
		if p.member = m.desk.setKnown(a.Identity); p.member {
			m.counts.members.Add(1)
		}
		p.join.reset(now)
		m.log.Info("peer known", "peer", a.Name, "nickname", a.Nickname, "identity", a.Identity.Fingerprint())
	} else if p.advert.Name != a.Name {
		delete(m.names, p.advert.Name)
	}
	if p.advert.WireGuard != a.WireGuard {
		delete(m.keys, p.advert.WireGuard)
	}
	m.names[a.Name], m.keys[a.WireGuard] = a.Identity, a.Identity
	if p.boots.see(a.Boot) {
		m.warnWhile(now, "clone "+a.Identity.String(), fmt.Sprintf(
			"two hosts have the identity of peer %s (%s), a copied state directory or a cloned disk; run 'weft reset' on one of them",
			a.Name, a.Nickname))
	}
	if p.advert.Boot != a.Boot {
		p.decided = false // the peer has forgotten it
	}
	p.advert = a
	m.namesChanged = true
	m.viewChanged()
	m.saveSoon(now)
}

// introduced takes the result of an introduction, from either side.
func (m *Mesh) introduced(now time.Time, r hello.Result) {
	m.readmit(r.Peer)
	for _, a := range r.Adverts {
		if news, err := m.learn(now, a); err == nil && news {
			m.cast(replica.ID{Owner: a.Identity, Channel: replica.Adverts})
			m.brought(now, a.Identity)
		}
	}
	p := m.peers[r.Peer]
	if p == nil {
		return // refused: learn said why
	}
	m.agree(p)
	m.reassert(now, p, r.Adverts)
	p.introduced++
	if !p.decided || r.Order >= p.order {
		p.decided, p.initiator, p.order = true, r.Initiator, r.Order
	}
	if r.Remote.IsValid() {
		port := p.advert.HelloPort
		if r.Dialled {
			port = r.Remote.Port()
		}
		p.met = netip.AddrPortFrom(r.Remote.Addr().Unmap(), port+1)
	}
	p.join.soon(now)
	m.log.Info("peer introduced", "peer", p.advert.Name, "nickname", p.advert.Nickname,
		"address", r.Remote, "dialled", r.Dialled, "initiator", r.Initiator, "protocol", r.Version)
	m.namesChanged = true
	m.viewChanged()
	m.saveSoon(now)
}

// reached takes the router's report of a handshake.
func (m *Mesh) reached(now time.Time, id crypto.Identity, endpoint netip.AddrPort) {
	p := m.peers[id]
	if p == nil {
		return
	}
	if endpoint.IsValid() && endpoint != p.good {
		p.good = endpoint
		m.viewChanged()
		m.saveSoon(now)
	}
	if !p.member {
		p.join.reset(now)
		p.join.hot = now
		if m.self.Compare(id) > 0 {
			p.join.hot = now.Add(hotWait)
		}
	}
}

// setMember takes what memberlist said of a peer. It may say again that a
// member is one, when it was away in between.
func (m *Mesh) setMember(now time.Time, id crypto.Identity, member bool) {
	p := m.peers[id]
	if p == nil {
		return
	}
	switch {
	case member && !p.member:
		if m.counts.members.Add(1) == 1 {
			m.desk.ponged(now) // nobody was probed before
		}
		m.log.Info("peer joined", "peer", p.advert.Name, "nickname", p.advert.Nickname)
	case !member && p.member:
		m.counts.members.Add(-1)
		m.log.Warn("peer lost", "peer", p.advert.Name, "nickname", p.advert.Nickname)
	}
	p.member, p.join.hot = member, time.Time{}
	p.join.reset(now)
	if member {
		m.greet(now, id)
	}
	m.viewChanged()
}

// sign makes our next advert.
func (m *Mesh) sign(now time.Time) error {
	var eps []netip.AddrPort
	if !m.gone {
		eps = m.endpoints()
	}
	a, err := advert.Sign(m.cfg.Key, advert.Advert{
		Name: m.cfg.Name, Nickname: m.cfg.Nickname, Boot: m.cfg.Boot, Seq: m.seq + 1,
		Endpoints: eps, HelloPort: m.cfg.Port, Datapath: m.cfg.Datapath, Version: m.cfg.Version,
		Gone: m.gone,
	})
	if err != nil {
		return err
	}
	if _, err := m.store.SetAdvert(m.self, a.Seq, a.Bytes()); err != nil {
		return err
	}
	m.seq, m.advert = a.Seq, a
	m.signAt = time.Time{}
	m.names[a.Name] = m.self
	m.namesChanged = true
	m.viewChanged()
	m.saveSoon(now)
	m.cast(replica.ID{Owner: m.self, Channel: replica.Adverts})
	return nil
}

// endpoints returns our own candidate endpoints as they go into the advert.
func (m *Mesh) endpoints() []netip.AddrPort {
	if m.cfg.Endpoints == nil {
		return nil
	}
	var out []netip.AddrPort
	for _, ep := range m.cfg.Endpoints() {
		ep = netip.AddrPortFrom(ep.Addr().Unmap(), ep.Port())
		if advert.Usable(ep) && ep.Addr().Zone() == "" && !slices.Contains(out, ep) && len(out) < advert.MaxEndpoints {
			out = append(out, ep)
		}
	}
	return out
}

// stepAdvert signs again what has changed, and above what was seen.
func (m *Mesh) stepAdvert(now time.Time) {
	if m.gone {
		return // nothing follows the last words
	}
	if !m.pollAt.After(now) {
		m.pollAt = now.Add(pollEndpoints)
		if eps := m.endpoints(); !slices.Equal(eps, m.advert.Endpoints) && m.signAt.IsZero() {
			m.log.Info("own endpoints changed", "endpoints", eps)
			m.signAt = now
		}
	}
	m.wakeAt(m.pollAt)
	if m.signAt.IsZero() {
		return
	}
	if m.signAt.After(now) {
		m.wakeAt(m.signAt)
		return
	}
	if err := m.sign(now); err != nil {
		m.log.Error("own advert not signed", "err", err)
		m.signAt = now.Add(retryMost)
	}
}

// overtaken continues above an advert of our own that is ahead of ours: of a
// former run whose state was lost, or of a clone. Against a clone it goes on
// ever more slowly.
func (m *Mesh) overtaken(now time.Time, a advert.Signed) {
	if m.gone || a.Seq < m.advert.Seq || a.Seq == m.advert.Seq && bytes.Equal(a.Bytes(), m.advert.Bytes()) {
		return
	}
	m.seq = max(m.seq, a.Seq)
	if !m.signAt.IsZero() {
		return // about to be signed
	}
	m.overtakes++
	m.signAt = now
	if m.overtakes > 1 {
		m.signAt = now.Add(min(retryFirst<<min(m.overtakes-2, 6), retryMost))
	}
	if m.overtakes >= cloneReturns && a.Boot != m.cfg.Boot {
		m.warnWhile(now, "clone", "another host has our identity, a copied state directory or a cloned disk; run 'weft reset' on one of the two")
	}
}
