package replica

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// log is one copy of an owner's log: the latest change of every key.
type log struct {
	version uint64
	floor   uint64 // changes since a version below it are not known
	hash    uint64 // sum of the hashes of the live entries
	entries map[string]entry
	alive   int // live entries
	bytes   int // keys and values of live entries
}

type entry struct {
	value   []byte
	version uint64
	hash    uint64
	deleted bool
}

func newLog() *log { return &log{entries: make(map[string]entry)} }

// snapshot returns the log that consists of live changes, known from nowhere
// below version.
func snapshot(version uint64, changes []Change) *log {
	l := newLog()
	for _, c := range changes {
		l.store(c)
	}
	l.version, l.floor = version, version
	return l
}

// newer reports whether l comes after a copy with this version and hash.
func (l *log) newer(version, hash uint64) bool {
	return l.version > version || l.version == version && l.hash > hash
}

func (l *log) put(key string, value []byte) (bool, error) {
	old, ok := l.entries[key]
	ok = ok && !old.deleted
	if ok && string(old.value) == string(value) {
		return false, nil
	}
	alive, size := l.alive, l.bytes+len(key)+len(value)
	if ok {
		size -= len(key) + len(old.value)
	} else {
		alive++
	}
	if alive > MaxEntries || size > MaxLog {
		return false, fmt.Errorf("put %q: %w: %d entries with %d bytes (at most %d with %d)",
			key, ErrFull, alive, size, MaxEntries, MaxLog)
	}
	l.version++
	l.store(Change{Key: key, Value: value, Version: l.version})
	return true, nil
}

func (l *log) del(key string) bool {
	if old, ok := l.entries[key]; !ok || old.deleted {
		return false
	}
	l.version++
	l.store(Change{Key: key, Version: l.version, Deleted: true})
	l.trim()
	return true
}

// store makes c the latest change of its key. It keeps the value.
func (l *log) store(c Change) {
	if old, ok := l.entries[c.Key]; ok && !old.deleted {
		l.hash -= old.hash
		l.bytes -= len(c.Key) + len(old.value)
		l.alive--
	}
	e := entry{version: c.Version, deleted: c.Deleted}
	if !c.Deleted {
		e.value, e.hash = c.Value, changeHash(c)
		l.hash += e.hash
		l.bytes += len(c.Key) + len(c.Value)
		l.alive++
	}
	l.entries[c.Key] = e
}

// trim drops the older half of the tombstones when there are too many.
func (l *log) trim() {
	dead := len(l.entries) - l.alive
	if dead <= MaxTombstones {
		return
	}
	versions := make([]uint64, 0, dead)
	for _, e := range l.entries {
		if e.deleted {
			versions = append(versions, e.version)
		}
	}
	slices.Sort(versions)
	l.floor = max(l.floor, versions[len(versions)/2])
	for k, e := range l.entries {
		if e.deleted && e.version <= l.floor {
			delete(l.entries, k)
		}
	}
}

// continueAbove makes version one that no other copy has.
func (l *log) continueAbove(version uint64) {
	l.version = max(l.version, version) + 1
	l.floor = l.version
	for k, e := range l.entries {
		if e.deleted {
			delete(l.entries, k)
		}
	}
}

// changes returns what a copy at version since lacks, and whether that is a
// snapshot: when it is asked for, is not more than the history, or since is
// below the floor.
func (l *log) changes(since uint64, full bool) ([]Change, bool) {
	if full || since == 0 || since < l.floor {
		return l.collect(func(e entry) bool { return !e.deleted }), true
	}
	return l.after(since), false
}

// after returns the latest change of every key that changed after since,
// which must not be below the floor.
func (l *log) after(since uint64) []Change {
	return l.collect(func(e entry) bool { return e.version > since })
}

// collect returns changes oldest first.
func (l *log) collect(want func(entry) bool) []Change {
	var out []Change
	for k, e := range l.entries {
		if want(e) {
			out = append(out, Change{Key: k, Value: e.value, Version: e.version, Deleted: e.deleted})
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return cmp.Compare(a.Version, b.Version) })
	return out
}

// apply takes the changes that lead to version and hash, all or none: a
// result that does not match leaves the log as it is.
func (l *log) apply(version, hash uint64, changes []Change) bool {
	n := log{hash: l.hash, alive: l.alive, bytes: l.bytes} // what it would become
	for _, c := range changes {
		if c.Version <= l.version {
			continue
		}
		if old, ok := l.entries[c.Key]; ok && !old.deleted {
			n.hash -= old.hash
			n.bytes -= len(c.Key) + len(old.value)
			n.alive--
		}
		if !c.Deleted {
			n.hash += changeHash(c)
			n.bytes += len(c.Key) + len(c.Value)
			n.alive++
		}
	}
	if n.hash != hash || n.alive > MaxEntries || n.bytes > MaxLog {
		return false
	}
	for _, c := range changes {
		if c.Version > l.version {
			l.store(Change{c.Key, slices.Clone(c.Value), c.Version, c.Deleted})
		}
	}
	l.version = version
	l.trim()
	return true
}

func (l *log) live() []Entry {
	out := make([]Entry, 0, l.alive)
	for k, e := range l.entries {
		if !e.deleted {
			out = append(out, Entry{Key: k, Value: e.value, Version: e.version})
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// changeHash is the first 8 bytes of SHA-256 over version, key and value, with
// the key's length before it.
func changeHash(c Change) uint64 {
	b := make([]byte, 0, 10+len(c.Key)+len(c.Value))
	b = binary.BigEndian.AppendUint64(b, c.Version)
	b = binary.BigEndian.AppendUint16(b, uint16(len(c.Key)))
	b = append(b, c.Key...)
	b = append(b, c.Value...)
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:8])
}
