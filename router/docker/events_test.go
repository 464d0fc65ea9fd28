package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"pgregory.net/rapid"
)

// fakeEngine plays an engine in memory.
type fakeEngine struct {
	// Constant after newFakeEngine.
	messages chan events.Message
	broken   chan error

	mu       sync.Mutex // guards what follows
	running  map[string]string
	created  map[string]string
	networks []network.Network
	places   map[string]map[string]network.EndpointResource // by network
	absent   bool
	hangs    bool
	refuses  error // to make networks
	rival    bool  // makes the same network at the same time
	tries    []time.Time
	since    []string
	made     int
}

// set changes the engine.
func (f *fakeEngine) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// took returns when the client tried to connect, and forgets it.
func (f *fakeEngine) took() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	tries := f.tries
	f.tries = nil
	return tries
}

func newFakeEngine() *fakeEngine {
	return &fakeEngine{running: map[string]string{}, messages: make(chan events.Message), broken: make(chan error)}
}

func (f *fakeEngine) ContainerInspect(context.Context, string, client.ContainerInspectOptions) (client.ContainerInspectResult, error) {
	panic("not asked here")
}

func (f *fakeEngine) ContainerList(ctx context.Context, o client.ContainerListOptions) (r client.ContainerListResult, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.absent {
		return r, errors.New("no engine")
	}
	states := []container.ContainerState{container.StateRunning, container.StatePaused, container.StateRestarting}
	for id, name := range f.running {
		r.Items = append(r.Items, container.Summary{ID: id, Names: []string{"/" + name}, State: states[len(r.Items)%len(states)]})
	}
	for id, name := range f.created {
		r.Items = append(r.Items, container.Summary{ID: id, Names: []string{"/" + name}, State: container.StateCreated})
	}
	r.Items = append(r.Items, container.Summary{ID: "dead", Names: []string{"/dead"}, State: container.StateExited})
	return r, ctx.Err()
}

func (f *fakeEngine) Events(ctx context.Context, o client.EventsListOptions) client.EventsResult {
	f.mu.Lock()
	f.tries = append(f.tries, time.Now())
	f.since = append(f.since, o.Since)
	hangs := f.hangs
	f.mu.Unlock()
	if hangs {
		<-ctx.Done()
	}
	return client.EventsResult{Messages: f.messages, Err: f.broken}
}

func (f *fakeEngine) tell(action events.Action, id, name string) {
	f.messages <- events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: id, Attributes: map[string]string{"name": name}}, TimeNano: time.Now().UnixNano()}
}

// tellNetwork is for what happens to a network, or on it to a container.
func (f *fakeEngine) tellNetwork(action events.Action, name, driver, container string) {
	f.messages <- events.Message{Type: events.NetworkEventType, Action: action, Actor: events.Actor{
		ID: "network " + name, Attributes: map[string]string{"name": name, "type": driver, "container": container},
	}}
}

// follower collects what a client tells.
type follower struct {
	t    *testing.T
	got  []Event
	stop func()
}

// follow must be called in a bubble.
func follow(t *testing.T, d *Client) *follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{t: t}
	done := make(chan error)
	go func() {
		done <- d.Run(ctx, func(e Event) { f.got = append(f.got, e) }, func(context.Context, Event) {})
	}()
	f.stop = func() {
		cancel()
		check(t, <-done)
	}
	return f
}

// want compares with what was told since the last time.
func (f *follower) want(what string, list ...Event) {
	f.t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(list, f.got); diff != "" {
		f.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
	f.got = nil
}

func event(k Kind, id, name string) Event { return Event{Kind: k, ID: id, Name: name} }

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEngine()
		f.running = map[string]string{"1": "one", "2": "two", "3": "three"}
		f.created = map[string]string{"9": "nine"}
		d := follow(t, newClient(f, Config{}))
		d.want("at first", event(Created, "9", "nine"), event(Started, "1", "one"), event(Started, "2", "two"), event(Started, "3", "three"))
		f.tell(events.ActionStart, "1", "one")
		d.want("what was listed is no news")
		f.tell(events.ActionRename, "1", "uno")
		f.tell(events.ActionDie, "2", "two")
		f.tell(events.ActionDestroy, "2", "two")
		f.tell(events.ActionExecStart, "1", "uno")
		f.tell(events.ActionPause, "1", "uno")
		f.tell(events.ActionCreate, "5", "five")
		f.tellNetwork(events.ActionConnect, "weft", "weft", "5")
		f.tellNetwork(events.ActionConnect, "weft", "weft", "1")
		f.tellNetwork(events.ActionDisconnect, "bridge", "bridge", "1")
		f.tellNetwork(events.ActionDestroy, "other", "bridge", "")
		d.want("live", event(Renamed, "1", "uno"), event(Died, "2", "two"), event(Destroyed, "2", "two"), event(Created, "5", "five"),
			Event{Connected, "1", "uno", "weft"}, Event{Disconnected, "1", "uno", "bridge"})

		// The engine goes away, things happen, it comes back.
		last := time.Now()
		f.set(func() { f.absent = true })
		f.broken <- errors.New("connection lost")
		d.want("lost")
		f.set(func() { f.running, f.created = map[string]string{"1": "ein", "4": "four"}, nil })
		time.Sleep(time.Hour)
		d.want("away")
		f.set(func() { f.absent = false })
		time.Sleep(time.Minute)
		d.want("back", event(Died, "3", "three"), event(Renamed, "1", "ein"), event(Started, "1", "ein"), event(Started, "4", "four"))
		if got := f.since; got[0] != "" || got[len(got)-1] != fmt.Sprintf("%d.%09d", last.Unix(), last.Nanosecond()) {
			t.Errorf("events since %q, want none at first and %s at the end", got, last)
		}
		// What the engine remembers of the time between, though it is listed.
		f.tell(events.ActionDie, "1", "ein")
		f.tell(events.ActionStart, "1", "ein")
		d.want("remembered", event(Died, "1", "ein"), event(Started, "1", "ein"))
		d.stop()
	})
}

// TestBackOff wants an engine that is not there, or hangs, to cost little, and
// to be found soon after it was lost.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEngine()
		f.absent = true
		d := newClient(f, Config{Timeout: 10 * time.Second})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		start := time.Now()
		go func() { done <- d.Run(ctx, func(Event) {}, func(context.Context, Event) {}) }()
		time.Sleep(100 * time.Second)
		synctest.Wait()
		var at []time.Duration
		for _, x := range f.took() {
			at = append(at, x.Sub(start))
		}
		s := time.Second
		if want := []time.Duration{0, s, 3 * s, 7 * s, 15 * s, 31 * s, 61 * s, 91 * s}; !slices.Equal(at, want) {
			t.Errorf("tries at %v, want %v", at, want)
		}
		f.set(func() { f.absent = false })
		time.Sleep(time.Minute)
		synctest.Wait()
		f.took()
		lost := time.Now()
		f.broken <- errors.New("lost")
		time.Sleep(time.Minute)
		synctest.Wait()
		if tries := f.took(); len(tries) != 1 || tries[0].Sub(lost) != s {
			t.Errorf("after a connection that worked: tries %v", tries)
		}
		f.set(func() { f.hangs = true })
		f.broken <- errors.New("lost")
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := len(f.took()); n < 5 || n > 15 {
			t.Errorf("%d tries at an engine that hangs", n)
		}
		cancel()
		check(t, <-done)
	})
}

// TestAtConnection wants what is told, applied to what was known, to give what
// runs, the dead first and everything that runs told.
func TestAtConnection(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.MapOfN(rapid.StringMatching("[a-d]"), rapid.StringMatching("[x-z]"), 0, 4)
		before, now := list.Draw(t, "before"), list.Draw(t, "now")
		state := following{known: maps.Clone(before)}
		alive, told := false, map[string]string{}
		for _, e := range atConnection(before, now, nil) {
			if e.Kind == Died && alive {
				t.Fatal("a death after a start")
			}
			if e.Kind == Started {
				told[e.ID] = e.Name
			}
			alive = alive || e.Kind != Died
			state.note(e)
		}
		if !maps.Equal(state.known, now) || !maps.Equal(told, now) {
			t.Fatalf("got %v, told %v, want %v", state.known, told, now)
		}
	})
}

func TestOwnName(t *testing.T) {
	for want, names := range map[string][]string{
		"":    nil,
		"web": {"/other/alias", "/web"},
		"db":  {"/db", "/web/db"},
	} {
		if got := ownName(names); got != want {
			t.Errorf("ownName(%v) = %q, want %q", names, got, want)
		}
	}
}
