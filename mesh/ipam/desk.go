package ipam

import (
	"bytes"
	"cmp"
	"slices"
	"sync"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/bell"
)

const (
	maxWaiting      = 4096     // messages that the loop has not taken
	maxWaitingBytes = 64 << 20 // in them

	// Of these, one sender's share: one that is noisy must not crowd out others.
	maxFromOne      = 256
	maxFromOneBytes = 8 << 20
)

// desk is where everybody leaves what the loop is to do. Leaving something
// never waits for the loop. Lists of peers and entries replace each other, and
// messages are dropped when there are too many: who sent them sends others.
type desk struct {
	wake bell.Bell // constant after newDesk

	mu sync.Mutex // guards the fields below

	tickets ticket
	queue   []item
	all     load                      // messages in queue
	from    map[crypto.Identity]*load // these by sender
	lost    int                       // messages that did not fit
	peers   *peersEvent
	entries *entriesEvent
	closed  bool
}

// load is how much some messages are.
type load struct {
	messages int
	size     int // bytes
}

func (l *load) add(messages, size int) {
	l.messages, l.size = l.messages+messages, l.size+size
}

// fits reports whether one more message of some bytes stays within most.
func (l *load) fits(size int, most load) bool {
	return l.messages < most.messages && l.size+size <= most.size
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

func newDesk() *desk {
	return &desk{wake: bell.New(), from: make(map[crypto.Identity]*load)}
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
	d.wake.Ring()
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
		d.wake.Ring()
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
		if !d.admit(e.From, len(e.Data)) {
			d.lost++
			return
		}
		e.Data = bytes.Clone(e.Data)
		d.queue = append(d.queue, item{event: e})
	default:
		d.queue = append(d.queue, item{event: e})
	}
	d.wake.Ring()
}

// admit reports whether there is room for a message of some bytes, and takes
// it. d.mu is held.
func (d *desk) admit(from crypto.Identity, size int) bool {
	one := d.from[from]
	if one == nil {
		one = new(load)
	}
	if !one.fits(size, load{maxFromOne, maxFromOneBytes}) || !d.all.fits(size, load{maxWaiting, maxWaitingBytes}) {
		return false
	}
	d.all.add(1, size)
	one.add(1, size)
	d.from[from] = one
	return true
}

// taken makes room again. d.mu is held.
func (d *desk) taken(from crypto.Identity, size int) {
	d.all.add(-1, -size)
	one := d.from[from]
	if one.add(-1, -size); one.messages == 0 {
		delete(d.from, from)
	}
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
			d.taken(m.From, len(m.Data))
		}
	}
	d.queue = slices.Delete(d.queue, 0, n)
	d.peers, d.entries, d.lost = nil, nil, 0
	if len(d.queue) > 0 {
		d.wake.Ring()
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
