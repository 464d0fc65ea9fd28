package mesh

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 100)
		p, b := c.net.Traffic()
		t.Logf("packets %d bytes %d", p, b)
		var d, ss, ms uint64
		for _, n := range c.nodes {
			s := n.mesh.Status()
			d += s.Dropped
			ss += s.StateSent
			ms += s.MessageBytesSent
		}
		t.Logf("dropped %d statesent %d msgsent %d", d, ss, ms)
		time.Sleep(time.Minute)
		var worst time.Duration
		for _, o := range c.nodes[:10] {
			o.mesh.Put("n/a", []byte("172.16.0.1"))
			worst = max(worst, c.until(3*time.Second, "entry is everywhere", allSee(c.nodes, o, "n/a=172.16.0.1 ")))
			time.Sleep(time.Second)
		}
		t.Logf("an entry of one is seen by all after %v at worst", worst)
		for _, n := range c.nodes {
			n.kill()
		}
		time.Sleep(time.Hour)
		for _, n := range c.nodes {
			n.dials = 0
			n.start()
		}
		t.Logf("restarted %v", c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) }))
		d, ss, ms = 0, 0, 0
		for _, n := range c.nodes {
			s := n.mesh.Status()
			d += s.Dropped
			ss += s.StateSent
			ms += s.MessageBytesSent
			d += uint64(n.dials * 1000000)
		}
		t.Logf("dropped %d statesent %d msgsent %d", d, ss, ms)
	})
}
