package ipam

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

// meetAsk is the least time between two requests for another ring.
const meetAsk = time.Second

// meetLook is how often rings are compared although nothing of them changed.
const meetLook = 10 * time.Second

// meeting is what this host knows of other rings for the same range: hosts
// that were apart divided it twice. A side that uses no address yet gives up
// its ring. If both use some, both go on with what they have, and the operator
// is told; nothing is ever merged.
type meeting struct {
	// Owned by the run loop.
	look     bool // infos changed
	lookAt   time.Time
	unused   bool // nothing is used here, by us or by our leave
	askAt    time.Time
	wanted   ring.ID         // that is to be ours
	conflict ring.ID         // that stays apart; zero: none
	with     crypto.Identity // somebody in reach who has it
	theirs   uint64          // addresses used there, as far as known
	mine     uint64          // and here
}

// meetMessage handles what is special about a message of another ring.
func (c *core) meetMessage(from crypto.Identity, m wire.Message) {
	c.meeting.look = true
	st, ok := m.Body.(wire.State)
	if !ok || c.handingOver() || c.ring != nil && c.meeting.wanted != m.Ring {
		return
	}
	r := ring.New(m.Ring, c.geo)
	r.MergeRuns(st.Runs, func(_ int, reg ring.Register) bool { return !c.fenced(reg) })
	if !r.Complete() || c.ring != nil && c.verdict(m.Ring) != giveUp {
		return
	}
	c.moveTo(r, "as "+c.title(from)+" knows it")
}

// moveTo makes another ring ours.
func (c *core) moveTo(r *ring.Ring, why string) {
	moved := c.ring != nil
	c.adoptRing(r, why)
	c.meeting = meeting{look: true}
	if moved && r.Count(c.cfg.Self) > 0 {
		// It was ours before, and what we gave away in it was forgotten.
		c.setUnsure("back in a ring that it had left")
	}
}

// verdict is what becomes of our ring beside another one.
type verdict int

const (
	stay   verdict = iota // the other side gives up its ring
	giveUp                // we give up ours
	apart                 // nobody does
)

// verdict compares our ring with another.
func (c *core) verdict(other ring.ID) verdict {
	mine, theirs := c.usedIn(c.ring.ID()), c.usedIn(other)
	switch {
	case mine > 0 && theirs > 0:
		return apart
	case mine > 0:
		return stay
	case theirs > 0:
		return giveUp
	case other.Compare(c.ring.ID()) < 0:
		return giveUp
	}
	return stay
}

// usedIn returns how many addresses of a ring are used, as far as known.
func (c *core) usedIn(id ring.ID) uint64 {
	var n uint64
	if c.ring != nil && id == c.ring.ID() {
		n = uint64(len(c.local) + len(c.leased))
	}
	for _, p := range c.peers {
		switch {
		case p.info != nil && p.info.Role != wire.RoleOff:
			if p.info.Ring == id && p.info.Range == c.geo.Range() {
				n += p.info.Local
			}
		case c.ring != nil && id == c.ring.ID() && c.ring.Count(p.ID) > 0:
			n += uint64(len(p.groups)) // from before our start; at least one each
		}
	}
	return n
}

// stepMeet looks for other rings and asks for one that is to be ours.
func (c *core) stepMeet() {
	m := &c.meeting
	if unused := len(c.local)+len(c.leased) == 0; unused != m.unused {
		m.unused, m.look = unused, true
	}
	if m.look || c.due(m.lookAt) {
		m.look = false
		c.lookForRings()
		if m.lookAt = (time.Time{}); len(c.peers) > 0 {
			m.lookAt = c.now.Add(meetLook)
			c.wakeAt(m.lookAt)
		}
	}
	if m.wanted.IsZero() || c.handingOver() || !m.askAt.IsZero() && !c.due(m.askAt) {
		return
	}
	for _, p := range c.mates() {
		if p.info != nil && p.info.Ring == m.wanted {
			m.askAt = c.now.Add(meetAsk)
			c.wakeAt(m.askAt)
			c.exchange(p)
			return
		}
	}
}

// lookForRings compares all rings that peers in reach have with ours.
func (c *core) lookForRings() {
	m := &c.meeting
	before := m.conflict
	m.wanted, m.conflict = ring.ID{}, ring.ID{}
	var most, named uint64
	for _, p := range c.mates() {
		if p.info == nil || p.info.Ring.IsZero() || p.info.Ring == c.ringID() {
			continue
		}
		id := p.info.Ring
		theirs := c.usedIn(id)
		switch {
		case c.ring == nil || c.verdict(id) == giveUp:
			// Of several the one that most is used of, so that all agree.
			if m.wanted.IsZero() || theirs > most || theirs == most && id.Compare(m.wanted) < 0 {
				m.wanted, most = id, theirs
			}
		case c.verdict(id) == apart && (m.conflict.IsZero() || id == before && m.conflict != before):
			m.conflict, m.with, named = id, p.ID, p.info.Local
			m.theirs, m.mine = theirs, c.usedIn(c.ring.ID())
		case id == m.conflict && p.info.Local > named:
			// Who uses most of it is named, not who merely joined it.
			m.with, named = p.ID, p.info.Local
		}
	}
	if m.conflict == before {
		return
	}
	if m.conflict.IsZero() {
		c.logf(slog.LevelInfo, "no other division of the address range in reach any more", "ring", before)
		return
	}
	c.logf(slog.LevelWarn, "address range divided twice", "ring", c.ring.ID(), "other", m.conflict, "peer", c.title(m.with),
		"what", c.ringConflict())
}

// ringConflict names the other ring and what to do, empty when there is none.
func (c *core) ringConflict() string {
	m := &c.meeting
	if m.conflict.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s divided the range without this host: %d addresses are used on its side and %d on this one, and both may give "+
		"the same ones; detach the containers of one side, or 'weft reset' it", c.title(m.with), m.theirs, m.mine)
}
