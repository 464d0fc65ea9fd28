package replica

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestShut(t *testing.T) {
	const ch = 1
	third := newStore(owner(3))
	put(t, third, "k", "v")
	set := func(s *Store, seq uint64, want bool) {
		t.Helper()
		if got, err := s.SetAdvert(owner(3), seq, fmt.Appendf(nil, "advert %d", seq)); err != nil || got != want {
			t.Fatalf("advert %d: %v, %v", seq, got, err)
		}
	}
	has := func(what string, s *Store, seq uint64, entries int) {
		t.Helper()
		checkStore(t, s)
		if _, got := s.Advert(owner(3)); got != seq || len(s.Entries(ID{owner(3), ch})) != entries {
			t.Errorf("%s: advert %d and %d entries, want %d and %d", what, got, len(s.Entries(ID{owner(3), ch})), seq, entries)
		}
	}
	for _, keep := range []bool{false, true} {
		a, b, late := newStore(owner(1)), newStore(owner(2)), newStore(owner(4))
		set(a, 5, true)
		exchange(t, third, a)
		exchange(t, a, b)
		set(late, 4, true)
		a.Shut(owner(3), 5, keep)
		kept := uint64(0)
		if keep {
			kept = 5
		}
		has("shut", a, kept, 0)
		if d := a.Compare(b.Digest()); len(d.Want) != 0 {
			t.Errorf("wants %v", d.Want)
		}
		for _, id := range []ID{{owner(3), Adverts}, {owner(3), ch}} {
			m, _ := b.Recent(id, 1000)
			if r := a.Apply(m.Chunks[0]); r != (Result{}) {
				t.Errorf("%v applied: %+v", id, r)
			}
		}
		set(a, 5, false)
		exchange(t, b, a)
		exchange(t, third, a)
		has("after exchanges", a, kept, 0)
		exchange(t, a, late)
		has("who was away", late, max(kept, 4), 0)

		// A newer advert opens it, and entries come again.
		set(b, 6, true)
		exchange(t, b, a)
		has("newer advert", a, 6, 0)
		exchange(t, b, a)
		has("and entries", a, 6, 1)

		a.Shut(owner(3), 6, keep)
		a.Open(owner(3))
		exchange(t, b, a)
		has("opened", a, 6, 1)
		a.Shut(owner(3), 9, keep)
		a.Drop(owner(3))
		exchange(t, b, a)
		has("dropped", a, 6, 1)
	}
	own := newStore(owner(3))
	put(t, own, "k", "v")
	own.Shut(owner(3), 100, false)
	put(t, own, "l", "v")
	set(own, 1, true)
	if len(own.Entries(ID{owner(3), ch})) != 2 {
		t.Error("a host shuts itself")
	}
}

// Whatever arrives in whatever order, nothing of a shut owner is there but the
// advert that was kept.
func TestShutHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		owners := []*Store{newStore(owner(1)), newStore(owner(2)), newStore(owner(3))}
		shut := make([]map[byte]uint64, len(owners)) // by host and owner
		for i := range shut {
			shut[i] = make(map[byte]uint64)
		}
		seq := make([]uint64, len(owners))
		for step := range rapid.IntRange(0, 60).Draw(t, "steps") {
			i := rapid.IntRange(0, len(owners)-1).Draw(t, "host")
			o := rapid.IntRange(0, len(owners)-1).Draw(t, "other")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				put(t, owners[i], fmt.Sprint(step%3), fmt.Sprint(step))
			case 1:
				seq[i]++
				if _, err := owners[i].SetAdvert(owner(byte(i+1)), seq[i], fmt.Append(nil, seq[i])); err != nil {
					t.Fatal(err)
				}
			case 2:
				if i != o {
					_, v := owners[i].Advert(owner(byte(o + 1)))
					v += rapid.Uint64Range(0, 2).Draw(t, "above")
					owners[i].Shut(owner(byte(o+1)), v, rapid.Bool().Draw(t, "keep"))
					shut[i][byte(o+1)] = v
				}
			case 3:
				exchange(t, owners[i], owners[o])
			}
			for h, s := range owners {
				checkStore(t, s)
				for o, v := range shut[h] {
					_, have := s.Advert(owner(o))
					if have > v {
						delete(shut[h], o) // it came back
					} else if n := len(s.Entries(ID{owner(o), 1})); n != 0 {
						t.Fatalf("host %d has %d entries of %d, which is shut at %d", h, n, o, v)
					}
				}
			}
		}
	})
}
