package router

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/relay"
	"github.com/weftnet/weft/router/tunnel"
)

// Status implements [api.Backend].
func (r *Router) Status(ctx context.Context) (api.Status, error) { return r.status(ctx), nil }

// status puts together what the parts say of themselves.
func (r *Router) status(ctx context.Context) api.Status {
	s := r.snapshot(ctx)
	c, self := r.cfg, r.self()
	m := c.Mesh.Status()
	out := api.Status{
		Version: c.Status.Version, Protocol: c.Status.Protocol, Cluster: c.Status.Cluster,
		Name: c.Status.Name.String(), Nickname: c.Status.Nickname,
		Identity: self.String(), Overlay: self.Overlay(), Port: c.Host.Port,
		Datapath: c.Status.Datapath, MTU: c.Host.MTU, PeerDiscovery: c.Status.Discovery,
		Targets:     c.Mesh.Targets(),
		Connections: connections(s, m.Targets, c.Status.Datapath, time.Now()),
		Terminated:  s.Lost,
		Relay:       relayStatus(c.Relay.Stats()),
		Switch:      c.switchStatus(),
		DNS:         c.Names.status(),
		Warnings:    slices.Concat(c.Status.Warnings, m.Warnings, otherSwitches(s, c.Host.MTU)),
	}
	if c.Space != nil {
		out.IPAM = c.Space.Status()
		out.Warnings = slices.Concat(out.Warnings, out.IPAM.Warnings)
	}
	out.Peers = peers(self, c.Status, s, out.Connections)
	out.Findings = r.Findings()
	out.Waiting = r.waiting()
	out.Ready = out.Waiting == ""
	return out
}

// snapshot is the tunnels, with what the firewall counted for them.
func (r *Router) snapshot(ctx context.Context) *tunnel.Snapshot {
	cut, err := r.cfg.Bridge.Fragmented(ctx)
	if err != nil {
		r.log.Debug("status", "err", err)
	}
	return r.cfg.Tunnels.Snapshot().WithFragmented(cut)
}

// waiting says what readiness waits for.
func (r *Router) waiting() string {
	select {
	case <-r.built:
	default:
		return "the switch is being set up"
	}
	select {
	case <-r.complete:
		return ""
	default:
		return "containers are being restored"
	}
}

// otherSwitches warns of hosts with a smaller switch: what is larger and cannot
// be told to its sender is lost there.
func otherSwitches(s *tunnel.Snapshot, mtu int) (warnings []string) {
	for _, p := range s.Peers {
		if theirs := p.Report.SwitchMTU; p.Alive && theirs > 0 && theirs < mtu {
			warnings = append(warnings, fmt.Sprintf(
				"the switch of %s has an MTU of %d, ours of %d: larger packets that forbid no fragments do not arrive there; give all hosts the same --mtu",
				p.Nickname, theirs, mtu))
		}
	}
	return warnings
}

// switchStatus is nil where the kernel forwards.
func (c *Config) switchStatus() *api.SwitchStatus {
	if c.Switch == nil {
		return nil
	}
	return c.Switch()
}

func relayStatus(s relay.Stats) *api.RelayStatus {
	return &api.RelayStatus{Packets: s.Packets, Bytes: s.Bytes, Dropped: s.Dropped, Sessions: s.Sessions, Bound: s.Bound}
}

// connections lists one connection per peer that is met or sought, and one per
// target that has not led to a peer yet.
func connections(s *tunnel.Snapshot, targets []mesh.Target, datapath string, now time.Time) []api.Connection {
	byPeer := make(map[crypto.Identity]mesh.Target)
	for _, t := range targets {
		if !t.Peer.IsZero() {
			byPeer[t.Peer] = t
		}
	}
	var out []api.Connection
	known := make(map[crypto.Identity]bool, len(s.Peers))
	for _, p := range s.Peers {
		known[p.Identity] = true
		target, targeted := byPeer[p.Identity]
		c := connection(s, p, datapath)
		if targeted && target.Address.IsValid() && c.State != api.Relayed {
			c.Address = target.Address.String()
		}
		if !c.State.Carries() {
			c.Info = waitsFor(p, target, now)
		}
		if c.State == api.Retrying && target.State == mesh.Failed {
			c.State = api.Failed
		}
		out = append(out, c)
	}
	for _, t := range targets {
		if !t.Peer.IsZero() && known[t.Peer] {
			continue
		}
		c := api.Connection{Address: t.Name, Outbound: true, State: api.State(t.State), Info: t.Info()}
		if t.Address.IsValid() {
			c.Address = t.Address.String()
		}
		out = append(out, c)
	}
	return out
}

// connection is the connection to a peer without what its target tells.
func connection(s *tunnel.Snapshot, p tunnel.Peer, datapath string) api.Connection {
	c := api.Connection{
		Address: "-", Outbound: outbound(p), State: state(p),
		Name: p.Name.String(), Nickname: p.Nickname, Overlay: p.Identity.Overlay(),
		Encrypted: true, Datapath: datapath, MTU: p.Way.Whole,
		Handshake: p.Device.LastHandshake, RxBytes: p.Device.RxBytes, TxBytes: p.Device.TxBytes,
		RTT: p.Path.RTT, Loss: p.Path.Loss, Changes: p.Path.Changes, Fragmented: p.Device.Fragmented, Single: p.Way.Single,
	}
	if ep := p.Endpoint(); ep.IsValid() {
		c.Address = ep.String()
	}
	if c.State == api.Relayed {
		c.Via = s.Via(p.Path.Route)
	}
	return c
}

// outbound says on which side of a connection we are: the one that has the
// peer as a target, else the one with the smaller identity.
func outbound(p tunnel.Peer) bool { return p.Target != "" || p.Decider }

// state is established, or relayed, for a member whose tunnel stands; a tunnel
// that stands without membership is pending, one that was lost is being
// retried. A re-added peer has no handshake, so that alone does not tell.
func state(p tunnel.Peer) api.State {
	up := p.Path.State == path.Established
	switch {
	case up && p.Alive && p.Path.Route.Relayed():
		return api.Relayed
	case up && p.Alive:
		return api.Established
	case p.Alive || up && !p.Silent:
		return api.Pending
	case p.Path.State == path.Connecting && p.Device.LastHandshake.IsZero() && !p.Stood:
		return api.Connecting
	}
	return api.Retrying
}

// waitsFor says why there is no connection.
func waitsFor(p tunnel.Peer, target mesh.Target, now time.Time) string {
	if info := target.Info(); info != "" {
		return info
	}
	name := fmt.Sprintf("%s(%s)", p.Name, p.Nickname)
	switch {
	case p.Silent:
		return fmt.Sprintf("%s: nothing heard for %s", name, now.Sub(p.Heard).Round(time.Second))
	case p.Path.State == path.Established:
		return name + " is reached; waiting for its gossip"
	case !p.Endpoint().IsValid():
		return fmt.Sprintf("%s: no address known; waiting for it to call", name)
	default:
		return fmt.Sprintf("%s: no answer to WireGuard handshakes for %s", name, now.Sub(p.Path.Since).Round(time.Second))
	}
}

// peers lists this host and every live one with its own connections, as it
// tells of them.
func peers(self crypto.Identity, static Static, s *tunnel.Snapshot, own []api.Connection) []api.Peer {
	attached, label := s.Attached(), map[crypto.Identity]advert.Advert{self: s.View.Self.Advert}
	for _, p := range s.Peers {
		label[p.Identity] = p.Advert
	}
	me := api.Peer{
		Name: static.Name.String(), Nickname: static.Nickname, Identity: self.String(),
		Overlay: self.Overlay(), Boot: s.View.Self.Boot, Self: true, Alive: true, Version: s.View.Self.Seq, Attached: attached[self],
	}
	for _, c := range own {
		if c.State.Carries() || c.State == api.Pending {
			me.Connections = append(me.Connections, api.PeerConnection{
				Name: c.Name, Nickname: c.Nickname, Address: c.Address, Outbound: c.Outbound, State: c.State,
			})
		}
	}
	out := []api.Peer{me}
	for _, p := range s.Peers {
		if p.Alive {
			out = append(out, api.Peer{
				Name: p.Name.String(), Nickname: p.Nickname, Identity: p.Identity.String(),
				Overlay: p.Identity.Overlay(), Boot: p.Boot, Alive: true, Version: p.Seq, Attached: attached[p.Identity],
				Connections: linksOf(p.Report, label),
			})
		}
	}
	return out
}

// linkStates are the words for what a report says of a link.
var linkStates = map[topology.LinkState]api.State{
	topology.Direct: api.Established, topology.Relayed: api.Relayed, topology.Pending: api.Pending,
}

func linksOf(r topology.Report, label map[crypto.Identity]advert.Advert) []api.PeerConnection {
	var list []api.PeerConnection
	for _, l := range r.Links {
		a, known := label[l.Peer]
		if !known {
			a.Name = l.Peer.Name()
		}
		list = append(list, api.PeerConnection{
			Name: a.Name.String(), Nickname: a.Nickname,
			Address: l.Endpoint.String(), Outbound: l.Outbound, State: linkStates[l.State], RTT: l.RTT, MTU: l.MTU,
		})
	}
	slices.SortFunc(list, func(a, b api.PeerConnection) int {
		return cmp.Or(cmp.Compare(a.Nickname, b.Nickname), cmp.Compare(a.Name, b.Name))
	})
	return list
}
