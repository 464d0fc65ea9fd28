package fdb

import "github.com/weftnet/weft/router/signal"

// Encapsulation is what a switch port puts around an IP packet of a container,
// in bytes: Ethernet, VXLAN, UDP and IPv6 (docs/protocol.md#sizes). A VLAN tag
// takes [TagSize] more.
const (
	Encapsulation = 14 + 8 + 8 + 40
	TagSize       = 4
)

// TunnelOverhead is what WireGuard puts around that, in bytes: its header and
// tag. UDP and IP come on top.
const TunnelOverhead = 32

// InnerMTU returns the MTU of a switch whose full packets fit into an IP packet
// of so many bytes. WireGuard pads to 16 bytes, so what fits is cut down to
// that.
func InnerMTU(pathMTU int, v6 bool) int {
	overhead := TunnelOverhead + signal.HeadersIPv4
	if v6 {
		overhead = TunnelOverhead + signal.HeadersIPv6
	}
	return (pathMTU-overhead)&^15 - Encapsulation
}
