package e2e

import "testing"

func TestZZBench(t *testing.T) {
	c := joined(t, 2)
	boxes := c.attachEach()
	whole(c, boxes)
	w := &way{name: "x", from: boxes[0].Place, to: boxes[1].Place, at: boxes[1].addr, streams: 1}
	if _, err := boxes[1].Start(t.Context(), t.TempDir()+"/log", "iperf3", "--server"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, v := range []string{"1", "0"} {
			for _, n := range c.nodes {
				n.sh("for x in iptables ip6tables arptables; do echo " + v + " >/proc/sys/net/bridge/bridge-nf-call-$x; done")
			}
			r, err := w.measure(t.Context())
			t.Log("bridge-nf ", v, r, err)
		}
	}
	for _, n := range c.nodes {
		n.sh("nft list ruleset >/tmp/x; true")
	}
}
