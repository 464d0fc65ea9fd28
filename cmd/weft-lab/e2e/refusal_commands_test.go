package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// mistake is a command that must change nothing.
type mistake struct {
	args   string // {c1} is the container of that name
	exit   int
	stderr string // without "weft: "; … at the end stands for the rest of the line
}

// state is what a command could change, in a form that is quick to get.
func (n *node) state() string {
	n.c.t.Helper()
	out := n.sh("ip -o addr; ip -o link; ip route; cat /var/lib/weft/host.json /var/lib/weft/attachments.json /etc/hosts 2>/dev/null; true")
	for _, name := range slices.Sorted(maps.Keys(n.Containers())) {
		r := n.Containers()[name].Run(n.c.t.Context(), "sh", "-c", "ip -o addr; ip route; cat /etc/hosts")
		out += name + ":\n" + r.Stdout + r.Stderr
	}
	out = regexp.MustCompile(` (valid_lft|preferred_lft) \S+|tentative `).ReplaceAllString(out, "")
	return out + n.must("ps") + n.must("status", "dns") + n.must("status", "targets") + n.must("status", "ipam") + n.must("token")
}

// make runs the command and holds it to one line, the exit code, and to having
// changed nothing.
func (m mistake) make(t *testing.T, n *node, boxes map[string]*box, run func(...string) lab.Result) {
	t.Helper()
	args, want := m.args, "weft: "+m.stderr+"\n"
	for name, b := range boxes {
		args = strings.ReplaceAll(args, "{"+name+"}", b.Ref())
		want = strings.ReplaceAll(want, "{"+name+"}", b.Ref())
	}
	r := run(strings.Fields(args)...)
	start, short := strings.CutSuffix(want, "…\n")
	if r.Exit != m.exit || r.Stdout != "" || r.Stderr != want && !(short && strings.HasPrefix(r.Stderr, start)) ||
		strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("%v\nwant exit %d and stderr %s", r, m.exit, want)
	}
}

// Commands with wrong arguments are refused by a real daemon in one line, with
// the right code, and change nothing.
func TestMistakesChangeNothing(t *testing.T) {
	parallel(t)
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.launch()
	boxes := map[string]*box{}
	for i := range 3 {
		b := n.start(fmt.Sprintf("c%d", i+1))
		b.addr = netip.AddrFrom4([4]byte{10, 32, 0, byte(i + 1)})
		boxes[b.name] = b
	}
	n.must("attach", "--mac", "02:00:00:00:00:01", "10.32.0.1/12", boxes["c1"].Ref())
	n.must("attach", "10.32.0.2/12", "10.99.0.2/24", boxes["c2"].Ref())
	n.must("expose", "10.32.0.100/12")
	n.must("dns-add", boxes["c1"].Ref(), "-h", "c1.weft.internal")
	n.must("connect", "192.0.2.99")
	n.listed("c1")

	const (
		noDocker = "container web: the Docker engine does not answer: …"
		running  = "weftd is already running (process …"
	)
	before := n.state()
	whole := n.settled()
	makeAll(t, n, boxes, []mistake{
		{"attach 10.32.0.9/12 pid:4194304", 1, "container pid:4194304: no such process"},
		{"attach 10.32.0.9/12 netns:nowhere", 1, "container netns:/run/netns/nowhere: no such network namespace…"},
		{"attach 10.32.0.9/12 netns:/etc/hosts", 1, "container netns:/etc/hosts: open network namespace /etc/hosts: …"},
		{
			"attach 10.32.0.9/12 netns:/proc/1/ns/net", 1,
			"container netns:/proc/1/ns/net: it uses the host's network and cannot be attached",
		},
		{"attach 10.32.0.9/12 pid:1", 1, "container pid:1: it uses the host's network and cannot be attached"},
		{"attach 10.32.0.9/12 web", 1, noDocker},
		{"attach 10.32.0.2/12 {c1}", 1, "attach {c1}: address 10.32.0.2 is held by container {c2} of this host"},
		{"attach 10.32.0.2/24 {c3}", 1, "attach {c3}: address 10.32.0.2 is held by container {c2} of this host"},
		{"attach 10.32.0.9/12 10.32.0.2/12 {c3}", 1, "attach {c3}: address 10.32.0.2 is held by container {c2} of this host"},
		{"attach 10.32.0.100/12 {c1}", 1, "attach {c1}: address 10.32.0.100 is held by this host itself (weft:expose)"},
		{
			"attach 10.0.0.9/8 {c1}", 1,
			"attach {c1}: address 10.0.0.9/8: its subnet overlaps that of 10.32.0.1/12 on the same interface; they must be equal or apart",
		},
		{
			"attach 10.32.5.9/24 {c1}", 1,
			"attach {c1}: address 10.32.5.9/24: its subnet overlaps that of 10.32.0.1/12 on the same interface; they must be equal or apart",
		},
		{
			"attach 10.99.0.9/16 {c2}", 1,
			"attach {c2}: address 10.99.0.9/16: its subnet overlaps that of 10.99.0.2/24 on the same interface; they must be equal or apart",
		},
		{
			"attach 10.40.0.1/16 10.40.0.2/24 {c3}", 1,
			"attach {c3}: address 10.40.0.1/16: its subnet overlaps that of 10.40.0.2/24 on the same interface; they must be equal or apart",
		},
		{
			"attach 10.40.0.1/24 10.40.0.2/16 {c3}", 1,
			"attach {c3}: address 10.40.0.1/24: its subnet overlaps that of 10.40.0.2/16 on the same interface; they must be equal or apart",
		},
		{
			"attach 10.40.0.1/24 10.40.0.1/16 {c3}", 1,
			"attach {c3}: address 10.40.0.1/24: its subnet overlaps that of 10.40.0.1/16 on the same interface; they must be equal or apart",
		},
		{
			"attach net:10.32.5.0/24 {c1}", 1,
			"attach {c1}: subnet 10.32.5.0/24 overlaps that of 10.32.0.1/12 on the same interface; they must be equal or apart",
		},
		{
			"attach 10.32.5.9/16 net:10.32.7.0/24 {c3}", 1,
			"attach {c3}: address 10.32.5.9/16: its subnet overlaps that of 10.32.7.0/24 on the same interface; they must be equal or apart",
		},
		{
			"attach net:192.168.7.0/24 {c3}", 2,
			"attach {c3}: subnet 192.168.7.0/24: not inside the address range 10.32.0.0/12",
		},
		{"attach net:10.0.0.0/8 {c3}", 2, "attach {c3}: subnet 10.0.0.0/8: not inside the address range 10.32.0.0/12"},
		{
			"attach net:10.32.0.0/32 {c3}", 2,
			"attach {c3}: subnet 10.32.0.0/32 has no address for a container: not inside the address range 10.32.0.0/12",
		},
		{
			"attach net:fd00::/64 {c3}", 2,
			"subnet net:fd00::/64: only IPv4 addresses can be given; every container has its IPv6 link-local one anyhow",
		},
		{"attach 10.32.0.9 {c3}", 2, "address 10.32.0.9 needs a prefix length, such as 10.32.0.9/24"},
		{"attach 10.32.0.300/12 {c3}", 2, `address "10.32.0.300/12": want ADDRESS/LENGTH such as 10.32.0.1/12`},
		{"attach 10.32.0.9/33 {c3}", 2, `address "10.32.0.9/33": want ADDRESS/LENGTH such as 10.32.0.1/12`},
		{
			"attach 10.32.0.0/12 {c3}", 2,
			"address 10.32.0.0/12 is the address of its network; the first one for a container is 10.32.0.1/12",
		},
		{"attach 10.47.255.255/12 {c3}", 2, "address 10.47.255.255/12 is the broadcast address of its network"},
		{"attach 10.32.0.9/0 {c3}", 2, "address 10.32.0.9/0: a subnet of everything would take the container's default route"},
		{"attach 224.0.0.9/12 {c3}", 2, "address 224.0.0.9 is not one that a container can have"},
		{"attach 127.0.0.9/8 {c3}", 2, "address 127.0.0.9 is not one that a container can have"},
		{"attach 240.0.0.9/12 {c3}", 2, "address 240.0.0.9/12 is not one that a container can have"},
		{"attach 169.254.67.83/32 {c3}", 2, "address 169.254.67.83/32 is the name server's"},
		{
			"attach fd00::9/64 {c3}", 2,
			"address fd00::9/64: only IPv4 addresses can be given; every container has its IPv6 link-local one anyhow",
		},
		{"attach 10.32.0.9/12 {c1} {c3}", 2, `attach: takes one container, got "{c1}" and "{c3}"; see 'weft attach --help'`},
		{
			"attach --mac=02:00:00:00:00:01 10.32.0.9/12 {c3}", 1,
			"attach {c3}: MAC address 02:00:00:00:00:01 is held by container {c1} of this host",
		},
		{
			"attach --mac=02:00:00:00:00:09 10.32.0.1/12 {c1}", 1,
			"attach {c1}: its interface has MAC address 02:00:00:00:00:01; detach it first to give it another",
		},
		{
			"attach --mac=01:00:00:00:00:09 10.32.0.9/12 {c3}", 2,
			"attach: --mac=01:00:00:00:00:09: want a unicast MAC address such as 02:00:00:00:00:01; see 'weft attach --help'",
		},
		{
			"attach --rewrite-hosts --add-host=x 10.32.0.9/12 {c3}", 2,
			"attach: --add-host=x: want NAME:ADDRESS; see 'weft attach --help'",
		},

		{"detach pid:4194304", 1, "container pid:4194304: no such process"},
		{"detach web", 1, noDocker},
		{"detach 10.32.0.1 {c1}", 2, "address 10.32.0.1 needs a prefix length, such as 10.32.0.1/24"},
		{"detach 10.32.0.1/12", 2, "detach: name a container; see 'weft detach --help'"},

		{"expose net:192.168.7.0/24", 2, "expose: subnet 192.168.7.0/24: not inside the address range 10.32.0.0/12"},
		{
			"expose net:10.32.7.0/24", 1,
			"expose: subnet 10.32.7.0/24 overlaps that of 10.32.0.100/12 on the same interface; they must be equal or apart",
		},
		{"expose 10.32.0.1/12", 1, "expose: address 10.32.0.1 is held by container {c1} of this host"},
		{"expose 10.32.0.1/24", 1, "expose: address 10.32.0.1 is held by container {c1} of this host"},
		{
			"expose 10.0.0.100/8", 1,
			"expose: address 10.0.0.100/8: its subnet overlaps that of 10.32.0.100/12 on the same interface; they must be equal or apart",
		},
		{
			"expose 10.32.7.100/24", 1,
			"expose: address 10.32.7.100/24: its subnet overlaps that of 10.32.0.100/12 on the same interface; they must be equal or apart",
		},
		{
			"expose 10.32.0.101/12 10.32.7.100/24", 1,
			"expose: address 10.32.0.101/12: its subnet overlaps that of 10.32.7.100/24 on the same interface; they must be equal or apart",
		},
		{"expose 10.32.0.101", 2, "address 10.32.0.101 needs a prefix length, such as 10.32.0.101/24"},
		{
			"expose 10.32.0.0/12", 2,
			"address 10.32.0.0/12 is the address of its network; the first one for a container is 10.32.0.1/12",
		},
		{"expose 10.32.0.101/12 -h host.example", 2, "name host.example. is not in the domain weft.internal. of this cluster"},
		{"hide 10.32.0.100", 2, "address 10.32.0.100 needs a prefix length, such as 10.32.0.100/24"},

		{"dns-add {c3}", 2, "dns-add {c3}: the container has no name of its own in the domain weft.internal.: give one with -h"},
		{"dns-add {c3} -h c3.weft.internal", 1, "dns-add {c3}: it has no address on the switch: attach it, or name an address"},
		{"dns-add {c1}", 2, "dns-add {c1}: the container has no name of its own in the domain weft.internal.: give one with -h"},
		{"dns-add pid:4194304 -h x.weft.internal", 1, "container pid:4194304: no such process"},
		{"dns-add 10.32.0.9 web -h x.weft.internal", 1, noDocker},
		{"dns-add {c1} -h web.example", 2, "name web.example. is not in the domain weft.internal. of this cluster"},
		{
			"dns-add 10.32.0.9/12 {c1} -h x.weft.internal", 2,
			`dns-add: "10.32.0.9/12": want an address without prefix length, such as 10.32.0.1; see 'weft dns-add --help'`,
		},
		{"dns-add 224.0.0.9 {c1} -h x.weft.internal", 2, "address 224.0.0.9 is not one that a container can have"},
		{"dns-remove pid:4194304", 1, "container pid:4194304: no such process"},
		{"dns-remove web", 1, noDocker},
		{"dns-remove {c1} -h c1.example", 2, "name c1.example. is not in the domain weft.internal. of this cluster"},
		{"ps pid:0", 2, `ps: container "pid:0": want pid:NUMBER; see 'weft ps --help'`},

		{"connect 192.0.2.11:0", 2, `peer "192.0.2.11:0": want IP-OR-NAME[:PORT] with a port from 1 to 65535`},
		{"connect 192.0.2.12 not/a/name", 2, `peer "not/a/name" is neither an address nor the name of a host`},
		{"connect --replace 224.0.0.1", 2, `peer "224.0.0.1": nobody can be reached at that address`},
		{"forget 300.0.0.1", 2, `peer "300.0.0.1" is neither an address nor the name of a host`},
		{"status ips", 2, `status: unknown section "ips": want targets, connections, peers, dns, ipam; see 'weft status --help'`},
		{"rmpeer", 2, "rmpeer: name a peer that is gone for good, as 'weft status ipam' shows it; see 'weft rmpeer --help'"},
		{"rmpeer host9", 1, "no peer is called host9; see 'weft status ipam' and 'weft status peers'"},
		{"rmpeer host1", 1, "this host cannot be removed by itself; use 'weft reset'"},
		{"prime now", 2, `prime: takes no arguments, got "now"; see 'weft prime --help'`},
		{"status --wait=connections=1 --timeout=100ms", 1, "0 of 1 connections after 100ms; see 'weft status connections'"},
		{
			"report -f {{.Nothing}}", 1,
			`report -f: template: report:1:2: executing "report" at <.Nothing>: can't evaluate field Nothing in type main.report`,
		},
		{"report -f {{", 2, "report: -f: template: report:1: unclosed action; see 'weft report --help'"},

		{"launch", 3, running},
		{"launch --mtu=1300 192.0.2.12", 3, running},
		{"launch --resume 192.0.2.12", 2, "--resume keeps the peers of the last run: name none, or leave it out"},
		{"launch --datapath=fast", 2, "--datapath=fast: want auto, kernel or userspace"},
	}, func() string { return cmp.Diff(before, n.state()) })
	c.wait("nothing else has changed", time.Second, func() error {
		if diff := cmp.Diff(whole, n.settled()); diff != "" {
			return diffError(diff)
		}
		return nil
	})
}

// makeAll makes every mistake, and looks after every few what they changed: a
// look is twenty commands.
func makeAll(t *testing.T, n *node, boxes map[string]*box, tests []mistake, changed func() string) {
	t.Helper()
	for some := range slices.Chunk(tests, 8) {
		var args []string
		for _, m := range some {
			m.make(t, n, boxes, n.weft)
			args = append(args, "weft "+m.args)
		}
		if diff := changed(); diff != "" {
			t.Fatalf("one of these changed something:\n%s\n(-before +after):\n%v", strings.Join(args, "\n"), diffError(diff))
		}
	}
}

// settled is the snapshot of a host with a daemon, without what changes by
// itself: the log, what is known of peers, timers of bridges.
func (n *node) settled() snapshot {
	n.c.t.Helper()
	s := n.takeSnapshot()
	s["files"] = slices.DeleteFunc(s["files"], func(line string) bool {
		name, _, _ := strings.Cut(line, " ")
		return slices.Contains([]string{"/run/weft/weftd.log", "/run/weft/ipam.mark", "/var/lib/weft/peers.json", "/var/lib/weft/ipam.db"}, name)
	})
	timer := regexp.MustCompile(`\w+_(timer|delay_timer) +[0-9.]+`)
	for i, line := range s["links"] {
		s["links"][i] = timer.ReplaceAllString(line, "")
	}
	return s
}

// listed waits until a name is among those that the host lists.
func (n *node) listed(name string) {
	n.c.t.Helper()
	n.c.wait(name+" is listed", time.Second, func() error {
		if out := n.must("status", "dns"); !strings.Contains(out, name+" ") {
			return fmt.Errorf("status dns:\n%s", out)
		}
		return nil
	})
}

// Without a daemon every command that asks it says so, and how to start one.
// What launch refuses leaves nothing behind.
func TestMistakesWithoutDaemon(t *testing.T) {
	parallel(t)
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.sh("iptables -S >/dev/null; nft list ruleset >/dev/null")
	boxes := map[string]*box{"c1": n.start("c1")}
	before := n.takeSnapshot()
	var tests []mistake
	for _, args := range []string{
		"attach 10.32.0.1/12 {c1}", "detach {c1}", "detach 10.32.0.1/12 {c1}", "expose 10.32.0.1/12", "hide", "ps", "ps {c1}",
		"dns-add {c1} -h c1.weft.internal", "dns-add 10.32.0.1 -h c1.weft.internal", "dns-remove {c1}", "dns-lookup c1", "dns-args",
		"connect 192.0.2.12", "forget 192.0.2.12", "token", "logs", "logs -f", "status", "status targets", "status connections",
		"status peers", "status dns", "status ipam", "status --wait=connections=1", "report", "report -f {{.Ready}}", "prime", "rmpeer host2",
	} {
		tests = append(tests, mistake{args, 3, "weftd is not reachable at /run/weft/weft.sock; start it with 'weft launch'"})
	}
	tests = append(tests,
		mistake{
			"launch 192.0.2.12", 2,
			"peers are named but this host has no cluster secret: give the --token that 'weft token' prints on one of them, or the --password of the cluster",
		},
		mistake{"launch --resume 192.0.2.12", 2, "--resume keeps the peers of the last run: name none, or leave it out"},
		mistake{"launch --token=weft1.x", 2, "--token: token is incomplete; copy the whole line that 'weft token' prints"},
		mistake{
			"launch --password=short", 2,
			"--password: password is too short: use at least 14 characters, a token, or --weak-password",
		},
		mistake{"launch --password=long-enough-to-be-taken --token=" + c.token, 2, "--password and --token are two secrets; give one"},
		mistake{"launch --password-file=/nowhere", 2, "--password-file /nowhere: open /nowhere: no such file or directory"},
		mistake{"launch --port=65535", 2, "--port=65535: want a number from 1 to 65534"},
		mistake{"launch --port=http", 2, "--port=http: want a number from 1 to 65534"},
		mistake{
			"launch --name=host1", 2,
			`--name=host1: peer name "host1": want six octets like 7a:3e:00:00:00:01, or a short form like ::1`,
		},
		mistake{"launch --mtu=100", 2, "--mtu=100: want 0 or a number from 576 to 9216"},
		mistake{"launch --mtu=fast", 2, "--mtu=fast: want a number from 0 to 9216"},
		mistake{
			"launch --ipalloc-range=10.32.0.1/12", 2,
			"--ipalloc-range=10.32.0.1/12: 10.32.0.1/12 is an address, its network is 10.32.0.0/12",
		},
		mistake{"launch --ipalloc-range=fd00::/64", 2, "--ipalloc-range=fd00::/64: want an IPv4 network such as 10.32.0.0/12"},
		mistake{"launch --ipalloc-range=10.32.0.0/31", 2, "--ipalloc-range=10.32.0.0/31: want a network from /8 to /30"},
		mistake{
			"launch --ipalloc-default-subnet=10.99.0.0/24", 2,
			"--ipalloc-default-subnet: 10.99.0.0/24 is not inside the range 10.32.0.0/12",
		},
		mistake{
			"launch --ipalloc-init=vote", 2,
			`--ipalloc-init=vote: allocator mode "vote": want consensus, consensus=N, seed=NAME,… or observer`,
		},
		mistake{"launch --ipalloc-reclaim-after=-1h", 2, "--ipalloc-reclaim-after=-1h: want a time such as 90m or 24h"},
		mistake{"launch --conn-limit=-1", 2, "--conn-limit=-1: want a number from 0 to 65535"},
		mistake{"launch --host=host1", 2, `--host=host1: "host1" is not an address`},
		mistake{"launch --dns-domain=-", 2, "--dns-domain=-: want a domain name such as weft.internal."},
		mistake{"launch --dns-ttl=-1", 2, "--dns-ttl=-1: want a number from 0 to 86400"},
		mistake{
			"launch --dns-listen-address=here", 2,
			"--dns-listen-address=here: want an address with or without port, such as 169.254.67.83:53",
		},
		mistake{"launch --log-level=loud", 2, "--log-level=loud: want debug, info, warning or error"},
		mistake{"launch --status-addr=here", 2, "--status-addr=here: want ADDRESS:PORT such as 127.0.0.1:6782"},
		mistake{"launch --state-dir=weft", 2, "--state-dir=weft: want an absolute path"},
		mistake{"launch --socket=weft.sock", 2, "--socket=weft.sock: want an absolute path of at most 107 bytes"},
		mistake{"launch --cluster=", 2, "--cluster=: want 1 to 64 bytes without spaces and control characters"},
		mistake{"launch 192.0.2.12:port", 2, `peer "192.0.2.12:port": want IP-OR-NAME[:PORT] with a port from 1 to 65535`},
		mistake{"launch --config=/nowhere", 2, "read settings: open /nowhere: no such file or directory"},
		mistake{"launch --nothing", 2, "launch: unknown flag: --nothing; see 'weft launch --help'"},
	)
	tests = append(tests, mistake{
		"launch --name=01:00:00:00:00:01", 2,
		"--name=01:00:00:00:00:01: peer name 01:00:00:00:00:01: want a unicast address that is not zero",
	})
	makeAll(t, n, boxes, tests, func() string { return cmp.Diff(before, n.takeSnapshot()) })
	// The daemon itself says what is wrong with the host; its log stays.
	l := listener(t, n, netip.MustParseAddrPort("0.0.0.0:6783"))
	mistake{
		"launch", 1, "listen for other hosts: listen tcp :6783: bind: address already in use; " +
			"another program has the port: stop it, or choose one with --port; its log is /run/weft/weftd.log",
	}.make(t, n, boxes, n.weft)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	n.sh("rm -r /run/weft")
	if diff := cmp.Diff(before, n.takeSnapshot()); diff != "" {
		t.Error(diffError(diff))
	}
}
