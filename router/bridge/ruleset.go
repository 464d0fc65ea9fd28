package bridge

import (
	"fmt"
	"net/netip"
	"slices"

	"sigs.k8s.io/knftables"

	"github.com/weftnet/weft/crypto"
)

// The mark that our forward chain puts on switch traffic, for the one accept
// in iptables to see. Seven bits: others who mark packets use single ones.
const (
	markValue = 0x57000000
	markMask  = 0xff000000
)

// Names of our tables: the walls, one per family, and what changes with paths.
const (
	tableName = "weft"
	pathsName = "weft-paths"
)

// ruleset is the whole of all tables, as data: it can be compared and printed
// without nft.
type ruleset struct {
	sets   []set
	chains []chain
	cuts   map[netip.AddrPort]int // that the chains of paths count for
}

// set is a set of nft whose elements come and go: they are no part of what is
// compared.
type set struct {
	family     knftables.Family
	name, kind string
}

type chain struct {
	family   knftables.Family
	name     string // not a keyword of nft: hence the prefix
	kind     knftables.BaseChainType
	hook     knftables.BaseChainHook // "": only jumped to
	priority string
	paths    bool // of the table that changes with paths
	rules    []rule
}

func (c chain) id() tableID {
	if c.paths {
		return tableID{c.family, pathsName}
	}
	return tableID{c.family, tableName}
}

// rule is one line of nft. Its comment says what it is good for; rules of one
// purpose share it, and tests remove them together.
type rule struct {
	text    string
	comment string
}

// makeRuleset is pure.
func makeRuleset(c Config, uplinks, omit []string) ruleset {
	chains := slices.Concat(
		underlayChains(c),
		tunnelChains(c),
		inputChains(c),
		forwardChains(c, uplinks),
		switchChains(c),
		pathChains(c),
	)
	for i := range chains {
		chains[i].rules = slices.DeleteFunc(chains[i].rules, func(r rule) bool {
			return slices.Contains(omit, r.comment)
		})
	}
	return ruleset{underlaySets(), chains, c.Cuts}
}

// tunnelChains keep the overlay inside the tunnels, before connection tracking.
func tunnelChains(c Config) []chain {
	overlay := crypto.OverlayPrefix
	in := chain{
		family: knftables.InetFamily, name: "weft-raw",
		kind: knftables.FilterType, hook: knftables.PreroutingHook, priority: "raw",
	}
	in.add("overlay-origin", `ip6 saddr %s iifname != { %q, "lo" } drop`, overlay, c.WireGuard)
	in.add("overlay-origin", `ip6 daddr %s iifname != { %q, "lo" } drop`, overlay, c.WireGuard)
	in.add("tunnel-only-us", `ip6 saddr != %s iifname %q drop`, overlay, c.WireGuard)
	in.add("tunnel-only-us", `ip6 daddr != %s iifname %q drop`, c.Overlay, c.WireGuard)
	in.add("tunnel-only-us", `meta nfproto ipv4 iifname %q drop`, c.WireGuard)
	// The switch is left out for the sake of containers that use this port
	// among themselves, on hosts where bridged frames pass through here: over
	// IPv6 nothing from the switch is for the host anyway (weft-switch).
	in.add("vxlan-origin", `udp dport %d iifname != { %q, %q } drop`, c.VXLANPort, c.WireGuard, c.Name)
	in.add("vxlan-source-port", `udp dport %d udp sport != 512-1023 iifname %q drop`, c.VXLANPort, c.WireGuard)
	in.add("vxlan-untracked", `udp dport %d iifname %q notrack`, c.VXLANPort, c.WireGuard)
	out := chain{
		family: knftables.InetFamily, name: "weft-raw-output",
		kind: knftables.FilterType, hook: knftables.OutputHook, priority: "raw",
	}
	// Without the tunnel the route to a peer may be the default route.
	out.add("overlay-leak", `ip6 daddr %s oifname != { %q, "lo" } drop`, overlay, c.WireGuard)
	out.add("overlay-leak", `ip6 saddr %s oifname != { %q, "lo" } drop`, overlay, c.WireGuard)
	// Only the kernel and the privileged send from a port below 1024.
	out.add("vxlan-local-sender", `udp dport %d udp sport != 512-1023 drop`, c.VXLANPort)
	// That is so unless net.ipv4.ip_unprivileged_port_start says otherwise; a
	// mark stays with the privileged on any host, and our port has set it.
	out.add("vxlan-local-sender", `udp dport %d meta mark and %#08x != %#08x drop`, c.VXLANPort, uint32(markMask), markValue)
	out.add("vxlan-untracked", `udp dport %d oifname %q notrack`, c.VXLANPort, c.WireGuard)
	// Whoever changes a mark on the way out, as we do ourselves, may give a packet
	// another route.
	last := chain{
		family: knftables.InetFamily, name: "weft-raw-last",
		kind: knftables.FilterType, hook: knftables.PostroutingHook, priority: "raw",
	}
	last.add("overlay-leak-late", `ip6 daddr %s oifname != { %q, "lo" } drop`, overlay, c.WireGuard)
	last.add("overlay-leak-late", `ip6 saddr %s oifname != { %q, "lo" } drop`, overlay, c.WireGuard)
	return []chain{in, out, last}
}

// inputChains say what the host itself accepts, from tunnels and from the
// switch.
func inputChains(c Config) []chain {
	in := chain{
		family: knftables.InetFamily, name: "weft-input",
		kind: knftables.FilterType, hook: knftables.InputHook, priority: "filter",
	}
	in.add("tunnel-input", `iifname %q jump weft-tunnel`, c.WireGuard)
	in.add("switch-input", `iifname %q jump weft-switch`, c.Name)
	// A port that is not on the bridge (yet, or any more) hands its frames to
	// the host.
	in.add("loose-port", `iifname %q drop`, c.VXLAN)
	in.add("loose-port", `iifname "%s*" drop`, portPrefix)
	tunnel := chain{family: knftables.InetFamily, name: "weft-tunnel"}
	tunnel.add("tunnel-input", `udp dport { %d, %d } accept`, c.VXLANPort, c.GossipPort)
	tunnel.add("tunnel-input", `tcp dport %d accept`, c.GossipPort)
	// Answers. Asking for the state of a connection would track all that passes
	// through the host, bridged frames too, where nobody else does.
	tunnel.add("tunnel-input", `tcp sport %d tcp flags & (fin | syn | rst | ack) != syn accept`, c.GossipPort)
	tunnel.add("tunnel-input", `icmpv6 type { destination-unreachable, time-exceeded, parameter-problem, echo-request, echo-reply } accept`)
	tunnel.add("tunnel-input", `drop`)
	ours := chain{family: knftables.InetFamily, name: "weft-switch"}
	out := chain{
		family: knftables.InetFamily, name: "weft-output",
		kind: knftables.FilterType, hook: knftables.OutputHook, priority: "filter",
	}
	if c.DNS.IsValid() {
		ours.add("switch-input", `ip daddr %s meta l4proto { tcp, udp } th dport 53 accept`, c.DNS)
	}
	for _, p := range c.Exposed {
		ours.add("switch-input", `ip daddr %s accept`, p.Addr())
	}
	ours.add("switch-input", `drop`)
	if len(c.Exposed) == 0 {
		// Nor does the host talk to containers by itself (mDNS, for one).
		if c.DNS.IsValid() {
			out.add("switch-output", `oifname %q ip saddr %s meta l4proto { tcp, udp } th sport 53 accept`, c.Name, c.DNS)
			out.add("switch-output", `oifname %q ip saddr %s icmp type destination-unreachable accept`, c.Name, c.DNS)
		}
		out.add("switch-output", `oifname %q drop`, c.Name)
	}
	if !c.DNS.IsValid() {
		return []chain{tunnel, ours, in, out}
	}
	// The host takes a packet for any of its addresses at any interface. Names
	// are for containers: on our bridge, or on another bridge of this host.
	names := chain{family: knftables.InetFamily, name: "weft-names"}
	names.add("names-origin", `iifname { "lo", %q } return`, c.Name)
	names.add("names-origin", `meta iifkind "bridge" return`)
	names.add("names-origin", `meta iifkind "veth" return`)
	names.add("names-origin", `drop`)
	in.add("names-origin", `ip daddr %s jump weft-names`, c.DNS)
	return []chain{tunnel, ours, names, in, out}
}

// forwardChains say what passes through the host.
func forwardChains(c Config, uplinks []string) []chain {
	mark := fmt.Sprintf("meta mark set meta mark and %#08x or %#08x accept", ^uint32(markMask), markValue)
	// Just before those of iptables, which must see the mark.
	fwd := chain{
		family: knftables.InetFamily, name: "weft-forward",
		kind: knftables.FilterType, hook: knftables.ForwardHook, priority: "filter-5",
	}
	// Bridged frames, on hosts where they pass through here.
	fwd.add("bridged", `iifname %q oifname %q %s`, c.Name, c.Name, mark)
	fwd.add("tunnel-forward", `iifname %q drop`, c.WireGuard)
	fwd.add("tunnel-forward", `oifname %q drop`, c.WireGuard)
	fwd.add("loose-port", `iifname %q drop`, c.VXLAN)
	fwd.add("loose-port", `iifname "%s*" drop`, portPrefix)
	for _, p := range subnets(c.Exposed) {
		fwd.add("exposed", `iifname %q ip saddr %s jump weft-leave`, c.Name, p)
		fwd.add("exposed", `oifname %q ip daddr %s %s`, c.Name, p, mark)
	}
	fwd.add("switch-forward", `iifname %q drop`, c.Name)
	fwd.add("switch-forward", `oifname %q drop`, c.Name)
	if len(c.Exposed) == 0 {
		return []chain{fwd}
	}
	// The way into another container network is that network's to allow: no
	// mark, so that Docker's own rules decide.
	leave := chain{family: knftables.InetFamily, name: "weft-leave"}
	for _, name := range uplinks {
		leave.add("exposed", `oifname %q %s`, name, mark)
	}
	leave.add("exposed", `meta oifkind "bridge" accept`)
	leave.add("exposed", "%s", mark)
	chains := []chain{leave, fwd}
	if len(c.Masquerade) == 0 {
		return chains
	}
	nat := chain{
		family: knftables.InetFamily, name: "weft-nat",
		kind: knftables.NATType, hook: knftables.PostroutingHook, priority: "srcnat",
	}
	for _, p := range subnets(c.Masquerade) {
		nat.add("masquerade", `oifname != { %q, "lo" } ip saddr %s masquerade`, c.Name, p)
	}
	return append(chains, nat)
}

// switchChains keep the address of the name server, which every host has,
// local to each.
func switchChains(c Config) []chain {
	in := chain{
		family: knftables.BridgeFamily, name: "weft-port-in",
		kind: knftables.FilterType, hook: knftables.PreroutingHook, priority: "filter",
	}
	out := chain{
		family: knftables.BridgeFamily, name: "weft-port-out",
		kind: knftables.FilterType, hook: knftables.PostroutingHook, priority: "filter",
	}
	out.add("vxlan-mark", `oifname %q meta mark set meta mark and %#08x or %#08x`, c.VXLAN, ^uint32(markMask), markValue)
	if c.DNS.IsValid() {
		for _, what := range []string{"ip saddr", "ip daddr", "arp saddr ip", "arp daddr ip"} {
			in.add("names-local", `%s %s iifname %q drop`, what, c.DNS, c.VXLAN)
			out.add("names-local", `%s %s oifname %q drop`, what, c.DNS, c.VXLAN)
		}
	}
	if c.MSS > 0 {
		// Full segments need no fragments then. One number serves for all peers:
		// behind which of them a container is, is known to the tunnels' port
		// alone, and that is the kernel's here. So it is that of the widest path;
		// towards a narrower one segments are fragmented like anything else. The
		// kernel never raises what a segment says.
		for _, x := range []struct {
			kind string
			size int
		}{{"ip", c.MSS}, {"ip6", c.MSS - 20}} {
			const clamp = ` %q ether type %s tcp flags syn / syn,rst tcp option maxseg size set %d`
			in.add("tcp-mss", "iifname"+clamp, c.VXLAN, x.kind, x.size)
			out.add("tcp-mss", "oifname"+clamp, c.VXLAN, x.kind, x.size)
		}
	}
	return []chain{in, out}
}

func (c *chain) add(comment, format string, args ...any) {
	c.rules = append(c.rules, rule{text: fmt.Sprintf(format, args...), comment: comment})
}

// subnets are the networks of addresses, each once.
func subnets(list []netip.Prefix) []netip.Prefix {
	var nets []netip.Prefix
	for _, p := range list {
		if m := p.Masked(); !slices.Contains(nets, m) {
			nets = append(nets, m)
		}
	}
	return nets
}

// of is what belongs to one table.
func (r ruleset) of(p tableID) ruleset {
	one := ruleset{cuts: r.cuts}
	for _, s := range r.sets {
		if p == (tableID{s.family, tableName}) {
			one.sets = append(one.sets, s)
		}
	}
	for _, c := range r.chains {
		if p == c.id() {
			one.chains = append(one.chains, c)
		}
	}
	return one
}

// write adds the commands that make a table to a transaction, replacing what
// there is: the kernel switches from the old to the new at one moment. The one
// for paths is there only when it has something to say.
func (r ruleset) write(tx *knftables.Transaction, p tableID) {
	t := &knftables.Table{Family: p.family, Name: p.name}
	tx.Add(t)
	tx.Delete(t)
	if p.name == pathsName && len(r.chains) == 0 {
		return
	}
	tx.Add(t)
	for _, s := range r.sets {
		tx.Add(&knftables.Set{
			Family: s.family, Table: p.name, Name: s.name, Type: s.kind,
			Flags: []knftables.SetFlag{knftables.TimeoutFlag},
		})
	}
	for _, c := range r.chains {
		k := &knftables.Chain{Family: c.family, Table: p.name, Name: c.name}
		if c.hook != "" {
			k.Type = new(c.kind)
			k.Hook = new(c.hook)
			k.Priority = new(knftables.BaseChainPriority(c.priority))
		}
		tx.Add(k)
	}
	for _, c := range r.chains {
		for _, l := range c.rules {
			tx.Add(&knftables.Rule{
				Family: c.family, Table: p.name, Chain: c.name,
				Rule: l.text, Comment: new(l.comment),
			})
		}
	}
}
