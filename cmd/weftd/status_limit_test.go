package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/router/api"
)

// queue is a listener whose connections wait in a channel.
type queue chan net.Conn

func (q queue) Accept() (net.Conn, error) {
	c, ok := <-q
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (q queue) Close() error { close(q); return nil }

func (q queue) Addr() net.Addr { return &net.TCPAddr{} }

// tally counts the connections that are open, from when they are accepted until
// they are closed. The server's own count of a closed one may come after the next
// one was accepted in its place.
type tally struct {
	net.Listener
	open, most atomic.Int32
}

// Accept is called by one goroutine.
func (l *tally) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.most.Store(max(l.most.Load(), l.open.Add(1)))
	return &talliedConn{Conn: c, close: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
}

type talliedConn struct {
	net.Conn
	close func()
}

func (c *talliedConn) Close() error {
	c.close()
	return c.Conn.Close()
}

// However many connections somebody opens and keeps, few are served, and idle
// ones end.
func TestStatusConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, all = 3, 10
		q := make(queue, all)
		for range all {
			here, there := net.Pipe()
			defer there.Close()
			q <- here
			go func() { // one request, and then none
				_, _ = there.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
				_, _ = io.Copy(io.Discard, there)
			}()
		}
		count := &tally{Listener: q}
		srv := newStatusServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
		served := make(chan error, 1)
		go func() { served <- srv.Serve(limitListener(count, limit)) }()
		synctest.Wait()
		if n := count.open.Load(); n != limit {
			t.Errorf("%d are served, want %d", n, limit)
		}
		time.Sleep(all * idleTime)
		if open, most := count.open.Load(), count.most.Load(); open != 0 || most > limit {
			t.Errorf("%d are left of those without a request, at most %d were served", open, most)
		}
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// countedStatus counts who asks.
type countedStatus struct{ asked atomic.Int32 }

func (c *countedStatus) Status(ctx context.Context) (api.Status, error) {
	c.asked.Add(1)
	time.Sleep(10 * time.Millisecond)
	return api.Status{Ready: true}, context.Cause(ctx)
}

// A thousand who ask at once whether the daemon is alive cost it one look.
func TestHealthIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &countedStatus{}
		recent := newRecentStatus(c)
		ask := func(ctx context.Context) int {
			w := httptest.NewRecorder()
			healthz(recent).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/healthz", nil))
			return w.Code
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if ask(gone) != http.StatusServiceUnavailable {
			t.Error("who is gone has an answer")
		}
		c.asked.Store(0)
		for range 1000 {
			go func() {
				if code := ask(t.Context()); code != http.StatusOK {
					t.Errorf("%d", code)
				}
			}()
		}
		time.Sleep(recentTime / 2)
		synctest.Wait()
		if n := c.asked.Load(); n != 1 {
			t.Errorf("the daemon was asked %d times", n)
		}
		time.Sleep(recentTime)
		if ask(t.Context()); c.asked.Load() != 2 {
			t.Error("an old status is shown")
		}
	})
}

// Who does not read an answer is not waited for; a stream on the same connection
// is.
func TestReadWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		ended := make(chan error, 2)
		mux := http.NewServeMux()
		write := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			var err error
			for i := 0; i < 100 && err == nil; i++ {
				_, err = w.Write(make([]byte, 64<<10))
			}
			ended <- err
		})
		mux.Handle("/", readWithin(readTime, write))
		srv := newStatusServer(mux, slog.New(slog.DiscardHandler))
		q := make(queue, 1)
		q <- here
		go func() { _ = srv.Serve(q) }()
		if _, err := there.Write([]byte("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if err := <-ended; err == nil || time.Since(begun) != readTime {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		_ = srv.Close()
	})
}
