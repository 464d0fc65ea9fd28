package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// Whoever waits for an address can be told to give up, in every way there is,
// and nothing is left of it.
func TestWaitingEnds(t *testing.T) {
	t.Parallel() // it waits for what is said to people
	c := newCluster(t, 2)
	n := c.nodes[0]
	n.launch(c.nodes[1].Addr().String()) // which is not up
	const why = "awaiting consensus (quorum: 2, known: 1)"
	nothing := func(what string, pending int) {
		t.Helper()
		c.wait(what+": nothing is left of it", time.Second, func() error {
			s, err := n.space()
			if err == nil && (s.Active > 0 || len(s.Pending) != pending) {
				err = fmt.Errorf("%d active, pending %+v", s.Active, s.Pending)
			}
			if err != nil {
				return err
			}
			if ends := n.sh("ip -o link show type veth | grep -vc eth0; true"); ends != "0\n" {
				return fmt.Errorf("%s ends of containers are there", ends)
			}
			return c.accounted(theRange(), n)
		})
	}
	var boxes []*box
	var asks []*request
	for i := range 5 {
		boxes = append(boxes, n.start(fmt.Sprintf("c%d", i+1)))
		asks = append(asks, n.request(t, "attach", boxes[i].Ref()))
	}
	asks = append(asks, n.request(t, "expose"))
	for _, r := range asks {
		r.says(t, why)
	}
	// Ctrl-C, and a client that dies.
	asks[0].interrupted(t, len(asks)-1)
	if err := asks[1].p.Signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	asks[1].ends(t, time.Second)
	nothing("a client that died", len(asks)-2)
	// The container ends, or somebody detaches it.
	if err := boxes[2].Kill(); err != nil {
		t.Fatal(err)
	}
	n.must("detach", boxes[3].Ref())
	n.must("hide")
	for _, w := range []struct {
		ask  int
		word string
		goal time.Duration
	}{
		{3, "it was detached meanwhile", time.Second},
		{5, "it was detached meanwhile", time.Second},
		{2, "it ended meanwhile", 15 * time.Second}, // nobody tells of a container without an interface
	} {
		if code := asks[w.ask].ends(t, w.goal); code != 1 || !strings.Contains(asks[w.ask].stderr(), w.word) {
			t.Errorf("exit %d, want 1 and %q: %s", code, w.word, asks[w.ask].stderr())
		}
	}
	nothing("a container that ended", 1)
	// The daemon is stopped, or killed.
	n.must("stop")
	if code := asks[4].ends(t, time.Second); code == 0 || strings.Count(asks[4].stderr(), "\n") != 2 {
		t.Errorf("exit %d of a request whose daemon was stopped: %s", code, asks[4].stderr())
	}
	n.relaunch("--resume")
	nothing("a daemon that was stopped", 0)
	last := n.request(t, "attach", boxes[0].Ref())
	last.says(t, why)
	n.kill()
	if code := last.ends(t, time.Second); code == 0 {
		t.Error("the request succeeded")
	}
	n.relaunch("--resume")
	nothing("a daemon that was killed", 0)
}

// After a power cut of all machines nobody gives addresses before he knows what
// he gave away: one machine that does not come back is named, with what to do.
func TestPowerCutAllocates(t *testing.T) {
	t.Parallel() // it waits for the grace of containers that died
	c := joined(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	boxes := c.giveEach()
	c.settles("all agree", time.Second)
	for _, n := range c.nodes {
		if err := n.Halt(); err != nil {
			t.Fatal(err)
		}
	}
	boot := func(n *node) {
		t.Helper()
		if err := n.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.relaunch("--resume")
	}
	boot(h1)
	boot(h2)
	c.waitMesh(h1, h2)
	b := h1.start("b1")
	ask := h1.request(t, "attach", b.Ref())
	ask.says(t, "host3", "out of reach", "weft rmpeer")
	boot(h3)
	b.addr = netip.MustParseAddr(ask.succeeds(t))
	c.waitMesh()
	now := []*box{b, h2.give("b2"), h3.give("b3")}
	distinct(t, addrsOf(append(boxes, now...)...))
	c.wait("they reach each other", time.Second, func() error { return linked(now) })
	c.settles("what dead containers had is free", 35*time.Second)
	for _, n := range c.nodes {
		if s := n.mustSpace(); s.Active != 1 {
			t.Errorf("%s counts %d addresses", n.Name(), s.Active)
		}
	}
}
