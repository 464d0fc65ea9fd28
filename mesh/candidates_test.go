package mesh

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/mesh/advert"
)

// Candidates are only where another host may be, whoever names them.
func TestCandidatesAreUsable(t *testing.T) {
	inside := netip.MustParsePrefix("10.32.0.0/12")
	m := alone(t, func(c *Config) {
		c.Usable = func(ep netip.AddrPort) bool { return !inside.Contains(ep.Addr()) }
	})
	at := netip.MustParseAddrPort
	a := signed(t, 1, func(a *advert.Advert) {
		a.Endpoints = []netip.AddrPort{at("10.32.0.9:6784"), at("198.51.100.1:6784"), at("10.33.0.9:6784")}
	})
	if _, err := m.learn(time.Now(), a); err != nil {
		t.Fatal(err)
	}
	p := m.peers[a.Identity]
	p.good, p.met = at("10.32.0.1:6784"), at("10.32.0.2:6784")
	if got := m.candidates(p); !slices.Equal(got, []netip.AddrPort{at("198.51.100.1:6784")}) {
		t.Errorf("candidates %v", got)
	}
}
