package workload

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/weftnet/weft/router/api"
)

// fakeDocker is an engine.
type fakeDocker struct {
	mu         sync.Mutex
	containers map[string]Container // by name
	err        error                // it does not answer
	asked      int
}

func (f *fakeDocker) set(name string, c Container) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.containers[name] = c
}

func (f *fakeDocker) remove(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, name)
}

func (f *fakeDocker) Inspect(_ context.Context, nameOrID string) (Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.err != nil {
		return Container{}, f.err
	}
	for name, c := range f.containers {
		if name == nameOrID || strings.HasPrefix(c.ID, nameOrID) {
			return c, nil
		}
	}
	return Container{}, fmt.Errorf("no such container: %s: %w", nameOrID, api.ErrNotFound)
}

const (
	webID = "aaaaaaaaaaaa0000000000000000000000000000000000000000000000000001"
	dbID  = "bbbbbbbbbbbb0000000000000000000000000000000000000000000000000002"
)
