package e2e

import (
	"testing"
	"time"
)

// restartGap is how long containers of different hosts should be apart, from
// kill -9 to the first packet that comes again, when the daemon is started at
// once and forwards in its own process.
const restartGap = time.Second

// A daemon that is killed and started again takes over the switch port that its
// predecessor left, and initiates to the peers of that one at once, whichever
// end decides. Containers of one host do not notice; with the kernel's data
// path nobody does.
func TestRestartGap(t *testing.T) {
	parallelAs(t, calm, 12*time.Second)
	c := joined(t, 2)
	boxes := c.attachEach()
	neighbours := []*box{c.nodes[0].attach("n1", "10.32.0.11"), c.nodes[1].attach("n2", "10.32.0.12")}
	whole(c, boxes)
	across, talk := startPulse(t, boxes[0], boxes[1]), startTalk(t, boxes[0], boxes[1])
	local := []*pulse{startPulse(t, boxes[0], neighbours[0]), startPulse(t, boxes[1], neighbours[1])}
	across.steady(t)
	for i, n := range c.nodes { // one of them decides
		begun := time.Now()
		n.kill()
		n.relaunch()
		took := time.Since(begun)
		c.within("packets flow again", 10*restartGap, func() error { return boxes[0].reaches(boxes[1]) })
		rest(t.Context(), 500*time.Millisecond)
		now := time.Now()
		gap, apart := across.answers.gap(begun, now), local[i].lost(begun, now.Add(-time.Second/4))
		t.Logf("FIGURE restart of %s's daemon, kill and launch take %s: pings interrupted for %s, TCP for %s (goal %s), between containers of the host for %s",
			n.Name(), took.Round(time.Millisecond), gap.Round(time.Millisecond), talk.gap(begun, now).Round(time.Millisecond), restartGap, apart.Round(time.Millisecond))
		if gap > 10*restartGap*run.slow() {
			t.Errorf("containers of both hosts were apart for %s", gap)
		}
		if apart > restartGap {
			t.Errorf("containers of %s were apart for %s: they need no daemon", n.Name(), apart)
		}
	}
}
