package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// declared is how long SWIM takes at most to declare a dead host dead in a
// small cluster: a probe interval and the suspicion time with its multiplier.
const declared = 45 * time.Second

// A host loses its power: its names are gone everywhere once it is declared
// dead. It comes back: they are back.
func TestHostVanishes(t *testing.T) {
	c := joined(t, 3)
	boxes := c.attachEach()
	whole(c, boxes)
	h3 := c.nodes[2]
	if err := h3.Halt(); err != nil {
		t.Fatal(err)
	}
	c.wait("the names of the vanished host are gone", declared/3, func() error {
		for _, b := range boxes[:2] {
			if err := b.finds("c3"); err != nil {
				return err
			}
		}
		return nil
	})
	for _, b := range boxes[:2] {
		if err := b.finds("c1", "10.32.0.1"); err != nil {
			t.Errorf("the names of a living host: %v", err)
		}
	}
	if err := h3.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	h3.relaunch("--resume")
	boxes[2] = h3.attach("c3", "10.32.0.3")
	c.wait("all see all", 5*time.Second, func() error { return c.isMesh() })
	whole(c, boxes)
}

// A container that dies takes its names along, everywhere, within a second; a
// new one that takes over the address is reachable at once.
func TestContainerDies(t *testing.T) {
	c := joined(t, 2)
	boxes := c.attachEach()
	whole(c, boxes)
	if err := boxes[1].Kill(); err != nil {
		t.Fatal(err)
	}
	c.wait("the name of a dead container is gone", time.Second, func() error { return boxes[0].finds("c2") })
	if out := c.nodes[1].must("ps"); strings.Contains(out, "10.32.0.2") {
		t.Errorf("ps still lists the dead container:\n%s", out)
	}
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

// A name that is added on one host is known on the others within a second.
func TestNamesTravel(t *testing.T) {
	c := joined(t, 3)
	boxes := c.attachEach()
	whole(c, boxes)
	for i := range 5 {
		name := fmt.Sprintf("n%d", i)
		c.nodes[i%3].must("dns-add", fmt.Sprintf("10.32.1.%d", i+1), "-h", name+".weft.internal")
		for _, b := range boxes {
			c.wait(b.Name()+" finds "+name, time.Second, func() error { return b.finds(name, fmt.Sprintf("10.32.1.%d", i+1)) })
		}
	}
	for i := range 5 {
		c.nodes[i%3].must("dns-remove", fmt.Sprintf("10.32.1.%d", i+1), "-h", fmt.Sprintf("n%d.weft.internal", i))
	}
	for _, b := range boxes {
		c.wait("names are gone", time.Second, func() error { return b.finds("n4") })
	}
	if out := c.nodes[0].must("dns-lookup", "c3"); out != "10.32.0.3\n" {
		t.Errorf("dns-lookup c3 prints %q", out)
	}
	if r := c.nodes[0].weft("dns-lookup", "nobody"); r.Exit != 0 || r.Stdout != "" {
		t.Errorf("dns-lookup of an unknown name: %v", r)
	}
}
