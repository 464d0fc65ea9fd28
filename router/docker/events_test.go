package docker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"pgregory.net/rapid"
)

// fakeEngine plays an engine in memory.
type fakeEngine struct {
	// Constant after newFakeEngine.
	messages chan events.Message
	broken   chan error

	mu      sync.Mutex // guards what follows
	running map[string]string
	absent  bool
	hangs   bool
	tries   []time.Time
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

func (f *fakeEngine) ContainerList(ctx context.Context, _ client.ContainerListOptions) (r client.ContainerListResult, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.absent {
		return r, errors.New("no engine")
	}
	for id, name := range f.running {
		r.Items = append(r.Items, container.Summary{ID: id, Names: []string{"/" + name}})
	}
	return r, ctx.Err()
}

func (f *fakeEngine) Events(ctx context.Context, _ client.EventsListOptions) client.EventsResult {
	f.mu.Lock()
	f.tries = append(f.tries, time.Now())
	hangs := f.hangs
	f.mu.Unlock()
	if hangs {
		<-ctx.Done()
	}
	return client.EventsResult{Messages: f.messages, Err: f.broken}
}

func (f *fakeEngine) tell(action events.Action, id, name string) {
	f.messages <- events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: id, Attributes: map[string]string{"name": name}}}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEngine()
		f.running = map[string]string{"1": "one", "2": "two", "3": "three"}
		d := newClient(f, Config{})
		ctx, cancel := context.WithCancel(context.Background())
		var got []Event
		done := make(chan error)
		go func() { done <- d.Run(ctx, func(e Event) { got = append(got, e) }) }()
		want := func(what string, list ...Event) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(list, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
			got = nil
		}
		want("at first", Event{Started, "1", "one"}, Event{Started, "2", "two"}, Event{Started, "3", "three"})
		f.tell(events.ActionStart, "1", "one")
		want("what was listed is no news")
		f.tell(events.ActionRename, "1", "uno")
		f.tell(events.ActionDie, "2", "two")
		f.tell(events.ActionDestroy, "2", "two")
		f.tell(events.ActionExecStart, "1", "uno")
		f.tell(events.ActionPause, "1", "uno")
		want("live", Event{Renamed, "1", "uno"}, Event{Died, "2", "two"}, Event{Destroyed, "2", "two"})

		// The engine goes away, things happen, it comes back.
		f.set(func() { f.absent = true })
		f.broken <- errors.New("connection lost")
		want("lost")
		f.set(func() { f.running = map[string]string{"1": "ein", "4": "four"} })
		time.Sleep(time.Hour)
		want("away")
		f.set(func() { f.absent = false })
		time.Sleep(time.Minute)
		want("back", Event{Died, "3", "three"}, Event{Renamed, "1", "ein"}, Event{Started, "4", "four"})
		cancel()
		check(t, <-done)
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
		go func() { done <- d.Run(ctx, func(Event) {}) }()
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

// TestDifferenceTwin wants the events between two lists, applied to the first,
// to give the second, the dead first.
func TestDifferenceTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.MapOfN(rapid.StringMatching("[a-d]"), rapid.StringMatching("[x-z]"), 0, 4)
		before, now := list.Draw(t, "before"), list.Draw(t, "now")
		known := maps.Clone(before)
		seenLife := false
		for _, e := range difference(before, now) {
			if e.Kind == Died && seenLife {
				t.Fatal("a death after a start")
			}
			seenLife = seenLife || e.Kind != Died
			if !note(known, e) {
				t.Fatalf("%v is no news", e)
			}
		}
		if !maps.Equal(known, now) {
			t.Fatalf("got %v, want %v", known, now)
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
