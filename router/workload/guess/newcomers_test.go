package guess

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestNewcomersGone wants what was put down to a container to go to another one
// when that turns out to want nothing, or is gone.
func TestNewcomersGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Newcomers{}
		count := func(want int) {
			t.Helper()
			if got := m.Count(time.Now()); got != want {
				t.Errorf("%d newcomers, want %d", got, want)
			}
		}
		m.Add("a")
		m.Add("a") // told twice
		m.Add("b")
		count(2)
		m.Serve() // put down to a
		count(1)
		m.Decline("a") // so it was for b
		count(0)
		m.Add("c")
		m.Start("c") // which took what was put down to b
		count(1)
		waited := make(chan time.Duration)
		go func() {
			begun := time.Now()
			m.Sure(context.Background())
			waited <- time.Since(begun)
		}()
		time.Sleep(time.Millisecond)
		m.Remove("b")
		if d := <-waited; d != time.Millisecond {
			t.Errorf("waited %s for one that is gone", d)
		}
		count(0)
		m.Confirm("b") // too late
		m.Add("d")
		m.Confirm("d")
		m.Sure(context.Background()) // at once
		time.Sleep(newcomerTime - time.Second)
		count(1)
		time.Sleep(time.Second)
		count(0)
	})
}
