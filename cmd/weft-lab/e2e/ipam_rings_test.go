package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// twoSpaces makes hosts that were launched alone and gave addresses each: host1
// has 10.32.0.1, host2 has 10.32.0.2 and nothing else.
func twoSpaces(t *testing.T, n int) (c *cluster, boxes []*box) {
	t.Helper()
	c = newCluster(t, n)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.launch()
	h2.launch()
	first := h2.start("first")
	first.addr = h2.allot(first.Ref())
	boxes = []*box{h1.give("c1"), h2.give("c2")}
	if boxes[0].addr.String() != "10.32.0.1" || boxes[1].addr.String() != "10.32.0.2" || first.addr != boxes[0].addr {
		t.Fatalf("alone they gave %v and %s", addrsOf(boxes...), first.addr)
	}
	h2.must("detach", first.Ref())
	if h1.mustSpace().Ring == h2.mustSpace().Ring {
		t.Fatal("they have one ring")
	}
	return c, boxes
}

// tellsOfTwo waits until hosts tell of two spaces that stay apart, in the
// status and once in the log.
func (c *cluster) tellsOfTwo(nodes ...*node) {
	c.t.Helper()
	c.wait("two spaces are told of", 2*time.Second, func() error {
		for _, n := range nodes {
			other := c.nodes[2-n.number].Name()
			r := n.weft("status", "ipam")
			for _, w := range []string{other, "weft reset", "detach"} {
				if !strings.Contains(r.Stderr, w) {
					return fmt.Errorf("status ipam of %s does not say %q: %v", n.Name(), w, r)
				}
			}
			told := 0
			for line := range strings.Lines(n.log()) {
				if strings.Contains(line, "level=WARN") && strings.Contains(line, "weft reset") && strings.Contains(line, other) {
					told++
				}
			}
			if told != 1 {
				return fmt.Errorf("the log of %s says it %d times:\n%s", n.Name(), told, n.log())
			}
		}
		return nil
	})
}

// becomeOne has host2 let go of what it gave: then it takes part in the other
// space.
func (c *cluster) becomeOne(boxes []*box, nodes ...*node) {
	c.t.Helper()
	h1, h2 := c.nodes[0], c.nodes[1]
	ring := h1.mustSpace().Ring
	h2.must("detach", boxes[1].Ref())
	c.wait("there is one space", 5*time.Second, func() error {
		for _, n := range nodes {
			if s, err := n.space(); err != nil || s.Ring != ring || len(s.Warnings) > 0 {
				return fmt.Errorf("%s: %w: ring %s, want %s, warnings %q", n.Name(), err, s.Ring, ring, s.Warnings)
			}
		}
		return errors.Join(c.agreed(nodes...), c.accounted(theRange(), nodes...))
	})
	late := h2.give("late")
	if late.addr == boxes[0].addr {
		c.t.Errorf("%s was given twice", late.addr)
	}
	c.wait("they reach each other", time.Second, func() error { return linked([]*box{boxes[0], late}) })
	c.settles("all is accounted for", 2*time.Second, nodes...)
}

// Two hosts that both gave addresses before they met keep their spaces apart.
// They say so and what to do; all else works.
func TestTwoSpacesMeet(t *testing.T) {
	parallel(t) // it waits for what others notice
	c, boxes := twoSpaces(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h2.must("connect", h1.Addr().String())
	c.waitMesh()
	whole(c, boxes)
	c.tellsOfTwo(h1, h2)
	// Each goes on in its own; what both gave is told.
	twin := h2.start("twin")
	if a := h2.allot(twin.Ref()); a != boxes[0].addr {
		t.Fatalf("host2 gives %s next", a)
	}
	c.wait("the duplicate is told on both", 2*time.Second, func() error {
		for _, n := range c.nodes {
			s, err := n.space()
			if err != nil {
				return err
			}
			if len(s.Duplicates) != 1 || s.Duplicates[0].Address != boxes[0].addr || len(s.Duplicates[0].Holders) != 2 {
				return fmt.Errorf("%s: %+v", n.Name(), s.Duplicates)
			}
			all, other := strings.Join(s.Duplicates[0].Holders, " "), c.nodes[2-n.number]
			if !strings.Contains(all, other.Name()) || !strings.Contains(all, boxes[0].Ref()) || !strings.Contains(all, twin.Ref()) {
				return fmt.Errorf("%s: %+v", n.Name(), s.Duplicates)
			}
		}
		return nil
	})
	h2.must("detach", twin.Ref())
	c.becomeOne(boxes, h1, h2)
	whole(c, boxes[:1])
}

// The same when it is a third host that brings them together.
func TestTwoSpacesMeetThroughThird(t *testing.T) {
	parallel(t) // it waits for what others notice
	c, boxes := twoSpaces(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h3.launch(h1.Addr().String(), h2.Addr().String())
	c.waitMesh()
	whole(c, boxes)
	c.tellsOfTwo(h1, h2)
	c.becomeOne(boxes, h1, h2, h3)
	b := h3.give("c3")
	if b.addr == boxes[0].addr {
		t.Errorf("%s was given twice", b.addr)
	}
	c.settles("all three are one", 2*time.Second)
}
