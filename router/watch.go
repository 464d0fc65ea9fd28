package router

import (
	"context"
	"time"

	"github.com/weftnet/weft/router/bell"
	"github.com/weftnet/weft/router/kernel"
)

// Watch follows the kernel's notifications until ctx ends. It is a task of its
// own, so that the sweep can be tested without it.
func (r *Router) Watch(ctx context.Context) error {
	burst := bell.New()
	go r.collect(ctx, burst)
	return r.cfg.Kernel.Watch(ctx, func(e kernel.Event) {
		r.changed.Or(uint32(e))
		burst.Ring()
	})
}

// collect waits until a burst of events is over, for the kernel tells of one
// change with many, and then wakes those who look.
func (r *Router) collect(ctx context.Context, burst <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-burst:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settle):
			r.changes.Ring()
		}
		select { // rules that change all the time must not keep us busy
		case <-ctx.Done():
			return
		case <-time.After(calm):
		}
	}
}

// Tend keeps the containers as they should be until ctx ends: whenever the run
// loop has looked at the switch that they are attached to, after a change of a
// link and with every sweep. It is a task of its own because work on a
// container may wait for the run loop and for an engine.
func (r *Router) Tend(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.links:
			repaired, err := r.containers.LinksChanged(ctx)
			r.report(ctx, "containers", "notified", repaired, err)
			if err != nil { // what was tried and undone changed links, too
				select {
				case <-ctx.Done():
				case <-time.After(retryTime):
				}
			}
		case <-r.remotes:
			r.report(ctx, "containers", "announced", nil, r.containers.Announce(ctx))
		case <-r.sweeps:
			repaired, err := r.containers.Sweep(ctx)
			r.report(ctx, "containers", "swept", repaired, err)
		}
	}
}
