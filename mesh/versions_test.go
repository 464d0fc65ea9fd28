package mesh

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/mesh/hello"
)

// sees says whether a host has another one as a live peer, and at which version.
func (n *node) sees(o *node) (protocol uint16, alive bool) {
	for _, p := range n.latest().Peers {
		if p.Identity == o.id() {
			return p.Protocol, p.Alive
		}
	}
	return 0, false
}

// refused says what the host says of another one that it has nothing to do with.
func (n *node) refused(o *node) string {
	for _, t := range n.mesh.Status().Targets {
		if t.Peer == o.id() && t.State == Failed {
			return t.Info()
		}
	}
	return ""
}

// Two hosts without a version in common are nothing to each other, and say so,
// although a third one speaks with both of them. When the newer one learns the
// older version, or the older one is brought up to date, they are one cluster.
func TestNoVersionInCommon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		first, both, newer := c.nodes[0], c.nodes[1], c.nodes[2]
		both.versions, newer.versions = hello.Versions{Min: 1, Max: 3}, hello.Versions{Min: 2, Max: 4}
		both.start()
		first.start(both.addr.String())
		newer.start(both.addr.String())
		took := c.until(time.Minute, "those that have one in common are connected", func() bool {
			a, ok := both.sees(first)
			b, ok2 := both.sees(newer)
			_, ok3 := first.sees(both)
			_, ok4 := newer.sees(both)
			return ok && ok2 && ok3 && ok4 && a == 1 && b == 3
		})
		t.Logf("connected after %v", took)
		c.until(time.Minute, "both say why they are not", func() bool {
			return strings.HasPrefix(first.refused(newer), "other protocol version: 2 to 4 there, 1 here; ") &&
				strings.HasPrefix(newer.refused(first), "other protocol version: 1 there, 2 to 4 here; ")
		})
		time.Sleep(5 * time.Minute) // introductions and joins are tried, and others tell of them
		for _, p := range [][2]*node{{first, newer}, {newer, first}} {
			if slices.ContainsFunc(p[0].latest().Peers, func(x Peer) bool { return x.Identity == p[1].id() }) {
				t.Errorf("host%d has host%d as a peer", p[0].i+1, p[1].i+1)
			}
			if _, alive := both.sees(p[0]); !alive {
				t.Errorf("host2 has lost host%d", p[0].i+1)
			}
		}

		first.kill()
		first.versions = hello.Versions{Min: 1, Max: 3}
		first.start()
		took = c.until(2*time.Minute, "all are connected", func() bool { return whole(c.nodes) })
		t.Logf("connected after %v", took)
		for _, p := range [][2]*node{{first, newer}, {newer, first}} {
			if v, _ := p[0].sees(p[1]); v != 3 || p[0].refused(p[1]) != "" {
				t.Errorf("host%d speaks version %d with host%d, and says %q", p[0].i+1, v, p[1].i+1, p[0].refused(p[1]))
			}
		}
	})
}

// What a newer host sends, and nobody here knows, is passed over and counted.
func TestNotUnderstood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		old, newer := c.nodes[0], c.nodes[1]
		old.counts = &GossipCounts{values: make(map[string]float64)}
		newer.versions = hello.Versions{Min: 1, Max: 2}
		old.start()
		newer.start(old.addr.String())
		c.until(time.Minute, "one cluster", func() bool { return whole(c.nodes) })
		id := newer.id()
		newer.mesh.gossip.mu.Lock()
		ml := newer.mesh.gossip.ml
		newer.mesh.gossip.mu.Unlock()
		for _, kind := range []byte{0, 9, 0x0f, 0x31, 0x42, 0xff} {
			if err := ml.SendReliable(nodeOf(old.id()), append([]byte{kind}, id[:]...)); err != nil {
				t.Fatal(err)
			}
		}
		if err := newer.mesh.Put("n/later", []byte("still here")); err != nil {
			t.Fatal(err)
		}
		c.until(time.Minute, "what is understood goes on", allSee(c.nodes, newer, "n/later=still here "))
		c.until(time.Minute, "all are counted", func() bool { return old.counts.Value("strange.message") == 6 })
	})
}
