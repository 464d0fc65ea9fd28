package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/weftnet/weft/router/api"
)

type fixedStatus struct {
	status api.Status
	err    error
}

func (f fixedStatus) Status(context.Context) (api.Status, error) { return f.status, f.err }

func TestMetrics(t *testing.T) {
	s := fixedStatus{status: api.Status{
		Terminated: 3, Datapath: "userspace",
		Connections: []api.Connection{{State: api.Established}, {State: api.Established}, {State: api.Retrying}},
		DNS:         &api.DNS{Entries: make([]api.NameEntry, 3)},
		IPAM: &api.IPAM{
			RangeIPs: 1000, Active: 7, UnreachablePeers: 1, UnreachableIPs: 250, Duplicates: make([]api.IPAMDuplicate, 2),
			Pending: []api.IPAMPending{{Kind: "allocate"}, {Kind: "claim"}, {Kind: "claim"}},
		},
	}}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newMetrics(s, nil))
	problems, err := testutil.GatherAndLint(registry)
	// Dashboards made for Weave ask for this name.
	problems = slices.DeleteFunc(problems, func(p promlint.Problem) bool { return p.Metric == "weft_ipam_unreachable_count" })
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	want := `
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
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestMetricsWithoutAnAnswer(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newMetrics(fixedStatus{err: context.Canceled}, nil))
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
