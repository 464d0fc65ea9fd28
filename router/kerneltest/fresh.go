package kerneltest

import (
	"os"
	"testing"

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
	k, err := kernel.Fresh()
	if err == nil {
		err = k.SetUp("lo", true)
	}
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}
