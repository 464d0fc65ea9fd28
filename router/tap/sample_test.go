package tap

import (
	"math/rand/v2"

	"github.com/weftnet/weft/router/tap/offload"
)

// samples makes n groups of frames of all kinds. Each group has a sender of
// its own, whose address begins with 06:dd.
func samples(r *rand.Rand, n int) (list []sample) {
	for i := range n {
		mac := [6]byte{0x06, 0xdd, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(i)}
		g := generator{r, mac}
		switch r.IntN(8) {
		case 0:
			list = append(list, g.other())
		case 1:
			list = append(list, g.fragment())
		case 2:
			list = append(list, g.one(protoUDP, r.IntN(testMTU-80)))
		case 3:
			list = append(list, g.one(protoTCP, r.IntN(testMTU-120)))
		case 4:
			list = append(list, g.super(protoUDP))
		case 5:
			list = append(list, g.super(protoTCP))
		default:
			list = append(list, g.stream()...)
		}
	}
	return list
}

type generator struct {
	*rand.Rand
	mac [6]byte
}

func (g generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return b
}

// ether begins a frame; sometimes with tags.
func (g generator) ether(kind uint16) []byte {
	b := []byte{0x02, 0xcc, 0, 0, 0, 2} // the container at the other end
	switch g.IntN(6) {
	case 0:
		b = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	case 1:
		b = []byte{0x02, 0xcc, 0, 0, 9, 9} // nobody knows it
	}
	b = append(b, g.mac[:]...)
	if g.chance(15) {
		b = be.AppendUint16(be.AppendUint16(b, typeVLAN), uint16(g.IntN(4094)+1))
	}
	return be.AppendUint16(b, kind)
}

// other is no IP.
func (g generator) other() sample {
	kind := []uint16{typeARP, 0x88b5, 0x88cc, 0x0101, 0x8035, typeIPv4, typeIPv6}[g.IntN(7)]
	b := append(g.ether(kind), g.bytes(g.IntN(250))...)
	if kind == typeARP && len(b) > ethernetLen+46 {
		b = b[:ethernetLen+46]
		copy(b[ethernetLen:], []byte{0, 1, 8, 0, 6, 4, 0, byte(1 + g.IntN(2))})
	}
	return sample{frame: b, what: "not IP"}
}

// packet is an IP packet without super-frame: headers, then body, whose sum
// is at sumAt. It returns where the body begins.
func (g generator) packet(v6 bool, proto byte, body []byte, sumAt int, options bool) (frame []byte, start, pseudo int) {
	if v6 {
		frame = g.ether(typeIPv6)
		var ext []byte
		next := proto
		if options {
			ext = append([]byte{proto, 0, 1, 4, 0, 0, 0, 0}, ext...)
			next = 60 // destination options
			if g.chance(30) {
				ext = append([]byte{60, 0, 5, 2, 0, 0, 1, 0}, ext...)
				next = 0 // hop by hop
			}
		}
		at := len(frame)
		frame = append(frame, 6<<4|byte(g.IntN(4)), byte(g.IntN(4))<<4, 0, 7)
		frame = be.AppendUint16(frame, uint16(len(ext)+len(body)))
		frame = append(frame, next, 64)
		frame = append(frame, 0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
		frame = append(frame, 0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2)
		pseudo = int(checksum(uint32(proto)+uint32(len(body)), frame[at+8:]))
		frame = append(frame, ext...)
	} else {
		frame = g.ether(typeIPv4)
		var opts []byte
		if options {
			opts = []byte{1, 1, 1, 0, 0x94, 4, 0, 0}[:4+4*g.IntN(2)]
		}
		at := len(frame)
		frame = append(frame, 4<<4|byte(5+len(opts)/4), byte(g.IntN(4)))
		frame = be.AppendUint16(frame, uint16(20+len(opts)+len(body)))
		frame = be.AppendUint16(frame, uint16(g.Uint32()))
		frame = append(frame, byte(g.IntN(2))<<6, 0, 64, proto, 0, 0, 10, 9, 0, 77, 10, 9, 0, 78)
		frame = append(frame, opts...)
		be.PutUint16(frame[at+10:], ^checksum(0, frame[at:]))
		pseudo = int(checksum(uint32(proto)+uint32(len(body)), frame[at+12:at+20]))
	}
	start = len(frame)
	frame = append(frame, body...)
	return frame, start, pseudo
}

// finish puts the checksum, or leaves it to the interface.
func (g generator) finish(frame []byte, start, sumAt, pseudo int, leave bool) (h offload.Header) {
	if leave {
		be.PutUint16(frame[start+sumAt:], uint16(pseudo))
		return offload.Header{Flags: offload.NeedsChecksum, CsumStart: uint16(start), CsumOffset: uint16(sumAt)}
	}
	be.PutUint16(frame[start+sumAt:], 0)
	body := append([]byte(nil), frame[start:]...)
	if len(body)%2 == 1 {
		body = append(body, 0)
	}
	sum := ^checksum(uint32(pseudo), body)
	if sum == 0 {
		sum = 0xffff
	}
	be.PutUint16(frame[start+sumAt:], sum)
	return h
}

func (g generator) body(proto byte, n int) (b []byte, sumAt int) {
	b = be.AppendUint16(be.AppendUint16(nil, uint16(1024+g.IntN(60000))), 7777)
	if proto == protoUDP {
		b = be.AppendUint16(b, uint16(8+n))
		return append(append(b, 0, 0), g.bytes(n)...), 6
	}
	b = append(b, g.bytes(8)...) // sequence, acknowledgement
	var opts []byte
	if g.chance(60) {
		opts = append([]byte{1, 1, 8, 10}, g.bytes(8)...)
	}
	b = append(b, byte(5+len(opts)/4)<<4, 0x10, 2, 0, 0, 0, 0, 0)
	return append(append(b, opts...), g.bytes(n)...), 16
}

// one is a single packet of TCP or UDP, with all that is odd about headers.
func (g generator) one(proto byte, n int) sample {
	body, sumAt := g.body(proto, n)
	if proto == protoTCP {
		body[13] = byte(g.Uint32()) // any flags
	}
	v6 := g.chance(50)
	frame, start, pseudo := g.packet(v6, proto, body, sumAt, g.chance(30))
	what := "packet"
	h := g.finish(frame, start, sumAt, pseudo, g.chance(30))
	if h.Flags == 0 {
		switch g.IntN(5) {
		case 0:
			be.PutUint16(frame[start+sumAt:], uint16(g.Uint32()))
			what = "packet with a wrong checksum"
		case 1:
			be.PutUint16(frame[start+sumAt:], 0)
			what = "packet without checksum"
		}
	}
	return sample{h, frame, what}
}

// fragment is one of a packet's.
func (g generator) fragment() sample {
	frame, start, _ := g.packet(false, protoUDP, g.bytes(8+8*g.IntN(100)), 6, g.chance(30))
	at := start - 20
	for at > 0 && frame[at] != 0x45 && frame[at] != 0x46 && frame[at] != 0x47 {
		at--
	}
	be.PutUint16(frame[at+6:], uint16(g.IntN(2))<<13|uint16(g.IntN(100)))
	be.PutUint16(frame[at+10:], 0)
	be.PutUint16(frame[at+10:], ^checksum(0, frame[at:start]))
	return sample{frame: frame, what: "fragment"}
}

// super is a super-frame.
func (g generator) super(proto byte) sample {
	v6 := g.chance(50)
	size := 200 + g.IntN(testMTU-400)
	segments := 2 + g.IntN(30)
	n := min(size*(segments-1)+1+g.IntN(size), 64000)
	body, sumAt := g.body(proto, n)
	kind, head := uint8(offload.GSOUDP), 8
	if proto == protoTCP {
		kind, head = offload.GSOTCPv4, int(body[12]>>4)*4
		if v6 {
			kind = offload.GSOTCPv6
		}
		body[13] |= byte(g.IntN(2))<<3 | byte(g.IntN(2)) // PSH, FIN
		if g.chance(10) {
			body[13] |= 0x80 // CWR
			kind |= offload.GSOECN
		}
	}
	frame, start, pseudo := g.packet(v6, proto, body, sumAt, !v6 && g.chance(20))
	h := g.finish(frame, start, sumAt, pseudo, true)
	h.GSOType, h.GSOSize, h.HdrLen = kind, uint16(size), uint16(start+head)
	return sample{h, frame, "super-frame"}
}

// stream is what a connection sends without offloads: frames that are joined.
func (g generator) stream() (list []sample) {
	proto := byte(protoTCP)
	if g.chance(30) {
		proto = protoUDP
	}
	v6, size, count := g.chance(50), 100+g.IntN(testMTU-200), 2+g.IntN(12)
	first, sumAt := g.body(proto, size)
	var ip []byte
	id := uint16(g.Uint32())
	for i := range count {
		n := size
		if i == count-1 && g.chance(70) {
			n = g.IntN(size + 1)
		}
		body := append([]byte(nil), first[:len(first)-size+n]...)
		if proto == protoTCP {
			be.PutUint32(body[4:], be.Uint32(first[4:])+uint32(i*size))
			if i == count-1 || g.chance(5) {
				body[13] |= byte(g.IntN(16)) << 1 & 0x08
			}
		} else {
			be.PutUint16(body[4:], uint16(len(body)))
		}
		frame, start, pseudo := g.packet(v6, proto, body, sumAt, false)
		if ip == nil {
			ip = append(ip, frame[:start]...)
		}
		// The same headers as the first, but for lengths and sums.
		frame = append(append([]byte(nil), ip...), frame[start:]...)
		start = len(ip)
		if v6 {
			be.PutUint16(frame[start-36:], uint16(len(body)))
		} else {
			at := start - 20
			be.PutUint16(frame[at+2:], uint16(20+len(body)))
			be.PutUint16(frame[at+4:], id+uint16(i))
			be.PutUint16(frame[at+10:], 0)
			be.PutUint16(frame[at+10:], ^checksum(0, frame[at:start]))
		}
		if g.chance(3) {
			continue // lost
		}
		list = append(list, sample{g.finish(frame, start, sumAt, pseudo, false), frame, "frame of a stream"})
	}
	return list
}
