package docker

import (
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
	Started Kind = iota + 1
	Died
	Renamed
	Destroyed
)

// String returns the kind as a word.
func (k Kind) String() string {
	switch k {
	case Started:
		return "started"
	case Died:
		return "died"
	case Renamed:
		return "renamed"
	case Destroyed:
		return "destroyed"
	}
	return "event " + strconv.Itoa(int(k))
}

// Event is something that happened to a container.
type Event struct {
	Kind Kind
	ID   string // full
	Name string // the one that it has since
}

// Run tells f what happens to the engine's containers until ctx ends, and
// returns nil then. It waits for an engine that is not there, and comes back to
// one that was lost. What happened meanwhile is told as if it happened then:
// at the first connection every running container starts. f is called from one
// goroutine, which it should not hold up for long.
func (c *Client) Run(ctx context.Context, f func(Event)) error {
	known := make(map[string]string) // the running containers that f knows: id to name
	wait := c.retry
	lost := false
	for ctx.Err() == nil {
		connected, err := c.follow(ctx, known, f)
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
	return nil //nolint:nilerr // that ctx ended is no error of ours
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// follow is one connection. It subscribes before it lists, so that nothing is
// lost between the two.
func (c *Client) follow(ctx context.Context, known map[string]string, f func(Event)) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Events returns when the engine has begun to answer, which one that hangs
	// never does.
	hung := time.AfterFunc(c.timeout, cancel)
	stream := c.api.Events(ctx, client.EventsListOptions{Filters: make(client.Filters).
		Add("type", string(events.ContainerEventType)).
		Add("event", string(events.ActionStart), string(events.ActionDie), string(events.ActionRename), string(events.ActionDestroy))})
	if !hung.Stop() {
		return false, ErrUnavailable
	}
	running, err := c.list(ctx)
	if err != nil {
		return false, err
	}
	c.log.Info("following Docker's events", "running", len(running))
	for _, e := range difference(known, running) {
		note(known, e)
		f(e)
	}
	for {
		select {
		case m, ok := <-stream.Messages:
			if !ok {
				return true, errors.New("the engine closed the stream")
			}
			if e, ok := fromMessage(m); ok && note(known, e) {
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

// list returns the running containers, id to name.
func (c *Client) list(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := c.api.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return nil, translate(fmt.Errorf("list containers: %w", err), 0)
	}
	running := make(map[string]string, len(r.Items))
	for _, s := range r.Items {
		running[s.ID] = ownName(s.Names)
	}
	return running, nil
}

// ownName returns the container's own among the names that it has, which
// include those that links give it.
func ownName(names []string) string {
	for _, n := range names {
		if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
			return n
		}
	}
	return ""
}

// difference returns what must have happened between two lists, in an order
// that does not depend on chance: first the dead, whose addresses and names
// others may want.
func difference(before, now map[string]string) []Event {
	var list []Event
	for _, id := range slices.Sorted(maps.Keys(before)) {
		if _, ok := now[id]; !ok {
			list = append(list, Event{Died, id, before[id]})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(now)) {
		name := now[id]
		old, ok := before[id]
		switch {
		case !ok:
			list = append(list, Event{Started, id, name})
		case old != name:
			list = append(list, Event{Renamed, id, name})
		}
	}
	return list
}

// note keeps account of what f knows, and reports whether e is news: what is
// listed may arrive as an event too. A death is always told: a container may
// have died and started again between two lists.
func note(known map[string]string, e Event) bool {
	old, running := known[e.ID]
	switch e.Kind {
	case Started:
		known[e.ID] = e.Name
		return !running
	case Died, Destroyed:
		delete(known, e.ID)
	case Renamed:
		if running {
			known[e.ID] = e.Name
		}
		return !running || old != e.Name
	}
	return true
}

func fromMessage(m events.Message) (Event, bool) {
	e := Event{ID: m.Actor.ID, Name: strings.TrimPrefix(m.Actor.Attributes["name"], "/")}
	switch m.Action {
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
