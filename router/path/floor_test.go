package path

import (
	"testing"
	"time"
)

// Noise above the least does not show; a way that became longer does, after two
// windows.
func TestFloor(t *testing.T) {
	const ms = time.Millisecond
	var f floor
	if f.least() != 0 {
		t.Error("something before the first measurement")
	}
	now := epoch
	for i := range 600 {
		f.add(now, 20*ms+time.Duration(i%7*i%5)*10*ms)
		if got := f.least(); got != 20*ms {
			t.Fatalf("measurement %d: %s", i, got)
		}
		now = now.Add(500 * ms)
	}
	f.add(now, 15*ms)
	if got := f.least(); got != 15*ms {
		t.Errorf("a shorter way counts as %s", got)
	}
	changed := now
	for f.least() != 90*ms {
		now = now.Add(500 * ms)
		f.add(now, 90*ms)
		if now.Sub(changed) > 2*floorTime+time.Second {
			t.Fatal("a longer way does not show")
		}
	}
	if now.Sub(changed) < floorTime {
		t.Errorf("a longer way shows after %s", now.Sub(changed))
	}
	// With few measurements a window is longer, but not for ever.
	f = floor{}
	f.add(now, 20*ms)
	for i := range 10 {
		now = now.Add(time.Minute)
		f.add(now, 90*ms)
		want := 20 * ms
		if time.Duration(i+1)*time.Minute >= 2*floorMost {
			want = 90 * ms
		}
		if got := f.least(); got != want {
			t.Fatalf("after %d minutes: %s, want %s", i+1, got, want)
		}
	}
	f = floor{}
	for _, d := range []time.Duration{20 * ms, 90 * ms, 90 * ms} { // of an idle peer of 1,000
		f.add(now, d)
		now = now.Add(500 * time.Second)
	}
	if got := f.least(); got != 90*ms {
		t.Errorf("%s: the least of a quarter of an hour", got)
	}
}
