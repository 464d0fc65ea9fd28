package tunnel

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/router/fdb"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/wireguard"
)

// tunnel is what the loop knows of the way to one peer.
type tunnel struct {
	peer    mesh.Peer
	key     [32]byte // for signals between the two of us
	machine *path.Machine
	next    time.Time            // the machine's, which only its steps change
	device  wireguard.PeerStatus // as last read
	state   path.State           // as last told
	begun   time.Time            // of the bring-up under way
	heard   time.Time            // when bytes came last
	busy    time.Time            // when much went or came last
	stood   bool                 // it was established once
	pings   map[uint64]time.Time // under way, and when they were sent
	relays  []path.Relay         // as the machine was last told
	mtu     mtu
	rows    rows
	steady  steady    // of a relayed path
	punched time.Time // when a signal of the peer was last obeyed
	invited time.Time // to bind at our relay
	invites int
	suspect bool // its path may be dead, as last seen
}

// see brings the tunnels in line with the view.
func (t *Tunnels) see(now time.Time, v mesh.View) {
	t.view = v
	t.findRelayPorts()
	known := make(map[crypto.Identity]bool, len(v.Peers))
	var fresh, gone, turn int
	for _, p := range v.Peers {
		known[p.Identity] = true
		if t.tunnels[p.Identity] == nil {
			fresh++
		}
	}
	for id, w := range t.tunnels {
		if !known[id] {
			gone++
			delete(t.tunnels, id)
			delete(t.overlay, w.peer.Identity.Overlay())
		}
	}
	var devices map[[32]byte]wireguard.PeerStatus
	if fresh > 0 {
		devices = t.readDevice()
	}
	for _, p := range v.Peers {
		w := t.tunnels[p.Identity]
		met := w == nil
		if met {
			w = t.meet(p, devices[p.WireGuard], now)
			if p.Introduced == 0 {
				t.tell(now, w, path.Start{
					Candidates: p.Candidates, Handshake: w.device.LastHandshake, Endpoint: w.device.Endpoint,
					Delay: path.Spread(turn, fresh), Resumed: t.adopting,
				})
				turn++
			} else {
				w.peer.Introduced = 0 // to be told below
			}
		}
		before := w.peer
		w.peer = p
		switch {
		case p.Introduced != before.Introduced:
			w.begun = now
			t.tell(now, w, path.Introduced{Initiator: p.Initiator, Candidates: p.Candidates})
		case !slices.Equal(p.Candidates, before.Candidates):
			t.tell(now, w, path.Candidates(p.Candidates))
		}
		if met || p.Alive != before.Alive {
			t.tell(now, w, path.Alive(p.Alive))
		}
	}
	if fresh+gone > 0 {
		t.setKeys()
		t.setIdle(now)
	}
	t.graph.see(t.log, v)
}

// setKeys tells those who verify packets whose there may be.
func (t *Tunnels) setKeys() {
	peers := make([]path.ProbePeer, 0, len(t.tunnels))
	keys := make(map[signal.ID][32]byte, len(t.tunnels))
	for id, w := range t.tunnels {
		peers = append(peers, path.ProbePeer{Identity: id, Key: w.key})
		keys[signal.IDOf(id)] = w.key
	}
	t.prober.Set(peers)
	t.keys.Store(&keys)
}

// meet makes the tunnel to a peer that was not known before.
func (t *Tunnels) meet(p mesh.Peer, s wireguard.PeerStatus, now time.Time) *tunnel {
	w := &tunnel{
		peer: p, begun: now, device: s,
		key:   t.cfg.Keys.PairKey(t.self, p.Identity),
		pings: make(map[uint64]time.Time),
	}
	w.machine = path.New(path.Config{
		Decider:   t.self.Compare(p.Identity) < 0,
		RelayPort: func(ep netip.AddrPort) (crypto.Identity, bool) { return t.relayAt(w.peer, ep) },
	})
	t.tunnels[p.Identity] = w
	t.overlay[p.Identity.Overlay()] = w
	return w
}

// Without traffic a path is looked at so often that all of them together cost
// no more than two pings a second.
const (
	idleShare = 500 * time.Millisecond
	idleLeast = 5 * time.Second
	idleMost  = 10 * time.Minute
)

// A pair is busy when more than a few pings and keepalives pass between two
// looks, and for so long after.
const (
	busyBytes = 1000
	busyTime  = 30 * time.Second
)

func (t *Tunnels) setIdle(now time.Time) {
	idle := min(max(time.Duration(len(t.tunnels))*idleShare, idleLeast), idleMost)
	t.idle = idle
	for _, w := range t.tunnels {
		t.tell(now, w, path.Idle{Interval: idle})
	}
}

// look tells every machine what the device says. It is done before anything is
// decided, but not more often than worth the effort.
func (t *Tunnels) look(now time.Time) {
	gap, most := readGap, readMost
	if now.Before(t.brisk) {
		gap = min(max(briskGap, briskCost*t.reading), readGap)
		most = gap
	}
	if now.Sub(t.readAt) < gap {
		t.wakeAt(t.readAt.Add(most))
		return
	}
	begun := time.Now()
	devices := t.readDevice()
	t.readAt, t.reading = now, time.Since(begun)
	if most == gap {
		t.wakeAt(now.Add(gap))
	}
	for _, w := range t.tunnels {
		s, ok := devices[w.peer.WireGuard]
		if !ok {
			continue
		}
		before := w.device
		if s == before && w.next.After(now.Add(readGap)) {
			continue
		}
		w.device = s
		if s.RxBytes != before.RxBytes {
			w.heard = now
		}
		if s.RxBytes-before.RxBytes+s.TxBytes-before.TxBytes > busyBytes {
			w.busy = now
		}
		t.tell(now, w, path.Device{Handshake: s.LastHandshake, Endpoint: s.Endpoint, Rx: s.RxBytes, Tx: s.TxBytes})
		if w.machine.State() == path.Established && !s.LastHandshake.Equal(before.LastHandshake) {
			t.reached(w)
		}
	}
}

// hurry makes the loop see soon what comes of an initiation.
func (t *Tunnels) hurry(now time.Time, w *tunnel) {
	if now.Sub(w.begun) < briskEarly {
		t.brisk = now.Add(briskFor)
	}
}

// reached says that the peer can become a member. Where a relay is is no
// endpoint of the peer.
func (t *Tunnels) reached(w *tunnel) {
	var ep netip.AddrPort
	if r := w.machine.Route(); r.Direct() {
		if _, relay := t.relayAt(w.peer, r.Endpoint); !relay {
			ep = r.Endpoint
		}
	}
	t.cfg.Mesh.Reachable(w.peer.Identity, ep)
}

// readDevice returns the device's peers by public key; none when it cannot be
// read, which is logged once.
func (t *Tunnels) readDevice() map[[32]byte]wireguard.PeerStatus {
	list, err := t.cfg.Device.Peers()
	var why string
	if err != nil {
		why = err.Error()
	}
	if why != t.unread && why != "" {
		t.log.Error("cannot read the WireGuard device", "err", err)
	}
	t.unread = why
	m := make(map[[32]byte]wireguard.PeerStatus, len(list))
	for _, s := range list {
		m[s.PublicKey] = s
	}
	return m
}

// tell lets a machine take a step and does what it wants.
func (t *Tunnels) tell(now time.Time, w *tunnel, e path.Event) {
	for _, a := range w.machine.Step(now, e) {
		t.do(now, w, a)
	}
	w.next = w.machine.Next()
	if s := w.machine.State(); s != w.state {
		t.stateChanged(now, w, s)
	}
	if s := w.machine.Suspect(); s != w.suspect {
		w.suspect = s
		t.graph.suspects = true
	}
}

// do carries out an action. One that fails needs no repair: the machine sees
// that nothing comes of it.
func (t *Tunnels) do(now time.Time, w *tunnel, a path.Action) {
	var err error
	switch a := a.(type) {
	case path.SetEndpoint:
		err = t.cfg.Device.SetEndpoint(w.peer.WireGuard, a.Endpoint)
	case path.Initiate:
		t.hurry(now, w)
		err = t.cfg.Device.Initiate(w.peer.WireGuard)
	case path.Readd:
		p := PeerConfig(t.cfg.Keys, t.self, w.peer, t.way(w))
		p.Endpoint = a.Endpoint
		t.hurry(now, w)
		err = t.cfg.Device.Readd(p)
	case path.Quiet:
		err = t.quiet(now, w, a)
	case path.Probe:
		err = t.prober.Probe(time.Now(), w.peer.Identity, a.Endpoint, 0, a.TTL, false) // now may be long ago
	case path.Ping:
		err = t.ping(now, w, a.Number)
	case path.Punch:
		t.punch(w)
	case path.Rebind:
		t.rebind(a.Endpoint)
	case path.Changed:
		t.routeChanged(w, a.Change)
		return
	}
	if err == nil {
		return
	}
	switch a.(type) {
	case path.Probe, path.Ping: // no route, no endpoint: part of looking
		t.log.Debug("path", "peer", w.peer.Name, "action", a, "err", err)
	default:
		t.log.Warn("cannot change the path to a peer", "peer", w.peer.Name, "action", a, "err", err)
	}
}

// ping asks the peer through the tunnel.
func (t *Tunnels) ping(now time.Time, w *tunnel, number uint64) error {
	for n, at := range w.pings {
		if now.Sub(at) > 5*time.Second {
			delete(w.pings, n)
		}
	}
	w.pings[number] = time.Now() // not that of the step, which the device may have held up
	return t.cfg.Pinger.Send(w.peer.Identity.Overlay(), number)
}

func (t *Tunnels) echoed(now time.Time, e echo) {
	w := t.overlay[e.peer]
	if w == nil {
		return
	}
	sent, ok := w.pings[e.number]
	if !ok {
		return
	}
	delete(w.pings, e.number)
	t.tell(now, w, path.Echo{Number: e.number, RTT: max(e.at.Sub(sent), time.Microsecond)})
}

// probed takes what the prober found out.
func (t *Tunnels) probed(now time.Time, r path.ProbeResult) {
	w := t.tunnels[r.Peer]
	if w == nil {
		return
	}
	if r.Request {
		hint := path.Asked{Endpoint: r.Endpoint}
		if w.peer.Passive || !t.cfg.Usable(r.Endpoint) {
			hint = path.Asked{} // it was answered, and that is all
		}
		t.tell(now, w, hint)
		return
	}
	if r.Observed.IsValid() {
		t.observed.observe(now, r.Peer, r.Observed)
	}
	t.answered(now, w, r)
	t.rowAnswered(now, w, r)
	t.tell(now, w, path.Pong{Endpoint: r.Endpoint, RTT: r.RTT})
}

// moved makes everybody look where we are now, if we are elsewhere.
func (t *Tunnels) moved(now time.Time) {
	own, ceiling := t.cfg.Endpoints(), t.cfg.Ceiling()
	if ceiling != t.ceiling {
		t.ceiling = ceiling
		t.restartMTUs(now)
	}
	if slices.Equal(own, t.own) {
		return
	}
	t.log.Info("own addresses changed", "endpoints", own)
	t.own = own
	t.cfg.Mesh.EndpointsChanged()
	t.relocate(now)
}

// relocate looks at every path and bind anew: what others remember of us may be
// true no more.
func (t *Tunnels) relocate(now time.Time) {
	t.observed.forget()
	for _, w := range t.tunnels {
		t.tell(now, w, path.Moved{})
	}
	t.keeper.Now()
	t.restartMTUs(now)
}

// stateChanged notes that a tunnel began to stand, or stopped.
func (t *Tunnels) stateChanged(now time.Time, w *tunnel, s path.State) {
	log := t.log.With("peer", w.peer.Name, "nickname", w.peer.Nickname)
	switch {
	case s == path.Established:
		w.stood = true
		log.Info("tunnel established", "route", t.routeText(w.machine.Route()), "took", now.Sub(w.begun).Round(time.Millisecond))
		t.reached(w)
	case w.state == path.Established:
		w.begun, w.invites = now, 0
		t.lost++
		log.Warn("tunnel lost", "route", t.routeText(w.machine.Route()), "last_handshake", w.device.LastHandshake)
	}
	w.state = s
	t.graph.stale = true // who has no direct path is told of relays at once
	t.showAt = time.Time{}
}

// routeChanged logs a change of a path that stands; gains and losses are told
// by stateChanged.
func (t *Tunnels) routeChanged(w *tunnel, c path.Change) {
	t.graph.stale = true
	t.showAt = time.Time{}
	if c.FromState == path.Established && c.ToState == path.Established {
		t.log.Info("path changed", "peer", w.peer.Name, "nickname", w.peer.Nickname,
			"from", t.routeText(c.From), "to", t.routeText(c.To), "why", c.Why)
	}
}

// PeerConfig is the device's peer, without an endpoint: those are the path
// machines' business. It is pure.
func PeerConfig(k crypto.Keys, self crypto.Identity, p mesh.Peer, w Way) wireguard.Peer {
	return wireguard.Peer{
		PublicKey:    p.WireGuard,
		PresharedKey: k.PresharedKey(self, p.Identity),
		Overlay:      p.Identity.Overlay(),
		Keepalive:    w.keepalive(),
		MTU:          w.MTU,
		Told:         w.Told + fdb.Encapsulation,
		PathMTU:      w.HopMTU,
		PathEndpoint: w.Endpoint,
		Single:       w.Single,
	}
}

// tooLarge reports whether a probe was refused by our own interface.
func tooLarge(err error) bool { return errors.Is(err, wireguard.ErrTooLarge) }
