package workload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// hungTime is how long an engine that let a question time out is left alone by
// who looks at many containers.
const hungTime = 10 * time.Second

var errHung = errors.New("the engine did not answer in time just now")

// hasty is an engine that is asked for a limited time in all, while it may be
// waiting for us itself.
type hasty struct {
	Resolver

	mu    sync.Mutex // guards what follows
	until time.Time  // zero: there is time
	hung  time.Time  // until when it is not worth a glance
}

func (h *hasty) hurry(d time.Duration) { h.set(time.Now().Add(d)) }
func (h *hasty) relax()                { h.set(time.Time{}) }

func (h *hasty) set(until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = until
}

func (h *hasty) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.until.IsZero() {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, h.until)
}

// Inspect is [Resolver.Inspect].
func (h *hasty) Inspect(ctx context.Context, nameOrID string) (Container, error) {
	ctx, cancel := h.limit(ctx)
	defer cancel()
	return h.Resolver.Inspect(ctx, nameOrID)
}

// Glance is Inspect for who looks at many containers, and has to wait for an
// engine that hangs only once. What people ask for is asked in any case.
func (h *hasty) Glance(ctx context.Context, nameOrID string) (Container, error) {
	if h.hangs() {
		return Container{}, fmt.Errorf("inspect %s: %w", nameOrID, errHung)
	}
	c, err := h.Inspect(ctx, nameOrID)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.until.IsZero() { // otherwise it is we who had no time
			h.hung = time.Now().Add(hungTime)
		}
	}
	return c, err
}

func (h *hasty) hangs() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.hung)
}

// Endpoints is [Resolver.Endpoints].
func (h *hasty) Endpoints(ctx context.Context) (map[string]string, error) {
	ctx, cancel := h.limit(ctx)
	defer cancel()
	return h.Resolver.Endpoints(ctx)
}
