package relay

import (
	"slices"
	"time"

	"github.com/weftnet/weft/router/signal"
)

// key is by what packets of a session are recognised: where they come from and
// the index that the receiver gave the session.
type key struct {
	from  *neighbour
	index uint32
}

// session is one direction of a WireGuard session.
//
// An initiation makes the direction of its answers, which waits for them: back
// is nil. The response makes the other direction, and the two are a session.
type session struct {
	key
	next   *neighbour
	sender signal.ID // whose packets these are; zero: not known
	back   *session  // the other direction
	made   time.Time
	last   time.Time // use

	older, newer *session  // in the list of from
	listed       time.Time // use, to the second
}

// find returns a session that has not expired.
func (t *table) find(now time.Time, k key) *session {
	s := t.sessions[k]
	if s == nil || s.expired(now) {
		return nil
	}
	return s
}

// used is when the last packet came, either way.
func (s *session) used() time.Time {
	if s.back != nil && s.back.last.After(s.last) {
		return s.back.last
	}
	return s.last
}

func (s *session) expired(now time.Time) bool {
	if s.back == nil {
		return now.Sub(s.made) >= pendingLife
	}
	return now.Sub(s.used()) >= sessionLife
}

// touch notes that a packet came. The place in the list is mended once per
// second: this is done for every packet.
func (s *session) touch(now time.Time) {
	s.last = now
	if now.Sub(s.listed) >= time.Second {
		s.unlist()
		s.list(now)
	}
}

// list makes s the newest of its source.
func (s *session) list(now time.Time) {
	n := s.from
	s.listed = now
	s.older, s.newer = n.newest, nil
	if n.newest != nil {
		n.newest.newer = s
	} else {
		n.oldest = s
	}
	n.newest = s
}

func (s *session) unlist() {
	n := s.from
	if s.older != nil {
		s.older.newer = s.newer
	} else {
		n.oldest = s.newer
	}
	if s.newer != nil {
		s.newer.older = s.older
	} else {
		n.newest = s.older
	}
	s.older, s.newer = nil, nil
}

// record notes that packets of k go to next, and makes room for that. It
// returns nil when another session has the key, which was used just now, or
// when there is no room.
func (t *table) record(now time.Time, k key, next *neighbour, sender signal.ID) *session {
	if s := t.sessions[k]; s != nil {
		if s.next == next && !s.expired(now) {
			s.touch(now)
			if sender != (signal.ID{}) {
				s.sender = sender
			}
			return s
		}
		if !s.expired(now) && now.Sub(s.used()) < conflictRest {
			return nil
		}
		t.drop(s)
	}
	if k.from.sessions >= maxSessions || len(t.sessions) >= t.room {
		if k.from.oldest == nil {
			return nil
		}
		t.drop(k.from.oldest)
	}
	s := &session{key: k, next: next, sender: sender, made: now, last: now}
	t.sessions[k] = s
	t.pending = append(t.pending, s)
	k.from.sessions++
	s.list(now)
	return s
}

// drop forgets both directions of a session: one alone serves nobody.
func (t *table) drop(s *session) {
	back := s.back
	t.dropOne(s)
	if back != nil {
		t.dropOne(back)
	}
}

func (t *table) dropOne(s *session) {
	delete(t.sessions, s.key)
	s.from.sessions--
	s.unlist()
	if s.back != nil {
		s.back.back = nil
		s.back = nil
		t.pairs--
	}
}

// pair makes two directions that wait one session.
func (t *table) pair(a, b *session) {
	a.back, b.back = b, a
	t.pairs++
}

// forget drops the sessions of which which is true.
func (t *table) forget(which func(*session) bool) {
	for _, s := range t.sessions {
		if t.sessions[s.key] == s && which(s) {
			t.drop(s)
		}
	}
}

// forgetIndex drops the sessions with an index that go by a peer's relay.
func (t *table) forgetIndex(relay *peer, index uint32) {
	next := relay.roles[signal.RelayPort]
	for _, p := range t.peers {
		for _, n := range p.roles {
			if s := t.sessions[key{n, index}]; s != nil && s.next == next {
				t.drop(s)
			}
		}
	}
}

// sweepSessions drops what has expired.
func (t *table) sweepSessions(now time.Time) {
	done := 0
	for _, s := range t.pending {
		waits := t.sessions[s.key] == s && s.back == nil
		if waits && !s.expired(now) {
			break
		}
		done++
		if waits {
			t.drop(s)
		}
	}
	t.pending = slices.Delete(t.pending, 0, done)
	for _, p := range t.peers {
		for _, n := range p.roles {
			for s := n.oldest; s != nil && now.Sub(s.listed) >= sessionLife; s = n.oldest {
				if s.expired(now) {
					t.drop(s)
					continue
				}
				s.unlist()
				s.list(now)
			}
		}
	}
}
