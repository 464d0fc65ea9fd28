package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"
)

// Changes remembers what weft changed of the host's own settings and what
// they were before, in host.json of the state directory, so that a reset can
// put them back. It is safe for concurrent use.
type Changes struct {
	path string // constant after OpenChanges

	mu     sync.Mutex // guards what follows
	former map[string]string
}

// OpenChanges reads host.json of a state directory; none is an empty one.
func OpenChanges(dir string) (*Changes, error) {
	c := &Changes{path: filepath.Join(dir, "host.json"), former: map[string]string{}}
	b, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read host.json: %w", err)
	}
	if err := json.Unmarshal(b, &c.former); err != nil {
		return nil, fmt.Errorf("%s: %w; remove the file if it cannot be mended, former settings are then not restored", c.path, err)
	}
	return c, nil
}

// Record keeps the former value of a setting; the first one of a key counts.
// It is on disk when Record returns.
func (c *Changes) Record(key, former string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.former[key]; ok {
		return nil
	}
	c.former[key] = former
	if err := c.saveLocked(); err != nil {
		delete(c.former, key)
		return fmt.Errorf("remember the former value of %s: %w", key, err)
	}
	return nil
}

// Recorded returns everything that is kept.
func (c *Changes) Recorded() (map[string]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.former), nil
}

// Forget drops what is kept of a setting; nil when there is nothing.
func (c *Changes) Forget(key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	former, ok := c.former[key]
	if !ok {
		return nil
	}
	delete(c.former, key)
	if err := c.saveLocked(); err != nil {
		c.former[key] = former
		return fmt.Errorf("forget the former value of %s: %w", key, err)
	}
	return nil
}

func (c *Changes) saveLocked() error {
	b, err := json.MarshalIndent(c.former, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(c.path, append(b, '\n'), 0o600)
}
