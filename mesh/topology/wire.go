package topology

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/fields"
)

// The bytes of a report, integers big-endian:
//
//	 1  format: 1
//	32  owner
//	 8  boot
//	 8  seq
//	 2  switch MTU
//	 1  NAT
//	 2  number of links, then each, by peer:
//	    32  peer
//	     1  state (low two bits) and the flags below
//	     4  RTT in microseconds
//	     2  MTU
//	     4  age in seconds
//	     0, 6 or 18  endpoint: address and port
//	64  signature of everything before it
//
// There is one encoding of each report and [Parse] takes no other. 500 links
// with IPv6 endpoints are 30,618 bytes.
const (
	format        = 1
	signatureSize = 64 // ed25519
	domain        = "weft links"

	headSize = 1 + crypto.IdentitySize + 8 + 8 + 2 + 1 + 2
	linkSize = crypto.IdentitySize + 1 + 4 + 2 + 4 // without endpoint

	maskState    = 0x03
	flagOutbound = 0x04
	flagBound    = 0x08
	flagIPv4     = 0x10 // an IPv4 endpoint follows
	flagIPv6     = 0x20
	unknownFlags = 0xc0

	maxRTT = math.MaxUint32 * time.Microsecond
	maxAge = math.MaxUint32 * time.Second
)

// Sign returns r as its owner's statement, for [Parse]. The owner is filled in
// from the key when it is zero. Round trips and ages are written in whole
// units, the most that there is a place for instead of more, and a round trip
// that was measured never as none; links come out by peer; an IPv4 address
// written as IPv6 becomes IPv4, and an endpoint with a zone, which means
// nothing elsewhere, is left out. Of more than [MaxLinks] links the best stay.
// What [Parse] would refuse otherwise is an error. r is not changed.
func Sign(k *crypto.Key, r Report) ([]byte, error) {
	if r.Owner.IsZero() {
		r.Owner = k.Identity()
	}
	if r.Owner != k.Identity() {
		return nil, fmt.Errorf("sign links: owner %s is not the key's (%s)", r.Owner.Fingerprint(), k.Identity().Fingerprint())
	}
	r.Links = best(r.Links)
	for i := range r.Links {
		l := &r.Links[i]
		l.RTT, l.Age = wholeRTT(l.RTT), min(l.Age.Truncate(time.Second), maxAge)
		l.Endpoint = netip.AddrPortFrom(l.Endpoint.Addr().Unmap(), l.Endpoint.Port())
		if !l.Endpoint.IsValid() || l.Endpoint.Addr().Zone() != "" {
			l.Endpoint = netip.AddrPort{}
		}
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("sign links: %w", err)
	}
	b := r.encode()
	return append(b, k.Sign(domain, b)...), nil
}

// wholeRTT rounds to microseconds, upwards so that a loopback is not taken for
// a link that was never measured.
func wholeRTT(d time.Duration) time.Duration {
	d = min(d, maxRTT)
	if down := d.Truncate(time.Microsecond); down < d {
		d = down + time.Microsecond
	}
	return d
}

// best returns a copy of links by peer, without the worst ones when there are
// too many: those who carry packets of others stay longest.
func best(links []Link) []Link {
	links = slices.Clone(links)
	if len(links) > MaxLinks {
		slices.SortFunc(links, func(a, b Link) int {
			return cmp.Or(worth(a)-worth(b), cmp.Compare(a.RTT, b.RTT), a.Peer.Compare(b.Peer))
		})
		links = links[:MaxLinks]
	}
	slices.SortFunc(links, byPeer)
	return links
}

// worth orders links, the best lowest.
func worth(l Link) int {
	switch {
	case l.State == Direct && l.Bound:
		return 0
	case l.State == Direct && l.RTT > 0:
		return 1
	}
	return 1 + int(l.State) // direct but never measured; relayed; pending
}

func byPeer(a, b Link) int { return a.Peer.Compare(b.Peer) }

// Parse reads and verifies the report in b, all of it, and keeps no part of b.
func Parse(b []byte) (Report, error) {
	if len(b) > MaxSize {
		return Report{}, fmt.Errorf("links: %d bytes, at most %d are taken", len(b), MaxSize)
	}
	if len(b) < headSize+signatureSize {
		return Report{}, errors.New("links: they are cut off")
	}
	body, signature := b[:len(b)-signatureSize], b[len(b)-signatureSize:]
	r, err := decode(body)
	if err != nil {
		return Report{}, fmt.Errorf("links: %w", err)
	}
	if err := r.check(); err != nil {
		return Report{}, fmt.Errorf("links: %w", err)
	}
	if !r.Owner.Verify(domain, body, signature) {
		return Report{}, fmt.Errorf("links: signature is not of %s", r.Owner.Fingerprint())
	}
	return r, nil
}

// check holds the limits that both Sign and Parse insist on.
func (r Report) check() error {
	switch {
	case r.NAT > NATSymmetric:
		return fmt.Errorf("NAT of %v is unknown", r.NAT)
	case r.SwitchMTU < 0 || r.SwitchMTU > math.MaxUint16:
		return fmt.Errorf("switch MTU of %d bytes", r.SwitchMTU)
	case len(r.Links) > MaxLinks:
		return fmt.Errorf("%d links, at most %d are taken", len(r.Links), MaxLinks)
	}
	for i, l := range r.Links {
		if err := l.check(); err != nil {
			return fmt.Errorf("link with %s: %w", l.Peer.Fingerprint(), err)
		}
		switch {
		case l.Peer == r.Owner:
			return errors.New("link with the owner itself")
		case i > 0 && l.Peer == r.Links[i-1].Peer:
			return fmt.Errorf("two links with %s", l.Peer.Fingerprint())
		case i > 0 && l.Peer.Compare(r.Links[i-1].Peer) < 0:
			return errors.New("links are not in order")
		}
	}
	return nil
}

func (l Link) check() error {
	switch {
	case l.State < Direct || l.State > Pending:
		return fmt.Errorf("%v is unknown", l.State)
	case l.RTT < 0 || l.Age < 0:
		return errors.New("time below zero")
	case l.MTU < 0 || l.MTU > math.MaxUint16:
		return fmt.Errorf("MTU of %d bytes", l.MTU)
	case l.Endpoint == netip.AddrPort{}:
		return nil
	case l.Endpoint.Port() == 0:
		return fmt.Errorf("endpoint %s has no port", l.Endpoint)
	case l.Endpoint.Addr().Is4In6():
		return fmt.Errorf("endpoint %s is IPv4 written as IPv6", l.Endpoint)
	}
	return nil
}

// encode writes what check takes.
func (r Report) encode() []byte {
	b := make([]byte, 0, headSize+len(r.Links)*(linkSize+18)+signatureSize)
	b = append(b, format)
	b = append(b, r.Owner[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Boot)
	b = binary.BigEndian.AppendUint64(b, r.Seq)
	b = binary.BigEndian.AppendUint16(b, uint16(r.SwitchMTU))
	b = append(b, byte(r.NAT))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Links)))
	for _, l := range r.Links {
		b = append(b, l.Peer[:]...)
		b = append(b, l.flags())
		b = binary.BigEndian.AppendUint32(b, uint32(l.RTT/time.Microsecond))
		b = binary.BigEndian.AppendUint16(b, uint16(l.MTU))
		b = binary.BigEndian.AppendUint32(b, uint32(l.Age/time.Second))
		if l.Endpoint.IsValid() {
			b = append(b, l.Endpoint.Addr().AsSlice()...)
			b = binary.BigEndian.AppendUint16(b, l.Endpoint.Port())
		}
	}
	return b
}

func (l Link) flags() byte {
	f := byte(l.State)
	if l.Outbound {
		f |= flagOutbound
	}
	if l.Bound {
		f |= flagBound
	}
	switch a := l.Endpoint.Addr(); {
	case a.Is4():
		f |= flagIPv4
	case a.Is6():
		f |= flagIPv6
	}
	return f
}

// decode reads the report in b, which holds a whole head. Nothing is allocated
// for links that b is too short for.
func decode(b []byte) (Report, error) {
	if b[0] != format {
		return Report{}, fmt.Errorf("format %d is unknown", b[0])
	}
	r := fields.Reader{Left: b[1:]}
	var out Report
	copy(out.Owner[:], r.Take(len(out.Owner)))
	out.Boot, out.Seq = r.Uint64(), r.Uint64()
	out.SwitchMTU, out.NAT = int(r.Uint16()), NATKind(r.Byte())
	n := int(r.Uint16())
	if n > MaxLinks {
		return Report{}, fmt.Errorf("%d links, at most %d are taken", n, MaxLinks)
	}
	if len(r.Left) < n*linkSize {
		return Report{}, errors.New("they are cut off")
	}
	out.Links = make([]Link, n)
	for i := range out.Links {
		if err := decodeLink(&r, &out.Links[i]); err != nil {
			return Report{}, err
		}
	}
	switch {
	case r.Short:
		return Report{}, errors.New("they are cut off")
	case len(r.Left) > 0:
		return Report{}, fmt.Errorf("%d bytes behind the last link", len(r.Left))
	}
	return out, nil
}

func decodeLink(r *fields.Reader, l *Link) error {
	copy(l.Peer[:], r.Take(len(l.Peer)))
	f := r.Byte()
	l.State, l.Outbound, l.Bound = LinkState(f&maskState), f&flagOutbound != 0, f&flagBound != 0
	l.RTT = time.Duration(r.Uint32()) * time.Microsecond
	l.MTU = int(r.Uint16())
	l.Age = time.Duration(r.Uint32()) * time.Second
	switch f & (unknownFlags | flagIPv4 | flagIPv6) {
	case 0:
	case flagIPv4:
		a := netip.AddrFrom4([4]byte(r.Array(4)))
		l.Endpoint = netip.AddrPortFrom(a, r.Uint16())
	case flagIPv6:
		a := netip.AddrFrom16([16]byte(r.Array(16)))
		l.Endpoint = netip.AddrPortFrom(a, r.Uint16())
	default:
		return fmt.Errorf("flags %#x of a link are unknown", f)
	}
	return nil
}
