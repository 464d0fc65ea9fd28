package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// Two halves of a cut cluster go on giving addresses, more than each host had,
// so that they ask each other inside of their half. Afterwards there are no
// duplicates, all agree, and the rest of the range is for everybody.
func TestCutHalvesAllocate(t *testing.T) {
	parallelAs(t, idle, 45*time.Second) // it waits until hosts are found dead
	const (
		each  = 16 // of 64 addresses, a block for each
		many  = 22
		few   = 6
		rooms = 62 // without the network's address and that of all
	)
	small := netip.MustParsePrefix("10.32.0.0/26")
	c := newCluster(t, 4)
	refs := map[*node][]string{}
	for i, n := range c.nodes {
		args := []string{"--ipalloc-range", small.String(), "--ipalloc-reclaim-after", "1s"}
		if i > 0 {
			args = append(args, c.nodes[0].Addr().String())
		}
		n.launch(args...)
		refs[n] = n.namespaces(rooms)
	}
	c.waitMesh()
	// Each owns its share before the cut.
	c.nodes[0].must("prime")
	c.wait("the range is divided", time.Second, func() error {
		for _, n := range c.nodes {
			s, err := n.space()
			if err != nil || len(s.Entries) != len(c.nodes) || s.Entries[0].IPs != each {
				return fmt.Errorf("%s: %w: %+v", n.Name(), err, s.Entries)
			}
		}
		return nil
	})

	one, two := c.nodes[:2], c.nodes[2:]
	change(t, c.betweenHalves(one, two, 100))
	begun := time.Now()
	var g errgroup.Group
	for _, half := range [][]*node{one, two} {
		// One after the other: the first takes from the second what it does
		// not use.
		g.Go(func() error {
			for i, n := range half {
				for j := range []int{many, few}[i] {
					if _, err := n.tryAllot(refs[n][j]); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("both halves gave %d addresses in %s, at once after the cut", many+few, time.Since(begun).Round(time.Millisecond))
	halves := func() {
		t.Helper()
		c.wait("each half has accounted for all", time.Second, func() error {
			return errors.Join(c.accounted(small, one...), c.accounted(small, two...))
		})
	}
	halves()
	c.wait("each half sees itself only", foundDead, func() error { return errors.Join(c.separate(one...), c.separate(two...)) })
	for _, n := range c.nodes {
		c.wait(n.Name()+" says who is out of reach", time.Second, func() error {
			if out := n.must("status", "ipam"); strings.Count(out, " - unreachable!\n") != 2 {
				return errors.New(out)
			}
			return nil
		})
	}
	// After a while people are asked what to do; nothing is done without them.
	for _, n := range c.nodes {
		c.wait(n.Name()+" asks for rmpeer", 2*time.Second, func() error {
			if text := strings.Join(n.mustSpace().Warnings, "\n"); strings.Count(text, "rmpeer") < 2 {
				return fmt.Errorf("warnings: %s", text)
			}
			return nil
		})
	}
	halves()
	// What a half has left is found there also now.
	for _, n := range []*node{one[1], two[1]} {
		n.allot(refs[n][few])
	}
	halves()

	change(t, c.HealAll(t.Context()))
	c.wait("all see all", 20*time.Second, func() error { return c.isMesh() })
	c.wait("no duplicates, and all agree", 2*time.Second, func() error { return errors.Join(c.accounted(small), c.agreed()) })

	// All of it can be had, by whoever asks, and not one more.
	begun = time.Now()
	asker := c.nodes[1]
	used := 2*(many+few) + 2
	for i := range rooms - used {
		asker.allot(refs[asker][few+1+i])
	}
	t.Logf("the last %d of %d addresses were found in %s", rooms-used, rooms, time.Since(begun).Round(time.Millisecond))
	c.wait("the last are accounted for", 2*time.Second, func() error { return errors.Join(c.accounted(small), c.agreed()) })
	asker.waitsForSpace(t, c.nodes[3], refs[asker][rooms-1], refs[c.nodes[3]][0])
	c.wait("it is accounted for", 2*time.Second, func() error { return errors.Join(c.accounted(small), c.agreed()) })
}

// betweenHalves loses a share of what two sets of hosts exchange.
func (c *cluster) betweenHalves(one, two []*node, percent float64) error {
	var faults []lab.Fault
	for _, a := range one {
		for _, b := range two {
			faults = append(faults, lab.Fault{From: a.Name(), To: b.Name(), Percent: percent}, lab.Fault{From: b.Name(), To: a.Name(), Percent: percent})
		}
	}
	return c.SetFault(c.t.Context(), faults...)
}

// waitsForSpace asks for an address where there is none left: it waits, says
// so everywhere, and goes on once another host lets one go.
func (n *node) waitsForSpace(t *testing.T, other *node, ref, theirs string) {
	t.Helper()
	r := n.request(t, "attach", ref)
	c := n.c
	c.wait("the status says that it waits", time.Second, func() error {
		s, err := n.space()
		if err != nil {
			return err
		}
		if s.State != "waiting for IP(s) to become available" || len(s.Pending) != 1 || s.Pending[0].Kind != "allocate" || s.Pending[0].Why == "" {
			return fmt.Errorf("state %q, pending %+v", s.State, s.Pending)
		}
		if text := n.must("status"); !strings.Contains(text, "         Status: "+s.State+"\n") {
			return fmt.Errorf("status:\n%s", text)
		}
		m, err := n.metrics()
		if err == nil && m["weft_ipam_pending_allocates"] != 1 {
			err = fmt.Errorf("metric: %v", m["weft_ipam_pending_allocates"])
		}
		return err
	})
	r.says(t, "weft: waiting: ")
	freed := strings.TrimSpace(other.must("detach", theirs))
	begun := time.Now()
	if got := r.succeeds(t); got != freed {
		t.Errorf("the one who waited got %q, what was freed is %s", got, freed)
	}
	t.Logf("what was freed on %s was given on %s after %s", other.Name(), n.Name(), time.Since(begun).Round(time.Millisecond))
}
