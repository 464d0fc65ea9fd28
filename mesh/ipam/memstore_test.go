package ipam

import (
	"bytes"
	"errors"
	"maps"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/mesh/ipam/store"
)

// memoryStore is a store in memory that can do what disks do.
type memoryStore struct {
	values map[string][]byte
	saves  int

	fail  error                    // of the next saves, nil: none
	lose  func(w store.Write) bool // these writes are reported as done and are not
	ended bool
}

var _ database = (*memoryStore)(nil)

func newMemoryStore() *memoryStore { return &memoryStore{values: make(map[string][]byte)} }

func (m *memoryStore) Load() (map[string][]byte, error) {
	copied := make(map[string][]byte, len(m.values))
	for k, v := range m.values {
		copied[k] = bytes.Clone(v)
	}
	return copied, nil
}

func (m *memoryStore) Save(batch []store.Write) error {
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

func (m *memoryStore) Close() error {
	m.ended = true
	return nil
}

// snapshot returns a copy of the disk, which restore goes back to.
func (m *memoryStore) snapshot() map[string][]byte { return maps.Clone(m.values) }

func (m *memoryStore) restore(to map[string][]byte) { m.values = maps.Clone(to) }

// The store in memory does what the one in a file does.
func TestMemoryStoreIsLikeTheFile(t *testing.T) {
	file, err := store.Open(filepath.Join(t.TempDir(), "ipam.db"), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	stores := []database{file, newMemoryStore()}
	value := []byte("1")
	for i, batch := range [][]store.Write{
		nil,
		{{Key: "a", Value: value}, {Key: "b", Value: []byte("2")}, {Key: "c", Value: []byte{}}},
		{{Key: "b", Value: nil}, {Key: "none", Value: nil}, {Key: "d", Value: []byte("4")}, {Key: "d", Value: []byte("5")}},
	} {
		var all []map[string][]byte
		for _, s := range stores {
			if err := s.Save(batch); err != nil {
				t.Fatal(err)
			}
			values, err := s.Load()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, values)
		}
		if diff := cmp.Diff(all[0], all[1]); diff != "" {
			t.Errorf("batch %d (-file +memory):\n%s", i, diff)
		}
		for _, values := range all {
			for _, v := range values { // these are copies
				clear(v)
			}
		}
	}
	clear(value) // so is this
	for _, s := range stores {
		got, err := s.Load()
		if diff := cmp.Diff(map[string][]byte{"a": []byte("1"), "c": {}, "d": []byte("5")}, got); err != nil || diff != "" {
			t.Errorf("%T (-want +got):\n%s%v", s, diff, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestMemoryStore(t *testing.T) {
	m := newMemoryStore()
	save := func(batch ...store.Write) {
		t.Helper()
		if err := m.Save(batch); err != nil {
			t.Fatal(err)
		}
	}
	save(store.Write{Key: "a", Value: []byte("1")})
	old := m.snapshot()
	m.fail = errors.New("disk full")
	if err := m.Save([]store.Write{{Key: "a", Value: nil}}); !errors.Is(err, m.fail) {
		t.Errorf("failing save: %v", err)
	}
	m.fail, m.lose = nil, func(w store.Write) bool { return w.Key == "b" }
	save(store.Write{Key: "a", Value: []byte("2")}, store.Write{Key: "b", Value: []byte("3")})
	if diff := cmp.Diff(map[string][]byte{"a": []byte("2")}, m.values); diff != "" {
		t.Errorf("lossy save (-want +got):\n%s", diff)
	}
	m.restore(old)
	got, err := m.Load()
	if diff := cmp.Diff(map[string][]byte{"a": []byte("1")}, got); err != nil || diff != "" {
		t.Errorf("restored (-want +got):\n%s%v", diff, err)
	}
	if err := m.Close(); err != nil || !m.ended || m.saves != 2 {
		t.Errorf("%+v, %v", m, err)
	}
}
