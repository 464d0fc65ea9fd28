package path

import (
	"fmt"
	"net/netip"
	"time"
)

// simHost is one end. Its device is a model of what WireGuard does that matters
// here: one slot for a handshake, timestamps, sessions, an endpoint that is
// learnt from every authentic packet.
type simHost struct {
	s       *sim
	id      int
	kernel  bool // Initiate is a re-add with the endpoint
	busy    bool // has traffic for the other
	machine *Machine
	started bool
	up      []bool // its interfaces
	nat     *simNAT
	lists   []netip.AddrPort // what the other is told
	firsts  map[string]bool  // relays that it may use first; nil: all
	boots   map[string]int   // of the relays, as last heard
	binding map[string]int   // serial of the bind under way
	ticks   int              // serial of the tick that is planned
	held    bool             // the daemon gets no processor
	waiting []Event          // for the daemon meanwhile
	quiets  map[netip.AddrPort]time.Duration

	added     bool // the device has the peer
	endpoint  netip.AddrPort
	local     int    // interface that packets to the endpoint leave by, or routed
	heardOn   int    // interface that the packet just received came to
	index     uint64 // of the initiation under way; 0: the slot holds none
	current   simSession
	former    simSession
	next      simSession // answered by us, not confirmed
	expired   bool       // current may not send
	staged    []simMessage
	sent      time.Duration // last initiation
	spoke     time.Duration // first data since heard
	heard     time.Duration
	stamp     time.Duration // of the last initiation taken; replay protection
	taken     time.Duration
	handshake time.Time
	rx, tx    uint64

	asked   [64]time.Duration // when pings were sent
	app     time.Duration     // when data of the other's came last
	worst   time.Duration     // longest time without
	changes []Change
	punches int
	probes  int
	pings   int
	stepped int
}

type simSession struct {
	id        uint64
	born      time.Duration
	initiator bool
}

// routed lets the routing table choose the interface.
const routed = -1

// never is long ago for a device.
const never = -time.Hour

func (h *simHost) name() string { return fmt.Sprint(h.id) }

func (h *simHost) peer() *simHost { return h.s.hosts[1-h.id] }

// simEndpoint is the k-th interface of a host.
func simEndpoint(host, k int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(host), 0, byte(k)}), 6784)
}

// addHost makes a host with so many interfaces, each of which the other is
// told of.
func (s *sim) addHost(interfaces int) *simHost {
	id := 0
	if s.hosts[0] != nil {
		id = 1
	}
	h := &simHost{s: s, id: id, boots: make(map[string]int), binding: make(map[string]int), busy: true, quiets: make(map[netip.AddrPort]time.Duration), sent: never, stamp: never, taken: never}
	for k := range interfaces {
		h.up = append(h.up, true)
		h.lists = append(h.lists, simEndpoint(id, k))
	}
	s.hosts[id] = h
	h.renew()
	return h
}

// renew gives a host a daemon that knows nothing.
func (h *simHost) renew() {
	h.started = false
	h.boots = make(map[string]int)
	h.machine = New(Config{Decider: h.id == 0, Rand: h.s.uniform})
}

// start lets the loops of a host run.
func (h *simHost) start() {
	h.poll()
	h.traffic()
	h.binds()
	h.topology()
}

// emit sends a WireGuard packet to the endpoint.
func (h *simHost) emit(m simMessage) {
	h.tx += m.size()
	if !h.endpoint.IsValid() {
		return
	}
	to := h.endpoint
	h.s.transmit(h, to, func(source netip.AddrPort) {
		for _, r := range h.s.relays {
			if r.endpoint == to {
				r.receive(m, source, false)
				return
			}
		}
		h.peer().receive(m, source)
	})
}

// receive takes a WireGuard packet.
func (h *simHost) receive(m simMessage, source netip.AddrPort) {
	if until, ok := h.quiets[source]; !h.added || ok && h.s.now < until {
		return
	}
	switch m.kind {
	case "init":
		if m.stamp <= h.stamp || h.s.now-h.taken <= 20*time.Millisecond {
			return
		}
		h.stamp, h.taken = m.stamp, h.s.now
		h.index = 0 // the slot is taken over
		h.s.next++
		h.next = simSession{id: h.s.next, born: h.s.now}
		h.sent = h.s.now
		h.authentic(m, source)
		h.emit(simMessage{kind: "response", from: h.id, index: m.index, session: h.next.id})
	case "response":
		if h.index == 0 || m.index != h.index {
			return
		}
		h.index = 0
		h.former = h.current
		h.current, h.next, h.expired = simSession{m.session, h.s.now, true}, simSession{}, false
		h.handshake = epoch.Add(h.s.now)
		h.authentic(m, source)
		h.say("keepalive", 0)
		h.flush()
	case "data":
		switch m.session {
		case 0:
			return
		case h.next.id:
			h.former = h.current
			h.current, h.next, h.expired = h.next, simSession{}, false
			h.handshake = epoch.Add(h.s.now)
			h.authentic(m, source)
			h.flush()
		case h.current.id, h.former.id:
			h.authentic(m, source)
		default:
			return
		}
		h.content(m)
	}
}

func (h *simHost) authentic(m simMessage, source netip.AddrPort) {
	if h.endpoint != source {
		h.s.logf("%d: endpoint %s by %s", h.id, source, m.kind)
	}
	h.endpoint, h.local = source, h.heardOn // it answers from where it was asked
	h.heard, h.spoke = h.s.now, 0
	h.rx += m.size()
}

// content is what the host's kernel and daemon do with a decrypted packet.
func (h *simHost) content(m simMessage) {
	switch m.content {
	case "app":
		h.worst = max(h.worst, h.s.now-h.app)
		h.app = h.s.now
	case "ping":
		h.say("echo", m.number)
	case "echo":
		h.step(Echo{m.number, h.s.now - h.asked[m.number%64]})
	case "punch":
		h.step(Punched{h.peer().lists})
	}
}

// say sends something through the tunnel, or makes WireGuard initiate.
func (h *simHost) say(content string, number uint64) {
	m := simMessage{kind: "data", from: h.id, content: content, number: number, stamp: h.s.now}
	if !h.added {
		return
	}
	age := h.s.now - h.current.born
	if h.current.id == 0 || h.expired || age > 180*time.Second {
		if len(h.staged) < 100 {
			h.staged = append(h.staged, m)
		}
		h.initiate()
		return
	}
	m.session = h.current.id
	if h.spoke == 0 {
		h.spoke = h.s.now
	}
	h.emit(m)
	if age > 120*time.Second && h.current.initiator || h.s.now-h.spoke > 15*time.Second {
		h.initiate()
	}
}

func (h *simHost) flush() {
	list := h.staged
	h.staged = nil
	for _, m := range list {
		h.say(m.content, m.number)
	}
}

// initiate is what WireGuard does by itself, at most every 5 s.
func (h *simHost) initiate() {
	if h.s.now-h.sent < 5*time.Second {
		return
	}
	h.sent = h.s.now
	h.s.next++
	h.index = h.s.next
	const tick = 1 << 24 // of the timestamps, in ns
	h.emit(simMessage{kind: "init", from: h.id, index: h.index, stamp: h.s.now / tick * tick})
}

func (h *simHost) readd(ep netip.AddrPort) {
	h.added = true
	h.endpoint, h.local, h.index = ep, routed, 0
	h.current, h.next, h.former = simSession{}, simSession{}, simSession{}
	h.stamp, h.taken, h.sent, h.handshake = never, never, never, time.Time{}
	h.rx, h.tx, h.staged = 0, 0, nil
	h.initiate() // the keepalive, into the void without an endpoint
}

// traffic waits at both ends.
func (h *simHost) traffic() {
	if h.busy {
		h.say("app", 0)
	}
	h.s.after(50*time.Millisecond, h.traffic)
}

// poll is the router's loop.
func (h *simHost) poll() {
	if h.started {
		h.step(Device{Handshake: h.handshake, Endpoint: h.endpoint, Rx: h.rx, Tx: h.tx})
	}
	h.s.after(100*time.Millisecond, h.poll)
}

// binds keeps the host's binds.
func (h *simHost) binds() {
	for _, r := range h.s.relays {
		if h.started && h.first(r) {
			h.bind(r)
		}
	}
	gap := 20 * time.Second
	if h.s.now < 5*time.Second {
		gap = 500 * time.Millisecond
	}
	h.s.after(gap+h.s.uniform(100*time.Millisecond), h.binds)
}

// topology tells the host what can be used, a while after it is so.
func (h *simHost) topology() {
	if h.started {
		h.tellRelays()
	}
	h.s.after(time.Second+h.s.uniform(2*time.Second), h.topology)
}

// step takes the machine a step further and obeys it.
func (h *simHost) step(e Event) {
	switch e.(type) {
	case Start, Introduced:
		h.started = true
	}
	if !h.started {
		return
	}
	if h.held {
		switch e.(type) {
		case Device, Tick:
		default:
			h.waiting = append(h.waiting, e)
		}
		return
	}
	if !h.added {
		h.readd(netip.AddrPort{}) // the router has told the device
	}
	now := epoch.Add(h.s.now)
	h.stepped++
	for _, a := range h.machine.Step(now, e) {
		if _, ok := a.(Ping); !ok {
			h.s.logf("%d: %T: %s", h.id, e, a)
		}
		h.obey(a)
	}
	if err := h.machine.check(now); err != nil {
		h.s.fail("host %d at %s, after %T: %v\n%s", h.id, h.s.now, e, err, h.s)
	}
	h.plan()
}

// hold gives the daemon no processor, release gives it back: all that came
// meanwhile waits.
func (h *simHost) hold() { h.s.logf("%d: is held up", h.id); h.held = true }

func (h *simHost) release() {
	h.s.logf("%d: goes on", h.id)
	h.held = false
	due, waiting := h.machine.Next(), h.waiting
	h.waiting = nil
	if by := epoch.Add(h.s.now).Sub(due); !due.IsZero() && by > 0 {
		h.step(Late{By: by})
	}
	h.step(Tick{})
	for _, e := range waiting {
		h.step(e)
	}
}

// plan ticks when the machine wants it.
func (h *simHost) plan() {
	n := h.machine.Next()
	h.ticks++
	serial := h.ticks
	if n.IsZero() {
		return
	}
	h.s.after(max(n.Sub(epoch)-h.s.now, 0), func() {
		if serial == h.ticks {
			h.step(Tick{})
		}
	})
}

func (h *simHost) obey(a Action) {
	switch a := a.(type) {
	case SetEndpoint:
		h.endpoint, h.local = a.Endpoint, routed
	case Readd:
		h.readd(a.Endpoint)
	case Initiate:
		if h.kernel {
			h.readd(h.endpoint)
			return
		}
		h.index, h.expired, h.sent = 0, true, never
		h.initiate()
	case Quiet:
		h.hush(a)
	case Probe:
		h.probe(a)
	case Ping:
		h.pings++
		h.asked[a.Number%64] = h.s.now
		h.say("ping", a.Number)
	case Punch:
		h.punches++
		h.s.after(2*h.s.link(h.name(), "r0").delay*2, func() { h.say("punch", 0) })
	case Rebind:
		for _, r := range h.s.relays {
			if r.endpoint == a.Endpoint {
				h.bind(r)
			}
		}
	case Changed:
		h.changes = append(h.changes, a.Change)
	}
}

func (h *simHost) hush(q Quiet) {
	if q.For <= 0 || q.For > maxQuiet {
		h.s.fail("quiet for %s", q.For)
	}
	for _, r := range h.s.relays {
		if r.endpoint == q.Route.Endpoint {
			h.s.carry(h.name(), r.name, func() { r.hush[h.id] = h.s.now + q.For })
			return
		}
	}
	h.quiets[q.Route.Endpoint] = h.s.now + q.For
}

func (h *simHost) probe(a Probe) {
	h.probes++
	sent := h.s.now
	h.toPeer(a.Endpoint, routed, a.TTL, func(source netip.AddrPort, k int) {
		p := h.peer()
		if !p.started {
			return
		}
		p.step(Asked{source})
		p.toPeer(source, k, 0, func(from netip.AddrPort, _ int) {
			h.step(Pong{Endpoint: a.Endpoint, From: from, RTT: h.s.now - sent})
		})
	})
}
