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

// A network that is gone for ten seconds makes nobody declare anybody dead:
// names and connections stay, and traffic goes on by itself.
func TestOutageOfTenSeconds(t *testing.T) {
	c := joined(t, 3)
	boxes := c.attachEach()
	whole(c, boxes)
	if err := c.Cut(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if err := boxes[0].finds("c2", "10.32.0.2"); err != nil {
			t.Fatalf("a name was lost during a short outage: %v", err)
		}
		pause(t, 500*time.Millisecond)
	}
	if err := c.Heal(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	whole(c, boxes)
	for _, n := range c.nodes {
		if text := n.must("logs"); strings.Contains(text, "peer lost") {
			t.Errorf("%s declared a peer dead:\n%s", n.Name(), text)
		}
	}
	if err := c.isMesh(); err != nil {
		t.Error(err)
	}
}

// A partition that is longer than every suspicion and dead-node time heals by
// itself, without restarts and without anybody typing anything.
func TestPartition(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two minutes")
	}
	c := joined(t, 4)
	boxes := c.attachEach()
	whole(c, boxes)
	for _, a := range c.nodes[:2] {
		for _, b := range c.nodes[2:] {
			if err := c.CutPair(t.Context(), a.Name(), b.Name()); err != nil {
				t.Fatal(err)
			}
		}
	}
	begun := time.Now()
	c.wait("both halves declare each other dead", declared/3, func() error {
		for i, b := range boxes {
			other := boxes[(i+2)%4]
			if err := b.finds(other.name); err != nil {
				return err
			}
		}
		return nil
	})
	for left := 90*time.Second - time.Since(begun); left > 0; left = 90*time.Second - time.Since(begun) {
		pause(t, min(left, time.Second))
	}
	for _, half := range [][]*box{boxes[:2], boxes[2:]} {
		if err := half[0].reaches(half[1]); err != nil {
			t.Errorf("within a half: %v", err)
		}
		if err := half[0].knows(half[1]); err != nil {
			t.Errorf("within a half: %v", err)
		}
	}
	if err := c.HealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.wait("whole again", 15*time.Second, func() error {
		if err := c.isMesh(); err != nil {
			return err
		}
		for _, a := range boxes {
			for _, b := range boxes {
				if a == b {
					continue
				}
				if err := a.knows(b); err != nil {
					return err
				}
				if err := a.reaches(b); err != nil {
					return err
				}
			}
		}
		return nil
	})
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

// pause waits, because the passing of time itself is what is tested.
func pause(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
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
