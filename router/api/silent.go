package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// ErrSilent is returned by [Client] when a daemon is there and does not answer:
// its process is stopped, or hangs (exit code 3).
var ErrSilent = errors.New("weftd does not answer")

// answerTime is how long the daemon may take for what it has at hand. Whoever
// waits for more than that (an address, a name of another host) waits as long
// as the process is not stopped.
const answerTime = 30 * time.Second

// looks is how often in that time it is looked whether the process is stopped.
const looks = 15

// listen ends ctx when the daemon is silent for too long. The caller calls heard
// with the response, which may be nil: its body then holds what listen took.
func (c *Client) listen(ctx context.Context, waits bool) (listening context.Context, heard func(io.ReadCloser) io.ReadCloser) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(c.patience / looks)
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if err := c.silence(ctx, waits || n < looks); err != nil {
				cancel(err)
				return
			}
		}
	}()
	return ctx, func(body io.ReadCloser) io.ReadCloser {
		close(done)
		if body == nil {
			cancel(nil)
			return nil
		}
		return &heardBody{body, cancel}
	}
}

// heardBody gives back what listen took when it is closed.
type heardBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

// Close implements [io.Closer].
func (b *heardBody) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// silence says why nothing is heard, or nil when that is as it should be.
func (c *Client) silence(ctx context.Context, waits bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second) // a process that is stopped long enough accepts no more
	defer cancel()
	pid, err := c.Pid(ctx)
	switch {
	case errors.Is(err, ErrUnreachable):
		return nil // the request will say it
	case err == nil && Stopped(pid):
		return &silentError{fmt.Sprintf("weftd does not answer: its process %d is stopped; 'kill -CONT %d' lets it go on", pid, pid)}
	case waits:
		return nil
	}
	return &silentError{fmt.Sprintf("weftd has not answered for %s; see its log, and 'weft doctor'", c.patience)}
}

// silentError is an [ErrSilent] whose text says why.
type silentError struct{ text string }

func (e *silentError) Error() string { return e.text }

func (e *silentError) Unwrap() error { return ErrSilent }

// Stopped reports whether a process was stopped by a signal or a tracer. One
// that cannot be seen is not.
func Stopped(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if pid <= 0 || err != nil {
		return false
	}
	_, rest, ok := bytes.Cut(b[bytes.LastIndexByte(b, ')')+1:], []byte(" "))
	return ok && len(rest) > 0 && (rest[0] == 'T' || rest[0] == 't')
}
