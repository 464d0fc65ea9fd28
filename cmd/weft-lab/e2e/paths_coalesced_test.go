package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// A network card that loses whatever host1 gives it in one piece to be cut up:
// pings pass, and nothing that is large, until host1 sends one by one. It says so
// in the log, to who asks why, and in a metric, and goes back when it is mended.
// The other host has a card that works.
func TestCoalescedLost(t *testing.T) {
	parallelAs(t, calm, 15*time.Second)
	skipHere(t)
	const soon = 30 * time.Second // the MTU is searched first
	c := newCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	dev := strings.Fields(strings.SplitN(h1.sh("ip -o route get "+h2.Addr().String()), " dev ", 2)[1])[0]
	h1.sh(`nft "add table netdev card
		add chain netdev card out { type filter hook egress device ` + dev + ` priority 0; }
		add rule netdev card out udp dport 6784 meta length > 1600 counter drop"`)
	h1.launch(withoutSpace)
	h2.launch(withoutSpace, h1.Addr().String())
	c.waitMesh()
	boxes := c.attachEach()
	c.allReach(boxes, reachSoon)
	metric := fmt.Sprintf("weft_peer_single_sends{peer=%q}", h2.identity().Name)
	single := func(n *node, want bool) func() error {
		o := c.nodes[2-n.number]
		return func() error {
			p, err := n.pathTo(o)
			if err == nil && p.Single != want {
				err = fmt.Errorf("%s sends one by one: %t", n.Name(), p.Single)
			}
			return err
		}
	}
	mb := func(what string) {
		t.Helper()
		ctx, cancel := tries(t, 20*time.Second)
		defer cancel()
		begun := time.Now()
		if err := lab.TransferTCP(ctx, boxes[0].Place, boxes[1].Place, boxes[1].addr, lab.Payload(4<<20, marker)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		t.Logf("FIGURE 4 MB from host1 %s: %s", what, time.Since(begun).Round(time.Millisecond))
	}

	took := c.within("host1 sends one by one", soon, single(h1, true))
	t.Logf("FIGURE noticed %s after the mesh stood", took.Round(100*time.Millisecond))
	c.within("host2 does not", soon, single(h2, false))
	mb("one by one")
	if w := h1.why(h2); !strings.Contains(w.Reason, "UDP GSO") || !strings.Contains(h1.must("why", "host2"), w.Help) {
		t.Errorf("why: %q, %q", w.Reason, w.Help)
	}
	if m, err := h1.metrics(); err != nil || m[metric] != 1 {
		t.Errorf("%s %v, %v", metric, m[metric], err)
	}
	if n := strings.Count(h1.log(), "(UDP GSO) do not arrive"); n != 1 {
		t.Errorf("%d lines in the log, want 1", n)
	}

	eaten := h1.sh("nft list table netdev card")
	mb("one by one, again")
	if now := h1.sh("nft list table netdev card"); now != eaten {
		t.Errorf("something is still sent in one piece, before and after:\n%s\n%s", eaten, now)
	}
	h1.sh("nft delete table netdev card; ip addr add 203.0.113.77/32 dev " + dev) // what moves is tested again
	c.within("host1 sends in one piece again", soon, single(h1, false))
	mb("in one piece")
	if m, err := h1.metrics(); err != nil || m[metric] != 0 {
		t.Errorf("%s %v, %v", metric, m[metric], err)
	}
}
