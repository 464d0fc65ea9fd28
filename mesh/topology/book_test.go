package topology

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/crypto"
)

func keyOf(i int) *crypto.Key { return crypto.KeyFromSeed([32]byte{byte(i), 9}) }

func signedReport(t interface{ Fatal(args ...any) }, k *crypto.Key, boot, seq uint64) []byte {
	b, err := Sign(k, Report{Boot: boot, Seq: seq})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBook(t *testing.T) {
	k, other := keyOf(1), keyOf(2)
	owner := k.Identity()
	sign := func(boot, seq uint64) []byte { return signedReport(t, k, boot, seq) }
	broken := sign(1, 9)
	broken[0] = 9
	type take struct {
		boot    uint64
		value   []byte
		changed bool
		err     string
		seq     uint64 // that counts then; 0: none
	}
	for _, tt := range []struct {
		name  string
		takes []take
	}{
		{"newer, same, withdrawn, back", []take{
			{1, nil, false, "", 0},
			{1, sign(1, 1), true, "", 1},
			{1, sign(1, 1), false, "", 1},
			{1, sign(1, 3), true, "", 3},
			{1, nil, true, "", 0},
			{1, nil, false, "", 0},
			{1, sign(1, 2), true, "number 2 came after 3", 3}, // there is one: what it said last counts
			{1, sign(1, 3), false, "", 3},
		}},
		{"an old one again", []take{
			{1, sign(1, 5), true, "", 5},
			{1, sign(1, 4), false, "number 4 came after 5", 5},
			{1, sign(1, 4), false, "", 5}, // told once
			{1, sign(1, 6), true, "", 6},
		}},
		{"forged", []take{
			{1, sign(1, 5), true, "", 5},
			{1, broken, false, "format 9", 5},
			{1, signedReport(t, other, 1, 9), false, "it is that of", 5},
			{1, []byte{}, false, "cut off", 5},
			{1, sign(1, 6), true, "", 6},
		}},
		{"forged first", []take{
			{1, broken, false, "format 9", 0},
			{1, sign(1, 1), true, "", 1},
		}},
		{"restarted: the advert first", []take{
			{1, sign(1, 5), true, "", 5},
			{2, sign(1, 5), true, "", 0},
			{2, sign(2, 1), true, "", 1},
			{2, sign(1, 6), false, "", 1}, // of the former run
		}},
		{"restarted: the report first", []take{
			{1, sign(1, 5), true, "", 5},
			{1, sign(2, 1), false, "", 5},
			{2, sign(2, 1), true, "", 1},
		}},
		{"restarted, same number", []take{
			{1, sign(1, 1), true, "", 1},
			{2, sign(2, 1), true, "", 1},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b Book
			for i, x := range tt.takes {
				changed, err := b.Take(owner, x.boot, x.value)
				if changed != x.changed || (err == nil) != (x.err == "") || err != nil && !strings.Contains(err.Error(), x.err) {
					t.Errorf("take %d: changed %v, %v, want %v, %q", i, changed, err, x.changed, x.err)
				}
				got := b.Reports()
				if x.seq == 0 && len(got) == 0 {
					continue
				}
				if len(got) != 1 || got[0].Seq != x.seq || got[0].Owner != owner || got[0].Boot != x.boot {
					t.Errorf("take %d: %+v, want number %d", i, got, x.seq)
				}
			}
		})
	}
}

func TestBookKeeps(t *testing.T) {
	var b Book
	for i := range 3 {
		k := keyOf(i)
		if _, err := b.Take(k.Identity(), 1, signedReport(t, k, 1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Take(keyOf(3).Identity(), 1, nil); err != nil {
		t.Fatal(err)
	}
	gone, empty := keyOf(1).Identity(), keyOf(3).Identity()
	for i, tt := range []struct {
		gone    crypto.Identity
		changed bool
		left    int
	}{{crypto.Identity{}, false, 3}, {gone, true, 2}, {gone, false, 2}, {empty, false, 2}} {
		changed := b.Keep(func(id crypto.Identity) bool { return id != tt.gone })
		if n := len(b.Reports()); changed != tt.changed || n != tt.left {
			t.Errorf("%d: changed %v, %d are left", i, changed, n)
		}
	}
	if len(b.pages) != 2 {
		t.Errorf("%d pages for two peers", len(b.pages))
	}
}

// Whatever is brought, in any order, by honest and lying hosts: the book says
// what the owner signed with the greatest number in this run, and says that it
// changed exactly when it did.
func TestBookProperties(t *testing.T) {
	k := keyOf(1)
	owner := k.Identity()
	rapid.Check(t, func(t *rapid.T) {
		var b Book
		greatest := map[uint64]uint64{} // by boot; what was read while that was the boot
		have := func() [3]uint64 {
			if r := b.Reports(); len(r) > 0 {
				return [3]uint64{1, r[0].Boot, r[0].Seq}
			}
			return [3]uint64{}
		}
		advert := uint64(1)
		for range rapid.IntRange(1, 30).Draw(t, "takes") {
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				advert++ // a daemon never takes a former boot again
			}
			boot := uint64(rapid.IntRange(1, int(advert)+1).Draw(t, "boot"))
			seq := uint64(rapid.IntRange(1, 9).Draw(t, "seq"))
			value := signedReport(t, k, boot, seq)
			bad := rapid.IntRange(0, 4).Draw(t, "bad") == 0
			if bad {
				value = bytes.Clone(value)
				value[40] ^= 1
			}
			before := have()
			changed, _ := b.Take(owner, advert, value)
			if changed != (before != have()) {
				t.Fatalf("changed %v, from %v to %v", changed, before, have())
			}
			if !bad && boot == advert {
				greatest[boot] = max(greatest[boot], seq)
			}
			want := [3]uint64{1, advert, greatest[advert]}
			if greatest[advert] == 0 {
				want = [3]uint64{}
			}
			if got := have(); got != want {
				t.Fatalf("%v, want %v", got, want)
			}
		}
	})
}
