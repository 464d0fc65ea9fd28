package offload

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
)

// spec is a TCP or UDP frame in the making.
type spec struct {
	v4       bool
	proto    byte
	tags     []uint16 // EtherTypes of VLAN tags
	tos, ttl byte
	id, off  uint16
	label    uint32
	options  []byte // of IPv4, or extension headers with the type of the first before them
	src, dst byte   // ends of addresses
	ports    [2]uint16
	seq, ack uint32
	flags    uint16 // with the reserved bits
	window   uint16
	urgent   uint16
	tcpOpts  []byte
	payload  []byte
}

// frame builds it, with complete checksums, and says where its headers are.
func (s spec) frame() ([]byte, slowHeaders) {
	be := binary.BigEndian
	f := []byte{2, 0, 0, 0, 0, s.dst, 2, 0, 0, 0, 0, s.src}
	for _, t := range s.tags {
		f = be.AppendUint16(be.AppendUint16(f, t), 0x6007)
	}
	h := slowHeaders{v4: s.v4, l3: len(f) + 2}
	length := len(s.payload) + 8
	if s.proto == 6 {
		length = 20 + len(s.tcpOpts) + len(s.payload)
	}
	if s.v4 {
		f = append(f, 0x08, 0x00, 0x45+byte(len(s.options)/4), s.tos)
		f = be.AppendUint16(f, uint16(20+len(s.options)+length))
		f = be.AppendUint16(be.AppendUint16(f, s.id), s.off)
		f = append(f, s.ttl, s.proto, 0, 0, 10, 32, 0, s.src, 10, 32, 0, s.dst)
		f = append(f, s.options...)
		be.PutUint16(f[h.l3+10:], ^slowSum(f[h.l3:]))
	} else {
		f = append(f, 0x86, 0xdd)
		f = be.AppendUint32(f, 6<<28|uint32(s.tos)<<20|s.label)
		next, ext := s.proto, s.options
		if len(ext) > 0 {
			next, ext = ext[0], ext[1:]
		}
		f = append(be.AppendUint16(f, uint16(len(ext)+length)), next, s.ttl)
		for _, a := range []byte{s.src, s.dst} {
			f = append(f, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a)
		}
		f = append(f, ext...)
	}
	h.l4 = len(f)
	f = be.AppendUint16(be.AppendUint16(f, s.ports[0]), s.ports[1])
	check := h.l4 + 6
	if s.proto == 6 {
		check = h.l4 + 16
		f = be.AppendUint32(be.AppendUint32(f, s.seq), s.ack)
		f = be.AppendUint16(f, uint16(5+len(s.tcpOpts)/4)<<12|s.flags)
		f = be.AppendUint16(append(be.AppendUint16(f, s.window), 0, 0), s.urgent)
		f = append(f, s.tcpOpts...)
	} else {
		f = append(be.AppendUint16(f, uint16(length)), 0, 0)
	}
	h.head = len(f)
	f = append(f, s.payload...)
	sum := ^slowAdd(slowPseudo(f, h, s.proto), uint16(length), slowSum(f[h.l4:]))
	if s.proto == 17 {
		sum = notZero(sum)
	}
	be.PutUint16(f[check:], sum)
	return f, h
}

// super makes the frame what a kernel gives as a super-frame: with the sum of
// the pseudo header instead of the checksum.
func (s spec) super(size int) (Header, []byte) {
	f, at := s.frame()
	h := Header{Flags: NeedsChecksum, GSOType: GSOUDP, HdrLen: uint16(at.head), GSOSize: uint16(size), CsumStart: uint16(at.l4), CsumOffset: 6}
	if s.proto == 6 {
		h.CsumOffset, h.GSOType = 16, GSOTCPv6
		if s.v4 {
			h.GSOType = GSOTCPv4
		}
		if s.flags&0x80 != 0 {
			h.GSOType |= GSOECN
		}
	}
	binary.BigEndian.PutUint16(f[h.CsumStart+h.CsumOffset:], slowAdd(slowPseudo(f, at, s.proto), uint16(len(f)-at.l4)))
	return h, f
}

func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		var x [8]byte
		binary.LittleEndian.PutUint64(x[:], r.Uint64())
		copy(b[i:], x[:])
	}
	if chance(r, 10) {
		clear(b) // sums of nothing, and all ones
	} else if chance(r, 10) {
		copy(b, bytes.Repeat([]byte{0xff}, n))
	}
	return b
}

// randomSpec is a frame of any kind that can be a super-frame.
func randomSpec(r *rand.Rand, most int) spec {
	s := spec{
		v4: chance(r, 50), proto: pick[byte](r, 6, 6, 17), tos: byte(r.Uint32()), ttl: byte(r.Uint32()),
		id: pick(r, 0, 0xfffe, uint16(r.Uint32())), off: pick[uint16](r, 0, 0x4000), label: r.Uint32N(1 << 20), src: byte(r.Uint32()), dst: byte(r.Uint32()),
		ports: [2]uint16{uint16(r.Uint32()), uint16(r.Uint32())}, seq: pick(r, r.Uint32(), 0xfffffff0), ack: r.Uint32(),
		flags: pick(r, 0x10, 0x18, uint16(r.Uint32N(0x1000))), window: uint16(r.Uint32()), urgent: pick(r, 0, uint16(r.Uint32())),
		payload: noise(r, r.IntN(most+1)), tcpOpts: noise(r, pick(r, 0, 12, 4*r.IntN(11))),
	}
	if chance(r, 20) {
		s.tags = pick(r, []uint16{0x8100}, []uint16{0x88a8, 0x8100})
	}
	if chance(r, 20) && s.v4 {
		s.options = noise(r, 4*r.IntN(11))
	} else if chance(r, 20) && !s.v4 {
		chain := []byte{pick[byte](r, 0, 43, 60)}
		for n := r.IntN(3); n >= 0; n-- {
			next := s.proto
			if n > 0 {
				next = pick[byte](r, 0, 43, 60)
			}
			size := r.IntN(3)
			chain = append(append(chain, next, byte(size)), noise(r, 6+8*size)...)
		}
		s.options = chain
	}
	return s
}

// connection makes the frames that one sender gives away one after the other.
type connection struct {
	spec

	mss int
}

func randomConnection(r *rand.Rand) *connection {
	s := randomSpec(r, 0)
	s.tags, s.options, s.urgent, s.flags, s.tos = nil, nil, 0, 0x10, pick[byte](r, 0, 2)
	return &connection{spec: s, mss: pick(r, 1+r.IntN(40), 536, 1348, 8900)}
}

// send returns the next super-frame, of at most most bytes of payload.
func (c *connection) send(r *rand.Rand, most int) (Header, []byte) {
	c.payload = noise(r, 1+r.IntN(most))
	if c.proto == 6 {
		c.flags = 0x10 | pick[uint16](r, 0, 0, 8, 0, 8, 0x40, 0x80)
		if chance(r, 10) {
			c.ack++
		}
		if chance(r, 5) {
			c.window++
		}
	}
	h, f := c.super(c.mss)
	c.seq += uint32(len(c.payload))
	c.id += uint16((len(c.payload) + c.mss - 1) / c.mss)
	return h, f
}
