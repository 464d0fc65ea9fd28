package mesh

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

// What does not fit into a packet is asked for by packets, of which some get
// lost: everybody has it soon all the same.
func TestLargeEntryOnALossyNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 6)
		for i, n := range c.nodes {
			if i == 0 {
				n.start()
			} else {
				n.start(c.nodes[0].addr.String())
			}
		}
		c.until(time.Minute, "whole", func() bool { return whole(c.nodes) })
		c.net.Loss(0.3)
		var slowest time.Duration
		for i := range 20 {
			value := bytes.Repeat([]byte{byte(i)}, 3*maxCast)
			if err := c.nodes[i%6].mesh.Put("large", value); err != nil {
				t.Fatal(err)
			}
			took := c.until(time.Minute, "everybody has it", func() bool {
				for _, n := range c.nodes {
					if !n.has(value) {
						return false
					}
				}
				return true
			})
			slowest = max(slowest, took)
		}
		t.Logf("the slowest of 20 took %v", slowest)
	})
}

// has reports whether the host sees an entry with this value.
func (n *node) has(value []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.view.Entries {
		if bytes.Equal(e.Value, value) {
			return true
		}
	}
	return false
}
