package workload

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/router/api"
)

// fakeDocker is an engine.
type fakeDocker struct {
	mu         sync.Mutex
	containers map[string]Container // by name
	err        error                // it does not answer
	slow       time.Duration        // how long a summary takes
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

func (f *fakeDocker) Summary(ctx context.Context, id string) (Container, error) {
	f.mu.Lock()
	slow := f.slow
	f.mu.Unlock()
	time.Sleep(slow)
	return f.Inspect(ctx, id)
}

func (f *fakeDocker) Endpoints(context.Context) (map[string]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	known := make(map[string]string)
	for _, c := range f.containers {
		for _, n := range c.Networks {
			if n.Endpoint != "" {
				known[n.Endpoint] = c.ID
			}
		}
	}
	return known, f.err
}

func (f *fakeDocker) Networks(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []string{"wide", "wide-id"}, f.err
}

const (
	webID = "aaaaaaaaaaaa0000000000000000000000000000000000000000000000000001"
	dbID  = "bbbbbbbbbbbb0000000000000000000000000000000000000000000000000002"
)
