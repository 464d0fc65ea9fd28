package plugin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/socket"
)

// What a keeper is asked by others than engines.
const (
	infoPath  = "/Weft.Keeper"
	leavePath = "/Weft.Leave"
)

// Info is what a keeper says of itself.
type Info struct {
	Version string // of the program
	Door    string // the socket of the daemon that it asks
	Given   bool   // its socket is somebody else's, who starts it again when it is asked for
	PID     int    // zero: it has no process of its own
}

var (
	// ErrNobody says that no process has the socket.
	ErrNobody = errors.New("nobody answers there")

	errStranger = errors.New("another program answers there; stop it, or choose another socket with --plugin-socket")
)

// talkTime bounds a talk with a keeper.
const talkTime = 3 * time.Second

// Find returns what keeps a socket. The error wraps [ErrNobody] when there is
// no process, and is another one when that is no keeper.
func Find(ctx context.Context, socket string) (Info, error) {
	conn, info, err := meet(ctx, socket)
	if err == nil {
		_ = conn.Close()
	}
	return info, err
}

// Watch returns when the keeper of a socket ends, or ctx does, or when there is
// none.
func Watch(ctx context.Context, socket string) {
	conn, _, err := meet(ctx, socket)
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer conn.Close()
	if conn.SetDeadline(time.Time{}) == nil {
		_, _ = io.Copy(io.Discard, conn) // nobody says anything
	}
}

// meet returns a connection to a keeper.
func meet(ctx context.Context, socket string) (net.Conn, Info, error) {
	var info Info
	ctx, cancel := context.WithTimeout(ctx, talkTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, info, ErrNobody
	}
	if err != nil {
		return nil, info, err
	}
	if err := talk(conn, infoPath, &info); err != nil || info.Door == "" {
		_ = conn.Close()
		return nil, info, errors.Join(errStranger, err)
	}
	return conn, info, nil
}

// talk asks a keeper for something.
func talk(conn net.Conn, path string, out any) error {
	if err := conn.SetDeadline(time.Now().Add(talkTime)); err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://weft"+path, http.NoBody)
	if err == nil {
		err = r.Write(conn)
	}
	if err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return json.NewDecoder(io.LimitReader(res.Body, maxBody)).Decode(out)
}

// Dismiss lets the keeper of a socket end, and waits until it has. That there
// is none is no error.
func Dismiss(ctx context.Context, socket string) error {
	conn, is, err := meet(ctx, socket)
	if errors.Is(err, ErrNobody) {
		return nil
	}
	if err == nil {
		defer conn.Close()
		ended, release := watchProcess(is.PID)
		defer release()
		if err = talk(conn, leavePath, &none{}); err == nil {
			_, err = io.Copy(io.Discard, conn) // it closes what is idle after what listens
		}
		if err == nil {
			err = ended()
		}
	}
	if err != nil {
		return fmt.Errorf("end what keeps %s: %w", socket, err)
	}
	return nil
}

// watchProcess returns what waits for the end of a process. One that cannot be
// watched has ended.
func watchProcess(pid int) (ended func() error, release func()) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return func() error { return nil }, func() {}
	}
	ended = func() error {
		limit := time.Now().Add(talkTime + awayTime) // it may still be answering
		for time.Now().Before(limit) {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, int(time.Until(limit).Milliseconds()))
			if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
		}
		return fmt.Errorf("process %d does not end", pid)
	}
	return ended, func() { _ = unix.Close(fd) }
}

// TakeOver opens the socket for a keeper, and lets another one that has it end:
// at no moment is there none. What is no keeper stays, and is an error.
func TakeOver(ctx context.Context, socket string) (net.Listener, error) {
	ln, err := takeOver(ctx, socket)
	if err != nil {
		return nil, fmt.Errorf("listen for Docker on %s: %w", socket, err)
	}
	return ln, nil
}

func takeOver(ctx context.Context, path string) (net.Listener, error) {
	former, _, err := meet(ctx, path)
	if former != nil {
		defer former.Close()
	} else if !errors.Is(err, ErrNobody) {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, socket.ErrNoSocket
	}
	fresh := filepath.Join(filepath.Dir(path), ".new") // engines look for *.sock
	ln, err := listen(fresh)
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	h := &held{Listener: ln, path: path}
	if h.own, err = os.Lstat(fresh); err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		_ = ln.Close()
		_ = os.Remove(fresh)
		return nil, err
	}
	if former != nil {
		_ = talk(former, leavePath, &none{}) // nobody finds it any more
	}
	return h, nil
}

// held is a socket that somebody else may take over.
type held struct {
	net.Listener
	path string
	own  fs.FileInfo
}

// Close removes the socket unless it is another one's by now.
func (h *held) Close() error {
	err := h.Listener.Close()
	if now, serr := os.Lstat(h.path); serr == nil && os.SameFile(now, h.own) {
		err = errors.Join(err, os.Remove(h.path))
	}
	return err
}
