package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// reach lists who reaches whom in a topology, as "1-2" for host1 to host2.
func reach(t *testing.T, topology Topology) string {
	t.Helper()
	topology.Name = "x"
	topology, err := topology.complete()
	if err != nil {
		t.Fatal(err)
	}
	short := strings.NewReplacer("host", "")
	var out []string
	for _, a := range topology.ends() {
		for _, b := range topology.ends() {
			if ok, _ := topology.Reaches(topology.Faults, a, b); ok {
				out = append(out, short.Replace(a+"-"+b))
			}
		}
	}
	return strings.Join(out, " ")
}

func TestShapes(t *testing.T) {
	for _, tc := range []struct {
		shape string
		n     int
		want  string
	}{
		{"flat", 3, "1-2 1-3 2-1 2-3 3-1 3-2"},
		{"chain", 1, ""},
		{"chain", 4, "1-2 2-1 2-3 3-2 3-4 4-3"},
		{"star", 4, "1-2 1-3 1-4 2-1 3-1 4-1"},
		{"ring", 2, "1-2 2-1"},
		{"ring", 4, "1-2 1-4 2-1 2-3 3-2 3-4 4-1 4-3"},
		{"two-sites", 5, "1-2 1-3 1-4 1-5 2-1 2-4 3-1 3-5 4-1 4-2 5-1 5-3"},
		{"behind-nats", 3, "2-1 3-1"},
	} {
		topology, err := Shaped(tc.shape, "x", tc.n, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := reach(t, topology); got != tc.want {
			t.Errorf("%s of %d: %s, want %s", tc.shape, tc.n, got, tc.want)
		}
	}
	for _, tc := range []struct {
		shape string
		n     int
	}{{"cube", 3}, {"flat", 0}, {"flat", 201}} {
		if _, err := Shaped(tc.shape, "x", tc.n, 0); err == nil {
			t.Errorf("%s of %d is accepted", tc.shape, tc.n)
		}
	}
	if len(Shapes()) != 7 {
		t.Errorf("shapes: %v", Shapes())
	}
}

// Random graphs are connected, each pair both ways or not at all, the same for
// the same seed, and of all kinds.
func TestRandom(t *testing.T) {
	edges := map[int]bool{}
	for seed := range uint64(50) {
		n := 2 + int(seed)%11
		got := reach(t, Random("x", n, seed))
		if again := reach(t, Random("x", n, seed)); got != again {
			t.Fatalf("seed %d: %s, and another time %s", seed, got, again)
		}
		pairs := strings.Fields(got)
		edges[len(pairs)-2*(n-1)] = true
		met := map[string]bool{"1": true}
		for range n {
			for _, p := range pairs {
				a, b, _ := strings.Cut(p, "-")
				if !slices.Contains(pairs, b+"-"+a) {
					t.Fatalf("seed %d: only %s", seed, p)
				}
				met[a] = met[a] || met[b]
			}
		}
		for i := range n {
			if !met[fmt.Sprint(i+1)] {
				t.Errorf("seed %d: host%d is cut off: %s", seed, i+1, got)
			}
		}
	}
	if len(edges) < 8 || !edges[0] {
		t.Errorf("all graphs are much the same: %v", edges)
	}
}

func TestReaches(t *testing.T) {
	topology := BehindNATs("x", 3)
	topology.AddHost("host4", "internet")
	topology.AddHost("island")
	topology.Hosts[len(topology.Hosts)-2].Firewall = true
	topology, err := topology.complete()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		from, to string
		faults   []Fault
		ok       bool
		why      string
	}{
		{"host1", "host1", nil, false, "no such pair"},
		{"host1", "nobody", nil, false, "no such pair"},
		{"host2", "host1", nil, true, "by nat2"},
		{"host1", "host2", nil, false, "no way"},
		{"host2", "host3", nil, false, "no way"},
		{"host2", "nat2", nil, true, "on nat2-lan"},
		{"host1", "nat2", nil, false, "the edge of nat2"},
		{"host2", "nat3", nil, false, "the edge of nat3"},
		{"host1", "host4", nil, false, "the edge of host4"},
		{"host4", "host1", nil, true, "on internet"},
		{"host1", "island", nil, false, "no way"},
		{"host2", "host1", []Fault{{From: "host2", Percent: 100}}, false, "cut"},
		{"host2", "host1", []Fault{{From: "host2", Percent: 99}}, true, "by nat2"},
		{"host2", "host1", []Fault{{From: "host1", To: "host2", Percent: 100}}, true, "by nat2"},
		{"host2", "host1", []Fault{{From: "nat2", Network: "internet", Percent: 100}}, false, "no way"},
		{"host2", "host1", []Fault{{Network: "nat2-lan", Percent: 100}}, false, "no way"},
		{"host2", "host1", []Fault{{Network: "nat3-lan", Percent: 100}}, true, "by nat2"},
	} {
		if ok, why := topology.Reaches(tc.faults, tc.from, tc.to); ok != tc.ok || why != tc.why {
			t.Errorf("from %s to %s with %v: %v, %q; want %v, %q", tc.from, tc.to, tc.faults, ok, why, tc.ok, tc.why)
		}
	}
}

// Routers find the networks of each other, but nothing behind a NAT.
func TestRoutes(t *testing.T) {
	topology := Topology{Name: "x"}
	for _, n := range []string{"n0", "n1", "n2", "n3"} {
		topology.AddNetwork(n)
		topology.Networks[len(topology.Networks)-1].Subnets = topology.Networks[len(topology.Networks)-1].Subnets[:1]
	}
	for i := range 3 {
		topology.AddHost(fmt.Sprintf("r%d", i+1), fmt.Sprintf("n%d", i), fmt.Sprintf("n%d", i+1))
		topology.Hosts[i].Forward = true
	}
	topology.AddNAT("nat", "n3", NAT{}, "h")
	topology.AddHost("end", "n0")
	topology.Hosts[len(topology.Hosts)-1].Gateway = "r1"
	topology, err := topology.complete()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"r1":  "198.18.2.0/24 via 198.18.1.12, 198.18.3.0/24 via 198.18.1.12",
		"r2":  "198.18.0.0/24 via 198.18.1.11, 198.18.3.0/24 via 198.18.2.12",
		"r3":  "198.18.1.0/24 via 198.18.2.11, 198.18.0.0/24 via 198.18.2.11",
		"nat": "198.18.2.0/24 via 198.18.3.11, 198.18.1.0/24 via 198.18.3.11, 198.18.0.0/24 via 198.18.3.11",
		"h":   "0.0.0.0/0 via 198.18.4.11",
		"end": "0.0.0.0/0 via 198.18.0.11",
	} {
		h, _ := topology.host(host)
		var got []string
		for _, r := range topology.routes(h) {
			got = append(got, fmt.Sprintf("%s via %s", r.to, r.via))
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%s:\n%s\nwant\n%s", host, s, want)
		}
	}
}

func TestDraw(t *testing.T) {
	topology := BehindNATs("x", 2)
	topology.AddHost("host3", "internet")
	topology.Networks[0].MTU = 1400
	topology.Hosts[3].Edge = Edge{Firewall: true, HideMTU: true}
	topology, err := topology.complete()
	if err != nil {
		t.Fatal(err)
	}
	faults := []Fault{{From: "host1", To: "host2", Percent: 100}, {To: "host3", Percent: 30}, {Network: "nat2-lan", Percent: 1}}
	got := draw(topology, faults, "what failed", []Line{{"host2", "host1", "direct"}})
	const want = `# what failed

The wires:

§mermaid
flowchart LR
  n_internet(["internet<br/>198.18.0.0/24<br/>2001:db8::/64<br/>MTU 1400"])
  n_nat2_lan(["nat2-lan<br/>198.18.1.0/24"])
  h_host1["host1"]
  h_host1 --- n_internet
  %% host1 on internet: 198.18.0.11 2001:db8::b
  h_nat2["nat2<br/>NAT, port-preserving, drop unsolicited"]
  h_nat2 --- n_internet
  %% nat2 on internet: 198.18.0.12 2001:db8::c
  h_nat2 --- n_nat2_lan
  %% nat2 on nat2-lan: 198.18.1.11
  h_host2["host2"]
  h_host2 --- n_nat2_lan
  %% host2 on nat2-lan: 198.18.1.12
  h_host3["host3<br/>firewall<br/>hides packet-too-big"]
  h_host3 --- n_internet
  %% host3 on internet: 198.18.0.13 2001:db8::d
  h_host1 -. "100 % lost" .-x h_host2
  anybody -. "30 % lost" .-x h_host3
  anybody -. "1 % lost on nat2-lan" .-x anybody
§

Who reaches whom without help (thin), and what else is told (thick):

§mermaid
flowchart LR
  h_host1["host1"]
  h_host2["host2"]
  h_host2 --> h_host1
  h_host3["host3"]
  h_host3 --> h_host1
  h_host2 == "direct" ==> h_host1
§

§text
host1          reaches nobody; not host2 (cut), host3 (the edge of host3)
host2          reaches host1 (by nat2); not host3 (the edge of host3)
host3          reaches host1 (on internet); not host2 (no way)
host2          -> host1          direct
§
`
	if diff := cmp.Diff(strings.ReplaceAll(want, "§", "```"), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if many := draw(topology, Except(Flat("x", 6), func(string, string) bool { return false }), "", nil); !strings.Contains(many, `faults["30 faults"]`) {
		t.Errorf("thirty faults are drawn:\n%s", many)
	}
}

// A host that gets other addresses, or is carried elsewhere, is reached there
// and not where it was, and faults and routes follow it.
func TestMove(t *testing.T) {
	t.Parallel()
	topology := BehindNATs("", 3)
	topology.AddHost("host4", "internet")
	l := up(t, topology)
	h1, h2, h4 := l.Host("host1"), l.Host("host2"), l.Host("host4")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(ping(t, h4, h1.Addr()))
	if a := l.Host("nat3").AddrFor(l.Host("host3")); a != l.Host("host3").Spec().Links[0].Addresses[0].Addr().Prev() || h1.AddrFor(h2) != h1.Addr() {
		t.Errorf("host3 reaches its router at %s, host2 reaches host1 at %s", a, h1.AddrFor(h2))
	}
	former, former6 := h1.Addr(), h1.Addr6()
	must(l.Renumber(t.Context(), "host1", "internet"))
	if h1.Addr() == former || !h1.Addr().IsValid() {
		t.Fatalf("host1 is still %s", h1.Addr())
	}
	must(ping(t, h4, h1.Addr()))
	must(ping(t, h4, h1.Addr6()))
	for _, a := range []netip.Addr{former, former6} {
		if answers(t, h4, a) {
			t.Errorf("%s still answers", a)
		}
	}
	must(ping(t, h2, h1.Addr()))
	must(l.CutPair(t.Context(), "host1", "host4"))
	if answers(t, h4, h1.Addr()) {
		t.Error("host1 answers across a cut at its new address")
	}

	// From behind one NAT to behind the other, and into the open.
	must(l.Rehome(t.Context(), "host2", "nat2-lan", Link{Network: "nat3-lan"}, "nat3"))
	must(ping(t, h2, h1.Addr()))
	in, out := openUDP(t, h2, 0), openUDP(t, h1, 0)
	in.send(out.at(), "where am I?")
	if from := out.hears("where am I?", soon); from.Addr() != l.Host("nat3").Addr() {
		t.Errorf("host2 is seen at %s, want it behind nat3 at %s", from, l.Host("nat3").Addr())
	}
	must(l.Rehome(t.Context(), "host2", "nat3-lan", Link{Network: "internet"}, ""))
	must(ping(t, h4, h2.Addr()))
	must(ping(t, h4, h2.Addr6()))

	// A router that moves takes its networks along.
	must(l.Renumber(t.Context(), "nat3", "nat3-lan"))
	must(ping(t, l.Host("host3"), h1.Addr()))

	must(l.SetMTU(t.Context(), "internet", 1000))
	if answers(t, h4, h2.Addr6()) {
		t.Error("IPv6 over an MTU of 1000")
	}
	must(ping(t, h4, h2.Addr()))
	must(l.SetMTU(t.Context(), "internet", 9000))
	if ok, err := passes(t, l, "host4", "host2", 9000, arrives, whole); !ok {
		t.Errorf("9000 bytes do not pass: %v", err)
	}
	must(ping(t, h4, h2.Addr6()))

	for what, err := range map[string]error{
		"an address that is not on the network": l.Renumber(t.Context(), "host1", "nat2-lan"),
		"no host":                               l.Renumber(t.Context(), "host9", "internet"),
		"no network":                            l.Rehome(t.Context(), "host1", "internet", Link{Network: "wan"}, ""),
		"no gateway":                            l.Rehome(t.Context(), "host1", "internet", Link{Network: "internet"}, "host9"),
		"no MTU":                                l.SetMTU(t.Context(), "wan", 1500),
	} {
		if err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	must(h4.Reboot(t.Context()))
	eventually(t, "a host that boots after all that", func() error { return pingWithin(t, h4, h2.Addr(), time.Second) })
}
