package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/weftnet/weft/router/socket"
)

// socketDir is where `wg` and wgctrl look for in-process devices. It belongs to
// the machine, not to a network namespace.
const socketDir = "/var/run/wireguard"

func socketPath(name string) string { return filepath.Join(socketDir, name+".sock") }

// uapi is the socket by which an in-process device is configured and shown.
// Whoever can connect reads its private key, so only root can.
type uapi struct {
	// Constant after listenUAPI.

	path     string
	listener *net.UnixListener
	handle   func(net.Conn) // closes the connection
	log      *slog.Logger
	running  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]struct{}
	closed bool
}

// listenUAPI serves the device called name with handle. The socket that a
// killed predecessor left is replaced; one that is answered is somebody's.
func listenUAPI(name string, handle func(net.Conn), log *slog.Logger) (*uapi, error) {
	u := &uapi{path: socketPath(name), handle: handle, log: log, conns: make(map[net.Conn]struct{})}
	if err := u.listen(); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", u.path, err)
	}
	u.running.Go(u.accept)
	return u, nil
}

func (u *uapi) listen() error {
	if err := os.MkdirAll(socketDir, 0o755); err != nil {
		return err
	}
	var err error
	u.listener, err = socket.Listen(context.Background(), u.path, 0o600)
	if errors.Is(err, socket.ErrInUse) {
		return errors.New("another process runs a WireGuard device of that name")
	}
	return err
}

func (u *uapi) accept() {
	for {
		c, err := u.listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				u.log.Error("control socket failed", "path", u.path, "err", err)
			}
			return
		}
		u.mu.Lock()
		if u.closed {
			u.mu.Unlock()
			_ = c.Close()
			return
		}
		u.conns[c] = struct{}{}
		u.mu.Unlock()
		u.running.Go(func() {
			u.handle(c)
			u.mu.Lock()
			delete(u.conns, c)
			u.mu.Unlock()
		})
	}
}

// Close removes the socket, ends its connections and waits for them.
func (u *uapi) Close() error {
	u.mu.Lock()
	u.closed = true
	err := u.listener.Close()
	for c := range u.conns {
		_ = c.Close()
	}
	u.mu.Unlock()
	u.running.Wait()
	return err
}

// removeStale removes a socket that nobody answers. One that is answered, and
// whatever is no socket, stays.
func removeStale(path string) error {
	err := socket.RemoveStale(path)
	if errors.Is(err, socket.ErrInUse) || errors.Is(err, socket.ErrNoSocket) {
		return nil
	}
	return err
}

func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
