package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// A container that dies takes its names along, everywhere, within a second; a
// new one that takes over the address is reachable at once.
func TestContainerDies(t *testing.T) {
	parallel(t)
	c := joined(t, 2)
	boxes := c.attachEach()
	whole(c, boxes)
	if err := boxes[1].Kill(); err != nil {
		t.Fatal(err)
	}
	c.wait("the name of a dead container is gone", time.Second, func() error { return boxes[0].finds("c2") })
	c.wait("ps does not list the dead container", time.Second, func() error {
		if out := c.nodes[1].must("ps"); strings.Contains(out, "10.32.0.2") {
			return errors.New(out)
		}
		return nil
	})
	next := c.nodes[1].attach("next", "10.32.0.2")
	c.wait("the address answers from its new owner", time.Second, func() error { return boxes[0].reaches(next) })
	// And on another host: everybody learns of the move.
	if got := c.nodes[1].must("detach", "10.32.0.2/12", next.Ref()); got != "10.32.0.2\n" {
		t.Errorf("detach prints %q", got)
	}
	moved := c.nodes[0].attach("moved", "10.32.0.2")
	witness := c.nodes[1].attach("witness", "10.32.0.22")
	c.wait("the address answers from another host", time.Second, func() error { return witness.reaches(moved) })
}
