package ui

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// TestStreamEndsWithSession: who may not look any more is told nothing more,
// whatever ends the session.
func TestStreamEndsWithSession(t *testing.T) {
	for name, tt := range map[string]struct {
		end   func(u *UI)
		after time.Duration
	}{
		"time":            {func(*UI) {}, sessionTime - time.Minute},
		"others":          {func(u *UI) { crowd(t, u, maxSessions) }, 0},
		"off":             {func(u *UI) { u.TurnOff() }, 0},
		"off and on":      {func(u *UI) { u.TurnOff(); u.TurnOn() }, 0},
		"room for others": {func(u *UI) { crowd(t, u, maxSessions-1) }, sessionTime - time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{}
				u := New(Config{Backend: f})
				cookie := enter(t, u)
				time.Sleep(time.Minute) // the stream begins later than the session
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan struct{})
				begun := time.Now()
				go func() {
					defer close(ended)
					serve(u, request("/ui/data/events", func(r *http.Request) { r.AddCookie(cookie); *r = *r.WithContext(join(r.Context(), ctx)) }))
				}()
				synctest.Wait()
				if f.follow.Load() != 1 {
					t.Fatal("nobody follows")
				}
				tt.end(u)
				synctest.Wait()
				if tt.after > 0 && f.follow.Load() != 1 {
					t.Error("it ended early")
				}
				select {
				case <-ended:
				case <-time.After(2 * sessionTime):
					t.Error("it does not end")
					cancel()
					<-ended
				}
				if took := time.Since(begun); took != tt.after {
					t.Errorf("it ended after %s, want %s", took, tt.after)
				}
			})
		})
	}
}

// crowd lets n more browsers in.
func crowd(t *testing.T, u *UI, n int) {
	t.Helper()
	for range n {
		enter(t, u)
	}
}

// join returns a context with the values of one and the end of another.
func join(values, ends context.Context) context.Context {
	return joined{ends, values}
}

type joined struct {
	context.Context
	values context.Context
}

func (j joined) Value(key any) any { return j.values.Value(key) }
