package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// copyState gives a host the state directory of another one.
func copyState(t *testing.T, from, to *node) {
	t.Helper()
	dir := filepath.Join(to.Root(), "var/lib/weft")
	if out, err := exec.CommandContext(t.Context(), "cp", "-aT", filepath.Join(from.Root(), "var/lib/weft"), dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the state directory: %v: %s", err, out)
	}
}

// Two hosts cannot have one identity. A copied state directory is refused; of a
// cloned machine, where nothing shows the copy, both hosts and third ones tell.
func TestOneIdentityTwice(t *testing.T) {
	parallelAs(t, idle, 70*time.Second) // the two take the tunnels from each other twice a minute
	c := newCluster(t, 3)
	first, second, third := c.nodes[0], c.nodes[1], c.nodes[2]
	first.launch()
	third.launch(first.Addr().String())
	c.waitMesh(first, third)
	who := first.identity()

	// The directory alone.
	copyState(t, first, second)
	before := second.takeSnapshot()
	r := second.weft("launch", "--token", c.token, "--datapath", run.datapath, first.Addr().String())
	want := fmt.Sprintf("weft: state directory belongs to another machine: /var/lib/weft was written on machine %s and this is %s "+
		"(a copied directory or a cloned disk); run 'weft reset' here to start as a new host; its log is /run/weft/weftd.log\n",
		strings.TrimSpace(first.sh("cat /etc/machine-id")), strings.TrimSpace(second.sh("cat /etc/machine-id")))
	if r.Exit != 1 || r.Stdout != "" || r.Stderr != want {
		t.Errorf("%v\nwant exit 1 and %s", r, want)
	}
	after := second.takeSnapshot()
	for kind := range before {
		if kind == "files" { // it has a log now
			continue
		}
		if diff := cmp.Diff(before[kind], after[kind]); diff != "" {
			t.Errorf("%s: %v", kind, diffError(diff))
		}
	}
	// The remedy works.
	second.must("reset")
	second.launch(first.Addr().String())
	c.waitMesh()
	if second.identity() == who {
		t.Errorf("the reset host kept the identity %+v", who)
	}
	second.must("stop")
	second.must("reset")

	// The whole machine.
	copyState(t, first, second)
	if err := second.WriteFile("etc/machine-id", first.sh("cat /etc/machine-id")); err != nil {
		t.Fatal(err)
	}
	second.relaunch(third.Addr().String())
	if got := second.identity(); got != who {
		t.Fatalf("the clone is %+v, want %+v", got, who)
	}
	const own = `level=WARN msg="attention needed" part=mesh what="another host has our identity, ` +
		`a copied state directory or a cloned disk; run 'weft reset' on one of the two"`
	others := fmt.Sprintf(`level=WARN msg="attention needed" part=mesh what="two hosts have the identity of peer %s (NICKNAME), `+
		`a copied state directory or a cloned disk; run 'weft reset' on one of them"`, who.Name)
	wait(t, "all three tell of the clone", time.Minute, func() error {
		for _, n := range []*node{first, second} {
			if !strings.Contains(n.log(), own) {
				return fmt.Errorf("%s has not logged\n%s", n.Name(), own)
			}
		}
		if text := strings.NewReplacer("(host1)", "(NICKNAME)", "(host2)", "(NICKNAME)").Replace(third.log()); !strings.Contains(text, others) {
			return fmt.Errorf("%s has not logged\n%s", third.Name(), others)
		}
		return nil
	})
	for _, n := range c.nodes {
		wait(t, n.Name()+" warns", time.Second, func() error {
			var s struct{ Warnings []string }
			unmarshal(t, n.must("status", "-o", "json"), &s)
			if len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "copied state directory") {
				return fmt.Errorf("warnings: %q", s.Warnings)
			}
			return nil
		})
	}

	// And when one of them calls the other.
	const clone = "another host has our identity (a copied state directory?); run 'weft reset' on one of the two"
	second.must("connect", first.Addr().String())
	refusal{
		"", second, first.Addr().String(), first.Addr().String() + ":6783", "failed", clone, later, first, second.Addr().String(), "",
	}.check(t)
	wait(t, second.Name()+" warns of the target", time.Second, func() error {
		if !strings.Contains(second.log(), fmt.Sprintf("what=%q", "target "+first.Addr().String()+": "+clone)) {
			return errors.New("it does not")
		}
		return nil
	})

	// Once the clone is reset, it is a host like any other.
	second.must("stop")
	second.must("reset")
	second.launch(first.Addr().String())
	c.wait("all see all", 10*time.Second, func() error { return c.isMesh() })
}
