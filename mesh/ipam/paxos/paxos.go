// Package paxos decides the first division of the range: Paxos with one decree,
// the ring.
//
// What is special about it is that nobody knows how many hosts there are, so
// each vote is bound to an electorate: the hosts that the proposer knows. A
// voter that knows somebody else refuses and says whom it knows. docs/ipam.md
// has the reasons.
//
// The package has both roles, and neither clock nor disk nor socket: the time
// is told, and what a [Voter] answers may be sent only after it was kept.
package paxos

import (
	"maps"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// electorateTime is how long a voter that heard nothing more of an attempt
// stays bound to its electorate.
const electorateTime = 10 * time.Second

// Voter is the memory of one that votes on the first division; the zero value
// has promised nothing. All but Heard must be persisted before an answer is sent.
// Slices of messages become part of it: they are not modified later.
type Voter struct {
	Promised   wire.Ballot
	Electorate []crypto.Identity // of Promised, ascending
	Accepted   wire.Ballot       // of Proposal; zero: nothing
	Proposal   wire.Proposal
	Heard      time.Time // when the last message of this electorate came
}

// Prepare answers a [wire.Prepare]. known is whom this host knows, ascending,
// itself included. Only after a [wire.Promise] there is something new to persist.
func (v *Voter) Prepare(now time.Time, m wire.Prepare, known []crypto.Identity) wire.Body {
	if m.Ballot.Less(v.Promised) || !v.eligible(now, m.Electorate, known) {
		return wire.Nack{Ballot: m.Ballot, Seen: v.Promised, Known: known}
	}
	v.Promised, v.Electorate, v.Heard = m.Ballot, m.Electorate, now
	return wire.Promise{Ballot: m.Ballot, Known: known, Accepted: v.Accepted, Proposal: v.Proposal}
}

// Accept answers a [wire.Accept]. Only after a [wire.Accepted] there is something
// new to persist.
func (v *Voter) Accept(now time.Time, m wire.Accept, known []crypto.Identity) wire.Body {
	if m.Ballot.Less(v.Promised) || !v.eligible(now, m.Electorate, known) || m.Proposal.Ring.IsZero() {
		return wire.Nack{Ballot: m.Ballot, Seen: v.Promised, Known: known}
	}
	v.Promised, v.Electorate, v.Heard = m.Ballot, m.Electorate, now
	v.Accepted, v.Proposal = m.Ballot, m.Proposal
	return wire.Accepted{Ballot: m.Ballot}
}

// eligible reports whether the voter may vote in an electorate: it knows
// nobody outside, and either it is the one that it is bound to, or one that
// has all of that and more, or the binding has ended.
func (v *Voter) eligible(now time.Time, electorate, known []crypto.Identity) bool {
	return contains(electorate, known) &&
		(contains(electorate, v.Electorate) || !now.Before(v.Heard.Add(electorateTime)))
}

// Proposer is one attempt to have a ring decided. It is not safe for concurrent
// use.
type Proposer struct {
	// Constant after NewProposer.

	Ballot     wire.Ballot
	Electorate []crypto.Identity // ascending
	Started    time.Time
	quorum     int

	// Owned by whoever owns the proposer.

	Proposal wire.Proposal // zero: still asking for promises; only Choose writes it
	promises map[crypto.Identity]wire.Promise
	accepts  map[crypto.Identity]bool
}

// NewProposer begins an attempt at the time now. size is how many voters there
// are at least, those that are not known included; a quorum is more than half
// of them.
func NewProposer(now time.Time, ballot wire.Ballot, electorate []crypto.Identity, size int) *Proposer {
	return &Proposer{
		Ballot:     ballot,
		Electorate: electorate,
		quorum:     max(size, len(electorate))/2 + 1,
		Started:    now,
		promises:   make(map[crypto.Identity]wire.Promise),
		accepts:    make(map[crypto.Identity]bool),
	}
}

// Promise counts a vote, unless it is of another attempt or void.
func (p *Proposer) Promise(from crypto.Identity, m wire.Promise) {
	if m.Ballot == p.Ballot && p.votes(from) && contains(p.Electorate, m.Known) {
		p.promises[from] = m
	}
}

// Promised reports whether a quorum promised, and whether all of the
// electorate that is not in missing did.
func (p *Proposer) Promised(missing func(crypto.Identity) bool) (quorum, all bool) {
	all = true
	for _, id := range p.Electorate {
		if _, ok := p.promises[id]; !ok && !missing(id) {
			all = false
		}
	}
	return len(p.promises) >= p.quorum, all
}

// Choose ends the first phase: what was accepted with the highest ballot is
// proposed again, and otherwise a new ring, of which everybody who promised
// gets a share.
func (p *Proposer) Choose(geo space.Geometry, id ring.ID) wire.Accept {
	var highest wire.Ballot
	for _, voter := range slices.SortedFunc(maps.Keys(p.promises), crypto.Identity.Compare) {
		if m := p.promises[voter]; highest.Less(m.Accepted) {
			highest, p.Proposal = m.Accepted, m.Proposal
		}
	}
	if p.Proposal.Ring.IsZero() {
		p.Proposal = wire.Proposal{Ring: id, Runs: ring.Deal(geo, slices.Collect(maps.Keys(p.promises)), 1)}
	}
	return wire.Accept{Ballot: p.Ballot, Electorate: p.Electorate, Proposal: p.Proposal}
}

// Accepted counts a vote and reports whether the proposal is decided.
func (p *Proposer) Accepted(from crypto.Identity, m wire.Accepted) bool {
	if m.Ballot == p.Ballot && p.votes(from) && !p.Proposal.Ring.IsZero() {
		p.accepts[from] = true
	}
	return len(p.accepts) >= p.quorum
}

// Knows reports whether all of ids, ascending, are in the electorate.
func (p *Proposer) Knows(ids []crypto.Identity) bool { return contains(p.Electorate, ids) }

func (p *Proposer) votes(id crypto.Identity) bool {
	_, is := slices.BinarySearchFunc(p.Electorate, id, crypto.Identity.Compare)
	return is
}

// contains reports whether all of part, too, are in all. Both are ascending.
func contains(all, part []crypto.Identity) bool {
	for _, id := range part {
		if _, is := slices.BinarySearchFunc(all, id, crypto.Identity.Compare); !is {
			return false
		}
	}
	return true
}
