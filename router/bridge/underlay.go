package bridge

import (
	"fmt"

	"sigs.k8s.io/knftables"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
)

// The sets of addresses from where WireGuard is to hear nothing, for a while:
// see [Bridge.Quiet].
const (
	quietIPv4 = "weft-quiet4"
	quietIPv6 = "weft-quiet6"
)

func underlaySets() []set {
	return []set{
		{knftables.InetFamily, quietIPv4, "ipv4_addr . inet_service"},
		{knftables.InetFamily, quietIPv6, "ipv6_addr . inet_service"},
	}
}

// underlayChains keep from our UDP ports what would harm them.
func underlayChains(c Config) []chain {
	in := chain{
		family: knftables.InetFamily, name: "weft-quiet",
		kind: knftables.FilterType, hook: knftables.PreroutingHook, priority: "raw",
	}
	// All but signals, whose first byte is 0x57.
	in.add("quiet", `udp dport %d @th,64,8 != %#x ip saddr . udp sport @%s drop`, c.Port, signal.First, quietIPv4)
	in.add("quiet", `udp dport %d @th,64,8 != %#x ip6 saddr . udp sport @%s drop`, c.Port, signal.First, quietIPv6)

	// What a path carries is measured (docs/protocol.md#path-mtu). A message about it
	// is not needed, and anybody can forge one. Only what is for this host is
	// looked at: one that passes through may be another's.
	icmp := chain{
		family: knftables.InetFamily, name: "weft-icmp",
		kind: knftables.FilterType, hook: knftables.InputHook, priority: "filter",
	}
	icmp.add("forged-mtu", `icmp type destination-unreachable icmp code frag-needed jump weft-mtu4`)
	icmp.add("forged-mtu", `icmpv6 type packet-too-big jump weft-mtu6`)
	// Nobody on the way inside a tunnel could say so truly. The packet that such a
	// message is about is behind its 8 bytes, the destination at 24 bytes of that.
	const bits = 48
	overlay := crypto.OverlayPrefix.Addr().As16()
	icmp.add("forged-overlay-mtu", `icmpv6 type packet-too-big @th,256,%d %#x drop`, bits, overlay[:bits/8])
	ports := fmt.Sprint(c.Port)
	if c.RelayPort != 0 {
		ports = fmt.Sprintf("%s, %d", ports, c.RelayPort)
	}
	// The kernel finds the UDP header behind the embedded IP header, whatever
	// length that claims to have: so there is a rule for each.
	v4 := chain{family: knftables.InetFamily, name: "weft-mtu4"}
	for words := 5; words <= 15; words++ {
		v4.add("forged-mtu", `@th,68,4 %d @th,136,8 17 @th,%d,16 { %s } drop`, words, 64+32*words, ports)
	}
	// In IPv6 it looks behind any number of extension headers. Rules follow two
	// of the shortest, and fragments, which are the ones that we send. A message
	// about others may be about a packet of somebody else's, who needs it: so it
	// is believed. Whoever forges one makes the kernel's WireGuard send one peer
	// fragments of 1280 bytes for ten minutes.
	v6 := chain{family: knftables.InetFamily, name: "weft-mtu6"}
	udp := func(before string, kind, at int) { // both in bits: where the next header's kind is, and itself
		v6.add("forged-mtu", `%s@th,%d,8 17 @th,%d,16 { %s } drop`, before, kind, at, ports)
	}
	headers := func(kind, at int) []string {
		return []string{
			fmt.Sprintf(`@th,%d,8 44 `, kind),                             // fragment
			fmt.Sprintf(`@th,%d,8 { 0, 43, 60 } @th,%d,8 0 `, kind, at+8), // hop-by-hop, routing, destination; and its length
		}
	}
	const kind, first, second, third = 112, 384, 448, 512
	udp("", kind, first)
	for _, one := range headers(kind, first) {
		udp(one, first, second)
		for _, two := range headers(first, second) {
			udp(one+two, second, third)
		}
	}
	return []chain{v4, v6, icmp, in}
}
