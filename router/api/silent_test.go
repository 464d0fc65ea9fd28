package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestSilentDaemon: one that accepts and never answers is given up with a
// reason when it should have the answer at hand, and waited for otherwise.
func TestSilentDaemon(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("unix", t.TempDir()+"/weft.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // nobody accepts, as in a process that is stopped
	c := NewClient(ln.Addr().String())
	c.patience = 20 * time.Millisecond
	const want = "weftd has not answered for 20ms; see its log, and 'weft doctor'"
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrSilent) || err.Error() != want {
		t.Errorf("Status: %v", err)
	}
	for _, err := range c.Events(t.Context(), EventRequest{Follow: true}) {
		if !errors.Is(err, ErrSilent) {
			t.Errorf("Events: %v", err)
		}
	}
	if err := c.Logs(t.Context(), false, io.Discard); !errors.Is(err, ErrSilent) {
		t.Errorf("Logs: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*c.patience)
	defer cancel()
	if _, err := c.Attach(ctx, AttachRequest{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Attach, which may wait: %v", err)
	}
}

// slowly answers each request after a while, and gives the body a byte at a
// time, as long as the request goes on.
type slowly struct {
	answer, pause time.Duration
	left          int
	asking        context.Context
}

// RoundTrip implements [http.RoundTripper].
func (s *slowly) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asking = r.Context()
	if err := s.rest(s.answer); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(s), Request: r}, nil
}

// Read implements [io.Reader].
func (s *slowly) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	s.left--
	if err := s.rest(s.pause); err != nil {
		return 0, err
	}
	return copy(b, "a"), nil
}

func (s *slowly) rest(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-s.asking.Done():
		return context.Cause(s.asking)
	}
}

// TestPatience: an answer that takes long, and a body that comes slowly, are
// no silence; an answer that takes too long is one.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, err := net.Listen("unix", t.TempDir()+"/weft.sock")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close() // whose process it is, is asked there; the rest is not
		c := NewClient(ln.Addr().String())
		logs := func(answer time.Duration) (string, error) {
			c.http.Transport = &slowly{answer: answer, pause: time.Hour, left: 5}
			var b strings.Builder
			err := c.Logs(t.Context(), true, &b)
			return b.String(), err
		}
		if got, err := logs(answerTime - time.Second); got != "aaaaa" || err != nil && !errors.Is(err, ErrUnreachable) {
			t.Errorf("%q, %v", got, err)
		}
		if got, err := logs(answerTime + time.Second); got != "" || !errors.Is(err, ErrSilent) {
			t.Errorf("after too long: %q, %v", got, err)
		}
	})
}

func TestStopped(t *testing.T) {
	if Stopped(os.Getpid()) || Stopped(0) || Stopped(-1) {
		t.Error("we, or nobody, are said to be stopped")
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, syscall.WUNTRACED, nil); err != nil || !Stopped(pid) {
		t.Errorf("a process that was stopped: %v, stopped %t", err, Stopped(pid))
	}
}
