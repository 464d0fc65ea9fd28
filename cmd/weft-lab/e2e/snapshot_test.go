package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// snapshot is everything on a host that weft could leave behind, by kind, as
// sorted lines.
type snapshot map[string][]string

// takeSnapshot looks at the whole host.
func (n *node) takeSnapshot() snapshot {
	n.c.t.Helper()
	s := snapshot{}
	volatile := regexp.MustCompile(` (valid_lft|preferred_lft|expires|packets|bytes|used|ref) \S+`)
	lines := func(kind string, keep func(string) bool, args ...string) {
		r := n.Run(n.c.t.Context(), args...)
		if r.Err != nil {
			n.c.t.Fatal(r.Err)
		}
		for line := range strings.Lines(r.Stdout) {
			line = volatile.ReplaceAllString(strings.TrimRight(line, " \n"), "")
			if line != "" && (keep == nil || keep(line)) {
				s[kind] = append(s[kind], line)
			}
		}
	}
	lines("links", nil, "ip", "-o", "-d", "link")
	lines("addresses", nil, "ip", "-o", "addr")
	lines("routes", nil, "ip", "route", "show", "table", "all")
	lines("routes", nil, "ip", "-6", "route", "show", "table", "all")
	lines("rules", nil, "ip", "rule")
	lines("rules", nil, "ip", "-6", "rule")
	// What the host learnt about its own network comes and goes by itself.
	own := func(l string) bool { return strings.Contains(l, "PERMANENT") || !strings.Contains(l, "dev eth") }
	lines("neighbours", own, "ip", "neigh")
	for _, program := range []string{"iptables-save", "ip6tables-save"} {
		lines("iptables", notBare, program)
	}
	s["nft"] = n.nftRules()
	s["sysctls"] = n.sysctls()
	s["files"] = n.files()
	s["sockets"] = n.sockets()
	for _, name := range n.processes() {
		s["processes"] = append(s["processes"], name)
	}
	for _, l := range s {
		slices.Sort(l)
	}
	return s
}

// notBare leaves out what the iptables programs print, or make, when they only
// look: empty chains.
func notBare(line string) bool {
	return !strings.HasPrefix(line, "#") && line != "COMMIT" && !strings.HasPrefix(line, "*") &&
		!regexp.MustCompile(`^:(INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING) ACCEPT `).MatchString(line)
}

// nftRules lists the tables of nftables without counters, and without the empty
// ones of the iptables programs.
func (n *node) nftRules() []string {
	text := n.sh("nft -s list ruleset")
	bare := regexp.MustCompile(`(?m)^table ip6? \w+ \{\n(\tchain (INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING) \{\n\t\ttype [^\n]*policy accept;\n\t\}\n\n?)*\}\n`)
	return strings.Split(strings.TrimSpace(bare.ReplaceAllString(text, "")), "\n")
}

// sysctls reads everything below net that a namespace has.
func (n *node) sysctls() []string {
	var out []string
	err := n.Do(func() error {
		return filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "nf_conntrack_count") {
				return nil //nolint:nilerr // what cannot be read is write-only, or of an interface that has just gone
			}
			if b, err := os.ReadFile(path); err == nil {
				out = append(out, strings.TrimPrefix(path, "/proc/sys/")+"="+strings.TrimSpace(string(b)))
			}
			return nil
		})
	})
	if err != nil {
		n.c.t.Fatal(err)
	}
	return out
}

// files lists what is in the host's own directories. Of its programs and data
// bases only what is not the machine's.
func (n *node) files() []string {
	own, err := n.OwnFiles()
	if err != nil {
		n.c.t.Fatal(err)
	}
	return own
}

// sockets lists what listens, or is bound, in the host.
func (n *node) sockets() []string {
	var out []string
	pid := ""
	for p := range n.processes() {
		if pid == "" || len(p) < len(pid) || len(p) == len(pid) && p < pid {
			pid = p
		}
	}
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6", "unix"} {
		b, err := os.ReadFile(filepath.Join(n.Root(), "proc", pid, "net", proto))
		if err != nil {
			n.c.t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			switch {
			case f[0] == "sl" || f[0] == "Num":
			case proto == "unix":
				if len(f) > 7 {
					out = append(out, "unix "+f[7])
				}
			case strings.HasPrefix(proto, "tcp") && f[3] != "0A": // not listening
			default:
				out = append(out, proto+" "+f[1])
			}
		}
	}
	return out
}

// The snapshot notices one change of each kind; otherwise it could not show
// that there is none.
func TestSnapshotNotices(t *testing.T) {
	parallelAs(t, ordinary, 10*time.Second)
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.sh("iptables -S >/dev/null; nft list ruleset >/dev/null")
	// Those of a round stand in no other's way; each shows its own words.
	type mark struct{ kind, shows, do, undo string }
	for _, round := range [][]mark{
		{
			{"links", "left: ", "ip link add left type bridge", "ip link del left"},
			{"addresses", "10.9.9.9/32", "ip addr add 10.9.9.9/32 dev lo", "ip addr del 10.9.9.9/32 dev lo"},
			{"routes", "10.9.9.0/24", "ip route add 10.9.9.0/24 dev eth0 table 4711", "ip route del 10.9.9.0/24 dev eth0 table 4711"},
			{"rules", "fwmark 0x9", "ip rule add fwmark 9 table 9", "ip rule del fwmark 9 table 9"},
			{"neighbours", "192.0.2.99", "ip neigh add 192.0.2.99 lladdr 02:00:00:00:00:09 dev eth0", "ip neigh del 192.0.2.99 dev eth0"},
			{"nft", "table inet left", "nft add table inet left", "nft delete table inet left"},
			{"iptables", "-A FORWARD -p 99", "iptables -A FORWARD -p 99 -j ACCEPT", "iptables -D FORWARD -p 99 -j ACCEPT"},
			{"files", "/var/lib/weft/left", "mkdir -p /var/lib/weft/left", "rm -r /var/lib/weft"},
			{"processes", "sleep", "sleep 3600 >/dev/null 2>&1 &", "kill $(ps -eo pid,args | awk '/[s]leep 3600/ {print $1}')"},
		},
		{
			{"links", "alias left", "ip link set eth0 alias left", "ip link set eth0 alias ''"},
			{"routes", "fd00::/64", "ip -6 route add fd00::/64 dev eth0", "ip -6 route del fd00::/64 dev eth0"},
			{"rules", "fwmark 0x9", "ip -6 rule add fwmark 9 table 9", "ip -6 rule del fwmark 9 table 9"},
			{"iptables", "FORWARD DROP", "iptables -P FORWARD DROP", "iptables -P FORWARD ACCEPT"},
			{"sysctls", "eth0/proxy_arp=1", "echo 1 > /proc/sys/net/ipv4/conf/eth0/proxy_arp", "echo 0 > /proc/sys/net/ipv4/conf/eth0/proxy_arp"},
			{"files", "/run/left", "echo left > /run/left", "rm /run/left"},
		},
		{
			{"iptables", "left", "ip6tables -N left", "ip6tables -X left"},
			{"files", "/etc/hosts", "echo '# left' >> /etc/hosts", "sed -i '/# left/d' /etc/hosts"},
		},
	} {
		before := n.takeSnapshot()
		for _, m := range round {
			n.sh(m.do)
		}
		with := n.takeSnapshot()
		for _, m := range round {
			if !slices.ContainsFunc(with[m.kind], func(l string) bool { return strings.Contains(l, m.shows) && !slices.Contains(before[m.kind], l) }) {
				t.Errorf("%s: not noticed: %s", m.kind, m.do)
			}
			n.sh(m.undo)
		}
		n.c.wait("all is as before", time.Second, func() error {
			if diff := cmp.Diff(before, n.takeSnapshot()); diff != "" {
				return diffError(diff)
			}
			return nil
		})
	}
	before := n.takeSnapshot()
	l, err := n.Listen(t.Context(), addrPort("127.0.0.1:4711"))
	if err != nil {
		t.Fatal(err)
	}
	u, err := n.ListenUDP(t.Context(), addrPort("[::1]:4711"))
	if err != nil {
		t.Fatal(err)
	}
	after := n.takeSnapshot()
	if got := len(after["sockets"]) - len(before["sockets"]); got != 2 {
		t.Errorf("%d of two sockets noticed: %v", got, after["sockets"])
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
}
