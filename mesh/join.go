package mesh

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/hello"
)

const (
	// A join costs an exchange of the whole node list, and one that succeeds
	// brings in all who are reachable: few at a time, the others find
	// themselves members already.
	hotJoins = 4
	// One exchange makes both ends members: the one with the larger identity
	// waits for the other's.
	hotWait = 300 * time.Millisecond
	// Those who do not answer hold their place for TCPTimeout.
	coldJoins      = 64
	introductions  = 16
	introduceEvery = 3 // rounds
	introduceOne   = 5 * time.Second

	lonelyAfter = 5 * time.Second // probes go out every 2 s
	pulseFor    = 4 * time.Second // after the first answer: that one need not suspect us
	pulseEvery  = time.Second
	pulseTo     = 4
	maxPulses   = 24
)

// joining is the schedule by which a known peer without membership is joined,
// for ever: 1 s doubling to 60 s, every third round by introduction as well.
type joining struct {
	next        time.Time
	delay       time.Duration
	round       int
	hot         time.Time // a handshake completed: join it then; zero: none did
	joiningHot  bool      // what is running
	joiningCold bool
	introducing bool
}

func (j *joining) reset(now time.Time) {
	j.delay, j.round = retryFirst, 0
	j.next = now.Add(jitter(j.delay))
}

// soon makes one attempt without starting the schedule anew: introductions
// that succeed while no tunnel does would otherwise call each other.
func (j *joining) soon(now time.Time) {
	if t := now.Add(jitter(retryFirst)); t.Before(j.next) {
		j.next = t
	}
}

// joined says how a join ended, met how an introduction did.
type (
	joined struct {
		peer *peer
		hot  bool
		err  error
	}
	met struct {
		peer   *peer
		result *hello.Result
		err    error
	}
)

// spreadJoins is called when gossip starts: the first attempts at those who
// do not report by themselves are spread as their handshakes are.
func (m *Mesh) spreadJoins(now time.Time) {
	n := 0
	for _, p := range m.peers {
		if !p.member {
			n++
		}
	}
	span := max(time.Second, time.Duration(n)*time.Second/100)
	for _, p := range m.peers {
		if !p.member {
			p.join.reset(now.Add(rand.N(span)))
		}
	}
}

// stepJoins starts what is due.
func (m *Mesh) stepJoins(now time.Time) {
	if m.ml == nil || m.gone || m.gossip.left.Load() {
		return
	}
	for id, p := range m.peers {
		j := &p.join
		if p.member {
			continue
		}
		// A cold one that still waits for an answer does not hold it up.
		switch {
		case j.hot.IsZero() || j.joiningHot || m.hot >= hotJoins:
		case j.hot.After(now):
			m.wakeAt(j.hot)
		default:
			j.hot, j.joiningHot = time.Time{}, true
			m.hot++
			m.startJoin(p, true)
		}
		switch {
		case j.next.After(now):
			m.wakeAt(j.next)
			continue
		case j.joiningCold || m.cold >= coldJoins:
			continue // until one ends
		}
		j.joiningCold = true
		m.cold++
		m.startJoin(p, false)
		j.round++
		if j.round%introduceEvery == 0 {
			m.startIntroduction(id, p)
		}
		j.next = now.Add(jitter(j.delay))
		j.delay = min(2*j.delay, retryMost)
		m.wakeAt(j.next)
	}
}

func (m *Mesh) startJoin(p *peer, hot bool) {
	ml, id := m.ml, p.advert.Identity
	m.workers.Go(func() {
		_, err := ml.Join([]string{joinAddress(id)})
		m.report(joined{p, hot, err})
	})
}

// startIntroduction dials the peer, and nobody else, wherever it may be.
func (m *Mesh) startIntroduction(id crypto.Identity, p *peer) {
	if p.join.introducing || !p.dial || m.introducing >= introductions {
		return
	}
	var addrs []netip.AddrPort
	if p.met.IsValid() {
		addrs = append(addrs, netip.AddrPortFrom(p.met.Addr(), p.met.Port()-1))
	}
	for _, ep := range m.candidates(p) {
		a := netip.AddrPortFrom(ep.Addr(), p.advert.HelloPort)
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	for _, t := range m.targets {
		if t.peer == id && t.busy {
			return // it is being dialled
		}
		if t.peer == id && t.tried.IsValid() && !slices.Contains(addrs, t.tried) {
			addrs = append(addrs, t.tried)
		}
	}
	if len(addrs) == 0 {
		return
	}
	m.introducing++
	p.join.introducing = true
	m.workers.Go(func() {
		out := met{peer: p}
		for _, a := range addrs {
			ctx, stop := context.WithTimeout(m.ctx, introduceOne)
			r, err := m.cfg.Hello.Dial(ctx, a, &id)
			stop()
			out.err = err
			if err == nil {
				out.result = &r
				break
			}
			if m.ctx.Err() != nil {
				break
			}
		}
		m.report(out)
	})
}

// stepPulse helps against a trap of memberlist: after an outage nobody tells a
// host that it is suspected, because the suspicion was gossiped into the
// outage and probes have slowed down, and so it dies although all is well
// again. A host none of whose probes was answered for lonelyAfter therefore
// exchanges states with some members every second, until a little after the
// first answer: each end learns what the other suspects, and refutes it. Who
// answered last is always among them, for there may be no other (a host that only
// one other reaches), and to find that one all have their turn.
// Measured over outages of 10 s, 100 each: without this somebody died in 63
// (three hosts, no link left), 46 (one of three cut off), 64 (one of five), 11
// (one of twelve); with it in none of 1,400.
func (m *Mesh) stepPulse(now time.Time) {
	if m.ml == nil || m.counts.members.Load() == 0 || m.gossip.left.Load() {
		return
	}
	lonely := m.desk.lastPong().Add(lonelyAfter)
	if !lonely.After(now) {
		m.pulseUntil = now.Add(pulseFor)
	} else {
		m.wakeAt(lonely)
	}
	switch {
	case m.pulseUntil.Before(now):
		return
	case m.pulseAt.After(now):
		m.wakeAt(m.pulseAt)
		return
	}
	m.pulseAt = now.Add(pulseEvery)
	m.wakeAt(m.pulseAt)
	for _, id := range m.pulseNext() {
		if m.pulses >= maxPulses {
			return
		}
		m.pulses++
		m.peers[id].pulsed = now
		ml := m.ml
		m.workers.Go(func() {
			_, err := ml.Join([]string{joinAddress(id)})
			m.report(pulsed{id, err})
		})
	}
}

// pulseNext returns the members whose turn it is.
func (m *Mesh) pulseNext() []crypto.Identity {
	list := m.someMembers(len(m.peers))
	slices.SortStableFunc(list, func(a, b crypto.Identity) int {
		switch m.pulseTo {
		case a:
			return -1
		case b:
			return 1
		}
		return m.peers[a].pulsed.Compare(m.peers[b].pulsed)
	})
	return list[:min(len(list), pulseTo)]
}

func (m *Mesh) pulseEnded(e pulsed) {
	m.pulses--
	if e.err == nil {
		m.pulseTo = e.to
	}
}

func joinAddress(id crypto.Identity) string {
	return id.String() + "/" + net.JoinHostPort(id.Overlay().String(), strconv.Itoa(GossipPort))
}

func (m *Mesh) joinEnded(e joined) {
	p := e.peer // it may have been forgotten meanwhile
	if e.hot {
		m.hot--
		p.join.joiningHot = false
	} else {
		m.cold--
		p.join.joiningCold = false
	}
	if e.err != nil {
		m.log.Debug("join failed", "peer", p.advert.Name, "err", e.err)
	}
}

func (m *Mesh) introductionEnded(now time.Time, e met) {
	m.introducing--
	p := e.peer
	p.join.introducing = false
	if e.err != nil {
		m.log.Debug("introduction failed", "peer", p.advert.Name, "err", e.err)
		return
	}
	m.introduced(now, *e.result)
}

// jitter spreads d over ± a quarter.
func jitter(d time.Duration) time.Duration {
	return d - d/4 + rand.N(d/2+1)
}
