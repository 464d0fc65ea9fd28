package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxConns and maxConnsFrom bound TCP connections, all and of one client.
	maxConns     = 256
	maxConnsFrom = 32
	// writeTime is how long a client may take to accept an answer.
	writeTime = 2 * time.Second
)

// sockets are the two sockets of one address.
type sockets struct {
	udp *net.UDPConn
	tcp *net.TCPListener
}

// listen opens the sockets of addr. The address need not exist yet, and may go
// and come back: they are bound with IP_FREEBIND and belong to no interface.
func listen(addr netip.AddrPort) (sockets, error) {
	if !addr.Addr().IsValid() || addr.Addr().IsUnspecified() {
		return sockets{}, fmt.Errorf("dns: listen on %s: name one address: on all of them the server would be open to other networks", addr)
	}
	config := net.ListenConfig{Control: freebind}
	tcp, err := config.Listen(context.Background(), "tcp", addr.String())
	if err != nil {
		return sockets{}, fmt.Errorf("dns: %w", err)
	}
	l := tcp.(*net.TCPListener)
	udp, err := config.ListenPacket(context.Background(), "udp", l.Addr().String())
	if err != nil {
		return sockets{}, errors.Join(fmt.Errorf("dns: %w", err), l.Close())
	}
	return sockets{udp: udp.(*net.UDPConn), tcp: l}, nil
}

func (s sockets) addr() netip.AddrPort {
	return unmap(s.udp.LocalAddr().(*net.UDPAddr).AddrPort())
}

func (s sockets) close() error { return errors.Join(s.udp.Close(), s.tcp.Close()) }

func freebind(network, _ string, c syscall.RawConn) error {
	level, option := unix.SOL_IP, unix.IP_FREEBIND
	if network == "tcp6" || network == "udp6" {
		level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	var err error
	if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); e != nil {
		return e
	}
	return err
}

// gate is a listener that bounds its connections, so that no container takes
// the daemon's descriptors: those above the bounds are closed at once.
type gate struct {
	net.Listener

	// mu guards the fields below.
	mu    sync.Mutex
	total int
	from  map[netip.Addr]int
}

func newGate(l net.Listener) *gate { return &gate{Listener: l, from: make(map[netip.Addr]int)} }

// Accept implements [net.Listener].
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var client netip.Addr
		if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			client = a.AddrPort().Addr().Unmap()
		}
		if g.enter(client) {
			return &guest{Conn: conn, leave: sync.OnceFunc(func() { g.leave(client) })}, nil
		}
		conn.Close()
	}
}

func (g *gate) enter(client netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= maxConns || g.from[client] >= maxConnsFrom {
		return false
	}
	g.total++
	g.from[client]++
	return true
}

func (g *gate) leave(client netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.from[client]--; g.from[client] == 0 {
		delete(g.from, client)
	}
}

// guest is a connection through a gate. The DNS library never gives up writing.
type guest struct {
	net.Conn
	leave func()
}

// Write implements [net.Conn]; it blocks for at most writeTime.
func (g *guest) Write(b []byte) (int, error) {
	if err := g.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	return g.Conn.Write(b)
}

// Close implements [net.Conn].
func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}
