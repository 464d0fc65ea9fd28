package mesh

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// formed starts n hosts, each naming the first, and waits until they are one
// cluster.
func formed(t *testing.T, n int) *cluster {
	t.Helper()
	c := newCluster(t, n)
	for i, x := range c.nodes {
		if i == 0 {
			x.start()
		} else {
			x.start(c.nodes[0].addr.String())
		}
	}
	t.Logf("%d hosts are one cluster after %v", n, c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) }))
	return c
}

func TestThreeHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 3)
		for _, n := range c.nodes {
			if err := n.mesh.Put("n/a", []byte(n.key.Identity().Fingerprint())); err != nil {
				t.Fatal(err)
			}
		}
		for _, o := range c.nodes {
			d := c.until(time.Second, "entry is everywhere", allSee(c.nodes, o, "n/a="+o.id().Fingerprint()+" "))
			t.Logf("entry of host %d is everywhere after %v", o.i+1, d)
		}
		if err := c.nodes[1].mesh.Delete("n/a"); err != nil {
			t.Fatal(err)
		}
		t.Logf("deletion is everywhere after %v",
			c.until(time.Second, "deletion is everywhere", allSee(c.nodes, c.nodes[1], "")))
		for _, s := range c.nodes[2].mesh.Status().Targets {
			if s.State != Established || s.Peer != c.nodes[0].id() {
				t.Errorf("target %+v", s)
			}
		}
	})
}

// Twelve hosts in random order, each naming one that was made before it.
func TestAnyOrder(t *testing.T) {
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 12)
			order := rand.Perm(len(c.nodes))
			for k, i := range order {
				if k == 0 {
					c.nodes[i].start(c.nodes[order[5]].addr.String()) // not there yet
				} else {
					c.nodes[i].start(c.nodes[order[rand.IntN(k)]].addr.String())
				}
				time.Sleep(rand.N(2 * time.Second))
			}
			t.Logf("12 hosts are one cluster %v after the last start",
				c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) }))
		})
	}
}

func TestPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 6)
		a, b := c.nodes[:3], c.nodes[3:]
		for _, n := range c.nodes {
			if err := n.mesh.Put("n/before", nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		c.net.Split(addrs(a), addrs(b))
		d := c.until(2*time.Minute, "each side sees itself", func() bool { return whole(a) && whole(b) })
		t.Logf("the other side is declared dead after %v", d)
		if got := a[0].entries(b[0]); got != "" {
			t.Errorf("entries of a dead host are in view: %q", got)
		}
		time.Sleep(10*time.Minute - d)
		if err := b[0].mesh.Put("n/meanwhile", nil); err != nil {
			t.Fatal(err)
		}
		if err := b[1].mesh.Delete("n/before"); err != nil {
			t.Fatal(err)
		}
		c.net.HealAll()
		t.Logf("healed %v after the partition ended",
			c.until(2*time.Minute, "healed", func() bool { return whole(c.nodes) }))
		t.Logf("and entries %v after that", c.until(5*time.Second, "entries", func() bool {
			return allSee(c.nodes, b[0], "n/before= n/meanwhile= ")() && allSee(c.nodes, b[1], "")() &&
				allSee(c.nodes, a[0], "n/before= ")()
		}))
	})
}

// Ten seconds without any packet, between all or to and from one, at any phase
// of the probes.
func TestOutage(t *testing.T) {
	for _, tt := range []struct {
		hosts int
		all   bool
	}{{2, true}, {3, true}, {5, true}, {8, true}, {3, false}, {5, false}, {12, false}} {
		t.Run(fmt.Sprintf("%d,all=%v", tt.hosts, tt.all), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := formed(t, tt.hosts)
				time.Sleep(rand.N(time.Minute))
				c.net.Split(addrs(c.nodes[:1]), addrs(c.nodes[1:]))
				if tt.all {
					for i := range c.nodes {
						c.net.Split(addrs(c.nodes[:i]), addrs(c.nodes[i:]))
					}
				}
				for i := range 700 {
					if i == 100 {
						c.net.HealAll()
					}
					if !whole(c.nodes) {
						t.Fatalf("somebody died %v after the outage began", time.Duration(i)*100*time.Millisecond)
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		})
	}
}

func TestVanishAndReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 4)
		gone, rest := c.nodes[3], c.nodes[:3]
		put := func() {
			t.Helper()
			if err := gone.mesh.Put("n/a", []byte("1")); err != nil {
				t.Fatal(err)
			}
		}
		put()
		c.until(time.Second, "entry", allSee(c.nodes, gone, "n/a=1 "))

		// Cut off: dead, and back with what it had.
		c.net.Split(addrs(c.nodes[3:]), addrs(rest))
		t.Logf("cut off: gone after %v", c.until(time.Minute, "gone", allSee(rest, gone, "")))
		time.Sleep(time.Minute)
		c.net.HealAll()
		t.Logf("connected: back after %v", c.until(90*time.Second, "back", allSee(rest, gone, "n/a=1 ")))

		// Killed and started: met without an introduction, back with nothing.
		gone.kill()
		t.Logf("killed: gone after %v", c.until(time.Minute, "gone", allSee(rest, gone, "")))
		time.Sleep(20 * time.Minute)
		dials := func() int64 {
			sum := int64(0)
			for _, n := range c.nodes {
				sum += n.dials.Load()
			}
			return sum
		}
		before := dials()
		gone.start()
		put()
		t.Logf("started: back after %v", c.until(15*time.Second, "back", func() bool {
			return whole(c.nodes) && allSee(c.nodes, gone, "n/a=1 ")()
		}))
		if n := dials() - before; n > 0 {
			t.Logf("%d introductions were tried meanwhile", n)
		}
		for _, n := range rest { // it had less than before: its old log must not stay
			if got := n.entries(gone); got != "n/a=1 " {
				t.Errorf("host %d: %q", n.i+1, got)
			}
		}
	})
}

// kill -9 and launch within a second: nobody noticed, and what the host no
// longer has is gone.
func TestQuickRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 3)
		n := c.nodes[1]
		for _, k := range []string{"n/a", "n/b", "n/c"} {
			if err := n.mesh.Put(k, nil); err != nil {
				t.Fatal(err)
			}
		}
		c.until(time.Second, "entries", allSee(c.nodes, n, "n/a= n/b= n/c= "))
		seq := n.mesh.Status().Seq
		n.kill()
		time.Sleep(time.Second)
		n.start()
		if got := n.mesh.Status().Seq; got <= seq {
			t.Errorf("sequence number %d after %d", got, seq)
		}
		if err := n.mesh.Put("n/b", nil); err != nil {
			t.Fatal(err)
		}
		t.Logf("restarted: right everywhere after %v", c.until(10*time.Second, "right", func() bool {
			return whole(c.nodes) && allSee(c.nodes, n, "n/b= ")()
		}))
	})
}

func TestAllRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 12)
		for _, n := range c.nodes {
			n.kill()
		}
		time.Sleep(time.Hour)
		for _, n := range c.nodes {
			n.dials.Store(0)
		}
		for _, i := range rand.Perm(len(c.nodes)) {
			c.nodes[i].start()
			if err := c.nodes[i].mesh.Put("n/a", nil); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("12 hosts are one cluster %v after all were started",
			c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) }))
		for _, n := range c.nodes {
			c.until(5*time.Second, "entries", allSee(c.nodes, n, "n/a= "))
			if d := n.dials.Load(); d > 0 {
				t.Errorf("host %d introduced itself %d times", n.i+1, d)
			}
		}
	})
}

func TestTwenty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 20)
		var worst time.Duration
		for _, o := range c.nodes {
			if err := o.mesh.Put("n/a", []byte("172.16.0.1")); err != nil {
				t.Fatal(err)
			}
			worst = max(worst, c.until(time.Second, "entry is everywhere", allSee(c.nodes, o, "n/a=172.16.0.1 ")))
			time.Sleep(time.Second)
		}
		t.Logf("an entry of one is seen by all 20 after %v at worst", worst)
		c.net.Loss(0.2)
		worst = 0
		for _, o := range c.nodes {
			if err := o.mesh.Put("n/b", nil); err != nil {
				t.Fatal(err)
			}
			worst = max(worst, c.until(time.Minute, "entry is everywhere", allSee(c.nodes, o, "n/a=172.16.0.1 n/b= ")))
			time.Sleep(time.Second)
		}
		if n := c.net.Largest(); n > 1150 {
			t.Errorf("a packet of %d bytes", n)
		}
		t.Logf("with 20 %% of the packets lost after %v at worst; largest packet %d bytes", worst, c.net.Largest())
	})
}

// With unchanged entries nothing but digests is exchanged.
func TestUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 3)
		value := make([]byte, 200)
		for i := range 1000 {
			if err := c.nodes[0].mesh.Put("n/"+string(rune('a'+i%26))+string(rune('0'+i/26)), value); err != nil {
				t.Fatal(err)
			}
		}
		count := func() bool {
			return !slices.ContainsFunc(c.nodes, func(n *node) bool { return len(n.latest().Entries) != 1000 })
		}
		t.Logf("1,000 entries are everywhere after %v", c.until(40*time.Second, "1,000 entries", count))
		time.Sleep(time.Minute)
		before := c.nodes[1].mesh.Status()
		time.Sleep(10 * time.Minute)
		after := c.nodes[1].mesh.Status()
		exchanges := (after.StateReceived - before.StateReceived)
		t.Logf("in ten minutes: %d bytes of digests received, %d sent, %d messages",
			exchanges, after.StateSent-before.StateSent, after.MessagesReceived-before.MessagesReceived)
		if exchanges == 0 || after.MessagesReceived != before.MessagesReceived {
			t.Errorf("%d messages beside the digests", after.MessagesReceived-before.MessagesReceived)
		}
		if one := len(*c.nodes[1].mesh.digest.Load()); one > 300 {
			t.Errorf("a digest of three hosts takes %d bytes", one)
		}
	})
}
