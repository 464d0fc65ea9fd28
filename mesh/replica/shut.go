package replica

import "github.com/weftnet/weft/crypto"

// Shut forgets an owner: its entries, and its advert too unless keep is set.
// From now on nobody can bring entries of it, nor an advert up to version.
// An advert above version that is accepted undoes that, and so do [Store.Open]
// and [Store.Drop]. A kept advert is still told to others. Our own logs are
// never shut.
func (s *Store) Shut(owner crypto.Identity, version uint64, keep bool) {
	if owner == s.cfg.Self {
		return
	}
	id := ID{owner, Adverts}
	l := s.logs[id]
	s.Drop(owner)
	if keep && l != nil {
		_ = s.set(id, l) // there is room: it had a place before
	}
	s.shut[owner] = version
}

// Open undoes [Store.Shut]; what was forgotten stays so until somebody brings
// it again.
func (s *Store) Open(owner crypto.Identity) { delete(s.shut, owner) }

// refuses reports whether Shut stands against a version of a log.
func (s *Store) refuses(id ID, version uint64) bool {
	v, ok := s.shut[id.Owner]
	return ok && (id.Channel != Adverts || version <= v)
}
