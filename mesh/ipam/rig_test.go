package ipam

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// rig is a few cores wired by hand: every message takes a millisecond and
// arrives in order, unless the test holds or drops it. Time is virtual.
type rig struct {
	t      *testing.T
	now    time.Time
	nodes  []*node
	flying []flight
	// held sees each message first: what it returns true for waits in stopped
	// until release.
	held    func(from, to *node, b wire.Body) bool
	stopped []flight
	tickets ticket
}

type flight struct {
	at       time.Time
	from, to *node
	data     []byte
}

// node is a host of a rig.
type node struct {
	r       *rig
	name    string
	cfg     coreConfig
	core    *core
	disk    map[string][]byte
	on      bool
	apart   map[*node]bool // whom it neither hears nor sees
	unknown map[*node]bool // whom it never met
	targets int
	entries map[string][]byte
	answers map[ticket]result
	waits   map[ticket]string
	logs    []string
}

func newRig(t *testing.T, names ...string) *rig {
	r := &rig{t: t, now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	for i, name := range names {
		// The first byte orders them.
		id := crypto.Identity(sha256.Sum256([]byte(name)))
		id[0] = byte(i + 1)
		r.nodes = append(r.nodes, &node{
			r: r, name: name, disk: make(map[string][]byte),
			cfg: coreConfig{
				Self: id, Name: id.Name(), Range: netip.MustParsePrefix("10.32.0.0/24"), Seed: sha256.Sum256([]byte(name + "x")),
			},
			apart: make(map[*node]bool), unknown: make(map[*node]bool),
			answers: make(map[ticket]result), waits: make(map[ticket]string),
		})
	}
	return r
}

func (n *node) id() crypto.Identity { return n.cfg.Self }

func (r *rig) node(id crypto.Identity) *node {
	for _, n := range r.nodes {
		if n.id() == id {
			return n
		}
	}
	return nil
}

// start starts hosts with nothing attached but what their disk says.
func (r *rig) start(nodes ...*node) {
	for _, n := range nodes {
		n.boot(true)
	}
	r.tellPeers()
	r.pass(50 * time.Millisecond)
}

func (n *node) boot(proven bool) {
	n.on, n.entries = true, make(map[string][]byte)
	n.cfg.Seed = sha256.Sum256(n.cfg.Seed[:])
	c, err := newCore(n.cfg, maps.Clone(n.disk), proven, n.r.now)
	if err != nil {
		n.r.t.Fatalf("%s: %v", n.name, err)
	}
	n.core = c
	live := make(map[string]Found)
	for addr, h := range c.local {
		f := live[h.Key]
		f.Label, f.Addrs = h.Label, append(f.Addrs, addr)
		live[h.Key] = f
	}
	n.r.tickets++
	n.step(adoptEvent{Ticket: n.r.tickets, Live: live})
}

// stop ends hosts as kill -9 does.
func (r *rig) stop(nodes ...*node) {
	for _, n := range nodes {
		n.on, n.core = false, nil
	}
	r.tellPeers()
	r.pass(10 * time.Millisecond)
}

// cut makes groups of hosts that do not hear each other; one group joins all.
func (r *rig) cut(groups ...[]*node) {
	side := make(map[*node]int)
	for i, g := range groups {
		for _, n := range g {
			side[n] = i
		}
	}
	for _, a := range r.nodes {
		for _, b := range r.nodes {
			a.apart[b] = side[a] != side[b]
		}
	}
	r.tellPeers()
	r.pass(10 * time.Millisecond)
}

func (r *rig) reach(a, b *node) bool {
	return a != b && a.on && b.on && !a.apart[b] && !a.unknown[b] && !b.unknown[a]
}

// tellPeers gives everybody the list of peers and their entries.
func (r *rig) tellPeers() {
	for _, a := range r.nodes {
		if !a.on {
			continue
		}
		var peers []Peer
		var entries []Entry
		for _, b := range r.nodes {
			if a == b || a.unknown[b] {
				continue
			}
			peers = append(peers, Peer{ID: b.id(), Name: b.cfg.Name, Nickname: b.name, Alive: r.reach(a, b)})
			if r.reach(a, b) {
				for _, k := range sortedStrings(b.entries) {
					entries = append(entries, Entry{b.id(), k, b.entries[k]})
				}
			}
		}
		a.step(peersEvent{peers, a.targets})
		a.step(entriesEvent{entries})
	}
}

// step is one event, its writes and what follows from them.
func (n *node) step(e event) {
	n.core.step(n.r.now, e)
	if err := n.core.check(); err != nil {
		n.r.t.Fatalf("%s after %T: %v", n.name, e, err)
	}
	out := n.core.take()
	for _, w := range out.Writes {
		if w.Value == nil {
			delete(n.disk, w.Key)
		} else {
			n.disk[w.Key] = bytes.Clone(w.Value)
		}
	}
	for _, l := range out.Sends {
		if to := n.r.node(l.To); to != nil {
			n.r.post(n, to, l.Data)
		}
	}
	for _, data := range out.Casts {
		for _, to := range n.r.nodes {
			n.r.post(n, to, data)
		}
	}
	for k, v := range out.Puts {
		if v == nil {
			delete(n.entries, k)
		} else {
			n.entries[k] = v
		}
	}
	for _, l := range out.Logs {
		n.logs = append(n.logs, fmt.Sprint(l.Msg, l.Args))
	}
	for _, w := range out.Waits {
		n.waits[w.Ticket] = w.Reason
	}
	for _, a := range out.Answers {
		if _, twice := n.answers[a.Ticket]; twice {
			n.r.t.Fatalf("%s answers ticket %d twice", n.name, a.Ticket)
		}
		n.answers[a.Ticket] = a.Result
	}
}

func (r *rig) post(from, to *node, data []byte) {
	if !r.reach(from, to) {
		return
	}
	f := flight{r.now.Add(time.Millisecond), from, to, data}
	if r.held != nil {
		m, err := wire.ParseMessage(data)
		if err != nil {
			r.t.Fatalf("%s sends what cannot be read: %v", from.name, err)
		}
		if r.held(from, to, m.Body) {
			r.stopped = append(r.stopped, f)
			return
		}
	}
	r.flying = append(r.flying, f)
}

// release lets what was held arrive, whoever sent it.
func (r *rig) release() {
	stopped := r.stopped
	r.held, r.stopped = nil, nil
	for _, f := range stopped {
		if f.to.on {
			f.to.step(messageEvent{f.from.id(), f.data})
		}
	}
	r.pass(10 * time.Millisecond)
}

// pass lets time pass. Entries spread once in 100 ms.
func (r *rig) pass(d time.Duration) {
	end := r.now.Add(d)
	spread := r.now.Add(100 * time.Millisecond)
	for {
		next := end
		if spread.Before(next) {
			next = spread
		}
		if len(r.flying) > 0 && r.flying[0].at.Before(next) {
			next = r.flying[0].at
		}
		for _, n := range r.nodes {
			if n.on && n.core.wake().Before(next) {
				next = n.core.wake()
			}
		}
		if next.After(r.now) {
			r.now = next
		}
		for len(r.flying) > 0 && !r.flying[0].at.After(r.now) {
			f := r.flying[0]
			r.flying = r.flying[1:]
			if f.to.on && r.reach(f.from, f.to) {
				f.to.step(messageEvent{f.from.id(), f.data})
			}
		}
		for _, n := range r.nodes {
			if n.on && !n.core.wake().After(r.now) {
				n.step(tickEvent{})
			}
		}
		if !spread.After(r.now) {
			spread = r.now.Add(100 * time.Millisecond)
			r.tellPeers()
		}
		if !r.now.Before(end) {
			return
		}
	}
}

// until lets time pass until something is so, at most a minute.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for range 60_000 / 20 {
		if ok() {
			return
		}
		r.pass(20 * time.Millisecond)
	}
	for _, n := range r.nodes {
		r.t.Logf("%s on %v waits %v\n  log %q", n.name, n.on, n.waits, n.logs)
	}
	r.t.Fatalf("still not: %s", what)
}

// ask begins a request.
func (n *node) ask(build func(ticket) event) ticket {
	n.r.tickets++
	n.step(build(n.r.tickets))
	return n.r.tickets
}

// answer waits for the answer to a request.
func (n *node) answer(t ticket) result {
	n.r.t.Helper()
	n.r.until(fmt.Sprintf("%s answers %d: %s", n.name, t, n.waits[t]), func() bool { _, ok := n.answers[t]; return ok })
	return n.answers[t]
}

func (n *node) allocate(key string) ticket {
	return n.ask(func(t ticket) event { return allocateEvent{t, key, key, n.core.cfg.Subnet} })
}

// attach allocates an address and fails the test when there is none.
func (n *node) attach(key string) netip.Addr {
	n.r.t.Helper()
	res := n.answer(n.allocate(key))
	if res.Err != nil {
		n.r.t.Fatalf("%s: %s: %v", n.name, key, res.Err)
	}
	return res.Addr.Addr()
}

func (n *node) prime() {
	n.r.t.Helper()
	if res := n.answer(n.ask(func(t ticket) event { return primeEvent{t} })); res.Err != nil {
		n.r.t.Fatal(res.Err)
	}
}

func (n *node) remove(force bool, targets ...*node) ticket {
	var ids []crypto.Identity
	for _, p := range targets {
		ids = append(ids, p.id())
	}
	return n.ask(func(t ticket) event { return removeEvent{t, ids, force} })
}

func (n *node) blocks() int {
	if n.core.ring == nil {
		return 0
	}
	return n.core.ring.Count(n.id())
}

// give makes a register as if the first host gave a block away.
func (n *node) give(block int, to *node) {
	n.core.now = n.r.now
	n.core.giveBlock(block, to.id())
	n.step(tickEvent{})
}

// same fails the test unless all running hosts have the same ring, in which
// each block has one owner by everybody's account.
func (r *rig) same() {
	r.t.Helper()
	r.until("all have the same ring", func() bool {
		var first *ring.Ring
		for _, n := range r.nodes {
			switch {
			case !n.on:
			case n.core.ring == nil:
				return false
			case first == nil:
				first = n.core.ring
			case first.ID() != n.core.ring.ID() || first.Hash() != n.core.ring.Hash():
				return false
			}
		}
		return true
	})
}

// distinct fails the test when two hosts that run have the same address.
func (r *rig) distinct() {
	r.t.Helper()
	used := make(map[netip.Addr]*node)
	for _, n := range r.nodes {
		if !n.on {
			continue
		}
		for addr := range n.core.local {
			if other := used[addr]; other != nil {
				r.t.Errorf("%s and %s both have %s", other.name, n.name, addr)
			}
			used[addr] = n
		}
	}
}

func wantError(t *testing.T, err, is error, texts ...string) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Fatalf("got error %v, want %v", err, is)
	}
	for _, text := range texts {
		if !bytes.Contains([]byte(err.Error()), []byte(text)) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}
