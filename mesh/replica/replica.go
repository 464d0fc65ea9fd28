// Package replica holds what the hosts of a cluster tell each other, as logs
// that only their owner writes, and brings the copies of a log together
// without clocks.
//
// It owns the logs, their digest, the changes between two versions, and the
// bytes of all three. It is pure: no goroutine, no timer, no socket. It does
// not know what an entry means, who is alive, or how messages travel (mesh
// does).
//
// # Logs
//
// A log belongs to an owner and a channel. Every change gets the log's next
// version, counted by the owner; the latest change of each key is kept, a
// deletion as a tombstone. A copy is always exactly what the owner's log was
// at some version: changes are taken all or not at all, and the hash of the
// live entries is compared afterwards. Two copies are ordered by version, then
// by hash, so that they agree even when the owner is gone.
//
// # Floor
//
// Tombstones are bounded. Who drops some raises its floor, and answers a
// request from below the floor with a snapshot. The floor is a matter of each
// holder.
//
// # An owner that lost its memory
//
// An owner that starts with nothing, or from an old disk, meets its own log
// elsewhere with a higher version, or with the same one and another hash. It
// continues above that version, and everybody takes a snapshot.
package replica

import (
	"errors"
	"fmt"
	"slices"

	"github.com/weftnet/weft/crypto"
)

// Limits. What exceeds them is refused, by the owner and by every receiver.
const (
	MaxOwners     = 4096     // logs of at most so many owners are kept
	MaxChannel    = 15       // the greatest channel
	MaxEntries    = 8192     // live entries of one log
	MaxTombstones = 1024     // of one log; more raise the floor
	MaxKey        = 255      // bytes
	MaxValue      = 32 << 10 // bytes
	MaxLog        = 4 << 20  // bytes of keys and values of one log
	MaxMessage    = 60 << 10 // bytes of one request or delta
	MaxVersion    = 1 << 62

	maxAssemblies = 64 // logs of which a part has come and others are awaited
	maxRefused    = 256
)

// Adverts is the channel of signed adverts. Its log has one entry with an
// empty key, its version is the advert's sequence number, and any host may
// bring it, because [Config.Verify] checks the signature.
const Adverts uint8 = 0

// Errors of [Store.Put] and [Store.SetAdvert].
var (
	ErrTooLarge = errors.New("too large")
	ErrFull     = errors.New("full")
)

// ID names a log.
type ID struct {
	Owner   crypto.Identity
	Channel uint8
}

// Compare orders ids by owner, then by channel.
func (id ID) Compare(o ID) int {
	if c := id.Owner.Compare(o.Owner); c != 0 {
		return c
	}
	return int(id.Channel) - int(o.Channel)
}

// Entry is a live entry. Value must not be modified.
type Entry struct {
	Key     string
	Value   []byte
	Version uint64
}

// Config is constant after [New].
type Config struct {
	Self crypto.Identity
	// Verify checks an advert that came from another host: that value is
	// owner's statement with sequence number version. It is also called for
	// an advert of our own that is ahead of ours. It must not call the Store.
	Verify func(owner crypto.Identity, version uint64, value []byte) error
}

// Store holds the logs. It is not safe for concurrent use.
type Store struct {
	cfg        Config
	logs       map[ID]*log
	owners     map[crypto.Identity]int // number of logs
	assemblies map[ID]*assembly
	refused    map[ID]uint64              // adverts that Verify refused, by version
	shut       map[crypto.Identity]uint64 // see Shut
}

// New returns an empty store.
func New(cfg Config) *Store {
	return &Store{
		cfg:        cfg,
		logs:       make(map[ID]*log),
		owners:     make(map[crypto.Identity]int),
		assemblies: make(map[ID]*assembly),
		refused:    make(map[ID]uint64),
		shut:       make(map[crypto.Identity]uint64),
	}
}

// Put sets an entry of our own log on channel (1 and above) and reports
// whether that changed anything. The value is copied.
func (s *Store) Put(channel uint8, key string, value []byte) (bool, error) {
	if err := CheckEntry(key, value); err != nil {
		return false, err
	}
	l, err := s.own(channel)
	if err != nil {
		return false, fmt.Errorf("put %q: %w", key, err)
	}
	return l.put(key, slices.Clone(value))
}

// Delete removes an entry of our own log and reports whether it was there.
func (s *Store) Delete(channel uint8, key string) bool {
	l := s.logs[ID{s.cfg.Self, channel}]
	return l != nil && channel != Adverts && l.del(key)
}

// SetAdvert brings an advert, ours or one that the caller has verified, and
// reports whether it is newer than the one here.
func (s *Store) SetAdvert(owner crypto.Identity, seq uint64, value []byte) (bool, error) {
	if len(value) > MaxValue || seq > MaxVersion {
		return false, fmt.Errorf("advert of %s: %w", owner.Fingerprint(), ErrTooLarge)
	}
	id := ID{owner, Adverts}
	if s.refuses(id, seq) {
		return false, nil
	}
	n := snapshot(seq, []Change{{Value: slices.Clone(value), Version: seq}})
	if old := s.logs[id]; old != nil && !n.newer(old.version, old.hash) {
		return false, nil
	}
	if err := s.set(id, n); err != nil {
		return false, err
	}
	s.Open(owner)
	return true, nil
}

// Advert returns the advert of owner and its sequence number; nil when there
// is none.
func (s *Store) Advert(owner crypto.Identity) ([]byte, uint64) {
	l := s.logs[ID{owner, Adverts}]
	if l == nil {
		return nil, 0
	}
	return l.entries[""].value, l.version
}

// Entries returns the live entries of a log, sorted by key.
func (s *Store) Entries(id ID) []Entry {
	l := s.logs[id]
	if l == nil {
		return nil
	}
	return l.live()
}

// Len returns the number of live entries in all logs above the adverts.
func (s *Store) Len() int {
	n := 0
	for id, l := range s.logs {
		if id.Channel != Adverts {
			n += l.alive
		}
	}
	return n
}

// Version returns the version of a log, 0 when there is none.
func (s *Store) Version(id ID) uint64 {
	if l := s.logs[id]; l != nil {
		return l.version
	}
	return 0
}

// Drop forgets everything of an owner.
func (s *Store) Drop(owner crypto.Identity) {
	for ch := range uint8(MaxChannel + 1) {
		id := ID{owner, ch}
		delete(s.logs, id)
		delete(s.assemblies, id)
		delete(s.refused, id)
	}
	delete(s.owners, owner)
	delete(s.shut, owner)
}

// CheckEntry returns the error that [Store.Put] would return for an entry of
// this size.
func CheckEntry(key string, value []byte) error {
	if key == "" {
		return errors.New("put: empty key")
	}
	if len(key) > MaxKey || len(value) > MaxValue {
		return fmt.Errorf("put %.32q: %w: key of %d bytes (at most %d), value of %d bytes (at most %d)",
			key, ErrTooLarge, len(key), MaxKey, len(value), MaxValue)
	}
	return nil
}

func (s *Store) own(channel uint8) (*log, error) {
	if channel == Adverts || channel > MaxChannel {
		return nil, fmt.Errorf("channel %d does not hold entries", channel)
	}
	id := ID{s.cfg.Self, channel}
	if l := s.logs[id]; l != nil {
		return l, nil
	}
	l := newLog()
	if err := s.set(id, l); err != nil {
		return nil, err
	}
	return l, nil
}

// set stores a log; our own always fits.
func (s *Store) set(id ID, l *log) error {
	if s.logs[id] == nil {
		if s.owners[id.Owner] == 0 && len(s.owners) >= MaxOwners && id.Owner != s.cfg.Self {
			return fmt.Errorf("log of %s: %w: %d owners are known", id.Owner.Fingerprint(), ErrFull, len(s.owners))
		}
		s.owners[id.Owner]++
	}
	s.logs[id] = l
	return nil
}

func (s *Store) ids() []ID {
	ids := make([]ID, 0, len(s.logs))
	for id := range s.logs {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, ID.Compare)
	return ids
}
