package tunnel

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/router/signal"
)

// A peer that is not to be dialled (--no-discovery, --conn-limit) is answered
// where it asks, and never asked or punched at; nobody is asked at an address
// where no host can be.
func TestAskedBy(t *testing.T) {
	ep := addrPort("192.0.2.77:6784")
	for _, c := range []struct {
		name    string
		passive bool
		usable  func(netip.AddrPort) bool
		asked   bool
	}{
		{"may be dialled", false, advert.Usable, true},
		{"may not", true, advert.Usable, false},
		{"on the switch", false, func(netip.AddrPort) bool { return false }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				var h host
				for b := byte(2); ; b++ { // that decides, so that its signal counts
					if h = hostOf(t, b, "peer"); h.peer.Identity.Compare(hostOf(t, 1, "").peer.Identity) < 0 {
						break
					}
				}
				tn := start(t, w)
				tn.cfg.Usable = c.usable
				h.peer.Candidates, h.peer.Passive = nil, c.passive
				h.peer.Endpoints = []netip.AddrPort{ep}
				relay := hostOf(t, 99, "relay")
				w.shake(h.peer, addrPort("192.0.2.99:6783"))
				w.echoes(tn)
				tn.SetView(mesh.View{Peers: []mesh.Peer{h.peer, relay.peer}})
				time.Sleep(time.Second)
				tn.Deliver(h.peer.Identity, encodePunch([]netip.AddrPort{ep}))
				time.Sleep(time.Second)
				if got := w.did("probe to " + ep.String()); (got > 0) != c.asked {
					t.Errorf("a signal to punch makes %d probes", got)
				}
				before := w.did("probe to " + ep.String())
				for i := range uint64(10) {
					b := signal.Packet{
						Kind: signal.Probe, From: signal.IDOf(h.peer.Identity), To: signal.IDOf(tn.self), Number: 1 + i,
					}.Append(nil, testKeys.PairKey(tn.self, h.peer.Identity))
					tn.Receive(ep, netip.Addr{}, b)
					time.Sleep(2 * time.Second)
				}
				if got := w.did("probe reply to " + ep.String()); got != 10 {
					t.Errorf("%d of 10 probes were answered: %q", got, w.done)
				}
				if got := w.did("probe to "+ep.String()) - before; (got > 0) != c.asked {
					t.Errorf("10 probes of the peer made %d of ours", got)
				}
			})
		})
	}
}
