package ipam

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/store"
)

// ticket is the number of a request of this host. It has nothing to do with
// the op of a message.
type ticket uint64

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
	Writes  []store.Write
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

// say logs a line of the core, which has no log of its own.
func (a *Allocator) say(l logLine) {
	ctx := context.Background()
	if h := a.log.Handler(); h.Enabled(ctx, l.Level) {
		r := slog.NewRecord(time.Now(), l.Level, l.Msg, 0)
		r.Add(l.Args...)
		_ = h.Handle(ctx, r) // as slog does
	}
}
