// Package topology holds what hosts tell each other of their links, and what
// follows from it: through which relays a peer is reached, where a relay
// passes packets on to, and at which neighbours' relays a host should be
// bound.
//
// It owns the report and its bytes, when a report is worth being published
// ([Publisher]), which reports count ([Book]), and the graph made of them. It
// is pure: no socket, no goroutine, no clock. It does not measure links, does
// not choose between a direct path and a relay (router/path does), and does
// not know how reports travel (mesh does, as an entry under [EntryKey]).
//
// # Edges
//
// A report is its owner's word alone. An edge counts only when both ends list
// each other as [Direct], at the worse of the two round trips and the lesser
// of the two MTUs: a lying member can make its own links look bad, and invents
// none that others would be sent over.
//
// # Relaying
//
// A relay forwards only between those who are bound there, so an edge can be
// part of a route only where somebody is bound:
//
//	self ──▶ r₁      self is bound at r₁
//	r₁ ──▶ r₂        either is bound at the other
//	r₂ ──▶ peer      the peer is bound at r₂
//
// No packet carries its route: r₁ passes on to where its own graph says. The
// cost of what is left falls with every hop, so hosts with equal reports never
// pass a packet in a circle.
package topology

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/weftnet/weft/crypto"
)

// EntryKey is the key of the entry in which every host publishes its report.
const EntryKey = "links"

// Limits of a report. [Parse] refuses what exceeds them.
const (
	MaxLinks = 500      // of one report
	MaxSize  = 32 << 10 // bytes with the signature; what an entry holds
)

// MaxRelays is how many relays a route has at most. It is a bound on what one
// answer may cost, not a limit of forwarding.
const MaxRelays = 64

// LinkState says how the owner of a report reaches a peer.
type LinkState uint8

// The states of a link.
const (
	Direct  LinkState = 1 // packets go straight to an endpoint of the peer
	Relayed LinkState = 2 // a tunnel stands, through relays
	Pending LinkState = 3 // no tunnel stands
)

// String returns the state as a lower-case word.
func (s LinkState) String() string {
	switch s {
	case Direct:
		return "direct"
	case Relayed:
		return "relayed"
	case Pending:
		return "pending"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// NATKind says what a host found out about the NAT in front of it.
type NATKind uint8

// The kinds of NAT. The words are those of RFC 4787 section 4.1, "symmetric"
// being what it calls an address- or port-dependent mapping.
const (
	NATUnknown             NATKind = 0 // not enough neighbours have told what they see
	NATNone                NATKind = 1 // neighbours see an address of the host itself
	NATEndpointIndependent NATKind = 2 // all neighbours see the same address
	NATSymmetric           NATKind = 3 // they see different ones
)

// String returns the kind as lower-case words.
func (k NATKind) String() string {
	switch k {
	case NATUnknown:
		return "unknown"
	case NATNone:
		return "none"
	case NATEndpointIndependent:
		return "endpoint-independent"
	case NATSymmetric:
		return "symmetric"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Link is what a host says of its link with one peer.
type Link struct {
	Peer     crypto.Identity
	State    LinkState
	Outbound bool           // we made the first packet
	Endpoint netip.AddrPort // of the peer, as seen from here; invalid: not known
	RTT      time.Duration  // the least lately, in whole microseconds; 0: not measured
	MTU      int            // largest IP packet to it in bytes; 0: not known
	// Bound says that we are bound at the peer's relay: it can be the first
	// relay from us and the last one to us.
	Bound bool
	Age   time.Duration // since the link is in this state, in whole seconds
}

// Report is what a host says of its links. A newer one replaces an older one
// as a whole: of one boot, that with the greater Seq.
type Report struct {
	Owner     crypto.Identity
	Boot      uint64 // of the daemon; that of the owner's advert
	Seq       uint64 // counts within a boot
	SwitchMTU int    // of the switch port, in bytes; 0: not known
	NAT       NATKind
	Links     []Link // by Peer
}

// Route is a way to a peer through relays.
type Route struct {
	Via []crypto.Identity // first to last, at least one
	RTT time.Duration     // of all hops together
	// MTU is the largest IP packet to the first relay whose content fits
	// through every hop that has measured one, in bytes; 0: none has.
	MTU int
}
