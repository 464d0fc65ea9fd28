package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/weftnet/weft/router/api"
)

// Every user of the host can ask at the status address. What all of them
// together may cost the daemon:
const (
	statusConnections = 256              // at the same time; more wait
	scrapes           = 4                // likewise; more are refused
	idleTime          = time.Minute      // a connection without a request
	readTime          = 10 * time.Second // for the reader of an answer that is no stream
	recentTime        = time.Second      // health is not looked at again within
)

// newStatusServer limits what a connection may take. Streams end when their
// readers do, so how long an answer takes is limited by [readWithin].
func newStatusServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// readWithin gives up on callers that do not take their answer within limit;
// zero: never. A limit of the connection's last request does not last.
func readWithin(limit time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var end time.Time
		if limit > 0 {
			end = time.Now().Add(limit)
		}
		_ = http.NewResponseController(w).SetWriteDeadline(end) // it fails where there is no connection
		next.ServeHTTP(w, r)
	})
}

// limitListener lets at most n connections be open: more wait in the queue of
// the kernel.
func limitListener(ln net.Listener, n int) net.Listener {
	return &limitedListener{Listener: ln, free: make(chan struct{}, n), closed: make(chan struct{})}
}

type limitedListener struct {
	net.Listener
	free   chan struct{} // holds a token for each that is open
	once   sync.Once
	closed chan struct{}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &limitedConn{Conn: c, release: sync.OnceFunc(func() { <-l.free })}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// recentStatus lets all who ask share a status that is recentTime old at most.
// It is safe for concurrent use.
type recentStatus struct {
	from statusReader  // constant
	turn chan struct{} // holds a token while nobody has the fields below

	at     time.Time // zero: there is none
	status api.Status
	err    error
}

func newRecentStatus(from statusReader) *recentStatus {
	s := &recentStatus{from: from, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	return s
}

// Status blocks until there is one, or ctx ends.
func (s *recentStatus) Status(ctx context.Context) (api.Status, error) {
	select {
	case <-s.turn:
	case <-ctx.Done():
		return api.Status{}, context.Cause(ctx)
	}
	defer func() { s.turn <- struct{}{} }()
	if s.at.IsZero() || time.Since(s.at) >= recentTime {
		status, err := s.from.Status(ctx)
		if ctx.Err() != nil { // it tells of who asked
			return status, err
		}
		s.at, s.status, s.err = time.Now(), status, err
	}
	return s.status, s.err
}
