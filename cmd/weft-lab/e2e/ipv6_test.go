package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// Hosts whose IPv6 is switched off by sysctl take part.
func TestWithoutIPv6(t *testing.T) {
	c := newCluster(t, 2, func(topology *lab.Topology) {
		for i := range topology.Hosts {
			topology.Hosts[i].Sysctls = map[string]string{
				"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1",
			}
		}
	})
	for _, n := range c.nodes {
		if out := n.sh("ip -6 addr"); strings.TrimSpace(out) != "" {
			t.Fatalf("%s has IPv6 before the test: %s", n.Name(), out)
		}
	}
	c.nodes[0].launch()
	c.nodes[1].launch(c.nodes[0].Addr().String())
	c.waitMesh()
	boxes := c.attachEach()
	whole(c, boxes)
	eachPair(t, boxes, pingAll)
	for _, n := range c.nodes {
		if out := n.sh("ip -6 -o addr"); strings.Count(out, "\n") != 1 || !strings.Contains(out, "weft-wg") {
			t.Errorf("%s has IPv6 elsewhere than on weft-wg:\n%s", n.Name(), out)
		}
	}
}

// A kernel without IPv6 is refused at launch, with the reason, and nothing is
// left. It runs in a guest of its own:
//
//	bin/weft-lab guest --append ipv6.disable=1 -- -test.run TestKernelWithoutIPv6
func TestKernelWithoutIPv6(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		t.Skip("this kernel has IPv6; the test has a guest without to itself")
	}
	c := newCluster(t, 1)
	n := c.nodes[0]
	r := n.weft("launch", "--token", c.token)
	if r.Exit != 1 || !strings.Contains(r.Stderr, "no IPv6") || !strings.Contains(r.Stderr, "ipv6.disable=1") || r.Stdout != "" {
		t.Errorf("launch: %v", r)
	}
	if out := n.sh("ip -o link"); strings.Contains(out, "weft") {
		t.Errorf("interfaces are left:\n%s", out)
	}
	if err := n.noDaemon(); err != nil {
		t.Error(err)
	}
}
