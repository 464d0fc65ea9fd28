package advert

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/fields"
)

// The bytes of an advert, integers big-endian:
//
//	 1  format: 1, or 2 for the advert of a peer that is gone
//	32  identity
//	 6  name
//	 8  boot
//	 8  seq
//	32  WireGuard key
//	 2  hello port
//	 1  data path
//	 1  length of the nickname, then the nickname
//	 1  length of the version, then the version
//	 1  number of endpoints, then each: 4 or 6, address of 4 or 16 bytes, port of 2
//	64  signature of everything before it
//
// There is one encoding of each advert and [Parse] takes no other, so that
// equal adverts are equal bytes everywhere.
const (
	format        = 1
	formatGone    = 2 // a reader that does not know it refuses the advert
	signatureSize = 64
	domain        = "weft advert"
)

// Signed is an advert with the bytes that its owner signed. It is immutable:
// the endpoints must not be written to.
type Signed struct {
	Advert
	raw []byte
}

// Sign makes k's advert. Identity, Name and WireGuard are filled in from the
// key when they are zero; an IPv4 address written as IPv6 becomes IPv4, and of
// equal endpoints the first stays. What [Parse] would refuse is an error.
func Sign(k *crypto.Key, a Advert) (Signed, error) {
	if a.Identity.IsZero() {
		a.Identity = k.Identity()
	}
	if a.Identity != k.Identity() {
		return Signed{}, fmt.Errorf("sign advert: identity %s is not the key's (%s)",
			a.Identity.Fingerprint(), k.Identity().Fingerprint())
	}
	if a.Name.IsZero() {
		a.Name = a.Identity.Name()
	}
	if a.WireGuard == ([32]byte{}) {
		a.WireGuard = k.WireGuardPublic()
	}
	var endpoints []netip.AddrPort
	for _, ep := range a.Endpoints {
		ep = netip.AddrPortFrom(ep.Addr().Unmap(), ep.Port())
		if !slices.Contains(endpoints, ep) {
			endpoints = append(endpoints, ep)
		}
	}
	a.Endpoints = endpoints
	if err := a.check(); err != nil {
		return Signed{}, fmt.Errorf("sign advert: %w", err)
	}
	b := a.encode()
	return Signed{Advert: a, raw: append(b, k.Sign(domain, b)...)}, nil
}

// Parse reads and verifies the advert in b, all of it, and keeps no part of b.
func Parse(b []byte) (Signed, error) {
	if len(b) > MaxSize {
		return Signed{}, fmt.Errorf("advert: %d bytes, at most %d are taken", len(b), MaxSize)
	}
	a, rest, err := decode(b)
	if err != nil {
		return Signed{}, fmt.Errorf("advert: %w", err)
	}
	if len(rest) != signatureSize {
		return Signed{}, fmt.Errorf("advert: signature of %d bytes, want %d", len(rest), signatureSize)
	}
	if err := a.check(); err != nil {
		return Signed{}, fmt.Errorf("advert: %w", err)
	}
	if !a.Identity.Verify(domain, b[:len(b)-signatureSize], rest) {
		return Signed{}, fmt.Errorf("advert: signature is not of %s", a.Identity.Fingerprint())
	}
	return Signed{Advert: a, raw: bytes.Clone(b)}, nil
}

// Bytes returns a copy of the signed bytes; [Parse] reads them.
func (s Signed) Bytes() []byte { return bytes.Clone(s.raw) }

// Newer reports whether s replaces o: the same identity says something later.
// Of two adverts with one sequence number neither is newer.
func (s Signed) Newer(o Signed) bool { return s.Identity == o.Identity && s.Seq > o.Seq }

// check holds the limits that both Sign and Parse insist on.
func (a Advert) check() error {
	switch {
	case a.Name.IsZero():
		return errors.New("name is zero")
	case a.WireGuard == [32]byte{}:
		return errors.New("WireGuard key is zero")
	case a.HelloPort == 0:
		return errors.New("introduction port is zero")
	case a.Datapath != Userspace && a.Datapath != Kernel:
		return fmt.Errorf("data path %d is unknown", a.Datapath)
	case len(a.Endpoints) > MaxEndpoints:
		return fmt.Errorf("%d endpoints, at most %d are taken", len(a.Endpoints), MaxEndpoints)
	}
	if err := checkText("nickname", a.Nickname, MaxNickname); err != nil {
		return err
	}
	if err := checkText("version", a.Version, MaxVersion); err != nil {
		return err
	}
	for i, ep := range a.Endpoints {
		switch {
		case !ep.IsValid() || ep.Port() == 0:
			return fmt.Errorf("endpoint %q has no address or no port", ep)
		case ep.Addr().Zone() != "":
			return fmt.Errorf("endpoint %s has a zone, which means nothing elsewhere", ep)
		case ep.Addr().Is4In6():
			return fmt.Errorf("endpoint %s is IPv4 written as IPv6", ep)
		case slices.Contains(a.Endpoints[:i], ep):
			return fmt.Errorf("endpoint %s twice", ep)
		}
	}
	return nil
}

// checkText refuses what could garble or forge a line on somebody's terminal:
// control characters, and the invisible ones that change direction or end a
// line.
func checkText(what, s string, most int) error {
	if len(s) > most {
		return fmt.Errorf("%s of %d bytes, at most %d are taken", what, len(s), most)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s is not UTF-8", what)
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return fmt.Errorf("%s contains control character %U", what, r)
		}
	}
	return nil
}

func (a Advert) encode() []byte {
	b := make([]byte, 0, 512)
	if a.Gone {
		b = append(b, formatGone)
	} else {
		b = append(b, format)
	}
	b = append(b, a.Identity[:]...)
	b = append(b, a.Name[:]...)
	b = binary.BigEndian.AppendUint64(b, a.Boot)
	b = binary.BigEndian.AppendUint64(b, a.Seq)
	b = append(b, a.WireGuard[:]...)
	b = binary.BigEndian.AppendUint16(b, a.HelloPort)
	b = append(b, byte(a.Datapath))
	b = append(append(b, byte(len(a.Nickname))), a.Nickname...)
	b = append(append(b, byte(len(a.Version))), a.Version...)
	b = append(b, byte(len(a.Endpoints)))
	for _, ep := range a.Endpoints {
		family := byte(6)
		if ep.Addr().Is4() {
			family = 4
		}
		b = append(append(b, family), ep.Addr().AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, ep.Port())
	}
	return b
}

// decode reads an advert and returns what follows it.
func decode(b []byte) (Advert, []byte, error) {
	r := fields.Reader{Left: b}
	f := r.Byte()
	if !r.Short && f != format && f != formatGone {
		return Advert{}, nil, fmt.Errorf("format %d is unknown", f)
	}
	a := Advert{Gone: f == formatGone}
	copy(a.Identity[:], r.Take(len(a.Identity)))
	copy(a.Name[:], r.Take(len(a.Name)))
	a.Boot = r.Uint64()
	a.Seq = r.Uint64()
	copy(a.WireGuard[:], r.Take(len(a.WireGuard)))
	a.HelloPort = r.Uint16()
	a.Datapath = Datapath(r.Byte())
	a.Nickname = string(r.Take(int(r.Byte())))
	a.Version = string(r.Take(int(r.Byte())))
	n := int(r.Byte())
	if n > MaxEndpoints {
		return Advert{}, nil, fmt.Errorf("%d endpoints, at most %d are taken", n, MaxEndpoints)
	}
	for range n {
		var addr netip.Addr
		switch family := r.Byte(); family {
		case 4:
			addr = netip.AddrFrom4([4]byte(r.Array(4)))
		case 6:
			addr = netip.AddrFrom16([16]byte(r.Array(16)))
		default:
			if !r.Short {
				return Advert{}, nil, fmt.Errorf("address family %d is unknown", family)
			}
		}
		a.Endpoints = append(a.Endpoints, netip.AddrPortFrom(addr, r.Uint16()))
	}
	if r.Short {
		return Advert{}, nil, errors.New("it is cut off")
	}
	return a, r.Left, nil
}
