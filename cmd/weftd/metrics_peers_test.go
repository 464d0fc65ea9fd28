package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
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
				Datapath: "userspace", Fragmented: 9, Single: true,
			},
			{Name: "02:00:00:00:00:03", State: api.Relayed, Datapath: "kernel", RTT: time.Second, Handshake: now.Add(time.Second), Via: []string{"host2"}},
			{Name: "02:00:00:00:00:04", Nickname: "host4", State: api.Retrying, Loss: 1},
			{Name: "02:00:00:00:00:04", Nickname: "double", State: api.Pending, RTT: 1, MTU: 1},
			{Address: "192.0.2.5:6783", State: api.Failed, RTT: 1},
		},
		Relay: &api.RelayStatus{Packets: 5, Bytes: 6000, Sessions: 4, Bound: 2, Dropped: map[string]uint64{"replay": 7, "unbound": 0}},
	}}
	m := newMetrics(s, nil, nil)
	m.now = func() time.Time { return now }
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	want := `
# HELP weft_build_info Always 1; says which weft this is and how it forwards.
# TYPE weft_build_info gauge
weft_build_info{datapath="kernel",protocol="",version=""} 1
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
# HELP weft_peer_single_sends Whether packets to the peer leave one by one, because coalesced ones do not arrive.
# TYPE weft_peer_single_sends gauge
weft_peer_single_sends{peer="02:00:00:00:00:02"} 1
# HELP weft_peer_transmit_bytes_total Bytes that went through the tunnel.
# TYPE weft_peer_transmit_bytes_total counter
weft_peer_transmit_bytes_total{peer="02:00:00:00:00:02"} 20
weft_peer_transmit_bytes_total{peer="02:00:00:00:00:03"} 0
weft_peer_transmit_bytes_total{peer="02:00:00:00:00:04"} 0
# HELP weft_ready Whether this host is ready; weft status says what it waits for.
# TYPE weft_ready gauge
weft_ready 0
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
	served := servedMetrics(t)
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

// servedMetrics are the names of weft's metrics, each with its labels.
func servedMetrics(t *testing.T) (served []string) {
	t.Helper()
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		newMetrics(fixedStatus{}, nil, nil).Describe(ch)
	}()
	form := regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([^}]*)\}`)
	for d := range ch {
		m := form.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("client_golang prints a description in another form: %s", d)
		}
		served = append(served, m[1]+" "+m[2])
	}
	return served
}

// What the examples ask for is served, and the alerts do what they say.
func TestMonitoringExamples(t *testing.T) {
	const dir = "../../docs/examples/monitoring/"
	served := servedMetrics(t)
	files, err := filepath.Glob(dir + "*")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range regexp.MustCompile(`\bweft_\w+`).FindAllString(string(text), -1) {
			if !slices.ContainsFunc(served, func(s string) bool { return strings.HasPrefix(s, word+" ") }) {
				t.Errorf("%s asks for %s, which nobody serves", file, word)
			}
		}
	}
	dashboard, err := os.ReadFile(dir + "weft-dashboard.json")
	if err != nil || !json.Valid(dashboard) {
		t.Errorf("the dashboard is no JSON: %v", err)
	}
	promtool := findPromtool(t)
	for _, args := range [][]string{
		{"check", "rules", "weft-alerts.yaml"}, {"test", "rules", "weft-alerts-test.yaml"}, {"check", "config", "--syntax-only", "prometheus.yaml"},
	} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// findPromtool returns Prometheus's tool, which scripts/tools unpacks.
func findPromtool(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"promtool", filepath.Join(cache, "weft/promtool/usr/bin/promtool")} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("promtool is missing; make tools unpacks it")
	}
	t.Skip("promtool is missing; make tools unpacks it")
	return ""
}
