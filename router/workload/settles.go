package workload

import (
	"context"
	"sync"

	"github.com/weftnet/weft/router/bell"
)

// settles are endpoints that wait for their engine.
type settles struct {
	wake bell.Bell // some wait; constant after New

	mu      sync.Mutex // guards what follows
	waiting []string   // ids that nobody attends to yet
}

func (l *settles) add(id string) {
	l.mu.Lock()
	l.waiting = append(l.waiting, id)
	l.mu.Unlock()
	l.wake.Ring()
}

// take returns those that wait.
func (l *settles) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := l.waiting
	l.waiting = nil
	return ids
}

// Run sets up what engines put into containers, as soon as it is there, until
// ctx ends. Without it that is left to the sweeps.
func (w *Workload) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		for _, id := range w.settles.take() {
			group.Go(func() { w.await(ctx, id) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.settles.wake:
		}
	}
}
