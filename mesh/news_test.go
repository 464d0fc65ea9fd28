package mesh

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/advert"
	"github.com/weftnet/weft/mesh/hello"
)

func allKnow(nodes []*node, o *node) func() bool {
	return func() bool {
		for _, n := range nodes {
			if n != o && !n.knows(o) {
				return false
			}
		}
		return true
	}
}

// A host that is introduced to one member is known to all within 2 s, also when
// no packet of gossip arrives.
func TestIntroducedIsKnownAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 12)
		old, fresh := c.nodes[:11], c.nodes[11]
		for i, n := range old {
			if i == 0 {
				n.start()
			} else {
				n.start("192.0.2.1")
			}
		}
		c.until(time.Minute, "one cluster", func() bool { return whole(old) })
		c.net.Loss(1)
		fresh.start("192.0.2.1")
		c.until(time.Second, "introduced", func() bool { return old[0].knows(fresh) })
		t.Logf("known everywhere after %v", c.until(2*time.Second, "known", allKnow(c.nodes, fresh)))
		c.net.Loss(0)
	})
}

// A member that exchanged states before an introduction, and became a member
// after it, hears of it at once.
func TestIntroducedWhileJoining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		a, b := c.nodes[0], c.nodes[1]
		a.start()
		b.start("192.0.2.1")
		c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) })
		time.Sleep(time.Second)
		c.net.Loss(1)
		other := func(i int) advert.Signed { return signed(t, i, nil) }
		introduce := func(i int) {
			s := other(i)
			a.mesh.desk.introduce(hello.Result{
				Peer: s.Identity, Boot: s.Boot, Adverts: []advert.Signed{s}, Order: uint64(i),
				Remote: netip.AddrPortFrom(s.Endpoints[0].Addr(), 40000),
			})
		}
		knows := func(i int) func() bool {
			return func() bool {
				for _, p := range b.latest().Peers {
					if p.Identity == other(i).Identity {
						return true
					}
				}
				return false
			}
		}
		a.mesh.desk.setMember(b.id(), false)
		synctest.Wait()
		introduce(50)
		time.Sleep(300 * time.Millisecond)
		if knows(50)() {
			t.Fatal("told before it is a member")
		}
		a.mesh.desk.setMember(b.id(), true)
		t.Logf("known %v after it joined", c.until(time.Second, "known", knows(50)))
		c.net.Loss(0)
	})
}

// A member to whom a message was not sent is greeted again, ever more seldom and
// not for ever.
func TestGreetedAgain(t *testing.T) {
	m := alone(t, nil)
	now := time.Now()
	if _, err := m.learn(now, signed(t, 1, nil)); err != nil {
		t.Fatal(err)
	}
	p := m.peers[signed(t, 1, nil).Identity]
	p.member = true
	fail := func() {
		m.sending++
		m.sendEnded(now, sent{peer: p, err: errors.New("not sent")})
	}
	for i := range maxGreets {
		fail()
		if want := now.Add(greetAgain << i); !p.out.greetAt.Equal(want) {
			t.Fatalf("failure %d: again after %v", i, p.out.greetAt.Sub(now))
		}
		m.stepNews(now)
		if p.out.greetAt.IsZero() {
			t.Fatal("greeted too soon")
		}
		now = p.out.greetAt
		m.stepNews(now)
		if !p.out.greetAt.IsZero() {
			t.Fatal("not greeted")
		}
	}
	if fail(); !p.out.greetAt.IsZero() {
		t.Error("greeted for ever")
	}
	m.sending++
	m.sendEnded(now, sent{peer: p})
	if fail(); p.out.greetAt.IsZero() {
		t.Error("not after a success")
	}
}

// In a pulse everybody has a turn, and who answered last has one each time.
func TestPulseTurns(t *testing.T) {
	m := alone(t, nil)
	now := time.Now()
	const peers = 13
	for i := range peers {
		a := signed(t, 1+i, nil)
		if _, err := m.learn(now, a); err != nil {
			t.Fatal(err)
		}
		m.peers[a.Identity].member = true
		m.pulseTo = a.Identity
	}
	had := make(map[crypto.Identity]int)
	const rounds = 4 // of three others each
	for range rounds {
		now = now.Add(pulseEvery)
		list := m.pulseNext()
		if len(list) != pulseTo || list[0] != m.pulseTo {
			t.Errorf("turn of %d, first %s", len(list), list[0].Fingerprint())
		}
		for _, id := range list {
			had[id]++
			m.peers[id].pulsed = now
		}
	}
	if len(had) != peers || had[m.pulseTo] != rounds {
		t.Errorf("%d of %d had a turn, the one that answered %d times", len(had), peers, had[m.pulseTo])
	}
}
