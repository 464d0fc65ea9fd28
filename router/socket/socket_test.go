package socket

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestListen: a socket has its mode, is replaced when its process is dead, and
// stays otherwise.
func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	defer unix.Umask(unix.Umask(0o002)) // no test runs beside this
	for _, mode := range []fs.FileMode{0o600, 0o660} {
		ln, err := Listen(t.Context(), path, mode)
		check(t, err)
		if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|mode {
			t.Errorf("mode %v, %v; want %v", info.Mode(), err, mode)
		}
		if _, err := Listen(t.Context(), path, mode); !errors.Is(err, ErrInUse) {
			t.Errorf("a second one: %v, want ErrInUse", err)
		}
		c, err := net.Dial("unix", path)
		check(t, err)
		check(t, c.Close())
		ln.SetUnlinkOnClose(false) // as who is killed
		check(t, ln.Close())
	}
	check(t, RemoveStale(path))
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dead socket stays: %v", err)
	}
	check(t, RemoveStale(path))
}

// TestWhatIsInTheWay stays: files, directories and links.
func TestWhatIsInTheWay(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	check(t, os.WriteFile(file, []byte("x"), 0o600))
	check(t, os.Symlink(file, link))
	for _, path := range []string{file, link, dir} {
		if _, err := Listen(t.Context(), path, 0o600); !errors.Is(err, ErrNoSocket) {
			t.Errorf("%s: %v, want ErrNoSocket", path, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s is gone: %v", path, err)
		}
	}
}

// TestBusy: a process that does not take its connections is alive all the same.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer func() { _ = unix.Close(fd) }()
	check(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	check(t, unix.Listen(fd, 0))
	for range 3 { // the first fills the queue
		if err := RemoveStale(path); !errors.Is(err, ErrInUse) {
			t.Fatalf("%v, want ErrInUse", err)
		}
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}
