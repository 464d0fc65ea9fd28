package router

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/tunnel"
)

// Why implements [api.Backend].
func (r *Router) Why(ctx context.Context, peer string) (api.Why, error) {
	s := r.snapshot(ctx)
	p, err := find(s, r.self(), r.cfg.Status, peer)
	if err != nil {
		return api.Why{}, err
	}
	return why(s, p, r.cfg.Mesh.Status().Targets, time.Now()), nil
}

// Whys is Why of all peers, at most so many of them, by one look.
func (r *Router) Whys(ctx context.Context, most int) []api.Why {
	s, targets, now := r.snapshot(ctx), r.cfg.Mesh.Status().Targets, time.Now()
	list := make([]api.Why, min(most, len(s.Peers)))
	for i := range list {
		list[i] = why(s, s.Peers[i], targets, now)
	}
	return list
}

// find returns the peer that people call id.
func find(s *tunnel.Snapshot, self crypto.Identity, static Static, id string) (tunnel.Peer, error) {
	known := []api.PeerID{{Name: static.Name.String(), Nickname: static.Nickname, Identity: self.String()}}
	for _, p := range s.Peers {
		known = append(known, api.PeerID{Name: p.Name.String(), Nickname: p.Nickname, Identity: p.Identity.String()})
	}
	found, err := api.FindPeers(known, []string{id})
	if err != nil {
		return tunnel.Peer{}, err
	}
	i := slices.Index(known, found[0])
	if i == 0 {
		return tunnel.Peer{}, fmt.Errorf("%s is this host: name another one", found[0])
	}
	return s.Peers[i-1], nil
}

// why is what is known of the path to one peer.
func why(s *tunnel.Snapshot, p tunnel.Peer, targets []mesh.Target, now time.Time) api.Why {
	w := api.Why{
		Name: p.Name.String(), Nickname: p.Nickname,
		Identity: p.Identity.String(), Overlay: p.Identity.Overlay(),
		State: state(p), Via: s.Via(p.Path.Route), Since: p.Path.Since, Decider: p.Decider,
		RTT: p.Path.RTT, Loss: p.Path.Loss, MTU: p.Way.Whole, PathMTU: p.Way.PathMTU,
		Handshake: p.Device.LastHandshake, RxBytes: p.Device.RxBytes, TxBytes: p.Device.TxBytes,
		Changes: p.Path.Changes, Fragmented: p.Device.Fragmented,
	}
	if ep := p.Endpoint(); ep.IsValid() {
		w.Address = ep.String()
	}
	if n := len(p.Path.History); n > 0 && w.Since.Before(p.Path.History[n-1].At) {
		w.Since = p.Path.History[n-1].At
	}
	if !w.State.Carries() {
		i := slices.IndexFunc(targets, func(t mesh.Target) bool { return t.Peer == p.Identity })
		var target mesh.Target
		if i >= 0 {
			target = targets[i]
		}
		w.Info = waitsFor(p, target, now)
	}
	w.Reason, w.Help = s.Explain(p, now)
	for _, c := range p.Path.Candidates {
		w.Candidates = append(w.Candidates, candidate(c, p.Path, now))
	}
	for _, x := range p.Relays {
		w.Relays = append(w.Relays, api.WhyRelay{
			Via: s.Via(x.Route), RTT: x.RTT, MTU: x.MTU,
			InUse: p.Path.Route.Relayed() && x.Endpoint == p.Path.Route.Endpoint,
		})
	}
	for _, c := range p.Path.History {
		w.History = append(w.History, api.WhyChange{
			At: c.At, From: place(s, c.From, c.FromState), To: place(s, c.To, c.ToState), Why: c.Why,
		})
	}
	return w
}

// candidate says how one address of a peer does.
func candidate(c path.CandidateStatus, s path.Status, now time.Time) api.WhyCandidate {
	w := api.WhyCandidate{Address: c.Endpoint.String(), RTT: c.RTT, Asked: c.Asked, Answered: c.Answered}
	switch {
	case s.State == path.Established && s.Route.Direct() && s.Route.Endpoint == c.Endpoint:
		w.State = api.CandidateInUse
	case c.Asked.IsZero():
		w.State = api.CandidateNotAsked
	case tunnel.Answers(c, now):
		w.State = api.CandidateAnswers
	default:
		w.State = api.CandidateSilent
	}
	return w
}

// place is a route in the history; none for a tunnel that did not stand.
func place(s *tunnel.Snapshot, r path.Route, state path.State) string {
	switch {
	case state != path.Established || !r.Endpoint.IsValid():
		return ""
	case r.Relayed():
		return "via " + strings.Join(s.Via(r), ",")
	}
	return r.Endpoint.String()
}
