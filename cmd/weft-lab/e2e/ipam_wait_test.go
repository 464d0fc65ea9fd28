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
	parallel(t) // it waits for what is said to people
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
// he gave away. A machine that does not come back is waited for, by name, and
// not for ever.
func TestPowerCutAllocates(t *testing.T) {
	parallelAs(t, idle, 65*time.Second) // it waits for a host that is dead
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
	var now []*box
	var asks []*request
	for _, n := range []*node{h1, h2} {
		b := n.start("now")
		now, asks = append(now, b), append(asks, n.request(t, "attach", b.Ref()))
	}
	for i, ask := range asks {
		ask.says(t, "weft: waiting: looking for host3 for up to 30 s")
		if s := now[i].n.mustSpace(); len(s.Pending) != 1 || !strings.Contains(s.Pending[0].Why, "host3") {
			t.Errorf("%s waits for %+v", now[i].n.Name(), s.Pending)
		}
	}
	for i, ask := range asks {
		if code := ask.ends(t, 30*time.Second); code != 0 {
			t.Fatalf("exit %d: %s", code, ask.stderr())
		}
		now[i].addr = netip.MustParseAddr(ask.succeeds(t))
	}
	// Whoever goes on first tells; the other one may get its address from there.
	if log := h1.log() + h2.log(); !strings.Contains(log, "addresses are given at risk") || !strings.Contains(log, "missing=host3") {
		t.Errorf("the logs do not tell of the risk:\n%s", log)
	}
	boot(h3)
	c.waitMesh()
	now = append(now, h3.give("now"))
	distinct(t, addrsOf(now...))
	c.wait("they reach each other", time.Second, func() error { return linked(now) })
	c.settles("what dead containers had is free", 30*time.Second)
	for _, n := range c.nodes {
		if s := n.mustSpace(); s.Active != 1 || len(s.Pending) > 0 {
			t.Errorf("%s counts %d addresses, pending %+v", n.Name(), s.Active, s.Pending)
		}
	}
	distinct(t, append(addrsOf(now...), boxes[2].addr))
}
