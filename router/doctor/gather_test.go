package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// The rules are listed when they have changed, and not otherwise.
func TestChangedRules(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	calls := filepath.Join(dir, "calls")
	script := "#!/bin/sh\necho >>" + calls + "\ncat <<'.'\ntable inet other {\n\tchain in {\n\t\ttype filter hook input priority 0; policy drop;\n\t}\n}\n.\n"
	if err := os.WriteFile(filepath.Join(dir, "nft"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	var generation uint32
	var broken error
	step, _ := ChangedRules(func() (uint32, error) { return generation, broken })
	for i, tc := range []struct {
		generation uint32
		err        error
		calls      int64
	}{{1, nil, 1}, {1, nil, 1}, {1, nil, 1}, {2, nil, 2}, {2, errors.New("no netlink"), 3}, {2, nil, 4}, {2, nil, 4}} {
		generation, broken = tc.generation, tc.err
		facts := NewGatherer().Gather(t.Context(), Facts{}, step)
		info, err := os.Stat(calls)
		if err != nil || info.Size() != tc.calls {
			t.Errorf("look %d: %v, %v, want %d calls", i+1, info, err, tc.calls)
		}
		if facts.Firewall.Err != "" || len(facts.Stuck) > 0 || len(facts.Firewall.Rules) == 0 {
			t.Errorf("look %d: %+v, %v", i+1, facts.Firewall, facts.Stuck)
		}
	}
}

// TestSharedSteps: two looks at once are one, also when the first looker goes
// away; what it finds counts for both.
func TestSharedSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGatherer()
		var begins atomic.Int32
		step := Step{Name: "slow", Run: func(ctx context.Context) (func(*Facts), error) {
			begins.Add(1)
			select {
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return func(f *Facts) { f.Port = 7 }, nil
		}}
		other := step
		other.Variant = "other"
		first, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			if f := g.Gather(first, Facts{}, step); f.Port != 0 || len(f.Stuck) != 1 {
				t.Errorf("the one who went away: %+v", f)
			}
		})
		for range 3 {
			wait.Go(func() {
				time.Sleep(time.Second)
				if f := g.Gather(t.Context(), Facts{}, step, other); f.Port != 7 || len(f.Stuck) > 0 {
					t.Errorf("another one: %+v", f)
				}
			})
		}
		time.Sleep(time.Second / 2)
		cancel()
		wait.Wait()
		if n := begins.Load(); n != 2 {
			t.Errorf("begun %d times, want once for each variant", n)
		}
	})
}

// TestSlowRules: what takes long to list is listed again after five minutes by a
// look that nobody asked for, and at once for somebody who asks.
func TestSlowRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes, reads, generation := 2*time.Second, 0, uint32(0)
		l := &listing{generation: func() (uint32, error) { generation++; return generation, nil }, read: func(context.Context) Firewall {
			reads++
			time.Sleep(takes)
			return Firewall{Rules: Ruleset{{Name: "x"}}}
		}}
		own, asked := l.steps()
		look := func(s Step, want int) {
			t.Helper()
			f := NewGatherer().Gather(t.Context(), Facts{}, s)
			if reads != want || len(f.Firewall.Rules) != 1 || len(f.Stuck) > 0 {
				t.Errorf("%d lists, want %d: %+v", reads, want, f)
			}
			time.Sleep(30 * time.Second)
		}
		look(own, 1)
		for range 8 {
			look(own, 1)
		}
		look(asked, 2)
		time.Sleep(slowGap)
		takes = time.Second / 2
		look(own, 3)
		look(own, 4)
	})
}

// TestTooLarge: a ruleset that was read in part is none that anything is said of.
func TestTooLarge(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	head := "echo 'table inet x {'; echo ' chain in {'; echo '  type filter hook input priority 0; policy drop;'\n"
	for name, script := range map[string]string{
		"bytes": head + "head -c 9000000 /dev/zero | tr '\\0' 'a' | fold -w 500\n",
		"lines": head + "yes 'tcp dport 1 accept' | head -n 60000\n",
		"line":  head + "head -c 2000000 /dev/zero | tr '\\0' 'a'\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, "nft"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
		f := readRules(t.Context())
		if !f.TooLarge || !strings.Contains(f.Err, "too large") {
			t.Errorf("%s: %t %q", name, f.TooLarge, f.Err)
		}
		if list := summary(Check(Facts{Daemon: true, Port: 6783, Firewall: f})); len(list) != 1 || list[0] != "note firewall-unread" {
			t.Errorf("%s: %v", name, list)
		}
	}
}

// TestTryWrite: nothing is left, and one name is used where files need one.
func TestTryWrite(t *testing.T) {
	cannot := func(dir string) (*os.File, error) {
		return nil, &os.PathError{Op: "open", Path: dir, Err: unix.EOPNOTSUPP}
	}
	seen := ""
	watch := func(dir string) (*os.File, error) {
		f, err := nameless(dir)
		if list, lerr := os.ReadDir(dir); lerr != nil || err == nil && len(list) > 0 {
			seen = "a name"
		}
		return f, err
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, probeName), []byte("of one that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, open := range []func(string) (*os.File, error){cannot, watch} {
		for _, sync := range []bool{false, true} {
			if err := tryWrite(dir, sync, open); err != nil {
				t.Error(err)
			}
			if list, err := os.ReadDir(dir); err != nil || len(list) > 0 || seen != "" {
				t.Errorf("left: %v %v %s", list, err, seen)
			}
		}
	}
	if err := tryWrite(filepath.Join(dir, "none"), true, nameless); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
}
