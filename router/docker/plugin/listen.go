package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/weftnet/weft/router/socket"
)

// Listen opens a socket for the plugin, for root alone. The
// socket that a dead daemon left is replaced; one that answers is an error. No
// other daemon may do the same at the same time.
func Listen(path string) (net.Listener, error) {
	ln, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen for Docker on %s: %w", path, err)
	}
	return ln, nil
}

func listen(path string) (*net.UnixListener, error) {
	// Docker makes its directory for root alone; it may not have been here yet.
	dir := filepath.Dir(path)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	ln, err := socket.Listen(context.Background(), path, 0o600)
	if errors.Is(err, socket.ErrInUse) {
		err = errStranger
	}
	return ln, err
}

// Remove removes what a dead daemon left of the socket, and directories that
// are empty. One that answers stays, and so does what is no socket.
func Remove(path string) {
	if socket.RemoveStale(path) != nil {
		return
	}
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
		_ = os.Remove(dir) // fails when it is not empty, and so it should
	}
}
