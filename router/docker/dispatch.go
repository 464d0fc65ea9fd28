package docker

import (
	"context"
	"sync"
)

const (
	// atWork is how many containers are followed at a time: each may mean a
	// question to the engine, which answers it when it is done with that one.
	atWork = 16
	// inHand is how many events may wait to be followed. After that the engine
	// waits, and what is noted at once with it.
	inHand = 4096
)

// dispatcher hands events to somebody who may take their time: those of one
// container one after the other and in order, those of others meanwhile.
type dispatcher struct {
	// Constant after newDispatcher.
	follow func(context.Context, Event)
	room   chan struct{} // one for each event in hand
	slots  chan struct{} // one for each container at work

	group sync.WaitGroup

	mu      sync.Mutex         // guards what follows
	waiting map[string][]Event // by container; those that are not in it have no goroutine
}

func newDispatcher(follow func(context.Context, Event)) *dispatcher {
	return &dispatcher{
		follow: follow, room: make(chan struct{}, inHand), slots: make(chan struct{}, atWork), waiting: make(map[string][]Event),
	}
}

// hand takes an event. It blocks while there is no room, until ctx ends.
func (d *dispatcher) hand(ctx context.Context, e Event) {
	select {
	case d.room <- struct{}{}:
	case <-ctx.Done():
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	list, busy := d.waiting[e.ID]
	d.waiting[e.ID] = append(list, e)
	if !busy {
		d.group.Go(func() { d.work(ctx, e.ID) })
	}
}

// work follows one container until nothing is left, or ctx ends. A slot is for
// one event: who has many does not keep the others waiting.
func (d *dispatcher) work(ctx context.Context, id string) {
	for {
		e, ok := d.next(id)
		if !ok {
			return
		}
		select {
		case d.slots <- struct{}{}:
			if ctx.Err() == nil {
				d.follow(ctx, e)
			}
			<-d.slots
		case <-ctx.Done():
		}
		<-d.room
	}
}

// next takes the next event of a container, or forgets that container.
func (d *dispatcher) next(id string) (Event, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.waiting[id]
	if len(list) == 0 {
		delete(d.waiting, id)
		return Event{}, false
	}
	d.waiting[id] = list[1:]
	return list[0], true
}

// wait returns when everybody who was handed something is done, which the end
// of that context makes quick.
func (d *dispatcher) wait() { d.group.Wait() }
