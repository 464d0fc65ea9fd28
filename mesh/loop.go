package mesh

import (
	"context"
	"maps"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/replica"
)

// entries is the channel of the entries that [Mesh.Put] sets.
const entries uint8 = 1

const (
	viewDelay = 20 * time.Millisecond  // changes within it make one view
	saveDelay = 200 * time.Millisecond // and one write of the file
)

// loop is what Run's goroutine owns. step handles one event at a time; it
// never waits for anything.
type loop struct {
	ctx   context.Context
	store *replica.Store
	peers map[crypto.Identity]*peer
	names map[crypto.Name]crypto.Identity // of peers and ours
	keys  map[[32]byte]crypto.Identity    // their WireGuard keys

	advert     advert.Signed // ours
	seq        uint64        // the greatest sequence number of ours that was seen
	overtakes  int
	reassertAt time.Time     // no sooner again
	verified   advert.Signed // by the last call of verifyAdvert
	signAt     time.Time     // when to sign again; zero: no need
	gone       bool          // our last words are said: see depart
	pollAt     time.Time     // when to look at our endpoints

	ghosts map[crypto.Identity]*ghost // who was forgotten, and must stay so
	lookAt time.Time                  // when to see whether some are alive
	buried uint64                     // counts them

	targets []*target
	hints   map[string]crypto.Identity // by targetKey: who answered there, also in former runs

	ml           *memberlist.Memberlist // nil until the overlay is ready
	overlay      bool
	createAt     time.Time
	createDelay  time.Duration
	hot, cold    int                 // joins that are running
	introducing  int                 // peers that are being introduced by schedule
	sending      int                 // goroutines that send
	outBytes     int                 // in all outboxes
	relaying     map[replica.ID]bool // heard of by broadcast: to be passed on when it is here
	casting      map[replica.ID]bool // logs to be told of at castAt
	castAt       time.Time
	news         news
	pulses       int             // exchanges against loneliness that are running
	pulseTo      crypto.Identity // who answered one last
	pulseAt      time.Time       // of the next ones
	pulseUntil   time.Time
	storeChanged bool // the digest is to be made anew

	namesChanged bool // known is to be made anew
	viewAt       time.Time
	saveAt       time.Time
	savedAt      time.Time // when the file was written last
	saving       bool
	warned       map[string]bool
	warnings     []string
	passing      map[string]passing // those that go again, by key

	next time.Time // of the next tick
}

func newLoop(s *replica.Store) loop {
	return loop{
		ctx:         context.Background(),
		store:       s,
		peers:       make(map[crypto.Identity]*peer),
		names:       make(map[crypto.Name]crypto.Identity),
		keys:        make(map[[32]byte]crypto.Identity),
		ghosts:      make(map[crypto.Identity]*ghost),
		hints:       make(map[string]crypto.Identity),
		createDelay: retryFirst,
		relaying:    make(map[replica.ID]bool),
		casting:     make(map[replica.ID]bool),
		warned:      make(map[string]bool),
		passing:     make(map[string]passing),
	}
}

// event is what the loop handles: tick, inbox, message, dialled, joined, met,
// pulsed, sent or saved.
type event any

type (
	tick   struct{}
	pulsed struct {
		to  crypto.Identity
		err error
	}
	message []byte // from another host's mesh
	sent    struct {
		peer *peer
		err  error
	}
	saved struct{ err error }
)

// report hands a worker's result to the loop.
func (m *Mesh) report(e event) {
	select {
	case m.results <- e:
	case <-m.ctx.Done():
	}
}

func (m *Mesh) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	m.step(time.Now(), m.desk.take())
	for {
		timer.Reset(max(0, time.Until(m.next)))
		var e event
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			e = tick{}
		case <-m.desk.wake:
			e = m.desk.take()
		case b := <-m.messages:
			e = message(b)
		case e = <-m.results:
		}
		m.step(time.Now(), e)
	}
}

// step handles one event and then does all that is due.
func (m *Mesh) step(now time.Time, e event) {
	switch e := e.(type) {
	case tick:
	case inbox:
		m.takeInbox(now, e)
	case message:
		m.receive(now, e)
	case dialled:
		m.targetDialled(now, e)
	case joined:
		m.joinEnded(e)
	case met:
		m.introductionEnded(now, e)
	case pulsed:
		m.pulseEnded(e)
	case sent:
		m.sendEnded(now, e)
	case saved:
		m.saveEnded(now, e)
	case asked:
		close(e)
	}

	m.next = now.Add(retryMost)
	m.stepOverlay(now)
	m.stepAdvert(now)
	m.stepTargets(now)
	m.stepJoins(now)
	m.stepGhosts(now)
	m.stepPulse(now)
	m.stepNews(now)
	m.stepCasts(now)
	m.stepSave(now)
	m.stepAttention(now)
	m.stepPublish(now)
}

// wakeAt makes the next tick no later than t.
func (m *Mesh) wakeAt(t time.Time) {
	if t.Before(m.next) {
		m.next = t
	}
}

func (m *Mesh) takeInbox(now time.Time, in inbox) {
	if in.overlay && !m.overlay {
		m.overlay, m.createAt = true, now
	}
	if in.endpoints {
		m.pollAt = now
	}
	if in.retargeted {
		m.retarget(now, in.targets)
	}
	if in.lost > 0 {
		m.log.Warn("introductions dropped: too many at once", "count", in.lost)
	}
	for _, r := range in.intros {
		m.introduced(now, r)
	}
	for id, member := range in.joined {
		m.setMember(now, id, member)
	}
	for id, v := range in.spoke {
		m.spoken(now, id, v)
	}
	for id, endpoint := range in.reached {
		m.reached(now, id, endpoint)
	}
	for _, id := range in.expelled {
		m.expel(now, id)
	}
	if len(in.changed) > 0 {
		m.carry(in.changed)
	}
	m.post(in.posts)
	if len(in.farewell) > 0 {
		m.depart(now, in.farewell)
	}
}

// carry brings our own entries into our log.
func (m *Mesh) carry(changed map[string][]byte) {
	for k, v := range changed { // deletions first: they make room
		if v == nil {
			m.store.Delete(entries, k)
		}
	}
	for k, v := range changed {
		if v == nil {
			continue
		}
		if _, err := m.store.Put(entries, k, v); err != nil {
			m.log.Error("own entry not replicated", "key", k, "err", err)
		}
	}
	m.viewChanged()
	m.cast(replica.ID{Owner: m.self, Channel: entries})
}

func (m *Mesh) stepOverlay(now time.Time) {
	if !m.overlay || m.ml != nil {
		return
	}
	if m.createAt.After(now) {
		m.wakeAt(m.createAt)
		return
	}
	ml, err := m.gossip.start(m)
	if err != nil {
		m.log.Error("gossip not started", "err", err, "retry", m.createDelay)
		m.createAt = now.Add(m.createDelay)
		m.createDelay = min(2*m.createDelay, retryMost)
		m.wakeAt(m.createAt)
		return
	}
	m.ml = ml
	m.desk.ponged(now)
	m.log.Info("gossip started", "address", m.self.Overlay(), "port", GossipPort)
	m.spreadJoins(now)
	m.viewChanged()
}

func (m *Mesh) viewChanged() {
	m.storeChanged = true
	if m.viewAt.IsZero() {
		m.viewAt = time.Now().Add(viewDelay)
	}
}

// stepPublish makes new what others read. The view waits a little for more
// changes; digest and names do not.
func (m *Mesh) stepPublish(now time.Time) {
	if m.storeChanged {
		m.storeChanged = false
		b := replica.Message{Kind: replica.KindDigest, From: m.self, Digest: m.store.Digest()}.Marshal()
		m.digest.Store(&b)
	}
	if m.namesChanged {
		m.namesChanged = false
		m.publishNames()
	}
	m.status.Store(m.makeStatus())
	if m.viewAt.IsZero() {
		return
	}
	if m.viewAt.After(now) {
		m.wakeAt(m.viewAt)
		return
	}
	m.viewAt = time.Time{}
	m.publishView()
}

func (m *Mesh) publishView() {
	m.chooseDialled()
	v := m.view()
	met := m.metTargets()
	v.UnmetTargets = len(m.targets) - len(met)
	m.met.Store(&met)
	select {
	case <-m.views:
	default:
	}
	m.views <- v // only we send
}

func (m *Mesh) publishNames() {
	k := &known{adverts: make([]advert.Signed, 0, len(m.peers)+1), names: make(map[crypto.Name]crypto.Identity, len(m.names))}
	k.adverts = append(k.adverts, m.advert)
	// Members first: an introduction carries a limited number.
	for _, member := range []bool{true, false} {
		for _, p := range m.peers {
			if p.member == member {
				k.adverts = append(k.adverts, p.advert)
			}
		}
	}
	// Last words too: who was away hears of them, and so does a host that was
	// brought back from an old disk after it had said them.
	for _, g := range m.ghosts {
		if g.gone() {
			k.adverts = append(k.adverts, *g.advert)
		}
	}
	maps.Copy(k.names, m.names)
	m.known.Store(k)
}

// publish makes everything that others read, before Run.
func (m *Mesh) publish() {
	m.storeChanged, m.namesChanged = true, true
	m.stepPublish(time.Now())
	m.viewAt = time.Time{}
	m.publishView()
}

func (m *Mesh) makeStatus() *Status {
	s := &Status{
		Targets: append(m.targetStatus(), m.strangers()...), Known: len(m.peers), Members: int(m.counts.members.Load()),
		Gossip: m.ml != nil, Seq: m.advert.Seq, Gone: len(m.ghosts),
	}
	s.Warnings = append(s.Warnings, m.warnings...)
	return s
}
