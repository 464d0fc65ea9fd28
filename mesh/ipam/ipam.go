// Package ipam gives addresses of one range to the containers of all hosts
// without a server.
//
// The range is cut into equal blocks, and every block belongs to one host,
// which hands out its addresses without asking anybody. Who owns a block is a
// register with a version that only its owner raises, so hosts may learn of
// changes in any order and in any partition and still agree. A host without
// free addresses asks another one, which gives it blocks or leases it a single
// address. The range is divided when somebody first needs it. docs/ipam.md has
// the definitions, the messages, and what is guaranteed.
//
// The package owns the blocks, the addresses in use on this host, the
// addresses it leased to others, and the file they are kept in. It does not
// know containers, only keys; it does not send anything itself, only hands
// messages to [Net]; and it puts no address on any interface.
//
// Here is what decides: [Allocator], which callers use, and the core, which does
// all of it step by step (core.go has the map). What it works with are packages
// of their own, which know nothing of it:
//
//	space   the range cut into blocks, and which addresses are used: arithmetic
//	ring    who owns each block, merged in any order
//	wire    messages and entries of allocators, their bytes
//	paxos   the vote on the first division
//	record  what is kept, key by key
//	store   the file that it is kept in
package ipam

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// Errors that callers test for.
var (
	// ErrConflict: the address has another holder, which the error names.
	ErrConflict = errors.New("address in use")
	// ErrUnreachable: whoever would have to answer is out of reach.
	ErrUnreachable = errors.New("out of reach")
	// ErrRange: the subnet has no address inside the range, or is no subnet.
	ErrRange = errors.New("not inside the address range")
	// ErrRefused: a peer is not removed, since it answers or others cannot be asked.
	ErrRefused = errors.New("refused")
	// ErrClosed: the allocator does not run.
	ErrClosed = errors.New("address allocator not running")
	// ErrStore: the state could not be written; nothing was changed.
	ErrStore = errors.New("address database not written")

	// errCancelled ends a request that was cancelled; callers get their
	// context's error instead.
	errCancelled = errors.New("cancelled")
)

// Config is what an [Allocator] is made of. Self, Name, Range, Path and Net
// are required.
type Config struct {
	Self     crypto.Identity
	Name     crypto.Name
	Nickname string       // of this host, for people
	Range    netip.Prefix // all addresses, the same on all hosts; host bits are ignored
	Subnet   netip.Prefix // for requests without one; zero: the range
	Mode     Mode         // of the first division
	New      bool         // Self was made at this start: nothing can have been forgotten
	Path     string       // of the database
	Mark     string       // of the file that tells whether the database is the newest, gone after a reboot
	Net      Net
	// Targets returns how many peers were named at launch and never met. It
	// must not block; nil: none.
	Targets func() int
	// ReclaimAfter is how long a peer is out of reach before status and log ask
	// what should become of its space; zero: never.
	ReclaimAfter time.Duration
	Log          *slog.Logger // nil: silence
}

// Net carries messages and entries. Its methods never block and never call
// the allocator; slices that they are given are not modified later.
type Net interface {
	// Send sends a message to one peer; it may be lost.
	Send(to crypto.Identity, msg []byte)
	// Broadcast sends a message of at most about 1,000 bytes to all; some may
	// not get it.
	Broadcast(msg []byte)
	// Put replaces an entry of this host, which all others will have while
	// this host is alive.
	Put(key string, value []byte) error
	// Delete removes one.
	Delete(key string) error
	// Expel forgets a peer until it comes back.
	Expel(id crypto.Identity)
}

// Peer is another host.
type Peer struct {
	ID       crypto.Identity
	Name     crypto.Name
	Nickname string
	Alive    bool // it takes part in gossip now
}

// Entry is an entry of another host, see [Net].
type Entry struct {
	Owner crypto.Identity
	Key   string
	Value []byte // not modified any more
}

// Found is what was found attached for one key at the start.
type Found struct {
	Label string // for people
	Addrs []netip.Addr
}

// Taken is what became of one peer that was removed.
type Taken struct {
	Peer     crypto.Identity
	IPs      uint64 // of the blocks that were taken over
	Released int    // of its remembered addresses
}

// Mode says how the range is divided for the first time. The zero value is
// consensus.
type Mode struct {
	Kind ModeKind
	// Voters is how many hosts the division waits for at least, in consensus;
	// zero: as many as are known.
	Voters int
	Seeds  []crypto.Name // of ModeSeed, ascending
}

// ModeKind is a kind of [Mode].
type ModeKind uint8

// The kinds.
const (
	ModeConsensus ModeKind = iota // a majority of the hosts that are known
	ModeSeed                      // the hosts with the given names, without asking
	ModeObserver                  // others; this host only asks them to
)

// maxSeeds is the largest number of seeds: there are no more blocks.
const maxSeeds = space.MaxBlocks

// ParseMode parses consensus, consensus=N, seed=NAME,NAME… and observer. The
// empty string is consensus.
func ParseMode(s string) (Mode, error) {
	kind, arg, has := strings.Cut(s, "=")
	switch {
	case s == "" || s == "consensus":
		return Mode{}, nil
	case s == "observer":
		return Mode{Kind: ModeObserver}, nil
	case kind == "consensus" && has:
		n, err := strconv.Atoi(arg)
		if err != nil || n < 1 || n > wire.MaxPeers {
			return Mode{}, fmt.Errorf("allocator mode %q: want a number of hosts from 1 to %d", s, wire.MaxPeers)
		}
		return Mode{Voters: n}, nil
	case kind == "seed" && has:
		m := Mode{Kind: ModeSeed}
		for part := range strings.SplitSeq(arg, ",") {
			name, err := crypto.ParseName(strings.TrimSpace(part))
			if err != nil {
				return Mode{}, fmt.Errorf("allocator mode %q: %w", s, err)
			}
			m.Seeds = append(m.Seeds, name)
		}
		slices.SortFunc(m.Seeds, func(a, b crypto.Name) int { return slices.Compare(a[:], b[:]) })
		if m.Seeds = slices.Compact(m.Seeds); len(m.Seeds) > maxSeeds {
			return Mode{}, fmt.Errorf("allocator mode seed: %d names, at most %d can own something", len(m.Seeds), maxSeeds)
		}
		return m, nil
	}
	return Mode{}, fmt.Errorf("allocator mode %q: want consensus, consensus=N, seed=NAME,… or observer", s)
}

// String returns what [ParseMode] parses.
func (m Mode) String() string {
	switch {
	case m.Kind == ModeObserver:
		return "observer"
	case m.Kind == ModeSeed:
		names := make([]string, len(m.Seeds))
		for i, n := range m.Seeds {
			names[i] = n.String()
		}
		return "seed=" + strings.Join(names, ",")
	case m.Voters > 0:
		return "consensus=" + strconv.Itoa(m.Voters)
	}
	return "consensus"
}
