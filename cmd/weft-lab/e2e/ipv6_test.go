package e2e

import (
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
