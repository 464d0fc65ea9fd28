package api

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
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

// TestPatience: an answer that takes long, and a body that comes slowly, are
// no silence.
func TestPatience(t *testing.T) {
	noLeaks(t)
	c := serve(t, &fake{log: func(_ context.Context, w io.Writer) error {
		for range 5 {
			<-time.After(20 * time.Millisecond)
			_, _ = io.WriteString(w, "a")
		}
		return nil
	}})
	c.patience = 60 * time.Millisecond
	var b strings.Builder
	if err := c.Logs(t.Context(), true, &b); err != nil && !errors.Is(err, ErrUnreachable) || b.String() != "aaaaa" {
		t.Errorf("%q, %v", b.String(), err)
	}
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
