package relay

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
)

// When a [Keeper] binds (docs/protocol.md#binds).
const (
	bindEvery     = 20 * time.Second
	firstRetry    = 500 * time.Millisecond // doubling up to bindEvery
	doubtRetry    = 300 * time.Millisecond // or two round trips, while it is doubted that the relay lives
	maxMissed     = 3                      // unanswered binds in a row: the bind is lost
	sentKept      = 4                      // binds that an answer may still be for
	noticeRate    = maxNotices             // notices believed per second and relay
	inviteRate    = 1                      // the same of invitations
	challengeRate = 4                      // cookies used at once, per second and relay
	replyWithin   = 10 * time.Second       // an answer later than that is none
	// keptFor is how long a bind holds that is not accepted again: no longer
	// than at the relay.
	keptFor = bindLife
)

// Want is a registration to keep: of one of our ports, at a peer's relay.
type Want struct {
	Peer crypto.Identity
	Key  [32]byte       // of the pair
	Addr netip.AddrPort // the peer's relay port
	Role signal.Role    // which of our ports
}

// Send is a packet to send from one of our ports.
type Send struct {
	Role  signal.Role
	To    netip.AddrPort
	Bytes []byte
}

// EventKind is what a packet from a relay means.
type EventKind uint8

// The kinds of events.
const (
	Nothing   EventKind = iota
	Bound               // we are bound there, for the first time or with a new address of the relay's or ours
	Restarted           // we are bound again, but the relay has lost its sessions: it has a new boot id
	Noticed             // the relay does not know a session of ours
	Invited             // the relay asked us to bind; it is done
)

// String returns the kind's word.
func (k EventKind) String() string {
	return [...]string{"nothing", "bound", "restarted", "noticed", "invited"}[k]
}

// Event is what a packet from a relay means for this host.
type Event struct {
	Kind     EventKind
	Peer     crypto.Identity
	Role     signal.Role
	Addr     netip.AddrPort // the relay's
	Observed netip.AddrPort // Bound, Restarted: ours, as the relay sees it
	Index    uint32         // Noticed: the receiver index it does not know
}

// BindStatus is how a registration stands.
type BindStatus struct {
	Peer crypto.Identity
	Role signal.Role
	// Addr is where the bind holds if Accepted, even while one is being made at
	// another address. Else it is where we bind: as wanted, or where an
	// invitation came from.
	Addr     netip.AddrPort
	Accepted bool
	Last     time.Time // accepted; zero: never
	RTT      time.Duration
	Observed netip.AddrPort
	Boot     uint64 // the relay's; 0: not known
}

// Keeper keeps this host's registrations at relays: it says what to send when,
// and what the answers mean. It has no socket and no clock, and is not safe for
// concurrent use.
type Keeper struct {
	self   signal.ID
	boot   uint64
	number uint64 // of the last bind or hush
	wants  map[want]*keeping
}

// want is what registrations are distinguished by.
type want struct {
	id   signal.ID
	role signal.Role
}

// keeping is one registration.
type keeping struct {
	Want
	addr     netip.AddrPort // where we bind
	invited  netip.AddrPort // where the next bind goes instead; zero: nowhere
	cookie   [8]byte
	due      time.Time // zero: at once
	sent     []request // without an answer, oldest first
	asked    time.Time // when the first of them was sent that does not count as missed yet
	missed   int       // binds in a row without an answer
	doubted  bool      // since the last answer
	accepted bool
	last     time.Time
	rtt      time.Duration
	observed netip.AddrPort
	at       netip.AddrPort // where it was accepted

	boot uint64 // the relay's, by an authentic answer
	told uint64 // number of the relay's last notice or invitation in that boot

	notices, invites, challenges, lives limiter
}

// request is a bind that may be answered.
type request struct {
	number uint64
	at     time.Time
	to     netip.AddrPort
}

// NewKeeper returns a keeper that wants nothing. Boot is random in each life of
// the daemon, and not zero.
func NewKeeper(self crypto.Identity, boot uint64) *Keeper {
	return &Keeper{self: signal.IDOf(self), boot: boot, wants: make(map[want]*keeping)}
}

// Set makes list all that is wanted; two wants differ in peer or role. What is
// new, or has another address, is due at once; a bind that holds goes on to
// hold at the old address until it is accepted at the new one, or given up.
func (k *Keeper) Set(now time.Time, list []Want) {
	gone := make(map[want]bool, len(k.wants))
	for w := range k.wants {
		gone[w] = true
	}
	for _, x := range list {
		x.Addr = netip.AddrPortFrom(x.Addr.Addr().Unmap(), x.Addr.Port())
		w := want{signal.IDOf(x.Peer), x.Role}
		delete(gone, w)
		old := k.wants[w]
		switch {
		case old == nil || old.Peer != x.Peer || old.Key != x.Key:
			k.wants[w] = &keeping{Want: x, addr: x.Addr, due: now}
		case old.Addr != x.Addr:
			old.Addr, old.addr = x.Addr, x.Addr
			old.due, old.missed, old.sent = now, 0, nil
		}
	}
	for w := range gone {
		delete(k.wants, w)
	}
}

// Now makes binds at a peer's relay due at once, those of both ports, or when
// one that was just sent has had the time to be answered. Without peers it means
// all, at once: our own address has changed. Of peers it means a doubt whether
// their relays live: a bind that nobody answers is given up, however often Now
// is called, and sooner than another.
func (k *Keeper) Now(peers ...crypto.Identity) {
	for _, x := range k.wants {
		if len(peers) > 0 && !slices.Contains(peers, x.Peer) {
			continue
		}
		x.doubted = x.doubted || len(peers) > 0 && x.accepted
		if len(peers) == 0 || len(x.sent) == 0 {
			x.due = time.Time{}
		} else if at := x.sent[len(x.sent)-1].at.Add(x.retry()); at.Before(x.due) {
			x.due = at
		}
	}
}

// retry is how long an answer is waited for at first.
func (x *keeping) retry() time.Duration {
	if x.doubted {
		return min(max(doubtRetry, 2*x.rtt), firstRetry<<maxMissed)
	}
	return firstRetry
}

// Next returns when [Keeper.Due] has something to send; zero when nothing is
// wanted.
func (k *Keeper) Next() (next time.Time) {
	first := true
	for _, x := range k.wants {
		if first || x.due.Before(next) {
			next, first = x.due, false
		}
	}
	if !first && next.IsZero() { // at once
		next = time.Unix(0, 0)
	}
	return next
}

// Due returns the binds to send now, by peer and role.
func (k *Keeper) Due(now time.Time) (list []Send) {
	for _, x := range k.sorted() {
		if !now.Before(x.due) {
			list = append(list, k.bind(now, x))
		}
	}
	return list
}

func (k *Keeper) sorted() []*keeping {
	return slices.SortedFunc(maps.Values(k.wants), func(a, b *keeping) int {
		return cmp.Or(a.Peer.Compare(b.Peer), cmp.Compare(a.Role, b.Role))
	})
}

func (k *Keeper) bind(now time.Time, x *keeping) Send {
	switch waits := slices.ContainsFunc(x.sent, func(r request) bool { return r.to == x.addr }); {
	case !waits:
		x.asked = now
	case now.Sub(x.asked) >= x.retry():
		x.missed, x.asked = x.missed+1, now
	}
	if x.missed >= maxMissed {
		// Where an invitation came from, nobody answers any more.
		x.accepted, x.doubted, x.addr = false, false, x.Addr
	}
	if now.Sub(x.last) >= keptFor {
		x.accepted = false // it is answered, but never accepted
	}
	x.due = now.Add(min(firstRetry<<min(x.missed, 10), bindEvery))
	if x.doubted {
		x.due = now.Add(x.retry())
	}
	to := x.addr
	if x.invited.IsValid() {
		to, x.invited = x.invited, netip.AddrPort{}
	}
	k.number++
	x.sent = append(x.sent, request{k.number, now, to})
	x.sent = x.sent[max(0, len(x.sent)-sentKept):]
	return Send{Role: x.Role, To: to, Bytes: signal.Packet{
		Kind: signal.Bind, From: k.self, To: signal.IDOf(x.Peer), Number: k.number, Boot: k.boot, Role: x.Role, Cookie: x.cookie,
	}.Append(nil, x.Key)}
}

// Hush asks a relay at which our WireGuard port is bound to send us nothing of
// another host for a while, at most [signal.MaxHush]. It returns false when we
// are not bound there.
func (k *Keeper) Hush(relay, of crypto.Identity, d time.Duration) (Send, bool) {
	x := k.wants[want{signal.IDOf(relay), signal.WireGuardPort}]
	if x == nil || x.Peer != relay || !x.accepted {
		return Send{}, false
	}
	k.number++
	return Send{Role: x.Role, To: x.at, Bytes: signal.Packet{
		Kind: signal.Hush, From: k.self, To: signal.IDOf(relay), Number: k.number, Boot: k.boot, Peer: signal.IDOf(of), For: d,
	}.Append(nil, x.Key)}, true
}

// Handle takes a packet that came to one of our ports: b, and what
// [signal.Parse] made of it. It does not believe what no relay of ours has made.
func (k *Keeper) Handle(now time.Time, from netip.AddrPort, role signal.Role, p signal.Packet, b []byte) Event {
	x := k.wants[want{p.From, role}]
	if x == nil || p.To != k.self {
		return Event{}
	}
	switch p.Kind {
	case signal.BindReply, signal.Notice, signal.Invite:
	default:
		return Event{}
	}
	if !signal.Verify(b, x.Key) {
		return Event{}
	}
	if p.Kind != signal.Notice && x.boot != 0 && p.Boot != x.boot && x.lives.allow(now, inviteRate, inviteRate) {
		// It seems to be in another life: our other port wants to know too.
		for role := signal.WireGuardPort; role <= signal.RelayPort; role++ {
			if other := k.wants[want{p.From, role}]; other != nil && other.boot != p.Boot {
				other.due = time.Time{}
			}
		}
	}
	switch p.Kind {
	case signal.BindReply:
		return x.reply(now, from, p)
	case signal.Notice:
		if from != x.at || !x.accepted || p.Boot != x.boot || p.Number <= x.told || !x.notices.allow(now, noticeRate, noticeRate) {
			return Event{}
		}
		x.told = p.Number
		return x.event(Noticed, p.Index)
	default:
		return x.invite(now, from, p)
	}
}

func (x *keeping) event(kind EventKind, index uint32) Event {
	return Event{Kind: kind, Peer: x.Peer, Role: x.Role, Addr: x.where(), Observed: x.observed, Index: index}
}

// where is where the bind holds, or else where we bind.
func (x *keeping) where() netip.AddrPort {
	if x.accepted {
		return x.at
	}
	return x.addr
}

// reply takes the answer to a bind.
func (x *keeping) reply(now time.Time, from netip.AddrPort, p signal.Packet) Event {
	i := slices.IndexFunc(x.sent, func(r request) bool { return r.number == p.Number })
	if i < 0 || from != x.sent[i].to || p.Role != x.Role || p.Boot == 0 || now.Sub(x.sent[i].at) > replyWithin {
		return Event{}
	}
	rtt := now.Sub(x.sent[i].at)
	if !p.Accepted {
		// A cookie for where we are, of the relay's present life. It is used at
		// once, unless that does not seem to help.
		if p.Cookie != x.cookie && x.challenges.allow(now, challengeRate, challengeRate) {
			x.cookie, x.due, x.sent = p.Cookie, time.Time{}, nil
			if from != x.addr {
				x.invited = from
			}
		}
		return Event{}
	}
	old := *x
	if x.boot != p.Boot {
		x.boot, x.told = p.Boot, 0
	}
	x.accepted, x.doubted, x.missed, x.last, x.rtt = true, false, 0, now, rtt
	x.addr, x.at, x.observed, x.cookie = from, from, p.Observed, p.Cookie
	x.due, x.sent = now.Add(bindEvery), nil
	switch {
	case old.boot != 0 && old.boot != p.Boot:
		return x.event(Restarted, 0)
	case !old.accepted || old.at != from || old.observed != p.Observed:
		return x.event(Bound, 0)
	}
	return Event{}
}

// invite takes an invitation: a bind goes to where it came from, and counts
// when the relay answers there. A copy of the packet that somebody else sends
// does no more than that.
func (x *keeping) invite(now time.Time, from netip.AddrPort, p signal.Packet) Event {
	if p.Size < signal.Bind.Least() || p.Boot == x.boot && p.Number <= x.told || !x.invites.allow(now, inviteRate, inviteRate) {
		return Event{}
	}
	if p.Boot == x.boot {
		x.told = p.Number
	}
	x.due, x.invited = time.Time{}, from
	return x.event(Invited, 0)
}

// Status returns how all registrations stand, by peer and role.
func (k *Keeper) Status() []BindStatus {
	list := make([]BindStatus, 0, len(k.wants))
	for _, x := range k.sorted() {
		list = append(list, BindStatus{
			Peer: x.Peer, Role: x.Role, Addr: x.where(), Accepted: x.accepted, Last: x.last, RTT: x.rtt,
			Observed: x.observed, Boot: x.boot,
		})
	}
	return list
}
