package tunnel

import "context"

// asked is an event that is closed when the loop comes by.
type asked chan struct{}

// Alive blocks until the loop has handled what came before this call, or ctx
// ends. Run must be running. It makes the reader of [Tunnels.Changed] look, too,
// so that a watchdog sees whether there is one.
func (t *Tunnels) Alive(ctx context.Context) error {
	e := make(asked)
	select {
	case t.inbox <- e:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-e:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
