package offload

import (
	"bytes"
	"encoding/binary"
)

// The twins: slow, and written down from the RFCs a frame at a time.

// slowSum is RFC 1071 as it stands there: 16 bits at a time, carry back in.
func slowSum(b []byte) uint16 {
	var s uint32
	for i, x := range b {
		s += uint32(x) << (8 * (1 - i%2))
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// slowWalk says what an Ethernet frame carries: where the IP header begins,
// where that of proto, and where that one ends. Nil: it is not that.
type slowHeaders struct {
	v4           bool
	l3, l4, head int
}

func slowWalk(frame []byte, proto byte) (slowHeaders, error) {
	be := binary.BigEndian
	h := slowHeaders{l3: 14}
	for h.l3+4 <= len(frame) && h.l3 < 14+8*4 && (be.Uint16(frame[h.l3-2:]) == 0x8100 || be.Uint16(frame[h.l3-2:]) == 0x88a8) {
		h.l3 += 4
	}
	ip := frame[h.l3:]
	switch be.Uint16(frame[h.l3-2:]) {
	case 0x0800:
		if len(ip) < 20 {
			return h, ErrShort
		}
		if ip[0]>>4 != 4 || ip[0]&15 < 5 || ip[9] != proto || be.Uint16(ip[6:])&0x3fff != 0 {
			return h, ErrHeaders
		}
		h.v4, h.l4 = true, h.l3+int(ip[0]&15)*4
	case 0x86dd:
		if len(ip) < 40 {
			return h, ErrShort
		}
		if ip[0]>>4 != 6 {
			return h, ErrHeaders
		}
		next, at := ip[6], 40
		for next == 0 || next == 43 || next == 60 {
			if at+8 > len(ip) {
				return h, ErrShort
			}
			next, at = ip[at], at+8+8*int(ip[at+1])
		}
		if next != proto {
			return h, ErrHeaders
		}
		h.l4 = h.l3 + at
	default:
		return h, ErrHeaders
	}
	h.head = h.l4 + 8
	if proto == 6 {
		if h.l4+20 > len(frame) {
			return h, ErrShort
		}
		if frame[h.l4+12]>>4 < 5 {
			return h, ErrHeaders
		}
		h.head = h.l4 + 4*int(frame[h.l4+12]>>4)
	}
	if h.head > len(frame) {
		return h, ErrShort
	}
	return h, nil
}

// slowPseudo is the sum of the pseudo header of a TCP or UDP packet without
// its length (RFC 9293 section 3.1, RFC 8200 section 8.1).
func slowPseudo(frame []byte, h slowHeaders, proto byte) uint16 {
	b := []byte{0, proto}
	if h.v4 {
		return slowSum(append(b, frame[h.l3+12:h.l3+20]...))
	}
	return slowSum(append(b, frame[h.l3+8:h.l3+40]...))
}

func slowAdd(list ...uint16) uint16 {
	var b []byte
	for _, x := range list {
		b = binary.BigEndian.AppendUint16(b, x)
	}
	return slowSum(b)
}

// slowCut is Cut: all segments at once.
func slowCut(h Header, frame []byte) ([][]byte, error) {
	be := binary.BigEndian
	if len(frame) < 14 {
		return nil, ErrShort
	}
	start, field := int(h.CsumStart), int(h.CsumStart)+int(h.CsumOffset)
	if h.Flags&NeedsChecksum != 0 && field+2 > len(frame) {
		return nil, ErrChecksum
	}
	if h.GSOType == GSONone {
		s := bytes.Clone(frame)
		if h.Flags&NeedsChecksum != 0 {
			be.PutUint16(s[field:], notZero(^slowSum(s[start:])))
		}
		return [][]byte{s}, nil
	}
	var proto byte
	switch h.GSOType {
	case GSOTCPv4, GSOTCPv4 | GSOECN, GSOTCPv6, GSOTCPv6 | GSOECN:
		proto = 6
	case GSOUDP:
		proto = 17
	default:
		return nil, ErrGSOType
	}
	if h.GSOSize == 0 {
		return nil, ErrGSOSize
	}
	at, err := slowWalk(frame, proto)
	if err != nil {
		return nil, err
	}
	if proto == 6 && at.v4 != (h.GSOType&^GSOECN == GSOTCPv4) {
		return nil, ErrHeaders
	}
	want := at.l4 + 16
	if proto == 17 {
		want = at.l4 + 6
	}
	pseudo := slowPseudo(frame, at, proto)
	if h.Flags&NeedsChecksum != 0 {
		if start != at.l4 || field != want {
			return nil, ErrChecksum
		}
		// It is there already, with the length, which is taken out.
		pseudo = slowAdd(be.Uint16(frame[want:]), ^uint16(len(frame)-at.l4))
	} else if at.v4 && at.l4 != at.l3+20 || !at.v4 && at.l4 != at.l3+40 {
		return nil, ErrHeaders // the address at the end may be in an option
	}
	if len(frame)-at.l3 > 65535 && at.head-at.l3+int(h.GSOSize) > 65535 {
		return nil, ErrHeaders
	}
	var list [][]byte
	for from := at.head; ; {
		to := min(from+int(h.GSOSize), len(frame))
		s := append(bytes.Clone(frame[:at.head]), frame[from:to]...)
		ip, l4 := s[at.l3:], s[at.l4:]
		if at.v4 {
			be.PutUint16(ip[2:], uint16(len(ip)))
			be.PutUint16(ip[4:], be.Uint16(ip[4:])+uint16(len(list)))
			be.PutUint16(ip[10:], 0)
			be.PutUint16(ip[10:], ^slowSum(ip[:at.l4-at.l3]))
		} else {
			be.PutUint16(ip[4:], uint16(len(ip)-40))
		}
		if proto == 6 {
			be.PutUint32(l4[4:], be.Uint32(l4[4:])+uint32(from-at.head))
			if to < len(frame) {
				l4[13] &^= 0x09 // FIN, PSH
			}
			if from > at.head {
				l4[13] &^= 0x80 // CWR
			}
			be.PutUint16(l4[16:], 0)
			be.PutUint16(l4[16:], ^slowAdd(pseudo, uint16(len(l4)), slowSum(l4)))
		} else {
			be.PutUint16(l4[4:], uint16(len(l4)))
			if be.Uint16(l4[6:]) != 0 {
				be.PutUint16(l4[6:], 0)
				be.PutUint16(l4[6:], notZero(^slowAdd(pseudo, uint16(len(l4)), slowSum(l4))))
			}
		}
		list = append(list, s)
		if from = to; from == len(frame) {
			return list, nil
		}
	}
}

// output is one call of write.
type output struct {
	h     Header
	bytes []byte
}

// slowJoin is Join: a frame goes to the last group of its flow if segmentation
// of what that makes gives the same frames again.
func slowJoin(frames [][]byte, uso bool) (list []output) {
	type group struct {
		flow   string
		frames [][]byte
		closed bool
		output
	}
	var groups []*group
	for _, f := range frames {
		flow, hosts := slowFlow(f, uso)
		g := &group{flow: flow, frames: [][]byte{f}, output: output{bytes: bytes.Clone(f)}}
		merged := false
		for i := len(groups) - 1; i >= 0 && hosts != ""; i-- {
			last := groups[i]
			if flow == "" { // may be of any
				_, h := slowFlow(last.frames[0], uso)
				last.closed = last.closed || h == hosts
				continue
			}
			if last.flow != flow {
				continue
			}
			if !last.closed {
				last.output, merged = slowMerge(last.output, append(last.frames, f), uso)
			}
			last.closed = !merged
			if merged {
				last.frames = append(last.frames, f)
			}
			break
		}
		if !merged {
			groups = append(groups, g)
		}
	}
	for _, g := range groups {
		list = append(list, g.output)
	}
	return list
}

// slowFlow is what frames of one flow have in common, and what they have in
// common with those of which it cannot be said.
func slowFlow(f []byte, uso bool) (flow, hosts string) {
	be := binary.BigEndian
	if len(f) < 34 {
		return "", ""
	}
	var key, proto []byte
	known := true
	switch be.Uint16(f[12:]) {
	case 0x0800:
		key, proto = f[26:34], f[23:24]
		known = f[14] == 0x45 && be.Uint16(f[20:])&0x3fff == 0
	case 0x86dd:
		if len(f) < 54 {
			return "", ""
		}
		key, proto = f[22:54], f[20:21]
		if p := proto[0]; p == 0 || p == 43 || p == 44 || p == 60 {
			return "", string(key)
		}
	default:
		return "", ""
	}
	if proto[0] != 6 && (proto[0] != 17 || !uso) {
		return "", ""
	}
	if end := len(key) + 4; !known || len(f[14:]) < 20+4 || len(key) == 32 && len(f) < 22+end {
		return "", string(key)
	}
	at := bytes.Index(f, key) // its first place, or an earlier one with the same bytes
	for &f[at] != &key[0] {
		at++
	}
	return string(f[:14]) + string(proto) + string(f[at:at+len(key)+4]), string(key)
}

// slowMerge makes a super-frame of frames that are one but for the last.
func slowMerge(old output, frames [][]byte, uso bool) (output, bool) {
	be := binary.BigEndian
	first, last := frames[0], frames[len(frames)-1]
	proto, h := byte(6), Header{Flags: NeedsChecksum, GSOType: GSOTCPv6, CsumOffset: 16}
	at, err := slowWalk(first, 6)
	if err != nil && uso {
		at, err = slowWalk(first, 17)
		proto, h.GSOType, h.CsumOffset = 17, GSOUDP, 6
	}
	if err != nil || len(frames) > 64 {
		return old, false
	}
	payload := 0
	super := bytes.Clone(first[:at.head])
	for _, f := range frames {
		if len(f) <= at.head || at.v4 && f[14+6]&0x80 != 0 {
			return old, false
		}
		if proto == 6 && f[at.l4+13]&0x37 != 0x10 { // URG, RST, SYN, FIN, or no ACK
			return old, false
		}
		super = append(super, f[at.head:]...)
		payload += len(f[at.head:])
	}
	if len(super)-14 > 65535 {
		return old, false
	}
	h.HdrLen, h.CsumStart, h.GSOSize = uint16(at.head), uint16(at.l4), uint16(len(first)-at.head)
	if at.v4 {
		be.PutUint16(super[16:], uint16(len(super)-14))
		be.PutUint16(super[24:], 0)
		be.PutUint16(super[24:], ^slowSum(super[14:34]))
	} else {
		be.PutUint16(super[18:], uint16(len(super)-54))
	}
	if proto == 6 {
		super[at.l4+13] |= last[at.l4+13] & 8
		if at.v4 {
			h.GSOType = GSOTCPv4
		}
		if super[at.l4+13]&0x80 != 0 {
			h.GSOType |= GSOECN
		}
	} else {
		be.PutUint16(super[at.l4+4:], uint16(len(super)-at.l4))
	}
	be.PutUint16(super[at.l4+int(h.CsumOffset):], slowAdd(slowPseudo(super, at, proto), uint16(len(super)-at.l4)))
	segments, err := slowCut(h, super)
	if err != nil || len(segments) != len(frames) {
		return old, false
	}
	for i := range segments {
		if !bytes.Equal(meaning(segments[i], at), meaning(frames[i], at)) {
			return old, false
		}
	}
	return output{h, super}, true
}

// meaning is a frame without what means nothing: the ID where DF is set, and
// what a checksum is that is computed anew.
func meaning(f []byte, at slowHeaders) []byte {
	be := binary.BigEndian
	f = bytes.Clone(f)
	if at.v4 && slowSum(f[at.l3:at.l4]) == 0xffff && f[at.l3+6]&0x40 != 0 {
		f[at.l3+4], f[at.l3+5], f[at.l3+10], f[at.l3+11] = 0, 0, 0, 0
	}
	if f[at.l3-2] == 0x08 && f[at.l3+9] == 6 || f[at.l3-2] == 0x86 && f[at.l3+6] == 6 {
		be.PutUint16(f[at.l4+16:], 0)
	} else if check := f[at.l4+6:]; be.Uint16(check) != 0 { // a datagram may have none
		be.PutUint16(check, 1)
	}
	return f
}

// essence is meaning for a frame of which nothing is known.
func essence(f []byte) []byte {
	for _, proto := range []byte{6, 17} {
		if len(f) >= 14 {
			if at, err := slowWalk(f, proto); err == nil {
				return meaning(f, at)
			}
		}
	}
	return f
}
