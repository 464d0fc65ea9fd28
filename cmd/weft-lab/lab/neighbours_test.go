package lab

import (
	"os"
	"path/filepath"
	"testing"
)

// What is lower is raised, what is higher is left, and a protocol that the
// kernel does not have is no error.
func TestRoomForNeighbours(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "ipv4", neighDefault)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, is := range map[string]string{"gc_thresh1": "128\n", "gc_thresh2": "1000000\n", "gc_thresh3": "1024\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(is), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := roomForNeighbours(root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"gc_thresh1": "8192", "gc_thresh2": "1000000\n", "gc_thresh3": "32768"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s is %q, want %q (%v)", name, b, want, err)
		}
	}
}
