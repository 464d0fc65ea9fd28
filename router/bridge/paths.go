package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"sigs.k8s.io/knftables"

	"github.com/weftnet/weft/router/signal"
)

// Marks of the switch's packets inside the tunnels, where FrameMask has bits:
// routes for FrameMark are as narrow as paths are, so that the kernel's switch
// port refuses what is too large if it can tell the sender; what it sends all
// the same gets WholeMark, whose routes are wide.
const (
	FrameMark = markValue
	WholeMark = markValue | wholeBit
	FrameMask = markMask | wholeBit

	wholeBit = 0x00800000
)

// pathChains are the rules that change with the paths to peers. They are in a
// table of their own, which can be written without any effect on the walls.
func pathChains(c Config) []chain {
	var chains []chain
	if c.Told > 0 {
		out := chain{
			family: knftables.InetFamily, name: "weft-whole", paths: true,
			kind: knftables.RouteType, hook: knftables.OutputHook, priority: "mangle",
		}
		// A packet of this size that comes so far could not be told to its sender.
		// By the route that it has it would be dropped: so it gets another.
		out.add("too-big-whole", `oifname %q udp dport %d meta length > %d meta mark set meta mark or %#08x`,
			c.WireGuard, c.VXLANPort, c.Told, uint32(wholeBit))
		chains = append(chains, out)
	}
	out := chain{
		family: knftables.InetFamily, name: "weft-cut", paths: true,
		kind: knftables.FilterType, hook: knftables.OutputHook, priority: "mangle",
	}
	var jumps [2][]string
	for i, ep := range slices.SortedFunc(maps.Keys(c.Cuts), netip.AddrPort.Compare) {
		one := chain{family: knftables.InetFamily, name: fmt.Sprintf("weft-cut-%d", i), paths: true}
		one.add(ep.String(), `meta length > %d counter`, c.Cuts[ep])
		chains = append(chains, one)
		f := 0
		if ep.Addr().Is6() {
			f = 1
		}
		jumps[f] = append(jumps[f], fmt.Sprintf("%s . %d : jump %s", ep.Addr().WithZone(""), ep.Port(), one.name))
	}
	for f, proto := range []string{"ip", "ip6"} {
		if len(jumps[f]) > 0 {
			// All but signals, which measure what is not cut.
			out.add("cut", `udp sport %d @th,64,8 != %#x %s daddr . udp dport vmap { %s }`,
				c.Port, signal.First, proto, strings.Join(jumps[f], ", "))
		}
	}
	if len(out.rules) > 0 {
		chains = append(chains, out)
	}
	return chains
}

// counted is how many packets were cut on the way to an endpoint. The kernel
// counts from zero whenever the table is written.
type counted struct{ before, now uint64 }

// countFragmented asks the firewall. It runs nft, if anything is cut, and waits
// while the rules are written.
func (b *Bridge) countFragmented(ctx context.Context) (map[netip.AddrPort]uint64, error) {
	n, err := b.walls.counts(ctx)
	if err != nil {
		return nil, fmt.Errorf("bridge: count fragmented packets: %w", err)
	}
	return n, nil
}

func (t *tables) counts(ctx context.Context) (map[netip.AddrPort]uint64, error) {
	t.cutsMu.Lock()
	defer t.cutsMu.Unlock()
	if len(t.cuts) == 0 {
		return nil, nil
	}
	if err := t.kernel.Do(func() error { return t.countLocked(ctx) }); err != nil {
		return nil, err
	}
	out := make(map[netip.AddrPort]uint64, len(t.cuts))
	for ep, n := range t.cuts {
		out[ep] = n.before + n.now
	}
	return out, nil
}

// countLocked reads the counters. One that is less than it was began anew.
func (t *tables) countLocked(ctx context.Context) error {
	if len(t.cuts) == 0 {
		return nil
	}
	list, err := runList(ctx, tableID{knftables.InetFamily, pathsName})
	if err != nil {
		return err
	}
	seen, err := readCounters(list)
	if err != nil {
		return err
	}
	for ep, n := range t.cuts {
		if is := seen[ep]; is < n.now {
			t.cuts[ep] = counted{n.before + n.now, is}
		} else {
			t.cuts[ep] = counted{n.before, is}
		}
	}
	return nil
}

// renewLocked is called when the counters are to be those of c, from zero; what
// they said until then is kept for those that stay.
func (t *tables) renewLocked(c map[netip.AddrPort]int) {
	cuts := make(map[netip.AddrPort]counted, len(c))
	for ep := range c {
		n := t.cuts[ep]
		cuts[ep] = counted{before: n.before + n.now}
	}
	t.cuts = cuts
}

// readCounters reads what the rules for each endpoint counted.
func readCounters(list []byte) (map[netip.AddrPort]uint64, error) {
	var table struct {
		Nftables []struct {
			Rule *struct {
				Comment string
				Expr    []struct {
					Counter *struct{ Packets uint64 }
				}
			}
		}
	}
	if err := json.Unmarshal(list, &table); err != nil {
		return nil, errors.New("nft lists rules in a form that is not understood")
	}
	out := make(map[netip.AddrPort]uint64)
	for _, o := range table.Nftables {
		if o.Rule == nil {
			continue
		}
		ep, err := netip.ParseAddrPort(o.Rule.Comment)
		if err != nil {
			continue
		}
		for _, e := range o.Rule.Expr {
			if e.Counter != nil {
				out[ep] += e.Counter.Packets
			}
		}
	}
	return out, nil
}
