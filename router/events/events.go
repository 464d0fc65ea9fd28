// Package events keeps what the daemon's log said last: its records are one per
// change of state, so they are the events that `weft events` and the picture
// show.
//
// It owns the ring and nothing of the log: where that goes, in which form and
// from which level on, is decided by the handler behind. What must not be in
// the log must not be here either; nothing is looked for and taken out.
package events

import (
	"context"
	"iter"
	"sync"

	"github.com/weftnet/weft/router/api"
)

// What a ring keeps at most.
const (
	// keep is a number of events: some hours of a busy host of a large
	// cluster, some days of a quiet one.
	keep = 1000
	// keepBytes bounds their text. An ordinary event has 150 bytes.
	keepBytes = 1 << 20
	// maxText bounds one value in bytes: errors may carry what a kernel or an
	// engine said.
	maxText = 4 << 10
	// maxFields bounds the fields of one event.
	maxFields = 32
)

// Ring keeps the last events. It is safe for concurrent use; whoever follows
// holds nothing but a number, so that a slow one costs no memory and makes
// nobody wait.
type Ring struct {
	mu    sync.Mutex
	list  []api.Event // of at most keep, the oldest at first
	first int
	size  int           // text in the list, in bytes
	last  uint64        // number of the newest event; they have no gaps
	more  chan struct{} // closed by the next event; nil: nobody waits
}

// New returns an empty ring.
func New() *Ring { return &Ring{} }

// add numbers an event and keeps it. It never blocks on a reader.
func (r *Ring) add(e api.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	e.Seq = r.last
	if len(r.list) < keep {
		r.list = append(r.list, e)
	} else {
		r.size -= size(r.list[r.first])
		r.list[r.first] = e
		r.first = (r.first + 1) % keep
	}
	r.size += size(e)
	if r.size > keepBytes {
		r.cut()
	}
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// cut lets the oldest go until the text fits. It halves what is too large, so
// that copying is rare. The newest always stays: it is smaller than that.
func (r *Ring) cut() {
	all := make([]api.Event, 0, len(r.list))
	all = append(append(all, r.list[r.first:]...), r.list[:r.first]...)
	for len(all) > 1 && r.size > keepBytes/2 {
		r.size -= size(all[0])
		all = all[1:]
	}
	r.list, r.first = all, 0
}

// size is about what an event takes in memory beside its fixed part.
func size(e api.Event) int {
	n := len(e.Part) + len(e.Message) + len(e.Peer) + len(e.Nickname)
	for k, v := range e.Fields {
		n += len(k) + len(v) + 64
	}
	return n
}

// after copies what is kept with greater numbers than seq, and tells how many
// are no more; more is closed when there is another. The events are shared with
// the ring: nobody changes their fields.
func (r *Ring) after(seq uint64, wait bool) (list []api.Event, missed uint64, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.list)
	oldest := r.last - uint64(n) // the number before it
	if seq < oldest {
		missed, seq = oldest-seq, oldest
	}
	for i := int(seq - oldest); i < n; i++ {
		list = append(list, r.list[(r.first+i)%n])
	}
	if len(list) == 0 && wait {
		if r.more == nil {
			r.more = make(chan struct{})
		}
		more = r.more
	}
	return list, missed, more
}

// begin is the number after which a request begins. One that is not reached yet
// belongs to another run of the daemon: everything is news then.
func (r *Ring) begin(q api.EventRequest) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	seq := q.After
	if seq > r.last {
		seq = 0
	}
	if seq == 0 { // what went before somebody asked, nobody missed
		seq = r.last - uint64(len(r.list))
	}
	if last := uint64(max(0, q.Last)); q.Last != 0 && r.last-seq > last {
		seq = r.last - last
	}
	return seq
}

// Events gives the events asked for, the oldest first; with Follow it goes on
// until ctx ends, which is no error.
func (r *Ring) Events(ctx context.Context, q api.EventRequest) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		seq := r.begin(q)
		for {
			list, missed, more := r.after(seq, q.Follow)
			for i, e := range list {
				if i == 0 {
					e.Missed = missed
				}
				if ctx.Err() != nil || !yield(e, nil) {
					return
				}
				seq = e.Seq
			}
			if !q.Follow {
				return
			}
			if more == nil {
				continue
			}
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		}
	}
}
