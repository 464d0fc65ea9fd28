package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

// moody is a daemon whose status is another each time.
type moody struct {
	daemon
	answers []func() (api.Status, error)
	cancel  context.CancelFunc
}

func (m *moody) Status(context.Context) (api.Status, error) {
	if len(m.answers) == 0 {
		m.cancel()
		return api.Status{}, context.Canceled
	}
	next := m.answers[0]
	m.answers = m.answers[1:]
	return next()
}

// writes keeps each write by itself.
type writes struct{ list []string }

func (w *writes) Write(b []byte) (int, error) {
	w.list = append(w.list, string(b))
	return len(b), nil
}

func TestWatchOnAPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		peer := func(name string) func() (api.Status, error) {
			return func() (api.Status, error) {
				return api.Status{Ready: true, Warnings: []string{"w"}, Targets: []string{name}}, nil
			}
		}
		gone := func() (api.Status, error) { return api.Status{}, fmt.Errorf("%w: no", api.ErrUnreachable) }
		m := &moody{answers: []func() (api.Status, error){peer("host2"), gone, gone, peer("host3")}, cancel: cancel}
		out, said := &writes{}, &bytes.Buffer{}
		p := &program{stdout: out, stderr: said}
		first, _ := peer("host1")()
		begun := time.Now()
		if err := p.watchStatus(ctx, m, first, view{section: targetsStatus, name: "", interval: 2 * time.Second}); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"\nhost1\n", "\nhost2\n", "\nhost3\n"}, out.list); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("took %s, want five times the interval", took)
		}
		want := "weft: warning: w\nweft: weftd is not reachable: no\nweft: warning: w\n"
		if diff := cmp.Diff(want, said.String()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWatchFails(t *testing.T) {
	p := &program{stdout: brokenPipe{}, stderr: &bytes.Buffer{}}
	err := p.watchStatus(t.Context(), &moody{}, api.Status{}, view{section: targetsStatus, interval: time.Hour})
	if err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("a pipe that is gone: %v", err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken") }

// TestFramesDoNotFlicker: a frame is one write that never empties the screen
// after the first, does not scroll it, and leaves nothing of a longer one.
func TestFramesDoNotFlicker(t *testing.T) {
	columns, rows := 20, 6
	s := &screen{size: func() (int, int) { return columns, rows }}
	frame := func(body string, remarks ...string) string { return string(s.frame("title", []byte(body), remarks)) }
	for _, tt := range []struct{ body, want string }{
		{"a\nb\n", "\x1b[2J\x1b[Htitle\x1b[K\r\na\x1b[K\r\nb\x1b[K\r\n\x1b[K\r\nweft: w\x1b[K\r\n\x1b[J"},
		{"a\n", "\x1b[Htitle\x1b[K\r\na\x1b[K\r\n\x1b[K\r\nweft: w\x1b[K\r\n\x1b[J"},
		{strings.Repeat("ü", 30), "\x1b[Htitle\x1b[K\r\n" + strings.Repeat("ü", 19) + "…\x1b[K\r\n\x1b[K\r\nweft: w\x1b[K\r\n\x1b[J"},
		{"a\x1b[2Jb", "\x1b[Htitle\x1b[K\r\na [2Jb\x1b[K\r\n\x1b[K\r\nweft: w\x1b[K\r\n\x1b[J"},
		{"1\n2\n3\n4\n5\n", "\x1b[Htitle\x1b[K\r\n1\x1b[K\r\n2\x1b[K\r\n3\x1b[K\r\n… 4 more lines\x1b[K\r\n\x1b[J"},
	} {
		if diff := cmp.Diff(tt.want, frame(tt.body, "w")); diff != "" {
			t.Errorf("%q:\n%s", tt.body, diff)
		}
	}
	columns, rows = 1, 1
	if got := frame("a"); strings.Count(got, "\n") != 1 {
		t.Errorf("on a screen of one line: %q", got)
	}
}
