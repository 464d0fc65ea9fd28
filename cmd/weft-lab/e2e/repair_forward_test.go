package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// dropForwarded makes a host drop what its rules do not know, bridged frames
// too, as one with Docker does.
const dropForwarded = `for x in iptables ip6tables; do
	echo 1 >/proc/sys/net/bridge/bridge-nf-call-$x || exit
	$x -P FORWARD DROP
done
`

// accepts counts our rules in a chain of iptables and of ip6tables.
func (n *node) accepts(chain string) (count [2]int) {
	n.c.t.Helper()
	for i, program := range []string{"iptables", "ip6tables"} {
		count[i] = strings.Count(n.sh(program+" -S "+chain+" 2>/dev/null || true"), "--comment weft ")
	}
	return count
}

// acceptsOnce says what is wrong unless there is one such rule in the chain and
// none in the other.
func (n *node) acceptsOnce(chain, other string) error {
	if in, out := n.accepts(chain), n.accepts(other); in != [2]int{1, 1} || out != [2]int{} {
		return fmt.Errorf("%s has %d accepts in %s (iptables, ip6tables) and %d in %s, want one and none", n.Name(), in, chain, out, other)
	}
	return nil
}

// reachAll says which container does not reach which, by IPv4 and by IPv6.
func reachAll(t *testing.T, boxes []*box) error {
	t.Helper()
	for _, a := range boxes {
		for _, b := range boxes {
			if a == b {
				continue
			}
			if err := a.reaches(b); err != nil {
				return err
			}
			to, err := b.LinkLocal("weft0")
			if err == nil {
				to, err = a.Scoped(to, "weft0")
			}
			if err != nil {
				return err
			}
			ctx, cancel := tries(t, 500*time.Millisecond)
			_, err = a.Ping(ctx, to, 64, nil)
			cancel()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// A FORWARD policy of DROP, with bridged frames passing through iptables,
// stops no traffic of the switch, whether it was there before the daemon or
// came later.
func TestForwardPolicyDrop(t *testing.T) {
	parallel(t)
	c := newCluster(t, 2)
	before, after := c.nodes[0], c.nodes[1]
	before.sh(dropForwarded)
	untouched := before.sh("iptables -S; ip6tables -S")
	before.launch()
	after.launch(before.Addr().String())
	c.waitMesh()
	boxes := c.attachEach()
	for _, n := range c.nodes {
		boxes = append(boxes, n.attach(fmt.Sprintf("c1%d", n.number), fmt.Sprintf("10.32.0.1%d", n.number)))
	}
	wait(t, "with the policy there before, all reach all", time.Second, func() error { return reachAll(t, boxes) })
	after.sh(dropForwarded)
	flow := func(what string) {
		t.Helper()
		wait(t, what, time.Second, func() error {
			for _, n := range c.nodes {
				if err := n.acceptsOnce("FORWARD", "DOCKER-USER"); err != nil {
					return err
				}
			}
			return reachAll(t, boxes)
		})
	}
	flow("with the policy set later, all reach all")
	for _, n := range c.nodes {
		n.sh("iptables -F FORWARD; ip6tables -F FORWARD")
	}
	flow("after the accept was flushed, all reach all")

	// And it is this rule that does it.
	before.must("stop")
	c.wait("the daemon ends", time.Second, before.noDaemon)
	c.wait("without a daemon containers of the host reach each other", time.Second, func() error { return boxes[0].reaches(boxes[2]) })
	before.sh("iptables -F FORWARD")
	if boxes[0].reaches(boxes[2]) == nil {
		t.Error("the policy drops nothing here: this test shows nothing")
	}
	before.relaunch("--resume")
	c.waitMesh()
	flow("with a new daemon, all reach all")

	after.sh("iptables -P FORWARD ACCEPT; ip6tables -P FORWARD ACCEPT")
	c.wait("with the policy ACCEPT no rule is needed", time.Second, func() error {
		if n := after.accepts("FORWARD"); n != [2]int{} {
			return fmt.Errorf("%d accepts in FORWARD", n)
		}
		return nil
	})
	after.quiet(t, time.Second)
	before.must("reset")
	if diff := cmp.Diff(untouched, before.sh("iptables -S; ip6tables -S")); diff != "" {
		t.Errorf("left after reset (-before +now):\n%s", diff)
	}
}

// A container that ends takes its names with it, everywhere.
func TestContainerEnds(t *testing.T) {
	parallel(t)
	c := joined(t, 2)
	boxes := c.attachEach()
	whole(c, boxes)
	gone := boxes[0]
	log := gone.n.log()
	if err := gone.Kill(); err != nil {
		t.Fatal(err)
	}
	c.wait("the container's name is gone", time.Second, func() error {
		return boxes[1].finds(gone.name)
	})
	c.wait("the container is forgotten", time.Second, func() error {
		if out := gone.n.must("ps"); strings.Contains(out, gone.addr.String()) {
			return fmt.Errorf("weft ps lists it:\n%s", out)
		}
		return nil
	})
	if lines := repairs(gone.n.log()[len(log):]); len(lines) > 0 {
		t.Errorf("it is no news for an operator:\n%s", strings.Join(lines, "\n"))
	}
}
