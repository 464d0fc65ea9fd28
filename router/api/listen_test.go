package api

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestListen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "weft")
	socket := filepath.Join(dir, "weft.sock")
	ln, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for path, want := range map[string]fs.FileMode{dir: fs.ModeDir | 0o750, socket: fs.ModeSocket | 0o660} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	pid, err := NewClient(socket).Pid(t.Context())
	if err != nil || pid != os.Getpid() {
		t.Errorf("Pid() = %d, %v; want our own %d", pid, err, os.Getpid())
	}
	if _, err := Listen(socket); !errors.Is(err, ErrConflict) {
		t.Errorf("Listen on a live socket: %v; want ErrConflict", err)
	}
	if _, err := NewClient(socket).Pid(t.Context()); err != nil {
		t.Errorf("the live socket was disturbed: %v", err)
	}
	ln.Close()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestListenReplacesWhatADeadDaemonLeft(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "weft.sock")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	if _, err := NewClient(socket).Status(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Status at a stale socket: %v; want ErrUnreachable", err)
	}
	ln, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

func TestListenKeepsOtherDirectoriesAndFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "precious")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Listen(file)
	check(t, "a file in the way", err, "listen on "+file+": it exists and is not a socket; move it away")
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Errorf("the file in the way is now %q, %v", b, err)
	}
	ln, err := Listen(filepath.Join(dir, "weft.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("directory of somebody else: mode %v, %v; want it unchanged", info.Mode(), err)
	}
	_, err = Listen("weft.sock")
	check(t, "relative path", err, `socket "weft.sock": want an absolute path`)
	long := "/" + strings.Repeat("x", maxSocketPath)
	_, err = Listen(long)
	check(t, "long path", err, `socket "`+long+`": path is longer than 107 bytes`)
}

func TestListenTogether(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "weft.sock")
	for range 20 {
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		stale.SetUnlinkOnClose(false)
		stale.Close()
		var mu sync.Mutex
		var won []net.Listener
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				ln, err := Listen(socket)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, ln)
				} else if !errors.Is(err, ErrConflict) {
					t.Errorf("Listen: %v", err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%d daemons have the socket, want 1", len(won))
		}
		won[0].Close()
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	_, err := NewClient(dir + "/weft.sock").Status(t.Context())
	check(t, "no socket", err, "weftd is not reachable at "+dir+"/weft.sock; start it with 'weft launch'")
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v is not ErrUnreachable", err)
	}
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir + "/file", dir + "/file/weft.sock"} {
		if err := NewClient(path).Stop(t.Context()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("Stop at %s: %v; want ErrUnreachable", path, err)
		}
	}
}

func TestPermissionDenied(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("SKIPPED: needs root, to become somebody else")
	}
	socket := filepath.Join(t.TempDir(), "weft.sock")
	ln, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends as somebody else
		if err := unix.Setfsuid(65534); err != nil {
			result <- err
			return
		}
		_, err := NewClient(socket).Pid(t.Context())
		result <- err
	}()
	err = <-result
	check(t, "another user", err, "open "+socket+": permission denied; run as root or as a member of group weft")
	if !errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrUnreachable) {
		t.Errorf("%v: want fs.ErrPermission only", err)
	}
}
