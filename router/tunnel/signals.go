package tunnel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/relay"
	"github.com/weftnet/weft/router/signal"
)

// signalled takes what a relay sent us.
func (t *Tunnels) signalled(now time.Time, e signalled) {
	said := t.keeper.Handle(now, e.from, e.role, e.packet, e.raw)
	t.graph.rebound = true
	if said.Kind != relay.Nothing {
		t.log.Debug("relay", "peer", said.Peer.Name(), "address", said.Addr, "said", said.Kind, "to", e.role)
	}
	ours := e.role == signal.WireGuardPort
	switch said.Kind {
	case relay.Nothing, relay.Invited:
	case relay.Bound:
		t.graph.stale = true
	case relay.Restarted:
		t.graph.stale = true
		if ours {
			t.tellUsers(now, said.Addr, path.Restarted{Endpoint: said.Addr})
		} else {
			t.cfg.Relay.ForgetAll(said.Peer)
		}
	case relay.Noticed:
		if ours {
			t.tellUsers(now, said.Addr, path.Unknown{})
		} else {
			t.cfg.Relay.Forget(said.Peer, said.Index)
		}
	}
}

// tellUsers tells the machines whose route begins at a relay.
func (t *Tunnels) tellUsers(now time.Time, at netip.AddrPort, e path.Event) {
	for _, w := range t.tunnels {
		if r := w.machine.Route(); r.Relayed() && r.Endpoint == at {
			t.tell(now, w, e)
		}
	}
}

// hush is a request to a relay to hold back what a peer sends us, to be made
// again: it may get lost.
type hush struct {
	at        time.Time
	relay, of crypto.Identity
	d         time.Duration
}

// hushTimes is when a hush is sent.
var hushTimes = []time.Duration{0, 40 * time.Millisecond, 120 * time.Millisecond}

// quiet stops what still comes from a peer over a route that is left. From a
// relay come packets of others too: it is asked to hold back those of one.
func (t *Tunnels) quiet(now time.Time, w *tunnel, a path.Quiet) error {
	if a.Route.Direct() {
		return t.cfg.Device.Quiet(a.Route.Endpoint, a.For)
	}
	if a.Route.Relayed() {
		for _, d := range hushTimes {
			t.hushes = append(t.hushes, hush{now.Add(d), a.Route.Via[0], w.peer.Identity, a.For - d})
		}
		t.stepHushes(now)
	}
	return nil
}

func (t *Tunnels) stepHushes(now time.Time) {
	left := t.hushes[:0]
	for _, h := range t.hushes {
		if h.at.After(now) {
			left = append(left, h)
			t.wakeAt(h.at)
			continue
		}
		if s, ok := t.keeper.Hush(h.relay, h.of, h.d.Truncate(time.Millisecond)); ok && h.d > 0 {
			_ = t.sendProbe(s.To, s.Bytes, path.SendOptions{})
		}
	}
	t.hushes = left
}

// A punch travels through the mesh: byte [PunchByte], byte 1, then at most
// [advert.MaxEndpoints] addresses of 16 bytes, IPv4 mapped, each with a port
// of 2.
const (
	// PunchByte is the first byte of our payloads, and of no other in the mesh.
	PunchByte = 0x50

	punchVersion = 1
	punchGap     = 10 * time.Second // between two that are obeyed, per peer
)

// punch tells the peer to probe where we may be.
func (t *Tunnels) punch(w *tunnel) {
	t.cfg.Mesh.Send(w.peer.Identity, encodePunch(t.view.Self.Endpoints))
}

func encodePunch(list []netip.AddrPort) []byte {
	b := []byte{PunchByte, punchVersion}
	for _, ep := range list[:min(len(list), advert.MaxEndpoints)] {
		a := ep.Addr().As16()
		b = binary.BigEndian.AppendUint16(append(b, a[:]...), ep.Port())
	}
	return b
}

var errPunch = errors.New("not a punch")

func parsePunch(b []byte) ([]netip.AddrPort, error) {
	const each = 18
	if len(b) < 2 || b[0] != PunchByte || b[1] != punchVersion || (len(b)-2)%each != 0 || len(b)-2 > each*advert.MaxEndpoints {
		return nil, errPunch
	}
	var list []netip.AddrPort
	for b = b[2:]; len(b) > 0; b = b[each:] {
		a := netip.AddrFrom16([16]byte(b[:16])).Unmap()
		list = append(list, netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[16:])))
	}
	return list, nil
}

// Deliver takes a payload of another host; it does not keep it.
func (t *Tunnels) Deliver(from crypto.Identity, payload []byte) {
	list, err := parsePunch(payload)
	if err != nil {
		t.log.Debug("payload not understood", "peer", from.Fingerprint(), "err", err)
		return
	}
	t.offer(t.signals, punched{from, list})
}

// punched obeys a peer's signal: only that of the end that decides, only if we may
// dial it, and only at addresses where it is known to be. The port may be a mapping made just now.
func (t *Tunnels) punched(now time.Time, e punched) {
	w := t.tunnels[e.from]
	if w == nil || w.peer.Passive || t.self.Compare(e.from) < 0 || now.Sub(w.punched) < punchGap {
		return
	}
	w.punched = now
	known := make(map[netip.Addr]bool)
	for _, ep := range slices.Concat(w.peer.Endpoints, w.peer.Candidates) {
		known[ep.Addr()] = true
	}
	var list []netip.AddrPort
	for _, ep := range e.candidates {
		if t.cfg.Usable(ep) && known[ep.Addr()] {
			list = append(list, ep)
		}
	}
	t.tell(now, w, path.Punched{Candidates: list})
}
