package mesh

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh/topology"
)

// report returns what n knows of an owner's links, and whether that is a live
// member.
func (n *node) report(owner *node) (b []byte, alive bool) {
	for _, p := range n.latest().Peers {
		if p.Identity == owner.id() {
			return p.Report, p.Alive
		}
	}
	return nil, false
}

// The report of a host is there as long as the host is known: to those who see
// it die, and to somebody who never met it. Its other entries are not.
func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		first, lost, late := c.nodes[:3], c.nodes[2], c.nodes[3]
		lost.start()
		for _, n := range first[:2] {
			n.start(lost.addr.String())
		}
		c.until(time.Minute, "one cluster", func() bool { return whole(first) })
		put := func(value string) {
			t.Helper()
			for _, key := range []string{"a", topology.EntryKey, "z"} {
				if err := lost.mesh.Put(key, []byte(value)); err != nil {
					t.Fatal(err)
				}
			}
		}
		sees := func(n *node, report string, member bool) func() bool {
			return func() bool {
				b, alive := n.report(lost)
				return string(b) == report && alive == member && (b == nil) == (report == "") && (n.entries(lost) != "") == member
			}
		}

		put("1")
		for _, n := range first[:2] {
			c.until(time.Second, "report", sees(n, "1", true))
			if b, _ := n.report(first[0]); b != nil {
				t.Errorf("host %d has a report of one that made none: %q", n.i+1, b)
			}
		}

		c.net.Split(addrs(c.nodes[2:3]), addrs([]*node{first[0], first[1], late}))
		c.until(time.Minute, "dead", func() bool { return sees(first[0], "1", false)() && sees(first[1], "1", false)() })
		late.start(first[0].addr.String())
		c.until(time.Minute, "report of somebody never met", sees(late, "1", false))

		put("2")
		c.net.HealAll()
		c.until(3*time.Minute, "back", func() bool {
			return sees(first[0], "2", true)() && sees(first[1], "2", true)() && sees(late, "2", true)()
		})

		if err := lost.mesh.Delete(topology.EntryKey); err != nil {
			t.Fatal(err)
		}
		for _, n := range []*node{first[0], first[1], late} {
			c.until(time.Second, "withdrawn", sees(n, "", true))
		}
	})
}

// Views share a report: it is neither copied nor made anew.
func TestReportIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := formed(t, 2)
		a, b := c.nodes[0], c.nodes[1]
		if err := b.mesh.Put(topology.EntryKey, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		known := func() []byte { r, _ := a.report(b); return r }
		c.until(time.Second, "report", func() bool { return known() != nil })
		before := known()
		if err := b.mesh.Put("other", nil); err != nil {
			t.Fatal(err)
		}
		c.until(time.Second, "another view", func() bool { return len(a.latest().Entries) == 2 })
		if after := known(); &after[0] != &before[0] {
			t.Error("the report was copied for another view")
		}
	})
}
