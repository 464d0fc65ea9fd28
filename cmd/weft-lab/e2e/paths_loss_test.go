package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// Three packets of ten are lost in every direction, for a minute or as long as a
// soak says. A path that works badly is no dead one: hardly any changes, and no
// host is taken for dead.
func TestLossyNetwork(t *testing.T) {
	parallelAs(t, calm, 65*time.Second)
	const most = 2 // changes of one pair in five minutes
	last := time.Minute
	if os.Getenv("WEFT_SOAK") != "" {
		last = max(streamTime(t), 10*time.Minute)
		if run.datapath == "kernel" { // a guest has nine minutes
			last = min(last, 6*time.Minute)
		}
	}
	c := newCluster(t, 4)
	for _, n := range c.nodes {
		if n.number == 1 {
			n.launch(withoutSpace)
		} else {
			n.launch(withoutSpace, c.nodes[0].Addr().String())
		}
	}
	c.waitMesh()
	boxes := c.attachEach()
	c.allReach(boxes, reachSoon)
	var all []lab.Fault
	for _, n := range c.nodes {
		for _, o := range c.nodes {
			if n != o {
				all = append(all, lab.Fault{From: n.Name(), To: o.Name(), Percent: 30})
			}
		}
	}
	if err := c.SetFaults(t.Context(), all...); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	var pulses []*pulse // traffic between all pairs makes them watch their paths
	for i, a := range boxes {
		for _, b := range boxes[:i] {
			pulses = append(pulses, startPulse(t, a, b))
		}
	}
	times := map[string][]time.Time{}
	look := func() error {
		for _, a := range c.nodes {
			for _, b := range c.nodes {
				if a == b {
					continue
				}
				pair := a.Name() + " to " + b.Name()
				known := times[pair]
				for _, h := range a.why(b).History {
					if h.At.After(begun) && (len(known) == 0 || h.At.After(known[len(known)-1])) {
						known = append(known, h.At)
						t.Logf("%s after %s: from %q to %q: %s", pair, h.At.Sub(begun).Round(time.Millisecond), h.From, h.To, h.Why)
					}
				}
				times[pair] = known
				for i := most; i < len(known); i++ {
					if d := known[i].Sub(known[i-most]); d < 5*time.Minute {
						return fmt.Errorf("%s changed %d times in %s", pair, most+1, d)
					}
				}
			}
		}
		return c.noFalseDeath()
	}
	for time.Since(begun) < last {
		if err := look(); err != nil {
			t.Fatal(err)
		}
		rest(t.Context(), 5*time.Second)
	}
	changes := 0
	for _, known := range times {
		changes += len(known)
	}
	for _, p := range pulses {
		if gap := p.answers.gap(begun, time.Now()); gap > 30*time.Second {
			t.Errorf("a pair of containers heard nothing of each other for %s", gap)
		}
	}
	t.Logf("FIGURE 30 %% loss for %s: %d changes at all ends of %d pairs", last, changes, len(pulses))
}
