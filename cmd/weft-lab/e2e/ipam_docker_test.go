package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A container of a Docker engine that is restarted gets its address back; what
// a removed one had is free after half a minute, and not before.
func TestDockerKeepsAddress(t *testing.T) {
	parallelAs(t, ordinary, 40*time.Second) // it waits for half a minute
	if _, err := exec.LookPath("dockerd"); err != nil && run.datapath == "userspace" {
		t.Fatal("this test needs docker.io:", err)
	}
	c := joined(t, 2)
	n, other := c.nodes[0], c.nodes[1]
	if err := n.StartDocker(t.Context()); err != nil {
		t.Fatal(err)
	}
	var boxes []*box
	addrs := map[string]netip.Addr{}
	for _, name := range []string{"web", "db"} {
		if _, err := n.DockerRun(t.Context(), "--name", name); err != nil {
			t.Fatal(err)
		}
		addrs[name] = n.allot(name)
	}
	boxes = append(boxes, other.give("c2"))
	reach := func(a netip.Addr) error {
		ctx, cancel := tries(t, 500*time.Millisecond)
		defer cancel()
		_, err := boxes[0].Ping(ctx, a, 64, nil)
		return err
	}
	for round := range 2 {
		n.docker("restart", "-t", "0", "web")
		between := n.start(fmt.Sprintf("between%d", round))
		if a := n.allot(between.Ref()); a == addrs["web"] || a == addrs["db"] {
			t.Errorf("%s was given to another one while its container restarted", a)
		}
		if a := n.allot("web"); a != addrs["web"] {
			t.Errorf("after a restart it gets %s, it had %s", a, addrs["web"])
		}
		n.must("detach", between.Ref())
		c.wait("it answers again", time.Second, func() error { return reach(addrs["web"]) })
		c.wait("its name is there", time.Second, func() error { return n.lookUp("web", addrs["web"].String()) })
	}
	before := n.mustSpace().Active
	begun := time.Now()
	n.docker("rm", "-f", "db")
	c.wait("ps does not list it", time.Second, func() error {
		if out := n.must("ps"); strings.Contains(out, addrs["db"].String()) {
			return errors.New(out)
		}
		return nil
	})
	if got := n.mustSpace().Active; got != before && time.Since(begun) < 20*time.Second {
		t.Errorf("%d addresses are active right after a death, before %d", got, before)
	}
	c.wait("the address of the removed one is free", 30*time.Second, func() error {
		if got := n.mustSpace().Active; got != before-1 {
			return fmt.Errorf("%d are active", got)
		}
		return nil
	})
	if took := time.Since(begun); took < 25*time.Second {
		t.Errorf("it was free after %s", took)
	}
	if a := n.allot(n.start("next").Ref()); a != addrs["db"] {
		t.Errorf("the next one gets %s, free is %s", a, addrs["db"])
	}
	// The one that was restarted has its address for good.
	if a := n.allot("web"); a != addrs["web"] {
		t.Errorf("it gets %s, it had %s", a, addrs["web"])
	}
	c.wait("it still answers", time.Second, func() error { return reach(addrs["web"]) })
}
