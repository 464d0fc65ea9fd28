package bridge

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"sigs.k8s.io/knftables"

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

	// What a path carries is measured (PROTOCOL section 6). A message about it
	// is not needed, and anybody can forge one. Only what is for this host is
	// looked at: one that passes through may be another's.
	icmp := chain{
		family: knftables.InetFamily, name: "weft-icmp",
		kind: knftables.FilterType, hook: knftables.InputHook, priority: "filter",
	}
	icmp.add("forged-mtu", `icmp type destination-unreachable icmp code frag-needed jump weft-mtu4`)
	icmp.add("forged-mtu", `icmpv6 type packet-too-big jump weft-mtu6`)
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
	// In IPv6 it looks behind any number of extension headers, which no rule
	// can: so what has such headers is not believed at all, save fragments. We
	// send none but these, and hardly anybody sends the others.
	v6 := chain{family: knftables.InetFamily, name: "weft-mtu6"}
	v6.add("forged-mtu", `@th,112,8 17 @th,384,16 { %s } drop`, ports)
	v6.add("forged-mtu", `@th,112,8 { 0, 43, 51, 60 } drop`) // hop-by-hop, routing, AH, destination
	v6.add("forged-mtu", `@th,112,8 44 @th,384,8 17 @th,448,16 { %s } drop`, ports)
	v6.add("forged-mtu", `@th,112,8 44 @th,384,8 { 0, 43, 44, 51, 60 } drop`)
	return []chain{v4, v6, icmp, in}
}

// Quiet drops what comes to the WireGuard port from an address, for a while,
// except signals (router/signal). A second call for an address replaces the
// first; 0 ends it. A change of the walls ends all of them. It needs a Set
// before, and takes one run of nft.
func (b *Bridge) Quiet(ctx context.Context, from netip.AddrPort, d time.Duration) error {
	from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
	if !from.IsValid() {
		return fmt.Errorf("bridge: drop what comes from %s: %w", from, fs.ErrInvalid)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cfg == nil {
		return fmt.Errorf("bridge: drop what comes from %s: there are no walls yet", from)
	}
	if err := b.walls.quiet(ctx, from, d); err != nil {
		return fmt.Errorf("bridge: drop what comes from %s: %w", from, err)
	}
	return nil
}

// quiet puts an address into its set, or takes it out. knftables knows no
// timeouts of elements, and the time left of one that is there cannot be
// changed by all kernels: so it is taken out first, in the same transaction.
func (t *tables) quiet(ctx context.Context, from netip.AddrPort, d time.Duration) error {
	name := quietIPv4
	if from.Addr().Is6() {
		name = quietIPv6
	}
	element := fmt.Sprintf("element inet %s %s { %s . %d", tableName, name, from.Addr(), from.Port())
	script := fmt.Sprintf("add %s }\ndelete %s }\n", element, element)
	if ms := d.Milliseconds(); ms > 0 {
		script += fmt.Sprintf("add %s timeout %dms }\n", element, ms)
	}
	return t.kernel.Do(func() error {
		nft := exec.CommandContext(ctx, "nft", "-f", "-")
		nft.Stdin = strings.NewReader(script)
		if out, err := nft.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
}
