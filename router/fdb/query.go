package fdb

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
)

// When queries are due (RFC 3376, section 8; RFC 3810, section 9), in seconds.
const (
	QueryInterval = queryInterval // between general queries
	QueryAtStart  = 5             // between the first ones
	QueriesFirst  = 7             // how many these are: others believe the answers to the last ones, see unheard
)

// Querier is the address that the queries of a host come from. It is nobody's: a
// bridge wonders about frames that come from its own ports' addresses.
func Querier(overlay netip.Addr) (m MAC) {
	h := fnv.New64a()
	a := overlay.As16()
	_, _ = h.Write(a[:])
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], h.Sum64())
	copy(m[:], b[:])
	m[0] = m[0]&^0x03 | 0x02
	return m
}

// QueryDue says whether queries are sent at a multiple of QueryAtStart seconds
// after the start, counted from 0.
func QueryDue(n int) bool { return n < QueriesFirst || n%(QueryInterval/QueryAtStart) == 0 }

// Queries writes a general query of IGMPv3 and one of MLDv2 as Ethernet frames
// from src, for our bridge alone; a buffer of 90 bytes holds either, and what
// is too short gets 0 bytes. Every host asks its own containers, so that no
// query crosses the tunnels; their answers do.
//
// The first has no source address, so whoever else asks stays the querier (RFC
// 4541, section 2.1.1). The second must have one: the link-local one of src.
func Queries(dst4, dst6 []byte, src MAC) (n4, n6 int) {
	return query4(dst4, src), query6(dst6, src)
}

func query4(dst []byte, src MAC) int {
	const head, body = ip4Len + 4, 12
	if len(dst) < etherLen+head+body {
		return 0
	}
	b := putEther(dst, groupMAC4([]byte{224, 0, 0, 1}), src, typeIP4)[:head+body]
	clear(b)
	b[0], b[1], b[8], b[9] = 0x40|head/4, 0xc0, 1, protoIGMP
	binary.BigEndian.PutUint16(b[2:], head+body)
	copy(b[16:], []byte{224, 0, 0, 1})
	copy(b[20:], []byte{0x94, 4}) // router alert (RFC 2113)
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(b[:head], 0)))
	q := b[head:]
	q[0], q[1] = igmpQuery, queryResponse*10 // in tenths of a second
	q[8], q[9] = robustness, queryInterval
	binary.BigEndian.PutUint16(q[2:], ^fold(sum(q, 0)))
	return etherLen + head + body
}

func query6(dst []byte, src MAC) int {
	const alert, body = 8, 28
	if len(dst) < etherLen+ip6Len+alert+body {
		return 0
	}
	all := [16]byte{0: 0xff, 1: 0x02, 15: 1}
	from := [16]byte{0: 0xfe, 1: 0x80, 8: src[0] ^ 2, 9: src[1], 10: src[2], 11: 0xff, 12: 0xfe, 13: src[3], 14: src[4], 15: src[5]}
	b := putEther(dst, groupMAC6(all[:]), src, typeIP6)
	putIP6(b, protoHopByHop, 1, alert+body, from, all)
	copy(b[ip6Len:], []byte{protoICMP6, 0, 5, 2, 0, 0, 1, 0}) // router alert (RFC 2711), padding
	q := b[ip6Len+alert:][:body]
	clear(q)
	q[0] = mldQuery
	binary.BigEndian.PutUint16(q[4:], queryResponse*1000) // milliseconds
	q[24], q[25] = robustness, queryInterval
	binary.BigEndian.PutUint16(q[2:], ^fold(sum(q, pseudo(from[:], all[:], body))))
	return etherLen + ip6Len + alert + body
}
