package fdb

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// hiddenReports are reports of a group that silence its members where Linux is
// the host, in forms that nobody uses who means well.
func hiddenReports() map[string][]byte {
	const g4, g6 = "239.1.2.3", "ff0e::123"
	a4, a6 := netip.MustParseAddr(g4).As4(), netip.MustParseAddr(g6).As16()
	tag := func(frame []byte, tags ...byte) []byte {
		return append(append(bytes.Clone(frame[:12]), tags...), frame[12:]...)
	}
	long := igmp(mac(9), "10.32.0.9", g4, append(append([]byte{igmpReport2, 0, 0, 0}, a4[:]...), make([]byte, 8)...))
	fragment := bytes.Clone(long[:etherLen+24+8])
	h := fragment[etherLen:]
	binary.BigEndian.PutUint16(h[2:], 32)
	binary.BigEndian.PutUint16(h[6:], 0x2000)
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], ^fold(sum(h[:24], 0)))
	toAll := old(mac(9), "10.32.0.9", g4)
	copy(toAll, broadcast[:])
	report := append([]byte{mldReport1, 0, 0, 0, 0, 0, 0, 0}, a6[:]...)
	behind := func(first byte, headers ...byte) []byte {
		b := make([]byte, etherLen+ip6Len)
		d := putEther(b, groupMAC6(a6[:]), mac(9), typeIP6)
		from := netip.MustParseAddr("fe80::9").As16()
		putIP6(d, first, 1, len(headers)+len(report), from, a6)
		body := bytes.Clone(report)
		binary.BigEndian.PutUint16(body[2:], ^fold(sum(body, pseudo(from[:], a6[:], len(body)))))
		return append(append(b, headers...), body...)
	}
	return map[string][]byte{
		"priority":         tag(old(mac(9), "10.32.0.9", g4), 0x81, 0, 0xe0, 0),
		"priority, twice":  tag(old(mac(9), "10.32.0.9", g4), 0x88, 0xa8, 0, 0, 0x81, 0, 0, 0),
		"fragment":         fragment,
		"broadcast":        toAll,
		"priority, IPv6":   tag(old(mac(9), "fe80::9", g6), 0x81, 0, 0, 0),
		"options":          behind(protoDestination, protoICMP6, 0, 1, 4, 0, 0, 0, 0),
		"atomic fragment":  behind(protoFragment, protoICMP6, 0, 0, 0, 0, 0, 0, 7),
		"both":             behind(protoHopByHop, protoFragment, 0, 5, 2, 0, 0, 1, 0, protoICMP6, 0, 0, 1, 0, 0, 0, 7),
		"no router alert":  behind(protoICMP6),
		"no header at all": old(mac(9), "10.32.0.9", g4),
	}
}

// However a report is written that makes members be silent, wherever it comes
// from: its group is flooded.
func TestHiddenReports(t *testing.T) {
	for what, frame := range hiddenReports() {
		for where, hear := range map[string]func(*Table){
			"tunnel": func(table *Table) { table.Snoop(frame, overlay(2)) },
			"frames": func(table *Table) { table.Members(frame) },
			"bridge": func(table *Table) { table.Overhear(frame) },
		} {
			table, c := listening(t, 2, 3)
			hear(table)
			_, four := table.Members(data(g4))
			_, six := table.Members(data("ff0e::123"))
			if !four && !six {
				t.Errorf("%s was not heard: %s", what, where)
			}
			answerAll(table, 2, 3)
			c.seconds(membership)
			table.Sweep()
			answerAll(table, 2, 3)
			c.seconds(1)
			table.Sweep()
			goes(t, table, data(g4))
		}
	}
	// In a VLAN it is another group's, and large datagrams silence nobody.
	table, _ := listening(t, 2, 3)
	frame := hiddenReports()["priority"]
	frame[15] = 5
	table.Snoop(frame, overlay(2))
	frame = hiddenReports()["atomic fragment"]
	frame[etherLen+ip6Len] = 17
	table.Snoop(frame, overlay(2))
	goes(t, table, data(g4))
	goes(t, table, data("ff0e::123"))
}
