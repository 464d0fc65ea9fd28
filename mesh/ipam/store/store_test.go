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
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

// place is where a store is.
type storePlace struct{ db, mark string }

func newPlace(t testing.TB) storePlace {
	dir := t.TempDir()
	return storePlace{filepath.Join(dir, "ipam.db"), filepath.Join(dir, "run", "ipam.mark")}
}

func (p storePlace) open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(p.db, p.mark, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.db != nil && !s.broken {
			s.db.Close() // closed by the test, most of the time
		}
	})
	return s
}

func loaded(t testing.TB, s *Store) map[string][]byte {
	t.Helper()
	values, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func saved(t testing.TB, s *Store, batch ...Write) {
	t.Helper()
	if err := s.Save(batch); err != nil {
		t.Fatal(err)
	}
}

func closed(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	s := newPlace(t).open(t)
	if got := loaded(t, s); len(got) != 0 {
		t.Errorf("new: %v", got)
	}
	saved(t, s)
	value := []byte("1")
	saved(t, s, Write{"a", value}, Write{"b", []byte("2")}, Write{"c", []byte{}})
	value[0] = 'x'
	loaded(t, s)["a"][0] = 'y'
	saved(t, s, Write{"b", nil}, Write{"none", nil}, Write{"d", []byte("4")}, Write{"d", []byte("5")})
	want := map[string][]byte{"a": []byte("1"), "c": {}, "d": []byte("5")}
	if diff := cmp.Diff(want, loaded(t, s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	closed(t, s)
}

// A batch that fails leaves nothing.
func TestStoreAllOrNothing(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	saved(t, s, Write{"a", []byte("1")})
	err := s.Save([]Write{{"a", []byte("2")}, {"", []byte("keys are not empty")}})
	if err == nil || !strings.Contains(err.Error(), p.db) {
		t.Errorf("error does not name the file: %v", err)
	}
	want := map[string][]byte{"a": []byte("1")}
	for range 2 {
		if diff := cmp.Diff(want, loaded(t, s)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		closed(t, s)
		s = p.open(t)
	}
	if !s.proven || s.damage != "" || s.head.Seq != 1 {
		t.Errorf("proven %v, damage %q, head %+v", s.proven, s.damage, s.head)
	}
}

// Random batches against a map, with the process going away now and then: the
// file is always whole, for us and for bbolt.
func TestStoreRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	p := newPlace(t)
	s := p.open(t)
	twin := make(map[string][]byte)
	for round := range 150 {
		batch := make([]Write, 1+r.IntN(60))
		for i := range batch {
			w := Write{Key: fmt.Sprintf("l/10.32.%d.%d", r.IntN(8), r.IntN(256))}
			if r.IntN(3) > 0 {
				w.Value = make([]byte, r.IntN(200))
			}
			if r.IntN(200) == 0 {
				w.Value = make([]byte, r.IntN(30_000))
			}
			batch[i] = w
			if twin[w.Key] = w.Value; w.Value == nil {
				delete(twin, w.Key)
			}
		}
		saved(t, s, batch...)
		if round%10 != 0 {
			continue
		}
		if err := s.db.View(func(tx *bolt.Tx) error {
			var errs []error
			for err := range tx.Check() {
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		}); err != nil {
			t.Fatal(err)
		}
		closed(t, s)
		s = p.open(t)
		if !s.proven || s.damage != "" {
			t.Fatalf("round %d: proven %v, damage %q", round, s.proven, s.damage)
		}
		if got := loaded(t, s); !maps.EqualFunc(twin, got, bytes.Equal) {
			t.Fatalf("round %d: %d values, want %d", round, len(got), len(twin))
		}
	}
	closed(t, s)
}

func TestStoreProven(t *testing.T) {
	one, two := Write{"a", []byte("1")}, Write{"a", []byte("2")}
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, p storePlace)
		want bool
	}{
		{"never written", func(t *testing.T, p storePlace) { closed(t, p.open(t)) }, false},
		{"restarted", func(*testing.T, storePlace) {}, true},
		{"restarted twice", func(t *testing.T, p storePlace) { closed(t, p.open(t)) }, true},
		{"rebooted", func(t *testing.T, p storePlace) { remove(t, p.mark) }, false},
		{"old copy", func(t *testing.T, p storePlace) {
			old := contents(t, p.db)
			s := p.open(t)
			saved(t, s, two)
			closed(t, s)
			replace(t, p.db, old)
		}, false},
		{"old copy that was written again", func(t *testing.T, p storePlace) {
			old := contents(t, p.db)
			s := p.open(t)
			saved(t, s, one)
			saved(t, s, two)
			closed(t, s)
			replace(t, p.db, old)
			s = p.open(t)
			if s.proven {
				t.Error("the old copy is proven")
			}
			// Whoever is not sure writes that first, so this mark tells the truth.
			saved(t, s, two)
			closed(t, s)
		}, true},
		{"killed before the mark", func(t *testing.T, p storePlace) {
			old := contents(t, p.mark)
			s := p.open(t)
			saved(t, s, two)
			closed(t, s)
			replace(t, p.mark, old)
		}, true},
		{"another database", func(t *testing.T, p storePlace) {
			remove(t, p.db)
			closed(t, p.open(t))
		}, false},
		{"mark cut off", func(t *testing.T, p storePlace) { replace(t, p.mark, contents(t, p.mark)[:50]) }, false},
		{"mark with more", func(t *testing.T, p storePlace) { replace(t, p.mark, append(contents(t, p.mark), '\n')) }, false},
		{"mark of another boot", func(t *testing.T, p storePlace) {
			replace(t, p.mark, bytes.Replace(contents(t, p.mark), []byte(bootID()), []byte("00000000-0000-4000-8000-000000000000"), 1))
		}, false},
		{"mark of another format", func(t *testing.T, p storePlace) {
			replace(t, p.mark, bytes.Replace(contents(t, p.mark), []byte("addresses"), []byte("something"), 1))
		}, false},
		{"mark is a directory", func(t *testing.T, p storePlace) {
			remove(t, p.mark)
			if err := os.Mkdir(p.mark, dirMode); err != nil {
				t.Fatal(err)
			}
			s := p.open(t)
			saved(t, s, two) // which works all the same
			closed(t, s)
		}, false},
		{"no mark asked for", func(t *testing.T, p storePlace) {
			s, err := Open(p.db, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			if s.proven {
				t.Error("proven by nothing")
			}
			closed(t, s)
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t)
			if tt.name != "never written" {
				s := p.open(t)
				if s.proven {
					t.Error("a new database is proven")
				}
				saved(t, s, one)
				closed(t, s)
			}
			tt.do(t, p)
			s := p.open(t)
			if s.proven != tt.want || s.damage != "" {
				t.Errorf("proven %v, want %v; damage %q", s.proven, tt.want, s.damage)
			}
			closed(t, s)
		})
	}
}

func contents(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func replace(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, fileMode); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// Time is that of a bubble, so that nobody has to be quick.
func TestStoreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		s := p.open(t)
		saved(t, s, Write{"a", []byte("1")})
		begun := time.Now()
		_, err := Open(p.db, p.mark, nil)
		if !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), p.db) || !strings.Contains(err.Error(), "another weftd") {
			t.Errorf("held: %v", err)
		}
		if d := time.Since(begun); d < lockTimeout || d > lockTimeout+lockRetry {
			t.Errorf("gave up after %v", d)
		}
		// It did no harm, and the lock ends with the holder, also while one waits.
		saved(t, s, Write{"b", []byte("2")})
		done := make(chan error, 1)
		go func() {
			second, err := Open(p.db, p.mark, nil)
			if err == nil {
				err = second.Close()
			}
			done <- err
		}()
		synctest.Wait()
		if len(done) > 0 {
			t.Error("it does not wait")
		}
		closed(t, s)
		if err := <-done; err != nil {
			t.Error(err)
		}
		s = p.open(t)
		if got := loaded(t, s); len(got) != 2 || !s.proven {
			t.Errorf("%v, proven %v", got, s.proven)
		}
		closed(t, s)
	})
}

// BenchmarkSave is one address made durable, with so many others in the file.
func BenchmarkSave(b *testing.B) {
	for _, n := range []int{10, 1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newPlace(b).open(b)
			batch := make([]Write, n)
			for i := range batch {
				batch[i] = Write{fmt.Sprintf("l/10.%d.%d.%d", 32+i>>16, i>>8&0xff, i&0xff), make([]byte, 80)}
			}
			saved(b, s, batch...)
			for b.Loop() {
				saved(b, s, batch[0])
			}
		})
	}
}
