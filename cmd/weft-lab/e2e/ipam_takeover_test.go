package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// stops ends a host's daemon in order, so that the others need not find out,
// and waits until those given know.
func (n *node) stops(others ...*node) {
	n.c.t.Helper()
	who := n.identity()
	n.must("stop")
	n.c.wait(n.Name()+" is gone for the others", time.Second, func() error {
		if err := n.noDaemon(); err != nil {
			return err
		}
		for _, o := range others {
			if e := o.entryOf(who); e.Reachable {
				return fmt.Errorf("%s reaches it: %+v", o.Name(), e)
			}
		}
		return nil
	})
}

func takenOver(ips uint64, who identity, name string) string {
	return fmt.Sprintf("%d IPs taken over from %s(%s)\n", ips, who.Name, name)
}

// The space of a host that is gone is taken over when nobody can reach it, and
// not before. What its containers have stays theirs; when it comes back after
// all it gives nothing of what it lost.
func TestRemovePeer(t *testing.T) {
	parallel(t)
	c := joined(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	boxes := append(c.giveEach(), h2.give("d2"))
	whole(c, boxes)
	c.settles("all agree", time.Second)
	who, mine := h2.identity(), h1.entryOf(h1.identity()).IPs
	lost := h1.entryOf(who).IPs

	h1.refused(1, []string{"host2", "stop it first"}, "rmpeer", "host2")
	h1.refused(1, []string{"host2", "stop it first"}, "rmpeer", "--force", who.Name)
	h1.refused(1, []string{"weft reset"}, "rmpeer", "host1")
	h1.refused(1, []string{"no peer is called host9"}, "rmpeer", "host9")
	if got := h1.entryOf(who).IPs; got != lost || lost == 0 {
		t.Errorf("after that it owns %d, it had %d", got, lost)
	}

	h2.stops(h1, h3)
	if out := h1.must("status", "ipam"); !strings.Contains(out, fmt.Sprintf("%-37v %8d IPs (%04.1f%% of total) (2 active) - unreachable!\n",
		who.Name+"(host2)", lost, float64(lost)*100/(1<<20))) {
		t.Errorf("status ipam with the host stopped:\n%s", out)
	}
	m, err := h1.metrics()
	if err != nil {
		t.Fatal(err)
	}
	if m["weft_ipam_unreachable_count"] != 1 || int(m["weft_ipam_unreachable_percentage"]) != int(lost*100>>20) {
		t.Errorf("metrics: %v out of reach with %v percent", m["weft_ipam_unreachable_count"], m["weft_ipam_unreachable_percentage"])
	}
	// What is in its space cannot be claimed, and the way out is named.
	h1.refused(1, []string{boxes[1].addr.String(), "host2", "out of reach", "rmpeer"}, "attach", boxes[1].addr.String()+"/12", h1.start("x1").Ref())

	begun := time.Now()
	if got, want := h1.must("rmpeer", "host2"), takenOver(lost, who, "host2"); got != want {
		t.Errorf("rmpeer prints %q, want %q", got, want)
	}
	t.Logf("taken over in %s", time.Since(begun).Round(time.Millisecond))
	c.wait("the others agree", time.Second, func() error {
		for _, n := range []*node{h1, h3} {
			if e := n.entryOf(who); e.IPs != 0 {
				return fmt.Errorf("%s says that it has %d", n.Name(), e.IPs)
			}
			if e := n.entryOf(h1.identity()); e.IPs != mine+lost {
				return fmt.Errorf("%s says that host1 has %d, want %d", n.Name(), e.IPs, mine+lost)
			}
		}
		return nil
	})
	// Its containers may be there still.
	for _, b := range []*box{boxes[1], boxes[3]} {
		h1.refused(1, []string{b.addr.String(), "host2"}, "attach", b.addr.String()+"/12", h1.start("y"+b.name).Ref())
	}

	// And they are.
	h2.relaunch("--resume")
	c.waitMesh()
	whole(c, boxes)
	late := h2.give("e2")
	distinct(t, addrsOf(append(boxes, late)...))
	c.settles("it is back, and there are no duplicates", 2*time.Second)
	if e := h1.entryOf(who); e.Active != 3 {
		t.Errorf("of the one that is back: %+v", e)
	}
	h1.refused(1, []string{"host2", "stop it first"}, "rmpeer", "host2")
	// What it lets go is the new owner's.
	h2.must("detach", boxes[3].Ref())
	moved := h1.start("moved")
	c.wait("it can be had on the new owner", time.Second, func() error { return h1.weft("attach", boxes[3].addr.String()+"/12", moved.Ref()).Err })
	c.settles("it is accounted for", time.Second)
}

// Space can only be taken over when everybody was asked who may have got some
// of it: who cannot be asked is named, or force is used. Two who take over the
// same space at one moment do not both get it.
func TestRemovePeersOutOfReach(t *testing.T) {
	parallel(t) // it waits for what others notice
	c := joined(t, 4)
	h1, h2, h3, h4 := c.nodes[0], c.nodes[1], c.nodes[2], c.nodes[3]
	c.giveEach()
	c.settles("all agree", time.Second)
	three, four := h3.identity(), h4.identity()
	lost3, lost4 := h1.entryOf(three).IPs, h1.entryOf(four).IPs
	h3.stops(h1, h2)
	h4.stops(h1, h2)
	c.wait("the other one may be asked for", time.Second, func() error { return c.isMesh(h1, h2) })
	h1.refused(1, []string{"host4 is out of reach", "host3", "--force"}, "rmpeer", "host3")
	if e := h1.entryOf(three); e.IPs != lost3 {
		t.Errorf("after that it owns %d, it had %d", e.IPs, lost3)
	}

	// Both name both, at once.
	out := make([]string, 2)
	var g errgroup.Group
	for i, n := range []*node{h1, h2} {
		g.Go(func() error {
			r := n.weft("rmpeer", "host3", "host4")
			out[i] = r.Stdout
			return r.Err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("host1: %q, host2: %q", out[0], out[1])
	all := strings.Join(out, "")
	for _, want := range []string{
		takenOver(lost3, three, "host3"), takenOver(lost4, four, "host4"), takenOver(0, three, "host3"), takenOver(0, four, "host4"),
	} {
		if strings.Count(all, want) != 1 {
			t.Errorf("%d times %q", strings.Count(all, want), want)
		}
	}
	c.settles("both agree", 2*time.Second, h1, h2)
	for _, n := range []*node{h1, h2} {
		owned := uint64(0)
		for _, e := range n.mustSpace().Entries {
			owned += e.IPs
		}
		if owned != 1<<20 || n.entryOf(three).IPs+n.entryOf(four).IPs > 0 {
			t.Errorf("%s says: %+v", n.Name(), n.mustSpace().Entries)
		}
	}

	// With force nobody has to be asked.
	lost := h1.entryOf(h2.identity()).IPs
	two := h2.identity()
	h2.stops(h1)
	if got, want := h1.must("rmpeer", "--force", "host2"), takenOver(lost, two, "host2"); got != want {
		t.Errorf("rmpeer --force prints %q, want %q", got, want)
	}
	if e := h1.entryOf(h1.identity()); e.IPs != 1<<20 {
		t.Errorf("alone it owns %d", e.IPs)
	}
	// Once more, and what their containers had is free.
	if got, want := h1.must("rmpeer", "--force", "host2", "host3"), takenOver(0, two, "host2")+takenOver(0, three, "host3"); got != want {
		t.Errorf("rmpeer --force again prints %q, want %q", got, want)
	}
	refs := h1.namespaces(4)
	for _, ref := range refs {
		h1.allot(ref)
	}
	// They come back with what was given to nobody else, or to somebody: the
	// latter is told everywhere, and nobody is cut off.
	for _, n := range []*node{h2, h3, h4} {
		n.relaunch("--resume")
	}
	c.waitMesh()
	more := []*box{h2.give("e2"), h3.give("e3"), h4.give("e4")}
	distinct(t, addrsOf(more...))
	c.wait("they are connected, and agree", 5*time.Second, func() error { return errors.Join(linked(more), c.agreed()) })
}

// A host that is reset gives its space away first, and the others forget it.
func TestResetHandsOver(t *testing.T) {
	parallel(t)
	c := joined(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	boxes := append(c.giveEach(), h3.give("d3"))
	lent := h1.start("lent")
	h3.must("attach", "net:10.40.5.0/24", h3.start("sub").Ref())
	lent.addr = h1.allot(lent.Ref(), "net:10.40.5.0/24")
	whole(c, boxes)
	c.settles("all agree", time.Second)
	who, lost := h3.identity(), h3.entryOf(h3.identity()).IPs
	before := map[string]uint64{}
	for _, n := range []*node{h1, h2} {
		before[n.Name()] = h1.entryOf(n.identity()).IPs
	}

	r := h3.weft("reset")
	var heir *node
	for _, n := range []*node{h1, h2} {
		if strings.Contains(r.Stderr, fmt.Sprintf("weft: %d IPs handed over to %s(%s)\n", lost, n.identity().Name, n.Name())) {
			heir = n
		}
	}
	if r.Exit != 0 || r.Stdout != "" || heir == nil {
		t.Fatalf("%v\nwant to know who got %d IPs", r, lost)
	}
	c.wait("the others have forgotten it", 2*time.Second, func() error {
		for _, n := range []*node{h1, h2} {
			for _, what := range []string{"connections", "peers", "ipam"} {
				if out := n.must("status", what); strings.Contains(out, who.Name) || strings.Contains(out, "host3") {
					return fmt.Errorf("status %s of %s:\n%s", what, n.Name(), out)
				}
			}
			if e := n.entryOf(heir.identity()); e.IPs != before[heir.Name()]+lost {
				return fmt.Errorf("%s says that %s has %d, want %d", n.Name(), heir.Name(), e.IPs, before[heir.Name()]+lost)
			}
		}
		return errors.Join(c.isMesh(h1, h2), c.agreed(h1, h2), c.accounted(theRange(), h1, h2))
	})
	// What its containers had can be had by others.
	for i, b := range []*box{boxes[2], boxes[3]} {
		again := c.nodes[i].start("again")
		c.wait(again.Name()+" can have "+b.addr.String(), time.Second, func() error {
			return c.nodes[i].weft("attach", b.addr.String()+"/12", again.Ref()).Err
		})
	}
	// What it had given to others stays theirs.
	h2.refused(1, []string{lent.addr.String(), "host1"}, "attach", lent.addr.String()+"/24", h2.start("x").Ref())

	// It is a new host now.
	h3.launch(h1.Addr().String())
	c.waitMesh()
	if h3.identity() == who {
		t.Error("the reset host kept its identity")
	}
	late := h3.give("late")
	distinct(t, addrsOf(append(boxes, late)...))
	c.settles("it has its part again", 2*time.Second)

	// Nobody to give anything to: that must be meant.
	for _, n := range []*node{h1, h2} {
		n.stops(h3)
	}
	had := h3.belongings()
	h3.refused(1, []string{"not handed over", "--force"}, "reset")
	if got := h3.belongings(); got != had {
		t.Errorf("a reset that was refused changed\n%s\nto\n%s", had, got)
	}
	h3.must("reset", "--force")
	// Without a daemon it cannot be done, which is said.
	if r := h2.weft("reset"); r.Exit != 0 || !strings.Contains(r.Stderr, "was not handed over") || !strings.Contains(r.Stderr, "rmpeer") {
		t.Errorf("reset without a daemon: %v", r)
	}
}

// A host that others reach, though the one that asks does not, is not gone.
// Where nobody reaches it, it is taken for gone though it is not: then an
// address may be given twice, which is told on all sides.
func TestRemovePeerInCut(t *testing.T) {
	parallelAs(t, idle, 30*time.Second) // it waits until a cut is taken for a death
	c := joined(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	boxes := c.giveEach()
	c.settles("all agree", time.Second)
	mine, lost := h2.entryOf(h1.identity()).IPs, h1.entryOf(h2.identity()).IPs
	change(t, c.SetFault(t.Context(), lab.Fault{From: "host1", Percent: 100}, lab.Fault{To: "host1", Percent: 100}))
	c.wait("each side sees itself only", foundDead, func() error { return errors.Join(c.separate(h1), c.separate(h2, h3)) })
	h1.refused(1, []string{"host3 is out of reach", "--force"}, "rmpeer", "host2")
	if got, want := h2.must("rmpeer", "host1"), takenOver(mine, h1.identity(), "host1"); got != want {
		t.Errorf("rmpeer prints %q, want %q", got, want)
	}
	alone, twin := h1.give("alone"), h2.start("twin")
	h2.refused(1, []string{boxes[0].addr.String(), "host1"}, "attach", boxes[0].addr.String()+"/12", twin.Ref())
	h2.must("attach", alone.addr.String()+"/12", twin.Ref())

	change(t, c.HealAll(t.Context()))
	c.wait("all see all", 20*time.Second, func() error { return c.isMesh() })
	c.wait("all tell of the address that was given twice", 2*time.Second, func() error {
		for _, n := range c.nodes {
			s, err := n.space()
			if err != nil {
				return err
			}
			if len(s.Duplicates) != 1 || s.Duplicates[0].Address != alone.addr {
				return fmt.Errorf("%s: %+v", n.Name(), s.Duplicates)
			}
			if text := strings.Join(s.Duplicates[0].Holders, " "); !strings.Contains(text, alone.Ref()) || !strings.Contains(text, twin.Ref()) {
				return fmt.Errorf("%s: %q", n.Name(), text)
			}
			if r := n.weft("status", "ipam"); r.Exit != 0 || !strings.Contains(r.Stderr, alone.addr.String()) {
				return fmt.Errorf("%v", r)
			}
		}
		return c.agreed()
	})
	if e := h1.entryOf(h2.identity()); e.IPs != lost+mine {
		t.Errorf("host2 owns %d, want %d", e.IPs, lost+mine)
	}
	c.wait("all reach all", time.Second, func() error { return linked(boxes) })
	distinct(t, addrsOf(append(boxes, alone, h1.give("late"), h2.give("late"))...))
	h2.must("detach", twin.Ref())
	c.settles("it is one's own again", 5*time.Second)
	h2.refused(1, []string{alone.addr.String(), "host1"}, "attach", alone.addr.String()+"/12", twin.Ref())
}
