// Package wire has the words of the allocators of all hosts: the messages that
// they send each other, the entries that each publishes, and the bytes and
// bounds of both. [Coder] is for what is to be written in the same way.
//
// A message that is parsed is well formed: its lists are in order, its addresses
// inside its range. Whether it is true, or allowed from its sender, is not
// judged here, and nothing is sent. docs/protocol.md has the form,
// docs/ipam.md what the messages are for.
package wire

import (
	"net/netip"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
)

// MessageByte is the first byte of each message of this package, and of no
// other payload in the mesh.
const MessageByte = 0x41

// Bounds of a message. What is beyond them is refused by [ParseMessage], so a
// stranger's megabyte never becomes more than a few megabytes of ours.
const (
	MaxMessage   = 1 << 20 // bytes
	maxRegisters = 4096    // registers, counted in runs
	MaxAddresses = 1 << 16 // addresses in one list
	MaxPeers     = 4096    // identities in one message
	maxFences    = 4096    // fences in one list
	MaxOpen      = 4096    // open ops in a [Held]
	MaxText      = 255     // bytes of a key, a label or a nickname
)

// Message is what allocators send each other: a body, and what the sender
// thinks the address space is.
//
//	byte     0x41
//	byte     kind
//	16 bytes ring
//	byte     4 or 16, as many bytes of the range's address, byte bits
//	uvarint  number of identities, 32 bytes each, in order of first use
//	body     its fields in the order of the declaration
//
// In a body an identity is its uvarint index, a number a minimal uvarint, an
// address the distance from the one before in its list, or from the start of
// the range. Lists that are sets are in ascending order. So there is one
// encoding of each message, and nothing follows the last field.
type Message struct {
	Ring  ring.ID      // of the sender, zero if it has none
	Range netip.Prefix // the sender's range, always valid and masked
	Body  Body         // a value, not a pointer: one of the types below
}

// Body is one of Digest, State, Want, Give, Held, Conflict, Prepare, Promise,
// Nack, Off, Accept, Accepted, Elect, FenceAsk, FencePromise, FenceRefuse,
// FenceOver, HandOver and HandedOver.
type Body interface{ kind() kind }

// Lease is an address that a host holds in another host's block.
type Lease struct {
	Addr  netip.Addr
	Op    uint64 // the holder's [Want] that it was given for; zero: found attached
	Key   string // who holds it; may be empty in a message that was too large
	Label string // for people; the same
}

// Granted is a lease and the host that has it.
type Granted struct {
	Host crypto.Identity
	Lease
}

// Fence is a promise to refuse epochs below Epoch for Target's blocks.
type Fence struct {
	Target    crypto.Identity
	Initiator crypto.Identity // who takes Target's space over
	Epoch     uint64
}

// Removed is a host whose space was taken over, with the epoch of it.
type Removed struct {
	Peer  crypto.Identity
	Epoch uint64
}

// Ballot is the number of an attempt to divide the range. The zero ballot is
// below all others and never proposed.
type Ballot struct {
	Round    uint64
	Proposer crypto.Identity
}

// Less reports whether b is below o.
func (b Ballot) Less(o Ballot) bool {
	return b.Round < o.Round || b.Round == o.Round && b.Proposer.Compare(o.Proposer) < 0
}

// Proposal is a ring that is voted on.
type Proposal struct {
	Ring ring.ID    // zero: no proposal
	Runs []ring.Run // all blocks of the range
}

// Role says how a host takes part in the first division.
type Role uint8

// The roles.
const (
	RoleVoter    Role = 1 // proposes and votes
	RoleObserver Role = 2 // only asks for an election
	RoleOff      Role = 3 // has no allocator
)

// Digest sums up the sender's registers. It goes to one peer, which answers
// with a [State] when Exchange is set or something differs, or to all.
type Digest struct {
	Exchange uint64              // the sender's number of this exchange; zero: no answer is owed
	Hash     uint64              // of all registers
	Groups   [ring.Groups]uint64 // of each group of registers
	Pending  []Fence             // those pending here that the receiver started: it answers with [FenceOver] when they are over
}

// State carries registers. As the answer to a [Digest] that has Exchange set
// it carries all that an exchange is about, otherwise only Runs and Wanted.
type State struct {
	Re      uint64     // Exchange of the digest answered; zero: no answer
	Runs    []ring.Run // all registers of the groups that differ
	Wanted  uint64     // bit g: send back a State with your registers of group g
	LastOp  uint64     // highest op of the receiver's that the sender ever saw
	Against []Fence    // pending at the sender with the receiver as target
	Pending []Fence    // pending at the sender with the receiver as initiator
	Removed []Removed  // every host that the sender knows to be removed
	Held    Held       // what the sender holds in the receiver's blocks; full in an answer
}

// Want asks the owner of blocks for space.
type Want struct {
	Op     uint64       // never used before by this sender
	Subnet netip.Prefix // where it should be
	Addr   netip.Addr   // this address and no other; zero: any
	Key    string       // who will hold the address
	Label  string
	Unsure bool // the sender does not know what it gave away: one block at most
}

// Give answers [Want] with blocks (Runs, with the registers that make them the
// receiver's), with one address leased (Addr), or with nothing.
type Give struct {
	Op   uint64 // of the Want
	Runs []ring.Run
	Addr netip.Addr // zero: none leased
	Busy bool       // nothing yet: the sender must compare addresses with others first
}

// Held tells the owner of blocks which addresses in them the sender holds.
//
// The owner drops a lease of the sender's if it is in Dropped, or if Full and
// in one of Blocks and not in Held, provided that its op is ≤ UpTo and not in
// Open. Blocks says what the sender knew: it may not have heard yet that the
// receiver took over or was handed more.
type Held struct {
	UpTo    uint64       // highest op that the sender ever issued
	Open    []uint64     // ops with the receiver that are not answered yet, ascending
	Full    bool         // Held has all that the sender holds in Blocks
	Blocks  []space.Span // the receiver's as far as the sender knows; only if Full
	Held    []Lease      // ascending by address
	Dropped []netip.Addr // ascending
}

// Conflict says that an address that the receiver wants, or says it holds, is
// somebody else's.
type Conflict struct {
	Op    uint64 // of the [Want]; zero: of an address in [Held]
	Addr  netip.Addr
	Host  crypto.Identity
	Key   string
	Label string
}

// Prepare asks for a vote on the first division.
type Prepare struct {
	Ballot     Ballot
	Electorate []crypto.Identity // ascending; the proposer is in it
}

// Promise answers [Prepare]: no lower ballot will be accepted.
type Promise struct {
	Ballot   Ballot
	Known    []crypto.Identity // whom the voter knows, ascending
	Accepted Ballot            // of Proposal; zero: nothing accepted yet
	Proposal Proposal          // what was accepted
}

// Nack refuses [Prepare] or [Accept], either because of a higher ballot or
// because the sender is voting in another electorate.
type Nack struct {
	Ballot Ballot            // the one refused
	Seen   Ballot            // the highest one promised
	Known  []crypto.Identity // whom the voter knows, ascending
}

// Off answers [Prepare], [Accept] or [Elect] from a host that never votes.
// (One that has a ring answers with a [State] of all its registers.)
type Off struct {
	Role Role
}

// Accept asks to accept a proposal.
type Accept struct {
	Ballot     Ballot
	Electorate []crypto.Identity // ascending
	Proposal   Proposal
}

// Accepted answers [Accept].
type Accepted struct {
	Ballot Ballot
}

// Elect is an observer's request to a voter to start a first division.
type Elect struct{}

// FenceAsk asks for a [FencePromise] so that the sender can take over the
// blocks of Targets.
type FenceAsk struct {
	Op      uint64
	Targets []crypto.Identity // ascending
	Epoch   uint64
}

// FencePromise answers [FenceAsk] after the fences were persisted.
type FencePromise struct {
	Op       uint64
	Epoch    uint64            // highest epoch among the sender's registers, fences and removed hosts
	Runs     []ring.Run        // all its registers
	Known    []crypto.Identity // whom it knows, ascending
	Removed  []Removed         // whom it knows to be removed
	Attached []Granted         // last known attachments of the targets (Host is the target; Op zero)
	Held     []Lease           // what it holds itself in the targets' blocks
}

// Refusal is why a fence is refused.
type Refusal uint8

// The reasons.
const (
	RefuseAlive Refusal = 1 // the sender reaches Peer, or is Peer
	RefuseBusy  Refusal = 2 // the sender takes over space itself and has the smaller identity
	RefuseEpoch Refusal = 3 // Epoch was promised or seen already: ask with a higher one
)

// FenceRefuse refuses [FenceAsk].
type FenceRefuse struct {
	Op    uint64
	Why   Refusal
	Peer  crypto.Identity // the target that is alive; zero unless Why is RefuseAlive
	Epoch uint64          // highest epoch that the sender knows
}

// FenceOver lifts those fences against Targets that its sender started with
// exactly this Epoch. The receiver merges Runs first.
type FenceOver struct {
	Op      uint64
	Targets []crypto.Identity // ascending
	Epoch   uint64
	Taken   bool       // the space was taken over and Targets are removed; else the attempt was given up
	Runs    []ring.Run // all registers of the sender
}

// HandOver offers some of the sender's blocks, with the leases in them, and
// gives them in a second one with another Op when the offer was kept. What
// does not fit into one is handed over part by part. Without leases, and with
// the Op of a [HandedOver] that asks, it says that nothing came of an offer.
type HandOver struct {
	Op     uint64
	Runs   []ring.Run // the registers: of the sender in an offer, of the receiver in the gift, all known ones in an answer
	Leases []Granted  // what anybody holds in these blocks, the sender included
}

// HandedOver answers [HandOver] after it was persisted. With Refused set and
// the Op of an offer that is not the current one it asks what became of that.
type HandedOver struct {
	Op      uint64
	Refused bool // the receiver does not take space now; it kept nothing
}
