package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// sample is a real database: several levels, overflow pages, free pages.
type sample struct {
	file, mark []byte
	now, past  map[string][]byte // after the last save, and the one before
}

func newSample(t testing.TB) sample {
	t.Helper()
	p := newPlace(t)
	s := p.open(t)
	for i := range 8 {
		var batch []Write
		for k := range 40 {
			batch = append(batch, Write{fmt.Sprintf("l/10.32.%d.%d", i, k), bytes.Repeat([]byte{byte(k)}, 60)})
		}
		saved(t, s, batch...)
	}
	saved(t, s, Write{"v", make([]byte, 10_000)})
	saved(t, s, Write{"v", make([]byte, 9_000)}, Write{"l/10.32.1.1", nil})
	var sm sample
	sm.past = loaded(t, s)
	saved(t, s, Write{"l/10.32.1.2", nil})
	sm.now = loaded(t, s)
	closed(t, s)
	sm.file, sm.mark = contents(t, p.db), contents(t, p.mark)
	return sm
}

// try opens the damaged bytes and reports what came of it: "whole", "past"
// (the save before, and known not to be the newest), or "aside".
func (sm sample) try(t *testing.T, damaged []byte) string {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "") //nolint:usetesting // thousands would stay until the end
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // t.TempDir does it again
	p := storePlace{filepath.Join(dir, "ipam.db"), filepath.Join(dir, "mark")}
	replace(t, p.db, damaged)
	replace(t, p.mark, sm.mark)
	s := p.open(t)
	defer closed(t, s)
	got := loaded(t, s)
	aside, err := os.ReadFile(p.db + ".damaged-1")
	switch {
	case err == nil:
		if !bytes.Equal(aside, damaged) {
			t.Error("what was set aside is not what there was")
		}
		if len(got) != 0 || s.proven || !strings.Contains(s.damage, p.db+".damaged-1") || !strings.Contains(s.damage, p.db+":") {
			t.Errorf("%d values, proven %v, damage %q", len(got), s.proven, s.damage)
		}
		saved(t, s, Write{"a", []byte("1")})
		if got := loaded(t, s); len(got) != 1 {
			t.Errorf("begun anew: %v", got)
		}
		return "aside"
	case s.damage != "":
		t.Errorf("damage %q, and nothing set aside", s.damage)
	case maps.EqualFunc(got, sm.now, bytes.Equal):
		// It goes on as if nothing had happened.
		saved(t, s, Write{"l/10.32.3.3", nil}, Write{"v", make([]byte, 12_000)})
		if err := inspectFile(p.db); err != nil || len(loaded(t, s)) != len(sm.now)-1 {
			t.Errorf("saved: %d values, %v", len(loaded(t, s)), err)
		}
		return "whole"
	case maps.EqualFunc(got, sm.past, bytes.Equal) && !s.proven:
		return "past"
	}
	t.Errorf("%d values, proven %v: wrong", len(got), s.proven)
	return "wrong"
}

func inspectFile(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return inspect(bytes.NewReader(b), int64(len(b)))
}

func TestStoreTruncated(t *testing.T) {
	sm := newSample(t)
	page := os.Getpagesize()
	count := make(map[string]int)
	for n := 1; n < len(sm.file); n += page / 4 {
		for _, cut := range []int{n, (n - 1) / page * page} {
			if cut > 0 {
				count[sm.try(t, sm.file[:cut])]++
			}
		}
		if t.Failed() {
			t.Fatalf("cut to %d of %d bytes", n, len(sm.file))
		}
	}
	t.Logf("%d pages: %v", len(sm.file)/page, count)
	if count["past"] > 0 {
		t.Error("a cut undoes a save")
	}
}

// Bytes that are wrong anywhere: all bytes of the headers, some of the rest.
func TestStoreFlipped(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	sm := newSample(t)
	page := os.Getpagesize()
	count := make(map[string]int)
	var offsets []int
	for at := range len(sm.file) / page {
		for i := range 32 { // the header and the first element
			offsets = append(offsets, at*page+i)
		}
		for range 16 {
			offsets = append(offsets, at*page+r.IntN(page))
		}
	}
	for i := range 80 { // of both metas
		offsets = append(offsets, i, page+i)
	}
	for _, at := range offsets {
		b := bytes.Clone(sm.file)
		b[at] ^= byte(1 + r.IntN(255))
		verdict := sm.try(t, b)
		count[verdict]++
		if t.Failed() {
			t.Fatalf("byte %d is %#x instead of %#x: %s", at, b[at], sm.file[at], verdict)
		}
		if verdict == "past" && at >= 2*page {
			t.Fatalf("byte %d undoes a save", at)
		}
	}
	t.Logf("%d bytes: %v", len(offsets), count)
}

// Pages that are zero, those of another place, and what was never a database.
func TestStoreGarbage(t *testing.T) {
	sm := newSample(t)
	page := os.Getpagesize()
	pages := len(sm.file) / page
	r := rand.New(rand.NewPCG(1, 2))
	for at := range pages {
		zero, moved, noise := bytes.Clone(sm.file), bytes.Clone(sm.file), bytes.Clone(sm.file)
		clear(zero[at*page : (at+1)*page])
		from := r.IntN(pages)
		copy(moved[at*page:(at+1)*page], sm.file[from*page:])
		for i := range page {
			noise[at*page+i] = byte(r.Uint32())
		}
		for what, b := range map[string][]byte{"zero": zero, fmt.Sprintf("page %d", from): moved, "noise": noise} {
			if sm.try(t, b); t.Failed() {
				t.Fatalf("page %d is %s", at, what)
			}
		}
	}
	random := make([]byte, 1<<20)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	for name, b := range map[string][]byte{
		"text": []byte("this is not a database\n"), "random": random, "zeros": make([]byte, 1<<20), "a byte": {0}, "another": otherBolt(t),
	} {
		if got := sm.try(t, b); got != "aside" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// otherBolt is a database of bbolt's that is not ours.
func otherBolt(t *testing.T) []byte {
	path := filepath.Join(t.TempDir(), "other")
	db, err := bolt.Open(path, fileMode, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("a"))
		return err
	}), db.Close()); err != nil {
		t.Fatal(err)
	}
	return contents(t, path)
}

func TestStoreEmptyFile(t *testing.T) {
	p := newPlace(t)
	replace(t, p.db, nil)
	s := p.open(t)
	if s.proven || !strings.Contains(s.damage, p.db) || !strings.Contains(s.damage, "empty") || len(loaded(t, s)) != 0 {
		t.Errorf("proven %v, damage %q", s.proven, s.damage)
	}
	saved(t, s, Write{"a", []byte("1")})
	closed(t, s)
	if s := p.open(t); !s.proven || s.damage != "" || len(loaded(t, s)) != 1 {
		t.Errorf("afterwards: proven %v, damage %q", s.proven, s.damage)
	}
}

// Several damaged files are kept, but not without end.
func TestStoreSetAsideOften(t *testing.T) {
	p := newPlace(t)
	for i := range maxSetAside + 3 {
		replace(t, p.db, fmt.Appendf(nil, "broken %d", i))
		closed(t, p.open(t))
	}
	names, err := filepath.Glob(p.db + "*")
	if err != nil || len(names) != maxSetAside+1 {
		t.Errorf("%v, %v", names, err)
	}
	if got := string(contents(t, fmt.Sprintf("%s.damaged-%d", p.db, maxSetAside))); got != fmt.Sprintf("broken %d", maxSetAside+2) {
		t.Errorf("the last one is %q", got)
	}
}
