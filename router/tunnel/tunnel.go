// Package tunnel is the way to every peer. It owns one path machine per peer
// and does what they want: it drives the WireGuard device, sends and answers
// probes, pings through the tunnels, keeps our binds at relays, measures path
// MTUs, tests whether coalesced packets arrive, tells the cluster of our links
// and our own relay of its next hops.
//
// It decides nothing that can be decided without a socket: which path is used
// is decided in router/path, by which relays in mesh/topology, who is relayed
// in router/relay. It does not say who is a peer (mesh does) nor what the
// device's peers are (router plans that).
package tunnel

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh"
	"github.com/weftnet/weft/mesh/topology"
	"github.com/weftnet/weft/router/bell"
	"github.com/weftnet/weft/router/path"
	"github.com/weftnet/weft/router/relay"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/wireguard"
)

// Mesh is what this package needs of the mesh. Nothing of it blocks.
type Mesh interface {
	Reachable(id crypto.Identity, endpoint netip.AddrPort)
	Put(key string, value []byte) error
	Send(to crypto.Identity, payload []byte)
	EndpointsChanged()
}

// Device is the WireGuard device and its UDP port.
type Device interface {
	Readd(p wireguard.Peer) error
	SetEndpoint(key [32]byte, ep netip.AddrPort) error
	Initiate(key [32]byte) error
	Peers() ([]wireguard.PeerStatus, error)
	Send(to netip.AddrPort, b []byte, o wireguard.SendOptions) error
	Quiet(from netip.AddrPort, d time.Duration) error
}

// Relay is this host's relay.
type Relay interface {
	Set(c relay.Config)
	Send(to netip.AddrPort, b []byte) error // from its own port
	Bound() []relay.Binding
	Invite(peer crypto.Identity, addr netip.AddrPort) error
	Stats() relay.Stats
	// Forget and ForgetAll drop sessions that the next relay does not know.
	Forget(next crypto.Identity, index uint32)
	ForgetAll(next crypto.Identity)
	Withdraw()
}

// Pinger asks a peer through its tunnel.
type Pinger interface {
	Send(peer netip.Addr, number uint64) error
}

// Config is what the tunnels are made of. All but Log must be set.
type Config struct {
	Key    *crypto.Key
	Keys   crypto.Keys
	Boot   uint64 // random at each start of the daemon
	MTU    int    // of the switch
	Mesh   Mesh
	Device Device
	Relay  Relay
	Pinger Pinger
	// Endpoints returns where our interfaces can be reached now, as far as we
	// know by ourselves. It may ask the kernel.
	Endpoints func() []netip.AddrPort
	// Usable says whether another host may be at an endpoint.
	Usable  func(netip.AddrPort) bool
	Ceiling func() int // the greatest MTU of an interface of the underlay
	Strange func()     // counts signals of peers that only newer hosts know; nil: nobody does
	Log     *slog.Logger
}

// Tunnels is the way to every peer. [Tunnels.Adopt] and [Tunnels.SetView] tell
// it who they are; Run must be running for anything else to happen. All
// methods are safe for concurrent use and none blocks but Run and Withdraw.
type Tunnels struct {
	// Constant after New.
	cfg     Config
	log     *slog.Logger
	self    crypto.Identity
	prober  *path.Prober // safe by itself
	inbox   chan event   // from peers; what does not fit is dropped and counted
	signals chan event   // from relays, apart so that they cannot displace the others
	wake    bell.Bell
	changed bell.Bell // a Way is another

	dropped  atomic.Uint64 // events, because the inbox was full, since this was logged
	keys     atomic.Pointer[map[signal.ID][32]byte]
	snapshot atomic.Pointer[Snapshot]

	mu sync.Mutex // guards what follows
	// waiting is what SetView and Moved were last told and the loop has not
	// taken.
	waiting struct {
		view  *mesh.View
		moved bool
		leave bool
	}

	// Owned by Run's loop, and by Adopt before it.
	loop
}

// loop is what Run's goroutine owns. step handles one event at a time; it
// never waits for anything but the device and the kernel.
type loop struct {
	view mesh.View
	// adopting is set while the first view is taken: its peers are those of a
	// former run.
	adopting bool

	tunnels map[crypto.Identity]*tunnel
	overlay map[netip.Addr]*tunnel // the same, by overlay address
	unread  string                 // why the device could not be read last
	readAt  time.Time              // when it was read last
	reading time.Duration          // how long that took
	brisk   time.Time              // until when it is read more often

	own        []netip.AddrPort // endpoints of our interfaces
	idle       time.Duration    // between pings without traffic, of one peer
	ceiling    int              // the greatest MTU of one
	graph      graph
	relayPorts map[netip.AddrPort]crypto.Identity // of all peers, as far as they can be known
	keeper     *relay.Keeper
	observed   observed
	report     reporter
	hushes     []hush
	invitesAt  time.Time
	mtus       glance // at the searches of path MTUs
	rows       glance // at the tests of coalesced packets

	lost    uint64    // tunnels that stood and ended
	showAt  time.Time // when the snapshot is made again
	leaving bool
	next    time.Time // of the next tick
}

// New returns tunnels to nobody yet. A nil log is silence.
func New(c Config) *Tunnels {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tunnels{
		cfg: c, log: c.Log, self: c.Key.Identity(),
		inbox:   make(chan event, 4096),
		signals: make(chan event, 256),
		wake:    bell.New(),
		changed: bell.New(),
	}
	t.prober = path.NewProber(t.self, t.sendProbe, func(r path.ProbeResult) { t.offer(t.inbox, probed(r)) })
	t.keys.Store(&map[signal.ID][32]byte{})
	t.loop = loop{
		tunnels:    make(map[crypto.Identity]*tunnel),
		overlay:    make(map[netip.Addr]*tunnel),
		relayPorts: make(map[netip.AddrPort]crypto.Identity),
		keeper:     relay.NewKeeper(t.self, c.Boot),
		observed:   newObserved(),
		report:     newReporter(),
		graph:      newGraph(),
	}
	t.snapshot.Store(&Snapshot{ways: make(map[crypto.Identity]Way)})
	return t
}

// sendProbe is the prober's way out.
func (t *Tunnels) sendProbe(to netip.AddrPort, b []byte, o path.SendOptions) error {
	return t.cfg.Device.Send(to, b, wireguard.SendOptions(o))
}

// event is what the loop handles.
type event any

type (
	tick      struct{}
	probed    path.ProbeResult
	echoed    echo
	signalled struct {
		from   netip.AddrPort
		role   signal.Role // the port of ours that it came to
		packet signal.Packet
		raw    []byte
	}
	punched struct {
		from       crypto.Identity
		candidates []netip.AddrPort
	}
)

type echo struct {
	peer   netip.Addr
	number uint64
	at     time.Time
}

// offer leaves an event for the loop. What comes faster than the loop can
// take is lost, as if it had been lost on the way.
func (t *Tunnels) offer(to chan<- event, e event) {
	select {
	case to <- e:
	default:
		t.dropped.Add(1)
	}
}

// Receive takes a packet that came to the WireGuard port, at one of our
// addresses, and is none of WireGuard's. It does not keep b.
func (t *Tunnels) Receive(from netip.AddrPort, to netip.Addr, b []byte) {
	t.receive(from, to, b, signal.WireGuardPort)
}

// ReceiveRelay takes an answer that came to our relay port. It does not keep b.
func (t *Tunnels) ReceiveRelay(from netip.AddrPort, b []byte) {
	t.receive(from, netip.Addr{}, b, signal.RelayPort)
}

// maxSignal is more than any packet of a relay needs, in bytes.
const maxSignal = 128

func (t *Tunnels) receive(from netip.AddrPort, to netip.Addr, b []byte, role signal.Role) {
	p, err := signal.Parse(b)
	if err != nil { // a stranger's, or a newer host's
		if key, ok := (*t.keys.Load())[signal.SenderOfUnknown(b)]; ok && t.cfg.Strange != nil && signal.Verify(b, key) {
			t.cfg.Strange()
		}
		return
	}
	switch p.Kind {
	case signal.Probe, signal.ProbeReply:
		if role == signal.WireGuardPort {
			t.prober.Handle(time.Now(), from, to, b)
		}
	case signal.BindReply, signal.Notice, signal.Invite:
		// Verified here, so that strangers do not come as far as the loop.
		if key, ok := (*t.keys.Load())[p.From]; ok && len(b) <= maxSignal && signal.Verify(b, key) {
			t.offer(t.signals, signalled{from: from, role: role, packet: p, raw: bytes.Clone(b)})
		}
	case signal.Bind, signal.Hush: // for relays, and to the other port
	}
}

// Echoed takes the answer to a ping.
func (t *Tunnels) Echoed(peer netip.Addr, number uint64, at time.Time) {
	t.offer(t.inbox, echoed{peer, number, at})
}

// SetView tells of the cluster as it is now; the device must have its peers
// already.
func (t *Tunnels) SetView(v mesh.View) {
	t.mu.Lock()
	t.waiting.view = &v
	t.mu.Unlock()
	t.wake.Ring()
}

// Moved says that addresses of this host may have changed: they are compared.
func (t *Tunnels) Moved() {
	t.mu.Lock()
	t.waiting.moved = true
	t.mu.Unlock()
	t.wake.Ring()
}

// Changed is told when a [Way] is another than before.
func (t *Tunnels) Changed() <-chan struct{} { return t.changed }

// Adopt is the first SetView, before Run: when it returns, Ways tells which
// tunnels of a former run still stand.
func (t *Tunnels) Adopt(v mesh.View) {
	now := time.Now()
	t.own, t.ceiling = t.cfg.Endpoints(), t.cfg.Ceiling()
	t.adopting = true
	t.see(now, v)
	t.adopting = false
	t.advance(now)
}

// Run drives the tunnels until ctx ends and returns nil. They stay as they
// are.
func (t *Tunnels) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := time.Now()
	for {
		timer.Reset(max(0, time.Until(t.next)))
		var e event = tick{}
		select {
		case <-ctx.Done():
			return nil
		case e = <-t.inbox:
		case e = <-t.signals:
		case <-t.wake:
		case <-timer.C:
		}
		now := time.Now()
		if slept(last, now) {
			t.log.Info("this host slept, or its clock was set; looking at every path")
			t.relocate(now)
		}
		last = now
		t.late(now)
		t.handle(now, e)
		for range 256 { // what came meanwhile
			select {
			case e = <-t.inbox:
				t.handle(now, e)
				continue
			case e = <-t.signals:
				t.handle(now, e)
				continue
			default:
			}
			break
		}
		t.advance(now)
	}
}

// lateLeast is how late the loop must be before anybody need know.
const lateLeast = 50 * time.Millisecond

// late tells every machine, before anything else, that the loop comes later
// than it wanted to: a host with too much to do would take that for the death
// of its paths, and give itself and its peers more to do.
func (t *Tunnels) late(now time.Time) {
	by := now.Sub(t.next)
	if t.next.IsZero() || by < lateLeast {
		return
	}
	for _, w := range t.tunnels {
		t.tell(now, w, path.Late{By: by})
	}
}

// slept reports whether much more time has passed by the wall clock than by the
// one that stops while the host sleeps.
func slept(from, to time.Time) bool {
	return to.Round(0).Sub(from.Round(0))-to.Sub(from) > 10*time.Second
}

// handle does what one event asks for.
func (t *Tunnels) handle(now time.Time, e event) {
	t.mu.Lock()
	todo := t.waiting
	t.waiting.view, t.waiting.moved, t.waiting.leave = nil, false, false
	t.mu.Unlock()
	if todo.view != nil {
		t.see(now, *todo.view)
	}
	if todo.moved {
		t.moved(now)
	}
	if todo.leave {
		t.leave()
	}
	switch e := e.(type) {
	case probed:
		t.probed(now, path.ProbeResult(e))
	case echoed:
		t.echoed(now, echo(e))
	case signalled:
		t.signalled(now, e)
	case punched:
		t.punched(now, e)
	case asked:
		t.changed.Ring()
		close(e)
	}
}

// The rhythm of the loop.
const (
	readGap  = 100 * time.Millisecond // between two looks at the device
	readMost = time.Second
	// After an initiation early in a bring-up, whose answer packets wait for, looks
	// follow each other faster for so long, but take a tenth of the time at most.
	briskFor   = 300 * time.Millisecond
	briskEarly = 5 * time.Second
	briskGap   = 10 * time.Millisecond
	briskCost  = 10
	showGap    = time.Second
)

// advance does all that is due and says when it wants to be called again.
func (t *Tunnels) advance(now time.Time) {
	t.next = now.Add(readMost)
	t.look(now)
	t.stepGraph(now)
	for _, w := range t.tunnels {
		if at := w.next; !at.IsZero() && !at.After(now) {
			t.tell(now, w, path.Tick{})
		}
	}
	t.stepGraph(now) // for those that lost their path just now
	t.stepKeeper(now)
	t.stepInvites(now)
	t.stepHushes(now)
	t.stepMTUs(now)
	t.stepRows(now)
	t.stepObserved(now)
	t.stepReport(now)
	t.show(now)
	for _, w := range t.tunnels {
		t.wakeAt(w.next)
	}
	if least := now.Add(time.Millisecond); t.next.Before(least) {
		t.next = least
	}
}

// wakeAt makes the next tick no later than at; zero: it is nothing to wait for.
func (t *Tunnels) wakeAt(at time.Time) {
	if !at.IsZero() && at.Before(t.next) {
		t.next = at
	}
}

// topologyKey is where our report stands among our entries.
const topologyKey = topology.EntryKey
