package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// speaking builds weftd of this source for other versions of the protocol, and
// returns its directory, in which this weft is, too.
func speaking(t *testing.T, oldest, newest int) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("SKIPPED, NOT TESTED: this test builds weftd: " + err.Error())
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(root, "cmd/settings/settings.go")
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	const now = "OldestProtocol, NewestProtocol = 1, 1\n"
	if strings.Count(string(text), now) != 1 {
		t.Fatalf("%s does not say %q", source, now)
	}
	dir := t.TempDir()
	other := filepath.Join(dir, "settings.go")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{source: other}})
	if err == nil {
		changed := strings.Replace(string(text), now, fmt.Sprintf("OldestProtocol, NewestProtocol = %d, %d\n", oldest, newest), 1)
		err = errors.Join(os.WriteFile(other, []byte(changed), 0o600), os.WriteFile(filepath.Join(dir, "overlay"), replace, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w",
		"-overlay", filepath.Join(dir, "overlay"), "-o", dir+"/", "./cmd/weftd")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Link(filepath.Join(run.bin, "weft"), filepath.Join(dir, "weft")); err != nil {
		b, err := os.ReadFile(filepath.Join(run.bin, "weft")) // it is on another disk
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "weft"), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A host of the next release still speaks the version of this one, a host of a
// later one does not. Who has one in common is connected; the others are told
// what is the matter, on both sides, whether they were named or heard of.
func TestProtocolVersions(t *testing.T) {
	parallelAs(t, engined, 35*time.Second)
	skipHere(t)
	next, later := speaking(t, 1, 2), speaking(t, 2, 3)
	c := newCluster(t, 3)
	first, both, far := c.nodes[0], c.nodes[1], c.nodes[2]
	by := func(n *node, dir string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		args = append([]string{filepath.Join(dir, "weft"), "launch", "--token", c.token, "--datapath", n.datapath()}, args...)
		if r := n.Run(ctx, args...); r.Err != nil {
			t.Fatalf("%s: %v", n.Name(), r)
		}
	}
	by(both, next)
	first.launch(both.Addr().String())
	c.waitMesh(first, both)
	by(far, later, both.Addr().String())
	c.wait("the later host and the one between them are connected", 2*time.Second, func() error {
		count, text, err := far.connections()
		if err == nil && count["established"] != 1 {
			err = errors.New(text)
		}
		return err
	})
	for _, p := range []struct {
		n    *node
		want string
	}{
		{first, "other protocol version: 2 to 3 there, 1 here"},
		{far, "other protocol version: 1 there, 2 to 3 here"},
	} {
		c.wait(p.n.Name()+" says why one is missing", 2*time.Second, func() error {
			if _, text, err := p.n.connections(); err != nil || !strings.Contains(text, p.want) {
				return fmt.Errorf("%w: connections:\n%s", errors.Join(err, errors.New("not said")), text)
			}
			if out := p.n.weft("doctor").Stdout; !strings.Contains(out, "no version of the protocol in common") {
				return fmt.Errorf("doctor:\n%s", out)
			}
			if log := p.n.log(); !strings.Contains(log, p.want) {
				return errors.New("nothing in the log")
			}
			return nil
		})
	}
	// The same by address.
	far.must("connect", first.Addr().String())
	c.wait("who dials is told", 2*time.Second, func() error {
		if _, text, err := far.connections(); err != nil || !strings.Contains(text, first.Addr().String()) || !strings.Contains(text, "other protocol version: 1 there, 2 to 3 here") {
			return fmt.Errorf("%w: connections:\n%s", errors.Join(err, errors.New("not said")), text)
		}
		return nil
	})
	wantLog(t, first, fmt.Sprintf("level=WARN msg=%q part=hello remote=%s err=%q", "introduction failed", far.Addr(),
		"other protocol version: 2 to 3 there, 1 here; run the same version of weft on both"))
	// One release further the first host is of the same cluster.
	first.must("stop")
	by(first, next)
	c.waitMesh()
}
