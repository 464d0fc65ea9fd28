package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// packet is what a frame's headers say.
type packet struct {
	src, dst         netip.Addr
	proto            byte // of IP; 0: not IP
	srcPort, dstPort uint16
	icmpType         byte
	fragment         bool   // not the first piece: no ports
	id               uint32 // of the packet that it is a piece of
	kind             string
}

// The protocols that the underlay may carry.
const (
	icmp4  = 1
	igmp   = 2
	tcp    = 6
	udp    = 17
	icmp6  = 58
	hopOpt = 0
)

// parse reads the headers of an Ethernet frame.
func parse(f []byte) packet {
	if len(f) < 14 {
		return packet{kind: "short frame"}
	}
	b := f[14:]
	switch ethertype := binary.BigEndian.Uint16(f[12:]); {
	case ethertype == 0x0806:
		return packet{kind: "arp"}
	case ethertype == 0x0800 && len(b) >= 20:
		p := packet{src: netip.AddrFrom4([4]byte(b[12:])), dst: netip.AddrFrom4([4]byte(b[16:])), proto: b[9]}
		p.fragment = binary.BigEndian.Uint16(b[6:])&0x1fff != 0
		p.id = uint32(binary.BigEndian.Uint16(b[4:]))
		return p.transport(b[min(len(b), int(b[0]&15)*4):])
	case ethertype == 0x86dd && len(b) >= 40:
		p := packet{src: netip.AddrFrom16([16]byte(b[8:])), dst: netip.AddrFrom16([16]byte(b[24:])), proto: b[6]}
		rest := b[40:]
		for (p.proto == hopOpt || p.proto == 44) && len(rest) >= 8 {
			length := 8
			if p.proto == hopOpt {
				length += int(rest[1]) * 8
			} else {
				p.fragment = p.fragment || binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0
				p.id = binary.BigEndian.Uint32(rest[4:])
			}
			p.proto, rest = rest[0], rest[min(len(rest), length):]
		}
		return p.transport(rest)
	default:
		return packet{kind: fmt.Sprintf("ethertype %#04x", ethertype)}
	}
}

func (p packet) transport(b []byte) packet {
	p.kind = fmt.Sprintf("ip protocol %d", p.proto)
	if p.fragment || len(b) < 4 {
		return p
	}
	switch p.proto {
	case tcp, udp:
		p.srcPort, p.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		p.kind = map[byte]string{tcp: "tcp", udp: "udp"}[p.proto]
	case icmp4, icmp6:
		p.icmpType = b[0]
		p.kind = "icmp"
	case igmp:
		p.kind = "igmp"
	}
	return p
}

func (p packet) port(n uint16) bool { return p.srcPort == n || p.dstPort == n }

// String describes a packet for a failure message.
func (p packet) String() string {
	return fmt.Sprintf("%s %s:%d > %s:%d", p.kind, p.src, p.srcPort, p.dst, p.dstPort)
}

// allowed says whether the underlay may carry the packet: besides what hosts
// say for themselves (ARP, ICMP with neighbour discovery and MLD, IGMP, DNS
// queries for targets), only weft's three ports.
func (p packet) allowed() bool {
	switch p.kind {
	case "arp", "icmp", "igmp":
		return true
	case "tcp":
		return p.port(6783)
	case "udp":
		return p.port(6783) || p.port(6784) || p.port(53)
	}
	return false
}

// checkUnderlay fails the test for every kind of packet that must not have been
// on the wire, and for every marker found there.
func checkUnderlay(t testing.TB, c *lab.Capture, markers ...string) {
	t.Helper()
	frames, missed := c.Stop()
	if missed > 0 {
		t.Errorf("the capture missed %d frames, so it proves nothing", missed)
	}
	// The kernel cuts what is too long for the underlay: a later piece is as
	// good as its first, which came before it.
	type whole struct {
		src, dst netip.Addr
		id       uint32
	}
	cut := make(map[whole]bool)
	var told []string
	weft := 0
	for _, f := range frames {
		p := parse(f.Data)
		if of := (whole{p.src, p.dst, p.id}); p.fragment && p.proto == udp && cut[of] {
			p.kind, p.srcPort, p.dstPort = "udp", 6784, 6784
		} else if p.kind == "udp" && p.port(6784) {
			cut[of] = true
		}
		if p.kind == "udp" && p.port(6784) {
			weft++
		}
		if !p.allowed() && !slices.Contains(told, p.kind+f.From) {
			told = append(told, p.kind+f.From)
			t.Errorf("on the underlay, from %s: %s", f.From, p)
		}
		for _, m := range markers {
			if bytes.Contains(f.Data, []byte(m)) && !slices.Contains(told, m) {
				told = append(told, m)
				t.Errorf("what a container sent is readable on the underlay, from %s: %s carries %q", f.From, p, m)
			}
		}
	}
	if weft == 0 {
		t.Error("the capture has no packet of a tunnel: it looked at the wrong place")
	}
	t.Logf("%d frames on the underlay, %d of them of tunnels", len(frames), weft)
}

func TestParse(t *testing.T) {
	eth := func(ethertype uint16, rest ...byte) []byte {
		return append(binary.BigEndian.AppendUint16(make([]byte, 12), ethertype), rest...)
	}
	ip4 := func(proto byte, frag uint16, rest ...byte) []byte {
		h := []byte{0x45, 0, 0, 40, 0, 0, byte(frag >> 8), byte(frag), 64, proto, 0, 0, 192, 0, 2, 11, 192, 0, 2, 12}
		return eth(0x0800, append(h, rest...)...)
	}
	ip6 := func(next byte, rest ...byte) []byte {
		h := append([]byte{0x60, 0, 0, 0, 0, 0, next, 64}, make([]byte, 32)...)
		return eth(0x86dd, append(h, rest...)...)
	}
	for _, tc := range []struct {
		name    string
		frame   []byte
		kind    string
		allowed bool
	}{
		{"arp", eth(0x0806), "arp", true},
		{"introduction", ip4(tcp, 0, 0x80, 1, 0x1a, 0x7f), "tcp", true},
		{"tunnel", ip4(udp, 0, 0x1a, 0x80, 0x1a, 0x80), "udp", true},
		{"dns", ip4(udp, 0, 0x1a, 0x90, 0, 53), "udp", true},
		{"vxlan", ip4(udp, 0, 2, 0, 0x1a, 0x81), "udp", false},
		{"gossip", ip4(tcp, 0, 0x80, 1, 0x1a, 0x82), "tcp", false},
		{"later fragment", ip4(udp, 1, 0x1a, 0x80, 0x1a, 0x80), "ip protocol 17", false},
		{"mld", ip6(hopOpt, icmp6, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0), "icmp", true},
		{"tunnel over IPv6", ip6(udp, 0x1a, 0x80, 0x1a, 0x80), "udp", true},
		{"fragment over IPv6", ip6(44, udp, 0, 0, 8, 0, 0, 0, 0, 0x1a, 0x80, 0x1a, 0x80), "ip protocol 17", false},
		{"vlan", eth(0x8100, 0, 0, 8, 0), "ethertype 0x8100", false},
		{"nothing", nil, "short frame", false},
	} {
		p := parse(tc.frame)
		if p.kind != tc.kind || p.allowed() != tc.allowed {
			t.Errorf("%s: %v, allowed %v; want %s, %v", tc.name, p, p.allowed(), tc.kind, tc.allowed)
		}
	}
}
