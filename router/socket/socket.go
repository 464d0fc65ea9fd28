// Package socket opens the unix sockets at which weft listens, and ends what
// answers there: a socket is for nobody else than it shall be for, not even for a
// moment, and comes in the place of one that a dead process left. It does not make
// directories or give files to groups, and does not know what is said.
package socket

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrInUse says that a process listens there.
	ErrInUse = errors.New("another process listens there")
	// ErrNoSocket says that something else is in the way.
	ErrNoSocket = errors.New("it exists and is not a socket; move it away")
)

// patience is for a process that listens to take a connection.
const patience = time.Second

// Listen opens a socket, and replaces one that nobody listens at. Its file has the
// mode without what the umask takes away. The errors are those of [RemoveStale]
// and of the kernel. No other process may do the same
// with that path at the same time: between its making and its opening a socket
// looks like one that was left.
func Listen(ctx context.Context, path string, mode fs.FileMode) (*net.UnixListener, error) {
	if err := RemoveStale(path); err != nil {
		return nil, err
	}
	// The mode of a socket's file is that of the socket before bind.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(mode.Perm())) }); cerr != nil {
			return cerr
		}
		return err
	}}
	ln, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return ln.(*net.UnixListener), nil
}

// RemoveStale removes a socket that nobody listens at; nil when there is nothing.
// One that somebody has gives [ErrInUse], what is no socket [ErrNoSocket], and
// both stay. It blocks for a second at most.
func RemoveStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return ErrNoSocket
	}
	c, err := net.DialTimeout("unix", path, patience)
	if err == nil {
		_ = c.Close()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist): // its owner has just ended
		return nil
	case !errors.Is(err, unix.ECONNREFUSED): // one that is busy gives EAGAIN
		return ErrInUse
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
