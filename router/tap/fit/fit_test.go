package fit

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// octets reads bytes written down by hand; what follows a # is a remark.
func octets(t testing.TB, s string) []byte {
	t.Helper()
	var clean strings.Builder
	for line := range strings.Lines(s) {
		line, _, _ = strings.Cut(line, "#")
		clean.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(clean.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checksum is the sum of RFC 1071, the slow and obvious way.
func checksum(parts ...[]byte) uint16 {
	b := slices.Concat(parts...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	total := 0
	for i := 0; i < len(b); i += 2 {
		total += int(b[i])<<8 | int(b[i+1])
		if total > 0xffff {
			total -= 0xffff
		}
	}
	return ^uint16(total)
}

// whole4 and whole6 say whether all checksums of a packet are right.
func whole4(b []byte) bool {
	n := int(b[0]&15) * 4
	rest := b[n:binary.BigEndian.Uint16(b[2:])]
	if checksum(b[:n]) != 0 {
		return false
	}
	if b[9] == protoICMP {
		return checksum(rest) == 0
	}
	return checksum(b[12:20], []byte{0, b[9], byte(len(rest) >> 8), byte(len(rest))}, rest) == 0
}

func whole6(b []byte, proto byte, rest []byte) bool {
	return checksum(b[8:40], []byte{byte(len(rest) >> 8), byte(len(rest)), 0, proto}, rest) == 0
}

var (
	macs = []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	tag  = []byte{0x81, 0, 0x20, 7}
)

// option changes a packet before its checksum is made.
type option func(b []byte)

func set(at int, v ...byte) option { return func(b []byte) { copy(b[at:], v) } }

// ip4 is a packet from 10.32.0.1 to 10.32.0.2 that may not be fragmented.
func ip4(proto byte, rest []byte, o ...option) []byte {
	b := slices.Concat([]byte{
		0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, proto, 0, 0,
		10, 32, 0, 1, 10, 32, 0, 2,
	}, rest)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	for _, f := range o {
		f(b)
	}
	n := min(int(b[0]&15)*4, len(b))
	binary.BigEndian.PutUint16(b[10:], checksum(b[:n]))
	return b
}

// ip6 is a packet from fd00::1 to fd00::2.
func ip6(proto byte, rest []byte, o ...option) []byte {
	b := slices.Concat([]byte{0x60, 0, 0, 0, byte(len(rest) >> 8), byte(len(rest)), proto, 64}, make([]byte, 32), rest)
	b[8], b[23], b[24], b[39] = 0xfd, 1, 0xfd, 2
	for _, f := range o {
		f(b)
	}
	return b
}

func ether(packet []byte, tags ...[]byte) []byte {
	kind := []byte{8, 0}
	if packet[0]>>4 == 6 {
		kind = []byte{0x86, 0xdd}
	}
	return slices.Concat(macs, slices.Concat(tags...), kind, packet)
}

func udp(n int) []byte {
	b := make([]byte, n)
	copy(b, []byte{4, 0, 0, 9, byte(n >> 8), byte(n)})
	return b
}

// What is answered, byte by byte.
func TestTooBigBytes(t *testing.T) {
	frame := octets(t, `
		020000000002 020000000001 0800        # to, from
		4500 0280 1234 4000 40 11 11f7        # 640 bytes, DF, UDP
		0a200001 0a200002
		d431 0035 026c 0000                   # ports, length
		`+strings.Repeat("61", 612))
	if checksum(frame[14:34]) != 0 {
		t.Fatalf("the header of the example is %#04x off", checksum(frame[14:34]))
	}
	want := octets(t, `
		020000000001 020000000002 0800
		45c0 0240 0000 4000 40 01 23bb        # 576 bytes, internetwork control
		0a200002 0a200001                     # from where it was to go
		03 04 3cea 0000 0258                  # fragmentation needed, 600 bytes pass
		4500 0280 1234 4000 40 11 11f7
		0a200001 0a200002
		d431 0035 026c 0000
		`+strings.Repeat("61", 576-20-8-28))
	var b [MaxTooBig]byte
	n, ok := TooBig(b[:], frame, 600)
	if !ok || !bytes.Equal(b[:n], want) {
		t.Errorf("%t\n%x, want\n%x", ok, b[:min(n, 64)], want[:64])
	}
	frame = octets(t, `
		020000000002 020000000001 86dd
		60000000 0528 11 40                   # 1360 bytes, UDP
		fd000000000000000000000000000001
		fd000000000000000000000000000002
		d431 0035 0528 1234
		`+strings.Repeat("61", 1312))
	want = octets(t, `
		020000000001 020000000002 86dd
		60000000 04d8 3a 40                   # 1280 bytes, ICMPv6
		fd000000000000000000000000000002
		fd000000000000000000000000000001
		02 00 0000 00000514                   # packet too big, 1300 bytes pass
		60000000 0528 11 40
		fd000000000000000000000000000001
		fd000000000000000000000000000002
		d431 0035 0528 1234
		`+strings.Repeat("61", 1280-40-8-48))
	binary.BigEndian.PutUint16(want[14+42:], checksum(want[14+8:14+40], []byte{4, 0xd8, 0, protoICMPv6}, want[14+40:]))
	n, ok = TooBig(b[:], frame, 1300)
	if !ok || !bytes.Equal(b[:n], want) {
		t.Errorf("%t\n%x, want\n%x", ok, b[:min(n, 80)], want[:80])
	}
}

// Who is told, and who is not.
func TestTooBig(t *testing.T) {
	big, echo := udp(1400), append([]byte{8, 0, 0, 0}, make([]byte, 1396)...)
	failed := append([]byte{3, 1}, make([]byte, 1398)...)
	echo6, failed6, redirect6 := bytes.Clone(echo), append([]byte{1}, make([]byte, 1399)...), append([]byte{137}, make([]byte, 1399)...)
	echo6[0] = 128
	// Extension headers of eight bytes before UDP, and before an error.
	options := func(next byte, rest []byte) []byte { return slices.Concat([]byte{next, 0, 1, 4, 0, 0, 0, 0}, rest) }
	long := func(next byte, rest []byte) []byte {
		return slices.Concat([]byte{next, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, rest)
	}
	piece := func(offset uint16, next byte, rest []byte) []byte {
		return slices.Concat([]byte{next, 0, byte(offset >> 8), byte(offset)}, []byte{0, 0, 0, 1}, rest)
	}
	auth := func(next byte, rest []byte) []byte { return slices.Concat([]byte{next, 1}, make([]byte, 10), rest) }
	group := ether(ip4(17, big))
	group[0] = 1
	from := ether(ip4(17, big))
	from[6] = 1
	damaged := ether(ip4(17, big))
	damaged[14+8]++
	for _, tc := range []struct {
		name  string
		frame []byte
		mtu   int
		told  int // 0: not
	}{
		{"IPv4", ether(ip4(17, big)), 1000, 1000},
		{"IPv4, one byte too many", ether(ip4(17, big)), 1419, 1419},
		{"IPv4, fits", ether(ip4(17, big)), 1420, 0},
		{"IPv4, the least", ether(ip4(17, big)), 576, 576},
		{"IPv4, less", ether(ip4(17, big)), 575, 0},
		{"IPv4, a tag", ether(ip4(17, big), tag), 1000, 996},
		{"IPv4, two tags", ether(ip4(17, big), []byte{0x88, 0xa8, 0, 1}, tag), 1000, 992},
		{"IPv4, a tag, the least", ether(ip4(17, big), tag), 579, 0},
		{"three tags", ether(ip4(17, big), tag, tag, tag), 1000, 0},
		{"IPv4, may be fragmented", ether(ip4(17, big, set(6, 0, 0))), 1000, 0},
		{"IPv4, first fragment", ether(ip4(17, big, set(6, 0x60, 0))), 1000, 1000},
		{"IPv4, another fragment", ether(ip4(17, big, set(6, 0x40, 1))), 1000, 0},
		{"IPv4, options", ether(ip4(17, big, set(0, 0x46), set(20, 1, 1, 1, 0))), 1000, 1000},
		{"IPv4, header too long", ether(ip4(17, nil, set(0, 0x4f), set(2, 5, 0))), 1000, 0},
		{"IPv4, header too short", ether(ip4(17, big, set(0, 0x44))), 1000, 0},
		{"IPv4, damaged", damaged, 1000, 0},
		{"IPv4, ping", ether(ip4(1, echo)), 1000, 1000},
		{"IPv4, an ICMP error", ether(ip4(1, failed)), 1000, 0},
		{"IPv4, ICMP of no kind", ether(ip4(1, nil, set(2, 5, 0))), 1000, 0},
		{"IPv4, to a group", ether(ip4(17, big, set(16, 224, 0, 0, 9))), 1000, 0},
		{"IPv4, to all", ether(ip4(17, big, set(16, 255, 255, 255, 255))), 1000, 0},
		{"IPv4, from nobody", ether(ip4(17, big, set(12, 0, 0, 0, 0))), 1000, 0},
		{"IPv4, from a group", ether(ip4(17, big, set(12, 239, 1, 1, 1))), 1000, 0},
		{"IPv4, from the loopback", ether(ip4(17, big, set(12, 127, 0, 0, 1))), 1000, 0},
		{"IPv4, to its own sender", ether(ip4(17, big, set(12, 10, 32, 0, 2))), 1000, 0},
		{"IPv4, by broadcast", group, 1000, 0},
		{"from a group of Ethernet", from, 1000, 0},
		{"IPv4, the first bytes only", ether(ip4(17, big))[:14+28], 1000, 1000},
		{"IPv4, less than its header", ether(ip4(17, big))[:14+19], 1000, 0},
		{"IPv6", ether(ip6(17, big)), 1300, 1300},
		{"IPv6, fits", ether(ip6(17, big)), 1440, 0},
		{"IPv6, the least", ether(ip6(17, big)), 1280, 1280},
		{"IPv6, less", ether(ip6(17, big)), 1279, 0},
		{"IPv6, a tag", ether(ip6(17, big), tag), 1300, 1296},
		{"IPv6, ping", ether(ip6(58, echo6)), 1300, 1300},
		{"IPv6, an error", ether(ip6(58, failed6)), 1300, 0},
		{"IPv6, a redirect", ether(ip6(58, redirect6)), 1300, 0},
		{"IPv6, ICMPv6 of no kind", ether(ip6(58, nil, set(4, 5, 0x78))), 1300, 0},
		{"IPv6, options", ether(ip6(0, options(17, big))), 1300, 1300},
		{"IPv6, an error behind options", ether(ip6(60, options(58, failed6))), 1300, 0},
		{"IPv6, an error behind two headers", ether(ip6(0, long(43, options(58, failed6)))), 1300, 0},
		{"IPv6, an error behind authentication", ether(ip6(51, auth(58, failed6))), 1300, 0},
		{"IPv6, authentication", ether(ip6(51, auth(17, big))), 1300, 1300},
		{"IPv6, encrypted", ether(ip6(50, big)), 1300, 1300},
		{"IPv6, first fragment", ether(ip6(44, piece(1, 17, big))), 1300, 1300},
		{"IPv6, first fragment of an error", ether(ip6(44, piece(1, 58, failed6))), 1300, 0},
		{"IPv6, another fragment", ether(ip6(44, piece(8|1, 17, big))), 1300, 0},
		{"IPv6, to a group", ether(ip6(17, big, set(24, 0xff, 2))), 1300, 0},
		{"IPv6, from nobody", ether(ip6(17, big, set(8, make([]byte, 16)...))), 1300, 0},
		{"IPv6, to its own sender", ether(ip6(17, big, set(23, 2))), 1300, 0},
		{"IPv6, a header longer than the packet", ether(ip6(0, []byte{17, 200, 0, 0, 0, 0, 0, 0}, set(4, 5, 0x78))), 1300, 0},
		{"IPv6, a jumbogram", ether(ip6(0, options(17, big), set(4, 0, 0))), 1300, 0},
		{"ARP", slices.Concat(macs, []byte{8, 6}, make([]byte, 1400)), 1000, 0},
		{"nothing", nil, 1000, 0},
	} {
		before := bytes.Clone(tc.frame)
		var b [MaxTooBig]byte
		n, ok := TooBig(b[:], tc.frame, tc.mtu)
		if ok != (tc.told > 0) {
			t.Errorf("%s: told %t", tc.name, ok)
			continue
		}
		if !bytes.Equal(before, tc.frame) {
			t.Errorf("%s: the frame was changed", tc.name)
		}
		if !ok {
			continue
		}
		if mtu := checkAnswer(t, b[:n], tc.frame); mtu != tc.told {
			t.Errorf("%s: told %d", tc.name, mtu)
		}
		if m, ok := TooBig(b[:n-1], tc.frame, tc.mtu); ok {
			t.Errorf("%s: %d bytes in a buffer of %d", tc.name, m, n-1)
		}
	}
}

// checkAnswer looks at everything that an answer has to be, and returns the MTU
// that it tells.
func checkAnswer(t *testing.T, answer, frame []byte) (mtu int) {
	t.Helper()
	if !bytes.Equal(answer[:6], frame[6:12]) || !bytes.Equal(answer[6:12], frame[:6]) {
		t.Errorf("from %x to %x", answer[6:12], answer[:6])
	}
	at, kind := network(answer)
	if fat, fkind := network(frame); at != fat || kind != fkind || !bytes.Equal(answer[12:at], frame[12:at]) {
		t.Errorf("tags or type differ: %x", answer[12:at])
	}
	packet, about := answer[at:], frame[at:]
	var quoted []byte
	if kind == typeIPv4 {
		if int(binary.BigEndian.Uint16(packet[2:])) != len(packet) || len(packet) > 576 || !whole4(packet) {
			t.Errorf("the answer is no IPv4 packet: %x", packet)
		}
		if !bytes.Equal(packet[12:16], about[16:20]) || !bytes.Equal(packet[16:20], about[12:16]) || packet[20] != 3 || packet[21] != 4 {
			t.Errorf("%x does not answer %x", packet[:28], about[:20])
		}
		mtu, quoted = int(binary.BigEndian.Uint16(packet[26:])), packet[28:]
	} else {
		if int(binary.BigEndian.Uint16(packet[4:]))+40 != len(packet) || len(packet) > 1280 || !whole6(packet, packet[6], packet[40:]) {
			t.Errorf("the answer is no IPv6 packet: %x", packet)
		}
		if !bytes.Equal(packet[8:24], about[24:40]) || !bytes.Equal(packet[24:40], about[8:24]) || packet[6] != 58 || packet[40] != 2 {
			t.Errorf("%x does not answer %x", packet[:48], about[:40])
		}
		mtu, quoted = int(binary.BigEndian.Uint32(packet[44:])), packet[48:]
	}
	if !bytes.HasPrefix(about, quoted) || len(quoted) < 28 {
		t.Errorf("quotes %x", quoted)
	}
	return mtu
}

func FuzzTooBig(f *testing.F) {
	f.Add(ether(ip4(17, udp(1400))), 1000)
	f.Add(ether(ip4(17, udp(1400)), tag), 1000)
	f.Add(ether(ip6(17, udp(1400))), 1300)
	f.Add(ether(ip6(0, slices.Concat([]byte{44, 0, 1, 4, 0, 0, 0, 0}, []byte{58, 0, 0, 1, 0, 0, 0, 1}, make([]byte, 1400)))), 1300)
	f.Fuzz(func(t *testing.T, frame []byte, mtu int) {
		before := bytes.Clone(frame)
		var b [MaxTooBig + 1]byte
		n, ok := TooBig(b[:MaxTooBig], frame, mtu)
		if !bytes.Equal(before, frame) {
			t.Fatal("the frame was changed")
		}
		if !ok {
			return
		}
		if told := checkAnswer(t, b[:n], frame); told > mtu {
			t.Errorf("told %d, it is %d", told, mtu)
		}
		if _, ok := TooBig(make([]byte, MaxTooBig), b[:n], 576); ok {
			t.Error("an answer is answered")
		}
	})
}

func BenchmarkTooBig(b *testing.B) {
	for _, x := range []struct {
		name  string
		frame []byte
	}{{"IPv4", ether(ip4(17, udp(1400)))}, {"IPv6", ether(ip6(17, udp(1400)))}} {
		b.Run(x.name, func(b *testing.B) {
			b.ReportAllocs()
			var dst [MaxTooBig]byte
			for b.Loop() {
				TooBig(dst[:], x.frame, 1300)
			}
		})
	}
}
