package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// knows says whether a program in the container finds the name at that address,
// or finds nothing when to is nil.
func (b *box) knows(to *box) error { return b.finds(to.name, to.addr.String()) }

func (b *box) finds(name string, want ...string) error {
	ctx, cancel := context.WithTimeout(b.n.c.t.Context(), time.Second*run.slow())
	defer cancel()
	got, err := b.Lookup(ctx, name, dns.TypeA)
	if err != nil {
		return silence{err}
	}
	var text []string
	for _, a := range got {
		text = append(text, a.String())
	}
	slices.Sort(text)
	if !slices.Equal(text, want) {
		return fmt.Errorf("%s finds %s at %v, want %v", b.Name(), name, text, want)
	}
	return nil
}

// reaches says whether the container gets an answer from another one.
func (b *box) reaches(to *box) error {
	ctx, cancel := context.WithTimeout(b.n.c.t.Context(), 500*time.Millisecond*run.slow())
	defer cancel()
	if _, err := b.Ping(ctx, to.addr, 64, []byte(marker)); err != nil {
		return silence{err}
	}
	return nil
}

// whole waits until every container reaches every other one and knows its name,
// and its own.
func whole(c *cluster, boxes []*box) {
	c.t.Helper()
	c.wait("every container reaches and knows every other", 2*time.Second, func() error {
		for _, a := range boxes {
			for _, b := range boxes {
				if err := a.knows(b); err != nil {
					return err
				}
				if a == b {
					continue
				}
				if err := a.reaches(b); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// A daemon that is killed and launched again finds its containers attached, its
// names, and its peers, whom it needs no introduction to.
func TestKillAndLaunch(t *testing.T) {
	parallel(t)
	c := joined(t, 3)
	boxes := c.attachEach()
	whole(c, boxes)
	h2 := c.nodes[1]
	before := h2.must("ps")
	// Nobody can introduce anybody now.
	h2.sh("nft add table inet e2e; nft 'add chain inet e2e out { type filter hook output priority 0; }';" +
		"nft 'add chain inet e2e in { type filter hook input priority 0; }';" +
		"for c in in out; do nft add rule inet e2e $c tcp dport 6783 counter drop; done")
	h2.kill()
	if h2.datapath() == "kernel" {
		c.wait("packets flow while the daemon is dead", time.Second, func() error { return boxes[0].reaches(boxes[1]) })
	}
	h2.relaunch()
	c.wait("host2 is back", 2*time.Second, func() error { return c.isMesh() })
	h2.sh("nft delete table inet e2e")
	if after := h2.must("ps"); after != before {
		t.Errorf("attached after the restart:\n%swas:\n%s", after, before)
	}
	whole(c, boxes)
}

// With the kernel data path a stream of packets that runs across the daemon's
// death and return loses nothing.
func TestNothingLostAcrossKill(t *testing.T) {
	parallelAs(t, racing, 0)
	c := joined(t, 2)
	boxes := c.attachEach()
	whole(c, boxes)
	if run.datapath != "kernel" {
		return // the data path is inside the daemon
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	lost := make(chan []error, 1)
	go func() {
		var errs []error
		for ctx.Err() == nil {
			one, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if _, err := boxes[0].Ping(one, boxes[1].addr, 64, nil); err != nil {
				errs = append(errs, err)
			}
			cancel()
			rest(ctx, 5*time.Millisecond) // the daemons need the processor, too
		}
		lost <- errs
	}()
	for _, n := range c.nodes {
		if n.datapath() != "kernel" {
			continue // with it ends what forwards
		}
		n.kill()
		n.relaunch()
		c.waitMesh()
	}
	stop()
	if errs := <-lost; len(errs) > 0 {
		t.Errorf("%d packets were lost across restarts: %v", len(errs), errs[0])
	}
}

// All daemons are killed at once and started in any order: whole again.
func TestKillAll(t *testing.T) {
	parallel(t)
	c := joined(t, 3)
	boxes := c.attachEach()
	whole(c, boxes)
	for round := range 2 {
		for _, n := range c.nodes {
			n.kill()
		}
		order := rand.Perm(len(c.nodes))
		t.Logf("round %d: starting in the order %v", round, order)
		for _, i := range order {
			c.nodes[i].relaunch()
		}
		c.wait("all see all", 5*time.Second, func() error { return c.isMesh() })
		whole(c, boxes)
	}
}

// Every machine loses its power; after they boot, in any order, the cluster is
// there again. Containers are not: they were processes.
func TestPowerCut(t *testing.T) {
	parallel(t)
	c := joined(t, 3)
	for _, n := range c.nodes {
		if err := n.Halt(); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range rand.Perm(len(c.nodes)) {
		n := c.nodes[i]
		if err := n.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.relaunch("--resume")
	}
	c.wait("all see all", 5*time.Second, func() error { return c.isMesh() })
	whole(c, c.attachEach())
}
