package kernel

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Fresh makes a network namespace with nothing in it but a loopback that is
// down. Nobody else sees it, and it is gone when it is closed.
func Fresh() (*Kernel, error) {
	type result struct {
		k   *Kernel
		err error
	}
	c := make(chan result, 1)
	var unshare func()
	unshare = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot die, and would stay in the namespace.
			defer runtime.UnlockOSThread()
			done := make(chan struct{})
			go func() {
				defer close(done)
				unshare()
			}()
			<-done
			return
		}
		// Locked for ever: the thread dies with the goroutine.
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			c <- result{nil, fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		k, err := New()
		c <- result{k, err}
	}
	go unshare()
	r := <-c
	return r.k, r.err
}
