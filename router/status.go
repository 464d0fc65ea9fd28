package router

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/router/api"
	"github.com/weftnet/weft/router/path"
)

// linkKeys is where a host's connections stand among its entries.
const linkKeys = "l/"

// shown is what status needs of the run loop's state.
type shown struct {
	view    mesh.View
	tunnels []shownTunnel // by nickname and identity
}

type shownTunnel struct {
	peer      mesh.Peer
	state     path.State
	since     time.Time
	endpoint  netip.AddrPort
	handshake time.Time
	rx, tx    uint64
	stood     bool // it was established once
	decider   bool // our identity is the smaller one
	heard     time.Time
	silent    bool // nothing was heard for a while, although the tunnel stands
}

// show publishes the run loop's state for status.
func (r *Router) show() {
	now := time.Now()
	s := shown{view: r.view}
	for _, t := range r.sorted() {
		m := t.machine.Status()
		s.tunnels = append(s.tunnels, shownTunnel{
			peer: t.peer, state: m.State, since: m.Since, endpoint: t.endpoint(),
			handshake: t.device.LastHandshake, rx: t.device.RxBytes, tx: t.device.TxBytes,
			heard: t.heard, silent: m.State == path.Established && now.Sub(t.heard) > silence,
			stood: t.stood, decider: r.self().Compare(t.peer.Identity) < 0,
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shown = s
}

// Status implements [api.Backend].
func (r *Router) Status(context.Context) (api.Status, error) { return r.status(), nil }

// status puts together what the parts say of themselves.
func (r *Router) status() api.Status {
	r.mu.Lock()
	s := r.shown
	r.mu.Unlock()
	c, self := r.cfg, r.self()
	m := c.Mesh.Status()
	out := api.Status{
		Version: c.Status.Version, Protocol: c.Status.Protocol, Cluster: c.Status.Cluster,
		Name: c.Status.Name.String(), Nickname: c.Status.Nickname,
		Identity: self.String(), Overlay: self.Overlay(), Port: c.Host.Port,
		Datapath: c.Status.Datapath, MTU: c.Host.MTU, PeerDiscovery: c.Status.Discovery,
		Targets:     c.Mesh.Targets(),
		Connections: connections(s.tunnels, m.Targets, c.Host.MTU, c.Status.Datapath, time.Now()),
		DNS:         c.Names.status(),
		Warnings:    slices.Concat(c.Status.Warnings, m.Warnings),
	}
	if c.Space != nil {
		out.IPAM = c.Space.Status()
		out.Warnings = slices.Concat(out.Warnings, out.IPAM.Warnings)
	}
	out.Peers = peers(self, c.Status, s, out.Connections)
	out.Waiting = r.waiting()
	out.Ready = out.Waiting == ""
	return out
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

// connections lists one connection per peer that is met or sought, and one per
// target that has not led to a peer yet.
func connections(tunnels []shownTunnel, targets []mesh.Target, mtu int, datapath string, now time.Time) []api.Connection {
	byPeer := make(map[crypto.Identity]mesh.Target)
	for _, t := range targets {
		if !t.Peer.IsZero() {
			byPeer[t.Peer] = t
		}
	}
	var out []api.Connection
	for _, t := range tunnels {
		target, targeted := byPeer[t.peer.Identity]
		c := api.Connection{
			Address: "-", Outbound: t.outbound(),
			State: state(t), Name: t.peer.Name.String(), Nickname: t.peer.Nickname,
			Overlay: t.peer.Identity.Overlay(), Encrypted: true, Datapath: datapath,
			MTU: mtu, Handshake: t.handshake, RxBytes: t.rx, TxBytes: t.tx,
		}
		switch {
		case targeted && target.Address.IsValid():
			c.Address = target.Address.String()
		case t.endpoint.IsValid():
			c.Address = t.endpoint.String()
		}
		if c.State != api.Established {
			c.Info = waitsFor(t, target, now)
		}
		if c.State == api.Retrying && target.State == mesh.Failed {
			c.State = api.Failed
		}
		out = append(out, c)
	}
	for _, t := range targets {
		if !t.Peer.IsZero() && slices.ContainsFunc(tunnels, func(x shownTunnel) bool { return x.peer.Identity == t.Peer }) {
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

// outbound says on which side of a connection we are: the one that has the
// peer as a target, else the one with the smaller identity.
func (t shownTunnel) outbound() bool { return t.peer.Target != "" || t.decider }

// state is established for a member whose tunnel stands; a tunnel that stands
// without membership is pending, one that was lost is being retried. A re-added
// peer has no handshake, so that alone does not tell.
func state(t shownTunnel) api.State {
	switch {
	case t.state == path.Established && t.peer.Alive:
		return api.Established
	case t.peer.Alive || t.state == path.Established && !t.silent:
		return api.Pending
	case t.state == path.Connecting && t.handshake.IsZero() && !t.stood:
		return api.Connecting
	}
	return api.Retrying
}

// waitsFor says why there is no connection.
func waitsFor(t shownTunnel, target mesh.Target, now time.Time) string {
	if info := target.Info(); info != "" {
		return info
	}
	name := fmt.Sprintf("%s(%s)", t.peer.Name, t.peer.Nickname)
	switch {
	case t.silent:
		return fmt.Sprintf("%s: nothing heard for %s", name, now.Sub(t.heard).Round(time.Second))
	case t.state == path.Established:
		return name + " is reached; waiting for its gossip"
	case !t.endpoint.IsValid():
		return fmt.Sprintf("%s: no address known; waiting for it to call", name)
	default:
		return fmt.Sprintf("%s: no answer to WireGuard handshakes for %s", name, now.Sub(t.since).Round(time.Second))
	}
}

// peers lists this host and every live one with its own connections.
func peers(self crypto.Identity, static Static, s shown, own []api.Connection) []api.Peer {
	label := map[crypto.Identity]advert.Advert{self: s.view.Self.Advert}
	for _, p := range s.view.Peers {
		label[p.Identity] = p.Advert
	}
	links := make(map[crypto.Identity][]api.PeerConnection)
	for _, e := range s.view.Entries {
		if e.Owner == self {
			continue
		}
		if id, c, ok := parseLink(e); ok {
			a, known := label[id]
			if !known {
				a.Name = id.Name()
			}
			c.Name, c.Nickname = a.Name.String(), a.Nickname
			links[e.Owner] = append(links[e.Owner], c)
		}
	}
	me := api.Peer{
		Name: static.Name.String(), Nickname: static.Nickname, Identity: self.String(),
		Overlay: self.Overlay(), Boot: s.view.Self.Boot, Self: true, Alive: true, Version: s.view.Self.Seq,
	}
	for _, c := range own {
		if c.State == api.Established || c.State == api.Pending {
			me.Connections = append(me.Connections, api.PeerConnection{
				Name: c.Name, Nickname: c.Nickname, Address: c.Address, Outbound: c.Outbound, State: c.State,
			})
		}
	}
	out := []api.Peer{me}
	for _, t := range s.tunnels {
		p := t.peer
		if !p.Alive {
			continue
		}
		list := links[p.Identity]
		slices.SortFunc(list, func(a, b api.PeerConnection) int {
			return cmp.Or(cmp.Compare(a.Nickname, b.Nickname), cmp.Compare(a.Name, b.Name))
		})
		out = append(out, api.Peer{
			Name: p.Name.String(), Nickname: p.Nickname, Identity: p.Identity.String(),
			Overlay: p.Identity.Overlay(), Boot: p.Boot, Alive: true, Version: p.Seq, Connections: list,
		})
	}
	return out
}

// publishLinks tells the other hosts of our connections, one entry each, so
// that a change costs one entry.
func (r *Router) publishLinks() {
	want := make(map[string]string)
	for _, t := range r.shown.tunnels {
		if s := state(t); (s == api.Established || s == api.Pending) && t.endpoint.IsValid() {
			want[linkKeys+t.peer.Identity.String()] = linkValue(s, t.outbound(), t.endpoint)
		}
	}
	for key, value := range want {
		if r.told[key] != value && r.cfg.Mesh.Put(key, []byte(value)) == nil {
			r.told[key] = value
		}
	}
	for key := range r.told {
		if _, ok := want[key]; !ok && r.cfg.Mesh.Delete(key) == nil {
			delete(r.told, key)
		}
	}
}

// linkValue is "established > 192.0.2.1:6784".
func linkValue(s api.State, outbound bool, ep netip.AddrPort) string {
	arrow := "<"
	if outbound {
		arrow = ">"
	}
	return strings.Join([]string{string(s), arrow, ep.String()}, " ")
}

func parseLink(e mesh.Entry) (crypto.Identity, api.PeerConnection, bool) {
	var id crypto.Identity
	text, ok := strings.CutPrefix(e.Key, linkKeys)
	f := strings.Fields(string(e.Value))
	if !ok || id.UnmarshalText([]byte(text)) != nil || len(f) != 3 {
		return id, api.PeerConnection{}, false
	}
	ep, err := netip.ParseAddrPort(f[2])
	s := api.State(f[0])
	if err != nil || s != api.Established && s != api.Pending {
		return id, api.PeerConnection{}, false
	}
	return id, api.PeerConnection{State: s, Outbound: f[1] == ">", Address: ep.String()}, true
}
