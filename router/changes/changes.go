// Package changes owns host.json in the state directory: what weft changed of
// the host's own settings and what they were before, so that a reset can put
// them back.
//
// It does not change or restore anything (router/bridge does).
package changes

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

// Journal remembers the former values. It is safe for concurrent use.
type Journal struct {
	path string // constant after Open

	mu     sync.Mutex // guards what follows
	former map[string]string
}

// Open reads host.json of a state directory; none is an empty one.
func Open(dir string) (*Journal, error) {
	j := &Journal{path: filepath.Join(dir, "host.json"), former: map[string]string{}}
	b, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read host.json: %w", err)
	}
	if err := json.Unmarshal(b, &j.former); err != nil {
		return nil, fmt.Errorf("%s: %w; remove the file if it cannot be mended, former settings are then not restored", j.path, err)
	}
	return j, nil
}

// Record keeps the former value of a setting; the first one of a key counts.
// It is on disk when Record returns.
func (j *Journal) Record(key, former string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.former[key]; ok {
		return nil
	}
	j.former[key] = former
	if err := j.saveLocked(); err != nil {
		delete(j.former, key)
		return fmt.Errorf("remember the former value of %s: %w", key, err)
	}
	return nil
}

// Recorded returns everything that is kept.
func (j *Journal) Recorded() (map[string]string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return maps.Clone(j.former), nil
}

// Forget drops what is kept of a setting; nil when there is nothing.
func (j *Journal) Forget(key string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	former, ok := j.former[key]
	if !ok {
		return nil
	}
	delete(j.former, key)
	if err := j.saveLocked(); err != nil {
		j.former[key] = former
		return fmt.Errorf("forget the former value of %s: %w", key, err)
	}
	return nil
}

func (j *Journal) saveLocked() error {
	b, err := json.MarshalIndent(j.former, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(j.path, append(b, '\n'), 0o600)
}
