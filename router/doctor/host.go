package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/api"
)

// bridgeCalls makes frames inside bridges pass iptables.
const bridgeCalls = "net/bridge/bridge-nf-call-iptables"

// sysctls are what is looked at, by path below /proc/sys.
func sysctls() []string {
	return []string{
		"net/ipv4/ip_forward", bridgeCalls, "net/bridge/bridge-nf-call-arptables",
		"net/ipv6/conf/weft-wg/disable_ipv6", "net/ipv4/conf/all/rp_filter",
	}
}

func checkDaemon(f *findings, facts Facts) {
	for _, s := range facts.Stuck {
		f.add(api.Warning, "step-stuck", s.Step, fmt.Sprintf("%s: %s", s.Step, s.Err),
			"a disk or a program of this host hangs: 'ps -eo pid,stat,wchan:20,args' shows what waits, 'dmesg' why")
	}
	p := facts.Process
	switch {
	case facts.Daemon && facts.Status != nil && !facts.Status.Ready:
		f.add(api.Warning, "daemon", "", "the daemon is not ready yet: "+facts.Status.Waiting, "wait; 'weft logs' says what it does")
	case facts.Daemon:
		f.ok("daemon", "the daemon answers")
	case p.Stopped:
		f.add(api.Problem, "daemon", "", fmt.Sprintf("the daemon does not answer: its process %d is stopped", p.Pid), fmt.Sprintf("'kill -CONT %d' lets it go on", p.Pid))
	case p.Pid > 0:
		f.add(api.Problem, "daemon", "", fmt.Sprintf("the daemon (process %d) does not answer: %s", p.Pid, p.Err),
			fmt.Sprintf("'kill -ABRT %d' makes it write into its log where it hangs, and ends it; then 'weft launch --resume'", p.Pid))
	default:
		for _, port := range facts.Taken {
			f.add(api.Problem, "port-taken", port, port+" is in use by another program: the daemon cannot start", "'ss -lnptu' says by which; end that, or choose another with --port")
		}
		f.add(api.Problem, "daemon", "", "the daemon is not running: the switch stays as it is, and nothing follows what changes", "'weft launch --resume', or 'systemctl start weft'")
	}
}

func checkKernel(f *findings, facts Facts) {
	k := facts.Kernel
	if !k.Looked {
		return
	}
	need := func(id, missing, what, remedy string) {
		if missing == "" {
			f.ok(id, what)
			return
		}
		if strings.Contains(missing, unix.EPERM.Error()) { // nobody told this process what the kernel can do
			remedy = "run this, and weftd, as root with CAP_NET_ADMIN; a container needs --cap-add=NET_ADMIN"
		}
		f.add(api.Problem, id, "", fmt.Sprintf("%s: no: %s", what, missing), remedy)
	}
	need("kernel-bridge", k.Bridge, "the kernel makes bridges", "'modprobe bridge', or a kernel that has it")
	need("kernel-ipv6", k.IPv6, "the kernel has IPv6", "take ipv6.disable=1 off the kernel's command line; hosts need no IPv6 address")
	need("nft", k.NFT, "the program nft works", "'apt-get install nftables', and 'modprobe nf_tables'")
	switch {
	case k.WireGuard == "" && k.VXLAN == "":
		f.ok("kernel-wireguard", "the kernel has WireGuard and VXLAN")
	case k.WireGuard == "":
		f.add(api.Problem, "kernel-vxlan", "", "the kernel has WireGuard and no VXLAN: "+k.VXLAN, "'modprobe vxlan', or launch with --datapath=userspace")
	case facts.Datapath == "kernel":
		f.add(api.Problem, "kernel-wireguard", "", "--datapath=kernel is asked for and this kernel has no WireGuard: "+k.WireGuard, "'modprobe wireguard', or launch with --datapath=auto")
	default:
		f.add(api.Note, "kernel-wireguard", "", "this kernel has no WireGuard: the daemon encrypts itself, which is slower, and frames stop while it is stopped",
			"'modprobe wireguard', or a kernel that has it; then 'weft stop' and 'weft launch --resume'")
	}
	switch {
	case k.TUN == "":
		f.ok("tun", "/dev/net/tun can be opened")
	case facts.Datapath == "userspace" || k.WireGuard != "":
		f.add(api.Problem, "tun", "", "/dev/net/tun cannot be opened: "+k.TUN, "'modprobe tun'; a container needs --device=/dev/net/tun")
	}
}

func checkSysctls(f *findings, facts Facts) {
	s := facts.Sysctls
	if s["net/ipv4/ip_forward"] == "0" && facts.Exposed {
		f.add(api.Problem, "forwarding", "", "net.ipv4.ip_forward is 0: containers do not reach other networks through this host", "weft turns it on again by itself, unless /proc/sys cannot be written: see to that, look for what turned it off, and 'sysctl -w net.ipv4.ip_forward=1'")
	} else if s["net/ipv4/ip_forward"] != "" {
		f.ok("forwarding", "forwarding is as it is needed")
	}
	if s["net/bridge/bridge-nf-call-arptables"] == "1" {
		f.add(api.Note, "bridge-arptables", "", "net.bridge.bridge-nf-call-arptables is 1: frames between containers pass the host's arptables", "unless something needs it: 'sysctl -w net.bridge.bridge-nf-call-arptables=0'")
	}
	if s["net/ipv6/conf/weft-wg/disable_ipv6"] == "1" {
		f.add(api.Problem, "tunnel-ipv6", "", "IPv6 is off on weft-wg: nothing gets into the tunnels", "weft turns it on again by itself, unless /proc/sys cannot be written: see to that, look for what turned it off, and 'sysctl -w net.ipv6.conf.weft-wg.disable_ipv6=0'")
	}
}

func checkDocker(f *findings, facts Facts) {
	d := facts.Docker
	if !d.Present {
		return
	}
	switch {
	case d.Err != "":
		f.add(api.Warning, "docker-config", "", fmt.Sprintf("%s cannot be read: %s", d.Config, d.Err), "mend it: the engine will not start again with it either")
		return
	case !d.IPTables:
		f.add(api.Note, "docker-iptables", "", "Docker is told to leave iptables alone ("+d.Config+"): its own containers reach nothing outside unless you see to it", "set \"iptables\": true unless that is meant")
	}
	loopback := len(facts.Resolv) > 0 && !slices.ContainsFunc(facts.Resolv, func(a netip.Addr) bool { return !a.IsLoopback() })
	if loopback && len(d.DNS) == 0 && d.Plugin {
		f.add(api.Warning, "docker-dns", "", fmt.Sprintf("the host's resolver is %s, which Docker's containers cannot reach: on weft's networks Docker asks it from the host, and names of containers are not found that way", facts.Resolv[0]),
			`'{"dns": ["192.0.2.53"]}' in `+d.Config+` with a resolver that containers reach, then 'systemctl restart docker'; or 'docker run $(weft dns-args)'`)
	} else {
		f.ok("docker-dns", "containers of Docker can ask the resolvers of the host")
	}
	if !d.Live {
		f.add(api.Note, "docker-live-restore", "", "Docker stops all containers when it is restarted, those on the switch as well", `"live-restore": true in `+d.Config+` keeps them running`)
	}
}

// What is little space: the state takes some hundred kilobytes, and writing it
// takes as much again.
const (
	diskFull   = 4 << 20
	diskLittle = 64 << 20
)

func checkDisks(f *findings, facts Facts) {
	for _, d := range facts.Disks {
		switch {
		case d.Err != "":
			f.add(api.Problem, "disk", d.Path, fmt.Sprintf("%s cannot be written: %s: addresses that are given out now are not kept", d.Path, d.Err), fmt.Sprintf("make room: 'df -h %s', 'df -i %s'; see whether it is mounted read-only", d.Path, d.Path))
		case d.NoInodes || d.Total > 0 && d.Free < diskFull:
			f.add(api.Problem, "disk", d.Path, fmt.Sprintf("the disk below %s is full (%s free)", d.Path, size(d.Free)), fmt.Sprintf("make room: 'df -h %s', 'df -i %s'", d.Path, d.Path))
		case d.Total > 0 && d.Free < diskLittle:
			f.add(api.Warning, "disk", d.Path, fmt.Sprintf("the disk below %s is nearly full (%s free)", d.Path, size(d.Free)), fmt.Sprintf("make room: 'df -h %s'", d.Path))
		default:
			f.add(api.OK, "disk", d.Path, fmt.Sprintf("%s can be written (%s free)", d.Path, size(d.Free)), "")
		}
	}
}

func size(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}

func checkNames(f *findings, facts Facts) {
	n := facts.Names
	if n.Off || !n.Looked {
		return
	}
	if n.Err != "" {
		f.add(api.Problem, "dns", n.Address, fmt.Sprintf("the name server at %s does not answer: %s", n.Address, n.Err), "'weft logs' says why; a rule of the host's firewall may stand before it")
	} else {
		f.ok("dns", "the name server at "+n.Address+" answers")
	}
	var silent []string
	for _, u := range n.Upstreams {
		if u.Err != "" {
			silent = append(silent, fmt.Sprintf("%s (%s)", u.Address, u.Err))
		}
	}
	switch {
	case len(n.Upstreams) == 0:
		f.add(api.Note, "dns-upstream", "", "the host names no other resolver: containers find the names of the switch only", "name one in /etc/resolv.conf, or in a file of its own with --resolv-conf")
	case len(silent) == len(n.Upstreams):
		f.add(api.Problem, "dns-upstream", "", "no resolver of the host answers: "+strings.Join(silent, ", "), "see /etc/resolv.conf; --resolv-conf names another file")
	case len(silent) > 0:
		f.add(api.Warning, "dns-upstream", "", "some resolvers of the host do not answer: "+strings.Join(silent, ", "), "take them out of /etc/resolv.conf")
	default:
		f.ok("dns-upstream", "the resolvers of the host answer")
	}
}
