package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// shellBlocks returns the ```sh blocks of a document of this repository, which
// the guest does not carry.
func shellBlocks(t testing.TB, name string) (blocks []string) {
	t.Helper()
	b, err := os.ReadFile("../../../" + name)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(b), -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// The commands of docs/other-runtimes.md work as they stand there, with Debian's
// podman: containers of other runtimes and bare namespaces are on the switch,
// have names, keep both through restarts where it says so, and leave nothing.
func TestPodman(t *testing.T) {
	parallelAs(t, engined, 25*time.Second)
	skipHere(t)
	if _, err := exec.LookPath("podman"); err != nil {
		t.Fatal("this test needs podman:", err)
	}
	c := joined(t, 2)
	h, other := c.nodes[0], c.nodes[1]
	if err := h.SetUpPodman(t.Context()); err != nil {
		t.Fatal(err)
	}
	run := "podman run " + strings.Join(h.PodmanFlags(), " ") + " "
	links := func() string {
		return h.sh("ls /sys/class/net /run/netns 2>/dev/null | grep -E '^(wv|web|job)' || true")
	}
	blocks := shellBlocks(t, "docs/other-runtimes.md")
	if len(blocks) != 5 {
		t.Fatalf("there are %d blocks", len(blocks))
	}
	step := func(i int) string {
		t.Helper()
		begun := time.Now()
		out := h.sh("set -e\n" + strings.ReplaceAll(blocks[i], "podman run ", run))
		t.Logf("%s(%s)", blocks[i], time.Since(begun).Round(time.Millisecond))
		return out
	}
	far := other.give("far")

	// A namespace, and a container in it, which was restarted.
	step(0)
	web := strings.TrimSpace(h.must("attach", "netns:web"))
	if out := h.sh("podman exec web ip -4 -o addr; podman exec web ls /sys/class/net"); !strings.Contains(out, " "+web+"/") || strings.Contains(out, "eth0") {
		t.Errorf("web has %s, podman shows\n%s", web, out)
	}
	c.wait("the other host's container finds web", time.Second, func() error { return far.finds("web", web) })
	c.wait("the other host's container reaches web", time.Second, func() error {
		return far.Run(t.Context(), "wget", "-q", "-T", "1", "-t", "1", "-O", "/dev/null", "http://"+web+"/bin/busybox").Err
	})

	// One beside it that has podman's network, too.
	step(1)
	db := strings.TrimSpace(h.must("ps")) // the last line is not known to be its
	c.wait("db is known to the other host", time.Second, func() error {
		r := other.weft("dns-lookup", "db")
		if a := strings.TrimSpace(r.Stdout); r.Err != nil || a == "" || !strings.Contains(db, " "+a+"/") {
			return fmt.Errorf("db is at %q, ps shows\n%s", a, db)
		}
		return r.Err
	})
	if out := h.sh("podman exec db ls /sys/class/net"); !strings.Contains(out, "eth0") || !strings.Contains(out, "weft0") {
		t.Errorf("db has the interfaces\n%s", out)
	}
	// What runs in bare namespaces does the asking.
	step(2)
	step(3)
	step(4)
	c.wait("nothing is left", 2*time.Second, func() error {
		list, err := h.listing()
		if err != nil {
			return err
		}
		if left := links(); left != "" || len(list) > 0 {
			return fmt.Errorf("there are %q, and ps lists %v", left, list)
		}
		return errors.Join(far.finds("web"), far.finds("db"))
	})
}
