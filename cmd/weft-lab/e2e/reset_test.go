package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// stop leaves containers attached, reset leaves nothing.
func TestStopAndReset(t *testing.T) {
	parallelAs(t, ordinary, 25*time.Second)
	c := newCluster(t, 2)
	var before []snapshot
	for _, n := range c.nodes {
		n.sh("iptables -S >/dev/null; ip6tables -S >/dev/null")
		before = append(before, n.takeSnapshot())
	}
	c.nodes[0].launch()
	c.nodes[1].launch(c.nodes[0].Addr().String())
	c.waitMesh()
	boxes := c.attachEach()
	neighbour := c.nodes[0].attach("c9", "10.32.0.9")
	whole(c, append(boxes, neighbour))
	h1 := c.nodes[0]
	h1.must("expose", "10.32.0.100/12", "-h", "gateway.weft.internal")
	with := h1.takeSnapshot()
	for _, kind := range []string{"links", "addresses", "routes", "rules", "nft", "sysctls", "files", "sockets", "processes"} {
		if cmp.Equal(before[0][kind], with[kind]) {
			t.Errorf("a snapshot with weft has the same %s as one without: it would not show what is left", kind)
		}
	}

	h1.must("stop")
	c.wait("the daemon ends", time.Second, h1.noDaemon)
	c.wait("after stop, containers of one host reach each other", time.Second, func() error { return boxes[0].reaches(neighbour) })
	if h1.datapath() == "kernel" {
		c.wait("after stop, containers of two hosts do", time.Second, func() error { return boxes[0].reaches(boxes[1]) })
	}
	if r := h1.weft("stop"); r.Exit != 0 || r.Stderr == "" {
		t.Errorf("stop of a stopped daemon: %v", r)
	}
	if r := h1.weft("status"); r.Exit != 3 {
		t.Errorf("status of a stopped daemon: %v", r)
	}
	h1.relaunch("--resume")
	c.waitMesh()
	whole(c, append(boxes, neighbour))

	// One host is reset with its daemon running, the other with it killed.
	for i, n := range c.nodes {
		if i == 1 {
			n.kill()
		}
		n.must("reset")
		for _, b := range n.Containers() {
			if addrs, err := b.Addrs("weft0"); err == nil {
				t.Errorf("%s still has weft0 with %v", b.Name(), addrs)
			}
			if err := b.Kill(); err != nil {
				t.Error(err)
			}
		}
		c.wait("nothing is left on "+n.Name(), 2*time.Second, func() error {
			if diff := cmp.Diff(before[i], n.takeSnapshot()); diff != "" {
				return diffError(diff)
			}
			return nil
		})
		if r := n.weft("reset"); r.Exit != 0 {
			t.Errorf("reset with nothing to reset: %v", r)
		}
	}
}

type diffError string

func (d diffError) Error() string { return "left behind (-before +now):\n" + string(d) }
