package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/socket"
)

// Where the API is found unless somebody says otherwise, and the group whose
// members may use it. Membership equals root.
const (
	DefaultSocket = "/run/weft/weft.sock"
	Group         = "weft"
)

// maxSocketPath is the length of sun_path without its final zero.
const maxSocketPath = 107

// CheckSocketPath refuses what no socket can be called. Its errors wrap [ErrUsage].
func CheckSocketPath(path string) error {
	if !filepath.IsAbs(path) {
		return usage("socket %q: want an absolute path", path)
	}
	if len(path) > maxSocketPath {
		return usage("socket %q: path is longer than %d bytes", path, maxSocketPath)
	}
	return nil
}

// RuntimeDir makes the directory of socket, 0750 and root:weft when that group
// exists. A directory that somebody else made keeps its mode, the default one
// gets it in any case.
func RuntimeDir(socket string) error {
	dir := filepath.Dir(socket)
	_, err := os.Stat(dir)
	if err == nil && dir != filepath.Dir(DefaultSocket) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make directory of the API: %w", err)
	}
	if err := share(dir, 0o750); err != nil {
		return fmt.Errorf("make directory of the API: %w", err)
	}
	return nil
}

// socketMode lets the group in, and nobody else.
const socketMode = 0o660

// Listen opens the API's socket, 0660 and root:weft when that group exists. A
// socket that a dead daemon left is replaced; one that answers gives an error
// that wraps [ErrConflict].
func Listen(path string) (net.Listener, error) {
	if err := CheckSocketPath(path); err != nil {
		return nil, err
	}
	if err := RuntimeDir(path); err != nil {
		return nil, err
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer unlock()
	ln, err := socket.Listen(context.Background(), path, socketMode)
	if errors.Is(err, socket.ErrInUse) {
		err = fmt.Errorf("another weftd answers there: %w", ErrConflict)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := share(path, socketMode); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return ln, nil
}

// lockDir keeps two daemons that start together from replacing each other's
// socket. It leaves no file behind.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}

// Share gives an open file or directory to the group weft when there is one,
// and sets its mode.
func Share(f *os.File, mode fs.FileMode) error {
	gid, err := groupID()
	if err != nil {
		return err
	}
	if gid >= 0 {
		if err := f.Chown(-1, gid); err != nil {
			return err
		}
	}
	return f.Chmod(mode)
}

// share does the same for a path, which must be one that nobody else can
// replace.
func share(path string, mode fs.FileMode) error {
	gid, err := groupID()
	if err != nil {
		return err
	}
	if gid >= 0 {
		if err := os.Chown(path, -1, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// groupID returns the group weft, or -1 when there is none.
func groupID() (int, error) {
	g, err := user.LookupGroup(Group)
	if err != nil {
		return -1, nil //nolint:nilerr // there is none, or no file to look it up in
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1, fmt.Errorf("group %s: %w", Group, err)
	}
	return gid, nil
}
