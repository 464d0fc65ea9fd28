package hello

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// memNet is a network in memory: connections with addresses, deadlines,
// buffers and, when delay is set, latency. It works inside testing/synctest.
type memNet struct {
	delay func() time.Duration // of each write; nil: none

	mu        sync.Mutex
	listeners map[netip.AddrPort]*memListener
	port      uint16
}

func newMemNet() *memNet {
	return &memNet{listeners: make(map[netip.AddrPort]*memListener), port: 40000}
}

type memListener struct {
	net    *memNet
	addr   netip.AddrPort
	accept chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (n *memNet) listen(addr netip.AddrPort) *memListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &memListener{net: n, addr: addr, accept: make(chan net.Conn, 1000), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.addr)
		l.net.mu.Unlock()
		close(l.closed)
	})
	return nil
}

func (l *memListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

// dialFrom is the dialer of a host.
func (n *memNet) dialFrom(from netip.Addr) func(context.Context, netip.AddrPort) (net.Conn, error) {
	return func(_ context.Context, to netip.AddrPort) (net.Conn, error) { return n.dial(from, to) }
}

func (n *memNet) dial(from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[to]
	if l == nil {
		return nil, &net.OpError{
			Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to),
			Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
		}
	}
	n.port++
	a, b := n.pair(netip.AddrPortFrom(from, n.port), to)
	l.accept <- b
	return a, nil
}

// pair returns the two ends of a connection.
func (n *memNet) pair(from, to netip.AddrPort) (dialler, listener *memConn) {
	there, back := &memPipe{wake: make(chan struct{}), delay: n.delay}, &memPipe{wake: make(chan struct{}), delay: n.delay}
	f, t := net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(to)
	return &memConn{in: back, out: there, local: f, remote: t}, &memConn{in: there, out: back, local: t, remote: f}
}

// memPipe is one direction.
type memPipe struct {
	delay func() time.Duration

	mu       sync.Mutex
	chunks   []memChunk
	last     time.Time // delivery of the last chunk: order is kept
	deadline time.Time // of the reader
	gone     bool      // the reader closed
	wake     chan struct{}
}

type memChunk struct {
	at time.Time
	b  []byte // nil: end
}

func (p *memPipe) wakeLocked() {
	close(p.wake)
	p.wake = make(chan struct{})
}

func (p *memPipe) put(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return syscall.EPIPE
	}
	at := time.Now()
	if p.delay != nil {
		at = at.Add(p.delay())
	}
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	p.chunks = append(p.chunks, memChunk{at, b})
	p.wakeLocked()
	return nil
}

func (p *memPipe) take(b []byte) (int, error) {
	for {
		p.mu.Lock()
		now, wake, until := time.Now(), p.wake, p.deadline
		switch {
		case p.gone:
			p.mu.Unlock()
			return 0, net.ErrClosed
		case !p.deadline.IsZero() && !now.Before(p.deadline):
			p.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(p.chunks) > 0 && !p.chunks[0].at.After(now):
			c := &p.chunks[0]
			if c.b == nil {
				p.mu.Unlock()
				return 0, io.EOF
			}
			n := copy(b, c.b)
			if c.b = c.b[n:]; len(c.b) == 0 {
				p.chunks = p.chunks[1:]
			}
			p.mu.Unlock()
			return n, nil
		case len(p.chunks) > 0 && (until.IsZero() || p.chunks[0].at.Before(until)):
			until = p.chunks[0].at
		}
		p.mu.Unlock()
		var timer <-chan time.Time
		if !until.IsZero() {
			t := time.NewTimer(time.Until(until))
			defer t.Stop()
			timer = t.C
		}
		select {
		case <-wake:
		case <-timer:
		}
	}
}

type memConn struct {
	in, out       *memPipe
	local, remote net.Addr
	once          sync.Once
}

func (c *memConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return c.in.take(b)
}

func (c *memConn) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.in.mu.Lock()
	gone := c.in.gone
	c.in.mu.Unlock()
	if gone {
		return 0, net.ErrClosed
	}
	if err := c.out.put(append([]byte(nil), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *memConn) Close() error {
	err := errors.New("closed already")
	c.once.Do(func() {
		err = nil
		_ = c.out.put(nil)
		c.in.mu.Lock()
		c.in.gone = true
		c.in.wakeLocked()
		c.in.mu.Unlock()
	})
	return err
}

func (c *memConn) LocalAddr() net.Addr  { return c.local }
func (c *memConn) RemoteAddr() net.Addr { return c.remote }

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.deadline = t
	c.in.wakeLocked()
	return nil
}

func (c *memConn) SetWriteDeadline(time.Time) error { return nil } // buffers have no end
func (c *memConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *memConn) String() string                   { return c.local.String() + " to " + c.remote.String() }
