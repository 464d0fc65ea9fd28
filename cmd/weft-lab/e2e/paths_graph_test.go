package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// reachSoon is how long after the last join containers may take to reach each
// other, in any connected graph.
const reachSoon = 10 * time.Second

// joinAll launches everybody in any order: all containers reach each other soon,
// and every pair directly wherever that is possible.
func joinAll(t *testing.T, shape func(name string) lab.Topology, seed uint64) *cluster {
	t.Helper()
	c := newGraph(t, shape)
	if len(c.nodes) >= 12 && seed%2 == 1 {
		c.wave = 3 // so many come at the same moment
	}
	boxes := make([]*box, len(c.nodes))
	joined := c.joinGraph(shuffled(t, rand.New(rand.NewPCG(seed, 1)), len(c.nodes)), func(n *node) { boxes[n.number-1] = n.attachOwn() })
	c.allReach(boxes, reachSoon)
	reached := time.Since(joined)
	c.within("every pair is direct where it can be", reachSoon, c.bestPaths)
	more, relayed := c.detours()
	var cpu time.Duration
	for _, n := range c.nodes {
		cpu += n.cpu(t)
	}
	t.Logf("FIGURE %d hosts: after the last join all reach all in %s; of %d relayed ends %d use more relays than needed; %s of CPU per daemon",
		len(c.nodes), reached.Round(10*time.Millisecond), relayed, more, cpu/time.Duration(len(c.nodes)))
	return c
}

// Three hosts in a row: the ends reach each other through the one in the middle,
// and weft says so as it is documented.
func TestChain(t *testing.T) {
	parallel(t)
	c := joinAll(t, func(name string) lab.Topology { return lab.Chain(name, 3) }, 1)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	for _, tc := range []struct {
		on   *node
		peer string
		via  string
	}{{h1, "host3", "host2"}, {h3, "host1", "host2"}} {
		c.within(tc.on.Name()+" has measured the path", 5*time.Second, func() error {
			line := regexp.MustCompile(`(?m)^~> \S+ +relayed     encrypted   ` + tc.on.datapath() + ` +\S+\(` + tc.peer + `\) mtu=\d+ rtt=[0-9.]+m?s via=` + tc.via + `$`)
			if out := tc.on.must("status", "connections"); !line.MatchString(out) {
				return fmt.Errorf("%s has no line like %s in\n%s", tc.on.Name(), line, out)
			}
			return nil
		})
		c.within(tc.on.Name()+" says so elsewhere, too", 5*time.Second, func() error {
			if out := tc.on.must("status"); !regexp.MustCompile(`(?m)^    Connections: 2 \(1 established, 1 relayed\)$`).MatchString(out) {
				return fmt.Errorf("weft status says\n%s", out)
			}
			if out := tc.on.must("status", "peers"); !regexp.MustCompile(`(?m)^   ~> \S+ +\S+\(` + tc.peer + `\) +relayed$`).MatchString(out) {
				return fmt.Errorf("weft status peers says\n%s", out)
			}
			return nil
		})
	}
	c.within("the one in the middle is direct to both", 5*time.Second, func() error {
		if out := h2.must("status", "connections"); strings.Contains(out, "~>") || strings.Count(out, " established ") != 2 {
			return fmt.Errorf("weft status connections says\n%s", out)
		}
		return nil
	})
	// Who waits for connections takes relayed ones for good.
	h1.must("status", "--wait=connections=2", "--timeout=1m")
	c.within("host1 knows why", 5*time.Second, func() error {
		w := h1.why(h3)
		if w.Reason == "" || len(w.Via) != 1 || w.RTT <= 0 || len(w.History) == 0 || len(w.Relays) != 1 || !w.Relays[0].InUse {
			return fmt.Errorf("host3: %+v", w)
		}
		if out := h1.must("why", "host3"); !strings.Contains(out, "host2") || !strings.Contains(out, w.Reason) {
			return fmt.Errorf("weft why host3 prints\n%s", out)
		}
		// How many pings are lost on the way depends on the machine, too.
		if w := h1.why(h2); w.Reason != "" && !strings.Contains(w.Reason, "pings are lost") || len(w.Via) > 0 {
			return fmt.Errorf("host2, which it reaches directly: %+v", w)
		}
		return nil
	})
}

func TestStar(t *testing.T) {
	parallel(t)
	joinAll(t, func(name string) lab.Topology { return lab.Star(name, 5) }, 2)
}

func TestRing(t *testing.T) {
	parallel(t)
	joinAll(t, func(name string) lab.Topology { return lab.Ring(name, 6) }, 3)
}

// A chain of five needs three relays one after the other.
func TestLongChain(t *testing.T) {
	parallel(t)
	joinAll(t, func(name string) lab.Topology { return lab.Chain(name, 5) }, 4)
}

func TestTwoSites(t *testing.T) {
	parallel(t)
	joinAll(t, func(name string) lab.Topology { return lab.TwoSites(name, 5) }, 5)
}

// Any connected graph will do.
func TestRandomGraphs(t *testing.T) {
	t.Parallel()
	graphs := uint64(20)
	switch {
	case run.datapath == "kernel":
		graphs = 1
	case os.Getenv("WEFT_SOAK") != "":
		graphs = 200
	}
	base := rand.Uint64N(1 << 32)
	if text := os.Getenv("WEFT_SEED"); text != "" { // to see one again
		var err error
		if base, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
		graphs = 1
	}
	hosts := 12
	if run.mixed {
		// Twelve that have nothing to say would take more than both processors of
		// the guest: where a daemon gets a hundredth of one, no path is ever found.
		hosts = 6
	}
	if text := os.Getenv("WEFT_HOSTS"); text != "" {
		var err error
		if hosts, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	// Two at a time at most: more would measure how slow many daemons on one machine are.
	const lanes = 2
	for lane := range uint64(lanes) {
		t.Run(fmt.Sprintf("lane %d", lane), func(t *testing.T) {
			parallelAs(t, crowded, 3*time.Minute)
			for i := lane; i < graphs; i += lanes {
				t.Run(strconv.Itoa(int(i)), func(t *testing.T) {
					t.Logf("WEFT_SEED=%d", base+i)
					joinAll(t, func(name string) lab.Topology { return lab.Random(name, hosts, base+i) }, base+i)
				})
			}
		})
	}
}
