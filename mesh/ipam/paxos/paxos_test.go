package paxos

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/ring"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/wire"
)

func ids(n ...byte) []crypto.Identity {
	list := make([]crypto.Identity, len(n))
	for i := range n {
		list[i][0] = n[i]
	}
	return list
}

func id(n byte) crypto.Identity { return ids(n)[0] }

func TestVoter(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	geo, _ := space.NewGeometry(netip.MustParsePrefix("10.0.0.0/28"))
	proposal := func(n byte) wire.Proposal { return wire.Proposal{Ring: ring.ID{n}, Runs: ring.Deal(geo, ids(n), 1)} }
	low, high := wire.Ballot{Round: 1, Proposer: id(1)}, wire.Ballot{Round: 1, Proposer: id(2)}
	abc, abcd, abe := ids(1, 2, 3), ids(1, 2, 3, 4), ids(1, 2, 5)
	known := ids(1, 2)
	var v Voter

	steps := []struct {
		name  string
		after time.Duration
		ask   wire.Body
		known []crypto.Identity
		want  string
	}{
		{"knows somebody else", 0, wire.Prepare{Ballot: low, Electorate: ids(1, 3)}, known, "nack of {0 0}"},
		{"first", 0, wire.Prepare{Ballot: low, Electorate: abc}, known, "promise"},
		{"the same again", 0, wire.Prepare{Ballot: low, Electorate: abc}, known, "promise"},
		{"higher", 0, wire.Prepare{Ballot: high, Electorate: abc}, known, "promise"},
		{"lower", 0, wire.Prepare{Ballot: low, Electorate: abc}, known, "nack of {1 2}"},
		{"accept of the lower", 0, wire.Accept{Ballot: low, Electorate: abc, Proposal: proposal(1)}, known, "nack of {1 2}"},
		{"another electorate", 9 * time.Second, wire.Prepare{Ballot: wire.Ballot{Round: 2, Proposer: id(1)}, Electorate: abe}, known, "nack of {1 2}"},
		{"a larger one", 0, wire.Prepare{Ballot: wire.Ballot{Round: 3, Proposer: id(1)}, Electorate: abcd}, known, "promise"},
		{"accept after it met somebody", 0, wire.Accept{Ballot: wire.Ballot{Round: 3, Proposer: id(1)}, Electorate: abcd, Proposal: proposal(1)}, ids(1, 2, 9), "nack of {3 1}"},
		{"accept", 0, wire.Accept{Ballot: wire.Ballot{Round: 3, Proposer: id(1)}, Electorate: abcd, Proposal: proposal(1)}, known, "accepted"},
		{"a higher one learns of it", 0, wire.Prepare{Ballot: wire.Ballot{Round: 4, Proposer: id(2)}, Electorate: abcd}, known, "promise with ring 1"},
		{"the electorate is bound", 9 * time.Second, wire.Prepare{Ballot: wire.Ballot{Round: 5, Proposer: id(1)}, Electorate: abe}, known, "nack of {4 2}"},
		{"but not for ever", time.Second, wire.Prepare{Ballot: wire.Ballot{Round: 5, Proposer: id(1)}, Electorate: abe}, known, "promise with ring 1"},
	}
	for _, s := range steps {
		now = now.Add(s.after)
		var answer wire.Body
		switch m := s.ask.(type) {
		case wire.Prepare:
			answer = v.Prepare(now, m, s.known)
		case wire.Accept:
			answer = v.Accept(now, m, s.known)
		}
		var got string
		switch m := answer.(type) {
		case wire.Promise:
			if got = "promise"; !m.Proposal.Ring.IsZero() {
				got = fmt.Sprintf("promise with ring %d", m.Proposal.Ring[0])
			}
		case wire.Accepted:
			got = "accepted"
		case wire.Nack:
			got = fmt.Sprintf("nack of {%d %d}", m.Seen.Round, m.Seen.Proposer[0])
		}
		if got != s.want {
			t.Fatalf("%s: %s, want %s", s.name, got, s.want)
		}
	}
}

// Proposers and voters that do what they like, in any order and with any
// loss, decide one ring, as long as all have one electorate.
func TestVotesAgree(t *testing.T) {
	geo, _ := space.NewGeometry(netip.MustParsePrefix("10.0.0.0/28"))
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		n := 1 + rnd.IntN(5)
		all := make([]crypto.Identity, n)
		for i := range all {
			all[i] = id(byte(i + 1))
		}
		voters := make([]Voter, n)
		proposers := make([]*Proposer, n)
		type letter struct {
			voter, proposer int
			body            wire.Body
		}
		var post []letter
		decided := make(map[ring.ID]bool)
		var round uint64
		used := make(map[wire.Ballot]bool)
		now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		for step := range 400 {
			now = now.Add(time.Duration(rnd.IntN(2000)) * time.Millisecond)
			if rnd.IntN(20) == 0 {
				i := rnd.IntN(n)
				if round += uint64(rnd.IntN(2)); round == 0 || used[wire.Ballot{Round: round, Proposer: all[i]}] {
					round++ // a ballot is never used twice
				}
				used[wire.Ballot{Round: round, Proposer: all[i]}] = true
				proposers[i] = NewProposer(now, wire.Ballot{Round: round, Proposer: all[i]}, all, n)
				for v := range n {
					post = append(post, letter{v, i, wire.Prepare{Ballot: proposers[i].Ballot, Electorate: all}})
				}
			}
			if len(post) == 0 {
				continue
			}
			k := rnd.IntN(len(post))
			l := post[k]
			if rnd.IntN(10) != 0 { // else it comes twice
				post = slices.Delete(post, k, k+1)
			}
			if rnd.IntN(5) == 0 {
				continue
			}
			v, p := &voters[l.voter], proposers[l.proposer]
			switch m := l.body.(type) {
			case wire.Prepare:
				post = append(post, letter{l.voter, l.proposer, v.Prepare(now, m, all)})
			case wire.Accept:
				post = append(post, letter{l.voter, l.proposer, v.Accept(now, m, all)})
			case wire.Promise:
				p.Promise(all[l.voter], m)
				if quorum, _ := p.Promised(func(crypto.Identity) bool { return true }); quorum && p.Proposal.Ring.IsZero() {
					ask := p.Choose(geo, ring.ID{byte(step), byte(step >> 8), byte(l.proposer), 1})
					for v := range n {
						post = append(post, letter{v, l.proposer, ask})
					}
				}
			case wire.Accepted:
				if p.Accepted(all[l.voter], m) {
					decided[p.Proposal.Ring] = true
				}
			}
		}
		if len(decided) > 1 {
			t.Fatalf("seed %d: %d rings were decided", seed, len(decided))
		}
	}
}
