package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftnet/weft/mesh"
)

// gossipMetrics are memberlist's figures by names that Prometheus likes.
type gossipMetrics struct {
	counts *mesh.GossipCounts // nil: not counted
	rows   []gossipRow
}

// gossipRow is one number of memberlist's.
type gossipRow struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	name   string // memberlist's
	size   bool   // the last of samples
	time   bool   // the times of which there are a count and a sum
	labels []string
}

func newGossipMetrics(counts *mesh.GossipCounts) gossipMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	sent := desc("weft_gossip_transmit_bytes_total", "Bytes of gossip sent, by transport.", "transport")
	streams := desc("weft_gossip_streams_total", "Streams of gossip opened, by who opened them.", "direction")
	messages := desc("weft_gossip_messages_total", "What was said of members, by kind.", "kind")
	members := desc("weft_gossip_members", "Members by state, as of the last exchange.", "state")
	degraded := desc("weft_gossip_degraded_total", "Probes that were slowed down, or timed out, because this host is late itself.", "kind")
	state := desc("weft_gossip_state_bytes", "Size of the last state exchanged, by whose it was.", "side")
	strange := desc("weft_not_understood_total", "What newer hosts sent and this version passed over, by kind.", "kind")
	times := desc("weft_gossip_duration_seconds", "Time that rounds of gossip took, by kind.", "kind")
	counted, gauged := prometheus.CounterValue, prometheus.GaugeValue
	return gossipMetrics{counts, []gossipRow{
		{desc: sent, kind: counted, name: "udp.sent", labels: []string{"packet"}},
		{desc: sent, kind: counted, name: "tcp.sent", labels: []string{"stream"}},
		{desc: desc("weft_gossip_receive_bytes_total", "Bytes of gossip received in packets."), kind: counted, name: "udp.received"},
		{desc: streams, kind: counted, name: "tcp.accept", labels: []string{"accepted"}},
		{desc: streams, kind: counted, name: "tcp.connect", labels: []string{"dialled"}},
		{desc: messages, kind: counted, name: "msg.alive", labels: []string{"alive"}},
		{desc: messages, kind: counted, name: "msg.suspect", labels: []string{"suspect"}},
		{desc: messages, kind: counted, name: "msg.dead", labels: []string{"dead"}},
		{desc: members, kind: gauged, name: "node.instances.alive", labels: []string{"alive"}},
		{desc: members, kind: gauged, name: "node.instances.suspect", labels: []string{"suspect"}},
		{desc: members, kind: gauged, name: "node.instances.dead", labels: []string{"dead"}},
		{desc: members, kind: gauged, name: "node.instances.left", labels: []string{"left"}},
		{desc: degraded, kind: counted, name: "degraded.probe", labels: []string{"probe"}},
		{desc: degraded, kind: counted, name: "degraded.timeout", labels: []string{"timeout"}},
		{
			desc: desc("weft_gossip_health_score", "How late this host is with gossip itself: 0 is healthy, more is worse."),
			kind: gauged, name: "health.score",
		},
		{desc: desc("weft_gossip_queued_broadcasts", "Broadcasts that wait to be sent."), kind: gauged, name: "queue.broadcasts", size: true},
		{desc: state, kind: gauged, name: "size.local", labels: []string{"own"}},
		{desc: state, kind: gauged, name: "size.remote", size: true, labels: []string{"peer"}},
		{desc: strange, kind: counted, name: "strange.message", labels: []string{"message"}},
		{desc: strange, kind: counted, name: "strange.payload", labels: []string{"payload"}},
		{desc: strange, kind: counted, name: "strange.signal", labels: []string{"signal"}},
		{desc: times, name: "probeNode", time: true, labels: []string{"probe"}},
		{desc: times, name: "pushPullNode", time: true, labels: []string{"push-pull"}},
		{desc: times, name: "gossip", time: true, labels: []string{"gossip"}},
	}}
}

func (g gossipMetrics) describe(ch chan<- *prometheus.Desc) {
	for i, r := range g.rows {
		if i == 0 || g.rows[i-1].desc != r.desc {
			ch <- r.desc
		}
	}
}

func (g gossipMetrics) collect(ch chan<- prometheus.Metric) {
	if g.counts == nil {
		return
	}
	for _, r := range g.rows {
		switch {
		case r.time:
			s := g.counts.Sampled(r.name)
			ch <- prometheus.MustNewConstSummary(r.desc, s.Count, s.Sum, nil, r.labels...)
		case r.size:
			ch <- prometheus.MustNewConstMetric(r.desc, r.kind, g.counts.Sampled(r.name).Last, r.labels...)
		default:
			ch <- prometheus.MustNewConstMetric(r.desc, r.kind, g.counts.Value(r.name), r.labels...)
		}
	}
}
