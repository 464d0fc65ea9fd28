package ipam

import (
	"maps"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
)

// The first division is decided by Paxos with one decree, the ring. What is
// special about it is that nobody knows how many hosts there are, so each
// vote is bound to an electorate: the hosts that the proposer knows. A voter
// that knows somebody else refuses and says whom it knows. docs/ipam.md has
// the reasons.

// electorateTime is how long a voter that heard nothing more of an attempt
// stays bound to its electorate.
const electorateTime = 10 * time.Second

// Less reports whether b is below o.
func (b Ballot) Less(o Ballot) bool {
	return b.Round < o.Round || b.Round == o.Round && b.Proposer.Compare(o.Proposer) < 0
}

// voter is the memory of one that votes on the first division. It is pure:
// what it answers may be sent only after it was persisted.
type voter struct {
	promised   Ballot
	electorate []crypto.Identity // of promised, ascending
	accepted   Ballot            // of proposal; zero: nothing
	proposal   Proposal
	heard      time.Time // when the last message of this electorate came
}

// prepare answers a Prepare. known is whom this host knows, itself included.
// Only after a [Promise] there is something new to persist.
func (v *voter) prepare(now time.Time, m Prepare, known []crypto.Identity) Body {
	if m.Ballot.Less(v.promised) || !v.eligible(now, m.Electorate, known) {
		return Nack{Ballot: m.Ballot, Seen: v.promised, Known: known}
	}
	v.promised, v.electorate, v.heard = m.Ballot, m.Electorate, now
	return Promise{Ballot: m.Ballot, Known: known, Accepted: v.accepted, Proposal: v.proposal}
}

// accept answers an Accept. Only after an [Accepted] there is something new
// to persist.
func (v *voter) accept(now time.Time, m Accept, known []crypto.Identity) Body {
	if m.Ballot.Less(v.promised) || !v.eligible(now, m.Electorate, known) || m.Proposal.Ring.IsZero() {
		return Nack{Ballot: m.Ballot, Seen: v.promised, Known: known}
	}
	v.promised, v.electorate, v.heard = m.Ballot, m.Electorate, now
	v.accepted, v.proposal = m.Ballot, m.Proposal
	return Accepted{Ballot: m.Ballot}
}

// eligible reports whether the voter may vote in an electorate: it knows
// nobody outside, and either it is the one that it is bound to, or one that
// has all of that and more, or the binding has ended.
func (v *voter) eligible(now time.Time, electorate, known []crypto.Identity) bool {
	return contains(electorate, known) &&
		(contains(electorate, v.electorate) || !now.Before(v.heard.Add(electorateTime)))
}

// proposer is one attempt to have a ring decided.
type proposer struct {
	// Constant after newProposer.
	ballot     Ballot
	electorate []crypto.Identity // ascending
	quorum     int
	started    time.Time

	promises map[crypto.Identity]Promise
	accepts  map[crypto.Identity]bool
	proposal Proposal // zero: still asking for promises
}

func newProposer(now time.Time, ballot Ballot, electorate []crypto.Identity, size int) *proposer {
	return &proposer{
		ballot:     ballot,
		electorate: electorate,
		quorum:     max(size, len(electorate))/2 + 1,
		started:    now,
		promises:   make(map[crypto.Identity]Promise),
		accepts:    make(map[crypto.Identity]bool),
	}
}

// promise counts a vote, unless it is of another attempt or void.
func (p *proposer) promise(from crypto.Identity, m Promise) {
	if m.Ballot == p.ballot && p.votes(from) && contains(p.electorate, m.Known) {
		p.promises[from] = m
	}
}

// promised reports whether a quorum promised, and whether all of the
// electorate that is not in missing did.
func (p *proposer) promised(missing func(crypto.Identity) bool) (quorum, all bool) {
	all = true
	for _, id := range p.electorate {
		if _, ok := p.promises[id]; !ok && !missing(id) {
			all = false
		}
	}
	return len(p.promises) >= p.quorum, all
}

// choose ends the first phase: what was accepted with the highest ballot is
// proposed again, and otherwise a new ring, of which everybody who promised
// gets a share.
func (p *proposer) choose(geo Geometry, id RingID) Accept {
	var highest Ballot
	for _, voter := range sortedIDs(p.promises) {
		if m := p.promises[voter]; highest.Less(m.Accepted) {
			highest, p.proposal = m.Accepted, m.Proposal
		}
	}
	if p.proposal.Ring.IsZero() {
		p.proposal = Proposal{Ring: id, Runs: deal(geo, slices.Collect(maps.Keys(p.promises)), 1)}
	}
	return Accept{Ballot: p.ballot, Electorate: p.electorate, Proposal: p.proposal}
}

// accepted counts a vote and reports whether the proposal is decided.
func (p *proposer) accepted(from crypto.Identity, m Accepted) bool {
	if m.Ballot == p.ballot && p.votes(from) && !p.proposal.Ring.IsZero() {
		p.accepts[from] = true
	}
	return len(p.accepts) >= p.quorum
}

func (p *proposer) votes(id crypto.Identity) bool {
	_, is := slices.BinarySearchFunc(p.electorate, id, crypto.Identity.Compare)
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

// union returns the identities that are in a or in b, ascending.
func union(a, b []crypto.Identity) []crypto.Identity {
	all := slices.Concat(a, b)
	slices.SortFunc(all, crypto.Identity.Compare)
	return slices.Compact(all)
}
