package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/weftnet/weft/router/api"
)

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
	n.finds("kernel-ipv6", api.Problem, "", "the kernel has IPv6: no")
	if out := n.sh("ip -o link"); strings.Contains(out, "weft") {
		t.Errorf("interfaces are left:\n%s", out)
	}
	if err := n.noDaemon(); err != nil {
		t.Error(err)
	}
}
