package vxlan

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/fdb"
)

// Where things are in a packet of the tunnel that carries a frame, in octets:
// IPv6, UDP, VXLAN, Ethernet, and what is in that.
const (
	outerSource = 40
	outerDest   = 42
	outerVNI    = 40 + 8 + 4
	innerFrame  = 40 + 8 + 8
)

// heardFrom hands a frame with a report or a query that came out of the tunnel
// to the table. WireGuard vouches for the source; the frame may be anything.
func heardFrom(c fdb.Config, t *fdb.Table, b []byte) {
	if len(b) < innerFrame || netip.AddrFrom16([16]byte(b[24:])) != c.Local {
		return
	}
	t.Snoop(b[innerFrame:], netip.AddrFrom16([16]byte(b[8:])))
}

// fromTunnels lets through what [heardFrom] may learn from: IGMP, MLD and PIM in
// frames of our switch that come from a switch.
func fromTunnels(c fdb.Config) []unix.SockFilter {
	p := program{
		{code: loadByte, k: 6},
		{code: equal, k: unix.IPPROTO_UDP, no: "drop"},
		{code: loadHalf, k: outerDest},
		{code: equal, k: uint32(c.Port), no: "drop"},
		{code: loadHalf, k: outerSource},
		{code: atLeast, k: portLow, no: "drop"},
		{code: atLeast, k: portHigh + 1, yes: "drop"},
		{code: loadWord, k: outerVNI},
		{code: shiftRight, k: 8},
		{code: equal, k: c.VNI, no: "drop"},
	}
	return append(p, ofGroups(innerFrame)...).assemble()
}

// fromBridge lets through the same of what comes to the bridge, by any of its
// ports. What the host sends there is not among it, nor what is in a VLAN.
func fromBridge() []unix.SockFilter {
	// Of linux/filter.h: offsets that are none of the packet.
	const extension, kind, tag, tagged = 1<<32 - 0x1000, 4, 44, 48
	p := program{
		{code: loadWord, k: extension + kind},
		{code: equal, k: unix.PACKET_OUTGOING, yes: "drop"},
		{code: loadWord, k: extension + tagged},
		{code: equal, k: 0, yes: "of no VLAN"},
		{code: loadWord, k: extension + tag},
		{code: anyBit, k: 0xfff, yes: "drop"},
		{label: "of no VLAN", code: loadByte, k: 0},
	}
	return append(p, ofGroups(0)...).assemble()
}

// ofGroups is the rest of a filter, for a frame at an offset.
func ofGroups(at uint32) program {
	ip := at + 14
	return program{
		{code: loadByte, k: at},
		{code: anyBit, k: 1, no: "drop"},
		{code: loadHalf, k: at + 12},
		{code: equal, k: unix.ETH_P_IPV6, yes: "ipv6"},
		{code: equal, k: unix.ETH_P_8021Q, yes: "tag"},
		{code: equal, k: unix.ETH_P_8021AD, yes: "tag"},
		{code: equal, k: unix.ETH_P_IP, no: "drop"},
		{code: loadByte, k: ip + 9},
		{code: equal, k: unix.IPPROTO_IGMP, yes: "keep"},
		{code: equal, k: unix.IPPROTO_PIM, yes: "keep", no: "drop"},
		{label: "tag", code: loadHalf, k: ip},
		{code: anyBit, k: 0xfff, yes: "drop", no: "keep"}, // a priority alone: hosts take it for untagged
		{label: "ipv6", code: loadByte, k: ip + 6},
		{code: equal, k: unix.IPPROTO_HOPOPTS, yes: "keep"},
		{code: equal, k: unix.IPPROTO_PIM, yes: "keep"},
		{code: equal, k: unix.IPPROTO_ROUTING, yes: "keep"},
		{code: equal, k: unix.IPPROTO_DSTOPTS, yes: "keep"},
		{code: equal, k: unix.IPPROTO_FRAGMENT, yes: "fragment"},
		{code: equal, k: unix.IPPROTO_ICMPV6, no: "drop"},
		{code: loadByte, k: ip + 40}, // MLD without the header that it should have; not neighbour discovery
		{code: atLeast, k: 138, yes: "keep"},
		{code: atLeast, k: 133, yes: "drop"},
		{code: atLeast, k: 130, yes: "keep", no: "drop"},
		{label: "fragment", code: loadHalf, k: ip + 42},
		{code: anyBit, k: 0xfff8, yes: "drop"}, // the first one has the type
		{code: loadByte, k: ip + 40},
		{code: equal, k: unix.IPPROTO_UDP, yes: "drop"},
		{label: "keep", code: give, k: 1 << 16},
		{label: "drop", code: give, k: 0},
	}
}

// Instructions of classic BPF.
const (
	loadByte   = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
	loadHalf   = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
	loadWord   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	shiftRight = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	equal      = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	atLeast    = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	anyBit     = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	give       = unix.BPF_RET | unix.BPF_K
)

// program is a filter whose jumps have names; "" is the next instruction.
type program []instruction

type instruction struct {
	label   string
	code    uint16
	k       uint32
	yes, no string
}

func (p program) assemble() []unix.SockFilter {
	target := make(map[string]int)
	for i, x := range p {
		target[x.label] = i
	}
	out := make([]unix.SockFilter, len(p))
	for i, x := range p {
		target[""] = i + 1
		out[i] = unix.SockFilter{Code: x.code, K: x.k}
		if x.code&7 == unix.BPF_JMP {
			out[i].Jt, out[i].Jf = uint8(target[x.yes]-i-1), uint8(target[x.no]-i-1)
		}
	}
	return out
}
