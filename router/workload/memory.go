package workload

import (
	"sync"
	"time"
)

// memory is what is known of an engine's containers besides the journal. It is
// lost with the daemon, and everything is then as old as that.
type memory struct {
	begun time.Time // constant after New

	mu    sync.Mutex           // guards what follows
	since map[string]time.Time // by the key of a reservation, or an endpoint's id: when it became what it is
	ours  map[string]bool      // networks, by name and by id
}

func (m *memory) touch(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.since == nil {
		m.since = make(map[string]time.Time)
	}
	m.since[key] = time.Now()
}

// young reports whether the engine may not know yet what we know.
func (m *memory) young(key string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t, ok := m.since[key]; ok {
		return now.Sub(t) < youth
	}
	return now.Sub(m.begun) < foundYouth
}

// at is when something became what it is, as far as this daemon knows.
func (m *memory) at(key string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t, ok := m.since[key]; ok {
		return t
	}
	return m.begun
}

func (m *memory) forget(keys []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		delete(m.since, key)
	}
}

// learn notes networks that are ours.
func (m *memory) learn(networks []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ours == nil {
		m.ours = make(map[string]bool)
	}
	for _, n := range networks {
		m.ours[n] = true
	}
}

func (m *memory) isOurs(network string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ours[network]
}
