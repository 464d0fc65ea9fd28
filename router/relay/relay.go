// Package relay sends other hosts' sealed WireGuard packets on, as they are,
// by the rules of docs/protocol.md#relays, and keeps this host's own registrations
// at the relays of others ([Keeper]).
//
// A [Relay] owns the relay port, knows who is bound there and which sessions
// pass: a table without sockets decides about each packet, and two loops, one
// per protocol, move batches. It cannot read or make a packet of a session, and
// keeps nothing when it stops. It does not know which relay is best, nor which
// host needs one: who calls [Relay.Set] does.
package relay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/udp"
)

// batch is how many packets, each maybe several in one, a loop takes at once.
const batch = 32

// Peer is a known host.
type Peer struct {
	Identity  crypto.Identity
	WireGuard [32]byte // its public key
	Key       [32]byte // of the pair, for signals
	// Next is whose relay gets the packets for this peer while it is not bound
	// here; zero: none. That relay must be bound here by its relay port, or
	// have a Relay address.
	Next crypto.Identity
	// Relay is the peer's relay port at which our relay port is bound and
	// accepted; zero: none. Packets from there are believed to be the peer's.
	Relay netip.AddrPort
	// PathMTU is the largest IP packet that the path to the peer carries, in
	// bytes; 0: not known. What is larger leaves in fragments by the MTU of the
	// route, one packet at a time. The route is made elsewhere, for packets with
	// [Options.Mark].
	PathMTU int
	// Single says that packets to the peer leave one by one, because coalesced
	// ones do not arrive.
	Single bool
}

// Config is the whole desired state of a [Relay].
type Config struct {
	// Peers are all hosts that may use this relay or be reached by it. A
	// WireGuard key belongs to the first that names it: in the list, or in one
	// before.
	Peers []Peer
}

// Options are constant in the life of a [Relay].
type Options struct {
	Self crypto.Identity
	Boot uint64 // random in each life of the daemon, not zero
	Port uint16 // 0: a free one
	Mark uint32 // firewall mark of what is sent; 0: none
	// Receive gets the answers of other relays to the binds of our relay port,
	// for a [Keeper]: authentic ones of known peers, which may be copies. It is
	// called from the loops and must not block; b is valid during the call only.
	// May be nil.
	Receive func(from netip.AddrPort, b []byte)
	// Usable says whether packets may be sent to an address at all: not to
	// loopback, multicast, overlay or switch addresses. Nil: to every one.
	Usable func(netip.AddrPort) bool
	Plain  bool         // turns the coalescing of UDP packets (GSO, GRO) off
	Log    *slog.Logger // nil: silence
}

// Binding is one port of a host that is bound here.
type Binding struct {
	Identity crypto.Identity
	Role     signal.Role
	Addr     netip.AddrPort // where its packets come from and go to
	Since    time.Time      // at this address
	Last     time.Time      // accepted
}

// Stats is what a relay does and has done.
type Stats struct {
	Packets, Bytes uint64            // sent on; bytes are those of UDP payloads
	Dropped        map[string]uint64 // packets by reason, one word each; every reason is in it
	Sessions       int               // carried now
	Bound          int               // hosts that can be reached through this one now
}

// Relay forwards sealed packets on one UDP port, for IPv4 and IPv6. Its methods
// are safe for concurrent use.
type Relay struct {
	// Constant after Open.

	o      Options
	v4, v6 *udp.Socket // nil: this host has no such protocol
	log    *slog.Logger

	mu    sync.Mutex // guards what follows
	table *table
	news  []news // to be logged
}

// news is a change of a binding.
type news struct {
	id   crypto.Identity
	role signal.Role
	addr netip.AddrPort // zero: not bound any more
}

// Open opens the port. Nothing is relayed before [Relay.Run]; who does not call
// that calls [Relay.Close].
func Open(o Options) (*Relay, error) {
	if o.Boot == 0 {
		return nil, errors.New("relay: no boot id")
	}
	if o.Usable == nil {
		o.Usable = netip.AddrPort.IsValid
	}
	r := &Relay{o: o, log: o.Log}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return nil, fmt.Errorf("relay: make a secret: %w", err)
	}
	var err error
	if r.v4, r.v6, err = udp.ListenBoth(o.Port); err != nil {
		return nil, fmt.Errorf("relay: listen on UDP port %d: %w", o.Port, err)
	}
	for _, s := range r.sockets() {
		if !o.Plain {
			break
		}
		if err := s.Plain(); err != nil {
			return nil, errors.Join(fmt.Errorf("relay: %w", err), r.Close())
		}
	}
	for _, s := range r.sockets() {
		if o.Mark == 0 {
			break
		}
		if err := s.SetMark(o.Mark); err != nil {
			return nil, errors.Join(fmt.Errorf("relay: %w", err), r.Close())
		}
	}
	r.table = newTable(o.Self, o.Boot, secret, o.Usable)
	r.table.changed = func(n *neighbour, addr netip.AddrPort) {
		r.news = append(r.news, news{n.peer.id, n.role, addr})
	}
	return r, nil
}

func (r *Relay) sockets() []*udp.Socket {
	return slices.DeleteFunc([]*udp.Socket{r.v4, r.v6}, func(s *udp.Socket) bool { return s == nil })
}

// Port returns the port that the relay listens on.
func (r *Relay) Port() uint16 { return r.sockets()[0].Port() }

// Close closes the port, which ends [Relay.Run]. It may be called twice.
func (r *Relay) Close() error {
	var err error
	for _, s := range r.sockets() {
		if e := s.Close(); !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// Set makes c the state of the relay. It may be called often with the same.
// Who is no peer any more is not bound any more, and loses its sessions.
func (r *Relay) Set(c Config) {
	defer r.tell()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table.set(c.Peers)
}

// Run relays until ctx ends, and closes the port. It returns nil when ctx ended
// or [Relay.Close] was called. What the kernel cannot do for a while, for want of
// memory for one, it tries again.
func (r *Relay) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range r.sockets() {
		g.Go(func() error { return r.loop(ctx, s.NewReceiver()) })
	}
	g.Go(func() error {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return r.Close() // the loops end
			case now := <-tick.C:
				r.sweep(now)
			}
		}
	})
	if err := g.Wait(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (r *Relay) sweep(now time.Time) {
	defer r.tell()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table.sweep(now)
}

// source is where a loop's packets come from.
type source interface {
	Receive(bufs [][]byte, into []udp.Message) (int, error)
}

// loop moves what comes to one socket, until that is closed or ctx ends.
func (r *Relay) loop(ctx context.Context, from source) error {
	in, out := make([]udp.Message, batch), new(output)
	bufs := make([][]byte, batch)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	var p patience
	for {
		n, err := from.Receive(bufs, in)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
				return fmt.Errorf("relay: %w", err)
			}
			if !errors.Is(err, unix.EINTR) && !r.wait(ctx, &p, err) {
				return nil
			}
			continue
		}
		if p.said != "" && time.Since(p.last) >= forgive {
			r.log.Info("the relay port receives again")
			p = patience{}
		}
		r.decide(in[:n], out)
		r.send(out)
	}
}

// patience is what a loop knows of errors that may pass.
type patience struct {
	said string        // the last one that was logged; "": none
	last time.Time     // when the last one was
	rest time.Duration // before the next try
}

const (
	firstRest = 10 * time.Millisecond
	lastRest  = time.Second
	forgive   = 10 * time.Second // without errors until all is well
)

// wait rests after an error, longer when they follow one another; false: ctx
// ended.
func (r *Relay) wait(ctx context.Context, p *patience, err error) bool {
	if text := err.Error(); text != p.said {
		r.log.Warn("the relay port cannot receive; trying on", "err", err)
		p.said = text
	}
	now := time.Now()
	if p.rest = min(2*p.rest, lastRest); p.rest == 0 || now.Sub(p.last) >= 2*lastRest {
		p.rest = firstRest
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(p.rest):
	}
	p.last = time.Now()
	return true
}

// decide fills out with what is to be done about a batch.
func (r *Relay) decide(in []udp.Message, out *output) {
	out.reset()
	now := time.Now()
	r.mu.Lock()
	for i := range in {
		r.table.message(now, &in[i], out)
	}
	told := len(r.news) == 0
	r.mu.Unlock()
	if !told {
		r.tell()
	}
}

// send does what decide found.
func (r *Relay) send(out *output) {
	for _, m := range out.answers {
		if r.o.Receive != nil {
			r.o.Receive(m.Flow.Remote, m.Bytes)
		}
	}
	var failed uint64
	for i, s := range []*udp.Socket{r.v4, r.v6} {
		if list := out.wide[i]; len(list) > 0 && (s == nil || s.Forward(list) != nil) {
			failed++
		}
		if list := out.narrow[i]; len(list) > 0 && (s == nil || s.Fragment(list) != nil) {
			failed++
		}
	}
	if failed > 0 {
		r.mu.Lock()
		r.table.counts.dropped[sendFailed] += failed
		r.mu.Unlock()
	}
}

// tell logs what changed.
func (r *Relay) tell() {
	r.mu.Lock()
	list := r.news
	r.news = nil
	r.mu.Unlock()
	for _, n := range list {
		if n.addr.IsValid() {
			r.log.Info("host bound at this relay", "peer", n.id.Name(), "role", n.role.String(), "addr", n.addr)
		} else {
			r.log.Info("host no longer bound at this relay", "peer", n.id.Name(), "role", n.role.String())
		}
	}
}

// Send sends b from the relay port: what a [Keeper] wants sent for
// [signal.RelayPort].
func (r *Relay) Send(to netip.AddrPort, b []byte) error {
	s := r.v6
	if to.Addr().Unmap().Is4() {
		s = r.v4
	}
	if s == nil {
		return fmt.Errorf("relay: send to %s: %w", to, unix.EAFNOSUPPORT)
	}
	f := udp.Flow{Remote: netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())}
	if err := s.Forward([]udp.Message{{Flow: f, Bytes: b}}); err != nil {
		return fmt.Errorf("relay: send to %s: %w", to, err)
	}
	return nil
}

// Invite asks a peer to bind here at once; addr is one of its ports. That opens
// the way from this host's relay port through its own NAT, and after a restart
// it spares the neighbours the wait until they notice.
func (r *Relay) Invite(peer crypto.Identity, addr netip.AddrPort) error {
	r.mu.Lock()
	p := r.table.known(peer)
	r.table.number++
	n := r.table.number
	r.mu.Unlock()
	if p == nil {
		return fmt.Errorf("relay: invite %s: not a known peer", peer.Fingerprint())
	}
	if !r.o.Usable(addr) {
		return fmt.Errorf("relay: invite %s: %s is no address to send to", peer.Fingerprint(), addr)
	}
	// Whoever replays it gets a bind sent somewhere, which must not be longer.
	return r.Send(addr, signal.Packet{
		Kind: signal.Invite, From: r.table.self, To: signal.IDOf(peer), Number: n, Boot: r.o.Boot,
		Size: signal.Bind.Least(),
	}.Append(nil, p.key))
}

// Forget drops the session that another relay, the peer's, does not know any
// more by its own notice: who uses it next is told in turn. It is for what a
// [Keeper] makes of notices to the relay port ([Noticed]); a relay that is bound
// here is believed without.
func (r *Relay) Forget(peer crypto.Identity, index uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.table.known(peer); p != nil {
		r.table.forgetIndex(p, index)
	}
}

// ForgetAll drops all sessions that go by the relay of a peer which has lost
// its state. It is for what a [Keeper] makes of a relay's new boot id
// ([Restarted]).
func (r *Relay) ForgetAll(peer crypto.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.table.known(peer); p != nil {
		r.table.forget(func(s *session) bool { return s.next == p.roles[signal.RelayPort] })
	}
}

// Withdraw makes the relay take no new sessions and no binds. What it carries
// goes on; the caller stops it two seconds later.
func (r *Relay) Withdraw() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table.stopping = true
}

// Bound returns who is bound here, by identity and role.
func (r *Relay) Bound() []Binding {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.bound()
}

// Carried is how many packets were forwarded.
func (r *Relay) Carried() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.counts.packets
}

// Stats returns the counters of the relay's life and what it holds now.
func (r *Relay) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.table
	s := Stats{
		Packets: t.counts.packets, Bytes: t.counts.bytes,
		Dropped: make(map[string]uint64, reasonCount-1), Sessions: t.pairs,
	}
	for _, b := range t.bound() {
		if b.Role == signal.WireGuardPort {
			s.Bound++
		}
	}
	for why := none + 1; why < reasonCount; why++ {
		s.Dropped[reasonNames[why]] = t.counts.dropped[why]
	}
	return s
}
