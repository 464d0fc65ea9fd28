package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/api"
)

type fixedStatus struct {
	status api.Status
	err    error
}

func (f fixedStatus) Status(context.Context) (api.Status, error) { return f.status, f.err }

func TestMetrics(t *testing.T) {
	s := fixedStatus{status: api.Status{
		Findings: []api.Finding{{ID: "disk", Severity: api.Problem}, {ID: "peer-clock", Severity: api.Warning}, {ID: "peer-clock", Severity: api.Warning}},
		Version:  "1.2.3", Protocol: "weft 1", Terminated: 3, Datapath: "userspace",
		Connections: []api.Connection{{State: api.Established}, {State: api.Established}, {State: api.Retrying}},
		DNS:         &api.DNS{Entries: make([]api.NameEntry, 3)},
		IPAM: &api.IPAM{
			RangeIPs: 1000, Active: 7, UnreachablePeers: 1, UnreachableIPs: 250, Duplicates: make([]api.IPAMDuplicate, 2),
			Pending: []api.IPAMPending{{Kind: "allocate"}, {Kind: "claim"}, {Kind: "claim"}},
		},
	}}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newMetrics(s, nil, nil))
	problems, err := testutil.GatherAndLint(registry)
	// Dashboards made for Weave ask for this name.
	problems = slices.DeleteFunc(problems, func(p promlint.Problem) bool { return p.Metric == "weft_ipam_unreachable_count" })
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	want := `
# HELP weft_build_info Always 1; says which weft this is and how it forwards.
# TYPE weft_build_info gauge
weft_build_info{datapath="userspace",protocol="weft 1",version="1.2.3"} 1
# HELP weft_connection_terminations_total Number of peer-to-peer connections terminated.
# TYPE weft_connection_terminations_total counter
weft_connection_terminations_total 3
# HELP weft_connections Number of peer-to-peer connections.
# TYPE weft_connections gauge
weft_connections{encryption="true",state="connecting",type="userspace"} 0
weft_connections{encryption="true",state="established",type="userspace"} 2
weft_connections{encryption="true",state="failed",type="userspace"} 0
weft_connections{encryption="true",state="pending",type="userspace"} 0
weft_connections{encryption="true",state="relayed",type="userspace"} 0
weft_connections{encryption="true",state="retrying",type="userspace"} 1
# HELP weft_dns_entries Number of DNS entries known.
# TYPE weft_dns_entries gauge
weft_dns_entries 3
# HELP weft_findings What the daemon found wrong when it last looked at its host, by kind; weft doctor says what to do.
# TYPE weft_findings gauge
weft_findings{id="disk",severity="problem"} 1
weft_findings{id="peer-clock",severity="warning"} 2
# HELP weft_ipam_duplicates Number of addresses that two hosts hold.
# TYPE weft_ipam_duplicates gauge
weft_ipam_duplicates 2
# HELP weft_ipam_pending_allocates Number of requests that wait for an address.
# TYPE weft_ipam_pending_allocates gauge
weft_ipam_pending_allocates 1
# HELP weft_ipam_pending_claims Number of requests that wait for a given address.
# TYPE weft_ipam_pending_claims gauge
weft_ipam_pending_claims 2
# HELP weft_ipam_unreachable_count Number of peers with address space that are out of reach.
# TYPE weft_ipam_unreachable_count gauge
weft_ipam_unreachable_count 1
# HELP weft_ipam_unreachable_percentage Share of the range that peers out of reach own, in percent.
# TYPE weft_ipam_unreachable_percentage gauge
weft_ipam_unreachable_percentage 25
# HELP weft_ips Number of IP addresses.
# TYPE weft_ips gauge
weft_ips{state="local-used"} 7
# HELP weft_max_ips Size of the address range.
# TYPE weft_max_ips gauge
weft_max_ips 1000
# HELP weft_ready Whether this host is ready; weft status says what it waits for.
# TYPE weft_ready gauge
weft_ready 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestMetricsWithoutAnAnswer(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newMetrics(fixedStatus{err: context.Canceled}, nil, nil))
	if _, err := registry.Gather(); err == nil {
		t.Error("a scrape without a status has no error")
	}
}

func TestStatusListenerIsForThisHost(t *testing.T) {
	h := ownHostOnly(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for _, tc := range []struct {
		host, origin string
		want         int
	}{
		{"127.0.0.1:6782", "", http.StatusNoContent},
		{"localhost:6782", "", http.StatusNoContent},
		{"[::1]:6782", "", http.StatusNoContent},
		{"evil.example", "", http.StatusForbidden},
		{"evil.example:6782", "", http.StatusForbidden},
		{"127.0.0.1:6782", "https://evil.example", http.StatusForbidden},
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Host = tc.host
		if tc.origin != "" {
			r.Header.Set("Origin", tc.origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tc.want {
			t.Errorf("host %q origin %q: %d, want %d", tc.host, tc.origin, w.Code, tc.want)
		}
	}
}

// Gossip's figures are of a form that promlint likes.
func TestGossipMetrics(t *testing.T) {
	counts, err := mesh.CountGossip()
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newMetrics(fixedStatus{}, nil, counts))
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	n, err := testutil.GatherAndCount(registry, "weft_gossip_members", "weft_gossip_duration_seconds", "weft_gossip_health_score")
	if err != nil || n != 4+3+1 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestHealth(t *testing.T) {
	for _, tc := range []struct {
		name          string
		status        fixedStatus
		health, ready int
		says          string
	}{
		{"ready", fixedStatus{status: api.Status{Ready: true}}, 200, 200, "ready"},
		{"waiting", fixedStatus{status: api.Status{Waiting: "for host2"}}, 200, 503, "not ready: for host2"},
		{"dead", fixedStatus{err: context.DeadlineExceeded}, 503, 503, "deadline"},
	} {
		ask := func(h http.Handler) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			return w
		}
		if w := ask(healthz(tc.status)); w.Code != tc.health {
			t.Errorf("%s: /healthz says %d %q", tc.name, w.Code, w.Body)
		}
		if w := ask(readyz(tc.status)); w.Code != tc.ready || !strings.Contains(w.Body.String(), tc.says) {
			t.Errorf("%s: /readyz says %d %q", tc.name, w.Code, w.Body)
		}
	}
}

// BenchmarkScrape is one scrape of a host with 100 peers.
func BenchmarkScrape(b *testing.B) {
	var s api.Status
	for i := range 100 {
		s.Connections = append(s.Connections, api.Connection{
			Name: fmt.Sprintf("02:00:00:00:00:%02x", i), Nickname: fmt.Sprintf("host%d", i), State: api.Established,
			RTT: time.Millisecond, MTU: 1370, Handshake: time.Now(), RxBytes: 1 << 30, TxBytes: 1 << 30,
		})
	}
	s.Switch, s.Relay = &api.SwitchStatus{}, &api.RelayStatus{}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newMetrics(fixedStatus{status: s}, nil, nil))
	h := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		if w.Code != http.StatusOK || w.Body.Len() < 10_000 {
			b.Fatalf("%d, %d bytes", w.Code, w.Body.Len())
		}
	}
}
