package router

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/wireguard"
)

// tunnel is what the run loop knows of the way to one peer.
type tunnel struct {
	peer    mesh.Peer
	machine *path.Machine
	device  wireguard.PeerStatus // as last read
	state   path.State           // as last told
	begun   time.Time            // of the bring-up under way
	heard   time.Time            // when bytes came last
	stood   bool                 // it was established once
}

// silence is how long a tunnel that stands may bring nothing before it counts as
// silent: a keepalive comes every 25 s, and one may be lost on the way.
const silence = 55 * time.Second

// busyTime is how long a bring-up is watched closely.
const busyTime = 15 * time.Second

// up reports whether the tunnel to a peer stands.
func (r *Router) up(id crypto.Identity) bool {
	t := r.tunnels[id]
	return t != nil && t.machine.Status().State == path.Established
}

// meet brings the tunnels in line with the view. The device must have the
// view's peers already.
func (r *Router) meet(ctx context.Context, now time.Time) {
	devices := r.readDevice()
	known := make(map[crypto.Identity]bool, len(r.view.Peers))
	var fresh int
	for _, p := range r.view.Peers {
		if r.tunnels[p.Identity] == nil {
			fresh++
		}
	}
	var turn int
	for _, p := range r.view.Peers {
		known[p.Identity] = true
		t := r.tunnels[p.Identity]
		if t == nil {
			t = &tunnel{
				peer: p, begun: now, device: devices[p.WireGuard],
				machine: path.New(path.Config{Decider: r.self().Compare(p.Identity) < 0}),
			}
			r.tunnels[p.Identity] = t
			if p.Introduced == 0 {
				start := path.Start{
					Candidates: p.Candidates, Handshake: t.device.LastHandshake,
					Delay: path.Spread(turn, fresh),
				}
				turn++
				r.do(ctx, t, t.machine.Step(now, start))
				continue
			}
			t.peer.Introduced = 0
		}
		before := t.peer
		t.peer = p
		if p.Introduced != before.Introduced {
			t.begun = now
			r.do(ctx, t, t.machine.Step(now, path.Introduced{Initiator: p.Initiator, Candidates: p.Candidates}))
		} else if !slices.Equal(p.Candidates, before.Candidates) {
			r.do(ctx, t, t.machine.Step(now, path.Candidates(p.Candidates)))
		}
	}
	for id := range r.tunnels {
		if !known[id] {
			delete(r.tunnels, id)
		}
	}
}

// drive tells every machine what the device says and what time it is, does
// what they want, and reports whether one is coming up now.
func (r *Router) drive(ctx context.Context, now time.Time) (busy bool) {
	devices := r.readDevice()
	var changed bool
	for _, t := range r.sorted() {
		before := t.device
		if s, ok := devices[t.peer.WireGuard]; ok {
			t.device = s
			r.do(ctx, t, t.machine.Step(now, path.Handshake{At: s.LastHandshake}))
		}
		r.do(ctx, t, t.machine.Step(now, path.Tick{}))
		s := t.machine.Status()
		if s.State != t.state || t.device.RxBytes != before.RxBytes {
			t.heard = now
		}
		news := s.State != t.state || !t.device.LastHandshake.Equal(before.LastHandshake)
		if s.State == path.Established && news {
			r.cfg.Mesh.Reachable(t.peer.Identity, t.device.Endpoint)
		}
		if s.State != t.state {
			changed = changed || s.State == path.Established || t.state == path.Established
			r.tell(t, s, now)
		}
		busy = busy || s.State != path.Established && now.Sub(t.begun) < busyTime
	}
	if changed {
		_ = r.reapply(ctx) // it is logged and tried again
	}
	r.show()
	r.publishLinks()
	return busy
}

// tell logs a change between standing and not standing; the steps of a
// bring-up are for debugging.
func (r *Router) tell(t *tunnel, s path.Status, now time.Time) {
	log := r.log.With("peer", t.peer.Name, "nickname", t.peer.Nickname)
	switch {
	case s.State == path.Established:
		t.stood = true
		log.Info("tunnel established", "endpoint", t.device.Endpoint, "took", now.Sub(t.begun).Round(time.Millisecond))
	case t.state == path.Established:
		t.begun = now
		log.Warn("tunnel lost", "endpoint", t.device.Endpoint, "last_handshake", t.device.LastHandshake)
	default:
		log.Debug("tunnel", "state", s.State, "endpoint", s.Endpoint, "tries", s.Tries)
	}
	t.state = s.State
}

// do carries out a machine's actions. One that fails needs no repair: the
// machine sees that no handshake comes.
func (r *Router) do(ctx context.Context, t *tunnel, actions []path.Action) {
	for _, a := range actions {
		var err error
		switch a := a.(type) {
		case path.SetEndpoint:
			err = r.cfg.Device.SetEndpoint(t.peer.WireGuard, a.Endpoint)
		case path.Initiate:
			err = r.cfg.Device.Initiate(t.peer.WireGuard)
		case path.Readd:
			p := wireguardPeer(r.cfg.Host, t.peer)
			p.Endpoint = a.Endpoint
			err = r.cfg.Device.Readd(p)
		}
		r.log.Debug("path", "peer", t.peer.Name, "action", a, "err", err)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("cannot change the path to a peer", "peer", t.peer.Name, "action", a, "err", err)
		}
	}
}

// readDevice returns the device's peers by public key; none when it cannot be
// read, which is logged once.
func (r *Router) readDevice() map[[32]byte]wireguard.PeerStatus {
	list, err := r.cfg.Device.Peers()
	var why string
	if err != nil {
		why = err.Error()
	}
	if why != r.unread && why != "" {
		r.log.Error("cannot read the WireGuard device", "err", err)
	}
	r.unread = why
	m := make(map[[32]byte]wireguard.PeerStatus, len(list))
	for _, s := range list {
		m[s.PublicKey] = s
	}
	return m
}

// sorted returns the tunnels in a stable order.
func (r *Router) sorted() []*tunnel {
	list := make([]*tunnel, 0, len(r.tunnels))
	for _, t := range r.tunnels {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *tunnel) int {
		return cmp.Or(cmp.Compare(a.peer.Nickname, b.peer.Nickname), a.peer.Identity.Compare(b.peer.Identity))
	})
	return list
}

// endpoint is where packets to the peer go now, or are tried.
func (t *tunnel) endpoint() netip.AddrPort {
	if t.device.Endpoint.IsValid() {
		return t.device.Endpoint
	}
	if s := t.machine.Status(); s.Endpoint.IsValid() {
		return s.Endpoint
	}
	if len(t.peer.Candidates) > 0 {
		return t.peer.Candidates[0]
	}
	return netip.AddrPort{}
}

func (r *Router) self() crypto.Identity { return r.cfg.Host.Key.Identity() }
