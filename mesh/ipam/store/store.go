// Package store keeps values by key in one file, so that what was saved is there
// after a power cut, damage is noticed, and an old copy of the file is not taken
// for the newest.
//
// It owns the file, its lock, those that were set aside as damaged, the mark
// that tells whether the file is the newest, and everything of bbolt. It does not
// know what the values say.
package store

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Write changes one stored value. Keys are not empty.
type Write struct {
	Key   string
	Value []byte // nil: delete
}

// ErrHeld is returned by [Open] when another process has the database open.
var ErrHeld = errors.New("another weftd has it open")

var (
	errDamaged = errors.New("damaged")
	errBroken  = errors.New("the database was damaged while it was open; restart weftd, which starts it anew")
)

const (
	lockTimeout = 500 * time.Millisecond // less than what a person calls waiting
	dirMode     = 0o700
	fileMode    = 0o600
	// 100,000 addresses take some 30 MB.
	maxDatabase  = 1 << 30
	maxSetAside  = 9
	bucketHead   = "head"
	bucketValues = "values"
)

// Store is a store in a bbolt file.
//
// bbolt maps the file and believes what it reads there, so the file is looked
// through before bbolt sees it (see inspect), and a fault later on becomes an
// error. bbolt has no checksums of values; the head has one over all of them.
// A file that is damaged is renamed, for people to look at, and a new one
// begun: blocks come back from peers, addresses from running containers.
//
// The mark, in a directory that does not survive a reboot, says what the
// newest state was. With it the store is proven: it is not an old copy.
type Store struct {
	// Constant after Open.

	db     *bolt.DB
	file   *os.File // db's, with its lock
	path   string
	mark   string // empty: none
	boot   string // of the machine; a mark of another one proves nothing
	log    *slog.Logger
	proven bool   // values are the newest there ever were
	damage string // what happened to the file before; empty: nothing

	// Owned by the caller.

	head     head
	broken   bool     // bbolt panicked; its locks are in no known state
	markFile *os.File // nil: not written yet
	markLost bool     // it could not be written
}

// Open opens the database at path, or begins one. It waits up to 500 ms for
// another process to close it, then fails with [ErrHeld]. mark is the file that
// proves that the database is the newest, in a directory that is empty after a
// reboot; empty: there is none. A nil log is silence.
func Open(path, mark string, log *slog.Logger) (*Store, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Store{path: path, mark: mark, boot: bootID(), log: log}
	for {
		again, err := s.open()
		switch {
		case err != nil:
			return nil, fmt.Errorf("open address database %s: %w", path, err)
		case !again:
			s.proven = s.checkMark()
			return s, nil
		}
	}
}

// open opens the file, again being true when it was set aside and the next
// attempt will find none.
func (s *Store) open() (again bool, err error) {
	f, made, err := lockFile(s.path)
	if err != nil {
		return false, err
	}
	info, err := f.Stat()
	if err != nil {
		return false, errors.Join(err, f.Close())
	}
	if info.Size() == 0 && !made {
		s.note("it was empty, begun anew")
	}
	if info.Size() > 0 {
		if err := inspect(f, info.Size()); err != nil {
			return s.giveUp(f, err)
		}
	}
	s.file, s.db, s.head = f, nil, head{}
	err = guarded(func() (err error) {
		s.db, err = bolt.Open(s.path, fileMode, &bolt.Options{
			Timeout:      lockTimeout,
			MaxSize:      maxDatabase,
			NoStatistics: true,
			OpenFile:     func(string, int, os.FileMode) (*os.File, error) { return f, nil },
		})
		if err != nil {
			return err
		}
		if info.Size() == 0 {
			return s.begin()
		}
		_, s.head, err = s.read()
		return err
	})
	if err == nil {
		return false, syncDir(s.path)
	}
	if s.db != nil && !errors.Is(err, errBroken) {
		defer func() { err = errors.Join(err, s.db.Close()) }()
		f = nil
	}
	return s.giveUp(f, err)
}

// giveUp closes f, if it is not nil, and sets the file aside if err says that
// it is damaged. The lock is held until it is done.
func (s *Store) giveUp(f *os.File, err error) (again bool, _ error) {
	if f != nil {
		defer f.Close() // nothing was written
	}
	if !errors.Is(err, errDamaged) && !errors.Is(err, errBroken) {
		return false, err
	}
	aside := ""
	for n := 1; n <= maxSetAside; n++ { // the last one is replaced
		aside = fmt.Sprintf("%s.damaged-%d", s.path, n)
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if rename := os.Rename(s.path, aside); rename != nil {
		return false, fmt.Errorf("%w, and it cannot be set aside: %w", err, rename)
	}
	s.note(fmt.Sprintf("%v; set aside as %s, begun anew", err, aside))
	return true, nil
}

// note keeps what is to be said of a damaged file.
func (s *Store) note(what string) {
	s.damage = fmt.Sprintf("address database %s: %s; space comes back from peers, addresses from running containers", s.path, what)
	s.log.Error("address database not usable, begun anew", "file", s.path, "why", what)
}

// guarded calls fn and turns panics, and faults of a mapped file that changed
// its length, into errBroken.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w (%v)", errBroken, r)
		}
	}()
	return fn()
}

// begin writes the head of a new database.
func (s *Store) begin() error {
	if _, err := rand.Read(s.head.ID[:]); err != nil {
		return err
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range []string{bucketHead, bucketValues} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(bucketHead)).Put([]byte(bucketHead), s.head.marshal())
	})
}

// read reads everything there is and compares it with the head.
func (s *Store) read() (values map[string][]byte, h head, err error) {
	values = make(map[string][]byte)
	err = s.db.View(func(tx *bolt.Tx) error {
		first, second := tx.Bucket([]byte(bucketHead)), tx.Bucket([]byte(bucketValues))
		if first == nil || second == nil {
			return fmt.Errorf("%w: it is not an address database", errDamaged)
		}
		if h, err = parseHead(first.Get([]byte(bucketHead))); err != nil {
			return err
		}
		var sum uint64
		err = second.ForEach(func(k, v []byte) error {
			if v == nil {
				return fmt.Errorf("%w: unknown bucket", errDamaged)
			}
			values[string(k)] = bytes.Clone(v)
			sum += hashOf(k, v)
			return nil
		})
		if err == nil && (sum != h.Sum || uint64(len(values)) != h.Count) {
			err = fmt.Errorf("%w: %d values do not match their checksum", errDamaged, len(values))
		}
		return err
	})
	return values, h, err
}

// Proven reports whether the database was, when it was opened, the newest there
// ever was: no older copy of the file was put in its place. It is never so
// without a mark, or after a reboot.
func (s *Store) Proven() bool { return s.proven }

// Damage returns what happened to a file that had to be set aside, for people;
// empty: nothing.
func (s *Store) Damage() string { return s.damage }

// Load returns copies of all values, by key.
func (s *Store) Load() (values map[string][]byte, err error) {
	err = s.use(func() error {
		values, s.head, err = s.read()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read address database %s: %w", s.path, err)
	}
	return values, nil
}

// use calls fn, and never again once bbolt panicked.
func (s *Store) use(fn func() error) error {
	if s.broken {
		return errBroken
	}
	err := guarded(fn)
	s.broken = errors.Is(err, errBroken)
	return err
}

// Save writes a batch, all or nothing, and then the mark. When it returns, the
// batch is on the disk; later writes of one key win.
func (s *Store) Save(batch []Write) error {
	if len(batch) == 0 {
		return nil
	}
	next := s.head
	err := s.use(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			values := tx.Bucket([]byte(bucketValues))
			for _, w := range batch {
				if err := next.put(values, w); err != nil {
					return fmt.Errorf("%s: %w", w.Key, err)
				}
			}
			next.Seq++
			return tx.Bucket([]byte(bucketHead)).Put([]byte(bucketHead), next.marshal())
		})
	})
	switch {
	case errors.Is(err, berrors.ErrMaxSizeReached):
		return fmt.Errorf("write address database %s: larger than %d MB: %w", s.path, maxDatabase>>20, err)
	case err != nil:
		return fmt.Errorf("write address database %s: %w", s.path, err)
	}
	s.head = next
	s.writeMark()
	return nil
}

// Close closes the database. Every save is on the disk already.
func (s *Store) Close() error {
	var errs []error
	if s.markFile != nil {
		errs = append(errs, s.markFile.Close())
	}
	switch {
	case s.broken:
		// bbolt's locks may never be free again. The one on the file is, but
		// not by closing it: the mapping stays.
		errs = append(errs, syscall.Flock(int(s.file.Fd()), syscall.LOCK_UN), s.file.Close())
	default:
		errs = append(errs, guarded(s.db.Close))
	}
	return errors.Join(errs...)
}
