package ipam

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
)

const (
	meetGrace  = 10 * time.Second // how long a host that is alone looks for others
	patience   = 30 * time.Second // how long a host that is not proven waits for those out of reach
	askAgain   = time.Second      // how long an exchange that is owed waits for its answer
	titlesMost = 8                // hosts named in a reason
)

// sureness says whether this host may trust what it knows of its own blocks.
// It may not
//
//   - after it was out of contact, until it exchanged registers with somebody
//     (mustMeet): space may have been taken from it;
//   - when the database is not known to be the newest, until it exchanged them
//     with everybody (unproven): it may have given away what it still has.
//
// A host that finds nobody goes on alone after meetGrace, and one that is
// unproven goes on after patience when only hosts out of reach have not
// answered: after a power cut a cluster must come up although a host is dead.
// These two are the risks that are taken; docs/ipam.md says so.
//
//	            proven, alone            somebody is alive
//	start ─────▶ mustMeet ──── exchange with one ────▶ sure ◀─┐
//	  │                                                  │    │ exchange with one
//	  │ not proven                      all gone, one back ───┘
//	  └────────▶ unproven ──── exchange with each ───▶ sure
type sureness struct {
	mustMeet bool
	unproven bool // on the disk, too
	adopted  bool // what was found attached at the start is known, or need not be
	told     bool // that space is given at risk; logged

	fresh  space.BlockSet // blocks that were given to us since the start: known though unproven
	lonely time.Time      // since when nobody is alive; zero: somebody is
	alone  bool           // nobody was for meetGrace
	begun  time.Time      // when this start, or the doubt, began
	bold   bool           // unproven, and those who are missing are waited for no more
	look   bool           // something of peers changed

	// Numbers of exchanges. They begin anywhere, so that an answer to a former
	// start is none to this one. Answers to those from first on count.
	first, last uint64
}

// startSure is called once, after load. empty says that nothing was stored.
func (c *core) startSure(proven, empty bool) {
	s := &c.sureness
	if c.cfg.sabotage.trusting {
		proven = true
	}
	s.unproven, s.adopted = !proven, c.cfg.Adopted || proven && !empty
	s.lonely, s.begun, s.look = c.now, c.now, true
	s.last = c.rand.Uint64N(1<<62) + 1
	s.first = s.last + 1
	if c.ring != nil {
		s.mustMeet = c.ring.Count(c.cfg.Self) < c.geo.Blocks()
	}
	c.holders.unsettled = true
	for addr := range c.local {
		c.infos.touch(addr)
	}
}

// setUnsure makes this host ask everybody before it gives from its own blocks
// again.
func (c *core) setUnsure(why string) {
	s := &c.sureness
	for _, p := range c.peers {
		p.met, p.asked, p.waited = false, time.Time{}, time.Time{}
	}
	s.begun, s.bold = c.now, false
	s.fresh, s.first = space.BlockSet{}, s.last+1
	if s.unproven {
		return
	}
	s.unproven, s.look = true, true
	c.putMeta()
	c.logf(slog.LevelWarn, "not sure of the own space: every known peer is asked before more is given", "why", why)
}

// halted says why this host may not get any address now, in its own blocks or
// in others'. Empty: it may.
func (c *core) halted() string {
	s := &c.sureness
	switch {
	case !s.mustMeet && !s.unproven && s.adopted && c.peersKnown && !c.handingOver():
		return ""
	case !c.peersKnown:
		return "waiting for the list of known hosts"
	case c.handingOver():
		return "handing over the address space"
	case !s.adopted:
		return "looking for addresses that are attached already"
	case s.alone:
		return ""
	}
	mates := c.mates()
	switch {
	case len(mates) == 0:
		return fmt.Sprintf("nobody in reach: looking for other hosts for %d s", meetGrace/time.Second)
	case s.mustMeet && c.speaking(mates) == 0:
		return c.listed(mates) + " in reach, but not answering: looking for others for some seconds more"
	case s.mustMeet:
		return "comparing addresses with " + c.listed(mates)
	}
	return ""
}

// speaking counts those of mates that answer, or still may.
func (c *core) speaking(mates []*peer) (n int) {
	for _, p := range mates {
		if !c.mute(p, meetGrace) {
			n++
		}
	}
	return n
}

// mute reports whether a live peer owes an answer for this long: its disk may
// be full, or half of the way to it cut.
func (c *core) mute(p *peer, after time.Duration) bool {
	return c.cfg.Patience > 0 && !p.waited.IsZero() && c.due(p.waited.Add(after))
}

// sure reports whether this host may hand out from all of its own blocks.
func (c *core) sure() bool {
	return c.halted() == "" && (!c.sureness.unproven || c.sureness.alone || c.sureness.bold)
}

// own returns the blocks that addresses may be taken from now.
func (c *core) own() space.BlockSet {
	if c.ring == nil || c.halted() != "" {
		return space.BlockSet{}
	}
	owned := c.ring.Owned(c.cfg.Self)
	if !c.sure() {
		owned.And(&c.sureness.fresh)
	} else if c.sureness.unproven && !c.sureness.told {
		c.sureness.told = true
		c.logf(slog.LevelWarn, "this host may have forgotten what it gave away, and not everybody can be asked: addresses are given at risk",
			"missing", shortened(c.titles(c.missing())))
	}
	return owned
}

// missing returns who must still say what this host gave away, while it is
// unproven.
func (c *core) missing() []crypto.Identity {
	return slices.DeleteFunc(c.others(), func(id crypto.Identity) bool {
		p := c.peers[id]
		return p != nil && p.met && len(p.against) == 0
	})
}

// unprovenReason says whom an unproven host waits for.
func (c *core) unprovenReason() string {
	var out, in, gone []string
	early := false // it may just not have been met yet
	for _, id := range c.missing() {
		if p := c.peers[id]; p != nil && len(p.against) > 0 {
			return fmt.Sprintf("%s is taking over the space of this host", c.title(p.against[0].Initiator))
		}
		if c.alive(id) {
			in = append(in, c.title(id))
		} else {
			out, gone = append(out, c.title(id)), append(gone, c.callName(id))
			early = early || c.now.Before(c.awayUntil(id, patience))
		}
	}
	switch {
	case len(out) == 0:
		return "comparing addresses with " + shortened(in)
	case c.sureness.bold:
		return fmt.Sprintf("%s (out of reach) could not say what this host gave away before it was restarted; addresses are given all the same; if gone: weft rmpeer %s",
			shortened(out), strings.Join(gone, " "))
	case early && c.cfg.Patience > 0:
		return fmt.Sprintf("looking for %s for up to %d s: they know what this host gave away before it was restarted",
			shortened(out), patience/time.Second)
	}
	return fmt.Sprintf("%s (out of reach) must first say what this host gave away before it was restarted; if gone: weft rmpeer %s",
		shortened(out), strings.Join(gone, " "))
}

func (c *core) listed(peers []*peer) string {
	var names []string
	for _, p := range peers {
		names = append(names, c.title(p.ID))
	}
	return shortened(names)
}

// shortened joins names, of which there may be a thousand.
func shortened(names []string) string {
	if n := len(names) - titlesMost; n > 0 {
		return fmt.Sprintf("%s and %d others", strings.Join(names[:titlesMost], ", "), n)
	}
	return strings.Join(names, ", ")
}

// stepSure asks whom it must, and notices who is there.
func (c *core) stepSure() {
	s := &c.sureness
	if !s.mustMeet && !s.unproven && !s.look {
		return
	}
	s.look = false
	mates := c.mates()
	c.noticeMates(c.speaking(mates))
	c.noticeMissing()
	for _, p := range mates {
		if !p.heard && p.info == nil {
			c.due(p.since.Add(meetGrace)) // takesPart changes then
		}
		owed := s.mustMeet || s.unproven && (!p.met || len(p.against) > 0)
		if !p.greeted || owed && c.due(p.asked.Add(askAgain)) {
			c.exchange(p)
		}
	}
	if s.unproven && c.peersKnown && s.adopted && len(c.missing()) == 0 {
		c.proved()
	}
}

// noticeMates handles the first one that comes and the last one that goes.
func (c *core) noticeMates(n int) {
	s := &c.sureness
	switch {
	case n > 0 && !s.lonely.IsZero():
		s.lonely, s.alone = time.Time{}, false
		if c.peersKnown {
			s.mustMeet, s.first = true, s.last+1
		}
	case n == 0 && s.lonely.IsZero():
		s.lonely = c.now
	}
	if s.lonely.IsZero() || s.alone || !s.mustMeet && !s.unproven {
		return
	}
	if s.alone = c.due(s.lonely.Add(meetGrace)); s.alone {
		c.retry()
	}
}

// noticeMissing ends the wait of an unproven host for those out of reach, when
// everybody else has answered.
func (c *core) noticeMissing() {
	s := &c.sureness
	if !s.unproven || c.cfg.Patience == 0 || !c.peersKnown || !s.adopted {
		return
	}
	bold := true
	for _, id := range c.missing() {
		p := c.peers[id]
		switch {
		case p != nil && len(p.against) > 0:
			bold = false // somebody is taking over our space
		case p != nil && p.Alive:
			bold = c.mute(p, c.cfg.Patience) && bold
		default:
			bold = c.due(c.awayUntil(id, c.cfg.Patience)) && bold
		}
	}
	if bold != s.bold {
		s.bold = bold
		c.infos.changed = true
		c.retry()
	}
}

// awayUntil returns when a host out of reach has been so for d.
func (c *core) awayUntil(id crypto.Identity, d time.Duration) time.Time {
	since := c.sureness.begun
	if p := c.peers[id]; p != nil && p.since.After(since) {
		since = p.since
	}
	return since.Add(d)
}

// proved ends the doubt.
func (c *core) proved() {
	c.sureness.unproven, c.sureness.bold, c.sureness.told = false, false, false
	c.endDoubt()
	c.putMeta()
	c.infos.changed = true
	c.retry()
	if len(c.peers) > 0 {
		c.logf(slog.LevelInfo, "own space compared with all known peers")
	}
}

// exchange sends p a Digest and expects its State.
func (c *core) exchange(p *peer) {
	s := &c.sureness
	s.last++
	p.exchange, p.asked, p.greeted = s.last, c.now, true
	if p.waited.IsZero() {
		p.waited = c.now
	}
	c.send(p.ID, c.digest(s.last, p.ID))
}

// exchanged is called with each State that answers a Digest of ours, after
// everything in it was taken over. It counts if both have one ring now, or
// rings that stay apart; a host that has no ring yet is asked again when it has.
func (c *core) exchanged(p *peer, re uint64, ring ring.ID) {
	s := &c.sureness
	p.waited = time.Time{}
	if re < s.first || re > s.last || (c.ring == nil) != ring.IsZero() {
		return
	}
	if !p.met {
		p.met, s.look = true, true
	}
	if s.mustMeet {
		s.mustMeet = false
		c.infos.changed = true
	}
	c.retry()
}
