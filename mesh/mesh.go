// Package mesh is what all peers agree on: who belongs to the cluster, what
// each says about itself, and the entries that each owns.
//
// It owns memberlist, which runs inside the tunnels; the known peers and
// targets and their file; when to introduce ourselves and when to join; our
// own advert; and the replication of adverts and entries, whose rules are in
// mesh/replica. It does not touch the kernel: the router makes tunnels from
// the [View] and reports with [Mesh.Reachable] that one works. It does not
// know what an entry means.
package mesh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/replica"
)

// GossipPort is the TCP and UDP port of memberlist at overlay addresses.
const GossipPort = 6786

// Hello makes introductions; [hello.Hello] does it for real.
type Hello interface {
	// Dial introduces us to the host at addr; with a pin, to nobody else. It
	// ends when ctx ends.
	Dial(ctx context.Context, addr netip.AddrPort, pin *crypto.Identity) (hello.Result, error)
	// Serve answers introductions until ctx ends. It calls done from any
	// goroutine for each that completed; done does not block.
	Serve(ctx context.Context, l net.Listener, done func(hello.Result)) error
}

// Config is constant after [New].
type Config struct {
	Key      *crypto.Key
	Keys     crypto.Keys
	Boot     uint64      // random at each start of the daemon
	Name     crypto.Name // zero: the one derived from the key
	Nickname string
	Version  string // of the program
	// Versions are those of the rules between hosts that we speak.
	Versions hello.Versions
	Datapath advert.Datapath

	StateDir string // peers.json is in it; it exists
	Port     uint16 // introduction; WireGuard is Port+1

	// Endpoints returns where our WireGuard port may be reached now, best
	// first. It is called from the mesh's loop and must not block. What
	// [advert.Usable] refuses and what exceeds [advert.MaxEndpoints] is left
	// out. Nil: none.
	Endpoints func() []netip.AddrPort

	// Usable says whether another host may be at an endpoint, besides
	// [advert.Usable] for those that it claims. It must not block. Nil: it may.
	Usable func(netip.AddrPort) bool

	Hello    Hello
	Listener net.Listener // of introductions; nil: nobody is answered

	// Transport carries gossip; nil: sockets on the overlay address.
	Transport memberlist.NodeAwareTransport
	// Resolve looks up the addresses of a target's name; nil: [net.Resolver].
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	Targets   []string         // ip-or-name[:port]
	Pin       *crypto.Identity // issuer of the token: the only target is this host, while no peer is known
	Resume    bool             // keep the targets of the former run as well
	Discovery bool             // introduce ourselves to, and dial, peers that are not targets
	ConnLimit int              // dial at most so many peers; 0: no limit

	// Deliver takes a payload of another known host; the payload is a copy
	// that it may keep. It is called from several goroutines, perhaps once
	// more shortly after Run has returned, and must not block. Nil: payloads
	// are dropped.
	Deliver func(from crypto.Identity, payload []byte)

	Counts *GossipCounts // counts what is not understood; nil: nobody does

	Log *slog.Logger // nil: silence
}

// Mesh is one host's part of the cluster. All methods are safe for concurrent
// use, before, during and after [Mesh.Run]; none blocks but Run, [Mesh.Leave]
// and [Mesh.LeaveForGood].
type Mesh struct {
	// Constant after New.
	cfg      Config
	log      *slog.Logger
	self     crypto.Identity
	resolve  func(ctx context.Context, host string) ([]netip.Addr, error)
	desk     *desk
	casts    *memberlist.TransmitLimitedQueue // of replica messages
	payloads *memberlist.TransmitLimitedQueue
	messages chan []byte // from memberlist; when full, a message is dropped: the next digest repairs it
	results  chan event  // from workers; they wait until the loop takes it or Run ends
	views    chan View
	gossip   gossip
	ended    chan struct{} // closed when the loop has ended

	// Written by the loop, read by everybody.
	known  atomic.Pointer[known]
	status atomic.Pointer[Status]
	digest atomic.Pointer[[]byte]
	met    atomic.Pointer[map[string]bool] // targets, as of the last view
	counts counts

	running atomic.Bool
	workers sync.WaitGroup

	// Owned by Run's loop (and by New before it): see loop.go.
	loop
}

// New loads the known peers and targets from the state directory, signs our
// advert and returns a mesh that does nothing until [Mesh.Run].
func New(cfg Config) (*Mesh, error) {
	if cfg.Key == nil || cfg.Hello == nil || cfg.Port == 0 {
		return nil, errors.New("mesh: key, introduction and port are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Usable == nil {
		cfg.Usable = netip.AddrPort.IsValid
	}
	if cfg.Name.IsZero() {
		cfg.Name = cfg.Key.Identity().Name()
	}
	m := &Mesh{
		cfg:      cfg,
		log:      cfg.Log,
		self:     cfg.Key.Identity(),
		resolve:  cfg.Resolve,
		desk:     newDesk(cfg.Versions),
		messages: make(chan []byte, 256),
		results:  make(chan event, 64),
		views:    make(chan View, 1),
		ended:    make(chan struct{}),
	}
	if m.resolve == nil {
		m.resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	for _, q := range []**memberlist.TransmitLimitedQueue{&m.casts, &m.payloads} {
		*q = &memberlist.TransmitLimitedQueue{
			RetransmitMult: retransmitMult,
			NumNodes:       func() int { return int(m.counts.members.Load()) + 1 },
		}
	}
	m.loop = newLoop(replica.New(replica.Config{Self: m.self, Verify: m.verifyAdvert}))
	now := time.Now()
	if err := m.load(now); err != nil {
		return nil, err
	}
	if err := m.sign(now); err != nil {
		return nil, err
	}
	if err := m.saveNow(); errors.Is(err, fs.ErrNotExist) {
		return nil, err // there is no state directory
	} else if err != nil {
		// A full disk must not keep a host off the switch. A sequence number
		// that is lost heals when the others show us our former advert.
		m.log.Error("known peers not saved", "err", err)
		m.saveAt = now.Add(retryMost)
	}
	m.publish()
	return m, nil
}

// Run takes part in the cluster until ctx ends, and returns nil then. It
// returns early with an error when introductions can no longer be answered.
// It may be called once.
func (m *Mesh) Run(ctx context.Context) error {
	if m.running.Swap(true) {
		return errors.New("mesh: Run was called before")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.ctx = ctx
	if m.cfg.Listener != nil {
		m.workers.Go(func() {
			if err := m.cfg.Hello.Serve(ctx, m.cfg.Listener, m.desk.introduce); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("answer introductions: %w", err))
			}
		})
	}
	m.run(ctx)
	close(m.ended)
	m.gossip.shutdown()
	m.workers.Wait()
	if err := m.saveNow(); err != nil {
		m.log.Error("known peers not saved", "err", err)
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// OverlayReady says that the WireGuard device is up and has the overlay
// address: gossip starts.
func (m *Mesh) OverlayReady() { m.desk.overlayReady() }

// Views returns the channel of views. It holds one; the latest replaces one
// that was not taken. It is never closed.
func (m *Mesh) Views() <-chan View { return m.views }

// Reachable reports that a WireGuard handshake with a peer completed, at the
// endpoint when it is known. The peer may become a member from now on.
func (m *Mesh) Reachable(id crypto.Identity, endpoint netip.AddrPort) {
	m.desk.reachable(id, endpoint)
}

// EndpointsChanged asks for [Config.Endpoints] to be looked at now instead of
// within five seconds.
func (m *Mesh) EndpointsChanged() { m.desk.lookAtEndpoints() }

// Connect adds targets, or replaces all of them. When one cannot be read,
// nothing changes. Targets that are there already stay as they are.
func (m *Mesh) Connect(targets []string, replace bool) error {
	return m.desk.connect(targets, replace, m.cfg.Port)
}

// Forget removes targets; tunnels that stand stay. Naming one that is not a
// target is no error.
func (m *Mesh) Forget(targets []string) error { return m.desk.forget(targets, m.cfg.Port) }

// Targets returns the targets as typed, in the order given.
func (m *Mesh) Targets() []string { return m.desk.targetNames() }

// Put sets one of our own entries, to be seen by every member. The value is
// copied. Errors: [replica.ErrTooLarge], [replica.ErrFull].
func (m *Mesh) Put(key string, value []byte) error { return m.desk.put(key, value) }

// Delete removes one of our own entries; one that is not there is no error.
func (m *Mesh) Delete(key string) error { return m.desk.del(key) }

// Adverts returns our advert and those of all known peers, for
// [hello.Config]. The slice must not be modified.
func (m *Mesh) Adverts() []advert.Signed { return m.known.Load().adverts }

// Check returns why the peer with this advert is refused, for [hello.Config]:
// its name is known under another identity, or too many peers are known.
func (m *Mesh) Check(a advert.Signed) error { return m.known.Load().check(a) }

// Status returns the state of targets and members at this moment.
func (m *Mesh) Status() Status {
	s := *m.status.Load()
	s.Dropped = m.counts.dropped.Load()
	s.StateSent = m.counts.stateSent.Load()
	s.StateReceived = m.counts.stateReceived.Load()
	s.MessagesReceived = m.counts.messagesReceived.Load()
	s.MessageBytesReceived = m.counts.messageBytes.Load()
	s.MessageBytesSent = m.counts.messageBytesSent.Load()
	s.Payloads = Payloads{
		Sent: m.counts.payloadsSent.Load(), SentBytes: m.counts.payloadBytesSent.Load(), Cast: m.counts.payloadsCast.Load(),
		Received: m.counts.payloadsReceived.Load(), ReceivedBytes: m.counts.payloadBytesReceived.Load(),
		Dropped: m.counts.payloadsDropped.Load(),
	}
	return s
}

// Leave tells the members that we go, so that they need not find out, and
// joins nobody afterwards. It blocks until that was sent, at most until ctx
// ends or for two seconds. A host that keeps its switch running should be told
// of too: nobody answers for its names any more.
func (m *Mesh) Leave(ctx context.Context) error { return m.gossip.leave(ctx) }

// LeaveForGood makes every host forget us, those that are away now when they
// come back: nobody keeps a tunnel for us, waits for us or calls us. Only a
// daemon that starts again with this identity is known again. It tells the
// members one by one, for at most two seconds, and then does what [Mesh.Leave]
// does; it ends when ctx does. Run must be running, and may be ended
// afterwards. Errors: our last advert could not be made, or those of Leave.
func (m *Mesh) LeaveForGood(ctx context.Context) error {
	if !m.running.Load() {
		return errors.New("leave for good: the mesh does not run")
	}
	short, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	select {
	case err := <-m.desk.leave():
		if err != nil {
			return fmt.Errorf("leave for good: %w", err)
		}
	case <-m.ended:
		return errors.New("leave for good: the mesh has ended")
	case <-short.Done(): // who was not told hears it from the others
	}
	return m.gossip.leave(ctx)
}

// Expel makes this host forget a peer that is not a member; every other host
// is to be told separately. It comes back when it introduces itself, or by an
// advert that is newer than the one that was known. A member is not expelled,
// nor is one that joins at this moment; somebody unknown is no error.
func (m *Mesh) Expel(id crypto.Identity) { m.desk.expel(id) }

// UnmetTargets counts the targets that are not ourselves and of whom it is not
// known who they are, including those given to [Mesh.Connect] just now. A
// target counts as met no sooner than a [View] with it was published; who must
// not count one too few before he took that view uses its own number as well.
func (m *Mesh) UnmetTargets() int { return m.desk.unmet(*m.met.Load()) }

// counts are written from many goroutines.
type counts struct {
	members          atomic.Int64 // besides us
	dropped          atomic.Uint64
	stateSent        atomic.Uint64 // bytes of digests in push/pull
	stateReceived    atomic.Uint64
	messagesReceived atomic.Uint64
	messageBytes     atomic.Uint64
	messageBytesSent atomic.Uint64 // in reliable messages

	packets              atomic.Uint64 // of gossip
	payloadsSent         atomic.Uint64
	payloadBytesSent     atomic.Uint64
	payloadsCast         atomic.Uint64
	payloadsReceived     atomic.Uint64
	payloadBytesReceived atomic.Uint64
	payloadsDropped      atomic.Uint64
}
