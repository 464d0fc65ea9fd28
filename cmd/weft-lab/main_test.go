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
		"nonsense", "up", "up a b", "exec", "exec h1", "cut", "cut a b c", "cut a --loss=much", "heal a b c",
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
