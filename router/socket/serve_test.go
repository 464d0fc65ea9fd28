package socket

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestServe: who asks when the end comes has a grace, and no more; the socket is
// closed in any case.
func TestServe(t *testing.T) {
	for _, tt := range []struct {
		name  string
		grace time.Duration
		done  bool // within the grace
	}{
		{"it is answered", time.Minute, true},
		{"it takes too long", time.Millisecond, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			path := filepath.Join(t.TempDir(), "x.sock")
			ln, err := Listen(t.Context(), path, 0o600)
			check(t, err)
			asked, free := make(chan struct{}), make(chan struct{})
			h := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(asked)
				select {
				case <-free:
				case <-r.Context().Done(): // the connection is closed
				}
				_, _ = io.WriteString(w, "done")
			})}
			ctx, stop := context.WithCancel(t.Context())
			ended, answered := make(chan error, 1), make(chan string, 1)
			go func() { ended <- Serve(ctx, h, ln, tt.grace) }()
			go func() {
				c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, "unix", path)
				}}}
				r, err := c.Get("http://weft/")
				if err != nil {
					answered <- ""
					return
				}
				b, _ := io.ReadAll(r.Body)
				_ = r.Body.Close()
				answered <- string(b)
			}()
			<-asked
			stop()
			if tt.done {
				close(free)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if got := <-answered; (got == "done") != tt.done {
				t.Errorf("answered %q", got)
			}
			check(t, RemoveStale(path))
		})
	}
}

// TestServeFails: a listener that fails is no end that was asked for.
func TestServeFails(t *testing.T) {
	ln, err := Listen(t.Context(), filepath.Join(t.TempDir(), "x.sock"), 0o600)
	check(t, err)
	check(t, ln.Close())
	if err := Serve(t.Context(), &http.Server{ReadHeaderTimeout: time.Second}, ln, time.Second); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
