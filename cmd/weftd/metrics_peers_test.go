package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weftnet/weft/router/api"
)

// TestPeerMetrics: every peer once; what is not known is not there.
func TestPeerMetrics(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	s := fixedStatus{status: api.Status{
		Terminated: 3, Datapath: "kernel",
		Connections: []api.Connection{
			{
				Name: "02:00:00:00:00:02", Nickname: "host2", State: api.Established, MTU: 1370, RTT: 1500 * time.Microsecond, Loss: 0.25,
				Handshake: now.Add(-90 * time.Second), RxBytes: 10, TxBytes: 20, Changes: 3,
				Datapath: "userspace", Fragmented: 9,
			},
			{Name: "02:00:00:00:00:03", State: api.Relayed, Datapath: "kernel", RTT: time.Second, Handshake: now.Add(time.Second), Via: []string{"host2"}},
			{Name: "02:00:00:00:00:04", Nickname: "host4", State: api.Retrying, Loss: 1},
			{Name: "02:00:00:00:00:04", Nickname: "double", State: api.Pending, RTT: 1, MTU: 1},
			{Address: "192.0.2.5:6783", State: api.Failed, RTT: 1},
		},
		Relay: &api.RelayStatus{Packets: 5, Bytes: 6000, Sessions: 4, Bound: 2, Dropped: map[string]uint64{"replay": 7, "unbound": 0}},
	}}
	m := newMetrics(s, nil)
	m.now = func() time.Time { return now }
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	want := `
# HELP weft_connection_terminations_total Number of peer-to-peer connections terminated.
# TYPE weft_connection_terminations_total counter
weft_connection_terminations_total 3
# HELP weft_connections Number of peer-to-peer connections.
# TYPE weft_connections gauge
weft_connections{encryption="true",state="connecting",type="kernel"} 0
weft_connections{encryption="true",state="established",type="kernel"} 1
weft_connections{encryption="true",state="failed",type="kernel"} 1
weft_connections{encryption="true",state="pending",type="kernel"} 1
weft_connections{encryption="true",state="relayed",type="kernel"} 1
weft_connections{encryption="true",state="retrying",type="kernel"} 1
# HELP weft_path_changes_total Changes of the path to the peer, or of whether there is one.
# TYPE weft_path_changes_total counter
weft_path_changes_total{peer="02:00:00:00:00:02"} 3
weft_path_changes_total{peer="02:00:00:00:00:03"} 0
weft_path_changes_total{peer="02:00:00:00:00:04"} 0
# HELP weft_peer_fragmented_packets_total Packets that left in fragments, being larger than the path carries.
# TYPE weft_peer_fragmented_packets_total counter
weft_peer_fragmented_packets_total{peer="02:00:00:00:00:02"} 9
weft_peer_fragmented_packets_total{peer="02:00:00:00:00:03"} 0
weft_peer_fragmented_packets_total{peer="02:00:00:00:00:04"} 0
# HELP weft_peer_handshake_age_seconds Time since the last WireGuard handshake.
# TYPE weft_peer_handshake_age_seconds gauge
weft_peer_handshake_age_seconds{peer="02:00:00:00:00:02"} 90
weft_peer_handshake_age_seconds{peer="02:00:00:00:00:03"} 0
# HELP weft_peer_info What people call the peer; always 1.
# TYPE weft_peer_info gauge
weft_peer_info{nickname="",peer="02:00:00:00:00:03"} 1
weft_peer_info{nickname="host2",peer="02:00:00:00:00:02"} 1
weft_peer_info{nickname="host4",peer="02:00:00:00:00:04"} 1
# HELP weft_peer_loss_ratio Share of recent pings through the tunnel that were lost.
# TYPE weft_peer_loss_ratio gauge
weft_peer_loss_ratio{peer="02:00:00:00:00:02"} 0.25
weft_peer_loss_ratio{peer="02:00:00:00:00:03"} 0
weft_peer_loss_ratio{peer="02:00:00:00:00:04"} 1
# HELP weft_peer_mtu_bytes Largest packet of a container that passes whole.
# TYPE weft_peer_mtu_bytes gauge
weft_peer_mtu_bytes{peer="02:00:00:00:00:02"} 1370
# HELP weft_peer_receive_bytes_total Bytes that came through the tunnel.
# TYPE weft_peer_receive_bytes_total counter
weft_peer_receive_bytes_total{peer="02:00:00:00:00:02"} 10
weft_peer_receive_bytes_total{peer="02:00:00:00:00:03"} 0
weft_peer_receive_bytes_total{peer="02:00:00:00:00:04"} 0
# HELP weft_peer_rtt_seconds Round trip through the tunnel, smoothed.
# TYPE weft_peer_rtt_seconds gauge
weft_peer_rtt_seconds{peer="02:00:00:00:00:02"} 0.0015
weft_peer_rtt_seconds{peer="02:00:00:00:00:03"} 1
# HELP weft_peer_transmit_bytes_total Bytes that went through the tunnel.
# TYPE weft_peer_transmit_bytes_total counter
weft_peer_transmit_bytes_total{peer="02:00:00:00:00:02"} 20
weft_peer_transmit_bytes_total{peer="02:00:00:00:00:03"} 0
weft_peer_transmit_bytes_total{peer="02:00:00:00:00:04"} 0
# HELP weft_relay_bound Number of hosts that can be reached through this one.
# TYPE weft_relay_bound gauge
weft_relay_bound 2
# HELP weft_relay_dropped_packets_total Packets at the relay port that were not forwarded, by reason.
# TYPE weft_relay_dropped_packets_total counter
weft_relay_dropped_packets_total{reason="replay"} 7
weft_relay_dropped_packets_total{reason="unbound"} 0
# HELP weft_relay_sessions Number of WireGuard sessions of others whose way is recorded.
# TYPE weft_relay_sessions gauge
weft_relay_sessions 4
# HELP weft_relayed_bytes_total Bytes in sealed packets forwarded for other hosts.
# TYPE weft_relayed_bytes_total counter
weft_relayed_bytes_total 6000
# HELP weft_relayed_packets_total Sealed packets forwarded for other hosts.
# TYPE weft_relayed_packets_total counter
weft_relayed_packets_total 5
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// TestMetricsAreDocumented: docs/metrics.md has every metric with its labels,
// and no other.
func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([a-z]+)`")
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(weft_\\w+)` \\|([^|]*)\\|").FindAllStringSubmatch(string(page), -1) {
		var labels []string
		for _, l := range quoted.FindAllStringSubmatch(row[2], -1) {
			labels = append(labels, l[1])
		}
		documented = append(documented, row[1]+" "+strings.Join(labels, ","))
	}
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		newMetrics(fixedStatus{}, nil).Describe(ch)
	}()
	form := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([^}]*)\}`)
	var served []string
	for d := range ch {
		m := form.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("client_golang prints a description in another form: %s", d)
		}
		served = append(served, m[1]+" "+m[2])
	}
	for _, word := range regexp.MustCompile(`weft_\w+`).FindAllString(string(page), -1) {
		if !slices.ContainsFunc(served, func(s string) bool { return strings.HasPrefix(s, word+" ") }) {
			t.Errorf("docs/metrics.md tells of %s, which nobody serves", word)
		}
	}
	slices.Sort(documented)
	slices.Sort(served)
	if diff := cmp.Diff(served, documented); diff != "" {
		t.Errorf("served and documented:\n%s", diff)
	}
}
