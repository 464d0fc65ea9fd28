package e2e

import (
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// With 25 ms of way from host to host and both ends sending all the time, no
// start, cut or switch makes two ends void each other's handshakes: they talk
// again soon, each time.
func TestBusyEnds(t *testing.T) {
	parallelAs(t, calm, 30*time.Second)
	const delay = 25 * time.Millisecond
	c := newGraph(t, func(name string) lab.Topology {
		topology := lab.Flat(name, 3)
		for i := range topology.Hosts {
			topology.Hosts[i].Links[0].Delay = delay
		}
		return topology
	})
	c.joinGraph(inOrder(3))
	boxes := c.attachEach()
	c.allReach(boxes, reachSoon)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	pulses := []*pulse{startPulse(t, boxes[0], boxes[1]), startPulse(t, boxes[1], boxes[0])}
	talks := func(what string, do func(), until func() error) {
		t.Helper()
		begun := time.Now()
		do()
		done := time.Now()
		if until != nil {
			c.within(what, returnTime, until)
		}
		for _, p := range pulses {
			p.steady(t)
		}
		gap := func(from time.Time) time.Duration {
			return max(pulses[0].answers.gap(from, time.Now()), pulses[1].answers.gap(from, time.Now()))
		}
		t.Logf("FIGURE both ends busy, %s between hosts: %s, which took %s: interrupted for %s, since then for %s", delay, what,
			done.Sub(begun).Round(10*time.Millisecond), gap(begun).Round(10*time.Millisecond), gap(done).Round(10*time.Millisecond))
		if gap(done) > 10*breakTime*run.slow() {
			t.Errorf("%s: they talk again only after %s", what, gap(done))
		}
	}
	again := func(nodes ...*node) func() {
		return func() {
			for _, n := range nodes {
				n.kill()
			}
			for _, n := range nodes {
				n.relaunch(withoutSpace)
			}
		}
	}
	must := func(f func() error) func() {
		return func() {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx := t.Context()
	path := func(want string) func() error { return func() error { return usesPath(h1, h2, want) } }
	rounds := []string{"first", "second"}
	few := run.datapath == "kernel" && !run.all // each start takes a quarter of a minute under emulation
	if few {
		rounds = rounds[:1]
	}
	talks("the beginning", func() {}, nil)
	for _, round := range rounds {
		talks("the first end is killed and starts, "+round+" time", again(h1), path("direct"))
		talks("the second end is killed and starts, "+round+" time", again(h2), path("direct"))
	}
	talks("both ends are killed and start", again(h1, h2), path("direct"))
	talks("the direct path is cut", must(func() error { return c.CutPair(ctx, "host1", "host2") }), path("host3"))
	if !few {
		talks("the relay is killed and starts", again(h3), path("host3"))
		talks("one end is killed and starts, relayed", again(h1), path("host3"))
	}
	talks("the direct path is back", must(func() error { return c.HealAll(ctx) }), path("direct"))
}
