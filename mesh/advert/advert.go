// Package advert holds what a peer says about itself: the types, their bytes
// and the signature over them. It is pure: no sockets, no clock, no state.
//
// It does not decide which of two adverts is believed by whom (mesh does) nor
// how adverts travel (mesh/hello and mesh/replica do).
package advert

import (
	"net/netip"

	"github.com/weftnet/weft/crypto"
)

// Limits of an advert. Larger ones are refused by [Parse] and [Sign].
const (
	MaxEndpoints = 8
	MaxNickname  = 64 // bytes
	MaxVersion   = 32 // bytes
	MaxSize      = 1024
)

// Datapath says how a host moves packets.
type Datapath uint8

// The data paths.
const (
	Userspace Datapath = 1
	Kernel    Datapath = 2
)

// Advert is what a peer says about itself. A newer one replaces an older one
// as a whole; newer means the greater Seq, never a time.
type Advert struct {
	Identity  crypto.Identity
	Name      crypto.Name // label; the derived one unless set by hand
	Nickname  string      // UTF-8 without control characters
	Boot      uint64      // random at each start of the daemon
	Seq       uint64
	WireGuard [32]byte         // X25519 public key
	Endpoints []netip.AddrPort // where its WireGuard port may be reached, best first
	HelloPort uint16           // TCP port of the introduction at those addresses
	Datapath  Datapath
	Version   string // of the program, for people
	// Gone says that these are its last words: it has left the cluster for
	// good, and everybody forgets it. It may come back with a greater Seq.
	Gone bool
}
