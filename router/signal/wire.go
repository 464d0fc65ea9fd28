package signal

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// The bytes of a packet, integers big-endian:
//
//	 1  0x57
//	 1  kind
//	 8  from
//	 8  to
//	 8  number
//	    body, see bodySizes
//	    padding: zeros, see Most
//	16  MAC: HMAC-SHA256 of the domain and everything before it, cut short
//
// The bodies:
//
//	Probe      nothing
//	ProbeReply observed 18
//	Bind       boot 8, role 1, cookie 8
//	BindReply  boot 8, role 1, cookie 8, accepted 1, observed 18
//	Notice     boot 8, index 4
//	Hush       boot 8, peer 8, milliseconds 2
//	Invite     boot 8
//
// An observed address is one of IPv6, or of IPv4 mapped into IPv6 (RFC 4291
// section 2.5.5.2), and a port; all zeros: none. There is one encoding of each
// packet and [Parse] takes no other.
const (
	headerSize   = 26
	alikeSize    = 18 // what all that a host sends a peer of one kind begins with
	macSize      = 16
	addrPortSize = 18
	maxUnknown   = 1500 // bytes of a packet that is looked at although its kind is not known
	domain       = "weft signal 1"
)

// bodySizes are the lengths of the bodies, by kind.
var bodySizes = [...]int{
	Probe: 0, ProbeReply: addrPortSize, Bind: 17, BindReply: 18 + addrPortSize, Notice: 12, Hush: 18, Invite: 8,
}

// Least returns the size in bytes of a packet of this kind without needless
// padding. A request is padded to the size of its reply, so that nobody makes
// a host send more than it got. An unknown kind panics.
func (k Kind) Least() int {
	if !k.known() {
		panic("signal: " + k.String() + " is unknown")
	}
	longest := bodySizes[k]
	switch k {
	case Probe:
		longest = bodySizes[ProbeReply]
	case Bind:
		longest = bodySizes[BindReply]
	default:
	}
	return headerSize + longest + macSize
}

// Most returns the size in bytes of the largest packet of this kind. Only a
// probe has a reason to be long; an invitation may be as long as the bind that
// it makes somebody send. An unknown kind panics.
func (k Kind) Most() int {
	switch k {
	case Probe:
		return MaxSize
	case Invite:
		return Bind.Least()
	default:
		return k.Least()
	}
}

// Is reports whether a packet that came in at a port shared with WireGuard is
// one of ours by its first byte. [Parse] says whether it is a whole one.
func Is(b []byte) bool { return len(b) > 0 && b[0] == First }

// Split yields the packets in what came as one. The kernel gives who listens
// beside the socket of a port (raw(7)) what the sender coalesced (UDP GSO)
// before it cuts that up for the socket, and does not say where. All but the
// last are of one size and begin alike. Anything else is yielded as it is: for
// [Parse] to refuse.
func Split(b []byte) iter.Seq[[]byte] {
	size := len(b)
	if least := headerSize + macSize; size > least+alikeSize {
		if i := bytes.Index(b[least:], b[:alikeSize]); i >= 0 {
			size = least + i
		}
	}
	return slices.Chunk(b, max(size, 1))
}

// Append appends the packet to b, with a MAC under the key of the two hosts
// ([crypto.Keys.PairKey]). Size is raised to [Kind.Least] and cut to
// [Kind.Most], For to [MaxHush]; an address loses its zone. An unknown kind panics.
func (p Packet) Append(b []byte, key [32]byte) []byte {
	start := len(b)
	b = append(b, First, byte(p.Kind))
	b = append(b, p.From[:]...)
	b = append(b, p.To[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Number)
	b = p.appendBody(b)
	size := min(max(p.Size, p.Kind.Least()), p.Kind.Most())
	b = append(b, make([]byte, size-macSize-(len(b)-start))...)
	sum := mac(b[start:], key)
	return append(b, sum[:macSize]...)
}

func (p Packet) appendBody(b []byte) []byte {
	switch p.Kind {
	case Probe:
	case ProbeReply:
		b = appendAddrPort(b, p.Observed)
	case Bind, BindReply:
		b = binary.BigEndian.AppendUint64(b, p.Boot)
		b = append(b, byte(p.Role))
		b = append(b, p.Cookie[:]...)
		if p.Kind == BindReply {
			b = append(b, bit(p.Accepted))
			b = appendAddrPort(b, p.Observed)
		}
	case Notice:
		b = binary.BigEndian.AppendUint64(b, p.Boot)
		b = binary.BigEndian.AppendUint32(b, p.Index)
	case Hush:
		b = binary.BigEndian.AppendUint64(b, p.Boot)
		b = append(b, p.Peer[:]...)
		b = binary.BigEndian.AppendUint16(b, uint16(min(max(p.For, 0), MaxHush)/time.Millisecond))
	case Invite:
		b = binary.BigEndian.AppendUint64(b, p.Boot)
	}
	return b
}

// Parse reads the packet in b, all of it, and keeps no part of b. It looks at
// the form only: who made it is for [Verify] to say.
func Parse(b []byte) (Packet, error) {
	if len(b) > MaxSize {
		return Packet{}, fmt.Errorf("signal: %d bytes, at most %d are taken", len(b), MaxSize)
	}
	if len(b) < headerSize+macSize || !Is(b) {
		return Packet{}, errors.New("signal: not a packet of ours")
	}
	p := Packet{
		Kind: Kind(b[1]), From: ID(b[2:10]), To: ID(b[10:18]),
		Number: binary.BigEndian.Uint64(b[18:26]), Size: len(b),
	}
	if !p.Kind.known() {
		return Packet{}, fmt.Errorf("signal: %v is unknown", p.Kind)
	}
	if least := p.Kind.Least(); len(b) < least {
		return Packet{}, fmt.Errorf("signal: %v of %d bytes, want at least %d", p.Kind, len(b), least)
	}
	if most := p.Kind.Most(); len(b) > most {
		return Packet{}, fmt.Errorf("signal: %v of %d bytes, want at most %d", p.Kind, len(b), most)
	}
	rest := b[headerSize : len(b)-macSize]
	if err := p.parseBody(rest[:bodySizes[p.Kind]]); err != nil {
		return Packet{}, fmt.Errorf("signal: %v: %w", p.Kind, err)
	}
	for _, c := range rest[bodySizes[p.Kind]:] {
		if c != 0 {
			return Packet{}, fmt.Errorf("signal: %v: padding is not zero", p.Kind)
		}
	}
	return p, nil
}

// SenderOfUnknown returns who says to have sent a packet of a kind that this
// version does not know, zero for any other; [Verify] tells whether that is so.
func SenderOfUnknown(b []byte) ID {
	if len(b) < headerSize+macSize || len(b) > maxUnknown || !Is(b) || Kind(b[1]).known() {
		return ID{}
	}
	return ID(b[2:10])
}

// parseBody reads a body of the right length.
func (p *Packet) parseBody(b []byte) (err error) {
	if p.Kind >= Bind {
		p.Boot, b = binary.BigEndian.Uint64(b), b[8:]
	}
	switch p.Kind {
	case ProbeReply:
		p.Observed, err = parseAddrPort(b)
	case Bind, BindReply:
		if p.Role = Role(b[0]); p.Role > RelayPort {
			return fmt.Errorf("%v is unknown", p.Role)
		}
		p.Cookie = [8]byte(b[1:9])
		if p.Kind == Bind {
			break
		}
		if b[9] > 1 {
			return fmt.Errorf("accepted is %d, want 0 or 1", b[9])
		}
		p.Accepted = b[9] == 1
		p.Observed, err = parseAddrPort(b[10:])
	case Notice:
		p.Index = binary.BigEndian.Uint32(b)
	case Hush:
		p.Peer = ID(b[:8])
		p.For = time.Duration(binary.BigEndian.Uint16(b[8:])) * time.Millisecond
		if p.For > MaxHush {
			return fmt.Errorf("for %v, at most %v are taken", p.For, MaxHush)
		}
	case Probe, Invite:
	}
	return err
}

// Verify reports whether the MAC at the end of b was made with the key. It
// takes the same time for every wrong MAC.
func Verify(b []byte, key [32]byte) bool {
	if len(b) < headerSize+macSize {
		return false
	}
	said := b[len(b)-macSize:]
	sum := mac(b[:len(b)-macSize], key)
	return hmac.Equal(said, sum[:macSize])
}

// mac authenticates b for this purpose and no other.
func mac(b []byte, key [32]byte) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte{byte(len(domain))})
	h.Write([]byte(domain))
	h.Write(b)
	h.Sum(sum[:0])
	return sum
}

func appendAddrPort(b []byte, ap netip.AddrPort) []byte {
	if !ap.IsValid() || ap.Addr().WithZone("") == netip.IPv6Unspecified() {
		return append(b, make([]byte, addrPortSize)...) // nobody was seen there
	}
	a := ap.Addr().As16()
	return binary.BigEndian.AppendUint16(append(b, a[:]...), ap.Port())
}

// parseAddrPort reads what appendAddrPort wrote.
func parseAddrPort(b []byte) (netip.AddrPort, error) {
	a := netip.AddrFrom16([16]byte(b[:16])).Unmap()
	ap := netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[16:]))
	if a == netip.IPv6Unspecified() {
		if ap.Port() != 0 {
			return netip.AddrPort{}, errors.New("observed port without an address")
		}
		return netip.AddrPort{}, nil
	}
	return ap, nil
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}
