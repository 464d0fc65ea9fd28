package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// request is a command of weft that waits in the background.
type request struct {
	n   *node
	p   *lab.Process
	out string // the file that gets stdout; what it says on stderr is in p.Log
}

// request starts a command that may have to wait.
func (n *node) request(t *testing.T, args ...string) *request {
	t.Helper()
	dir := t.TempDir()
	r := &request{n: n, out: filepath.Join(dir, "stdout")}
	// The shell is gone before the command runs: signals go to the command.
	script := "exec weft " + strings.Join(args, " ") + " >" + r.out
	var err error
	if r.p, err = n.Start(t.Context(), filepath.Join(dir, "stderr"), "sh", "-c", script); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *request) stderr() string {
	b, err := os.ReadFile(r.p.Log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// says waits until stderr has the text, while the request waits.
func (r *request) says(t *testing.T, words ...string) {
	t.Helper()
	wait(t, fmt.Sprintf("stderr says %q", words), time.Second, func() error {
		for _, w := range words {
			if text := r.stderr(); !strings.Contains(text, w) {
				return fmt.Errorf("there is no %q in %q", w, text)
			}
		}
		return nil
	})
	select {
	case <-r.p.Done():
		t.Errorf("it does not wait: %v: %s", r.p.Wait(), r.stderr())
	default:
	}
}

// ends waits for the end and returns the exit code.
func (r *request) ends(t *testing.T, goal time.Duration) int {
	t.Helper()
	wait(t, "the request ends", goal, func() error {
		select {
		case <-r.p.Done():
			return nil
		default:
			return errors.New("it goes on: " + r.stderr())
		}
	})
	err := r.p.Wait()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

// succeeds waits until the request has done its work and returns what it
// printed.
func (r *request) succeeds(t *testing.T) string {
	t.Helper()
	if code := r.ends(t, 5*time.Second); code != 0 {
		t.Fatalf("exit %d: %s", code, r.stderr())
	}
	b, err := os.ReadFile(r.out)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(b), "\n")
}

// interrupted ends the request as Ctrl-C does; it must leave nothing, when that
// many others wait.
func (r *request) interrupted(t *testing.T, others int) {
	t.Helper()
	if err := r.p.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := r.ends(t, time.Second); code != 1 || !strings.HasSuffix(r.stderr(), "weft: interrupted\n") {
		t.Errorf("exit %d after an interrupt: %s", code, r.stderr())
	}
	if b, err := os.ReadFile(r.out); err != nil || len(b) > 0 {
		t.Errorf("it printed %q, %v", b, err)
	}
	r.n.c.wait("nothing is left of it", time.Second, func() error {
		s, err := r.n.space()
		if err == nil && (len(s.Pending) != others || s.Active > 0) {
			err = fmt.Errorf("%d active, pending: %+v", s.Active, s.Pending)
		}
		if err != nil {
			return err
		}
		return r.n.c.accounted(theRange(), r.n)
	})
}
