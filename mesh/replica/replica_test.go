package replica

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/crypto"
)

const names uint8 = 1

type tester interface {
	Helper()
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

func newStore(self crypto.Identity) *Store {
	return New(Config{Self: self, Verify: func(crypto.Identity, uint64, []byte) error { return nil }})
}

// checkStore recomputes what the logs keep beside their entries.
func checkStore(t tester, s *Store) {
	t.Helper()
	owners := make(map[crypto.Identity]int)
	for id, l := range s.logs {
		owners[id.Owner]++
		var hash uint64
		alive, size, dead := 0, 0, 0
		for k, e := range l.entries {
			if e.version > l.version {
				t.Errorf("log %x/%d: key %q has version %d of %d", id.Owner[:2], id.Channel, k, e.version, l.version)
			}
			if e.deleted {
				dead++
				if e.version <= l.floor {
					t.Errorf("log %x/%d: tombstone %q at %d below floor %d", id.Owner[:2], id.Channel, k, e.version, l.floor)
				}
				continue
			}
			alive++
			size += len(k) + len(e.value)
			hash += changeHash(Change{Key: k, Value: e.value, Version: e.version})
		}
		if hash != l.hash || alive != l.alive || size != l.bytes {
			t.Errorf("log %x/%d: hash %x alive %d bytes %d, counted %x %d %d",
				id.Owner[:2], id.Channel, l.hash, l.alive, l.bytes, hash, alive, size)
		}
		if alive > MaxEntries || dead > MaxTombstones || size > MaxLog || l.floor > l.version {
			t.Errorf("log %x/%d: %d entries, %d tombstones, %d bytes, floor %d of %d",
				id.Owner[:2], id.Channel, alive, dead, size, l.floor, l.version)
		}
	}
	if diff := cmp.Diff(s.owners, owners); diff != "" {
		t.Errorf("owners (-kept +counted):\n%s", diff)
	}
}

// exchange brings to everything that from has, over the bytes of the wire, and
// returns how many bytes that took.
func exchange(t tester, from, to *Store) int {
	t.Helper()
	sent := 0
	send := func(m Message) Message {
		b := m.Marshal()
		sent += len(b)
		if m.Kind != KindDigest && len(b) > MaxMessage {
			t.Fatalf("message of %d bytes", len(b))
		}
		m, err := Parse(b)
		if err != nil {
			t.Fatalf("parse: %v", err)
		}
		return m
	}
	pulls := to.Compare(send(Message{Kind: KindDigest, Digest: from.Digest()}).Digest).Want
	for round := 0; len(pulls) > 0; round++ {
		if round > 3 {
			t.Fatalf("after %d rounds %+v is still asked for", round, pulls)
		}
		var next []Pull
		for _, req := range Requests(pulls) {
			for _, m := range from.Answer(send(req).Pulls) {
				for _, c := range send(m).Chunks {
					if r := to.Apply(c); r.Want != nil {
						next = append(next, *r.Want)
					}
				}
			}
		}
		pulls = next
	}
	return sent
}

func put(t tester, s *Store, key, value string) {
	t.Helper()
	if _, err := s.Put(names, key, []byte(value)); err != nil {
		t.Fatalf("put: %v", err)
	}
}

func text(s *Store, o crypto.Identity) string {
	out := ""
	for _, e := range s.Entries(ID{o, names}) {
		out += fmt.Sprintf("%s=%s@%d ", e.Key, e.Value, e.Version)
	}
	return out
}

func TestExchange(t *testing.T) {
	a, b := newStore(owner(1)), newStore(owner(2))
	steps := []struct {
		name string
		do   func()
		want string
	}{
		{"put", func() { put(t, a, "x", "1"); put(t, a, "y", "1") }, "x=1@1 y=1@2 "},
		{"same again", func() { put(t, a, "x", "1") }, "x=1@1 y=1@2 "},
		{"change", func() { put(t, a, "x", "2") }, "x=2@3 y=1@2 "},
		{"delete", func() { a.Delete(names, "y"); a.Delete(names, "z") }, "x=2@3 "},
		{"put again", func() { put(t, a, "y", "3") }, "x=2@3 y=3@5 "},
		{"many deletions raise the floor", func() {
			for i := range MaxTombstones + 10 {
				put(t, a, fmt.Sprint(i), "")
				a.Delete(names, fmt.Sprint(i))
			}
		}, "x=2@3 y=3@5 "},
		{"restart of the owner with nothing", func() { a = newStore(owner(1)); exchange(t, b, a) }, ""},
		{"and something new", func() { put(t, a, "q", "1") }, fmt.Sprintf("q=1@%d ", 5+2*(MaxTombstones+10)+2)},
	}
	for _, s := range steps {
		s.do()
		exchange(t, a, b)
		if got := text(b, owner(1)); got != s.want {
			t.Errorf("%s: got %q, want %q", s.name, got, s.want)
		}
		checkStore(t, a)
		checkStore(t, b)
	}
}

// A log that is older than the floor of the one who answers comes as a
// snapshot, and what was deleted meanwhile is gone.
func TestFloor(t *testing.T) {
	a, b := newStore(owner(1)), newStore(owner(2))
	put(t, a, "stays", "1")
	put(t, a, "goes", "1")
	exchange(t, a, b)
	a.Delete(names, "goes")
	for i := range MaxTombstones + 1 {
		put(t, a, fmt.Sprint(i), "")
		a.Delete(names, fmt.Sprint(i))
	}
	if floor := a.logs[ID{owner(1), names}].floor; floor <= 2 {
		t.Fatalf("floor is %d", floor)
	}
	exchange(t, a, b)
	if got, want := text(b, owner(1)), "stays=1@1 "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLarge(t *testing.T) {
	a, b, c := newStore(owner(1)), newStore(owner(2)), newStore(owner(3))
	value := make([]byte, 4000)
	for i := range 900 {
		if _, err := a.Put(names, fmt.Sprint(i), value); err != nil {
			t.Fatal(err)
		}
	}
	exchange(t, a, b)
	exchange(t, b, c)
	if got := text(c, owner(1)); got != text(a, owner(1)) {
		t.Errorf("the copy of a copy differs")
	}
	for i := range 300 { // more than one message again, as a delta this time
		if _, err := a.Put(names, fmt.Sprint(i), append(value, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if n := exchange(t, a, b); n > 300*4100+2000 {
		t.Errorf("300 changes took %d bytes", n)
	}
	if got := text(b, owner(1)); got != text(a, owner(1)) {
		t.Errorf("the delta of several parts was not taken")
	}
	if n := exchange(t, a, b); n > 200 {
		t.Errorf("without changes %d bytes were sent", n)
	}
}

func TestLimits(t *testing.T) {
	s := newStore(owner(1))
	for _, tt := range []struct {
		name, key string
		size      int
		want      error
	}{
		{"long key", string(make([]byte, MaxKey+1)), 0, ErrTooLarge},
		{"long value", "k", MaxValue + 1, ErrTooLarge},
		{"longest", string(make([]byte, MaxKey)), MaxValue, nil},
	} {
		if _, err := s.Put(names, tt.key, make([]byte, tt.size)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, err := s.Put(names, "", nil); err == nil {
		t.Error("an empty key is taken")
	}
	if _, err := s.Put(Adverts, "k", nil); err == nil {
		t.Error("an entry in the channel of adverts is taken")
	}
	if _, err := s.Put(MaxChannel+1, "k", nil); err == nil {
		t.Error("channel 16 is taken")
	}
	if m := s.Answer([]Pull{{ID: ID{owner(1), names}}}); len(m) != 1 || len(m[0].Marshal()) > MaxMessage {
		t.Errorf("the longest entry: %d messages", len(m))
	}

	full := newStore(owner(1))
	for i := range MaxEntries {
		put(t, full, fmt.Sprint(i), "")
	}
	if _, err := full.Put(names, "one more", nil); !errors.Is(err, ErrFull) {
		t.Errorf("one entry more: %v", err)
	}
	put(t, full, "0", "changed")
	other := newStore(owner(2))
	exchange(t, full, other)
	checkStore(t, other)

	crowd := newStore(owner(1))
	for i := range MaxOwners {
		if _, err := crowd.SetAdvert(crypto.Identity{byte(i), byte(i >> 8), 9}, 1, []byte("a")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := crowd.SetAdvert(owner(7), 1, []byte("a")); !errors.Is(err, ErrFull) {
		t.Errorf("one owner more: %v", err)
	}
	put(t, crowd, "own", "always fits")
	crowd.Drop(crypto.Identity{0, 0, 9})
	if _, err := crowd.SetAdvert(owner(1), 1, []byte("a")); err != nil {
		t.Errorf("own advert: %v", err)
	}
	checkStore(t, crowd)
}

func TestAdverts(t *testing.T) {
	refuse := errors.New("refused")
	calls := 0
	a := newStore(owner(1))
	b := New(Config{Self: owner(2), Verify: func(o crypto.Identity, v uint64, value []byte) error {
		calls++
		if string(value) == "bad" {
			return refuse
		}
		return nil
	}})
	set := func(s *Store, o crypto.Identity, seq uint64, v string) bool {
		t.Helper()
		ok, err := s.SetAdvert(o, seq, []byte(v))
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	// Any host brings the advert of any other.
	if !set(a, owner(3), 5, "five") || set(a, owner(3), 4, "four") || set(a, owner(3), 5, "five") {
		t.Error("only a newer advert is news")
	}
	exchange(t, a, b)
	if v, seq := b.Advert(owner(3)); string(v) != "five" || seq != 5 {
		t.Errorf("got %q %d", v, seq)
	}
	// Two with one sequence number: both hosts keep the same.
	set(a, owner(3), 6, "six")
	set(b, owner(3), 6, "sechs")
	exchange(t, a, b)
	exchange(t, b, a)
	va, _ := a.Advert(owner(3))
	vb, _ := b.Advert(owner(3))
	if string(va) != string(vb) {
		t.Errorf("%q here, %q there", va, vb)
	}
	// A refused one is asked for once.
	set(a, owner(4), 1, "bad")
	calls = 0
	exchange(t, a, b)
	exchange(t, a, b)
	if v, _ := b.Advert(owner(4)); v != nil || calls != 1 {
		t.Errorf("refused advert: kept %q, verified %d times", v, calls)
	}
	set(a, owner(4), 2, "good")
	exchange(t, a, b)
	if v, _ := b.Advert(owner(4)); string(v) != "good" {
		t.Errorf("after a refused advert a good one: %q", v)
	}
	// Our own ahead of us is reported and not taken.
	set(b, owner(2), 1, "me")
	set(a, owner(2), 9, "me, from before")
	pulls := b.Compare(a.Digest()).Want
	if len(pulls) != 1 {
		t.Fatalf("wants %+v", pulls)
	}
	r := b.Apply(a.Answer(pulls)[0].Chunks[0])
	if v, seq := b.Advert(owner(2)); !r.Ahead || r.Changed || string(v) != "me" || seq != 1 {
		t.Errorf("%+v, kept %q %d", r, v, seq)
	}
}

func TestRecent(t *testing.T) {
	a, b := newStore(owner(1)), newStore(owner(2))
	id := ID{owner(1), names}
	if _, ok := a.Recent(id, 1000); ok {
		t.Error("a log without changes has recent ones")
	}
	for i := range 50 {
		put(t, a, fmt.Sprint("key", i), "some value of some length")
		if i%5 == 4 {
			a.Delete(names, fmt.Sprint("key", i-1))
		}
		if i%7 != 0 { // every seventh is lost
			m, ok := a.Recent(id, 400)
			if n := len(m.Marshal()); !ok || n > 400 {
				t.Fatalf("%d bytes, %v", n, ok)
			}
			if r := b.Apply(m.Chunks[0]); !r.Changed {
				t.Fatalf("change %d: %+v", i, r)
			}
			if text(a, owner(1)) != text(b, owner(1)) {
				t.Fatalf("change %d: %s, want %s", i, text(b, owner(1)), text(a, owner(1)))
			}
		}
	}
	if r := newStore(owner(3)).Apply(must(a.Recent(id, 400)).Chunks[0]); r.Want == nil || r.Want.Since != 0 {
		t.Errorf("who is too far behind: %+v", r)
	}
	put(t, a, "big", string(make([]byte, 400)))
	if _, ok := a.Recent(id, 400); ok {
		t.Error("a change of 400 bytes fits into 400")
	}
}

func must(m Message, _ bool) Message { return m }

func TestParts(t *testing.T) {
	a := newStore(owner(1))
	for i := range 40 {
		put(t, a, fmt.Sprint(i), string(make([]byte, 5000)))
	}
	var chunks []Chunk
	for _, m := range a.Answer([]Pull{{ID: ID{owner(1), names}}}) {
		chunks = append(chunks, m.Chunks...)
	}
	if len(chunks) < 3 {
		t.Fatalf("%d parts", len(chunks))
	}
	b := newStore(owner(2))
	for i := range chunks { // backwards, each twice
		c := chunks[len(chunks)-1-i]
		r := b.Apply(c)
		again := b.Apply(c)
		last := i == len(chunks)-1
		if r.Changed != last || r.Waiting == last || again.Changed {
			t.Errorf("part %d: %+v, again %+v", i, r, again)
		}
	}
	if text(a, owner(1)) != text(b, owner(1)) || len(b.assemblies) != 0 {
		t.Errorf("the copy differs, or %d assemblies are left", len(b.assemblies))
	}
}
