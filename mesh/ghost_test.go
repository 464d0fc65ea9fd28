package mesh

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
	"github.com/weftnet/weft/mesh/replica"
)

// ghostFiles returns what a mesh would write of ghosts.
func ghostFiles(t *testing.T, m *Mesh) []fileGhost {
	t.Helper()
	b, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	return f.Gone
}

func TestGhosts(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	m := alone(t, func(c *Config) { c.StateDir, c.Targets = dir, []string{"host1", "host2"} })
	learn := func(m *Mesh, a advert.Signed, want bool) {
		t.Helper()
		if got, err := m.learn(now, a); err != nil || got != want {
			t.Errorf("advert %d of %s (gone %v): %v, %v", a.Seq, a.Nickname, a.Gone, got, err)
		}
	}
	at := func(i int, seq uint64, gone bool) advert.Signed {
		return signed(t, i, func(a *advert.Advert) { a.Seq, a.Gone = seq, gone })
	}
	known := func(m *Mesh, want ...int) {
		t.Helper()
		v := m.latestView()
		if len(v.Peers) != len(want) || m.Status().Known != len(want) || len(m.names) != len(want)+1 || len(m.keys) != len(want)+1 {
			t.Errorf("%d peers, %d names, %d keys, want %d", len(v.Peers), len(m.names), len(m.keys), len(want))
		}
		for _, i := range want {
			if m.peers[crypto.KeyFromSeed(testSeed(i)).Identity()] == nil {
				t.Errorf("host %d is not known", i)
			}
		}
	}
	for i := 1; i <= 3; i++ {
		learn(m, at(i, 5, false), true)
	}
	m.targets[0].peer, m.hints["host1:6783"] = at(1, 1, false).Identity, at(1, 1, false).Identity
	m.nameTargets()
	known(m, 1, 2, 3)
	if m.latestView().UnmetTargets != 1 || m.UnmetTargets() != 1 {
		t.Error("one of two targets is met")
	}

	learn(m, at(1, 6, true), true)
	m.expel(now, at(2, 0, false).Identity)
	m.expel(now, at(2, 0, false).Identity)
	known(m, 3)
	if len(m.hints) != 0 || m.latestView().UnmetTargets != 2 || m.UnmetTargets() != 2 || m.Status().Targets[0].Peer != (crypto.Identity{}) {
		t.Errorf("hints %v, target %+v", m.hints, m.Status().Targets[0])
	}
	// Others are told of last words, not of whom we expelled.
	if all := m.Adverts(); len(all) != 3 || !all[2].Gone || len(m.store.Digest()) != 3 {
		t.Errorf("%d adverts, %d logs", len(all), len(m.store.Digest()))
	}

	check := func(m *Mesh) {
		t.Helper()
		for i := 1; i <= 2; i++ {
			learn(m, at(i, 4, false), false)
			learn(m, at(i, 5, false), false)
			for _, a := range []advert.Signed{at(i, 5, false), at(i, 4, false)} {
				m.receive(now, relayed(t, m, a))
			}
		}
		learn(m, at(1, 6, false), false)
		known(m, 3)
	}
	check(m)
	if err := m.saveNow(); err != nil {
		t.Fatal(err)
	}
	m = alone(t, func(c *Config) { c.StateDir, c.Resume = dir, true })
	if got := ghostFiles(t, m); len(got) != 2 || got[0].Seq != 6 || got[1].Seq != 5 {
		t.Errorf("ghosts %+v", got)
	}
	check(m)

	// Newer ones count, from anybody; an introduction does for the expelled.
	m.receive(now, relayed(t, m, at(1, 7, false)))
	known(m, 1, 3)
	for i := 1; i <= 2; i++ {
		m.introduced(now, hello.Result{Peer: at(3, 5, false).Identity, Adverts: []advert.Signed{at(3, 5, false), at(2, 5, false)}})
		known(m, 1, 3)
	}
	m.introduced(now, hello.Result{Peer: at(2, 5, false).Identity, Adverts: []advert.Signed{at(2, 5, false)}})
	known(m, 1, 2, 3)
	// Last words through an introduction, and of one that was expelled.
	m.introduced(now, hello.Result{Peer: at(2, 6, true).Identity, Adverts: []advert.Signed{at(2, 6, true)}})
	m.introduced(now, hello.Result{Peer: at(2, 5, false).Identity, Adverts: []advert.Signed{at(2, 5, false)}})
	m.expel(now, at(1, 0, false).Identity)
	learn(m, at(1, 8, true), true)
	known(m, 3)
	if got := ghostFiles(t, m); len(got) != 2 || got[0].Advert == nil || got[1].Advert == nil {
		t.Errorf("ghosts %+v", got)
	}
	if err := m.Check(at(9, 1, true)); err == nil || !strings.Contains(err.Error(), "left the cluster for good") {
		t.Errorf("who is gone is let in: %v", err)
	}
	// In another cluster nothing of it counts.
	if err := m.saveNow(); err != nil {
		t.Fatal(err)
	}
	m = alone(t, func(c *Config) { c.StateDir, c.Keys = dir, crypto.Secret{1}.Keys("other") })
	learn(m, at(1, 1, false), true)
}

// relayed is an advert as it comes by broadcast.
func relayed(t *testing.T, m *Mesh, a advert.Signed) message {
	t.Helper()
	s := replica.New(replica.Config{Self: crypto.Identity{1}})
	if _, err := s.SetAdvert(a.Identity, a.Seq, a.Bytes()); err != nil {
		t.Fatal(err)
	}
	msg, ok := s.Recent(replica.ID{Owner: a.Identity, Channel: replica.Adverts}, maxCast)
	if !ok {
		t.Fatal("too large")
	}
	for id := range m.peers {
		msg.From = id
	}
	return msg.Marshal()
}

// Ghosts are bounded: those who were known push out the oldest, others find
// no room, so that two hosts do not tell each other for ever.
func TestManyGhosts(t *testing.T) {
	now := time.Now()
	m := alone(t, nil)
	numbered := func(i int, seq uint64, gone bool) advert.Signed {
		s, err := advert.Sign(crypto.KeyFromSeed([32]byte{byte(i), byte(i >> 8), 0x55}), advert.Advert{
			Seq: seq, HelloPort: 1, Datapath: advert.Kernel, Gone: gone,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for i := range maxGhosts {
		if _, err := m.learn(now, numbered(i, 1, true)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.learn(now, numbered(maxGhosts, 1, true)); err == nil {
		t.Error("there is no end of them")
	}
	if _, err := m.learn(now, numbered(0, 2, true)); err != nil { // the oldest becomes the newest
		t.Error(err)
	}
	for i := range 10 {
		if _, err := m.learn(now, numbered(1000+i, 1, false)); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			m.expel(now, numbered(1000+i, 1, false).Identity)
		} else if _, err := m.learn(now, numbered(1000+i, 2, true)); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.ghosts) != maxGhosts || len(ghostFiles(t, m)) != maxGhosts || len(m.peers) != 0 {
		t.Errorf("%d ghosts", len(m.ghosts))
	}
	if n := len(m.store.Digest()); n != 1+maxGhosts-5 {
		t.Errorf("%d logs", n)
	}
	for i, want := range map[int]bool{0: false, 1: true, 10: true, 11: false, 1001: false} {
		if got, _ := m.learn(now, numbered(i, 1, false)); got != want {
			t.Errorf("host %d: an old advert counts: %v", i, got)
		}
	}
}

// What runs for a peer while it is forgotten ends without harm.
func TestForgetWhileBusy(t *testing.T) {
	now := time.Now()
	m := alone(t, nil)
	a := signed(t, 1, nil)
	for range 2 {
		p := member(t, m, 1)
		m.step(now, tick{})
		m.hot, m.cold, m.introducing, m.sending = 1, 1, 1, 1
		p.join.joiningHot, p.join.joiningCold, p.join.introducing = true, true, true
		if err := m.Put("n/a", nil); err != nil {
			t.Fatal(err)
		}
		m.desk.reachable(a.Identity, a.Endpoints[0])
		m.desk.setMember(a.Identity, true)
		newer := signed(t, 1, func(x *advert.Advert) { x.Seq, x.Gone = m.peers[a.Identity].advert.Seq+1, true })
		if _, err := m.learn(now, newer); err != nil {
			t.Fatal(err)
		}
		for _, e := range []event{
			joined{p, true, nil},
			joined{p, false, nil},
			sent{p, nil},
			met{p, nil, errors.New("no")},
			m.desk.take(),
		} {
			m.step(now, e)
		}
		if m.hot+m.cold+m.introducing+m.sending+len(m.peers)+m.outBytes != 0 || m.counts.members.Load() != 0 {
			t.Errorf("left: %d %d %d %d, %d members", m.hot, m.cold, m.introducing, m.sending, m.counts.members.Load())
		}
		// It is back before memberlist has noticed: a member at once.
		back := signed(t, 1, func(x *advert.Advert) { x.Seq = newer.Seq + 1 })
		if _, err := m.learn(now, back); err != nil {
			t.Fatal(err)
		}
		if !m.peers[a.Identity].member || m.counts.members.Load() != 1 {
			t.Error("memberlist's member is none of ours")
		}
		m.desk.setMember(a.Identity, false)
		m.step(now, m.desk.take())
		m.expel(now, a.Identity)
		if len(m.desk.standing) != 0 || len(m.desk.reached) != 0 {
			t.Errorf("the desk remembers %v", m.desk.standing)
		}
		m.readmit(a.Identity)
	}
}
