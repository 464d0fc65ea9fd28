package main

import (
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weftnet/weft/router/api"
)

// TestSwitchMetrics wants each number under its own name, which a table of
// functions makes easy to get wrong.
func TestSwitchMetrics(t *testing.T) {
	m := newMetrics(nil, nil, nil)
	status := &api.SwitchStatus{
		Offload: "tcp", SentFrames: 1, SentBytes: 2, ReceivedFrames: 3, ReceivedBytes: 4, SuperSent: 5, SuperReceived: 6,
		Flooded: 7, Answered: 8, TooBig: 9, Moves: 10, Refused: 11, Astray: 12, Known: 13, Learnt: 14, Remotes: 16,
		Dropped: map[string]uint64{"vni": 15, "short": 0},
	}
	values := []string{
		"weft_switch_transmit_frames_total 1", "weft_switch_transmit_bytes_total 2",
		"weft_switch_receive_frames_total 3", "weft_switch_receive_bytes_total 4",
		"weft_switch_transmit_aggregates_total 5", "weft_switch_receive_aggregates_total 6",
		"weft_switch_flooded_frames_total 7", "weft_switch_answered_total 8", "weft_switch_too_big_total 9",
		"weft_switch_moves_total 10", "weft_switch_refused_total 11", "weft_switch_astray_frames_total 12",
		"weft_switch_remotes 16", "weft_switch_known_addresses 13", "weft_switch_learnt_addresses 14", "weft_switch_offload 1",
		`weft_switch_dropped_frames_total{reason="vni"} 15`, `weft_switch_dropped_frames_total{reason="short"} 0`,
	}
	text := scrape(t, collector(func(ch chan<- prometheus.Metric) { m.port.collect(status, ch) }))
	for _, want := range values {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text := scrape(t, collector(func(ch chan<- prometheus.Metric) { m.port.collect(nil, ch) })); text != "" {
		t.Errorf("a host whose kernel forwards has %s", text)
	}
}

// collector makes a collector of a function.
type collector func(chan<- prometheus.Metric)

func (c collector) Collect(ch chan<- prometheus.Metric) { c(ch) }
func (c collector) Describe(chan<- *prometheus.Desc)    {}

func scrape(t *testing.T, c prometheus.Collector) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			b.WriteString(f.GetName())
			for _, l := range m.GetLabel() {
				b.WriteString("{" + l.GetName() + "=\"" + l.GetValue() + "\"}")
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			b.WriteString(" " + strconv.FormatFloat(v, 'g', -1, 64) + "\n")
		}
	}
	return b.String()
}
