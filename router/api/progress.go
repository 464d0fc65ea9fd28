package api

import (
	"context"
	"sync"
)

// progress is what a context carries for whoever waits.
type progress struct {
	mu     sync.Mutex
	report func(string) // constant; called under mu
	last   string       // what was reported last
}

type progressKey struct{}

// WithProgress returns a context in which [Progress] calls report: once for
// each change of the reason, never twice at the same time. It must not block,
// because whoever calls Progress waits for it, and must not call Progress.
func WithProgress(ctx context.Context, report func(reason string)) context.Context {
	return context.WithValue(ctx, progressKey{}, &progress{report: report})
}

// Progress tells whoever waits for a request of this context what the request
// waits for. Nobody may be listening. It is safe for concurrent use, and does
// nothing once the context has ended.
func Progress(ctx context.Context, reason string) {
	p, ok := ctx.Value(progressKey{}).(*progress)
	if !ok || ctx.Err() != nil || reason == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == reason {
		return
	}
	p.last = reason
	p.report(reason)
}

// wantsProgress reports whether somebody listens.
func wantsProgress(ctx context.Context) bool {
	_, ok := ctx.Value(progressKey{}).(*progress)
	return ok
}
