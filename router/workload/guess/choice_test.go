package guess

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// naiveChoose and naiveSpare say the rules once more: sort, take the first.
func naiveChoose(list []Candidate, newcomers int) string {
	list = slices.DeleteFunc(slices.Clone(list), func(c Candidate) bool { return !c.Known })
	slices.SortFunc(list, func(a, b Candidate) int {
		if n := b.Freed.Compare(a.Freed); n != 0 {
			return n
		}
		return a.Addr.Compare(b.Addr)
	})
	if newcomers > 0 || len(list) == 0 {
		return ""
	}
	return list[0].Key
}

func naiveSpare(list []Candidate, must bool) string {
	rank := func(c Candidate) int {
		if c.Known {
			return 1
		}
		return 0
	}
	list = slices.DeleteFunc(slices.Clone(list), func(c Candidate) bool { return c.Known && !must })
	slices.SortFunc(list, func(a, b Candidate) int {
		if n := rank(a) - rank(b); n != 0 {
			return n
		}
		if n := a.Freed.Compare(b.Freed); n != 0 {
			return n
		}
		return a.Addr.Compare(b.Addr)
	})
	if len(list) == 0 {
		return ""
	}
	return list[0].Key
}

func TestChoiceTwin(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var list []Candidate
		for i := range rapid.IntRange(0, 6).Draw(rt, "n") {
			list = append(list, Candidate{
				Key: fmt.Sprint(i), Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}),
				Freed: time.Unix(rapid.Int64Range(0, 3).Draw(rt, "freed"), 0), Known: rapid.Bool().Draw(rt, "known"),
			})
		}
		list = rapid.Permutation(list).Draw(rt, "order")
		newcomers := rapid.IntRange(0, 1).Draw(rt, "newcomers")
		if got, ok := Choose(list, newcomers); got.Key != naiveChoose(list, newcomers) || ok != (got.Key != "") {
			rt.Errorf("choose: %+v, want %q", got, naiveChoose(list, newcomers))
		}
		for _, must := range []bool{false, true} {
			if got, ok := Spare(list, must); got.Key != naiveSpare(list, must) || ok != (got.Key != "") {
				rt.Errorf("spare: %+v, want %q", got, naiveSpare(list, must))
			}
		}
	})
}
