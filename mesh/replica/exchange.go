package replica

import (
	"cmp"
	"fmt"
	"slices"
)

// Digest returns a summary of every log, ascending.
func (s *Store) Digest() []Summary {
	ids := s.ids()
	out := make([]Summary, len(ids))
	for i, id := range ids {
		out[i] = s.Summary(id)
	}
	return out
}

// Summary returns the summary of one log; version 0 when there is none.
func (s *Store) Summary(id ID) Summary {
	sum := Summary{ID: id}
	if l := s.logs[id]; l != nil {
		sum.Version, sum.Hash = l.version, l.hash
	}
	return sum
}

// Difference is what [Store.Compare] found.
type Difference struct {
	Want      []Pull // logs in which the other is ahead
	Give      []Pull // logs in which we are ahead
	Continued []ID   // our own logs, continued above what the other had
}

// Compare holds a digest of another host against the store. An own log that
// the other has in a state that never was ours is continued above it.
func (s *Store) Compare(digest []Summary) Difference {
	var d Difference
	for _, r := range digest {
		own := s.Summary(r.ID)
		mine := r.Owner == s.cfg.Self && r.Channel != Adverts
		switch {
		case r.Version == own.Version && r.Hash == own.Hash:
		case mine && r.Version >= own.Version:
			if s.continueAbove(r.ID, r.Version) {
				d.Continued = append(d.Continued, r.ID)
			}
		case r.Version > own.Version || r.Version == own.Version && r.Hash > own.Hash:
			if !s.refuses(r.ID, r.Version) && (s.refused[r.ID] == 0 || s.refused[r.ID] != r.Version) {
				d.Want = append(d.Want, Pull{ID: r.ID, Since: own.Version, Full: r.Version == own.Version}.canonical())
			}
		default:
			d.Give = append(d.Give, Pull{ID: r.ID, Since: r.Version, Full: r.Version == own.Version}.canonical())
		}
	}
	return d
}

func (p Pull) canonical() Pull {
	if p.Full {
		p.Since = 0
	}
	return p
}

func (s *Store) continueAbove(id ID, version uint64) bool {
	l, err := s.own(id.Channel)
	if err != nil || version >= MaxVersion {
		return false
	}
	l.continueAbove(version)
	return true
}

// Requests returns the messages that ask for pulls, each below [MaxMessage].
func Requests(pulls []Pull) []Message {
	const each = MaxMessage / 48
	var out []Message
	for c := range slices.Chunk(pulls, each) {
		out = append(out, Message{Kind: KindRequest, Pulls: c})
	}
	return out
}

// Answer returns the messages that serve pulls, each below [MaxMessage]. What
// the store does not have, or not newer, is left out.
func (s *Store) Answer(pulls []Pull) []Message {
	var out []Message
	room := 0
	for _, p := range pulls {
		for _, c := range s.chunks(p) {
			n := c.size()
			if n > room {
				out = append(out, Message{Kind: KindDelta})
				room = MaxMessage - headSize - 10
			}
			m := &out[len(out)-1]
			m.Chunks = append(m.Chunks, c)
			room -= n
		}
	}
	return out
}

// chunks splits the changes that a pull asks for.
func (s *Store) chunks(p Pull) []Chunk {
	l := s.logs[p.ID]
	if l == nil || l.version < p.Since || l.version == p.Since && !p.Full {
		return nil
	}
	changes, full := l.changes(p.Since, p.Full)
	head := Chunk{ID: p.ID, Full: full, Version: l.version, Hash: l.hash}
	if !full {
		head.Base = p.Since
	}
	const limit = MaxMessage - headSize - 10
	var out []Chunk
	c, room := head, limit-chunkHead
	for _, ch := range changes {
		if n := ch.size(); n > room {
			out = append(out, c)
			c, room = head, limit-chunkHead
		}
		c.Changes = append(c.Changes, ch)
		room -= ch.size()
	}
	out = append(out, c)
	for i := range out {
		out[i].Part, out[i].Parts = uint16(i), uint16(len(out))
	}
	return out
}

// Recent returns the latest changes of a log as a message of at most limit
// bytes, for a broadcast: who is not too far behind can apply it. It reports
// false when not even the last change fits.
func (s *Store) Recent(id ID, limit int) (Message, bool) {
	l := s.logs[id]
	if l == nil || l.version == 0 {
		return Message{}, false
	}
	c := Chunk{ID: id, Version: l.version, Hash: l.hash, Parts: 1}
	room := limit - headSize - 1 - chunkHead
	if l.floor == l.version { // an advert, or just continued: there are no changes
		c.Full = true
		c.Changes, _ = l.changes(0, true)
		for _, ch := range c.Changes {
			room -= ch.size()
		}
		return Message{Kind: KindDelta, Relay: true, Chunks: []Chunk{c}}, room >= 0
	}
	changes := l.after(l.floor)
	first := len(changes)
	for first > 0 && changes[first-1].size() <= room {
		first--
		room -= changes[first].size()
	}
	if first == len(changes) {
		return Message{}, false
	}
	c.Base, c.Changes = l.floor, changes[first:]
	if first > 0 {
		c.Base = changes[first-1].Version
	}
	return Message{Kind: KindDelta, Relay: true, Chunks: []Chunk{c}}, true
}

// Result is what [Store.Apply] did with one chunk.
type Result struct {
	Changed bool  // the log is newer now
	Waiting bool  // other parts of it are awaited
	Ahead   bool  // it is our own log, in a state that never was ours
	Want    *Pull // what to ask the sender for, because this did not fit
	Err     error // why it was refused for good
}

// Apply takes one chunk that another host sent.
func (s *Store) Apply(c Chunk) Result {
	own := s.Summary(c.ID)
	if c.Owner == s.cfg.Self {
		return s.applyOwn(c, own)
	}
	if c.Version < own.Version || c.Version == own.Version && c.Hash <= own.Hash || s.refuses(c.ID, c.Version) {
		return Result{}
	}
	if !c.Full && c.Base > own.Version {
		return Result{Want: &Pull{ID: c.ID, Since: own.Version}}
	}
	if c.Channel == Adverts {
		return s.applyAdvert(c)
	}
	changes, done := s.assemble(c)
	if !done {
		return Result{Waiting: true}
	}
	if !unique(changes) {
		return Result{Err: errWire}
	}
	if c.Full {
		return s.applySnapshot(c, changes)
	}
	l := s.logs[c.ID]
	if l == nil {
		l = newLog()
	}
	if !l.apply(c.Version, c.Hash, changes) {
		return Result{Want: &Pull{ID: c.ID, Full: true}}
	}
	if err := s.set(c.ID, l); err != nil {
		return Result{Err: err}
	}
	return Result{Changed: true}
}

func (s *Store) applyOwn(c Chunk, own Summary) Result {
	switch {
	case c.Channel == Adverts:
		// Only the caller can sign above it; it wants to see the statement.
		if c.Version < own.Version || c.Version == own.Version && c.Hash == own.Hash {
			return Result{}
		}
		if _, err := s.verify(c); err != nil {
			return Result{Err: err}
		}
		return Result{Ahead: true}
	case c.Version > own.Version || c.Version == own.Version && c.Hash != own.Hash:
		return Result{Ahead: s.continueAbove(c.ID, c.Version)}
	}
	return Result{}
}

func (s *Store) applyAdvert(c Chunk) Result {
	l, err := s.verify(c)
	if err == nil {
		err = s.set(c.ID, l)
	}
	if err != nil {
		if len(s.refused) >= maxRefused {
			clear(s.refused)
		}
		s.refused[c.ID] = c.Version
		return Result{Err: err}
	}
	delete(s.refused, c.ID)
	s.Open(c.Owner)
	return Result{Changed: true}
}

func (s *Store) verify(c Chunk) (*log, error) {
	if !c.Full || c.Parts != 1 || len(c.Changes) != 1 {
		return nil, fmt.Errorf("advert of %s: %w", c.Owner.Fingerprint(), errWire)
	}
	ch := c.Changes[0]
	ch.Value = slices.Clone(ch.Value)
	l := snapshot(c.Version, []Change{ch})
	if ch.Key != "" || ch.Version != c.Version || l.hash != c.Hash {
		return nil, fmt.Errorf("advert of %s: %w", c.Owner.Fingerprint(), errWire)
	}
	return l, s.cfg.Verify(c.Owner, c.Version, ch.Value)
}

func (s *Store) applySnapshot(c Chunk, changes []Change) Result {
	for i := range changes {
		changes[i].Value = slices.Clone(changes[i].Value)
	}
	l := snapshot(c.Version, changes)
	if l.hash != c.Hash || l.alive > MaxEntries || l.bytes > MaxLog {
		return Result{Err: fmt.Errorf("snapshot of %s: %w", c.Owner.Fingerprint(), errWire)}
	}
	if err := s.set(c.ID, l); err != nil {
		return Result{Err: err}
	}
	return Result{Changed: true}
}

func unique(changes []Change) bool {
	seen := make(map[string]struct{}, len(changes))
	for _, c := range changes {
		seen[c.Key] = struct{}{}
	}
	return len(seen) == len(changes)
}

// assembly collects the parts of one transfer.
type assembly struct {
	head  Chunk
	parts [][]Change
	left  int
	bytes int
}

// assemble returns all changes once every part of c's transfer is here.
func (s *Store) assemble(c Chunk) ([]Change, bool) {
	if c.Parts == 1 {
		return c.Changes, true
	}
	a := s.assemblies[c.ID]
	if a == nil || !a.fits(c) {
		if a != nil && (c.Version < a.head.Version) {
			return nil, false
		}
		if a == nil && len(s.assemblies) >= maxAssemblies {
			clear(s.assemblies)
		}
		a = &assembly{head: c, parts: make([][]Change, c.Parts), left: int(c.Parts)}
		s.assemblies[c.ID] = a
	}
	if a.parts[c.Part] != nil {
		return nil, false
	}
	part := make([]Change, 0, len(c.Changes))
	for _, ch := range c.Changes {
		ch.Value = slices.Clone(ch.Value)
		part = append(part, ch)
		a.bytes += len(ch.Key) + len(ch.Value)
	}
	a.parts[c.Part] = part
	a.left--
	if a.bytes > MaxLog+MaxTombstones*MaxKey {
		delete(s.assemblies, c.ID)
		return nil, false
	}
	if a.left > 0 {
		return nil, false
	}
	delete(s.assemblies, c.ID)
	all := slices.Concat(a.parts...)
	slices.SortFunc(all, func(x, y Change) int { return cmp.Compare(x.Version, y.Version) })
	return all, true
}

func (a *assembly) fits(c Chunk) bool {
	h := a.head
	return h.Full == c.Full && h.Base == c.Base && h.Version == c.Version && h.Hash == c.Hash && h.Parts == c.Parts
}
