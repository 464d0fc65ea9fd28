package path

import (
	"container/heap"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is two hosts, each with a machine and a model of its WireGuard device,
// and a network between them that delays and loses.
//
//	machine ──actions──▶ device ──messages──▶ network ──▶ device of the other
//	   ▲                    │
//	   └──── last handshake ┘ every 100 ms
type world struct {
	now    time.Duration
	queue  queue
	serial int
	hosts  [2]*host
	lose   func() bool
	delay  func(from int) time.Duration
	next   uint64 // index or session
}

// host is one end. Its device is a model of what WireGuard does that matters
// here: one slot for a handshake, timestamps, endpoints that are learnt.
type host struct {
	w       *world
	id      int
	kernel  bool // Initiate is a re-add with the endpoint
	machine *Machine

	added     bool // the device has the peer
	endpoint  netip.AddrPort
	index     uint64 // of the initiation under way; 0: the slot holds none
	next      uint64 // session that we answered, not confirmed
	current   uint64 // session
	expired   bool   // current may not send
	sent      time.Duration
	heard     time.Duration
	stamp     time.Duration // of the last initiation taken; replay protection
	taken     time.Duration
	handshake time.Time
}

// never is long ago for a device.
const never = -time.Hour

type message struct {
	kind    string // init, response, data
	index   uint64
	session uint64
	stamp   time.Duration
}

func (w *world) after(d time.Duration, f func()) {
	w.serial++
	heap.Push(&w.queue, event{w.now + d, w.serial, f})
}

// run lets the world go on until the time is t, or stop says so.
func (w *world) run(t time.Duration, stop func() bool) bool {
	for len(w.queue) > 0 && w.queue[0].at <= t {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
		if stop() {
			return true
		}
	}
	w.now = t
	return stop()
}

func (h *host) peer() *host { return h.w.hosts[1-h.id] }

// learnt is the endpoint that packets from a host show.
func learnt(id int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(id)}), 1)
}

func (h *host) send(m message, reach map[netip.AddrPort]bool) {
	if !h.endpoint.IsValid() || !reach[h.endpoint] && h.endpoint != learnt(1-h.id) || h.w.lose() {
		return
	}
	h.w.after(h.w.delay(h.id), func() { h.peer().receive(m, reach) })
}

func (h *host) receive(m message, reach map[netip.AddrPort]bool) {
	if !h.added {
		return
	}
	switch m.kind {
	case "init":
		if m.stamp <= h.stamp || h.w.now-h.taken <= 20*time.Millisecond {
			return
		}
		h.stamp, h.taken = m.stamp, h.w.now
		h.index = 0 // the slot is taken over
		h.w.next++
		h.next = h.w.next
		h.sent = h.w.now
		h.endpoint = learnt(1 - h.id)
		h.send(message{kind: "response", index: m.index, session: h.next}, reach)
	case "response":
		if h.index == 0 || m.index != h.index {
			return
		}
		h.index = 0
		h.current, h.next, h.expired = m.session, 0, false
		h.complete()
		h.endpoint = learnt(1 - h.id)
		h.send(message{kind: "data", session: h.current}, reach)
	case "data":
		switch m.session {
		case h.next:
			if h.next == 0 {
				return
			}
			h.current, h.next, h.expired = h.next, 0, false
			h.complete()
		case h.current:
		default:
			return
		}
		h.heard = h.w.now
		h.endpoint = learnt(1 - h.id)
	}
}

func (h *host) complete() {
	h.heard = h.w.now
	h.handshake = epoch.Add(h.w.now)
}

// initiate is what WireGuard does by itself, at most every 5 s.
func (h *host) initiate(reach map[netip.AddrPort]bool) {
	if h.w.now-h.sent < 5*time.Second {
		return
	}
	h.sent = h.w.now
	h.w.next++
	h.index = h.w.next
	const tick = 1 << 24 // of the timestamps, in ns
	h.send(message{kind: "init", index: h.index, stamp: h.w.now / tick * tick}, reach)
}

// traffic waits at both ends: it is sent where there is a session, else it
// makes WireGuard initiate.
func (h *host) traffic(reach map[netip.AddrPort]bool) {
	if h.added {
		if h.current != 0 && !h.expired {
			h.send(message{kind: "data", session: h.current}, reach)
		}
		if h.current == 0 || h.expired || h.w.now-h.heard > 15*time.Second {
			h.initiate(reach)
		}
	}
	h.w.after(50*time.Millisecond, func() { h.traffic(reach) })
}

func (h *host) readd(ep netip.AddrPort, reach map[netip.AddrPort]bool) {
	h.added = true
	h.endpoint, h.index, h.next, h.current = ep, 0, 0, 0
	h.stamp, h.taken, h.sent, h.handshake = never, never, never, time.Time{}
	h.initiate(reach) // the keepalive, into the void without an endpoint
}

func (h *host) step(t *rapid.T, e Event, reach map[netip.AddrPort]bool) {
	if _, ok := e.(Tick); !ok && !h.added {
		h.readd(netip.AddrPort{}, reach) // the router has told the device
	}
	now := epoch.Add(h.w.now)
	for _, a := range h.machine.Step(now, e) {
		switch a := a.(type) {
		case SetEndpoint:
			h.endpoint = a.Endpoint
		case Readd:
			h.readd(a.Endpoint, reach)
		case Initiate:
			if h.kernel {
				h.readd(h.endpoint, reach)
				continue
			}
			h.index, h.expired, h.sent = 0, true, never
			h.initiate(reach)
		}
	}
	if err := h.machine.check(now); err != nil {
		t.Fatalf("host %d at %s, after %T: %v", h.id, h.w.now, e, err)
	}
}

func (h *host) poll(t *rapid.T, reach map[netip.AddrPort]bool) {
	h.step(t, Handshake{At: h.handshake}, reach)
	h.step(t, Tick{}, reach)
	h.w.after(100*time.Millisecond, func() { h.poll(t, reach) })
}

// Whatever is lost and delayed, once the network carries packets again both
// ends share a session soon, and stay so.
func TestAlwaysEstablished(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bad := time.Duration(rapid.IntRange(0, 20_000).Draw(t, "bad for ms")) * time.Millisecond
		loss := rapid.IntRange(0, 100).Draw(t, "loss %")
		most := rapid.IntRange(1, 400).Draw(t, "one-way ms")
		seed := rapid.Uint64().Draw(t, "seed")
		chance := func(n int) int { // cheap, and the same for the same seed
			seed = seed*6364136223846793005 + 1442695040888963407
			return int(seed >> 33 % uint64(n))
		}
		w := &world{}
		w.lose = func() bool { return w.now < bad && chance(100) < loss }
		w.delay = func(int) time.Duration { return time.Duration(most/2+chance(most/2+1)) * time.Millisecond }

		reach := make(map[netip.AddrPort]bool)
		var lists [2][]netip.AddrPort
		for i := range lists {
			n := rapid.IntRange(1, 3).Draw(t, "candidates")
			for k := range n {
				ep := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(10*i + k)}), 6784)
				lists[i] = append(lists[i], ep)
				reach[ep] = rapid.Bool().Draw(t, "reachable")
			}
		}
		// One that works is enough, at either end: the other may be behind a NAT.
		open := lists[rapid.IntRange(0, 1).Draw(t, "open end")]
		reach[open[rapid.IntRange(0, len(open)-1).Draw(t, "open")]] = true
		for i := range w.hosts {
			w.hosts[i] = &host{
				w: w, id: i,
				kernel: rapid.Bool().Draw(t, "kernel"),
				machine: New(Config{Decider: i == 0, Rand: func(n time.Duration) time.Duration {
					return time.Duration(chance(int(n/time.Millisecond)+1)) * time.Millisecond
				}}),
			}
		}
		tell := func(i int, at time.Duration, e Event) {
			w.after(at, func() { w.hosts[i].step(t, e, reach) })
		}
		ms := func(name string, upTo int) time.Duration {
			return time.Duration(rapid.IntRange(0, upTo).Draw(t, name)) * time.Millisecond
		}
		// How they come to know each other: from a former run, and by any
		// number of introductions in either direction, of which the two ends
		// hear at times of their own.
		known := rapid.Bool().Draw(t, "known before")
		for i := range w.hosts {
			if known {
				tell(i, ms("start", 3000), Start{Candidates: lists[1-i], Delay: ms("delay", 1000)})
			}
		}
		var dialled [2]bool
		for range rapid.IntRange(0, 4).Draw(t, "introductions") {
			dialler := rapid.IntRange(0, 1).Draw(t, "dialler")
			at := ms("introduction", 3000)
			dialled[dialler] = true
			for i := range w.hosts {
				// A later one may give both ends either role: the worst that a
				// mesh could tell.
				role := i == dialler
				if dialled[0] && dialled[1] {
					role = rapid.Bool().Draw(t, "role")
				}
				tell(i, at+ms("heard after", 2*most), Introduced{Initiator: role, Candidates: lists[1-i]})
			}
		}
		if !known && !dialled[0] && !dialled[1] {
			tell(0, 0, Introduced{Initiator: true, Candidates: lists[1]})
			tell(1, ms("heard after", 2*most), Introduced{Candidates: lists[0]})
		}
		for _, h := range w.hosts {
			w.after(0, func() { h.poll(t, reach) })
			w.after(time.Duration(chance(50))*time.Millisecond, func() { h.traffic(reach) })
		}

		up := func() bool {
			a, b := w.hosts[0], w.hosts[1]
			return a.current != 0 && a.current == b.current && !a.expired && !b.expired &&
				a.machine.state == Established && b.machine.state == Established
		}
		settled := max(bad, 4*time.Second+2*w.delay(0)) // the last introduction is over
		w.run(settled, func() bool { return false })
		if !w.run(settled+60*time.Second, up) {
			t.Fatalf("not established 60 s after the network was well\n%s", w)
		}
		w.run(w.now+30*time.Second, func() bool { return false })
		if !up() {
			t.Fatalf("established, but no longer\n%s", w)
		}
	})
}

func (w *world) String() string {
	s := fmt.Sprintf("at %s:\n", w.now)
	for _, h := range w.hosts {
		s += fmt.Sprintf("host %d: %+v\n  session %d (expired %t), next %d, slot %d, endpoint %s, initiation %s ago\n",
			h.id, h.machine.Status(), h.current, h.expired, h.next, h.index, h.endpoint, w.now-h.sent)
	}
	return s
}

type event struct {
	at     time.Duration
	serial int
	do     func()
}

// queue is a heap of events by time.
type queue []event

func (q queue) Len() int      { return len(q) }
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }

func (q queue) Less(i, j int) bool {
	if q[i].at != q[j].at {
		return q[i].at < q[j].at
	}
	return q[i].serial < q[j].serial
}

func (q *queue) Pop() any {
	e := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return e
}
