package ipam

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
)

// Who calls what in this package:
//
//	step ─┬─ a request of this host   allocate.go claim.go lease.go (release, died, adopt)
//	      ├─ peers, entries           info.go
//	      ├─ a message                gossip.go (Digest, State), lease.go (Want, Give, Held, Conflict), and
//	      │    receiveDivision(from, body)  division.go: Prepare Promise Nack Off Accept Accepted Elect
//	      │    receiveTakeover(from, msg)   takeover.go: FenceAsk FencePromise FenceRefuse FenceOver
//	      │    receiveHandOver(from, msg)   handover.go: HandOver HandedOver
//	      │    meetMessage(from, msg) bool  meet.go: before all others, when the message's ring is not ours and not
//	      │                                 zero; true: it is ours now, the message is handled further
//	      └─ then what is due, in this order:
//	           stepSure        sure.go: exchanges that are owed
//	           stepMeet        meet.go: after infos changed, or a minute
//	           stepDivision    division.go: makes a ring when there is none and c.wantsRing()
//	           stepTakeover    takeover.go: deadlines of rmpeer
//	           stepHandOver    handover.go: deadlines of reset
//	           stepHolders     lease.go: grace of the dead, Held every 30 s
//	           stepRequests    allocate.go: those that wait are tried again if c.again, then Wants
//	           stepGossip      gossip.go: casts what changed, a digest now and then
//	           stepInfo        info.go: puts the entries
//
// and of the sub-machines, which are structs that core embeds as fields:
//
//	division.go   c.divisionReason() string: why what needs a ring waits
//	takeover.go   c.startTakeover(t ticket, ids []crypto.Identity, force bool); c.cancelTakeover(t) bool
//	              c.fenced(reg Register) bool: reg is not to be merged now
//	              c.fencedPeer(id) bool: its Wants are not answered now
//	              c.fencesAgainst(id) []Fence, c.fencesOf(initiator) []Fence; c.removedEpoch(id) (uint64, bool)
//	              c.removedPeers() []Removed, c.learnRemoved([]Removed)
//	              c.toldFences(from, pending []Fence): Pending of a Digest or State whose initiator we are
//	handover.go   c.startHandOver(t ticket); c.cancelHandOver(t) bool; c.handingOver() bool
//	meet.go       c.ringConflict() (what string): the other ring, for status; empty: none
//
// What is stored of them comes, before the first step, by c.loadVote(storedVote),
// c.loadFence(Fence) and c.loadRemoved(storedRemoved).
//
// What core offers them: put, forget (record.go: values of the store),
// setRegister, mergeRuns, adoptRing, setLease, dropLease (record.go), send, cast,
// finish, wait, wakeAt, due, jitter, retry, logf (here), known, others, alive,
// title, resolve (info.go), nextOp, receiveHeld (lease.go), setUnsure (sure.go).

// coreConfig is what a core is made of.
type coreConfig struct {
	Self         crypto.Identity
	Name         crypto.Name
	Range        netip.Prefix
	Subnet       netip.Prefix // zero: the range
	Mode         Mode
	ReclaimAfter time.Duration // zero: never
	Seed         [32]byte      // of the random numbers
	// Adopted says that what is attached is in the store, as a former core of
	// this process was told by an adoptEvent.
	Adopted bool

	sabotage sabotage // only of tests
}

// sabotage breaks a core on purpose, in tests that show that the simulation
// would notice. The zero value breaks nothing.
type sabotage struct {
	sameVersion bool // blocks are given away without a higher version
	unasked     bool // rmpeer takes space without asking anybody
	trusting    bool // an old copy of the database is taken for the newest
}

// core is the allocator without a clock, a disk, or a network: events go in
// by step, what is to be done about them comes out by take. It is driven by
// [Allocator.Run] and by the simulation, and is not safe for concurrent use.
type core struct {
	// Constant after newCore.

	cfg  coreConfig
	geo  Geometry
	rand *rand.Rand

	// Owned by the run loop; on the disk, too. Only the methods in record.go
	// change it, which write it as well.

	ring   *ring // nil: the range was not divided yet
	local  map[netip.Addr]holder
	leased map[netip.Addr]grant
	boot   uint32 // starts of this host so far
	seq    uint32 // ops of this start

	// Owned by the run loop; follows from the above.

	keys     map[string][]netip.Addr // the addresses of each holder, ascending
	localIn  index[int]              // local addresses by block
	leasedIn index[int]              // leased addresses by block
	leasedTo index[crypto.Identity]  // leased addresses by host
	used     *space                  // local and leased addresses
	changed  blockSet                // registers that are news and to be cast

	// Owned by the run loop.

	peers      map[crypto.Identity]*peer
	peersKnown bool // the first list of peers came
	targets    int  // peers that were named and not met yet
	sureness   sureness
	gossip     gossip
	infos      infos
	requests   requests
	holders    holders
	division   division
	takeover   takeover
	handOver   handOver
	meeting    meeting

	// Valid during a step, and until take.

	now   time.Time
	next  time.Time // of the next tick
	again bool      // requests that wait are to be tried again
	out   effects
}

// ticket is the number of a request of this host. It has nothing to do with
// the op of a message.
type ticket uint64

// holder has a local address.
type holder struct {
	Key   string // "docker:ID", "ns:DEV:INO", "weft:expose"
	Label string // for people
	Op    uint64 // of the Want that it was leased for; zero: it was not
}

// grant is an address of our blocks that is leased to another host.
type grant struct {
	Host crypto.Identity
	holder
}

// event is what step handles: one of the types below.
type event any

type (
	tickEvent struct{}
	// peersEvent replaces the list of all known peers.
	peersEvent struct {
		Peers   []Peer
		Targets int // peers that were named and not met yet
	}
	// entriesEvent replaces the list of all entries of others.
	entriesEvent struct{ Entries []Entry }
	// messageEvent is a message that came from a peer.
	messageEvent struct {
		From crypto.Identity
		Data []byte
	}

	// allocateEvent wants an address in Subnet for Key.
	allocateEvent struct {
		Ticket     ticket
		Key, Label string
		Subnet     netip.Prefix
	}
	// claimEvent wants this address for Key.
	claimEvent struct {
		Ticket     ticket
		Key, Label string
		Addr       netip.Addr
	}
	// adoptEvent says what was found attached at the start, by key. Holders
	// that are not in it are released after the grace. Where the database was
	// not there, or is not known to be the newest, nothing is handed out from
	// our own blocks before it came.
	adoptEvent struct {
		Ticket ticket
		Live   map[string]Found
	}
	// moveEvent gives addresses of From to Key.
	moveEvent struct {
		Ticket           ticket
		From, Key, Label string
		Addrs            []netip.Addr
	}
	// releaseEvent frees the addresses of Key, nil: all of them.
	releaseEvent struct {
		Ticket ticket
		Key    string
		Addrs  []netip.Addr
	}
	// diedEvent says that the container is gone or stopped.
	diedEvent struct{ Key string }
	// primeEvent waits until the range is divided.
	primeEvent struct{ Ticket ticket }
	// removeEvent is rmpeer.
	removeEvent struct {
		Ticket ticket
		Peers  []crypto.Identity
		Force  bool
	}
	// handOverEvent is reset.
	handOverEvent struct{ Ticket ticket }
	// cancelEvent ends a request that waits, with errCancelled. Of one that
	// was answered already it does nothing.
	cancelEvent struct{ Ticket ticket }
)

// effects is what is to be done after a step, in this order. Nothing of the
// rest is to be done, and the core is to be made anew from the store, when the
// writes fail.
type effects struct {
	Writes  []write
	Sends   []letter
	Casts   [][]byte
	Puts    map[string][]byte // our own entries; nil: delete
	Expels  []crypto.Identity
	Answers []answer
	Waits   []waiting
	Logs    []logLine
}

// letter is a message to one peer.
type letter struct {
	To   crypto.Identity
	Data []byte
}

// answer ends a request.
type answer struct {
	Ticket ticket
	Result result
}

// result is the answer to a request of any kind.
type result struct {
	Err      error
	Addr     netip.Prefix // allocate
	Fresh    bool         // allocate, claim: it was not the key's before
	Released []netip.Addr
	Taken    []Taken         // remove
	To       crypto.Identity // hand over
	IPs      uint64          // hand over
}

// waiting says why a request waits.
type waiting struct {
	Ticket ticket
	Reason string
}

// logLine is one line of the log.
type logLine struct {
	Level slog.Level
	Msg   string
	Args  []any
}

// newCore returns a core with what is stored. proven says that stored is the
// newest state there ever was; it is so, too, with nothing stored, when this
// identity was just made. Peers, entries and what is attached must be told
// before it gives anything from its own blocks.
func newCore(cfg coreConfig, stored map[string][]byte, proven bool, now time.Time) (*core, error) {
	geo, err := newGeometry(cfg.Range)
	if err != nil {
		return nil, err
	}
	if !cfg.Subnet.IsValid() {
		cfg.Subnet = geo.Range()
	}
	c := &core{
		cfg:      cfg,
		geo:      geo,
		rand:     rand.New(rand.NewChaCha8(cfg.Seed)),
		local:    make(map[netip.Addr]holder),
		leased:   make(map[netip.Addr]grant),
		keys:     make(map[string][]netip.Addr),
		localIn:  make(index[int]),
		leasedIn: make(index[int]),
		leasedTo: make(index[crypto.Identity]),
		used:     newSpace(geo),
		peers:    make(map[crypto.Identity]*peer),
		now:      now,
		next:     now,
	}
	c.requests.init()
	c.infos.init()
	c.holders.init()
	c.load(stored, proven)
	return c, nil
}

// step handles one event and then does all that is due.
func (c *core) step(now time.Time, e event) {
	c.now = now
	c.next = now.Add(idle)
	switch e := e.(type) {
	case tickEvent:
	case peersEvent:
		c.setPeers(e.Peers, e.Targets)
	case entriesEvent:
		c.setEntries(e.Entries)
	case messageEvent:
		c.receive(e.From, e.Data)
	case allocateEvent:
		c.startAllocate(e)
	case claimEvent:
		c.startClaim(e)
	case adoptEvent:
		c.adopt(e)
	case moveEvent:
		c.move(e)
	case releaseEvent:
		c.release(e)
	case diedEvent:
		c.died(e.Key)
	case primeEvent:
		c.startPrime(e.Ticket)
	case removeEvent:
		c.startTakeover(e.Ticket, e.Peers, e.Force)
	case handOverEvent:
		c.startHandOver(e.Ticket)
	case cancelEvent:
		c.cancel(e.Ticket)
	default:
		panic(fmt.Sprintf("ipam: event %T", e))
	}
	c.stepSure()
	c.stepMeet()
	c.stepDivision()
	c.stepTakeover()
	c.stepHandOver()
	c.stepHolders()
	c.stepRequests()
	c.stepGossip()
	c.stepInfo()
}

// idle is the longest time between two ticks.
const idle = time.Minute

// wake returns when the next tick is due.
func (c *core) wake() time.Time { return c.next }

// wakeAt makes the next tick no later than t.
func (c *core) wakeAt(t time.Time) {
	if t.Before(c.next) {
		c.next = t
	}
}

// due reports whether t has come, and makes sure of a tick when it has not.
// The zero time never comes.
func (c *core) due(t time.Time) bool {
	if t.IsZero() {
		return false
	}
	if t.After(c.now) {
		c.wakeAt(t)
		return false
	}
	return true
}

// jitter returns between three quarters and five quarters of d.
func (c *core) jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(c.rand.Int64N(int64(d/2)+1))
}

// take returns what is to be done, and empties it.
func (c *core) take() effects {
	out := c.out
	c.out = effects{}
	return out
}

// retry makes this step try the requests that wait again.
func (c *core) retry() { c.again = true }

// finish answers a request.
func (c *core) finish(t ticket, r result) {
	c.out.Answers = append(c.out.Answers, answer{t, r})
}

// wait says why a request waits. Callers do so once per change.
func (c *core) wait(t ticket, reason string) {
	c.out.Waits = append(c.out.Waits, waiting{t, reason})
}

// logf adds a line to the log; args are keys and values.
func (c *core) logf(level slog.Level, msg string, args ...any) {
	c.out.Logs = append(c.out.Logs, logLine{level, msg, args})
}

// send sends a message to one peer, after all writes of this step.
func (c *core) send(to crypto.Identity, body Body) {
	if data := c.pack(body); data != nil {
		c.out.Sends = append(c.out.Sends, letter{to, data})
	}
}

// cast sends a message of at most castMost bytes to all.
func (c *core) cast(body Body) {
	if data := c.pack(body); data != nil {
		c.out.Casts = append(c.out.Casts, data)
	}
}

// pack marshals a message of ours. It returns nil for what cannot be said,
// which only a mistake of ours can bring about.
func (c *core) pack(body Body) []byte {
	m := Message{Range: c.geo.Range(), Body: body}
	if c.ring != nil {
		m.Ring = c.ring.id
	}
	data, err := m.Marshal()
	if err != nil {
		c.logf(slog.LevelError, "message not sent", "kind", fmt.Sprintf("%T", body), "err", err)
		return nil
	}
	return data
}

// sortedKeys returns the keys of m in the order of compare. A step must not
// depend on the order of a map: a simulation could not be replayed.
func sortedKeys[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	return slices.SortedFunc(maps.Keys(m), compare)
}

// sortedIDs returns the identities in m, ascending.
func sortedIDs[V any](m map[crypto.Identity]V) []crypto.Identity {
	return sortedKeys(m, crypto.Identity.Compare)
}

// sortedAddrs returns the addresses in m, ascending.
func sortedAddrs[V any](m map[netip.Addr]V) []netip.Addr {
	return sortedKeys(m, netip.Addr.Compare)
}

// sortedStrings returns the keys of m, ascending.
func sortedStrings[V any](m map[string]V) []string { return sortedKeys(m, cmp.Compare[string]) }
