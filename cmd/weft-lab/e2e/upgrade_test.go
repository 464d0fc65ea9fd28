package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// upgradeGap is how long containers of a host should be apart while its daemon
// gives way to one of another release that forwards in its own process.
const upgradeGap = time.Second

// Five hosts run the previous release. One after the other gets this one, under
// traffic: both releases are in one mesh meanwhile, addresses and names stay, and
// a host that is not upgraded just now notices nothing.
func TestRollingUpgrade(t *testing.T) {
	parallelAs(t, calm, 30*time.Second)
	old := previousRelease(t)
	c := newCluster(t, 5)
	by := func(n *node, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if r := n.Run(ctx, append([]string{filepath.Join(old, "weft")}, args...)...); r.Err != nil {
			t.Fatalf("%s: %v", n.Name(), r)
		}
	}
	for _, n := range c.nodes {
		args := []string{"launch", "--token", c.token, "--datapath", n.datapath()}
		if n.number > 1 {
			args = append(args, c.nodes[0].Addr().String())
		}
		by(n, args...)
	}
	c.waitMesh()
	boxes := c.attachEach() // by commands of this release
	whole(c, boxes)
	next := func(i int) int { return (i + 1) % len(boxes) }
	var pulses []*pulse
	for i := range boxes {
		pulses = append(pulses, startPulse(t, boxes[i], boxes[next(i)]))
	}
	pulses[0].steady(t)
	for i, n := range c.nodes {
		begun := time.Now()
		n.must("stop")
		n.relaunch("--resume")
		took := time.Since(begun)
		c.within("the mesh is whole with "+n.Name()+" upgraded", 10*c.goal(), func() error { return c.isMesh() })
		c.within("its containers are reached", 10*upgradeGap, func() error { return boxes[i].reaches(boxes[next(i)]) })
		rest(t.Context(), 500*time.Millisecond)
		now := time.Now()
		for k, p := range pulses {
			gap, limit := p.lost(begun, now.Add(-time.Second/4)), upgradeGap
			if k == i || next(k) == i {
				gap, limit = p.answers.gap(begun, now), 10*upgradeGap
				t.Logf("FIGURE upgrade of %s, stop and launch take %s: pings from %s to %s interrupted for %s (goal %s)", n.Name(),
					took.Round(time.Millisecond), boxes[k].addr, boxes[next(k)].addr, gap.Round(time.Millisecond), upgradeGap)
			}
			if gap > limit*run.slow() {
				t.Errorf("upgrade of %s: containers of %s and %s were apart for %s", n.Name(), c.nodes[k].Name(), c.nodes[next(k)].Name(), gap)
			}
		}
	}
	for i, n := range c.nodes {
		for pid, name := range n.processes() {
			if exe := strings.TrimSpace(n.sh("readlink /proc/" + pid + "/exe || true")); name == "weftd" && filepath.Dir(exe) == old {
				t.Errorf("%s still runs %s", n.Name(), exe)
			}
		}
		if out := n.must("ps"); !strings.Contains(out, boxes[i].addr.String()+"/") {
			t.Errorf("%s lost its container's address %s:\n%s", n.Name(), boxes[i].addr, out)
		}
	}
	whole(c, boxes)
}

// previousRelease returns the directory of the previous release's programs,
// which make e2e builds from the history.
func previousRelease(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(run.bin, "previous")
	for _, p := range []string{"weft", "weftd"} {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			if os.Getenv("WEFT_PREVIOUS") == "required" {
				t.Fatal(err)
			}
			t.Skip("SKIPPED, NOT TESTED: " + err.Error() + "; 'make previous' builds it where the history is there")
		}
	}
	return dir
}
