package fit

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// tcp is a segment with flags and options, its checksum not made yet.
func tcp(flags byte, options ...byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	return slices.Concat([]byte{
		0xd4, 0x31, 0, 80, 0, 0, 0, 7, 0, 0, 0, 0,
		byte(5+len(options)/4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0,
	}, options)
}

// sealed4 and sealed6 make the checksum of a packet's segment.
func sealed4(b []byte) []byte {
	rest := b[int(b[0]&15)*4:]
	binary.BigEndian.PutUint16(rest[16:], checksum(b[12:20], []byte{0, protoTCP, byte(len(rest) >> 8), byte(len(rest))}, rest))
	return b
}

func sealed6(b []byte, at int) []byte {
	rest := b[at:]
	binary.BigEndian.PutUint16(rest[16:], checksum(b[8:40], []byte{byte(len(rest) >> 8), byte(len(rest)), 0, protoTCP}, rest))
	return b
}

const syn, synAck, ack, rst = 0x02, 0x12, 0x10, 0x06

func mss(n int) []byte { return []byte{2, 4, byte(n >> 8), byte(n)} }

func TestClampMSS(t *testing.T) {
	v4 := func(segment []byte, o ...option) []byte { return sealed4(ip4(protoTCP, segment, o...)) }
	v6 := func(segment []byte) []byte { return sealed6(ip6(protoTCP, segment), 40) }
	odd := slices.Concat([]byte{1}, mss(1460), []byte{3, 3, 7})
	last := slices.Concat([]byte{3, 3, 7, 1, 1, 1, 1, 1}, mss(1460))
	optional := ip4(protoTCP, slices.Concat([]byte{1, 1, 1, 0}, tcp(syn, mss(1460)...)), set(0, 0x46))
	extended := sealed6(ip6(0, slices.Concat([]byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}, tcp(syn, mss(1440)...))), 48)
	for _, tc := range []struct {
		name       string
		frame      []byte
		mss4, mss6 int
		at         int // of the value, from the start of TCP; 0: nothing is to change
		want       int
	}{
		{"SYN", ether(v4(tcp(syn, mss(1460)...))), 1000, 900, 22, 1000},
		{"SYN and ACK", ether(v4(tcp(synAck, mss(1460)...))), 1000, 900, 22, 1000},
		{"a tag", ether(v4(tcp(syn, mss(1460)...)), tag), 1000, 900, 22, 1000},
		{"two tags", ether(v4(tcp(syn, mss(1460)...)), tag, tag), 1000, 900, 22, 1000},
		{"at an odd place", ether(v4(tcp(syn, odd...))), 1001, 900, 23, 1001},
		{"the last option", ether(v4(tcp(syn, last...))), 1000, 900, 30, 1000},
		{"options of IPv4", ether(sealed4(optional)), 1000, 900, 22, 1000},
		{"IPv6", ether(v6(tcp(syn, mss(1440)...))), 1000, 900, 22, 900},
		{"IPv6, at an odd place", ether(v6(tcp(syn, odd...))), 1000, 901, 23, 901},
		{"IPv6, an extension header", ether(extended), 1000, 900, 22, 900},
		{"first fragment", ether(v4(tcp(syn, mss(1460)...), set(6, 0x20, 0))), 1000, 900, 22, 1000},
		{"with data behind", ether(v4(slices.Concat(tcp(syn, mss(1460)...), []byte("early data")))), 1000, 900, 22, 1000},
		{"padded to a whole frame", append(ether(v4(tcp(syn, mss(1460)...))), make([]byte, 6)...), 1000, 900, 22, 1000},

		{"small enough", ether(v4(tcp(syn, mss(1000)...))), 1000, 900, 0, 0},
		{"smaller", ether(v4(tcp(syn, mss(536)...))), 1000, 900, 0, 0},
		{"no bound", ether(v4(tcp(syn, mss(1460)...))), 0, 900, 0, 0},
		{"no bound for IPv6", ether(v6(tcp(syn, mss(1440)...))), 1000, 0, 0, 0},
		{"says nothing", ether(v4(tcp(syn, 3, 3, 7))), 1000, 900, 0, 0},
		{"after the end of options", ether(v4(tcp(syn, slices.Concat([]byte{0, 0, 0, 0}, mss(1460))...))), 1000, 900, 0, 0},
		{"not a SYN", ether(v4(tcp(ack, mss(1460)...))), 1000, 900, 0, 0},
		{"SYN and RST", ether(v4(tcp(rst, mss(1460)...))), 1000, 900, 0, 0},
		{"another fragment", ether(v4(tcp(syn, mss(1460)...), set(6, 0, 1))), 1000, 900, 0, 0},
		{"UDP", ether(ip4(17, tcp(syn, mss(1460)...))), 1000, 900, 0, 0},
		{"option of no length", ether(v4(tcp(syn, 9, 0, 2, 4, 5, 0xb4))), 1000, 900, 0, 0},
		{"option beyond the end", ether(v4(tcp(syn, 1, 1, 2, 4))), 1000, 900, 0, 0},
		{"maximum of another length", ether(v4(tcp(syn, 2, 6, 5, 0xb4, 0, 0))), 1000, 900, 0, 0},
		{"options beyond the segment", ether(v4(tcp(syn, mss(1460)...)[:22])), 1000, 900, 0, 0},
	} {
		before := bytes.Clone(tc.frame)
		if changed := ClampMSS(tc.frame, tc.mss4, tc.mss6); changed != (tc.at > 0) {
			t.Errorf("%s: changed %t", tc.name, changed)
			continue
		}
		if tc.at == 0 {
			if !bytes.Equal(before, tc.frame) {
				t.Errorf("%s: changed", tc.name)
			}
			continue
		}
		at, kind := network(tc.frame)
		var segment []byte
		var whole bool
		if packet := tc.frame[at:]; kind == typeIPv4 {
			_, segment, _ = packet4(packet)
			whole = whole4(packet)
		} else {
			_, segment, _, _ = packet6(packet)
			whole = whole6(packet, protoTCP, segment)
		}
		if got := int(binary.BigEndian.Uint16(segment[tc.at:])); got != tc.want || !whole {
			t.Errorf("%s: %d, want %d; checksum right: %t", tc.name, got, tc.want, whole)
		}
		for i := range tc.frame {
			tcpAt := i - (len(tc.frame) - len(segment))
			if at, kind := network(tc.frame); kind == typeIPv4 {
				tcpAt = i - at - int(tc.frame[at]&15)*4
			}
			allowed := tcpAt == 16 || tcpAt == 17 || tcpAt == tc.at || tcpAt == tc.at+1
			if tc.frame[i] != before[i] && !allowed {
				t.Errorf("%s: byte %d changed", tc.name, i)
			}
		}
		if ClampMSS(tc.frame, tc.mss4, tc.mss6) {
			t.Errorf("%s: changed twice", tc.name)
		}
	}
}

// Any values at any place leave the checksum as right as it was.
func TestClampMSSChecksums(t *testing.T) {
	for was := 1; was < 0x10000; was += 251 {
		for _, bound := range []int{1, 0xff, 0x100, 536, 1234, 0xfffe} {
			for pad := range 2 {
				options := append(slices.Repeat([]byte{1}, pad), mss(was)...)
				b := sealed4(ip4(protoTCP, tcp(syn, options...)))
				frame := ether(b)
				if ClampMSS(frame, bound, 0) != (was > bound) || !whole4(frame[14:]) {
					t.Fatalf("%d to %d at %d: the checksum is wrong", was, bound, pad)
				}
			}
		}
	}
}

func FuzzClampMSS(f *testing.F) {
	f.Add(ether(sealed4(ip4(protoTCP, tcp(syn, mss(1460)...)))), 1000, 900)
	f.Add(ether(sealed6(ip6(protoTCP, tcp(syn, 1, 2, 4, 5, 0xb4)), 40), tag), 1000, 900)
	f.Add(ether(sealed6(ip6(0, slices.Concat([]byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}, tcp(syn, mss(1440)...))), 48)), 1000, 900)
	f.Fuzz(func(t *testing.T, frame []byte, mss4, mss6 int) {
		before := bytes.Clone(frame)
		changed := ClampMSS(frame, mss4, mss6)
		if !changed && !bytes.Equal(before, frame) {
			t.Error("changed without a word")
		}
		if changed && ClampMSS(frame, mss4, mss6) {
			t.Error("changed twice")
		}
		at, kind := network(before)
		if !changed {
			return
		}
		if kind == typeIPv4 && whole4(before[at:]) && !whole4(frame[at:]) {
			t.Error("the checksum was right")
		}
	})
}

func BenchmarkClampMSS(b *testing.B) {
	for _, x := range []struct {
		name  string
		frame []byte
	}{
		{"SYN", ether(sealed4(ip4(protoTCP, tcp(syn, mss(1460)...))))},
		{"data", ether(sealed4(ip4(protoTCP, append(tcp(ack), make([]byte, 1300)...))))},
	} {
		b.Run(x.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ClampMSS(x.frame, 1000, 980)
			}
		})
	}
}
