package fdb

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

// rec is a record of a report.
type rec struct {
	kind    byte
	group   string
	sources int
	aux     byte
}

// report is an IGMPv3 or MLDv2 report as a frame, by the family of its sender.
func report(from MAC, sender string, records ...rec) []byte {
	v6 := netip.MustParseAddr(sender).Is6()
	body := []byte{igmpReport3, 0, 0, 0, 0, 0, 0, byte(len(records))}
	if v6 {
		body[0] = mldReport2
	}
	for _, r := range records {
		g := netip.MustParseAddr(r.group).AsSlice()
		body = append(body, r.kind, r.aux, 0, byte(r.sources))
		body = append(body, g...)
		body = append(body, make([]byte, r.sources*len(g)+int(r.aux)*4)...)
	}
	if v6 {
		return mld(from, sender, "ff02::16", body)
	}
	return igmp(from, sender, "224.0.0.22", body)
}

func igmp(from MAC, sender, to string, body []byte) []byte {
	g := netip.MustParseAddr(to).As4()
	body[2], body[3] = 0, 0
	binary.BigEndian.PutUint16(body[2:], ^fold(sum(body, 0)))
	return append(packet4(from, sender, groupMAC4(g[:]), to, protoIGMP, len(body)), body...)
}

// packet4 is a frame with a header of IPv4 with the router alert option.
func packet4(from MAC, sender string, mac MAC, to string, proto byte, n int) []byte {
	b := make([]byte, etherLen+24)
	d := putEther(b, mac, from, typeIP4)
	s, g := netip.MustParseAddr(sender).As4(), netip.MustParseAddr(to).As4()
	copy(d, []byte{0x46, 0xc0, byte((24 + n) >> 8), byte(24 + n), 0, 0, 0, 0, 1, proto})
	copy(d[12:], s[:])
	copy(d[16:], g[:])
	copy(d[20:], []byte{0x94, 4})
	binary.BigEndian.PutUint16(d[10:], ^fold(sum(d[:24], 0)))
	return b
}

func mld(from MAC, sender, to string, body []byte) []byte {
	s, g := netip.MustParseAddr(sender).As16(), netip.MustParseAddr(to).As16()
	b := make([]byte, etherLen+ip6Len)
	putIP6(putEther(b, groupMAC6(g[:]), from, typeIP6), protoHopByHop, 1, 8+len(body), s, g)
	b = append(b, protoICMP6, 0, 5, 2, 0, 0, 1, 0)
	b = append(b, body...)
	n := len(b) - len(body)
	b[n+2], b[n+3] = 0, 0
	binary.BigEndian.PutUint16(b[n+2:], ^fold(sum(b[n:], pseudo(s[:], g[:], len(body)))))
	return b
}

// old is a report of IGMPv2 or MLDv1.
func old(from MAC, sender, group string) []byte {
	g := netip.MustParseAddr(group)
	if g.Is4() {
		return igmp(from, sender, group, append([]byte{igmpReport2, 0, 0, 0}, g.AsSlice()...))
	}
	return mld(from, sender, group, append([]byte{mldReport1, 0, 0, 0, 0, 0, 0, 0}, g.AsSlice()...))
}

// data is a frame to a group.
func data(group string) []byte {
	g := netip.MustParseAddr(group)
	if g.Is4() {
		return append(packet4(asker, "10.32.0.1", groupMAC4(g.AsSlice()), group, 17, 8), make([]byte, 8)...)
	}
	b := make([]byte, etherLen+ip6Len+8)
	putIP6(putEther(b, groupMAC6(g.AsSlice()), asker, typeIP6), 17, 1, 8, netip.MustParseAddr("fd00::1").As16(), g.As16())
	return b
}

// goes checks who gets a frame to a group; no remotes: nobody, 0: everybody.
func goes(t *testing.T, table *Table, frame []byte, want ...int) {
	t.Helper()
	list, flood := table.Members(frame)
	if flood {
		list = []netip.Addr{overlay(0)}
	}
	var hosts []netip.Addr
	for _, n := range want {
		hosts = append(hosts, overlay(n))
	}
	list = slices.SortedFunc(slices.Values(list), netip.Addr.Compare)
	if !slices.Equal(list, hosts) {
		t.Errorf("frame goes to %v, want %v", list, hosts)
	}
}

// listening is a table of remotes that have answered queries for long enough.
func listening(t testing.TB, list ...int) (*Table, *clock) {
	t.Helper()
	c := newClock()
	table := New(Options{Now: c.now})
	table.Set(remotes(list...), nil)
	c.seconds(unheard + 1)
	table.Sweep()
	answerAll(table, list...)
	c.seconds(settling + 1)
	table.Sweep()
	if s := table.Stats(); s.Flooded != 0 {
		t.Fatalf("stats %+v", s)
	}
	return table, c
}

// answerAll is a round of answers of hosts where nobody wants anything.
func answerAll(table *Table, list ...int) {
	for _, n := range list {
		table.Snoop(report(mac(n), "fe80::1", rec{kind: recordExclude, group: "ff02::fb"}), overlay(n))
	}
}

const (
	g4 = "239.1.2.3"
	g6 = "ff0e::123"
	gN = "ff05::1:3"
)

func TestMembers(t *testing.T) {
	for _, g := range []struct{ group, sender string }{{g4, "10.32.0.1"}, {g6, "fe80::1"}, {gN, "::"}, {"232.9.9.9", "0.0.0.0"}} {
		t.Run(g.group, func(t *testing.T) {
			table, c := listening(t, 2, 3, 4)
			goes(t, table, data(g.group))
			table.Snoop(report(mac(1), g.sender, rec{kind: toExclude, group: "239.0.0.1"}, rec{kind: toExclude, group: g.group})[:20], overlay(2)) // cut off
			goes(t, table, data(g.group))
			table.Snoop(report(mac(1), g.sender, rec{kind: toExclude, group: g.group}), overlay(2))
			table.Snoop(report(mac(1), g.sender, rec{kind: toExclude, group: g.group}), overlay(9)) // no remote
			goes(t, table, data(g.group), 2)
			table.Snoop(report(mac(2), g.sender, rec{kind: toExclude, group: g.group}), overlay(2))
			table.Snoop(report(mac(3), g.sender, rec{kind: allowSources, group: g.group, sources: 2, aux: 3}), overlay(3))
			goes(t, table, data(g.group), 2, 3)
			if s := table.Stats(); s.Groups != 1 {
				t.Errorf("stats %+v", s)
			}
			// The first of two leaves.
			table.Snoop(report(mac(1), g.sender, rec{kind: toInclude, group: g.group}), overlay(2))
			goes(t, table, data(g.group), 2, 3)
			table.Snoop(report(mac(2), g.sender, rec{kind: toInclude, group: g.group}), overlay(2))
			goes(t, table, data(g.group), 3)
			// The remote goes, and comes back.
			table.Set(remotes(2, 4), nil)
			goes(t, table, data(g.group))
			table.Set(remotes(2, 3, 4), nil)
			goes(t, table, data(g.group), 3)
			// Silence ends every membership; but then all is flooded.
			c.seconds(membership + 1)
			table.Sweep()
			goes(t, table, data(g.group), 0)
			if s := table.Stats(); s.Groups != 0 || s.Flooded != 3 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// A host is pruned after it has answered queries for a while, no matter how
// much is announced there; and not any longer when it answers no more.
func TestOnlyHostsThatAnswer(t *testing.T) {
	c := newClock()
	table := New(Options{Now: c.now})
	table.Set(remotes(2, 3), nil)
	goes(t, table, data(g4), 0)
	for range 10 {
		table.Snoop(report(mac(1), "10.32.0.1", rec{kind: toExclude, group: "239.9.9.9"}), overlay(2))
		c.seconds(60)
		table.Sweep()
		goes(t, table, data(g4), 0)
	}
	answerAll(table, 2)
	c.seconds(settling)
	table.Sweep()
	goes(t, table, data(g4), 0)
	c.seconds(1)
	table.Sweep()
	goes(t, table, data(g4), 3)
	table.Snoop(report(mac(1), "10.32.0.1", rec{kind: toExclude, group: g4}), overlay(2))
	for range 5 { // a daemon whose data path became another: nobody asks there now
		goes(t, table, data(g4), 2, 3)
		c.seconds(50)
		table.Sweep()
		table.Snoop(report(mac(7), "10.32.0.7", rec{kind: toExclude, group: "239.9.9.9"}), overlay(2))
	}
	c.seconds(50)
	table.Sweep()
	goes(t, table, data(g4), 0)
	// It answers again, which takes longer than the first time: when it began to
	// be heard again is not known.
	answerAll(table, 2)
	c.seconds(unheard + 1)
	table.Sweep()
	answerAll(table, 2)
	c.seconds(settling)
	table.Sweep()
	goes(t, table, data(g4), 0)
	c.seconds(1)
	table.Sweep()
	goes(t, table, data(g4), 3)
}

func TestEverywhere(t *testing.T) {
	table, _ := listening(t, 2)
	noGroup := data(g4)
	copy(noGroup[etherLen+16:], []byte{10, 32, 0, 9}) // a group at one layer only
	fragment := data(g4)
	fragment[etherLen+7] = 5
	other := data(g4)
	other[5]++
	for name, frame := range map[string][]byte{
		"broadcast": arp(1, broadcast, asker, asker, "10.32.0.1", "10.32.0.9"), "spanning tree": append([]byte{1, 0x80, 0xc2, 0, 0, 0}, make([]byte, 54)...),
		"local IPv4": data("224.0.0.251"), "all nodes": data("ff02::1"), "mDNS": data("ff02::fb"), "neighbour discovery": data("ff02::1:ff00:9"), "of the interface": data("ff01::1"),
		"IGMP": report(asker, "10.32.0.1", rec{kind: toExclude, group: g4}), "MLD": report(asker, "fe80::1", rec{kind: toExclude, group: g6}),
		"tagged": tagged(data(g4)), "empty": nil, "short": data(g4)[:33], "short IPv6": data(g6)[:53],
		"unicast inside": noGroup, "another address": other, "IPv4 in IPv6": data("ff0e::ffff:1.2.3.4")[:20],
		"not even Ethernet": data(g4)[:13],
	} {
		t.Run(name, func(t *testing.T) { goes(t, table, frame, 0) })
	}
	goes(t, table, data(g4))
	goes(t, table, fragment)
}

// Where somebody speaks an old version, others keep quiet about the group.
func TestOldReports(t *testing.T) {
	for _, g := range []struct{ group, sender string }{{g4, "10.32.0.1"}, {g6, "fe80::1"}} {
		for _, local := range []bool{false, true} {
			table, c := listening(t, 2, 3)
			if local {
				goes(t, table, old(asker, g.sender, g.group), 0)
			} else {
				table.Snoop(old(asker, g.sender, g.group), overlay(2))
			}
			goes(t, table, data(g.group), 0)
			goes(t, table, data("239.7.7.7"))
			c.seconds(queryInterval)
			table.Sweep()
			answerAll(table, 2, 3)
			c.seconds(queryInterval)
			table.Sweep()
			answerAll(table, 2, 3)
			goes(t, table, data(g.group), 0)
			c.seconds(queryResponse + 1)
			table.Sweep()
			goes(t, table, data(g.group))
			if s := table.Stats(); s.Groups != 0 {
				t.Errorf("stats %+v", s)
			}
		}
	}
}

func TestRoutersGetEverything(t *testing.T) {
	q4, q6 := make([]byte, 90), make([]byte, 90)
	n4, n6 := Queries(q4, q6, asker)
	pim := append(packet4(asker, "10.32.0.1", groupMAC4([]byte{224, 0, 0, 13}), "224.0.0.13", protoPIM, 8), make([]byte, 8)...)
	for name, frame := range map[string][]byte{
		"IGMP query": q4[:n4], "MLD query": q6[:n6], "PIM": pim,
		"IGMP advertisement": igmp(asker, "10.32.0.1", "224.0.0.106", []byte{igmpRouter, 0, 0, 0, 0, 0, 0, 0}),
		"MLD advertisement":  mld(asker, "fe80::1", "ff02::6a", []byte{mldRouter, 0, 0, 0, 0, 0, 0, 0}),
	} {
		t.Run(name, func(t *testing.T) {
			table, c := listening(t, 2, 3)
			table.Snoop(frame, overlay(3))
			goes(t, table, data(g4), 3)
			for range 2 {
				c.seconds(queryInterval)
				table.Sweep()
				answerAll(table, 2, 3)
				goes(t, table, data(g4), 3)
			}
			c.seconds(queryResponse + 1)
			table.Sweep()
			goes(t, table, data(g4))
		})
	}
}

// Too many memberships cost their host the pruning, and others nothing.
func TestTooManyMembers(t *testing.T) {
	table, c := listening(t, 2, 3)
	join := func(at, n int) {
		var list []rec
		for i := range 50 {
			g := netip.AddrFrom4([4]byte{239, byte(i), byte(n >> 8), byte(n)})
			list = append(list, rec{kind: toExclude, group: g.String()})
		}
		table.Snoop(report(mac(1), "10.32.0.1", list...), overlay(at))
	}
	for n := range maxMembersOne/50 + 10 {
		join(2, n)
	}
	if s := table.Stats(); s.Groups != maxMembersOne || s.Flooded != 1 {
		t.Errorf("stats %+v", s)
	}
	goes(t, table, data("239.200.1.1"), 2)
	table.Snoop(report(mac(1), "10.32.0.1", rec{kind: toExclude, group: "239.200.1.1"}), overlay(3))
	goes(t, table, data("239.200.1.1"), 2, 3)
	for range 2 {
		c.seconds(queryInterval)
		table.Sweep()
		answerAll(table, 2, 3)
	}
	c.seconds(queryResponse + 1)
	table.Sweep()
	goes(t, table, data("239.200.1.1"))
	if s := table.Stats(); s.Groups != 0 {
		t.Errorf("stats %+v", s)
	}
	// Of old reports, which would be for all.
	for n := range maxMembersOne + 1 {
		g := netip.AddrFrom4([4]byte{239, 1, byte(n >> 8), byte(n)})
		table.Snoop(old(mac(1), "10.32.0.1", g.String()), overlay(2))
	}
	goes(t, table, data("239.200.1.1"), 0)
}

// Reports that are not as they should be change nothing, a byte at a time.
func TestBrokenReports(t *testing.T) {
	for _, frame := range [][]byte{
		report(mac(1), "10.32.0.1", rec{kind: recordExclude, group: g4}),
		report(mac(1), "fe80::1", rec{kind: recordExclude, group: g6}),
	} {
		for n := range frame {
			table, _ := listening(t, 2)
			table.Snoop(frame[:n], overlay(2))
			// What no checksum covers may be any: the sender's MAC, and in IPv6
			// traffic class, flow, hop limit and options.
			v6 := frame[12] == 0x86 && (n > 14 && n < 18 || n == 21 || n > 55 && n < 62)
			if n >= etherLen && !v6 {
				b := bytes.Clone(frame)
				b[n] ^= 0x10
				table.Snoop(b, overlay(2))
			}
			if s := table.Stats(); s.Groups != 0 {
				t.Errorf("byte %d: %+v", n, s)
			}
		}
	}
	// One record more than there is: what is there counts.
	table, _ := listening(t, 2)
	frame := report(mac(1), "10.32.0.1", rec{kind: recordExclude, group: g4})
	body := frame[etherLen+24:]
	body[7] = 2
	table.Snoop(igmp(mac(1), "10.32.0.1", "224.0.0.22", body), overlay(2))
	goes(t, table, data(g4), 2)
	table.Snoop(tagged(report(mac(1), "10.32.0.1", rec{kind: recordExclude, group: "239.9.9.9"})), overlay(2))
	goes(t, table, data("239.9.9.9"))
}

func TestMembersAllocatesNothing(t *testing.T) {
	table, _ := listening(t, 2, 3)
	table.Snoop(report(mac(1), "10.32.0.1", rec{kind: toExclude, group: g4}), overlay(2))
	again := report(mac(1), "10.32.0.1", rec{kind: recordExclude, group: g4})
	for name, f := range map[string]func(){
		"members": func() { table.Members(data4) }, "nobody": func() { table.Members(dataN) }, "again": func() { table.Snoop(again, overlay(2)) },
	} {
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s: %.0f allocations", name, n)
		}
	}
}

var data4, dataN = data(g4), data(gN)

func FuzzSnoop(f *testing.F) {
	q4, q6 := make([]byte, 90), make([]byte, 90)
	n4, n6 := Queries(q4, q6, asker)
	for _, frame := range [][]byte{
		report(mac(1), "10.32.0.1", rec{kind: toExclude, group: g4, sources: 1, aux: 1}), report(mac(1), "fe80::1", rec{kind: recordInclude, group: g6, sources: 2}),
		old(mac(1), "10.32.0.1", g4), old(mac(1), "fe80::1", g6), q4[:n4], q6[:n6], data(g4), data(g6),
	} {
		f.Add(frame)
	}
	table, c := listening(f, 2, 3)
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		table.Snoop(frame, overlay(2))
		list, flood := table.Members(frame)
		if flood && list != nil || len(list) > 2 {
			t.Fatalf("members %v, %v", list, flood)
		}
		if !bytes.Equal(before, frame) {
			t.Fatal("the frame was changed")
		}
		if s := table.Stats(); s.Groups > len(frame)/8+1 {
			t.Fatalf("%d groups from %d bytes", s.Groups, len(frame))
		}
		c.seconds(membership + 1)
		table.Sweep()
		if s := table.Stats(); s.Groups != 0 || table.groups.total != 0 || table.groups.remotes[overlay(2)].members != 0 {
			t.Fatalf("something stays: %+v", s)
		}
	})
}

func BenchmarkMembers(b *testing.B) {
	table, _ := listening(b, 2, 3)
	table.Snoop(report(mac(1), "10.32.0.1", rec{kind: toExclude, group: g4}), overlay(2))
	b.ReportAllocs()
	for b.Loop() {
		table.Members(data4)
	}
}
