package router

import (
	"context"
	"time"
)

// Views and paths change in bursts while hosts join, and each change costs
// something for every peer. So the router rests so many times as long as it took
// to follow the last ones, and follows all that came meanwhile at once: in a
// large cluster, or on a busy host, it is slower to change and does not drown.
const (
	restShare = 5
	restMost  = time.Second
)

// soon follows the latest changes: now, or when it is time again.
func (r *Router) soon(ctx context.Context) {
	if wait := time.Until(r.rest); wait > 0 {
		r.due.Reset(wait)
		return
	}
	r.due.Stop()
	begun := time.Now()
	if r.viewed {
		r.viewed = false
		r.follow(ctx)
	} else {
		_ = r.reapply(ctx) // it is logged and tried again
	}
	r.rest = time.Now().Add(min(restShare*time.Since(begun), restMost))
}
