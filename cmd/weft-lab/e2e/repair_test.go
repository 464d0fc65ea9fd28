package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// harm is a way in which somebody else breaks what weft made on a host.
type harm struct {
	name string
	do   string // a script; $end is the host's end of a container, $peer the other host
	log  string // in the one line that says what was repaired; empty: none does
}

// harms is every kind of it that the kernel tells of.
func harms() []harm {
	list := []harm{
		{"ruleset flushed", "nft flush ruleset", "nftables rules of weft were changed or gone"},
		{"chain flushed", "nft flush chain inet weft weft-raw", "nftables rules of weft were changed or gone"},
		{"rule added", "nft insert rule inet weft weft-input accept", "nftables rules of weft were changed or gone"},
		{"switch port taken out", "ip link set weft-vx nomaster", "weft-vx was no port of weft"},
		{"switch port down", "ip link set weft-vx down", "weft-vx was down"},
		{"switch port deleted", "ip link del weft-vx", "device weft-vx was gone"},
		{"container's port taken out", "ip link set $end nomaster", "ip link set $end master weft"},
		{"container's port down", "ip link set $end down", "ip link set $end up"},
		{"container's port deleted", "ip link del $end", "its interface was gone"},
		{"bridge down", "ip link set weft down", "bridge weft was down"},
		{"bridge deleted", "ip link del weft", "bridge weft was gone"},
		{"bridge's address changed", "ip link set weft address 02:00:00:00:00:01", "address of bridge weft was 02:00:00:00:00:01"},
		{"IPv6 on at the bridge", "echo 0 >/proc/sys/net/ipv6/conf/weft/disable_ipv6", "IPv6 was on at weft"},
		{"strange address on the bridge", "ip addr add 10.32.0.99/12 dev weft", "address 10.32.0.99/12 was left on bridge weft"},
		{"name server's address deleted", "ip addr flush dev weft", "address 169.254.67.83/32 was missing from bridge weft"},
		{"name server's rules deleted", "ip rule del pref 783; ip rule del pref 784", "routing rule 784 was missing"},
		{"name server's route deleted", "ip route flush table 6783", "the route of the name server's answers was missing"},
		{"tunnel's address deleted", "ip -6 addr flush dev weft-wg", "was missing from weft-wg"},
		{"tunnel's route deleted", "ip -6 route del $peer dev weft-wg", "the route to $peer was missing from weft-wg"},
		{"tunnel down", "ip link set weft-wg down", "weft-wg was down"},
		{"tunnel deleted", "ip link del weft-wg", "device weft-wg was gone"},
	}
	if run.datapath != "userspace" { // there the daemon forwards by a table of its own
		list = append(list, harm{"remote deleted", "bridge fdb del 00:00:00:00:00:00 dev weft-vx dst $peer", "1 remotes were missing from weft-vx"})
	}
	return list
}

// patient is a host to be harmed, with what it needs to be well.
type patient struct {
	*node
	boxes []*box
	env   string // for scripts
	well  []string
}

// newPatient is the first of two hosts, with two containers of its own and one
// on the other host.
func newPatient(t *testing.T) *patient {
	c := joined(t, 2)
	p := &patient{node: c.nodes[0], boxes: append(c.attachEach(), c.nodes[0].attach("c3", "10.32.0.3"))}
	whole(c, p.boxes)
	p.sh("iptables -S >/dev/null; ip6tables -S >/dev/null")
	p.env = "end=" + p.end(p.boxes[0]) + " peer=" + strings.TrimSpace(c.nodes[1].sh(
		`ip -o -6 addr show dev weft-wg scope global | sed -n 's!.*inet6 \([^/]*\)/.*!\1!p'`)) + "\n"
	p.well = p.health()
	return p
}

// end returns the name of the host's end of a container's interface.
func (n *node) end(b *box) string {
	n.c.t.Helper()
	link, err := b.Netlink().LinkByName("weft0")
	if err != nil {
		n.c.t.Fatal(err)
	}
	peer, err := n.Netlink().LinkByIndex(link.Attrs().ParentIndex)
	if err != nil {
		n.c.t.Fatal(err)
	}
	return peer.Attrs().Name
}

// expand replaces the words of a script as its shell would.
func (p *patient) expand(s string) string {
	for word := range strings.FieldsSeq(p.env) {
		name, value, _ := strings.Cut(word, "=")
		s = strings.ReplaceAll(s, "$"+name, value)
	}
	return s
}

// health is everything that weft made and should keep, without what differs
// between two devices of one name.
func (p *patient) health() []string {
	p.c.t.Helper()
	volatile := regexp.MustCompile(`^\d+: |@if\d+|\.weft\d+|(_timer|port_id|port_no|designated_port|link-netnsid|xdp id|load_time) +\S+`)
	var out []string
	s := p.takeSnapshot()
	for _, kind := range []string{"links", "addresses", "routes", "rules", "nft", "iptables", "sysctls", "sockets"} {
		for _, line := range s[kind] {
			line = volatile.ReplaceAllString(line, "")
			if kind == "links" && !strings.HasPrefix(line, "weft:") {
				line = regexp.MustCompile(`link/ether \S+`).ReplaceAllString(line, "")
			}
			out = append(out, kind+": "+line)
		}
	}
	for line := range strings.Lines(p.sh("bridge fdb show dev weft-vx")) {
		if strings.HasPrefix(line, "00:00:00:00:00:00") {
			out = append(out, "remotes: "+strings.TrimSpace(line))
		}
	}
	slices.Sort(out)
	return out
}

// isWell says what is not as it was.
func (p *patient) isWell() error {
	if diff := cmp.Diff(p.well, p.health()); diff != "" {
		return fmt.Errorf("not as before (-before +now):\n%s", diff)
	}
	return p.flows()
}

// flows says which container does not reach which.
func (p *patient) flows() error {
	for _, a := range p.boxes {
		for _, b := range p.boxes {
			if a != b {
				if err := a.reaches(b); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// repairs returns the lines of a log that are about repairing.
func repairs(log string) []string {
	var out []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, "msg=repaired") || strings.Contains(line, "cannot repair") || strings.Contains(line, "is not what it should be") {
			out = append(out, strings.ReplaceAll(strings.TrimSpace(line), `\"`, ``))
		}
	}
	return out
}

// saysOnce says what is wrong unless exactly one line says that a repair of
// that kind was made, in that way, and none that one could not be.
func saysOnce(lines []string, what, how string) error {
	var n int
	for _, l := range lines {
		if strings.Contains(l, what) && strings.Contains(l, "how="+how) {
			n++
		}
		if !strings.Contains(l, "msg=repaired") {
			return fmt.Errorf("it says: %s", l)
		}
	}
	if n != 1 {
		return fmt.Errorf("%d lines say %q, how=%s:\n%s", n, what, how, strings.Join(lines, "\n"))
	}
	return nil
}

// sweepTime is how often a daemon looks at the host without being told.
const sweepTime = 30 * time.Second

// mended does harm to a host and waits until it is well again. It fails the test
// unless exactly one line says that it was repaired, because the kernel told of
// it; with want empty no line has to. Now and then the daemon's sweep comes at
// that very moment and is first; it cannot be again for a while, so the harm is
// done once more.
func (n *node) mended(t *testing.T, name, do, want string, well func() error) {
	t.Helper()
	for {
		before, begun := len(n.log()), time.Now()
		lines := func() []string { return repairs(n.log()[before:]) }
		said := func() error {
			if want == "" {
				return nil
			}
			return saysOnce(lines(), want, "notified")
		}
		n.sh(do)
		chance := false
		wait(t, name+": repaired", time.Second, func() error {
			err := said()
			chance = err != nil && n.sweptByChance(lines(), begun)
			if chance {
				return nil
			}
			return err
		})
		wait(t, name+": as before", time.Second, well)
		if !chance {
			if err := said(); err != nil {
				t.Error(err)
			}
			return
		}
		t.Logf("%s: the sweep came first; once more", name)
	}
}

// sweptByChance says whether a sweep repaired some of what was broken since
// begun, as early as if it had been told, and no sooner after the last one that
// did than a sweep is due. A daemon that is told nothing gets no such excuse, or
// only one.
func (n *node) sweptByChance(lines []string, begun time.Time) bool {
	swept := slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "how=swept") })
	if !swept || time.Since(begun) > 3*time.Second*run.slow() || time.Since(n.swept) < sweepTime*5/6 {
		return false
	}
	n.swept = time.Now()
	return true
}

// Whatever others break of what weft made is repaired when the kernel says that
// it changed, and said once; afterwards it is quiet.
func TestRepair(t *testing.T) {
	parallelAs(t, ordinary, 35*time.Second)
	p := newPatient(t)
	for _, h := range harms() {
		t.Run(strings.ReplaceAll(h.name, " ", "-"), func(t *testing.T) {
			p.mended(t, h.name, p.env+h.do, p.expand(h.log), p.isWell)
		})
	}
	p.staysQuiet(t)
}

// staysQuiet fails when anything is repaired though nothing is broken.
func (p *patient) staysQuiet(t *testing.T) {
	t.Helper()
	p.quiet(t, 2*time.Second)
	wait(t, "all is as before", time.Second, p.isWell)
}

// quiet waits until nothing was repaired for some time, soon: who repairs what
// nobody breaks never stops, and on a busy machine the last that is due is late.
func (n *node) quiet(t *testing.T, d time.Duration) {
	t.Helper()
	wait(t, n.Name()+" is quiet", time.Second, func() error {
		before := len(n.log())
		rest(t.Context(), d)
		if lines := repairs(n.log()[before:]); len(lines) > 0 {
			return fmt.Errorf("repaired again:\n%s", strings.Join(lines, "\n"))
		}
		return nil
	})
}
