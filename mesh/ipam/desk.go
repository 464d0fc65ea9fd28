package ipam

import (
	"bytes"
	"cmp"
	"slices"
	"sync"

	"github.com/weftnet/weft/crypto"
)

const (
	maxWaiting      = 4096     // messages that the loop has not taken
	maxWaitingBytes = 64 << 20 // in them
)

// desk is where everybody leaves what the loop is to do. Leaving something
// never waits for the loop. Lists of peers and entries replace each other, and
// messages are dropped when there are too many: who sent them sends others.
type desk struct {
	wake chan struct{} // constant after newDesk; holds one signal

	mu sync.Mutex // guards the fields below

	tickets  ticket
	queue    []item
	messages int // in queue
	size     int // bytes in these
	lost     int // messages that did not fit
	peers    *peersEvent
	entries  *entriesEvent
	closed   bool
}

// item is an event, and who waits for its end, nil: nobody.
type item struct {
	event  event
	client *client
}

// client waits for a request.
type client struct {
	ticket  ticket
	event   event
	done    chan result // holds the answer
	reasons chan string // holds the latest one; only the loop sends
}

func compareTicket(a, b ticket) int { return cmp.Compare(a, b) }

func (c *client) answer(r result) { c.done <- r }

// wait says why it takes so long.
func (c *client) wait(why string) {
	select {
	case <-c.reasons:
	default:
	}
	c.reasons <- why
}

// inbox is what the loop takes from the desk at once.
type inbox struct {
	items   []item
	peers   *peersEvent   // nil: as before
	entries *entriesEvent // nil: as before
	lost    int
}

// asks reports whether somebody waits for an answer.
func (in inbox) asks() bool {
	return slices.ContainsFunc(in.items, func(it item) bool { return it.client != nil })
}

func newDesk() *desk { return &desk{wake: make(chan struct{}, 1)} }

func (d *desk) ring() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// request leaves a request. It returns nil when the loop has ended.
func (d *desk) request(build func(ticket) event) *client {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.tickets++
	c := &client{ticket: d.tickets, event: build(d.tickets), done: make(chan result, 1), reasons: make(chan string, 1)}
	d.queue = append(d.queue, item{c.event, c})
	d.ring()
	return c
}

// withdraw takes back a request that the loop has not taken, and otherwise
// asks it to end it. It returns true when there will be no answer.
func (d *desk) withdraw(c *client) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.queue, func(it item) bool { return it.client == c })
	if i >= 0 {
		d.queue = slices.Delete(d.queue, i, i+1)
		return true
	}
	if !d.closed {
		d.queue = append(d.queue, item{event: cancelEvent{c.ticket}})
		d.ring()
	}
	return false
}

// leave leaves an event that nobody waits for.
func (d *desk) leave(e event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	switch e := e.(type) {
	case peersEvent:
		d.peers = &e
	case entriesEvent:
		d.entries = &e
	case messageEvent:
		if d.messages == maxWaiting || d.size+len(e.Data) > maxWaitingBytes {
			d.lost++
			return
		}
		d.messages, d.size = d.messages+1, d.size+len(e.Data)
		e.Data = bytes.Clone(e.Data)
		d.queue = append(d.queue, item{event: e})
	default:
		d.queue = append(d.queue, item{event: e})
	}
	d.ring()
}

// receive leaves a message.
func (d *desk) receive(from crypto.Identity, data []byte) { d.leave(messageEvent{from, data}) }

// take takes at most batchMost events.
func (d *desk) take() inbox {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(d.queue), batchMost)
	in := inbox{items: slices.Clone(d.queue[:n]), peers: d.peers, entries: d.entries, lost: d.lost}
	for _, it := range in.items {
		if m, ok := it.event.(messageEvent); ok {
			d.messages, d.size = d.messages-1, d.size-len(m.Data)
		}
	}
	d.queue = slices.Delete(d.queue, 0, n)
	d.peers, d.entries, d.lost = nil, nil, 0
	if len(d.queue) > 0 {
		d.ring()
	}
	return in
}

// close refuses everything from now on, and returns who still waits.
func (d *desk) close() []*client {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	var calls []*client
	for _, it := range d.queue {
		if it.client != nil {
			calls = append(calls, it.client)
		}
	}
	d.queue = nil
	return calls
}
