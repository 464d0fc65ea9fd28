package dns

import (
	"errors"
	"fmt"
	"strings"
	"sync"
)

// EntryPrefix begins the keys of names among the entries of a host.
const EntryPrefix = "n/"

// Replica is where a host's own entries are kept.
type Replica interface {
	Put(key string, value []byte) error
	Delete(key string) error
}

// Book turns the names of containers into entries of the replica. It is safe
// for concurrent use.
type Book struct {
	replica Replica // constant after New

	mu    sync.Mutex // guards what follows
	pages map[string]map[string]string
}

// NewBook returns an empty book.
func NewBook(r Replica) *Book {
	return &Book{replica: r, pages: make(map[string]map[string]string)}
}

// Set makes the names of one container exactly those given; none removes it.
// They replicate to all hosts.
func (b *Book) Set(container string, records []Record) error {
	want := make(map[string]string, len(records))
	for _, rec := range records {
		value, err := rec.Marshal()
		if err != nil {
			return fmt.Errorf("name %s: %w", rec.Hostname, err)
		}
		key := strings.Join([]string{container, strings.ToLower(rec.Hostname), rec.Addr.String()}, "/")
		want[EntryPrefix+key] = string(value)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	have := b.pages[container]
	if have == nil {
		have = make(map[string]string)
		b.pages[container] = have
	}
	var errs []error
	for key, value := range want {
		if have[key] == value {
			continue
		}
		if err := b.replica.Put(key, []byte(value)); err != nil {
			errs = append(errs, err)
			continue
		}
		have[key] = value
	}
	for key := range have {
		if _, ok := want[key]; ok {
			continue
		}
		if err := b.replica.Delete(key); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(have, key)
	}
	if len(have) == 0 {
		delete(b.pages, container)
	}
	return errors.Join(errs...)
}
