package mesh

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	metrics "github.com/hashicorp/go-metrics"
)

// GossipCounts is what memberlist counts about itself. It does so for the whole
// process, by a sink that is global there.
type GossipCounts struct {
	mu      sync.Mutex // guards what follows
	values  map[string]float64
	samples map[string]Samples
}

// Samples are measurements of one kind.
type Samples struct {
	Count uint64
	Sum   float64 // seconds for times, else bytes or pieces
	Last  float64
}

// CountGossip makes memberlist count from now on. It is called once, before
// there is a [Mesh].
func CountGossip() (*GossipCounts, error) {
	g := &GossipCounts{values: make(map[string]float64), samples: make(map[string]Samples)}
	_, err := metrics.NewGlobal(&metrics.Config{FilterDefault: true, TimerGranularity: time.Millisecond}, sink{g})
	if err != nil {
		return nil, fmt.Errorf("count gossip: %w", err)
	}
	return g, nil
}

// Value returns a counter or a gauge by memberlist's name for it, such as
// "udp.sent"; zero when nothing was said of it yet.
func (g *GossipCounts) Value(name string) float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.values[name]
}

// NotUnderstood counts something authentic of another host that this version
// cannot read, and that was passed over: a message, a payload or a signal.
func (m *Mesh) NotUnderstood(what string) {
	if g := m.cfg.Counts; g != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.values["strange."+what]++
	}
}

// Sampled returns the measurements by memberlist's name for them, such as
// "probeNode".
func (g *GossipCounts) Sampled(name string) Samples {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.samples[name]
}

// timed are the measurements that are times.
var timed = map[string]bool{"probeNode": true, "pushPullNode": true, "gossip": true}

// sink is how memberlist tells. The names are memberlist's own, a fixed and
// small number of them; of the labels only the state of a member counts.
type sink struct{ counts *GossipCounts }

var _ metrics.MetricSink = sink{}

func nameOf(key []string, labels []metrics.Label) string {
	if len(key) > 0 && key[0] == "memberlist" {
		key = key[1:]
	}
	if i := slices.IndexFunc(labels, func(l metrics.Label) bool { return l.Name == "node_state" }); i >= 0 {
		key = append(slices.Clone(key), labels[i].Value)
	}
	return strings.Join(key, ".")
}

func (s sink) SetGaugeWithLabels(key []string, v float32, labels []metrics.Label) {
	s.counts.mu.Lock()
	defer s.counts.mu.Unlock()
	s.counts.values[nameOf(key, labels)] = float64(v)
}

func (s sink) IncrCounterWithLabels(key []string, v float32, labels []metrics.Label) {
	s.counts.mu.Lock()
	defer s.counts.mu.Unlock()
	s.counts.values[nameOf(key, labels)] += float64(v)
}

func (s sink) AddSampleWithLabels(key []string, v float32, labels []metrics.Label) {
	s.counts.mu.Lock()
	defer s.counts.mu.Unlock()
	name := nameOf(key, labels)
	last := float64(v)
	if timed[name] {
		last /= 1000 // they come in milliseconds
	}
	was := s.counts.samples[name]
	s.counts.samples[name] = Samples{Count: was.Count + 1, Sum: was.Sum + last, Last: last}
}

func (s sink) SetGauge(key []string, v float32)    { s.SetGaugeWithLabels(key, v, nil) }
func (s sink) EmitKey([]string, float32)           {}
func (s sink) IncrCounter(key []string, v float32) { s.IncrCounterWithLabels(key, v, nil) }
func (s sink) AddSample(key []string, v float32)   { s.AddSampleWithLabels(key, v, nil) }
