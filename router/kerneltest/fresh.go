package kerneltest

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
)

// NeedRoot skips a test loudly when it does not run as root, and fails it when
// it runs in CI.
func NeedRoot(t testing.TB) {
	t.Helper()
	switch {
	case os.Getuid() == 0:
	case os.Getenv("CI") == "true":
		t.Fatal("needs root")
	default:
		t.Skip("SKIPPED: needs root")
	}
}

// Fresh makes a real, empty network namespace that lives as long as the test.
// The loopback is up.
func Fresh(t testing.TB) *kernel.Kernel {
	t.Helper()
	NeedRoot(t)
	type result struct {
		k   *kernel.Kernel
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
			c <- result{nil, err}
			return
		}
		k, err := kernel.New()
		if err == nil {
			err = k.SetUp("lo", true)
		}
		c <- result{k, err}
	}
	go unshare()
	r := <-c
	if r.err != nil {
		t.Fatalf("make a network namespace: %v", r.err)
	}
	t.Cleanup(func() { _ = r.k.Close() })
	return r.k
}
