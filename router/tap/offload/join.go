package offload

import (
	"bytes"
	"encoding/binary"
)

const (
	maxParts = 64  // frames in a super-frame: of UDP, Linux took no more for long
	slots    = 256 // of the table of flows; a power of two
	reach    = 4   // slots in which a flow can be, beginning with its own
	noSlot   = -1
)

// Join coalesces the frames of one batch into super-frames. Not for concurrent
// use; it is used again for the next batch.
//
// Merged is what segmentation turns back into the same frames: TCP with data
// and no flag but ACK, PSH, ECE and CWR, in order, with headers that differ in
// nothing but length, IPv4 ID, sequence number and checksum; PSH and a smaller
// size end a super-frame, CWR begins one. The same goes for UDP with a checksum.
// What has VLAN tags, IPv4 options, IPv6 extension headers or is a fragment is
// left alone. The IDs of IPv4 packets with DF mean nothing (RFC 6864) and may
// be any.
//
// Checksums of TCP and UDP are not looked at: the tunnel has authenticated
// every byte since a switch sent it, and the kernel's WireGuard takes them for
// right, too. Those of what is coalesced are computed anew.
type Join struct {
	// Constant after New.

	uso bool

	// Owned by the caller's goroutine, empty between Flush and Add.

	frames []entry
	groups []group
	recent int32        // group of the last frame that has a flow; 0 if there was none
	table  [slots]int32 // the last group of a flow, and 1
	parts  [][]byte
}

// entry is a frame and the next one of its super-frame.
type entry struct {
	frame []byte
	next  int32
}

// group is a super-frame, or a frame that is alone.
type group struct {
	open  bool // another frame can follow
	v4    bool
	proto byte
	id    uint16 // of the next frame
	seq   uint32 // of the next frame

	first, last, count int32 // frames

	l4, head int32 // where the header of TCP or UDP and the payload are
	size     int32 // bytes of payload of each frame but the last
	bytes    int32 // of the super-frame
	slot     int32 // in the table, or noSlot
}

// New returns a Join. It coalesces datagrams only if the device that is written
// to takes their super-frames, UDP_L4 (uso).
func New(uso bool) *Join { return &Join{uso: uso} }

// Add takes a plain Ethernet frame with complete checksums. It is borrowed
// until the end of Flush, which may change its headers.
func (j *Join) Add(frame []byte) {
	this := int32(len(j.frames))
	j.frames = append(j.frames, entry{frame: frame})
	p := look(frame)
	if p.proto == protoUDP && !j.uso {
		p.class = single
	}
	slot := int32(noSlot)
	switch p.class {
	case single:
	case unclear:
		j.shut(&p, frame)
	case flow:
		var g *group
		slot, g = j.find(&p, frame)
		if g == nil || !g.open {
			break
		}
		if p.fits && j.follows(g, &p, frame) {
			j.frames[g.last].next = this
			g.last = this
			return
		}
		g.open = false
	}
	if !p.fits {
		slot = noSlot // the flow, if it has a slot, keeps its closed group
	}
	if slot != noSlot {
		j.recent = int32(len(j.groups))
		j.table[slot] = j.recent + 1
	}
	j.groups = append(j.groups, group{
		open: p.fits && !p.push, v4: p.v4, proto: p.proto, id: p.id + 1, seq: p.seq + uint32(int32(len(frame))-p.head),
		first: this, last: this, count: 1,
		l4: p.l4, head: p.head, size: int32(len(frame)) - p.head, bytes: int32(len(frame)), slot: slot,
	})
}

// find returns the slot of the packet's flow and its last group, nil if there
// is none.
func (j *Join) find(p *packet, frame []byte) (slot int32, g *group) {
	if len(j.groups) > 0 {
		if g = &j.groups[j.recent]; g.slot != noSlot && j.same(g, p, frame) {
			return g.slot, g
		}
	}
	home := hash(p, frame)
	for i := range uint32(reach) {
		at := (home + i) % slots
		if j.table[at] == 0 {
			return int32(at), nil
		}
		if g = &j.groups[j.table[at]-1]; j.same(g, p, frame) {
			j.recent = j.table[at] - 1
			return int32(at), g
		}
	}
	if !p.fits {
		return noSlot, nil
	}
	// Somebody else has to go: what follows of that flow begins anew.
	return int32(home % slots), nil
}

// same is whether the packet is of the group's flow.
func (j *Join) same(g *group, p *packet, frame []byte) bool {
	head := j.frames[g.first].frame
	if p.v4 != g.v4 || p.proto != g.proto {
		return false
	}
	if p.v4 {
		const end = ethLen + ip4Len + 4
		a, b := (*[end]byte)(frame), (*[end]byte)(head)
		return *(*[ethLen]byte)(a[:]) == *(*[ethLen]byte)(b[:]) && *(*[12]byte)(a[26:]) == *(*[12]byte)(b[26:])
	}
	const end = ethLen + ip6Len + 4
	a, b := (*[end]byte)(frame), (*[end]byte)(head)
	return *(*[ethLen]byte)(a[:]) == *(*[ethLen]byte)(b[:]) && *(*[36]byte)(a[22:]) == *(*[36]byte)(b[22:])
}

// shut closes what the packet may belong to, so that it is not overtaken.
func (j *Join) shut(p *packet, frame []byte) {
	from, to := addresses(p.v4)
	for i := range j.groups {
		if g := &j.groups[i]; g.open && g.v4 == p.v4 && bytes.Equal(j.frames[g.first].frame[from:to], frame[from:to]) {
			g.open = false
		}
	}
}

// follows appends the packet to the group, if that can be. Otherwise the group
// is to be closed.
func (j *Join) follows(g *group, p *packet, frame []byte) bool {
	first := j.frames[g.first].frame
	size := int32(len(frame)) - p.head
	if p.head != g.head || size > g.size || g.count == maxParts || g.bytes+size > ethLen+maxPacket || p.congested {
		return false
	}
	a, b := frame[:g.head], first[:g.head]
	if p.v4 {
		a, b := (*[ip4Len]byte)(a[ethLen:]), (*[ip4Len]byte)(b[ethLen:])
		const dontFragment = 0x40
		if a[1] != b[1] || a[6] != b[6] || a[8] != b[8] || a[6]&dontFragment == 0 && p.id != g.id {
			return false
		}
	} else {
		a, b := (*[ip6Len]byte)(a[ethLen:]), (*[ip6Len]byte)(b[ethLen:])
		if *(*[4]byte)(a[:]) != *(*[4]byte)(b[:]) || a[7] != b[7] {
			return false
		}
	}
	if p.proto == protoTCP {
		a, b := a[g.l4:], b[g.l4:]
		h, i := (*[tcpLen]byte)(a), (*[tcpLen]byte)(b)
		if p.seq != g.seq || *(*[4]byte)(h[8:]) != *(*[4]byte)(i[8:]) || h[12] != i[12] || (h[13]^i[13])&flagECE != 0 ||
			*(*[2]byte)(h[14:]) != *(*[2]byte)(i[14:]) || !bytes.Equal(a[18:], b[18:]) {
			return false
		}
	}
	g.open = !p.push && size == g.size
	g.count++
	g.bytes += size
	g.id++
	g.seq += uint32(size)
	return true
}

// Flush gives all that was added to write, the frames of one flow in the order
// they came in, and forgets them. The parts together are one frame, the first
// begins with the Ethernet header; they are valid until write returns. A frame
// that is alone is unchanged and its header is zero.
func (j *Join) Flush(write func(h Header, parts [][]byte)) {
	for i := range j.groups {
		g := &j.groups[i]
		if g.slot != noSlot {
			j.table[g.slot] = 0
		}
		e := &j.frames[g.first]
		j.parts = append(j.parts[:0], e.frame)
		var h Header
		if g.count > 1 {
			h = g.finish(e.frame, j.frames[g.last].frame)
			for n := g.count; n > 1; n-- {
				e = &j.frames[e.next]
				j.parts = append(j.parts, e.frame[g.head:])
			}
		}
		write(h, j.parts)
	}
	clear(j.frames)
	clear(j.parts[:cap(j.parts)])
	j.frames, j.groups, j.parts, j.recent = j.frames[:0], j.groups[:0], j.parts[:0], 0
}

// finish makes the headers of the first frame those of the super-frame.
func (g *group) finish(first, last []byte) Header {
	h := Header{
		Flags: NeedsChecksum, HdrLen: uint16(g.head), GSOSize: uint16(g.size), CsumStart: uint16(g.l4),
	}
	if g.v4 {
		ip := (*[ip4Len]byte)(first[ethLen:])
		binary.BigEndian.PutUint16(ip[2:], uint16(g.bytes-ethLen))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum20(ip)))
	} else {
		binary.BigEndian.PutUint16(first[ethLen+4:], uint16(g.bytes-ethLen-ip6Len))
	}
	from, to := addresses(g.v4)
	length := uint32(g.bytes - g.l4)
	pseudo := fold32(uint32(fold(add(0, first[from:to]))) + uint32(g.proto) + length)
	l4 := first[g.l4:]
	if g.proto == protoUDP {
		h.GSOType, h.CsumOffset = GSOUDP, udpCheck
		binary.BigEndian.PutUint16(l4[4:], uint16(length))
		binary.BigEndian.PutUint16(l4[udpCheck:], pseudo)
		return h
	}
	h.GSOType, h.CsumOffset = GSOTCPv6, tcpCheck
	if g.v4 {
		h.GSOType = GSOTCPv4
	}
	if l4[13]&flagCWR != 0 {
		h.GSOType |= GSOECN
	}
	l4[13] |= last[g.l4+13] & flagPSH
	binary.BigEndian.PutUint16(l4[tcpCheck:], pseudo)
	return h
}
