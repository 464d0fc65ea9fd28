package ipam

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/paxos"
	"github.com/weftnet/weft/mesh/ipam/record"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

const (
	// attemptTime is how long one attempt to divide the range may take; as
	// much again, at random, is added so that two proposers do not stay in
	// step.
	attemptTime = time.Second
	// latecomerTime is how long a proposer that has its quorum waits for the
	// others, so that they get a share, too.
	latecomerTime = 300 * time.Millisecond
	// electionTime is how long a voter that an observer asked goes on.
	electionTime = 10 * time.Second
)

// division makes the first ring, see package paxos.
//
//	idle ──wanted──▶ asking ──quorum of promises──▶ proposing ──quorum──▶ ring
//	  ▲                │  │ somebody knows more: the same with them, at once
//	  └── 1–3 s ◀──────┘──┴──────────────┘
type division struct {
	// Owned by the run loop; on the disk, too, but for voter.heard.
	voter paxos.Voter

	// Owned by the run loop.
	attempt *paxos.Proposer   // nil: none
	next    time.Time         // no attempt begins before; zero: at once
	learnt  []crypto.Identity // whom voters know and we do not, since the last pause
	round   uint64            // highest that we saw
	elected time.Time         // until when we act for an observer
	asked   time.Time         // when we, an observer, ask again
	turn    int               // which voter we ask then
}

func (c *core) loadVote(s record.Vote) {
	if c.ring != nil || s.Range != c.geo.Range() {
		return
	}
	c.division.voter = paxos.Voter{
		Promised:   s.Promised,
		Electorate: s.Electorate,
		Accepted:   s.Accepted,
		Proposal:   s.Proposal,
		Heard:      c.now, // the clock may have jumped meanwhile
	}
	c.division.round = s.Promised.Round
}

func (c *core) putVote() {
	v := &c.division.voter
	c.put(&record.Vote{
		Range: c.geo.Range(), Promised: v.Promised, Electorate: v.Electorate,
		Accepted: v.Accepted, Proposal: v.Proposal,
	})
}

// stepDivision makes a ring when one is wanted and there is none.
func (c *core) stepDivision() {
	d := &c.division
	if c.ring != nil {
		if d.voter.Promised.Round > 0 {
			c.forget(&record.Vote{})
		}
		*d = division{}
		c.claimSeeds()
		return
	}
	if !c.wantsRing() && !c.now.Before(d.elected) {
		d.attempt, d.learnt = nil, nil
		return
	}
	if !c.peersKnown {
		return
	}
	switch c.cfg.Mode.Kind {
	case ModeSeed:
		c.makeSeedRing()
		c.claimSeeds()
	case ModeObserver:
		c.askElection()
	default:
		c.stepPropose()
	}
}

// stepPropose begins an attempt when it is time, and goes from asking to
// proposing.
func (c *core) stepPropose() {
	d := &c.division
	if c.alone() {
		id := c.newRingID()
		c.adoptRing(ring.NewDivision(id, c.geo, []crypto.Identity{c.cfg.Self}), "alone")
		return
	}
	if c.sureness.unproven {
		// What we promised before is perhaps forgotten.
		d.attempt = nil
		return
	}
	if d.next.IsZero() || c.due(d.next) {
		d.learnt = nil
		c.propose()
	}
	c.chooseProposal()
}

// everMet reports whether this host ever knew of another one.
func (c *core) everMet() bool {
	for id := range c.peers {
		if c.peers[id].listed {
			return true
		}
	}
	return len(c.takeover.gone) > 0
}

// mayVote reports whether a peer has a say, as far as is known.
func (c *core) mayVote(id crypto.Identity) bool {
	p := c.peers[id]
	return p == nil || p.info == nil || p.info.Role == wire.RoleVoter
}

// alone reports whether nobody else can have a say: no host was named, and
// none was ever met.
func (c *core) alone() bool {
	return c.targets == 0 && c.cfg.Mode.Voters <= 1 && !c.everMet()
}

// propose begins an attempt with all whom we know now.
func (c *core) propose() {
	d := &c.division
	d.next = c.now.Add(attemptTime + time.Duration(c.rand.Int64N(int64(2*attemptTime))))
	c.wakeAt(d.next)
	// The step is random so that a host that was restored from an old copy of
	// its disk does not use a ballot twice.
	d.round += 1 + c.rand.Uint64N(1<<16)
	electorate := union(c.voters(), d.learnt)
	if len(electorate) > wire.MaxPeers {
		return // cannot be told to anybody
	}
	d.attempt = paxos.NewProposer(c.now, wire.Ballot{Round: d.round, Proposer: c.cfg.Self}, electorate, c.electorateSize(electorate))
	ask := wire.Prepare{Ballot: d.attempt.Ballot, Electorate: electorate}
	for _, id := range electorate {
		if id != c.cfg.Self {
			c.send(id, ask)
		}
	}
	c.receiveDivision(c.cfg.Self, c.vote(ask))
}

// vote is what our own voter answers; it is persisted before anything of this
// step is said.
func (c *core) vote(ask wire.Body) wire.Body {
	var answer wire.Body
	switch m := ask.(type) {
	case wire.Prepare:
		answer = c.division.voter.Prepare(c.now, m, c.voters())
	case wire.Accept:
		answer = c.division.voter.Accept(c.now, m, c.voters())
	}
	if _, refused := answer.(wire.Nack); !refused {
		c.putVote()
	}
	return answer
}

// chooseProposal goes on to the second phase when there is a quorum, and
// either everybody answered who can or they had their time.
func (c *core) chooseProposal() {
	p := c.division.attempt
	if p == nil || !p.Proposal.Ring.IsZero() {
		return
	}
	quorum, all := p.Promised(func(id crypto.Identity) bool { return !c.alive(id) })
	if !quorum || !all && !c.due(p.Started.Add(latecomerTime)) {
		return
	}
	ask := p.Choose(c.geo, c.newRingID())
	for _, id := range p.Electorate {
		if id != c.cfg.Self {
			c.send(id, ask)
		}
	}
	c.receiveDivision(c.cfg.Self, c.vote(ask))
}

// receiveDivision handles a message about the first division.
func (c *core) receiveDivision(from crypto.Identity, body wire.Body) {
	switch m := body.(type) {
	case wire.Prepare:
		if m.Ballot.Proposer == from {
			c.answerVote(from, m.Ballot, m)
		}
	case wire.Accept:
		if m.Ballot.Proposer == from {
			c.answerVote(from, m.Ballot, m)
		}
	case wire.Elect:
		if c.answerVoteless(from) || c.sureness.unproven {
			return
		}
		c.division.elected = c.now.Add(electionTime)
	case wire.Promise:
		if p := c.division.attempt; p != nil {
			p.Promise(from, m)
		}
	case wire.Accepted:
		c.division.decide(c, from, m)
	case wire.Nack:
		c.division.refused(c, m)
	case wire.Off:
		// Its info entry says the same, and for longer.
	}
}

// answerVote answers Prepare and Accept.
func (c *core) answerVote(from crypto.Identity, ballot wire.Ballot, ask wire.Body) {
	if c.answerVoteless(from) {
		return
	}
	c.division.round = max(c.division.round, ballot.Round)
	if c.sureness.unproven {
		// We may have promised something else and not know it any more. The
		// proposer learns whom we know.
		c.send(from, wire.Nack{Ballot: ballot, Seen: c.division.voter.Promised, Known: c.voters()})
		return
	}
	c.send(from, c.vote(ask))
}

// answerVoteless answers for a host that has a ring or will never vote, and
// reports whether it is one.
func (c *core) answerVoteless(from crypto.Identity) bool {
	if c.ring == nil && c.cfg.Mode.Kind == ModeSeed {
		c.makeSeedRing()
	}
	switch {
	case c.ring != nil:
		c.send(from, wire.State{Runs: c.ring.AllRuns()})
	case c.cfg.Mode.Kind == ModeObserver:
		c.send(from, wire.Off{Role: wire.RoleObserver})
	default:
		return false
	}
	return true
}

// decide counts a vote; with a quorum the proposal becomes the ring.
func (d *division) decide(c *core, from crypto.Identity, m wire.Accepted) {
	p := d.attempt
	if c.ring != nil || p == nil || !p.Accepted(from, m) {
		return
	}
	r := ring.New(p.Proposal.Ring, c.geo)
	r.MergeRuns(p.Proposal.Runs, nil)
	c.adoptRing(r, "by consensus")
	for _, id := range p.Electorate {
		if id != c.cfg.Self && c.alive(id) {
			c.send(id, wire.State{Runs: r.AllRuns()})
		}
	}
}

// refused ends an attempt: if the voter knows somebody whom we left out, the
// next one begins at once, otherwise somebody else is at it.
func (d *division) refused(c *core, m wire.Nack) {
	d.round = max(d.round, m.Seen.Round)
	p := d.attempt
	if p == nil || m.Ballot != p.Ballot || c.ring != nil {
		return
	}
	if !p.Knows(m.Known) {
		d.learnt = union(d.learnt, m.Known)
		c.propose()
		return
	}
	if p.Ballot.Less(m.Seen) {
		d.attempt = nil
		c.wakeAt(d.next)
	}
}

// askElection makes an observer ask one voter after the other.
func (c *core) askElection() {
	d := &c.division
	if !d.asked.IsZero() && !c.due(d.asked) {
		return
	}
	d.asked = c.now.Add(3 * time.Second)
	c.wakeAt(d.asked)
	voters := slices.DeleteFunc(c.voters(), func(id crypto.Identity) bool { return id == c.cfg.Self || !c.alive(id) })
	if len(voters) > 0 {
		c.send(voters[d.turn%len(voters)], wire.Elect{})
		d.turn++
	}
}

// makeSeedRing makes the ring of the names given at launch. Our share may have
// been given away or taken over long ago, by or from a host that had our name
// before. So it counts only after somebody else was asked, or nobody is there.
func (c *core) makeSeedRing() {
	c.adoptRing(ring.NewSeed(c.geo, c.cfg.Mode.Seeds), "by the names given at launch")
	if s := &c.sureness; c.targets > 0 || c.everMet() {
		s.mustMeet, s.look, s.first = true, true, s.last+1
		c.wakeAt(c.now)
	}
}

// claimSeeds writes our identity where the ring has a placeholder for our
// name.
func (c *core) claimSeeds() {
	if c.sureness.mustMeet && c.halted() != "" {
		return
	}
	mine := c.ring.Owned(ring.Placeholder(c.cfg.Name))
	if mine.Empty() {
		return
	}
	for block := range mine.All() {
		reg := c.ring.Register(block)
		c.setRegister(block, ring.Register{Owner: c.cfg.Self, Giver: c.cfg.Self, Epoch: reg.Epoch, Version: reg.Version + 1})
	}
	c.logf(slog.LevelInfo, "own share of the seed ring taken", "blocks", mine.Len())
}

// voters returns who has a say in the first division as far as we know,
// ourselves included if we vote, ascending.
func (c *core) voters() []crypto.Identity {
	ids := slices.DeleteFunc(c.known(), func(id crypto.Identity) bool { return !c.mayVote(id) })
	if c.cfg.Mode.Kind != ModeObserver {
		ids = append(ids, c.cfg.Self)
	}
	return union(ids, nil)
}

// electorateSize returns how many voters there are at least: those that are
// known and those that were named and never met. Were the latter left out, two
// halves of a list of hosts that never met could both have a majority.
func (c *core) electorateSize(known []crypto.Identity) int {
	return max(c.cfg.Mode.Voters, len(known)+c.targets)
}

func (c *core) newRingID() ring.ID {
	var id ring.ID
	for id.IsZero() {
		for i := range id {
			id[i] = byte(c.rand.Uint32())
		}
	}
	return id
}

// divisionReason says why what needs a ring waits.
func (c *core) divisionReason() string {
	known := union(c.voters(), c.division.learnt)
	return fmt.Sprintf("awaiting consensus (quorum: %d, known: %d)", c.electorateSize(known)/2+1, len(known))
}
