package bridge

import (
	"errors"
	"sync"
)

var errNoGeneration = errors.New("nobody knows the generation of the rules")

// commits tells changes of the firewall that others made from our own, by the
// number that the kernel gives to its rules: to list them takes a process for
// each table, and most changes are ours. All methods may be called from any
// goroutine.
type commits struct {
	generation func() (uint32, error) // constant; nil: the kernel is not asked

	mu   sync.Mutex // held while we write, so that none of our changes counts as another's
	ours uint32     // transactions
}

// point is when the firewall was looked at; the zero value is equal to none.
type point struct {
	known  bool
	others uint32 // transactions, from anywhere
}

// same says that since then nobody else changed the firewall.
func (p point) same(q point) bool { return p.known && p == q }

// now waits while we write.
func (c *commits) now() point {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.read()
	return point{err == nil, n - c.ours}
}

func (c *commits) read() (uint32, error) {
	if c.generation == nil {
		return 0, errNoGeneration
	}
	return c.generation()
}

// write runs what is at least one transaction unless it fails. When somebody
// else was at work at the same time, it counts as theirs.
func (c *commits) write(f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, err1 := c.read()
	if err := f(); err != nil {
		return err
	}
	if after, err2 := c.read(); err1 == nil && err2 == nil && after == before+1 {
		c.ours++
	}
	return nil
}
