package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

// Kind is what happened to a container.
type Kind uint8

// The kinds of events.
const (
	Created Kind = iota + 1 // and did not run yet
	Started
	Died
	Renamed
	Destroyed
	Connected    // to a network, while it runs
	Disconnected // from a network, while it runs
)

// String returns the kind as a word.
func (k Kind) String() string {
	switch k {
	case Created:
		return "created"
	case Started:
		return "started"
	case Died:
		return "died"
	case Renamed:
		return "renamed"
	case Destroyed:
		return "destroyed"
	case Connected:
		return "connected"
	case Disconnected:
		return "disconnected"
	}
	return "event " + strconv.Itoa(int(k))
}

// Event is something that happened to a container.
type Event struct {
	Kind    Kind
	ID      string // full
	Name    string // the one that it has since
	Network string // name, for Connected and Disconnected
}

// following is what outlives a connection. Owned by the goroutine of Run.
type following struct {
	known map[string]string // the running containers that f knows: id to name
	last  int64             // when the last event was, in nanoseconds of the engine's clock; zero: none
}

// Run tells what happens to the engine's containers until ctx ends, and
// returns nil then. It waits for an engine that is not there, and comes back to
// one that was lost. What happened meanwhile is told as if it happened then, as
// far as the engine remembers; and at each connection every running container
// starts and every one that never ran is created, for one that runs may have
// been started anew since.
//
// Every event is told twice: to note at once, in the order of all, which must
// not block; then to follow, which may ask the engine. That is called for the
// events of one container one after the other, and for several containers at
// the same time. Its context ends with ctx, and Run waits for it.
//
// Run also sees to it that the engine has the default network.
func (c *Client) Run(ctx context.Context, note func(Event), follow func(context.Context, Event)) error {
	dispatcher := newDispatcher(follow)
	defer dispatcher.wait()
	f := func(e Event) {
		note(e)
		dispatcher.hand(ctx, e)
	}
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		c.keeper.run(ctx)
	}()
	defer func() { <-kept }()
	state := following{known: make(map[string]string)}
	wait := c.retry
	lost := false
	for ctx.Err() == nil {
		connected, err := c.follow(ctx, &state, f)
		if ctx.Err() != nil {
			break
		}
		if connected {
			wait = c.retry
		}
		if connected || !lost {
			// Once, not at every try: an engine that is not there is no news.
			c.log.Info("no events from Docker; trying again", "err", err)
		}
		lost = true
		pause(ctx, wait)
		wait = min(2*wait, c.retryMax)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// wanted are the events that we subscribe to.
func wanted() client.Filters {
	return make(client.Filters).
		Add("type", string(events.ContainerEventType), string(events.NetworkEventType)).
		Add("event", string(events.ActionCreate), string(events.ActionStart), string(events.ActionDie), string(events.ActionRename),
			string(events.ActionDestroy), string(events.ActionConnect), string(events.ActionDisconnect))
}

// follow is one connection. It subscribes before it lists, so that nothing is
// lost between the two.
func (c *Client) follow(ctx context.Context, state *following, f func(Event)) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Events returns when the engine has begun to answer, which one that hangs
	// never does.
	hung := time.AfterFunc(c.timeout, cancel)
	options := client.EventsListOptions{Filters: wanted()}
	if state.last > 0 {
		options.Since = fmt.Sprintf("%d.%09d", state.last/1e9, state.last%1e9)
	}
	stream := c.api.Events(ctx, options)
	if !hung.Stop() {
		return false, ErrUnavailable
	}
	running, created, err := c.list(ctx)
	if err != nil {
		return false, err
	}
	c.log.Info("following Docker's events", "running", len(running))
	for _, e := range atConnection(state.known, running, created) {
		state.note(e)
		f(e)
	}
	c.keeper.kicks.Ring()
	for {
		select {
		case m, ok := <-stream.Messages:
			if !ok {
				return true, errors.New("the engine closed the stream")
			}
			state.last = max(state.last, m.TimeNano)
			if m.Type == events.NetworkEventType {
				c.keeper.see(m)
			}
			if e, ok := fromMessage(m); ok && state.note(e) {
				e.Name = cmp.Or(e.Name, state.known[e.ID])
				f(e)
			}
		case err := <-stream.Err:
			if err == nil {
				err = errors.New("the engine closed the stream")
			}
			return true, translate(err, 0)
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}

// list returns the running containers, id to name, and those that never ran.
func (c *Client) list(ctx context.Context) (running, created map[string]string, err error) {
	all, err := c.containers(ctx)
	if err != nil {
		return nil, nil, err
	}
	running, created = make(map[string]string), make(map[string]string)
	for _, one := range all {
		switch {
		case one.Running:
			running[one.ID] = one.Name
		case one.Created:
			created[one.ID] = one.Name
		}
	}
	return running, created, nil
}

// atConnection returns what is told at a connection, in an order that does not
// depend on chance: first the dead, whose addresses and names others may want.
func atConnection(known, running, created map[string]string) []Event {
	var list []Event
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if _, ok := running[id]; !ok {
			list = append(list, Event{Kind: Died, ID: id, Name: known[id]})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(created)) {
		list = append(list, Event{Kind: Created, ID: id, Name: created[id]})
	}
	for _, id := range slices.Sorted(maps.Keys(running)) {
		if old, ok := known[id]; ok && old != running[id] {
			list = append(list, Event{Kind: Renamed, ID: id, Name: running[id]})
		}
		list = append(list, Event{Kind: Started, ID: id, Name: running[id]})
	}
	return list
}

// note keeps account of what f knows, and reports whether e is news: what is
// listed may arrive as an event too. A death is always told: a container may
// have died and started again between two lists.
func (s *following) note(e Event) bool {
	old, running := s.known[e.ID]
	switch e.Kind {
	case Started:
		s.known[e.ID] = e.Name
		return !running
	case Died, Destroyed:
		delete(s.known, e.ID)
	case Renamed:
		if running {
			s.known[e.ID] = e.Name
		}
		return !running || old != e.Name
	case Created:
	case Connected, Disconnected:
		return running // of others, its start or death is told
	}
	return true
}

func fromMessage(m events.Message) (Event, bool) {
	attributes := m.Actor.Attributes
	if m.Type == events.NetworkEventType {
		e := Event{ID: attributes["container"], Network: attributes["name"]}
		switch m.Action {
		case events.ActionConnect:
			e.Kind = Connected
		case events.ActionDisconnect:
			e.Kind = Disconnected
		}
		return e, e.Kind != 0 && e.ID != ""
	}
	e := Event{ID: m.Actor.ID, Name: strings.TrimPrefix(attributes["name"], "/")}
	switch m.Action {
	case events.ActionCreate:
		e.Kind = Created
	case events.ActionStart:
		e.Kind = Started
	case events.ActionDie:
		e.Kind = Died
	case events.ActionRename:
		e.Kind = Renamed
	case events.ActionDestroy:
		e.Kind = Destroyed
	}
	return e, e.Kind != 0 && e.ID != "" && (m.Type == "" || m.Type == events.ContainerEventType)
}
