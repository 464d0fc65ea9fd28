package e2e

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// Without root nothing works, and each command says why.
func TestMistakesWithoutRoot(t *testing.T) {
	parallel(t)
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.sh("mkdir /run/nobody && cp $(command -v weft) $(command -v weftd) /run/nobody")
	nobody := func(args ...string) lab.Result {
		return n.Run(t.Context(), append([]string{
			"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/run/nobody/weft",
		}, args...)...)
	}
	roots := []mistake{
		{"launch", 1, "launch needs root: it makes network interfaces; try 'sudo weft launch'"},
		{"launch --token=" + c.token + " 192.0.2.12", 1, "launch needs root: it makes network interfaces; try 'sudo weft launch'"},
		{"reset", 1, "reset needs root: it removes network interfaces; try 'sudo weft reset'"},
	}
	before := n.takeSnapshot()
	for _, m := range roots {
		m.make(t, n, nil, nobody)
	}
	if r := n.Run(t.Context(), "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/run/nobody/weftd"); r.Exit != 1 ||
		r.Stderr != "weftd: weftd must run as root: it makes interfaces and firewall rules\n" {
		t.Errorf("the daemon: %v", r)
	}
	if diff := cmp.Diff(before, n.takeSnapshot()); diff != "" {
		t.Error(diffError(diff))
	}
	n.launch()
	b := n.attach("c1", "10.32.0.1")
	n.listed("c1")
	state := n.state()
	for _, args := range []string{
		"attach 10.32.0.9/12 {c1}", "detach {c1}", "expose 10.32.0.9/12", "hide", "ps", "dns-add 10.32.0.9 -h c9.weft.internal",
		"dns-remove {c1}", "dns-lookup c1", "dns-args", "connect 192.0.2.12", "forget 192.0.2.12", "token", "logs", "status", "report", "stop",
		"prime", "rmpeer host2",
	} {
		roots = append(roots, mistake{args, 1, "open /run/weft/weft.sock: permission denied; run as root or as a member of group weft"})
	}
	for _, m := range roots {
		m.make(t, n, map[string]*box{"c1": b}, nobody)
	}
	if diff := cmp.Diff(state, n.state()); diff != "" {
		t.Errorf("changed (-before +after):\n%s", diff)
	}
}
