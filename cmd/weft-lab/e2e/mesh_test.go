package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Three hosts in a ring, each naming only the next, become a full mesh whatever
// the order in which they start.
func TestAnyOrder(t *testing.T) {
	parallelAs(t, ordinary, 25*time.Second)
	for _, order := range [][]int{{1, 2, 3}, {1, 3, 2}, {2, 1, 3}, {2, 3, 1}, {3, 1, 2}, {3, 2, 1}} {
		t.Run(strings.Trim(fmt.Sprint(order), "[]"), func(t *testing.T) {
			c := newCluster(t, 3)
			for _, i := range order {
				next := c.nodes[i%3]
				c.nodes[i-1].launch(next.Addr().String())
			}
			c.waitMesh()
			for _, n := range c.nodes {
				r, err := n.report()
				if err != nil {
					t.Fatal(err)
				}
				if want := c.nodes[n.number%3].Addr().String(); !r.Ready || r.Router.NickName != n.Name() || strings.Join(r.Router.Targets, " ") != want {
					t.Errorf("report of %s: %+v, want it ready with target %s", n.Name(), r, want)
				}
				if out := n.must("status", "targets"); out != r.Router.Targets[0]+"\n" {
					t.Errorf("status targets: %q", out)
				}
			}
		})
	}
}

// Targets may be named in every form there is.
func TestTargetForms(t *testing.T) {
	parallel(t)
	c := newCluster(t, 5)
	h1 := c.nodes[0]
	h1.launch()
	for i, target := range []string{
		h1.Addr().String() + ":6783", h1.Addr6().String(), fmt.Sprintf("[%s]:6783", h1.Addr6()), h1.Name(),
	} {
		n := c.nodes[i+1]
		n.launch(target)
		c.wait(n.Name()+" reaches "+target, c.goal(), func() error { return c.isMesh(h1, n) })
		n.must("stop")
		n.must("reset")
		c.wait(h1.Name()+" notices", 40*c.goal(), func() error {
			count, text, err := h1.connections()
			if err == nil && count["established"] != 0 {
				err = fmt.Errorf("still connected:\n%s", text)
			}
			return err
		})
	}
}
