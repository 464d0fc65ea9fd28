package path

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
)

// Route is where packets to a peer are sent. A Route is a value: nobody changes
// what Via points to.
type Route struct {
	// Endpoint is one of the peer's, or the relay port of the first relay;
	// zero: there is no route.
	Endpoint netip.AddrPort
	// Via are the relays on the way, nearest first; empty: direct. It may be
	// longer than what we know of it: only the first relay is our choice.
	Via []crypto.Identity
}

// Direct reports whether there is a route, and no relay on it.
func (r Route) Direct() bool { return r.Endpoint.IsValid() && len(r.Via) == 0 }

// Relayed reports whether a relay is on the route.
func (r Route) Relayed() bool { return len(r.Via) > 0 }

// Equal reports whether two routes are the same, relays included.
func (r Route) Equal(o Route) bool {
	return r.Endpoint == o.Endpoint && slices.Equal(r.Via, o.Via)
}

// String returns the endpoint and the names of the relays.
func (r Route) String() string {
	if !r.Endpoint.IsValid() {
		return "none"
	}
	if r.Direct() {
		return r.Endpoint.String()
	}
	names := make([]string, len(r.Via))
	for i, id := range r.Via {
		names[i] = id.Name().String()
	}
	return r.Endpoint.String() + " via " + strings.Join(names, ",")
}

// Relay is a way to a peer through relays that can be used now.
type Relay struct {
	Route
	RTT time.Duration // to the peer, as reported; 0: not known
	MTU int           // the largest IP packet on the way, in bytes; 0: not known
}
