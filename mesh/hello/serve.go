package hello

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Serve answers introductions on ln until ctx ends, which is no error, or ln
// is closed by somebody else, which is one. It closes ln, and returns when
// every connection has ended.
//
// done is called for each completed introduction, from several goroutines. It
// must not block: the dialler waits for it.
func (h *Hello) Serve(ctx context.Context, ln net.Listener, done func(Result)) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer func() {
		stop()
		_ = ln.Close()
	}()
	for pause := time.Duration(0); ; {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept introductions: %w", err)
		case err != nil:
			// Out of descriptors or memory: others go on, and so do we.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			h.warn.warn(netip.Addr{}, fmt.Errorf("accept: %w", err))
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		from := source(remoteAddr(conn).Addr())
		p := h.gate.admit(from, func() { refuse(conn) })
		if p == nil {
			refuse(conn)
			continue
		}
		conns.Go(func() { h.serve(ctx, conn, p, done) })
	}
}

// refuse ends a connection that was not talked to yet, or hardly: seven bytes
// fit into any such socket.
func refuse(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = conn.Write([]byte(busyAlert))
	_ = conn.Close()
}

// serve is one admitted connection, to its end.
func (h *Hello) serve(ctx context.Context, tcp net.Conn, p *place, done func(Result)) {
	defer tcp.Close()
	_ = tcp.SetDeadline(time.Now().Add(h.limits.beforeProof))
	stop := context.AfterFunc(ctx, func() { _ = tcp.Close() })
	defer stop()
	remote := remoteAddr(tcp).Addr()

	s, err := h.accept(ctx, tcp)
	if s != nil {
		defer s.conn.Close()
	}
	if err != nil {
		if h.gate.leave(p) {
			err = errCrowd
		}
		// Who looks whether the port is reached has failed to prove nothing.
		if ctx.Err() == nil && !errors.Is(err, errNoWord) {
			if !errors.Is(err, ErrSelf) {
				h.gate.fail(p.from)
			}
			h.warn.warn(remote, err)
		}
		return
	}
	if !h.gate.prove(p) {
		_ = writeRefusal(s.conn, refuseBusy, "")
		return
	}
	defer h.gate.done()
	_ = tcp.SetDeadline(time.Now().Add(h.limits.afterProof))
	switch err := s.finish(done); {
	case err == nil:
		h.warn.forget(remote)
	case ctx.Err() == nil:
		h.warn.warn(remote, err)
	}
}

// accept is everything before the dialler has proven itself. The session is
// not nil when there is TLS to be closed.
func (h *Hello) accept(ctx context.Context, tcp net.Conn) (*session, error) {
	raw := &meteredConn{Conn: tcp, left: h.limits.unproven}
	conn := tls.Server(raw, h.server)
	if err := conn.HandshakeContext(ctx); err != nil {
		if len(raw.head) == 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, errNoWord
		}
		return nil, errStranger
	}
	s, err := h.newSession(conn, raw, false)
	if err != nil {
		return nil, err
	}
	return s, s.listen()
}
