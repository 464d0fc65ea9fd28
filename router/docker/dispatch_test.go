package docker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/events"
	"pgregory.net/rapid"
)

// TestNoteDoesNotWait lets the engine hold up the look at one container: what
// it says of others is noted and followed meanwhile, and what it says of that
// one afterwards, in order.
func TestNoteDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeEngine()
		c := newClient(f, Config{})
		var mu sync.Mutex
		var noted, followed []string
		held := make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		say := func(list *[]string, e Event) {
			mu.Lock()
			defer mu.Unlock()
			*list = append(*list, e.Kind.String()+" "+e.ID)
		}
		go func() {
			done <- c.Run(ctx, func(e Event) { say(&noted, e) }, func(_ context.Context, e Event) {
				if e.ID == "1" && e.Kind == Started {
					<-held
				}
				say(&followed, e)
			})
		}()
		want := func(what string, got *[]string, list ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(*got, list) {
				t.Errorf("%s: %q, want %q", what, *got, list)
			}
			*got = nil
		}
		f.tell(events.ActionStart, "1", "one")
		f.tell(events.ActionDie, "1", "one")
		f.tell(events.ActionCreate, "2", "two")
		want("noted", &noted, "started 1", "died 1", "created 2")
		want("followed", &followed, "created 2")
		close(held)
		want("followed then", &followed, "started 1", "died 1")
		cancel()
		check(t, <-done)
	})
}

// TestDispatcher wants every event to be followed once, those of one container
// in order and never two at a time, and no more containers at work than allowed.
func TestDispatcher(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ids := rapid.SliceOfN(rapid.IntRange(0, 40), 0, 300).Draw(rt, "containers")
		pauses := rapid.SliceOfN(rapid.IntRange(0, 3), len(ids), len(ids)).Draw(rt, "pauses")
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			got := map[string][]string{}
			busy := map[string]bool{}
			most := 0
			d := newDispatcher(func(_ context.Context, e Event) {
				mu.Lock()
				if busy[e.ID] {
					rt.Errorf("container %s is followed twice at a time", e.ID)
				}
				busy[e.ID] = true
				most = max(most, len(busy))
				mu.Unlock()
				time.Sleep(time.Duration(len(e.Name)) * time.Millisecond)
				mu.Lock()
				delete(busy, e.ID)
				got[e.ID] = append(got[e.ID], e.Name)
				mu.Unlock()
			})
			want := map[string][]string{}
			for i, n := range ids {
				e := Event{ID: fmt.Sprint(n), Name: fmt.Sprint(i)}
				want[e.ID] = append(want[e.ID], e.Name)
				d.hand(context.Background(), e)
				time.Sleep(time.Duration(pauses[i]) * time.Millisecond)
			}
			d.wait()
			for id := range want {
				if !slices.Equal(got[id], want[id]) {
					rt.Errorf("container %s: %q, want %q", id, got[id], want[id])
				}
			}
			if most > atWork || len(d.waiting) != 0 || len(d.room)+len(d.slots) != 0 {
				rt.Errorf("%d at work; left %v, %d, %d", most, d.waiting, len(d.room), len(d.slots))
			}
		})
	})
}

// TestDispatcherIsFull wants an engine that says more than can be followed to
// wait, and the end not to.
func TestDispatcherIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		d := newDispatcher(func(ctx context.Context, _ Event) { <-ctx.Done() })
		handed := 0
		read := make(chan struct{}) // closed at the end of what the engine says
		go func() {
			defer close(read)
			for i := range 2 * inHand {
				d.hand(ctx, Event{ID: fmt.Sprint(i % 100)})
				if ctx.Err() == nil {
					handed++
				}
			}
		}()
		synctest.Wait()
		if handed != inHand {
			t.Errorf("%d events in hand, want %d", handed, inHand)
		}
		cancel()
		<-read // as Run does: nobody hands anything over while it waits
		d.wait()
		if len(d.waiting) != 0 || len(d.room) != 0 {
			t.Errorf("left: %d, %d", len(d.waiting), len(d.room))
		}
	})
}
