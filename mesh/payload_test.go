package mesh

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/replica"
)

// mailbox is what a host got.
type mailbox struct {
	mu  sync.Mutex
	got []string // "host: payload", long ones by their length
}

func (n *node) box() *mailbox {
	b := &mailbox{}
	n.deliver = func(from crypto.Identity, payload []byte) {
		text := string(payload)
		if len(text) > 100 {
			text = fmt.Sprintf("%.1s %d", text, len(text))
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.got = append(b.got, fmt.Sprintf("%d: %s", n.c.find(from).i+1, text))
	}
	return b
}

func (b *mailbox) sorted() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(slices.Values(b.got))
}

func TestSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		var boxes []*mailbox
		for i, n := range c.nodes {
			boxes = append(boxes, n.box())
			if i > 0 {
				n.start("192.0.2.1")
			} else {
				n.start()
			}
		}
		c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) })
		a, b := c.nodes[0], c.nodes[1]
		small, large := []byte("Aone"), bytes.Repeat([]byte("A"), MaxPayload)
		a.mesh.Send(b.id(), small)
		copy(small, "Atwo") // it was copied
		a.mesh.Send(b.id(), small)
		a.mesh.Send(b.id(), large)
		a.mesh.Send(b.id(), append(large, 'A')) // too large
		a.mesh.Send(b.id(), nil)
		a.mesh.Send(crypto.Identity{1}, small) // unknown
		a.mesh.Send(crypto.Identity{}, small)
		a.mesh.Send(a.id(), small) // ourselves
		want := []string{"1: A 1048576", "1: Aone", "1: Atwo"}
		t.Logf("there after %v", c.until(time.Second, "payloads", func() bool { return slices.Equal(boxes[1].sorted(), want) }))
		time.Sleep(time.Minute)
		if got := boxes[1].sorted(); !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		if got := slices.Concat(boxes[0].sorted(), boxes[2].sorted()); len(got) != 0 {
			t.Errorf("others got %q", got)
		}
		out, in := a.mesh.Status().Payloads, b.mesh.Status().Payloads
		if want := (Payloads{Sent: 3, SentBytes: 8 + MaxPayload, Dropped: 5}); out != want {
			t.Errorf("sender counts %+v", out)
		}
		if want := (Payloads{Received: 3, ReceivedBytes: 8 + MaxPayload}); in != want {
			t.Errorf("receiver counts %+v", in)
		}

		// Nobody waits for a member that does not answer, and what was for it
		// is lost once it is none.
		b.kill()
		for range 100 {
			a.mesh.Send(b.id(), small)
		}
		a.mesh.Send(c.nodes[2].id(), []byte("Athree"))
		c.until(time.Second, "another member", func() bool { return slices.Equal(boxes[2].sorted(), []string{"1: Athree"}) })
		c.until(time.Minute, "lost", func() bool { return whole(slices.Concat(c.nodes[:1], c.nodes[2:])) })
		a.mesh.Send(b.id(), small)
		c.until(time.Minute, "all dropped", func() bool { return a.mesh.Status().Payloads.Dropped == 5+101 })
		b.start()
		c.until(time.Minute, "back", func() bool { return whole(c.nodes) })
		a.mesh.Send(b.id(), []byte("Afour"))
		c.until(time.Second, "after its return", func() bool {
			return slices.Equal(boxes[1].sorted(), append(slices.Clone(want), "1: Afour")) ||
				slices.Contains(boxes[1].sorted(), "1: Afour")
		})
	})
}

// A payload is news for everybody once, who then casts it again.
func TestBroadcast(t *testing.T) {
	for _, tt := range []struct {
		hosts int
		loss  float64
	}{{3, 0}, {20, 0}, {20, 0.2}} {
		t.Run(fmt.Sprintf("%d,loss=%v", tt.hosts, tt.loss), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, tt.hosts)
				var mu sync.Mutex
				seen := make(map[string]map[int]bool)
				for i, n := range c.nodes {
					n.deliver = func(_ crypto.Identity, payload []byte) {
						mu.Lock()
						defer mu.Unlock()
						key := string(payload)
						if seen[key] == nil {
							seen[key] = make(map[int]bool)
						}
						if !seen[key][n.i] {
							seen[key][n.i] = true
							n.current().Broadcast(payload)
						}
					}
					if i > 0 {
						n.start("192.0.2.1")
					} else {
						n.start()
					}
				}
				c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) })
				time.Sleep(time.Minute)
				c.net.Loss(tt.loss)
				var worst time.Duration
				before, _ := c.net.Traffic()
				const rounds = 10
				for round := range rounds {
					payload := bytes.Repeat([]byte{byte('A' + round)}, MaxBroadcast)
					c.nodes[round%tt.hosts].mesh.Broadcast(payload)
					worst = max(worst, c.until(10*time.Second, "broadcast", func() bool {
						mu.Lock()
						defer mu.Unlock()
						got := seen[string(payload)]
						return len(got) == tt.hosts || len(got) == tt.hosts-1 && !got[round%tt.hosts]
					}))
					time.Sleep(2 * time.Second)
				}
				after, _ := c.net.Traffic()
				t.Logf("everywhere after %v at worst; %d packets per host and broadcast, gossip and probes included; largest %d",
					worst, (after-before)/rounds/tt.hosts, c.net.Largest())
				if n := c.net.Largest(); n > 1150 {
					t.Errorf("a packet of %d bytes", n)
				}
				c.net.Loss(0)
				c.until(time.Minute, "queues are empty", func() bool {
					return !slices.ContainsFunc(c.nodes, func(n *node) bool { return n.mesh.payloads.NumQueued() != 0 })
				})
				// A storm is bounded, and yet everybody near gets all of it.
				for i := range 3 * maxQueued {
					c.nodes[0].mesh.Broadcast(fmt.Appendf(nil, "storm %d", i))
				}
				synctest.Wait()
				if n := c.nodes[0].mesh.payloads.NumQueued(); n > maxQueued {
					t.Errorf("%d are queued", n)
				}
				c.until(10*time.Second, "storm", func() bool {
					mu.Lock()
					defer mu.Unlock()
					return len(seen) == rounds+3*maxQueued && len(seen["storm 191"]) >= tt.hosts-1
				})
				c.nodes[0].mesh.Broadcast(make([]byte, MaxBroadcast+1))
				c.nodes[0].mesh.Broadcast(nil)
				if p := c.nodes[0].mesh.Status().Payloads; p.Dropped != 2 || p.Cast == 0 {
					t.Errorf("%+v", p)
				}
			})
		})
	}
}

// member makes a peer a member of a mesh that does not run, with an outbox
// that nobody empties.
func member(t *testing.T, m *Mesh, i int) *peer {
	t.Helper()
	a := signed(t, i, nil)
	if _, err := m.learn(time.Now(), a); err != nil {
		t.Fatal(err)
	}
	p := m.peers[a.Identity]
	p.member, p.out.sending = true, true
	m.counts.members.Add(1)
	return p
}

// What waits is bounded everywhere, and counted exactly.
func TestPayloadBounds(t *testing.T) {
	m := alone(t, nil)
	large := make([]byte, MaxPayload)
	for range 40 {
		m.Send(crypto.Identity{1}, large)
	}
	if n := len(m.desk.posts); n != 15 || m.desk.postBytes > maxPostBytes {
		t.Errorf("%d payloads with %d bytes wait for the loop", n, m.desk.postBytes)
	}
	m.step(time.Now(), m.desk.take())
	for range maxPosts + 5 {
		m.Broadcast([]byte("A"))
	}
	if n := len(m.desk.posts); n != maxPosts {
		t.Errorf("%d small payloads wait", n)
	}
	m.step(time.Now(), m.desk.take()) // nobody is here: gone
	if got := m.Status().Payloads; got.Dropped != 45 || got.Cast != 0 {
		t.Errorf("%+v", got)
	}

	m.ml = new(memberlist.Memberlist) // never asked: nobody's outbox is emptied
	defer func() { m.ml = nil }()
	var peers []*peer
	for i := range 20 {
		peers = append(peers, member(t, m, i+1))
	}
	dropped := func() int { return int(m.counts.payloadsDropped.Swap(0)) }
	dropped()
	for _, p := range peers {
		for range 5 {
			m.sendPayload(post{p.advert.Identity, seal(m.self, large)})
		}
	}
	if n := dropped(); n != 100-63 || m.outBytes != 63*(MaxPayload+payloadHead) {
		t.Errorf("%d of 100 dropped, %d bytes wait", n, m.outBytes)
	}
	first := peers[0]
	m.clearOutbox(first)
	for range maxOutbox + 3 {
		m.sendPayload(post{first.advert.Identity, seal(m.self, []byte("A"))})
	}
	if n := dropped(); n != 4+3 {
		t.Errorf("%d dropped", n)
	}
	// What is being sent counts until it has ended.
	p := peers[1]
	p.out.sent, p.out.bytes, p.out.queue = p.out.bytes, 0, nil
	m.sendPayload(post{p.advert.Identity, seal(m.self, large)})
	if n := dropped(); n != 1 {
		t.Error("more than the limit")
	}
	for _, p := range peers {
		p.member = false
		m.forget(p)
		m.sending++
		m.sendEnded(time.Now(), sent{peer: p})
	}
	if m.outBytes != 0 || len(m.peers) != 0 {
		t.Errorf("%d bytes of nobody", m.outBytes)
	}
}

func TestDeliver(t *testing.T) {
	var got []string
	var kept []byte
	m := alone(t, func(c *Config) {
		c.Deliver = func(from crypto.Identity, payload []byte) {
			got, kept = append(got, fmt.Sprintf("%s %s", from.Fingerprint(), payload)), payload
		}
	})
	p := signed(t, 1, nil)
	d := &delegate{m}
	id := p.Identity
	d.NotifyMsg(seal(id, []byte("A: not known yet")))
	if _, err := m.learn(time.Now(), p); err != nil {
		t.Fatal(err)
	}
	b := seal(id, []byte("A: known"))
	d.NotifyMsg(b)
	clear(b)
	d.NotifyMsg(seal(m.self, []byte("A: we never said that")))
	d.NotifyMsg(seal(crypto.Identity{}, []byte("A: nobody")))
	d.NotifyMsg(seal(id, nil))
	d.NotifyMsg(seal(id, nil)[:7])
	d.NotifyMsg(seal(id, make([]byte, MaxPayload+1)))
	d.NotifyMsg(nil)
	m.expel(time.Now(), id)
	d.NotifyMsg(seal(id, []byte("A: expelled")))
	if want := []string{id.Fingerprint() + " A: known"}; !slices.Equal(got, want) || string(kept) != "A: known" {
		t.Errorf("got %q, kept %q", got, kept)
	}
	if s := m.Status(); s.Payloads.Received != 1 || s.Payloads.Dropped != 7 || len(m.messages) != 1 {
		t.Errorf("%+v, %d queued", s.Payloads, len(m.messages))
	}
	silent := &delegate{alone(t, nil)}
	silent.NotifyMsg(b)
}

// No replica message looks like an envelope, and the other way round.
func TestPayloadKind(t *testing.T) {
	for k := range 256 {
		m := replica.Message{Kind: replica.Kind(k), Relay: k&1 > 0, Answer: k&2 > 0}
		if _, err := replica.Parse(append([]byte{payloadKind}, m.Marshal()[1:]...)); err == nil {
			t.Fatal("an envelope is a replica message")
		}
	}
}

func FuzzUnseal(f *testing.F) {
	f.Add(seal(crypto.Identity{1}, []byte("Ahello")))
	f.Add(seal(crypto.Identity{}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		from, payload, ok := unseal(b)
		if ok && !bytes.Equal(seal(from, payload), b) {
			t.Errorf("%x is read as %x of %s", b, payload, from)
		}
		if _, err := replica.Parse(b); ok && err == nil {
			t.Errorf("%x is both", b)
		}
	})
}

// Payloads and replica messages share one outbox: neither is lost when both
// are sent by many at once.
func TestSendCrossfire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each = 50
		c := newCluster(t, 4)
		var boxes []*mailbox
		for i, n := range c.nodes {
			boxes = append(boxes, n.box())
			if i > 0 {
				n.start("192.0.2.1")
			} else {
				n.start()
			}
		}
		c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) })
		for k := range each {
			for _, a := range c.nodes {
				for _, b := range c.nodes {
					if a != b {
						a.mesh.Send(b.id(), fmt.Appendf(nil, "A%02d", k))
					}
				}
				if err := a.mesh.Put("n/k", fmt.Append(nil, k)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(rand.N(20 * time.Millisecond))
		}
		c.until(20*time.Second, "all payloads", func() bool {
			return !slices.ContainsFunc(boxes, func(b *mailbox) bool { return len(b.sorted()) != 3*each })
		})
		for _, o := range c.nodes {
			c.until(5*time.Second, "entries", allSee(c.nodes, o, fmt.Sprintf("n/k=%d ", each-1)))
		}
		for i, b := range boxes {
			if all := b.sorted(); len(slices.Compact(all)) != 3*each {
				t.Errorf("host %d got some twice", i+1)
			}
		}
	})
}
