// Package signal holds the small authenticated packets that daemons send each
// other outside the tunnels: probes of a path, and what a host and its relays
// tell each other. It owns their types, their bytes and their MAC.
//
// It is pure: no socket, no clock, no state. It does not know who a peer is or
// which number was used before, nor whether a packet deserves an answer; the
// ends do (router/path for probes, router/relay for the others).
package signal

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"github.com/weftnet/weft/crypto"
)

// First is the first byte of every packet. WireGuard ignores it: its own
// packets begin with 1 to 4 (docs/protocol.md#signals).
const First = 0x57

// The limits of a packet.
const (
	// MaxSize is the largest packet in bytes: what UDP over IPv4 carries.
	MaxSize = 65535 - HeadersIPv4
	// MaxHush is the longest time a [Hush] may ask for.
	MaxHush = 3 * time.Second
)

// The bytes of the headers before a UDP payload: IP without options or extension
// headers, and UDP.
const (
	HeadersIPv4 = 20 + 8
	HeadersIPv6 = 40 + 8
)

// Headers returns the bytes of the headers before what is sent to an address.
func Headers(a netip.Addr) int {
	if a.Unmap().Is4() {
		return HeadersIPv4
	}
	return HeadersIPv6
}

// ID names a host within a packet: the first eight bytes of its identity. It
// only helps to find the key; the key is made of both whole identities.
type ID [8]byte

// IDOf returns the ID of a host.
func IDOf(id crypto.Identity) ID { return ID(id[:8]) }

// String returns the ID in hexadecimal, like [crypto.Identity.Fingerprint].
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Kind is what a packet is for.
type Kind uint8

// The kinds.
const (
	Probe      Kind = 1 // do you hear me there?
	ProbeReply Kind = 2 // yes, and this is where you seem to be
	Bind       Kind = 3 // to a relay: this is where I am reached
	BindReply  Kind = 4 // the cookie to come back with, or that the bind holds
	Notice     Kind = 5 // from a relay: I know no session with this index
	Hush       Kind = 6 // to a relay: send me nothing of that peer for a while
	Invite     Kind = 7 // from a relay: bind here, at the address this comes from
)

// kindNames are the words for people, by kind.
var kindNames = [...]string{
	Probe: "probe", ProbeReply: "probe reply", Bind: "bind", BindReply: "bind reply",
	Notice: "notice", Hush: "hush", Invite: "invite",
}

func (k Kind) known() bool { return k >= Probe && k <= Invite }

// String returns the kind's words.
func (k Kind) String() string {
	if !k.known() {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return kindNames[k]
}

// Role says which port of the sender a bind is for.
type Role uint8

// The roles.
const (
	WireGuardPort Role = 0 // as an end of tunnels
	RelayPort     Role = 1 // as a relay for others
)

// String returns the role's words.
func (r Role) String() string {
	switch r {
	case WireGuardPort:
		return "wireguard port"
	case RelayPort:
		return "relay port"
	default:
		return fmt.Sprintf("role %d", uint8(r))
	}
}

// Packet is one packet. Fields that its kind does not carry are zero after
// [Parse] and are left out by [Packet.Append].
type Packet struct {
	Kind     Kind
	From, To ID
	// Number is random in a probe and repeated by the replies. In a bind,
	// notice, hush or invite it counts up within the sender's Boot.
	Number uint64

	Boot     uint64         // Bind, BindReply, Notice, Hush, Invite: of the sender's daemon
	Cookie   [8]byte        // Bind: the one in the relay's last reply, zero: none; BindReply: the one to use
	Accepted bool           // BindReply: the bind holds, its cookie was right
	Observed netip.AddrPort // ProbeReply, BindReply: where the request came from
	Role     Role           // Bind, BindReply
	Index    uint32         // Notice: the receiver index that nobody knows
	Peer     ID             // Hush: whose packets
	For      time.Duration  // Hush: how long, in whole milliseconds, at most MaxHush

	// Size is the length of the whole packet in bytes. Append pads up to it,
	// between [Kind.Least] and [Kind.Most].
	Size int
}
