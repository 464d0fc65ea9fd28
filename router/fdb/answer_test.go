package fdb

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var (
	asker = MAC{0x02, 0xaa, 0, 0, 0, 1} // a container of ours
	owner = MAC{0x02, 0xbb, 0, 0, 0, 2} // one far away
)

// unhex reads bytes as people write them, with spaces and lines.
func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answering is a table that knows one attachment with both kinds of addresses.
func answering() *Table {
	table := New(Options{})
	table.Set(remotes(2), []Known{
		{MAC: owner, At: overlay(2), Addrs: []netip.Addr{
			netip.MustParseAddr("10.32.0.9"), netip.MustParseAddr("fd00::9"), netip.MustParseAddr("fe80::9"), netip.MustParseAddr("169.254.67.83"),
		}},
		{MAC: mac(4), At: overlay(3), Addrs: []netip.Addr{netip.MustParseAddr("10.32.0.4")}}, // no remote
		{MAC: mac(5), At: overlay(2), Addrs: []netip.Addr{netip.MustParseAddr("10.32.0.5")}}, // two claim it
		{MAC: mac(6), At: overlay(2), Addrs: []netip.Addr{netip.MustParseAddr("10.32.0.5")}},
	})
	return table
}

func arp(op uint16, to, from, hw MAC, sender, target string) []byte {
	b := make([]byte, etherLen+arpLen)
	d := putEther(b, to, from, typeARP)
	copy(d, []byte{0, 1, 8, 0, 6, 4, 0, byte(op)})
	copy(d[8:], hw[:])
	s, g := netip.MustParseAddr(sender).As4(), netip.MustParseAddr(target).As4()
	copy(d[14:], s[:])
	copy(d[24:], g[:])
	return b
}

func TestAnswerARP(t *testing.T) {
	tests := []struct {
		name  string
		frame []byte
		want  string // "": forwarded
	}{
		{"request", arp(1, broadcast, asker, asker, "10.32.0.1", "10.32.0.9"), `
			02aa00000001 02bb00000002 0806 0001 0800 06 04 0002
			02bb00000002 0a200009 02aa00000001 0a200001`},
		{"probe", arp(1, broadcast, asker, asker, "0.0.0.0", "10.32.0.9"), `
			02aa00000001 02bb00000002 0806 0001 0800 06 04 0002
			02bb00000002 0a200009 02aa00000001 00000000`},
		{"padded to the least length", append(arp(1, broadcast, asker, asker, "10.32.0.1", "10.32.0.9"), make([]byte, 18)...), `
			02aa00000001 02bb00000002 0806 0001 0800 06 04 0002
			02bb00000002 0a200009 02aa00000001 0a200001`},
		{"unknown", arp(1, broadcast, asker, asker, "10.32.0.1", "10.32.0.8"), ""},
		{"the name server", arp(1, broadcast, asker, asker, "10.32.0.1", "169.254.67.83"), ""},
		{"its host is no remote", arp(1, broadcast, asker, asker, "10.32.0.1", "10.32.0.4"), ""},
		{"claimed by two", arp(1, broadcast, asker, asker, "10.32.0.1", "10.32.0.5"), ""},
		{"reply", arp(2, broadcast, asker, asker, "10.32.0.1", "10.32.0.9"), ""},
		{"announcement", arp(1, broadcast, asker, asker, "10.32.0.9", "10.32.0.9"), ""},
		{"of the owner", arp(1, broadcast, owner, owner, "0.0.0.0", "10.32.0.9"), ""},
		{"to one host", arp(1, owner, asker, asker, "10.32.0.1", "10.32.0.9"), ""},
		{"for somebody else", arp(1, broadcast, asker, mac(7), "10.32.0.1", "10.32.0.9"), ""},
		{"from a group", arp(1, broadcast, MAC{1}, MAC{1}, "10.32.0.1", "10.32.0.9"), ""},
		{"short", arp(1, broadcast, asker, asker, "10.32.0.1", "10.32.0.9")[:41], ""},
		{"tagged", tagged(arp(1, broadcast, asker, asker, "10.32.0.1", "10.32.0.9")), ""},
		{"empty", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { answers(t, tt.frame, tt.want) })
	}
	frame := tests[0].frame
	for i, v := range map[int]byte{14: 9, 16: 9, 18: 7, 19: 5, 20: 9} { // other hardware, protocol, lengths
		b := bytes.Clone(frame)
		b[i] = v
		answers(t, b, "")
	}
}

func answers(t *testing.T, frame []byte, want string) {
	t.Helper()
	table := answering()
	before, dst := bytes.Clone(frame), make([]byte, 100)
	n, ok := table.Answer(frame, dst)
	if ok != (want != "") || !bytes.Equal(dst[:n], unhex(t, want)) {
		t.Errorf("answer %v %x, want %s", ok, dst[:n], want)
	}
	if !bytes.Equal(before, frame) {
		t.Error("the question was changed")
	}
	if s := table.Stats(); (s.Answered == 1) != ok {
		t.Errorf("stats %+v", s)
	}
	// Without room there is no answer, and nothing is written.
	if n, ok := table.Answer(frame, dst[:max(n-1, 0)]); ok || n != 0 {
		t.Errorf("%d bytes into too few", n)
	}
}

// tagged is a frame with a VLAN tag.
func tagged(frame []byte) []byte {
	return slices.Insert(bytes.Clone(frame), 12, 0x81, 0x00, 0x00, 0x05)
}

// nd is a neighbour solicitation; options follow the target.
func nd(to, from MAC, src, dst, target string, options ...byte) []byte {
	b := make([]byte, etherLen+ip6Len+neighbourLen)
	d := putEther(b, to, from, typeIP6)
	s, g, a := netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16(), netip.MustParseAddr(target).As16()
	putIP6(d, protoICMP6, 255, neighbourLen+len(options), s, g)
	d[ip6Len] = solicitation
	copy(d[ip6Len+8:], a[:])
	return seal(append(b, options...))
}

// seal puts the right checksum into an ICMPv6 frame, computed as RFC 1071 says
// it, over a pseudo-header that is spelled out.
func seal(b []byte) []byte {
	head := etherLen + ip6Len
	if b[etherLen+6] == protoHopByHop {
		head += 8
	}
	b[head+2], b[head+3] = 0, 0
	all := append(bytes.Clone(b[etherLen+8:etherLen+ip6Len]), 0, 0, 0, byte(len(b)-head), 0, 0, 0, 58)
	all = append(all, b[head:]...)
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	s := 0
	for i := 0; i < len(all); i += 2 {
		if s += int(all[i])<<8 | int(all[i+1]); s > 0xffff {
			s -= 0xffff
		}
	}
	binary.BigEndian.PutUint16(b[head+2:], ^uint16(s))
	return b
}

func TestAnswerND(t *testing.T) {
	group := MAC{0x33, 0x33, 0xff, 0, 0, 9}
	source := append([]byte{1, 1}, asker[:]...)
	nonce := []byte{14, 1, 1, 2, 3, 4, 5, 6}
	good := nd(group, asker, "fd00::1", "ff02::1:ff00:9", "fd00::9", source...)
	probe := nd(group, asker, "::", "ff02::1:ff00:9", "fd00::9", nonce...)
	const advert = `
		02aa00000001 02bb00000002 86dd 60000000 0020 3a ff
		fd000000000000000000000000000009 fd000000000000000000000000000001
		88 00 3bd1 40000000 fd000000000000000000000000000009 02 01 02bb00000002`
	const taken = `
		333300000001 02bb00000002 86dd 60000000 0020 3a ff
		fd000000000000000000000000000009 ff020000000000000000000000000001
		88 00 79cf 00000000 fd000000000000000000000000000009 02 01 02bb00000002`
	broken := func(i int, v byte) []byte { b := bytes.Clone(good); b[i] = v; return b }
	tests := []struct {
		name  string
		frame []byte
		want  string // "": forwarded
	}{
		{"question", good, advert},
		{"question with a nonce", nd(group, asker, "fd00::1", "ff02::1:ff00:9", "fd00::9", append(nonce, source...)...), advert},
		{"padded", append(bytes.Clone(good), 0, 0), advert},
		{"probe", probe, taken},
		{"probe without options", nd(group, asker, "::", "ff02::1:ff00:9", "fd00::9"), taken},
		{"unknown", nd(MAC{0x33, 0x33, 0xff, 0, 0, 8}, asker, "fd00::1", "ff02::1:ff00:8", "fd00::8", source...), ""},
		{"link-local", nd(group, asker, "fe80::1", "ff02::1:ff00:9", "fe80::9", source...), ""},
		{"of the owner", nd(group, owner, "::", "ff02::1:ff00:9", "fd00::9"), ""},
		{"to one host", nd(owner, asker, "fd00::1", "fd00::9", "fd00::9", source...), ""},
		{"to all nodes", nd(MAC{0x33, 0x33, 0, 0, 0, 1}, asker, "fd00::1", "ff02::1", "fd00::9", source...), ""},
		{"to another group's address", nd(MAC{0x33, 0x33, 0xff, 0, 0, 8}, asker, "fd00::1", "ff02::1:ff00:9", "fd00::9", source...), ""},
		{"probe with a source address", nd(group, asker, "::", "ff02::1:ff00:9", "fd00::9", source...), ""},
		{"no source address", nd(group, asker, "fd00::1", "ff02::1:ff00:9", "fd00::9"), ""},
		{"another's source address", nd(group, asker, "fd00::1", "ff02::1:ff00:9", "fd00::9", 1, 1, 2, 0, 0, 0, 0, 7), ""},
		{"from the address asked about", nd(group, asker, "fd00::9", "ff02::1:ff00:9", "fd00::9", source...), ""},
		{"from a group", nd(group, asker, "ff02::5", "ff02::1:ff00:9", "fd00::9", source...), ""},
		{"option without length", nd(group, asker, "fd00::1", "ff02::1:ff00:9", "fd00::9", append(source, 9, 0, 0, 0, 0, 0, 0, 0)...), ""},
		{"option cut off", nd(group, asker, "fd00::1", "ff02::1:ff00:9", "fd00::9", append(source, 9, 2, 0, 0, 0, 0, 0, 0)...), ""},
		{"long source option", nd(group, asker, "fd00::1", "ff02::1:ff00:9", "fd00::9", append([]byte{1, 2}, make([]byte, 14)...)...), ""},
		{"tagged", tagged(good), ""},
		{"wrong checksum", broken(57, good[57]^1), ""},
		{"routed", broken(21, 254), ""},
		{"another version", broken(14, 0x40), ""},
		{"too long", broken(19, 33), ""},
		{"another code", seal(broken(55, 1)), ""},
		{"advertisement", seal(broken(54, 136)), ""},
		{"UDP", broken(20, 17), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { answers(t, tt.frame, tt.want) })
	}
	for n := range good {
		if _, ok := answering().Answer(good[:n], make([]byte, 100)); ok {
			t.Errorf("answered after %d bytes", n)
		}
	}
}

func TestAnswerAllocatesNothing(t *testing.T) {
	table, dst := answering(), make([]byte, 100)
	source := append([]byte{1, 1}, asker[:]...)
	for _, frame := range [][]byte{
		arp(1, broadcast, asker, asker, "10.32.0.1", "10.32.0.9"),
		nd(MAC{0x33, 0x33, 0xff, 0, 0, 9}, asker, "fd00::1", "ff02::1:ff00:9", "fd00::9", source...),
		nd(MAC{0x33, 0x33, 0xff, 0, 0, 9}, asker, "::", "ff02::1:ff00:9", "fd00::9"),
	} {
		if n := testing.AllocsPerRun(1000, func() {
			if _, ok := table.Answer(frame, dst); !ok {
				t.Fatal("no answer")
			}
		}); n != 0 {
			t.Errorf("%.0f allocations", n)
		}
	}
}

// Whatever is asked: an answer is short, goes to who asked, comes from the
// owner, and an advertisement has the right checksum.
func FuzzAnswer(f *testing.F) {
	source := append([]byte{1, 1}, asker[:]...)
	f.Add(arp(1, broadcast, asker, asker, "10.32.0.1", "10.32.0.9"), uint8(100))
	f.Add(nd(MAC{0x33, 0x33, 0xff, 0, 0, 9}, asker, "fd00::1", "ff02::1:ff00:9", "fd00::9", source...), uint8(86))
	f.Add(nd(MAC{0x33, 0x33, 0xff, 0, 0, 9}, asker, "::", "ff02::1:ff00:9", "fd00::9"), uint8(85))
	table := answering()
	f.Fuzz(func(t *testing.T, frame []byte, room uint8) {
		dst := make([]byte, int(room)+8)
		n, ok := table.Answer(frame, dst[:room])
		if ok != (n > 0) || n > 86 || n > int(room) {
			t.Fatalf("%d bytes, %v", n, ok)
		}
		if !bytes.Equal(dst[n:], make([]byte, len(dst)-n)) {
			t.Fatal("written beyond the answer")
		}
		if !ok {
			return
		}
		if MAC(dst[6:]) != owner || dst[0]&1 == 0 && MAC(dst) != MAC(frame[6:]) {
			t.Fatalf("answer %x", dst[:n])
		}
		if n == 86 && !bytes.Equal(seal(bytes.Clone(dst[:n])), dst[:n]) {
			t.Fatalf("checksum of %x", dst[:n])
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	table, dst := answering(), make([]byte, 100)
	source := append([]byte{1, 1}, asker[:]...)
	for name, frame := range map[string][]byte{
		"arp": arp(1, broadcast, asker, asker, "10.32.0.1", "10.32.0.9"),
		"nd":  nd(MAC{0x33, 0x33, 0xff, 0, 0, 9}, asker, "fd00::1", "ff02::1:ff00:9", "fd00::9", source...),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table.Answer(frame, dst)
			}
		})
	}
}
