package mesh

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/crypto"
)

// knows reports whether a host has another in its view and its file.
func (n *node) knows(o *node) bool {
	return slices.ContainsFunc(n.latest().Peers, func(p Peer) bool { return p.Identity == o.id() })
}

func nobodyKnows(nodes []*node, o *node) func() bool {
	return func() bool { return !slices.ContainsFunc(nodes, func(n *node) bool { return n.knows(o) }) }
}

func (n *node) file() (f file) {
	n.c.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.dir, FileName))
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		n.c.t.Fatal(err)
	}
	return f
}

func leave(t *testing.T, n *node) {
	t.Helper()
	start := time.Now()
	if err := n.mesh.LeaveForGood(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("leaving took %v", time.Since(start))
}

func TestLeaveForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		gone, rest, away := c.nodes[4], c.nodes[:4], c.nodes[3]
		c.nodes[0].start()
		c.nodes[1].start("192.0.2.1", "192.0.2.5")
		for _, n := range c.nodes[2:] {
			n.start("192.0.2.1", "192.0.2.99") // where nobody is
		}
		c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) })
		if err := gone.mesh.Put("n/a", nil); err != nil {
			t.Fatal(err)
		}
		c.until(time.Second, "entry", allSee(c.nodes, gone, "n/a= "))
		before := gone.file()
		c.net.Split(addrs(c.nodes[:3]), addrs(c.nodes[3:4]))
		c.net.Split(addrs(c.nodes[4:]), addrs(c.nodes[3:4]))
		time.Sleep(5 * time.Minute)

		leave(t, gone)
		t.Logf("forgotten %v later", c.until(100*time.Millisecond, "forgotten", nobodyKnows(rest[:3], gone)))
		if !away.knows(gone) {
			t.Fatal("who is away knows already")
		}
		// It runs on, and yet nobody takes it back, and it says no more.
		seq := gone.mesh.Status().Seq
		time.Sleep(15 * time.Second) // of a dial that was running
		gone.dials.Store(0)
		time.Sleep(5 * time.Minute)
		if !nobodyKnows(rest[:3], gone)() {
			t.Error("it is known again")
		}
		if s, d := gone.mesh.Status(), gone.dials.Load(); s.Seq != seq || d != 0 {
			t.Errorf("it signed %d adverts and dialled %d times", s.Seq-seq, d)
		}
		if got, want := c.nodes[1].state(1), "failed introduction refused: it has left the cluster for good, retry: later"; got != want {
			t.Errorf("target: %q, want %q", got, want)
		}
		gone.kill()
		c.net.HealAll()
		t.Logf("who was away has forgotten after %v", c.until(3*time.Minute, "away", nobodyKnows(rest, gone)))
		c.until(time.Minute, "one cluster of four", func() bool { return whole(rest) })

		// Nothing of it is left, nor calls it, after restarts either.
		time.Sleep(time.Minute)
		c.nodes[2].kill()
		time.Sleep(time.Minute)
		c.nodes[2].start()
		c.until(time.Minute, "after a restart", func() bool { return whole(rest) })
		for _, n := range rest {
			n.dials.Store(0)
		}
		time.Sleep(time.Hour)
		for i, n := range rest {
			if n.knows(gone) || n.mesh.Status().Known != 3 || n.mesh.Status().Members != 3 || n.mesh.Status().Gone != 1 {
				t.Errorf("host %d: %+v", i+1, n.mesh.Status())
			}
			f := n.file()
			if len(f.Peers) != 3 || len(f.Gone) != 1 || f.Gone[0].Peer != gone.id() ||
				slices.ContainsFunc(f.Targets, func(x fileTarget) bool { return x.Peer != nil && *x.Peer == gone.id() }) {
				t.Errorf("host %d: file %+v", i+1, f)
			}
			// Only targets are looked for: nobody's address, and its own.
			if d := n.dials.Load(); d > 0 != (i == 1 || i == 3) {
				t.Errorf("host %d made %d introductions", i+1, d)
			}
		}
		if got := c.nodes[1].mesh.UnmetTargets(); got != 1 {
			t.Errorf("%d targets are not met", got)
		}

		// A host that comes later knows nothing of it; started again, it is back.
		gone.start()
		if got := gone.mesh.Status().Seq; got <= before.Seq+1 {
			t.Errorf("sequence number %d after %d", got, before.Seq)
		}
		t.Logf("started again: back after %v", c.until(2*time.Minute, "back", func() bool { return whole(c.nodes) }))
		for i, n := range c.nodes {
			if s := n.mesh.Status(); s.Gone != 0 || len(s.Warnings) > 0 {
				t.Errorf("host %d: %+v", i+1, s)
			}
		}
		if err := gone.mesh.Put("n/b", nil); err != nil {
			t.Fatal(err)
		}
		c.until(5*time.Second, "entries", allSee(c.nodes, gone, "n/b= "))
	})
}

// Leaves, and is back before anybody's memberlist has noticed.
func TestLeaveAndReturnAtOnce(t *testing.T) {
	for _, pause := range []time.Duration{0, 30 * time.Millisecond, time.Second, 10 * time.Second} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := formed(t, 4)
				n := c.nodes[3]
				leave(t, n)
				n.kill()
				time.Sleep(pause)
				n.start("192.0.2.1")
				t.Logf("back after %v", c.until(2*time.Minute, "back", func() bool { return whole(c.nodes) }))
				time.Sleep(5 * time.Minute)
				for i, n := range c.nodes {
					if s := n.mesh.Status(); !whole(c.nodes) || s.Members != 3 || s.Known != 3 || s.Gone != 0 {
						t.Errorf("host %d: %+v", i+1, s)
					}
				}
			})
		})
	}
}

// A state directory from before the last words comes back: it hears of them
// and continues above.
func TestLeaveAndRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 3)
		n := c.nodes[2]
		path := filepath.Join(n.dir, FileName)
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 { // more adverts than a start makes good
			n.mu.Lock()
			n.eps = append(n.eps[:1:1], netip.AddrPortFrom(n.addr.Addr(), uint16(7000+i)))
			n.mu.Unlock()
			n.mesh.EndpointsChanged()
			time.Sleep(time.Second)
		}
		leave(t, n)
		n.kill()
		if err := os.WriteFile(path, old, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		n.start("192.0.2.1")
		t.Logf("back after %v", c.until(2*time.Minute, "back", func() bool { return whole(c.nodes) }))
	})
}

func TestLeaveWithLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 12)
		for i, loss := range []float64{0.5, 1} { // streams are not affected
			c.net.Loss(loss)
			leave(t, c.nodes[11-i])
			t.Logf("forgotten %v later", c.until(2*time.Second, "forgotten", nobodyKnows(c.nodes[:11-i], c.nodes[11-i])))
		}
	})
}

func TestLeaveAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		n := c.nodes[0]
		n.start()
		synctest.Wait()
		leave(t, n)
		leave(t, n)
		stopped, stop := context.WithCancel(t.Context())
		stop()
		_ = n.mesh.LeaveForGood(stopped)
		n.kill()
		if err := n.mesh.LeaveForGood(t.Context()); err == nil {
			t.Error("after the end it is no error")
		}
		if err := alone(t, nil).LeaveForGood(t.Context()); err == nil {
			t.Error("before Run it is no error")
		}
		if f := n.file(); f.Seq != 2 {
			t.Errorf("sequence number %d", f.Seq)
		}
	})
}

func TestExpel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 4)
		gone, rest := c.nodes[3], c.nodes[:3]
		expel := func(nodes ...*node) {
			for _, n := range nodes {
				n.mesh.Expel(gone.id())
			}
		}
		expel(rest...) // it is a member
		rest[0].mesh.Expel(rest[0].id())
		rest[0].mesh.Expel(crypto.Identity{7})
		time.Sleep(time.Second)
		if !whole(c.nodes) {
			t.Fatal("a live member was expelled")
		}
		gone.kill()
		c.until(time.Minute, "dead", func() bool { return whole(rest) })

		// Two forget it, the third does not: they do not learn it from there.
		expel(rest[:2]...)
		c.until(time.Second, "expelled", nobodyKnows(rest[:2], gone))
		time.Sleep(10 * time.Minute)
		rest[1].kill()
		rest[1].start("192.0.2.3") // nor by an introduction
		c.until(time.Minute, "after a restart", func() bool { return whole(rest) })
		time.Sleep(10 * time.Minute)
		if !nobodyKnows(rest[:2], gone)() || !rest[2].knows(gone) {
			t.Error("known where it was expelled, or expelled elsewhere")
		}
		expel(rest[2])
		c.until(time.Second, "expelled", nobodyKnows(rest, gone))
		time.Sleep(time.Minute)
		for _, n := range rest {
			n.dials.Store(0)
		}
		time.Sleep(time.Hour)
		for i, n := range rest {
			if d := n.dials.Load(); d != 0 || len(n.file().Peers) != 2 || len(n.file().Gone) != 1 {
				t.Errorf("host %d: %d introductions, file %+v", i+1, d, n.file())
			}
		}
		gone.start()
		t.Logf("started again: back after %v", c.until(2*time.Minute, "back", func() bool { return whole(c.nodes) }))
		for i, n := range rest {
			if s := n.mesh.Status(); s.Gone != 0 || s.Known != 3 {
				t.Errorf("host %d: %+v", i+1, s)
			}
		}
	})
}

// A host is expelled by one that was cut off from everybody, while all others
// have it: nobody introduces itself and no newer advert is signed.
func TestExpelledWhileAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		alone, x := c.nodes[0], c.nodes[3]
		x.discovery = false
		c.nodes[1].start()
		for _, n := range []*node{alone, c.nodes[2], x} {
			n.start("192.0.2.2")
		}
		c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) })
		c.net.Split(addrs(c.nodes[:1]), addrs(c.nodes[1:]))
		c.until(2*time.Minute, "dead", func() bool { return alone.mesh.Status().Members == 0 })
		alone.mesh.Expel(x.id())
		c.until(time.Second, "expelled", nobodyKnows(c.nodes[:1], x))
		c.net.HealAll()
		t.Logf("back after %v", c.until(10*time.Minute, "back", func() bool { return whole(c.nodes) }))
	})
}

// A host that was expelled while it was only cut off introduces itself to one
// host; the others, whom it does not dial, take it back too.
func TestExpelledComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		gone, rest := c.nodes[3], c.nodes[:3]
		gone.discovery = false
		for i, n := range c.nodes {
			if i > 0 {
				n.start("192.0.2.1")
			} else {
				n.start()
			}
		}
		c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) })
		c.net.Split(addrs(rest), addrs(c.nodes[3:]))
		c.until(time.Minute, "dead", func() bool { return whole(rest) })
		seq := gone.mesh.Status().Seq
		for _, n := range rest {
			n.mesh.Expel(gone.id())
		}
		time.Sleep(10 * time.Minute)
		if !nobodyKnows(rest, gone)() {
			t.Fatal("known again before it is back")
		}
		c.net.HealAll()
		t.Logf("back after %v", c.until(3*time.Minute, "back", func() bool { return whole(c.nodes) }))
		time.Sleep(10 * time.Minute)
		if got := gone.mesh.Status().Seq; got <= seq || got > seq+3 {
			t.Errorf("sequence number %d after %d", got, seq)
		}
	})
}
