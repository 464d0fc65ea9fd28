package bell

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestBell: whoever rings does not wait, and is heard: once, with others.
func TestBell(t *testing.T) {
	b := New()
	for range 3 {
		b.Ring()
	}
	if len(b) != 1 {
		t.Errorf("%d wait after three rings, want 1", len(b))
	}
	<-b
	if len(b) != 0 {
		t.Errorf("%d wait after one was heard", len(b))
	}
}

// TestNothingIsLeft: no work that was left before a ring stays undone.
func TestNothingIsLeft(t *testing.T) {
	const workers, each = 8, 1000
	b := New()
	var left atomic.Int64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range each {
				left.Add(1)
				b.Ring()
			}
		})
	}
	for done := int64(0); done < workers*each; {
		<-b
		done += left.Swap(0)
	}
	group.Wait()
}
