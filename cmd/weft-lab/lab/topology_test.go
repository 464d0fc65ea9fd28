package lab

import (
	"net/netip"
	"strings"
	"testing"
)

func TestComplete(t *testing.T) {
	p := netip.MustParsePrefix
	lan := Network{Name: "lan", Subnets: []netip.Prefix{p("192.0.2.0/24")}}
	host := func(name string, change func(*HostSpec)) HostSpec {
		h := HostSpec{Name: name, Links: []Link{{Network: "lan"}}}
		if change != nil {
			change(&h)
		}
		return h
	}
	for _, tc := range []struct {
		name string
		t    Topology
		err  string
	}{
		{"good", Topology{Name: "x", Networks: []Network{lan}, Hosts: []HostSpec{host("h1", nil), host("h2", nil)}}, ""},
		{"lab name", Topology{Name: "../x"}, "lab name"},
		{"no name", Topology{}, "lab name"},
		{"host name", Topology{Name: "x", Networks: []Network{lan}, Hosts: []HostSpec{host("H1", nil)}}, "host name"},
		{"twice", Topology{Name: "x", Networks: []Network{lan}, Hosts: []HostSpec{host("h1", nil), host("h1", nil)}}, "used twice"},
		{"network twice", Topology{Name: "x", Networks: []Network{lan, lan}}, "used twice"},
		{"no such network", Topology{Name: "x", Hosts: []HostSpec{host("h1", nil)}}, `no network "lan"`},
		{"no such gateway", Topology{Name: "x", Networks: []Network{lan}, Hosts: []HostSpec{host("h1", func(h *HostSpec) { h.Gateway = "r" })}}, `no gateway "r"`},
		{"far gateway", Topology{Name: "x", Networks: []Network{lan}, Hosts: []HostSpec{
			host("h1", func(h *HostSpec) { h.Gateway = "r" }), host("r", func(h *HostSpec) { h.Links = nil }),
		}}, "on none of its networks"},
		{"container name", Topology{Name: "x", Networks: []Network{lan}, Hosts: []HostSpec{host("h1", func(h *HostSpec) { h.Containers = []string{"a/b"} })}}, "container name"},
		{"small subnet", Topology{Name: "x", Networks: []Network{{Name: "lan", Subnets: []netip.Prefix{p("192.0.2.0/30")}}}, Hosts: []HostSpec{host("h1", nil)}}, "too small"},
	} {
		got, err := tc.t.complete()
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if a := got.Hosts[1].Addrs(); len(a) != 1 || a[0] != netip.MustParseAddr("192.0.2.12") || got.Networks[0].MTU != 1500 {
			t.Errorf("%s: %+v", tc.name, got)
		}
		if tc.t.Hosts[0].Links[0].Addresses != nil {
			t.Errorf("%s: the argument was changed", tc.name)
		}
	}
}

func TestRules(t *testing.T) {
	topology, err := Topology{
		Name: "x",
		Networks: []Network{
			{Name: "a", Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
			{Name: "b", Subnets: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}},
		},
		Hosts: []HostSpec{
			{Name: "h1", Links: []Link{{Network: "a"}}},
			{Name: "h2", Links: []Link{{Network: "b"}}},
			{Name: "r", Links: []Link{{Network: "a"}, {Network: "b"}}},
		},
	}.complete()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		fault Fault
		want  string
	}{
		{"one host", Fault{From: "r", Percent: 100}, `iifname { "p2-0", "p2-1" } drop`},
		{"to a host on one network", Fault{To: "r", Network: "b", Percent: 100}, `oifname { "p2-1" } drop`},
		{"neighbours", Fault{From: "h1", To: "r", Percent: 100}, `iifname . oifname { "p0-0" . "p2-0" } drop; ip saddr . ip daddr { 192.0.2.11 . 192.0.2.12, 192.0.2.11 . 198.51.100.12 } drop`},
		{"neighbours, some", Fault{From: "h1", To: "r", Percent: 2.5}, `iifname . oifname { "p0-0" . "p2-0" } numgen random mod 10000 < 250 drop`},
		{"across a router", Fault{From: "h1", To: "h2", Percent: 100}, `ip saddr . ip daddr { 192.0.2.11 . 198.51.100.11 } drop`},
		{"across a router, some", Fault{From: "h1", To: "h2", Percent: 50}, `ip saddr . ip daddr { 192.0.2.11 . 198.51.100.11 } numgen random mod 10000 < 5000 drop`},
		{"a network", Fault{Network: "b", Percent: 100}, `iifname { "p1-0", "p2-1" } drop`},
	} {
		var got []string
		for line := range strings.Lines(rules(topology, []Fault{tc.fault})) {
			if strings.HasSuffix(line, "drop\n") {
				got = append(got, strings.TrimSpace(line))
			}
		}
		if s := strings.Join(got, "; "); s != tc.want {
			t.Errorf("%s:\n%s\nwant\n%s", tc.name, s, tc.want)
		}
	}
}
