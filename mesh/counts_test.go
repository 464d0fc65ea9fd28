package mesh

import (
	"testing"
	"time"

	metrics "github.com/hashicorp/go-metrics"
)

// What memberlist says to its library arrives here under its name.
func TestGossipCounts(t *testing.T) {
	g, err := CountGossip()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		metrics.IncrCounterWithLabels([]string{"memberlist", "udp", "sent"}, 100, nil)
	}
	for state, n := range map[string]float32{"alive": 4, "dead": 1} {
		metrics.SetGaugeWithLabels([]string{"memberlist", "node", "instances"}, n, []metrics.Label{{Name: "node_state", Value: state}})
	}
	for _, bytes := range []float32{10, 30} {
		metrics.AddSampleWithLabels([]string{"memberlist", "size", "remote"}, bytes, nil)
	}
	metrics.MeasureSinceWithLabels([]string{"memberlist", "probeNode"}, time.Now().Add(-2*time.Second), nil)

	for name, want := range map[string]float64{"udp.sent": 300, "node.instances.alive": 4, "node.instances.dead": 1, "nothing": 0} {
		if got := g.Value(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if got, want := g.Sampled("size.remote"), (Samples{Count: 2, Sum: 40, Last: 30}); got != want {
		t.Errorf("sizes: %+v, want %+v", got, want)
	}
	if got := g.Sampled("probeNode"); got.Count != 1 || got.Last < 2 || got.Last > 20 {
		t.Errorf("a probe of 2 s: %+v", got)
	}
}
