package main

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(m.Run())
}

func TestParseTopology(t *testing.T) {
	for _, tc := range []struct{ name, text, err string }{
		{"whole", "name: two\nnetworks: [{name: lan, subnets: [192.0.2.0/24], mtu: 1400}]\nhosts:\n- name: h1\n  forward: true\n" +
			"  links: [{network: lan, addresses: [192.0.2.7/24], rate_kbit: 1000, delay: 20ms}]\n  containers: [c1]\n", ""},
		{"unknown key", "name: two\nhost: []\n", "field host not found"},
		{"bad address", "name: two\nnetworks: [{name: lan, subnets: [192.0.2.0]}]\n", "192.0.2.0"},
		{"two documents", "name: two\n---\nname: three\n", "more than one document"},
		{"nothing", "", "EOF"},
	} {
		got, err := parseTopology([]byte(tc.text))
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.err)
			}
			continue
		}
		want := lab.Topology{
			Name:     "two",
			Networks: []lab.Network{{Name: "lan", Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, MTU: 1400}},
			Hosts: []lab.HostSpec{{Name: "h1", Forward: true, Containers: []string{"c1"}, Links: []lab.Link{{
				Network: "lan", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")},
				Shape: lab.Shape{RateKbit: 1000, Delay: 20 * time.Millisecond},
			}}}},
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		} else if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, line := range []string{
		"nonsense", "up", "up a b", "up a --topology chain", "up --topology cube", "up --topology chain -n 0", "draw x", "exec", "exec h1", "cut", "cut a b c", "cut a --loss=much", "heal a b c",
		"capture a b", "down a --all", "down a b", "demo x", "list x", "up --nonsense x",
	} {
		root := newRoot()
		root.SetArgs(strings.Fields(line))
		root.SetOut(new(bytes.Buffer))
		root.SetErr(new(bytes.Buffer))
		err := root.ExecuteContext(t.Context())
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf("weft-lab %s: %v, want a usage error", line, err)
		}
	}
}

// What a shape is printed as is read as the same again.
func TestPrintTopology(t *testing.T) {
	for _, shape := range append(lab.Shapes(), "all") {
		want, err := lab.Shaped(shape, "x", 5, 3)
		if shape == "all" {
			want, err = lab.BehindNATs("x", 2), nil
			want.Hosts[0].Edge = lab.Edge{Firewall: true, HideMTU: true, Outside: "internet"}
			want.Hosts[0].Links[0].MTU = 1300
			want.Hosts[1].Edge = lab.Edge{MaxUDP: 700, NAT: &lab.NAT{Mapping: lab.RandomPort, Unsolicited: lab.Answer, Ports: map[uint16]uint16{1: 2}}}
			want.Faults = []lab.Fault{{From: "host1", To: "host2", Network: "internet", Percent: 0.5}}
		}
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := printTopology(&text, want); err != nil {
			t.Fatal(err)
		}
		got, err := parseTopology(text.Bytes())
		if err != nil {
			t.Fatalf("%s: %v\n%s", shape, err, text.String())
		}
		equal := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
		if diff := cmp.Diff(want, got, equal, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%s", shape, diff, text.String())
		}
	}
}

// What the help shows is a file that works.
func TestHelpExample(t *testing.T) {
	_, text, _ := strings.Cut(upCommand().Long, "may say:\n\n")
	text, _, ok := strings.Cut(text, "\nWeft's own")
	topology, err := parseTopology([]byte(text))
	if !ok || err != nil || len(topology.Hosts) != 3 || topology.Hosts[0].NAT == nil || topology.Hosts[2].Links[0].MTU != 1300 {
		t.Errorf("%v: %+v\n%s", err, topology, text)
	}
}

func TestFaultsOfACut(t *testing.T) {
	for _, tc := range []struct {
		a, b   string
		oneWay bool
		want   string
	}{
		{"h1", "", false, "7 % lost from h1 to anybody, 7 % lost from anybody to h1"},
		{"h1", "h2", false, "7 % lost from h1 to h2, 7 % lost from h2 to h1"},
		{"h1", "h2", true, "7 % lost from h1 to h2"},
	} {
		var got []string
		for _, f := range faults(tc.a, tc.b, tc.oneWay, 7) {
			got = append(got, f.String())
		}
		if s := strings.Join(got, ", "); s != tc.want {
			t.Errorf("cut %s %s: %s, want %s", tc.a, tc.b, s, tc.want)
		}
	}
}
