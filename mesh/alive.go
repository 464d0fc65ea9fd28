package mesh

import (
	"context"
	"errors"
)

// asked is an event that is closed when the loop comes by.
type asked chan struct{}

// Alive blocks until the loop has handled what came before this call, or ctx
// ends. Run must be running. A watchdog asks it.
func (m *Mesh) Alive(ctx context.Context) error {
	e := make(asked)
	select {
	case m.results <- e:
	case <-m.ended:
		return errors.New("the mesh has ended")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-e:
		return nil
	case <-m.ended:
		return errors.New("the mesh has ended")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
