package tunnel

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/wireguard"
)

// mtu is the search for what the direct path to a peer carries.
type mtu struct {
	endpoint netip.AddrPort // that is being measured; zero: none
	search   *path.MTUSearch
	told     int // as last logged
}

// stepMTUs measures every direct path.
func (t *Tunnels) stepMTUs(now time.Time) {
	if t.mtus.skip(now, t) {
		return
	}
	for _, w := range t.tunnels {
		r := w.machine.Route()
		if w.machine.State() != path.Established || !r.Direct() {
			continue
		}
		if w.mtu.endpoint != r.Endpoint {
			w.mtu = mtu{endpoint: r.Endpoint, search: path.NewMTUSearch(r.Endpoint.Addr().Is6(), t.ceiling)}
		}
		// A result is confirmed every 20 s, but not where nothing is sent: what
		// was put off is made up for by the first tick with traffic.
		if !w.mtu.search.Searching() && now.Sub(w.busy) > busyTime {
			continue
		}
		if at := w.mtu.search.Next(); at.IsZero() || !at.After(now) {
			t.searchMTU(now, w, path.MTUTick{})
		}
		t.mtus.want(w.mtu.search.Next())
	}
	t.wakeAt(t.mtus.due)
}

// searchMTU lets a search take a step and sends what it asks for. What our own
// interface refuses is told at once.
func (t *Tunnels) searchMTU(now time.Time, w *tunnel, e path.MTUEvent) {
	before := w.mtu.search.MTU()
	sizes := w.mtu.search.Step(now, e)
	for range 64 { // refusals lead to smaller sizes, which end
		if len(sizes) == 0 {
			break
		}
		size := sizes[0]
		sizes = sizes[1:]
		err := t.prober.Probe(now, w.peer.Identity, w.mtu.endpoint, size, 0, true)
		if tooLarge(err) {
			sizes = append(sizes, w.mtu.search.Step(now, path.MTURefused{Size: size})...)
		}
	}
	is := w.mtu.search.MTU()
	if is != before {
		t.graph.stale = true
		t.showAt = time.Time{}
	}
	if is != w.mtu.told && !w.mtu.search.Searching() { // not the steps on the way
		w.mtu.told = is
		t.log.Info("path MTU", "peer", w.peer.Name, "nickname", w.peer.Nickname, "endpoint", w.mtu.endpoint, "mtu", is)
	}
}

// answered tells a search of an answer.
func (t *Tunnels) answered(now time.Time, w *tunnel, r path.ProbeResult) {
	if w.mtu.search != nil && w.mtu.endpoint == r.Endpoint {
		t.searchMTU(now, w, path.MTUAnswered{Size: r.Size})
	}
}

// restartMTUs measures everything again, because our interfaces changed.
func (t *Tunnels) restartMTUs(now time.Time) {
	for _, w := range t.tunnels {
		if w.mtu.search != nil {
			t.searchMTU(now, w, path.MTURestart{Ceiling: t.ceiling})
		}
		w.rows.restart()
	}
}

// linkMTU is the largest IP packet that the direct path carries; 0: not
// measured.
func (w *tunnel) linkMTU() int {
	if w.mtu.search == nil || w.mtu.endpoint != w.machine.Route().Endpoint {
		return 0
	}
	return w.mtu.search.MTU()
}

// pathMTU is the largest IP packet towards the endpoint of the route in use
// whose content comes through to the peer; 0: not known.
func (w *tunnel) pathMTU() int {
	r := w.machine.Route()
	if r.Direct() {
		return w.linkMTU()
	}
	i := slices.IndexFunc(w.relays, func(x path.Relay) bool { return x.Endpoint == r.Endpoint })
	if i < 0 {
		return 0
	}
	return w.relays[i].MTU
}

// hopMTU is the largest IP packet that comes to the endpoint of the route in
// use; 0: not known.
func (t *Tunnels) hopMTU(w *tunnel) int {
	r := w.machine.Route()
	if !r.Relayed() {
		return w.linkMTU()
	}
	if first := t.tunnels[r.Via[0]]; first != nil && first.mtu.endpoint.Addr() == r.Endpoint.Addr() {
		return first.linkMTU()
	}
	return w.pathMTU()
}

// steady is what the path along a relay was said to carry, and since when. What
// others report is what their searches know, which grows; a number that grew is
// reported ten seconds later at most.
type steady struct {
	endpoint netip.AddrPort
	mtu      int
	since    time.Time
	told     int // what it was when it last stood still; 0: never
}

const steadyTime = 15 * time.Second

// see takes what is said now of the path to an endpoint.
func (s *steady) see(now time.Time, endpoint netip.AddrPort, mtu int) {
	if s.endpoint != endpoint {
		*s = steady{endpoint: endpoint, mtu: mtu, since: now}
	}
	if s.mtu != mtu {
		s.mtu, s.since = mtu, now
	}
	if now.Sub(s.since) >= steadyTime {
		s.told = mtu
	}
}

// settle lets a number that stands still be told to senders.
func (w *tunnel) settle(now time.Time) {
	if r := w.machine.Route(); r.Relayed() {
		w.steady.see(now, r.Endpoint, w.pathMTU())
	} else {
		w.steady = steady{}
	}
}

// toldMTU is like pathMTU, but does not follow the steps of a search.
func (w *tunnel) toldMTU() int {
	switch r := w.machine.Route(); {
	case r.Relayed() && w.steady.endpoint == r.Endpoint:
		return w.steady.told
	case r.Direct() && w.mtu.search != nil && w.mtu.endpoint == r.Endpoint:
		return w.mtu.told
	}
	return 0
}

// Way is what the plan has to know of the path to a peer.
type Way struct {
	Up       bool           // the tunnel stands
	MTU      int            // of the route inside the tunnel
	Endpoint netip.AddrPort // of the route in use: fragments are made by where packets go
	Open     bool           // few keepalives are enough
	// HopMTU is the largest IP packet that comes to Endpoint, PathMTU the largest
	// whose content comes through to the peer, in bytes; 0: not known. They
	// differ beyond a relay, which makes its own fragments.
	HopMTU, PathMTU int
	// Whole is the largest packet of a container that needs no fragments
	// outside. What is larger, up to the MTU of the switch, is cut below the
	// tunnel, unless its sender can be told.
	Whole int
	// Told is what such a sender is told: Whole as it was when it was known for
	// sure, since a sender remembers for ten minutes; the MTU of the switch before.
	Told int
	// Single says that packets to Endpoint leave one by one: coalesced ones do
	// not arrive there.
	Single bool
}

// Way returns the path to a peer as it is now.
func (t *Tunnels) Way(id crypto.Identity) Way {
	if w, ok := t.snapshot.Load().ways[id]; ok {
		return w
	}
	return Way{MTU: t.cfg.MTU + fdb.Encapsulation, Whole: t.cfg.MTU, Told: t.cfg.MTU}
}

// way computes what [Tunnels.Way] tells. A VLAN tag is worth a fragment, every
// full TCP segment of gossip is not: hence no 4 bytes for it here.
func (t *Tunnels) way(w *tunnel) Way {
	out := Way{
		Up: w.machine.State() == path.Established, Endpoint: w.machine.Route().Endpoint, Open: t.open(w), Single: t.single(w),
		HopMTU: t.hopMTU(w), PathMTU: w.pathMTU(), Whole: t.cfg.MTU,
	}
	// A host drops frames that its switch is too small for.
	if theirs := t.graph.reports[w.peer.Identity].SwitchMTU; theirs > 0 {
		out.Whole = max(min(out.Whole, theirs), wireguard.MinMTU-fdb.Encapsulation)
	}
	out.MTU, out.Told = out.Whole+fdb.Encapsulation, out.Whole
	if out.PathMTU > 0 {
		out.Whole = min(out.Whole, fdb.InnerMTU(out.PathMTU, out.Endpoint.Addr().Is6()))
	}
	if told := w.toldMTU(); told > 0 {
		out.Told = min(out.Told, fdb.InnerMTU(told, out.Endpoint.Addr().Is6()))
	}
	return out
}
