package fdb

import (
	"encoding/binary"
	"net/netip"
)

// Types of messages: IGMP (RFC 1112, 2236, 3376), MLD (RFC 2710, 3810), and
// those by which multicast routers are known (RFC 4286, 1075).
const (
	igmpQuery     = 0x11
	igmpReport1   = 0x12
	igmpDVMRP     = 0x13
	igmpReport2   = 0x16
	igmpLeave     = 0x17
	igmpReport3   = 0x22
	igmpRouter    = 0x30
	mldQuery      = 130
	mldReport1    = 131
	mldDone       = 132
	mldReport2    = 143
	mldRouter     = 151
	reportHead    = 8 // of IGMPv3 and MLDv2 reports
	recordInclude = 1 // state, as an answer to a query
	recordExclude = 2
	toInclude     = 3 // changes of state
	toExclude     = 4
	allowSources  = 5
)

type messageKind uint8

const (
	noMessage messageKind = iota
	isRouter              // its sender is a multicast router, or asks like one
	isOld                 // a report that silences others of its group (before IGMPv3 and MLDv2)
	isReport              // records follow
	isHidden              // perhaps isOld, in a form that is not read here
	isOther               // nothing that tells us anything
)

// message is what is in a frame of IGMP, MLD or PIM.
type message struct {
	kind    messageKind
	sender  [16]byte   // its IP address
	group   netip.Addr // isOld
	records []byte     // isReport
	left    int        // records that next has not given
	v6      bool
}

// record says what one host wants of one group.
type record struct {
	kind    byte
	group   netip.Addr
	sources int
}

// parseMessage reads the packet of a frame that is in no VLAN. The result is
// noMessage when it is about something else or not as it should be.
func parseMessage(kind uint16, b []byte) message {
	kind, b = withoutPriority(kind, b)
	if hidden(kind, b) {
		return message{kind: isHidden}
	}
	p, ok := ip(kind, b)
	if !ok {
		return message{}
	}
	m := message{v6: p.v6}
	copy(m.sender[:], p.src)
	switch {
	case p.proto == protoPIM:
		m.kind = isRouter
		return m
	case p.v6 && p.proto == protoICMP6, !p.v6 && p.proto == protoIGMP:
	default:
		return message{}
	}
	if len(p.body) < reportHead || !p.sound() {
		return message{}
	}
	if p.v6 {
		m.mld(p)
	} else {
		m.igmp(p)
	}
	return m
}

// hidden says whether a packet may be a report that silences others in a form
// that nobody uses but somebody who wants it to be heard by hosts and not by us:
// in fragments, or behind headers that reports do not have.
func hidden(kind uint16, b []byte) bool {
	switch {
	case kind == typeIP4 && len(b) >= ip4Len && b[0]>>4 == 4:
		return b[9] == protoIGMP && binary.BigEndian.Uint16(b[6:])&0x3fff != 0
	case kind == typeIP6 && len(b) >= ip6Len && b[0]>>4 == 6:
	default:
		return false
	}
	next, b, odd := b[6], b[ip6Len:], false
	for len(b) >= 8 {
		n := (int(b[1]) + 1) * 8
		switch next {
		case protoICMP6:
			return odd && b[0] == mldReport1
		case protoFragment:
			if n = 8; binary.BigEndian.Uint16(b[2:])&^7 != 0 {
				return false // the first one has the type
			}
			odd = true
		case protoRouting, protoDestination:
			odd = true
		case protoHopByHop:
		default:
			return false
		}
		if n > len(b) {
			return false
		}
		next, b = b[0], b[n:]
	}
	return odd && next == protoICMP6 && len(b) > 0 && b[0] == mldReport1
}

func (m *message) igmp(p packet) {
	switch p.body[0] {
	case igmpQuery, igmpDVMRP, igmpRouter:
		m.kind = isRouter
	case igmpReport1, igmpReport2:
		m.kind, m.group = isOld, netip.AddrFrom4([4]byte(p.body[4:]))
	case igmpReport3:
		m.kind, m.left, m.records = isReport, int(binary.BigEndian.Uint16(p.body[6:])), p.body[reportHead:]
	default:
		m.kind = isOther
	}
}

func (m *message) mld(p packet) {
	switch p.body[0] {
	case mldQuery, mldRouter:
		m.kind = isRouter
	case mldReport1:
		if len(p.body) >= reportHead+16 {
			m.kind, m.group = isOld, netip.AddrFrom16([16]byte(p.body[reportHead:]))
		}
	case mldReport2:
		m.kind, m.left, m.records = isReport, int(binary.BigEndian.Uint16(p.body[6:])), p.body[reportHead:]
	case mldDone:
		m.kind = isOther
	}
}

// next takes one record; ok is false when there are no more whole ones.
func (m *message) next() (r record, ok bool) {
	size := 4
	if m.v6 {
		size = 16
	}
	if m.left == 0 || len(m.records) < 4+size {
		return record{}, false
	}
	b := m.records
	r = record{kind: b[0], sources: int(binary.BigEndian.Uint16(b[2:]))}
	if m.v6 {
		r.group = netip.AddrFrom16([16]byte(b[4:]))
	} else {
		r.group = netip.AddrFrom4([4]byte(b[4:]))
	}
	length := 4 + size + r.sources*size + int(b[1])*4
	if len(b) < length {
		return record{}, false
	}
	m.left, m.records = m.left-1, b[length:]
	return r, true
}

// joins says whether the record tells that its sender wants the group. Which
// senders it wants to hear does not matter here.
func (r record) joins() bool {
	switch r.kind {
	case recordExclude, toExclude:
		return true
	case recordInclude, toInclude, allowSources:
		return r.sources > 0
	}
	return false
}

// leaves says whether the record tells that its sender wants nothing of the
// group any more. Blocked sources leave others, perhaps: time will tell.
func (r record) leaves() bool { return r.kind == toInclude && r.sources == 0 }

// pruned says whether frames to this group go to its members alone. What has
// link-local scope goes everywhere (RFC 4541, sections 2.1.2 and 3). That goes
// for neighbour discovery, too: a report that was lost would make an address
// unreachable until the next query.
func pruned(g netip.Addr) bool {
	if g.Is4() {
		a := g.As4()
		return g.IsMulticast() && [3]byte(a[:]) != [3]byte{224, 0, 0}
	}
	a := g.As16()
	return a[0] == 0xff && a[1]&15 > 2
}

// groupOf returns the pruned group that a frame goes to. ok is false for what
// goes everywhere: other frames, and those whose addresses do not agree.
func groupOf(to MAC, kind uint16, b []byte) (g netip.Addr, ok bool) {
	var mac MAC
	switch {
	case kind == typeIP4 && len(b) >= ip4Len && b[0]>>4 == 4 && b[9] != protoIGMP:
		g, mac = netip.AddrFrom4([4]byte(b[16:])), groupMAC4(b[16:20])
	case kind == typeIP6 && len(b) >= ip6Len && b[0]>>4 == 6 && b[6] != protoHopByHop:
		g, mac = netip.AddrFrom16([16]byte(b[24:])), groupMAC6(b[24:40])
	default:
		return netip.Addr{}, false
	}
	return g, mac == to && pruned(g)
}
