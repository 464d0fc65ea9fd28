package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/google/renameio/v2"
)

// stateFile is what is kept in the state directory: the engine tells the
// options of a network once, when it is made, and never again.
const stateFile = "networks.json"

const stateFormat = 1

// networks remembers those that somebody wanted something special of. The file
// is there while there is one.
type networks struct {
	path string // constant after openNetworks

	mu   sync.Mutex // guards what follows, and the file
	list map[string]networkOptions
}

// networksFile is the file. Its fields must not change their meaning.
type networksFile struct {
	Format      int
	NoMulticast []string // ids of networks
}

func openNetworks(path string) (*networks, error) {
	n := &networks{path: path, list: map[string]networkOptions{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	var f networksFile
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err == nil && f.Format != stateFormat {
		err = fmt.Errorf("format %d, want %d", f.Format, stateFormat)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w; it holds options of Docker's networks only: remove it if it is damaged", path, err)
	}
	for _, id := range f.NoMulticast {
		n.list[id] = networkOptions{noMulticast: true}
	}
	return n, nil
}

func (n *networks) get(id string) networkOptions {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.list[id]
}

// set returns when the disk knows.
func (n *networks) set(id string, o networkOptions) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := maps.Clone(n.list)
	if next[id] = o; o == (networkOptions{}) {
		delete(next, id)
	}
	if maps.Equal(next, n.list) {
		return nil
	}
	if err := n.save(next); err != nil {
		return fmt.Errorf("write down the options of the network: %w", err)
	}
	n.list = next
	return nil
}

func (n *networks) forget(id string) error { return n.set(id, networkOptions{}) }

func (n *networks) save(list map[string]networkOptions) error {
	if len(list) == 0 {
		return os.Remove(n.path)
	}
	b, err := json.Marshal(networksFile{Format: stateFormat, NoMulticast: slices.Sorted(maps.Keys(list))})
	if err != nil {
		return err
	}
	return renameio.WriteFile(n.path, append(b, '\n'), 0o600)
}
