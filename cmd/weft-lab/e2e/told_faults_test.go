package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
	"github.com/weftnet/weft/router/api"
)

// faults are those of the operators' list.
func faults() []fault {
	return []fault{
		{
			name: "a daemon is stopped", hosts: 3,
			provoke: func(t *testing.T, c *cluster) func() {
				pid := c.nodes[1].daemon()
				signal := func(s syscall.Signal) {
					if err := syscall.Kill(pid, s); err != nil {
						t.Error(err)
					}
				}
				signal(syscall.SIGSTOP)
				return func() { signal(syscall.SIGCONT) }
			},
			tell: []telling{
				{at: 2, status: "is stopped; 'kill -CONT", finding: "daemon", severity: api.Problem, what: "is stopped"},
				{
					at: 1, status: "host2 is not reached", finding: "peer-lost", severity: api.Problem, what: "host2 is not reached",
					picture: "No host has a path to host2: it is down, or cut off", log: "host2 is not reached",
				},
			},
			page: "*Its process is stopped; 'kill -CONT' lets it go on*",
			alerts: []alert{
				{name: "WeftDown", instance: "host2", labels: `severity="critical"`, summary: "weftd on host2 does not answer"},
				{name: "WeftPeerUnreachable", instance: "host1", summary: "host1 does not reach 1 of its peers"},
				{name: "WeftPeerUnreachable", instance: "host3", summary: "host3 does not reach 1 of its peers"},
			},
		},
		{
			name: "a disk is full", hosts: 2, quick: true,
			provoke: func(_ *testing.T, c *cluster) func() {
				n := c.nodes[1]
				// The daemon has its files open: it is moved to a disk of its own as it is.
				n.sh("mkdir /run/small && mount -t tmpfs -o size=1m,mode=700 small /run/small && cat /dev/zero >/run/small/fill 2>/dev/null; mount --bind /run/small /var/lib/weft")
				return func() { n.sh("umount /var/lib/weft") }
			},
			tell: []telling{{
				at: 2, status: "/var/lib/weft cannot be written: no space left on device", finding: "disk", severity: api.Problem,
				what: "no space left on device", picture: "/var/lib/weft cannot be written: no space left on device", log: "no space left on device",
			}},
			page:   "*cannot be written: no space left on device*",
			alerts: []alert{{name: "WeftFinding", instance: "host2", labels: `id="disk"`, summary: "host2: the disk"}},
		},
		{
			name: "a clock is wrong", hosts: 3, quick: true,
			provoke: func(t *testing.T, c *cluster) func() {
				pid := c.nodes[2].daemon()
				shift := func(d time.Duration) {
					if err := lab.ShiftClock(pid, d); errors.Is(err, errors.ErrUnsupported) {
						t.Skip("SKIPPED, NOT TESTED: ", err)
					} else if err != nil {
						t.Fatal(err)
					}
				}
				shift(time.Hour)
				return func() { shift(0) }
			},
			tell: []telling{
				{
					at: 1, status: "the clock of host3 is 1h0m", finding: "clock", severity: api.Problem,
					what: "the clock of host3 is 1h0m", picture: "he clock of host3 is 1h0m", log: "the clock of host3 is 1h0m",
				},
				{
					at: 3, status: "the clock of host1 is 1h0m", finding: "clock", severity: api.Problem,
					what: "behind ours", picture: "he clock of host1 is 1h0m", log: "the clock of host1 is 1h0m",
				},
			},
			page: "*the clock of … is … ahead of ours*",
			alerts: []alert{
				{name: "WeftFinding", instance: "host1", labels: `id="clock"`, summary: "host1: its clock"},
				{name: "WeftFinding", instance: "host2", labels: `id="clock"`, summary: "host2: its clock"},
				{name: "WeftFinding", instance: "host3", labels: `id="clock"`, summary: "host3: its clock"},
			},
		},
		{
			name: "a module is missing", hosts: 2,
			provoke: func(t *testing.T, c *cluster) func() {
				n := c.nodes[1]
				if err := n.Reboot(t.Context()); err != nil {
					t.Fatal(err)
				}
				// A device whose module is missing can be seen and not be opened.
				n.sh("mkdir -p /run/dev && mount -t tmpfs -o mode=755 dev /run/dev && mknod /run/dev/tun c 10 239 && mount --bind /run/dev/tun /dev/net/tun")
				if r := n.weft("launch", "--resume", "--datapath=userspace"); r.Err == nil {
					t.Error("it starts without the module")
				}
				return func() {
					n.sh("umount /dev/net/tun")
					n.relaunch("--resume")
				}
			},
			tell: []telling{
				{
					at: 2, status: "this kernel has no TUN devices, try 'modprobe tun'", finding: "tun", severity: api.Problem,
					what: "/dev/net/tun cannot be opened", log: "this kernel has no TUN devices, try 'modprobe tun'",
				},
				{
					at: 1, status: "host2 is not reached", finding: "peer-lost", severity: api.Problem, what: "host2 is not reached",
					picture: "No path to host2", log: "host2 is not reached",
				},
			},
			page: "*this kernel has no TUN devices, try 'modprobe tun'*",
			alerts: []alert{
				{name: "WeftDown", instance: "host2", summary: "weftd on host2 does not answer"},
				{name: "WeftPeerUnreachable", instance: "host1", summary: "host1 does not reach 1 of its peers"},
			},
		},
		{
			name: "a port is closed", shape: closedPort,
			provoke: func(_ *testing.T, c *cluster) func() {
				c.nodes[1].launch()
				c.nodes[0].launch(c.nodes[1].Addr().String())
				c.waitMesh(c.nodes[:2]...)
				c.nodes[2].launch(c.nodes[0].Addr().String())
				return nil
			},
			tell: []telling{
				{
					at: 1, status: "TCP 6783 of this host is not reached from host2", finding: "port-closed", severity: api.Warning,
					what: "TCP 6783 of this host is not reached from host2", picture: "TCP 6783 of this host is not reached from host2",
					log: "TCP 6783 of this host is not reached from host2",
				},
				{
					at: 3, status: "is not reached", finding: "target", severity: api.Problem, what: "is not reached",
					picture: "Nobody that belongs here answers at", log: "is not reached",
				},
			},
			page: "*TCP 6783 of this host is not reached from*",
			alerts: []alert{
				{name: "WeftFindingMild", instance: "host1", labels: `id="port-closed"`, summary: "host1: "},
				{name: "WeftPeerUnreachable", instance: "host3", summary: "host3 does not reach 1 of its peers or targets"},
			},
		},
		{
			name:  "a path loses large packets",
			shape: func(name string) lab.Topology { return narrowTopology(name, false, []narrowing{{mtu: 1500}}) },
			provoke: func(t *testing.T, c *cluster) func() {
				c.nodes[0].launch()
				c.nodes[1].launch(c.nodes[0].Addr().String())
				c.waitMesh()
				if err := c.SetMTU(t.Context(), "narrow2", 1300); err != nil {
					t.Fatal(err)
				}
				return nil
			},
			tell: []telling{
				{
					at: 1, status: "the path to host2 carries packets of", finding: "mtu", severity: api.Warning, what: "the path to host2 carries packets of",
					picture: "he path to host2 carries packets of", log: "the path to host2 carries packets of",
				},
				{
					at: 2, status: "the path to host1 carries packets of", finding: "mtu", severity: api.Warning, what: "the path to host1 carries packets of",
					picture: "he path to host1 carries packets of", log: "the path to host1 carries packets of",
				},
			},
			page: "*the path to … carries packets of … bytes*",
			alerts: []alert{
				{name: "WeftFindingMild", instance: "host1", labels: `id="mtu"`},
				{name: "WeftFindingMild", instance: "host2", labels: `id="mtu"`},
			},
		},
		{
			name: "a foreign firewall rule", hosts: 2, quick: true,
			provoke: func(_ *testing.T, c *cluster) func() {
				n := c.nodes[0]
				n.sh(`nft 'table inet guard { chain in { type filter hook input priority 10; policy drop; iif lo accept; ct state established accept; iifname "weft*" accept; tcp dport 22 accept; }; }'`)
				return func() { n.sh("nft delete table inet guard") }
			},
			tell: []telling{{
				at: 1, status: "chain in of table inet guard drops TCP 6783, UDP 6783, UDP 6784", finding: "firewall", severity: api.Problem,
				what: "chain in of table inet guard drops TCP 6783, UDP 6783, UDP 6784", picture: "hain in of table inet guard drops TCP 6783",
				log: "chain in of table inet guard drops TCP 6783",
			}},
			page:   "*chain … of table … drops TCP 6783, UDP 6783, UDP 6784*",
			alerts: []alert{{name: "WeftFinding", instance: "host1", labels: `id="firewall"`, summary: "host1: "}},
			// host2 is asked every ten minutes whether it gets in; it may be then.
			also: []alert{{name: "WeftFindingMild", instance: "host1", labels: `id="port-closed"`}},
		},
		{
			name:  "a wrong password",
			shape: func(name string) lab.Topology { return lab.Flat(name, 2) },
			provoke: func(_ *testing.T, c *cluster) func() {
				member, stranger := c.nodes[0], c.nodes[1]
				member.launch()
				stranger.must("launch", "--password", "another password of ours", "--datapath", stranger.datapath(), member.Addr().String())
				return func() {
					stranger.must("stop")
					stranger.launch(member.Addr().String())
				}
			},
			tell: []telling{
				{
					at: 2, status: "has another cluster secret", finding: "wrong-password", severity: api.Problem, what: "has another cluster secret",
					picture: "wrong password", log: "has another cluster secret",
				},
				{at: 1, log: "wrong password"},
			},
			page: "*has another cluster secret*",
			alerts: []alert{
				{name: "WeftFinding", instance: "host2", labels: `id="wrong-password"`, summary: "host2: "},
				{name: "WeftPeerUnreachable", instance: "host2", summary: "host2 does not reach 1 of its peers or targets"},
			},
		},
		{
			name: "two hosts with one identity", shape: func(name string) lab.Topology { return lab.Flat(name, 3) },
			provoke: cloneMachine,
			tell: []telling{
				{
					at: 1, status: "another host has our identity", finding: "clone", severity: api.Problem, what: "two hosts have one identity",
					picture: "another host has our identity", log: "another host has our identity",
				},
				{
					at: 2, status: "another host has our identity", finding: "clone", severity: api.Problem, what: "two hosts have one identity",
					picture: "another host has our identity", log: "another host has our identity",
				},
				{
					at: 3, status: "two hosts have the identity of peer", finding: "clone", severity: api.Problem, what: "two hosts have one identity",
					picture: "two hosts have the identity of peer", log: "two hosts have the identity of peer",
				},
			},
			page: "*two hosts have one identity*",
			alerts: []alert{
				{name: "WeftFinding", instance: "host1", labels: `id="clone"`, summary: "host1: "},
				{name: "WeftFinding", instance: "host2", labels: `id="clone"`, summary: "host2: "},
				{name: "WeftFinding", instance: "host3", labels: `id="clone"`, summary: "host3: "},
			},
		},
	}
}

// closedPort is host1 behind a firewall of the network, which lets nothing in
// but answers, and two hosts outside.
func closedPort(name string) lab.Topology {
	t := lab.Topology{Name: name}
	t.AddNetwork("core")
	t.AddNetwork("inside")
	ipv4Only(&t)
	t.AddHost("gate", "core", "inside")
	gate := &t.Hosts[0]
	gate.Forward, gate.Firewall = true, true
	for i, network := range []string{"inside", "core", "core"} {
		t.AddHost(fmt.Sprintf("host%d", i+1), network)
		t.Hosts[i+1].Gateway = "gate"
	}
	return t
}

// cloneMachine makes the second host a copy of the first one's disk.
func cloneMachine(t *testing.T, c *cluster) func() {
	first, second, third := c.nodes[0], c.nodes[1], c.nodes[2]
	first.launch()
	third.launch(first.Addr().String())
	c.waitMesh(first, third)
	copyState(t, first, second)
	id, err := os.ReadFile(filepath.Join(first.Root(), "/etc/machine-id"))
	if err != nil {
		t.Fatal(err)
	}
	if err := second.WriteFile("etc/machine-id", string(id)); err != nil {
		t.Fatal(err)
	}
	second.relaunch(third.Addr().String())
	return func() {
		second.must("stop")
		second.must("reset")
		second.launch(first.Addr().String())
	}
}
