package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftnet/weft/dns"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/api"
)

// statusReader is the part of the backend that metrics are read from.
type statusReader interface {
	Status(ctx context.Context) (api.Status, error)
}

// metrics reads everything at the time of a scrape: nothing is counted twice.
type metrics struct {
	status statusReader
	dns    *dns.Server // nil: off
	now    func() time.Time

	info        *prometheus.Desc
	ready       *prometheus.Desc
	findings    *prometheus.Desc
	connections *prometheus.Desc
	terminated  *prometheus.Desc
	entries     *prometheus.Desc
	queries     *prometheus.Desc
	addresses   []addressGauge
	peer        *prometheus.Desc
	peers       []peerMetric
	relay       section[api.RelayStatus]
	port        section[api.SwitchStatus]
	gossip      gossipMetrics
}

// addressGauge is one number about the address space.
type addressGauge struct {
	desc   *prometheus.Desc
	labels []string
	read   func(*api.IPAM) float64
}

func addressGauges() []addressGauge {
	pending := func(kind string) func(*api.IPAM) float64 {
		return func(s *api.IPAM) (n float64) {
			for _, p := range s.Pending {
				if p.Kind == kind {
					n++
				}
			}
			return n
		}
	}
	gauge := func(name, help string, read func(*api.IPAM) float64) addressGauge {
		return addressGauge{desc: prometheus.NewDesc(name, help, nil, nil), read: read}
	}
	return []addressGauge{
		{
			prometheus.NewDesc("weft_ips", "Number of IP addresses.", []string{"state"}, nil),
			[]string{"local-used"},
			func(s *api.IPAM) float64 { return float64(s.Active) },
		},
		gauge("weft_max_ips", "Size of the address range.", func(s *api.IPAM) float64 { return float64(s.RangeIPs) }),
		gauge("weft_ipam_unreachable_count", "Number of peers with address space that are out of reach.",
			func(s *api.IPAM) float64 { return float64(s.UnreachablePeers) }),
		gauge("weft_ipam_unreachable_percentage", "Share of the range that peers out of reach own, in percent.",
			func(s *api.IPAM) float64 { return 100 * float64(s.UnreachableIPs) / float64(max(1, s.RangeIPs)) }),
		gauge("weft_ipam_pending_allocates", "Number of requests that wait for an address.", pending("allocate")),
		gauge("weft_ipam_pending_claims", "Number of requests that wait for a given address.", pending("claim")),
		gauge("weft_ipam_duplicates", "Number of addresses that two hosts hold.",
			func(s *api.IPAM) float64 { return float64(len(s.Duplicates)) }),
	}
}

func newMetrics(status statusReader, server *dns.Server, gossip *mesh.GossipCounts) *metrics {
	return &metrics{
		status: status,
		dns:    server,
		now:    time.Now,
		info: prometheus.NewDesc("weft_build_info",
			"Always 1; says which weft this is and how it forwards.", []string{"version", "protocol", "datapath"}, nil),
		ready: prometheus.NewDesc("weft_ready", "Whether this host is ready; weft status says what it waits for.", nil, nil),
		findings: prometheus.NewDesc("weft_findings",
			"What the daemon found wrong when it last looked at its host, by kind; weft doctor says what to do.", []string{"id", "severity"}, nil),
		connections: prometheus.NewDesc("weft_connections",
			"Number of peer-to-peer connections.", []string{"state", "type", "encryption"}, nil),
		terminated: prometheus.NewDesc("weft_connection_terminations_total",
			"Number of peer-to-peer connections terminated.", nil, nil),
		entries: prometheus.NewDesc("weft_dns_entries", "Number of DNS entries known.", nil, nil),
		queries: prometheus.NewDesc("weft_dns_queries_total",
			"DNS queries answered, by outcome.", []string{"outcome"}, nil),
		addresses: addressGauges(),
		peer:      peerInfo(),
		peers:     peerMetrics(),
		relay:     relayMetrics(),
		port:      switchMetrics(),
		gossip:    newGossipMetrics(gossip),
	}
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.info
	ch <- m.ready
	ch <- m.findings
	ch <- m.connections
	ch <- m.terminated
	ch <- m.entries
	ch <- m.queries
	for _, g := range m.addresses {
		ch <- g.desc
	}
	ch <- m.peer
	for _, p := range m.peers {
		ch <- p.desc
	}
	m.relay.describe(ch)
	m.port.describe(ch)
	m.gossip.describe(ch)
}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	s, err := m.status.Status(context.Background())
	if err != nil {
		ch <- prometheus.NewInvalidMetric(m.connections, err)
		return
	}
	ready := 0.0
	if s.Ready {
		ready = 1
	}
	ch <- prometheus.MustNewConstMetric(m.info, prometheus.GaugeValue, 1, s.Version, s.Protocol, s.Datapath)
	ch <- prometheus.MustNewConstMetric(m.ready, prometheus.GaugeValue, ready)
	found := make(map[[2]string]float64)
	for _, f := range s.Findings {
		found[[2]string{f.ID, string(f.Severity)}]++
	}
	for k, n := range found {
		ch <- prometheus.MustNewConstMetric(m.findings, prometheus.GaugeValue, n, k[0], k[1])
	}
	type key struct{ state, kind, encryption string }
	count := make(map[key]float64)
	// The states are always there, so that an alert on their absence works.
	for _, state := range []api.State{api.Established, api.Pending, api.Connecting, api.Retrying, api.Failed, api.Relayed} {
		count[key{string(state), s.Datapath, "true"}] = 0
	}
	for _, c := range s.Connections {
		count[key{string(c.State), s.Datapath, "true"}]++
	}
	for k, n := range count {
		ch <- prometheus.MustNewConstMetric(m.connections, prometheus.GaugeValue, n, k.state, k.kind, k.encryption)
	}
	ch <- prometheus.MustNewConstMetric(m.terminated, prometheus.CounterValue, float64(s.Terminated))
	m.collectPeers(s.Connections, ch)
	m.relay.collect(s.Relay, ch)
	m.port.collect(s.Switch, ch)
	m.gossip.collect(ch)
	if s.DNS != nil {
		ch <- prometheus.MustNewConstMetric(m.entries, prometheus.GaugeValue, float64(len(s.DNS.Entries)))
	}
	if s.IPAM != nil {
		for _, g := range m.addresses {
			ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.read(s.IPAM), g.labels...)
		}
	}
	if m.dns != nil {
		for outcome, n := range m.dns.Stats().Outcomes() {
			ch <- prometheus.MustNewConstMetric(m.queries, prometheus.CounterValue, float64(n), outcome)
		}
	}
}
