package advert

import (
	"net/netip"

	"github.com/weftnet/weft/crypto"
)

var (
	// "This network" (RFC 791) and the reserved block with the broadcast
	// address (RFC 1112): nobody is reached there.
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	reserved    = netip.MustParsePrefix("240.0.0.0/4")
)

// Usable reports whether packets may ever be sent to a candidate endpoint, our
// own or one that a peer claims. It is false for no port, unspecified,
// loopback, multicast and broadcast addresses, link-local ones without a zone
// (all of 169.254.0.0/16, so the DNS server's too) and overlay addresses.
// Switch, bridge and Docker addresses are for the caller, who knows them.
func Usable(ep netip.AddrPort) bool {
	a := ep.Addr().Unmap()
	switch {
	case !a.IsValid() || ep.Port() == 0,
		a.IsUnspecified() || a.IsLoopback() || a.IsMulticast(),
		a.IsLinkLocalUnicast() && a.Zone() == "",
		a.Is4() && (thisNetwork.Contains(a) || reserved.Contains(a)),
		crypto.OverlayPrefix.Contains(a.WithZone("")):
		return false
	}
	return true
}
