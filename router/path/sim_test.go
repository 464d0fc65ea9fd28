package path

import (
	"container/heap"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
)

// sim is two hosts, each with a machine and a model of its WireGuard device,
// relays, and a network between them all that delays, loses and cuts.
//
//	machine ──actions──▶ device ──messages──▶ links, NATs, relays ──▶ device of the other
//	   ▲                    │
//	   └─── Device event ───┘ every 100 ms
type sim struct {
	now    time.Duration
	queue  simQueue
	serial int
	random uint64
	next   uint64 // index or session
	hosts  [2]*simHost
	relays []*simRelay
	links  map[[2]string]*simLink
	fail   func(format string, args ...any)
	log    *strings.Builder // nil: none
}

// simLink carries packets in one direction.
type simLink struct {
	delay, jitter time.Duration
	loss          int // percent
	cut           bool
}

func newSim(seed uint64, fail func(string, ...any)) *sim {
	return &sim{random: seed, links: make(map[[2]string]*simLink), fail: fail}
}

// chance is cheap, and the same for the same seed.
func (s *sim) chance(n int) int {
	s.random = s.random*6364136223846793005 + 1442695040888963407
	return int(s.random >> 33 % uint64(n))
}

func (s *sim) uniform(d time.Duration) time.Duration {
	return time.Duration(s.chance(int(d/time.Millisecond)+1)) * time.Millisecond
}

func (s *sim) logf(format string, args ...any) {
	if s.log != nil {
		fmt.Fprintf(s.log, "%9.3f ", s.now.Seconds())
		fmt.Fprintf(s.log, format+"\n", args...)
	}
}

func (s *sim) after(d time.Duration, f func()) {
	s.serial++
	heap.Push(&s.queue, simEvent{s.now + d, s.serial, f})
}

// run lets the world go on until the time is t, or stop says so.
func (s *sim) run(t time.Duration, stop func() bool) bool {
	for len(s.queue) > 0 && s.queue[0].at <= t {
		e := heap.Pop(&s.queue).(simEvent)
		s.now = e.at
		e.do()
		if stop != nil && stop() {
			return true
		}
	}
	s.now = t
	return stop != nil && stop()
}

// link returns what carries packets from one node to another. Direct links are
// named by the interface: "0.1" is the second one of host 0.
func (s *sim) link(from, to string) *simLink {
	l := s.links[[2]string{from, to}]
	if l == nil {
		l = &simLink{delay: 10 * time.Millisecond}
		s.links[[2]string{from, to}] = l
	}
	return l
}

// both sets a link in both directions.
func (s *sim) both(a, b string, set func(*simLink)) {
	set(s.link(a, b))
	set(s.link(b, a))
}

func (s *sim) cut(a, b string, cut bool) {
	s.logf("cut %s-%s: %t", a, b, cut)
	s.both(a, b, func(l *simLink) { l.cut = cut })
}

// carry takes something over a link, or loses it.
func (s *sim) carry(from, to string, deliver func()) {
	l := s.link(from, to)
	if l.cut || s.chance(100) < l.loss {
		return
	}
	s.after(l.delay+s.uniform(l.jitter), deliver)
}

// simMessage is a packet between devices.
type simMessage struct {
	kind    string // init, response, data
	from    int    // host
	index   uint64
	session uint64
	stamp   time.Duration
	content string // of data: app, ping, echo, punch, keepalive
	number  uint64 // of a ping
}

func (m simMessage) size() uint64 {
	switch {
	case m.kind == "init":
		return 148
	case m.kind == "response":
		return 92
	case m.content == "app":
		return 1200
	case m.content == "keepalive":
		return 32
	}
	return pingBytes
}

// simRelay forwards sessions whose handshake it carried, between bound
// sources.
type simRelay struct {
	s        *sim
	name     string
	id       crypto.Identity
	endpoint netip.AddrPort
	down     bool
	boot     int
	bound    [2]simBind
	next     [2]*simRelay // towards a host that is not bound here
	pending  map[uint64]bool
	sessions map[uint64]bool
	hush     [2]time.Duration // nothing to this host until then
	noticed  [2]time.Duration
}

type simBind struct {
	source netip.AddrPort
	at     time.Duration
}

func (s *sim) addRelay() *simRelay {
	n := len(s.relays)
	r := &simRelay{s: s, name: fmt.Sprintf("r%d", n), endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 0, byte(n)}), 6783)}
	r.id[0] = byte(n + 1)
	r.forget()
	s.relays = append(s.relays, r)
	return r
}

func (r *simRelay) forget() {
	r.boot++
	r.bound = [2]simBind{}
	r.pending, r.sessions = make(map[uint64]bool), make(map[uint64]bool)
	r.hush = [2]time.Duration{}
}

// crash stops a relay, restart starts it anew.
func (r *simRelay) crash() { r.s.logf("%s crashes", r.name); r.down = true; r.forget() }

func (r *simRelay) restart() { r.s.logf("%s starts", r.name); r.down = false }

// usable is what the topology would say: this host can reach the other through
// the relay.
func (r *simRelay) usable(host int) ([]crypto.Identity, bool) {
	ok := func(from, to string) bool { return !r.s.link(from, to).cut && !r.s.link(to, from).cut }
	if r.down || !ok(r.s.hosts[host].name(), r.name) {
		return nil, false
	}
	hop, via := r, []crypto.Identity{r.id}
	for hop.next[1-host] != nil && len(via) < 8 {
		if n := hop.next[1-host]; !ok(hop.name, n.name) || n.down {
			return nil, false
		}
		hop = hop.next[1-host]
		via = append(via, hop.id)
	}
	return via, ok(hop.name, r.s.hosts[1-host].name())
}

// receive takes a packet that came from a host's source address or, with
// from nil, from another relay.
func (r *simRelay) receive(m simMessage, source netip.AddrPort, relayed bool) {
	if r.down || !relayed && (r.bound[m.from].source != source || r.s.now-r.bound[m.from].at > 60*time.Second) {
		return
	}
	switch m.kind {
	case "init":
		r.pending[m.index] = true
	case "response":
		if !r.pending[m.index] {
			return
		}
		r.sessions[m.session] = true
	case "data":
		if !r.sessions[m.session] {
			r.notice(m, relayed)
			return
		}
	}
	to := 1 - m.from
	switch b := r.bound[to]; {
	case r.s.now < r.hush[to] && m.kind == "data":
	case b.source.IsValid() && r.s.now-b.at <= 60*time.Second:
		r.s.deliver(r.name, r.endpoint, to, b.source, func(src netip.AddrPort) { r.s.hosts[to].receive(m, src) })
	case r.next[to] != nil:
		n := r.next[to]
		r.s.carry(r.name, n.name, func() { n.receive(m, netip.AddrPort{}, true) })
	}
}

func (r *simRelay) notice(m simMessage, relayed bool) {
	if relayed {
		// The relay before this one forgets the session, and notices its own
		// neighbour at the next packet.
		for _, o := range r.s.relays {
			if o.next[1-m.from] == r {
				delete(o.sessions, m.session)
			}
		}
		return
	}
	if r.s.now-r.noticed[m.from] < time.Second && r.noticed[m.from] > 0 {
		return
	}
	r.noticed[m.from] = r.s.now
	h := r.s.hosts[m.from]
	r.s.deliver(r.name, r.endpoint, m.from, r.bound[m.from].source, func(netip.AddrPort) { h.step(Unknown{}) })
}

// bind is a host's registration, with the answer; it is repeated until there
// is one.
func (h *simHost) bind(r *simRelay) {
	h.binding[r.name]++
	h.bindAgain(r, h.binding[r.name], 500*time.Millisecond)
}

func (h *simHost) bindAgain(r *simRelay, serial int, gap time.Duration) {
	if serial != h.binding[r.name] {
		return
	}
	h.s.after(gap, func() { h.bindAgain(r, serial, min(2*gap, 20*time.Second)) })
	h.s.transmit(h, r.endpoint, func(source netip.AddrPort) {
		if r.down {
			return
		}
		r.bound[h.id] = simBind{source, h.s.now}
		boot := r.boot
		h.s.deliver(r.name, r.endpoint, h.id, source, func(netip.AddrPort) {
			if serial == h.binding[r.name] {
				h.binding[r.name]++ // no more of this
			}
			old := h.boots[r.name]
			h.boots[r.name] = boot
			if old != 0 && old != boot {
				h.step(Restarted{r.endpoint})
			}
		})
	})
}

// tellRelays tells a host of what the topology offers.
func (h *simHost) tellRelays() {
	var list Relays
	for _, r := range h.s.relays {
		if via, ok := r.usable(h.id); ok && h.boots[r.name] != 0 && h.first(r) {
			l := h.s.link(h.name(), r.name)
			list = append(list, Relay{Route: Route{r.endpoint, via}, RTT: 4 * l.delay * time.Duration(len(via))})
		}
	}
	h.step(list)
}

// first reports whether a host may use a relay as its first.
func (h *simHost) first(r *simRelay) bool { return h.firsts == nil || h.firsts[r.name] }

func (s *sim) String() string {
	t := fmt.Sprintf("at %s:\n", s.now)
	for _, h := range s.hosts {
		st := h.machine.Status()
		t += fmt.Sprintf("host %d: %s %s, device %s, session %d (expired %t) next %d slot %d, app %s ago, loss %.2f, rtt %s, streak %d\n",
			h.id, st.State, st.Route, h.endpoint, h.current.id, h.expired, h.next.id, h.index, s.now-h.app, st.Loss, st.RTT, h.machine.pulse.streak)
		for _, c := range st.History {
			t += fmt.Sprintf("  %9.3f %s\n", c.At.Sub(epoch).Seconds(), c)
		}
	}
	if s.log != nil {
		t += s.log.String()
	}
	return t
}

type simEvent struct {
	at     time.Duration
	serial int
	do     func()
}

// simQueue is a heap of events by time.
type simQueue []simEvent

func (q simQueue) Len() int      { return len(q) }
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }

func (q simQueue) Less(i, j int) bool {
	if q[i].at != q[j].at {
		return q[i].at < q[j].at
	}
	return q[i].serial < q[j].serial
}

func (q *simQueue) Pop() any {
	e := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return e
}
