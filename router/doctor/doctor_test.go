package doctor

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/router/api"
)

const peerName = "f6:42:1d:0a:5e:01"

// healthy is a host on which nothing is wrong, with one peer.
func healthy() Facts {
	return Facts{
		Daemon: true, Datapath: "auto", Port: 6783, Version: "0.1.0", Kernel: Kernel{Looked: true},
		Sysctls:    map[string]string{"net/ipv4/ip_forward": "1", bridgeCalls: "0"},
		Docker:     Docker{Present: true, IPTables: true, Live: true, Plugin: true, Config: "/etc/docker/daemon.json"},
		Neighbours: []Neighbours{{"IPv4", 40, 1024, 0}, {"IPv6", 40, 1024, 0}},
		Disks:      []Disk{{Path: "/var/lib/weft", Free: 9 << 30, Total: 10 << 30}},
		Resolv:     []netip.Addr{netip.MustParseAddr("192.0.2.53")},
		Names:      Names{Looked: true, Address: "169.254.67.83:53", Upstreams: []Upstream{{Address: "192.0.2.53:53"}}},
		Status: &api.Status{
			Ready: true, MTU: 1370, IPAM: &api.IPAM{}, Peers: []api.Peer{{Self: true}, {Name: peerName}},
			Connections: []api.Connection{{
				Address: "192.0.2.12:6784", State: api.Established, Name: peerName, Nickname: "host2", MTU: 1370, RTT: time.Millisecond,
			}},
		},
		Whys:     map[string]api.Why{peerName: {Name: peerName, MTU: 1370, PathMTU: 1500, Address: "192.0.2.12:6784"}},
		Checkups: map[string]Checkup{peerName: {Answered: true, RTT: time.Millisecond, Skew: 3 * time.Millisecond, Back: Reached, Looked: true, MTU: 1370, Sent: 1370, Names: Reached}},
		Versions: map[string]string{peerName: "0.1.0"},
	}
}

// summary is a list as "severity id subject", without what is fine.
func summary(list []api.Finding) (out []string) {
	for _, f := range list {
		if f.Severity != api.OK {
			out = append(out, strings.TrimSpace(string(f.Severity)+" "+f.ID+" "+f.Subject))
		}
	}
	return out
}

// ailment is one thing that is wrong, and what is found.
type ailment struct {
	name string
	make func(f *Facts)
	want []string
}

func connection(f *Facts) *api.Connection { return &f.Status.Connections[0] }

// over6 is a path over IPv6 that carries so much, inside and outside.
func over6(inner, outer int) func(*Facts) {
	return func(f *Facts) {
		connection(f).MTU = inner
		w := f.Whys[peerName]
		w.MTU, w.PathMTU, w.Address = inner, outer, "[2001:db8::c]:6784"
		f.Whys[peerName] = w
	}
}

func checkupOf(f *Facts, change func(c *Checkup)) {
	c := f.Checkups[peerName]
	change(&c)
	f.Checkups[peerName] = c
}

func ailments() []ailment {
	rules := func(text string) func(*Facts) {
		return func(f *Facts) { f.Firewall.Rules = append(f.Firewall.Rules, nftRules(text)...) }
	}
	target := func(state api.State, info string) func(*Facts) {
		return func(f *Facts) {
			f.Status.Connections = append(f.Status.Connections, api.Connection{Address: "192.0.2.15:6783", State: state, Info: info})
		}
	}
	return []ailment{
		{"nothing", func(*Facts) {}, nil},
		{"not ready", func(f *Facts) { f.Status.Ready, f.Status.Waiting = false, "containers" }, []string{"warning daemon"}},
		{"no daemon", func(f *Facts) { f.Daemon, f.Status = false, nil }, []string{"problem daemon"}},
		{"port taken", func(f *Facts) { f.Daemon, f.Status, f.Taken = false, nil, []string{"TCP 6783"} }, []string{"problem daemon", "problem port-taken TCP 6783"}},
		{"stopped", func(f *Facts) { f.Daemon, f.Status, f.Process = false, nil, Daemon{Pid: 7, Stopped: true} }, []string{"problem daemon"}},
		{"hangs", func(f *Facts) { f.Daemon, f.Status, f.Process = false, nil, Daemon{Pid: 7, Err: "no answer"} }, []string{"problem daemon"}},
		{"a step hangs", func(f *Facts) { f.Stuck = []Stuck{{"disk /x", "given up"}} }, []string{"warning step-stuck disk /x"}},
		{"no bridge", func(f *Facts) { f.Kernel.Bridge = "no" }, []string{"problem kernel-bridge"}},
		{"no IPv6", func(f *Facts) { f.Kernel.IPv6 = "no" }, []string{"problem kernel-ipv6"}},
		{"no nft", func(f *Facts) { f.Kernel.NFT = "no" }, []string{"problem nft"}},
		{"no WireGuard", func(f *Facts) { f.Kernel.WireGuard = "no" }, []string{"note kernel-wireguard"}},
		{"no WireGuard, asked for", func(f *Facts) { f.Kernel.WireGuard, f.Datapath = "no", "kernel" }, []string{"problem kernel-wireguard"}},
		{"no VXLAN", func(f *Facts) { f.Kernel.VXLAN = "no" }, []string{"problem kernel-vxlan"}},
		{"no TUN, needed", func(f *Facts) { f.Kernel.WireGuard, f.Kernel.TUN = "no", "no" }, []string{"problem tun", "note kernel-wireguard"}},
		{"no TUN, not needed", func(f *Facts) { f.Kernel.TUN = "no" }, nil},
		{"no forwarding", func(f *Facts) { f.Exposed, f.Sysctls["net/ipv4/ip_forward"] = true, "0" }, []string{"problem forwarding"}},
		{"no forwarding, not needed", func(f *Facts) { f.Sysctls["net/ipv4/ip_forward"] = "0" }, nil},
		{"arptables", func(f *Facts) { f.Sysctls["net/bridge/bridge-nf-call-arptables"] = "1" }, []string{"note bridge-arptables"}},
		{"tunnel without IPv6", func(f *Facts) { f.Sysctls["net/ipv6/conf/weft-wg/disable_ipv6"] = "1" }, []string{"problem tunnel-ipv6"}},
		{"neighbours full", func(f *Facts) { f.Neighbours[0].Entries = 1000 }, []string{"problem neighbours IPv4"}},
		{"neighbours were full", func(f *Facts) { f.Neighbours[1].Entries, f.Neighbours[1].Full = 600, 3 }, []string{"warning neighbours IPv6"}},
		{"neighbours were full, and have room", func(f *Facts) { f.Neighbours[1].Full = 3 }, nil},
		{"neighbours too few for the peers", func(f *Facts) {
			for range 600 {
				f.Status.Connections = append(f.Status.Connections, f.Status.Connections[0])
			}
			f.Neighbours[0].Limit = 8192
		}, []string{"warning neighbours IPv6"}},
		{"neighbours not shown", func(f *Facts) { f.Neighbours = nil }, nil},
		{"firewall unread", func(f *Facts) { f.Firewall.Err = "permission" }, []string{"warning firewall-unread"}},
		{"firewall too large", func(f *Facts) {
			rules("table inet guard {\n chain in {\n type filter hook input priority 0; policy drop;\n")(f)
			f.Firewall.Err, f.Firewall.TooLarge = "cut", true
		}, []string{"note firewall-unread"}},
		{"firewall", rules("table inet guard {\n chain in {\n type filter hook input priority 0; policy drop;\n }\n}\n"), []string{"problem firewall inet guard"}},
		{"forward", func(f *Facts) {
			f.Sysctls[bridgeCalls] = "1"
			rules("table ip filter {\n chain FORWARD {\n type filter hook forward priority 0; policy drop;\n }\n}\n")(f)
		}, []string{"problem firewall-forward ip filter"}},
		{"docker.json", func(f *Facts) { f.Docker.Err = "bad" }, []string{"warning docker-config"}},
		{"docker iptables", func(f *Facts) { f.Docker.IPTables = false }, []string{"note docker-iptables"}},
		{"docker resolver", func(f *Facts) { f.Resolv = []netip.Addr{netip.MustParseAddr("127.0.0.53")} }, []string{"warning docker-dns"}},
		{"docker resolver, given", func(f *Facts) {
			f.Resolv, f.Docker.DNS = []netip.Addr{netip.MustParseAddr("127.0.0.53")}, []string{"192.0.2.53"}
		}, nil},
		{"docker restarts", func(f *Facts) { f.Docker.Live = false }, []string{"note docker-live-restore"}},
		{"no docker", func(f *Facts) { f.Docker = Docker{} }, nil},
		{"disk full", func(f *Facts) { f.Disks[0].Free = 1 << 20 }, []string{"problem disk /var/lib/weft"}},
		{"no inodes", func(f *Facts) { f.Disks[0].NoInodes = true }, []string{"problem disk /var/lib/weft"}},
		{"disk nearly full", func(f *Facts) { f.Disks[0].Free = 32 << 20 }, []string{"warning disk /var/lib/weft"}},
		{"disk read-only", func(f *Facts) { f.Disks[0].Err = "read-only file system" }, []string{"problem disk /var/lib/weft"}},
		{"name server", func(f *Facts) { f.Names.Err = "no answer" }, []string{"problem dns 169.254.67.83:53"}},
		{"no upstream", func(f *Facts) { f.Names.Upstreams = nil }, []string{"note dns-upstream"}},
		{"upstream silent", func(f *Facts) { f.Names.Upstreams[0].Err = "no answer" }, []string{"problem dns-upstream"}},
		{"one upstream silent", func(f *Facts) { f.Names.Upstreams = append(f.Names.Upstreams, Upstream{"192.0.2.54:53", "no answer"}) }, []string{"warning dns-upstream"}},
		{"clone", func(f *Facts) {
			f.Status.Warnings = []string{"another host has our identity, a copied state directory or a cloned disk; run 'weft reset' on one of the two"}
		}, []string{"problem clone"}},
		{"clone as target", target(api.Failed, "another host has our identity (a copied state directory?)"), []string{"problem clone 192.0.2.15:6783"}},
		{"other warning", func(f *Facts) { f.Status.Warnings = []string{"w"} }, []string{"warning attention"}},
		{"address twice", func(f *Facts) {
			f.Status.IPAM.Duplicates = []api.IPAMDuplicate{{Address: netip.MustParseAddr("10.32.0.7")}}
		}, []string{"problem address-twice 10.32.0.7"}},
		{"addresses", func(f *Facts) {
			f.Status.IPAM.Warnings, f.Status.Warnings = []string{"two rings"}, []string{"two rings"}
		}, []string{"warning addresses"}},
		{"owners gone", func(f *Facts) { f.Status.IPAM.UnreachablePeers = 1 }, []string{"warning addresses-out-of-reach"}},
		{"address awaited", func(f *Facts) { f.Status.IPAM.Pending = []api.IPAMPending{{Container: "web"}} }, []string{"warning address-awaited web"}},
		{"wrong password", target(api.Failed, "wrong password, retry: 2026-11-20 18:55:38 +0000 UTC"), []string{"problem wrong-password 192.0.2.15:6783"}},
		{"no common version", target(api.Failed, "other protocol version: 3 to 4 there, 1 here; run the same version of weft on both, retry: never"), []string{"problem version 192.0.2.15:6783"}},
		{"ourself", target(api.Failed, "cannot connect to ourself, retry: never"), []string{"note target-self 192.0.2.15:6783"}},
		{"connecting", target(api.Connecting, ""), []string{"note target 192.0.2.15:6783"}},
		{"not reached", target(api.Retrying, "no route to host"), []string{"problem target 192.0.2.15:6783"}},
		{"relayed", func(f *Facts) { connection(f).State, connection(f).Via = api.Relayed, []string{"host3"} }, []string{"warning relayed host2"}},
		{"pending", func(f *Facts) { connection(f).State = api.Pending }, []string{"note peer-connecting host2"}},
		{"lost", func(f *Facts) { connection(f).State = api.Retrying }, []string{"problem peer-lost host2"}},
		{"loss", func(f *Facts) { connection(f).Loss = 0.2 }, []string{"warning loss host2"}},
		{"single sends", func(f *Facts) { connection(f).Single = true }, []string{"warning single-sends host2"}},
		{"narrow path", func(f *Facts) { connection(f).MTU = 1200 }, []string{"warning mtu host2"}},
		{"IPv6", over6(1338, 1500), []string{"note mtu host2"}},
		{"narrow path over IPv6", over6(1306, 1500), []string{"warning mtu host2"}},
		{"narrow network under IPv6", over6(1322, 1480), []string{"warning mtu host2"}},
		{"version", func(f *Facts) { f.Versions[peerName] = "0.2.0" }, []string{"note version host2"}},
		{"no answer", func(f *Facts) { f.Checkups[peerName] = Checkup{} }, []string{"warning peer-silent host2"}},
		{"no answer of another version", func(f *Facts) { f.Checkups[peerName], f.Versions[peerName] = Checkup{}, "0.0.9" }, []string{"note peer-silent host2", "note version host2"}},
		{"clock ahead", func(f *Facts) { checkupOf(f, func(c *Checkup) { c.Skew = time.Minute }) }, []string{"warning clock host2"}},
		{"clock far behind", func(f *Facts) { checkupOf(f, func(c *Checkup) { c.Skew = -time.Hour }) }, []string{"problem clock host2"}},
		{"clock as good as the path", func(f *Facts) { checkupOf(f, func(c *Checkup) { c.Skew, c.RTT = 4*time.Second, 5*time.Second }) }, nil},
		{"port closed", func(f *Facts) { checkupOf(f, func(c *Checkup) { c.Back = Closed }) }, []string{"warning port-closed host2"}},
		{"port there", func(f *Facts) { checkupOf(f, func(c *Checkup) { c.There = "refused" }) }, []string{"note peer-port-closed host2"}},
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range ailments() {
		t.Run(tt.name, func(t *testing.T) {
			f := healthy()
			tt.make(&f)
			got := Check(f)
			if diff := cmp.Diff(tt.want, summary(got)); diff != "" {
				t.Error(diff)
			}
			for _, x := range got {
				if x.What == "" || (x.Severity == api.OK) != (x.Remedy == "") {
					t.Errorf("nothing said or nothing to do: %+v", x)
				}
			}
		})
	}
}

func TestCheckPeer(t *testing.T) {
	hole := func(f *Facts) { checkupOf(f, func(c *Checkup) { c.MTU = 0 }) }
	for _, tt := range []struct {
		name string
		make func(*Facts)
		want []string
	}{
		{"nothing", func(*Facts) {}, nil},
		{"hole", hole, []string{"problem mtu-hole host2"}},
		{"names", func(f *Facts) { checkupOf(f, func(c *Checkup) { c.Names = Closed }) }, []string{"warning peer-dns host2"}},
		{"disk", func(f *Facts) { f.Disks[0].Err = "full" }, nil},
		{"clock", func(f *Facts) { checkupOf(f, func(c *Checkup) { c.Skew = time.Hour }) }, []string{"problem clock host2"}},
	} {
		f := healthy()
		tt.make(&f)
		if diff := cmp.Diff(tt.want, summary(CheckPeer(f, "host2"))); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

// TestEveryFindingIsProvoked: each kind that the code can find is a case above,
// and people can look it up.
func TestEveryFindingIsProvoked(t *testing.T) {
	docs, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	provoked := map[string]bool{"mtu-hole": true, "peer-dns": true} // TestCheckPeer
	for _, a := range ailments() {
		for _, w := range a.want {
			provoked[strings.Fields(w)[1]] = true
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	find := regexp.MustCompile(`(?:f\.add\((?:api\.(?:Warning|Problem|Note)|s), |need\()"([a-z0-9-]+)"`)
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range find.FindAllStringSubmatch(string(b), -1) {
			n++
			if !provoked[m[1]] {
				t.Errorf("%s: nothing here provokes %s", name, m[1])
			}
			if !strings.Contains(string(docs), "`"+m[1]+"`") {
				t.Errorf("docs/troubleshooting.md does not tell of `%s`", m[1])
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d findings were seen in the code", n)
	}
}

func TestOrderAndBounds(t *testing.T) {
	f := healthy()
	for range 500 {
		f.Status.Connections = append(f.Status.Connections, api.Connection{Address: "x", State: api.Retrying})
	}
	f.Status.IPAM.UnreachablePeers = 1
	list := Check(f)
	if len(list) != maxFindings || !slices.IsSortedFunc(list, func(a, b api.Finding) int { return b.Severity.Rank() - a.Severity.Rank() }) {
		t.Errorf("%d findings, or not in order", len(list))
	}
}

func TestLasting(t *testing.T) {
	list := []api.Finding{{ID: "clock", Severity: api.Problem}, {ID: "relayed", Severity: api.Warning}, {ID: "mtu", Severity: api.Warning, Subject: "a"}, {ID: "version", Severity: api.Note}}
	got := Lasting(list)
	if diff := cmp.Diff([]string{"problem clock", "warning mtu a"}, summary(got)); diff != "" {
		t.Error(diff)
	}
	worse := []api.Finding{{ID: "clock", Severity: api.Warning}, {ID: "mtu", Severity: api.Warning, Subject: "b"}}
	if diff := cmp.Diff([]string{"problem clock", "warning mtu a"}, summary(Fewer(got, worse))); diff != "" {
		t.Error(diff)
	}
	if got := Fewer(got, got); len(got) != 0 {
		t.Errorf("news: %v", got)
	}
}

// TestKept: what rests upon a step that brought nothing stays found, and the
// rest goes.
func TestKept(t *testing.T) {
	before := []api.Finding{
		{ID: "firewall", Severity: api.Problem, Subject: "inet x"},
		{ID: "disk", Severity: api.Problem, Subject: "/a"},
		{ID: "clock", Severity: api.Warning, Subject: "host2"},
		{ID: "mtu", Severity: api.Warning, Subject: "host2"},
	}
	now := []api.Finding{{ID: "loss", Severity: api.Warning, Subject: "host3"}}
	for _, tt := range []struct {
		facts Facts
		want  []string
	}{
		{Facts{}, []string{"warning loss host3"}},
		{Facts{Stuck: []Stuck{{"firewall", ""}}}, []string{"problem firewall inet x", "warning loss host3"}},
		{Facts{Firewall: Firewall{Err: "no"}}, []string{"problem firewall inet x", "warning loss host3"}},
		{Facts{Stuck: []Stuck{{"disk /a", ""}, {"peers", ""}}}, []string{"problem disk /a", "warning loss host3"}},
	} {
		if diff := cmp.Diff(tt.want, summary(Kept(now, before, tt.facts))); diff != "" {
			t.Errorf("%v: %s", tt.facts.Stuck, diff)
		}
	}
}

// TestStuckFirewall: of rules that were not seen nothing is said.
func TestStuckFirewall(t *testing.T) {
	f := healthy()
	f.Stuck = []Stuck{{"firewall", "given up"}}
	for _, x := range Check(f) {
		if x.ID == "firewall" {
			t.Errorf("%+v", x)
		}
	}
}

// TestRemediesFit: a remedy is one for what was seen.
func TestRemediesFit(t *testing.T) {
	lost := func(help string) func(*Facts) {
		return func(f *Facts) {
			connection(f).State = api.Retrying
			f.Whys[peerName] = api.Why{Help: help}
		}
	}
	for _, tt := range []struct {
		id   string
		make func(f *Facts)
		want string
	}{
		{"kernel-bridge", func(f *Facts) { f.Kernel.Bridge = "operation not supported" }, "'modprobe bridge'"},
		{"kernel-bridge", func(f *Facts) { f.Kernel.Bridge = "make a bridge: operation not permitted" }, "--cap-add=NET_ADMIN"},
		{"peer-lost", lost("if it is gone for good: 'weft rmpeer'"), "'weft rmpeer host2'"},
		{"peer-lost", lost(""), "'weft rmpeer host2'"},
		{"addresses-out-of-reach", func(f *Facts) {
			f.Status.IPAM.UnreachablePeers = 1
			f.Status.IPAM.Entries = []api.IPAMEntry{{Nickname: "host1", IPs: 9, Self: true}, {Nickname: "host2", IPs: 9, Reachable: true}, {Nickname: "host3", IPs: 9}, {Nickname: "host4"}}
		}, "gives its space away with 'weft rmpeer host3'"},
		{"addresses-out-of-reach", func(f *Facts) { f.Status.IPAM.UnreachablePeers = 1 }, "'weft rmpeer'"},
	} {
		f := healthy()
		tt.make(&f)
		list := Check(f)
		if i := slices.IndexFunc(list, func(x api.Finding) bool { return x.ID == tt.id }); i < 0 || !strings.Contains(list[i].Remedy, tt.want) {
			t.Errorf("%s: want %q in one of %+v", tt.id, tt.want, list)
		}
	}
}

// TestRemediesAreSafe: a nickname is what its host says, and people copy the
// commands of remedies.
func TestRemediesAreSafe(t *testing.T) {
	for nickname, want := range map[string]string{"host2": "host2", "$(reboot)": peerName, "a;b": peerName, "--force": peerName, "a'b": peerName} {
		f := healthy()
		c := connection(&f)
		c.State, c.Nickname = api.Retrying, nickname
		remedy := ""
		for _, x := range Check(f) {
			if x.ID == "peer-lost" {
				remedy = x.Remedy
			}
		}
		if !strings.Contains(remedy, "'weft rmpeer "+want+"'") {
			t.Errorf("%s: %s", nickname, remedy)
		}
	}
}
