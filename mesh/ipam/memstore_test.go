package ipam

import (
	"bytes"
	"maps"
)

// memoryStore is a store in memory that can do what disks do.
type memoryStore struct {
	values map[string][]byte
	saves  int

	fail  error              // of the next saves, nil: none
	lose  func(w write) bool // these writes are reported as done and are not
	ended bool
}

var _ store = (*memoryStore)(nil)

func newMemoryStore() *memoryStore { return &memoryStore{values: make(map[string][]byte)} }

func (m *memoryStore) load() (map[string][]byte, error) {
	copied := make(map[string][]byte, len(m.values))
	for k, v := range m.values {
		copied[k] = bytes.Clone(v)
	}
	return copied, nil
}

func (m *memoryStore) save(batch []write) error {
	if m.fail != nil {
		return m.fail
	}
	if len(batch) == 0 {
		return nil
	}
	m.saves++
	for _, w := range batch {
		switch {
		case m.lose != nil && m.lose(w):
		case w.Value == nil:
			delete(m.values, w.Key)
		default:
			m.values[w.Key] = bytes.Clone(w.Value)
		}
	}
	return nil
}

func (m *memoryStore) close() error {
	m.ended = true
	return nil
}

// snapshot returns a copy of the disk, which restore goes back to.
func (m *memoryStore) snapshot() map[string][]byte { return maps.Clone(m.values) }

func (m *memoryStore) restore(to map[string][]byte) { m.values = maps.Clone(to) }
