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
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// How an event goes through the core:
//
//	step ─┬─ a request of this host   allocate.go claim.go holder.go takeover.go handover.go
//	      ├─ peers, entries           peers.go info.go
//	      ├─ a message                gossip.go, which hands on what is for
//	      │                           lease.go division.go fence.go offer.go meet.go
//	      └─ then what is due, in this order:
//	           sure.go       comparing registers with others, before anything is given
//	           meet.go       other rings
//	           division.go   the first ring, when something waits for it
//	           takeover.go   rmpeer
//	           handover.go   reset
//	           holder.go     the grace of the dead, and what is held of others' blocks
//	           requests.go   those that wait, and asking others
//	           gossip.go     telling what is news
//	           info.go       duplicates, and our own entries
//
// What must survive is changed only by the methods in state.go, which add the
// write. Nothing else reads or writes a clock, a file or a socket: everything
// comes in by step and goes out by take, and with the same seed and the same
// events the same comes out. So steps never depend on the order of a map.

// coreConfig is what a core is made of.
type coreConfig struct {
	Self         crypto.Identity
	Name         crypto.Name
	Nickname     string // of this host
	Range        netip.Prefix
	Subnet       netip.Prefix // zero: the range
	Mode         Mode
	ReclaimAfter time.Duration // zero: never
	// Patience is how long a host that is not proven waits for those out of
	// reach, and meetGrace for one that is alive and does not answer; zero: for
	// ever, which is how the simulation shows that nothing else is at risk.
	Patience time.Duration
	Seed     [32]byte // of the random numbers
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
	geo  space.Geometry
	rand *rand.Rand

	// Owned by the run loop; on the disk, too. Only the methods in state.go
	// change it, which write it as well.

	ring   *ring.Ring // nil: the range was not divided yet
	local  map[netip.Addr]holder
	leased map[netip.Addr]grant
	boot   uint32 // starts of this host so far
	seq    uint32 // ops of this start

	// Owned by the run loop; follows from the above.

	keys     map[string][]netip.Addr // the addresses of each holder, ascending
	localIn  index[int]              // local addresses by block
	leasedIn index[int]              // leased addresses by block
	leasedTo index[crypto.Identity]  // leased addresses by host
	used     *space.Usage            // local and leased addresses
	changed  space.BlockSet          // registers that are news and to be cast

	// Owned by the run loop.

	peers      map[crypto.Identity]*peer
	peersKnown bool                          // the first list of peers came
	targets    int                           // peers that were named and not met yet
	named      map[crypto.Identity]time.Time // owners of blocks: since when a register names them, or we started
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

	wall  time.Time // as last told
	now   time.Time // goes on like wall, but never back
	next  time.Time // of the next tick
	again bool      // requests that wait are to be tried again
	out   effects
}

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

// newCore returns a core with what is stored. proven says that stored is the
// newest state there ever was; it is so, too, with nothing stored, when this
// identity was just made. Peers, entries and what is attached must be told
// before it gives anything from its own blocks.
func newCore(cfg coreConfig, stored map[string][]byte, proven bool, now time.Time) (*core, error) {
	geo, err := space.NewGeometry(cfg.Range)
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
		used:     space.NewUsage(geo),
		peers:    make(map[crypto.Identity]*peer),
		named:    make(map[crypto.Identity]time.Time),
		wall:     now,
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
	if d := now.Sub(c.wall); d > 0 {
		c.now = c.now.Add(d)
	}
	c.wall, c.next = now, c.now.Add(idle)
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
func (c *core) wake() time.Time { return c.wall.Add(c.next.Sub(c.now)) }

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
func (c *core) send(to crypto.Identity, body wire.Body) {
	if data := c.pack(body); data != nil {
		c.out.Sends = append(c.out.Sends, letter{to, data})
	}
}

// cast sends a message of at most castMost bytes to all.
func (c *core) cast(body wire.Body) {
	if data := c.pack(body); data != nil {
		c.out.Casts = append(c.out.Casts, data)
	}
}

// pack marshals a message of ours. It returns nil for what cannot be said,
// which only a mistake of ours can bring about.
func (c *core) pack(body wire.Body) []byte {
	m := wire.Message{Range: c.geo.Range(), Body: body}
	if c.ring != nil {
		m.Ring = c.ring.ID()
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

// union returns the identities that are in a or in b, ascending.
func union(a, b []crypto.Identity) []crypto.Identity {
	all := slices.Concat(a, b)
	slices.SortFunc(all, crypto.Identity.Compare)
	return slices.Compact(all)
}
