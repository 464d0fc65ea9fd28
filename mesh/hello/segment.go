package hello

import (
	"context"
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// segment is the largest TCP segment of an introduction in bytes. It fits the
// narrowest path that tunnels are measured for (IPv4, 576 bytes). Where the
// message that says "too big" is lost on the way, an introduction with larger
// ones would never end, and there is no tunnel to measure the path with.
const segment = 536

// Listen listens for introductions. The listener is the caller's.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: smallSegments}
	config.SetMultipathTCP(false) // which has no such option before Linux 6.17
	return config.Listen(ctx, "tcp", address)
}

// smallSegments bounds the segments of a socket's connections, in both
// directions: whatever either end does alone is enough.
func smallSegments(_, _ string, c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment)
	})
	return errors.Join(err, serr)
}
