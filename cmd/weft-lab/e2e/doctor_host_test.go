package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
	"github.com/weftnet/weft/router/api"
)

// brokenNFT puts a program in the place of nft that cannot list anything, and
// makes the daemon look again.
const brokenNFT = `real=$(readlink -f "$(command -v nft)")
cp "$real" /root/nft-real
cat >/root/nft-broken <<'.'
#!/bin/sh
case "$*" in "list ruleset"|"list tables") echo "nft: it is broken" >&2; exit 1;; esac
exec /root/nft-real "$@"
.
chmod 755 /root/nft-broken
mount --bind /root/nft-broken "$real"
/root/nft-real 'add table inet look; delete table inet look'`

// firmly sets a sysctl that weft would set back: nobody can write it any more.
func firmly(key, value string) string {
	return fmt.Sprintf("exec 9>/proc/sys/%s && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && echo %s >&9", key, value)
}

// dockerThere is what the doctor sees of an engine.
const dockerThere = "mkdir -p /etc/docker /var/run && touch /var/run/docker.sock"

// hostAilments are those of one host that runs, in rounds: of two hosts that are
// connected.
func hostAilments(c *cluster) [][]ailment {
	a, b := c.nodes[0], c.nodes[1]
	warning, problem, note := api.Warning, api.Problem, api.Note
	return [][]ailment{
		{ // A host that another one reaches in part. What a peer says is asked every 10 s.
			{
				id: "port-closed", at: a, severity: warning, subject: "host2", says: "TCP 6783",
				do: b.script("nft 'table inet shut { chain out { type filter hook output priority 0; tcp dport 6783 drop; }; }'"), mend: b.script("nft delete table inet shut"),
			},
			{id: "peer-port-closed", at: b, severity: note, subject: "host1", mend: b.script("true # with the last")},
			{
				id: "peer-dns", at: a, args: "host2", severity: warning, subject: "host2",
				do:   b.script("nft 'table inet mute { chain in { type filter hook input priority 0; ip daddr 169.254.67.83 meta l4proto { tcp, udp } th dport 53 drop; }; }'"),
				mend: b.script("nft delete table inet mute"),
			},
			{id: "dns", at: b, severity: problem, says: "169.254.67.83:53 does not answer", mend: b.script("true # with the last")},
			{
				id: "disk", at: b, severity: problem, subject: "/var/lib/weft", says: "no space left",
				do:   b.script("mount -t tmpfs -o size=64k,mode=700 tmpfs /var/lib/weft && dd if=/dev/zero of=/var/lib/weft/full bs=1k count=100 2>/dev/null; true"),
				mend: b.script("umount /var/lib/weft"),
			},
		},
		{
			{
				id: "firewall", at: a, severity: problem, subject: "inet guard", says: "TCP 6783, UDP 6783, UDP 6784",
				do:     a.script(`nft 'table inet guard { chain in { type filter hook input priority 10; policy drop; iif lo accept; ct state established accept; iifname "weft*" accept; tcp dport 22 accept; }; }'`),
				remedy: "nft insert rule", after: a.script("nft delete table inet guard"),
			},
			{
				id: "firewall-forward", at: a, severity: problem, subject: "ip strict", says: "names nothing of bridge weft",
				do:     a.script(`sysctl -w net.bridge.bridge-nf-call-iptables=1 && nft 'table ip strict { chain forwarded { type filter hook forward priority 10; policy drop; }; }'`),
				remedy: "nft insert rule", after: a.script("nft delete table ip strict; sysctl -w net.bridge.bridge-nf-call-iptables=0"),
			},
			{
				id: "bridge-arptables", at: a, severity: note,
				do: a.script("sysctl -w net.bridge.bridge-nf-call-arptables=1"), remedy: "sysctl -w",
			},
			{
				id: "docker-dns", at: a, severity: warning, says: "127.0.0.53",
				do:   a.script(dockerThere + ` && cp /etc/resolv.conf /root/ && echo nameserver 127.0.0.53 >/etc/resolv.conf && echo '{"iptables": false}' >/etc/docker/daemon.json`),
				mend: a.script(`echo '{"dns": ["192.0.2.53"], "iptables": true, "live-restore": true}' >/etc/docker/daemon.json`), after: a.script("cp /root/resolv.conf /etc/resolv.conf"),
			},
			{id: "docker-iptables", at: a, severity: note, mend: a.script("true # with docker-dns")},
			{id: "docker-live-restore", at: a, severity: note, mend: a.script("true # with docker-dns")},
			{
				id: "tun", at: a, severity: problem, only: "userspace", says: "/dev/net/tun",
				do: a.script("mount -t tmpfs -o size=4k tmpfs /dev/net"), mend: a.script("umount /dev/net"),
			},
			{
				id: "kernel-wireguard", at: a, severity: note, only: "userspace", do: noWireGuard, lasts: "the kernel stays as it is",
			},
		},
		{
			{
				id: "docker-config", at: a, severity: warning, says: "/etc/docker/daemon.json",
				do: a.script("echo '{' >/etc/docker/daemon.json"), mend: a.script(`echo '{}' >/etc/docker/daemon.json`),
			},
			{id: "nft", at: a, severity: problem, says: "it is broken", do: a.script(brokenNFT), mend: a.script(`umount "$(readlink -f "$(command -v nft)")"`)},
			{id: "firewall-unread", at: a, severity: warning, says: "it is broken", mend: a.script("true # with nft")},
			{
				id: "dns-upstream", at: a, severity: problem, says: "no resolver of the host answers",
				do:   func() error { return a.script("echo nameserver " + b.Addr().String() + " >/etc/resolv.conf")() },
				mend: a.script("cp /root/resolv.conf /etc/resolv.conf"),
			},
			{
				id: "clock", at: a, severity: problem, subject: "host2", says: "1h0m",
				do: func() error { return lab.ShiftClock(b.daemon(), time.Hour) }, mend: func() error { return lab.ShiftClock(b.daemon(), 0) },
			},
		},
		{
			{
				id: "step-stuck", at: a, severity: warning, subject: "docker", says: "given up",
				do:   a.script("rm /etc/docker/daemon.json && mkfifo /etc/docker/daemon.json"), // a file that hangs
				mend: a.script(`timeout 1 sh -c ': >/etc/docker/daemon.json'; rm -r /etc/docker /var/run/docker.sock`),
			},
			{
				id: "forwarding", at: a, severity: problem, says: "ip_forward is 0", do: a.script("weft expose && " + firmly("net/ipv4/ip_forward", "0")),
				before: a.script("umount /proc/sys"), remedy: "sysctl -w", after: a.script("weft hide"),
			},
			{
				id: "mtu-hole", at: a, args: "host2", severity: problem, subject: "host2",
				do:   b.script("nft 'table inet hole { chain in { type filter hook input priority 0; udp dport 6784 meta length > 1200 drop; }; }'"),
				mend: b.script("nft delete table inet hole"),
			},
		},
		{
			{
				id: "peer-silent", at: a, severity: warning, subject: "host2",
				do:   b.script(`nft 'table inet deaf { chain in { type filter hook input priority 0; iifname "weft-wg" tcp dport 6786 drop; }; }'`),
				mend: b.script("nft delete table inet deaf"),
			},
		},
		{
			{
				id: "tunnel-ipv6", at: b, severity: problem,
				do: b.script(firmly("net/ipv6/conf/weft-wg/disable_ipv6", "1")), before: b.script("umount /proc/sys"), remedy: "sysctl -w",
			},
		},
		{
			{
				id: "loss", at: a, severity: warning, subject: "host2", says: "of the pings",
				do:    func() error { return c.SetFault(c.t.Context(), lab.Fault{From: "host2", To: "host1", Percent: 40}) },
				lasts: "it is the share of the last 64 pings, which take a minute",
			},
		},
	}
}

// noWireGuard says that a kernel has it: then it cannot be missed.
func noWireGuard() error {
	if _, err := os.Stat("/sys/module/wireguard"); err == nil {
		return fmt.Errorf("this kernel has WireGuard: %w", errors.ErrUnsupported)
	}
	return nil
}

// TestFindingsOfHost provokes what can be wrong with a host whose daemon runs,
// and between two hosts: it is found, and the remedy mends it.
func TestFindingsOfHost(t *testing.T) {
	parallelAs(t, ordinary, 35*time.Second)
	skipHere(t)
	c := joined(t, 2)
	rounds := hostAilments(c)
	c.wait("nothing is wrong", 5*time.Second, func() error {
		for _, n := range c.nodes {
			if err := n.fine(); err != nil {
				return err
			}
		}
		return nil
	})
	apart := c.make(rounds[0]...) // while it is waited for that hosts ask each other again
	for _, list := range rounds[1:3] {
		c.make(list...).find(2 * time.Second).heal().gone(2 * time.Second)
	}
	apart.find(5 * time.Second).heal()
	for _, list := range rounds[3:] {
		c.make(list...).find(2 * time.Second).heal().gone(2 * time.Second)
	}
	apart.gone(5 * time.Second)
	if err := c.HealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.wait("what was turned off works again", 2*time.Second, func() error { return c.isMesh() })
	d, err := c.nodes[0].doctor()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range d.Findings {
		if f.ID == "neighbours" {
			t.Errorf("where the kernel shows no tables of neighbours something is said of them: %+v", f)
		}
	}
}

// alonelyAilments are those that are seen without a daemon.
func alonelyAilments(c *cluster) [][]ailment {
	a := c.nodes[0]
	var other net.Listener
	return [][]ailment{
		{{
			id: "daemon", at: a, severity: api.Problem, says: "is stopped", remedy: "kill -CONT",
			do: func() error { return syscall.Kill(a.daemon(), syscall.SIGSTOP) },
		}},
		{
			{id: "daemon", at: a, severity: api.Problem, says: "is not running", do: a.script("weft stop"), remedy: "weft launch --resume"},
		},
		{
			{
				id: "port-taken", at: a, severity: api.Problem, subject: "TCP 6783", says: "in use by another program",
				do: func() (err error) {
					if err = a.script("weft stop")(); err != nil {
						return err
					}
					return a.Do(func() (err error) { other, err = net.Listen("tcp", ":6783"); return err })
				},
				mend: func() error { return other.Close() },
			},
			{
				id: "kernel-bridge", at: a, severity: api.Problem, says: "operation not permitted", only: "userspace", // the guest's setpriv is another one
				by:    "setpriv --bounding-set=-net_admin --inh-caps=-net_admin",
				lasts: "who lacks the capability goes on lacking it; with it the other rounds do not find this",
			},
		},
	}
}

// TestFindingsWithoutDaemon: what a doctor sees whose daemon is stopped, or not
// there.
func TestFindingsWithoutDaemon(t *testing.T) {
	parallel(t)
	skipHere(t)
	c := joined(t, 2)
	for _, list := range alonelyAilments(c) {
		c.make(list...).find(2 * time.Second).heal().gone(2 * time.Second)
	}
	if r := c.nodes[0].weft("doctor", "host2"); r.Err == nil || !strings.Contains(r.Stderr, "not reachable") {
		t.Errorf("the way to a peer without a daemon: %v", r)
	}
}
