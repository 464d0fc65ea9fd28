package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
	"github.com/weftnet/weft/router/api"
)

// movedTime is how soon traffic should flow again after a host has moved.
const movedTime = 10 * time.Second

// A host gets other addresses, its NAT gives it another port, and it moves to
// behind another NAT: traffic flows again by itself, and its name and addresses
// stay.
func TestHostMoves(t *testing.T) {
	parallelAs(t, ordinary, 20*time.Second)
	c := newGraph(t, func(name string) lab.Topology {
		topology := lab.BehindNATs(name, 3)
		topology.AddHost("host4", "internet")
		return topology
	})
	c.joinGraph(inOrder(4))
	boxes := c.attachEach()
	c.allReach(boxes, reachSoon)
	ctx := t.Context()
	for _, tc := range []struct {
		what string
		who  int // number of the host
		move func() error
	}{
		{"an open host gets other addresses", 4, func() error { return c.Renumber(ctx, "host4", "internet") }},
		{"a host behind a NAT gets another address", 2, func() error { return c.Renumber(ctx, "host2", "nat2-lan") }},
		{"its NAT gives it another port", 2, func() error {
			return c.SetEdge(ctx, "nat2", lab.Edge{NAT: &lab.NAT{Ports: map[uint16]uint16{helloPort: 7783, tunnelPort: 7784}}})
		}},
		{"its NAT forgets all it knew", 2, func() error { return c.SetEdge(ctx, "nat2", lab.Edge{NAT: &lab.NAT{}}) }},
		{"its NAT gets another address", 2, func() error { return c.Renumber(ctx, "nat2", "internet") }},
		{"it moves to behind another NAT", 2, func() error {
			return c.Rehome(ctx, "host2", "nat2-lan", lab.Link{Network: "nat3-lan"}, "nat3")
		}},
		{"it moves into the open", 2, func() error { return c.Rehome(ctx, "host2", "nat3-lan", lab.Link{Network: "internet"}, "") }},
	} {
		mover := boxes[tc.who-1]
		id := mover.n.identity()
		var pulses []*pulse
		for _, b := range boxes {
			if b != mover {
				pulses = append(pulses, startPulse(t, mover, b))
			}
		}
		for _, p := range pulses {
			p.steady(t)
		}
		begun := time.Now()
		if err := tc.move(); err != nil {
			t.Fatal(err)
		}
		c.within(tc.what+": traffic with everybody flows again", movedTime, func() error {
			for i, p := range pulses {
				now := time.Now()
				if now.Sub(begun) < time.Second || p.answers.gap(now.Add(-500*time.Millisecond), now) > 200*time.Millisecond {
					return fmt.Errorf("pulse %d does not beat yet", i)
				}
			}
			return nil
		})
		var longest time.Duration
		for _, p := range pulses {
			longest = max(longest, p.answers.gap(begun, time.Now()))
			p.stop()
		}
		t.Logf("FIGURE %s: traffic interrupted for %s at most", tc.what, longest.Round(10*time.Millisecond))
		if now := mover.n.identity(); now != id {
			t.Errorf("%s: it was %v, now it is %v", tc.what, id, now)
		}
		for _, b := range boxes {
			c.wait(tc.what+": "+b.Name()+" knows it", time.Second, func() error { return b.knows(mover) })
		}
	}
	if err := c.noFalseDeath(); err != nil {
		t.Error(err)
	}
}

// One host has addresses of IPv4 only, one of IPv6 only; they meet through the
// third, which has both.
func TestBothFamilies(t *testing.T) {
	parallel(t)
	c := newGraph(t, func(name string) lab.Topology {
		topology := lab.Flat(name, 3)
		topology.Hosts[1].Links[0].Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.40/24")}
		topology.Hosts[2].Links[0].Addresses = []netip.Prefix{netip.MustParsePrefix("2001:db8:1::60/64")}
		return topology
	})
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.launch(withoutSpace)
	h2.launch(withoutSpace, h1.Addr().String())
	h3.launch(withoutSpace, h1.Addr6().String())
	boxes := c.attachEach()
	c.allReach(boxes, reachSoon)
	c.within("they meet through the host with both", 5*time.Second, func() error {
		return errors.Join(usesPath(h2, h3, "host1"), usesPath(h1, h2, "direct"), usesPath(h1, h3, "direct"))
	})
	if w := h2.why(h3); !strings.Contains(w.Reason, "protocol") {
		t.Errorf("weft why host3 on host2: %q, %q", w.Reason, w.Help)
	}
}

// Two hosts are on two networks. They leave the one that dies, and the one that
// is much slower, and do not go back and forth.
func TestSeveralInterfaces(t *testing.T) {
	parallelAs(t, calm, 70*time.Second)
	c := newGraph(t, func(name string) lab.Topology {
		topology := lab.Topology{Name: name}
		topology.AddNetwork("first")
		topology.AddNetwork("second")
		for i := range 2 {
			topology.AddHost(fmt.Sprintf("host%d", i+1), "first", "second")
		}
		return topology
	})
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.launch(withoutSpace)
	h2.launch(withoutSpace, h1.Addr().String())
	boxes := c.attachEach()
	c.allReach(boxes, reachSoon)
	on := func(network string) func() error {
		return func() error {
			for _, pair := range [][2]*node{{h1, h2}, {h2, h1}} {
				w := pair[0].why(pair[1])
				to, err := netip.ParseAddrPort(w.Address)
				if err != nil {
					return err
				}
				links := pair[1].Spec().Links
				i := map[string]int{"first": 0, "second": 1}[network]
				if !strings.Contains(fmt.Sprint(links[i].Addresses), to.Addr().String()+"/") {
					return fmt.Errorf("%s reaches %s at %s, which is not on the %s network", pair[0].Name(), pair[1].Name(), to, network)
				}
			}
			return nil
		}
	}
	used, other := "first", "second"
	if on(used)() != nil {
		used, other = other, used
	}
	c.within("both use one network", 5*time.Second, on(used))
	p := startPulse(t, boxes[0], boxes[1])
	p.steady(t)
	begun := time.Now()
	if err := c.SetFault(t.Context(), lab.Fault{Network: used, Percent: 100}); err != nil {
		t.Fatal(err)
	}
	c.within("the "+used+" network dies: both use the other", 4*time.Second, on(other))
	p.steady(t)
	t.Logf("FIGURE one of two interfaces dies: pings interrupted for %s", p.answers.gap(begun, time.Now()).Round(10*time.Millisecond))
	if err := c.HealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	changes := h1.why(h2).Changes
	hold(t, "both stay there, as long as it is as good as the first", time.Now().Add(5*time.Second), on(other))
	if now := h1.why(h2).Changes; now != changes {
		t.Errorf("the path changed %d times", now-changes)
	}
	begun = time.Now()
	for _, n := range c.nodes {
		if err := c.SetShape(n.Name(), other, lab.Shape{Delay: 30 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
	}
	c.within("the "+other+" network is 60 ms slower now: both use the first again", 60*time.Second, on(used))
	gap := p.answers.gap(begun, time.Now())
	t.Logf("FIGURE change to the faster of two interfaces: pings interrupted for %s", gap.Round(10*time.Millisecond))
	if gap > 10*breakTime*run.slow() {
		t.Errorf("changing to the faster path interrupted pings for %s", gap)
	}
}

// A new host that only one other can reach makes nobody take anybody for dead.
func TestReachedByOneOnly(t *testing.T) {
	parallelAs(t, calm, 30*time.Second)
	c := newGraph(t, func(name string) lab.Topology {
		topology := lab.Flat(name, 6)
		topology.Faults = lab.Except(topology, func(a, b string) bool {
			return a != "host6" && b != "host6" || a == "host1" || b == "host1"
		})
		return topology
	})
	c.joinGraph(inOrder(5))
	boxes := c.nodes[4].attach("c5", "10.32.0.5")
	c.within("five are a mesh", 5*time.Second, func() error { return c.isMesh(c.nodes[:5]...) })
	h6 := c.nodes[5]
	h6.launch(withoutSpace, c.nodes[0].Addr().String())
	new6 := h6.attach("c6", "10.32.0.6")
	c.within("the new one reaches those that it does not see", reachSoon, func() error {
		return errors.Join(new6.reaches(boxes), boxes.reaches(new6))
	})
	whole := func() error {
		for _, n := range c.nodes {
			paths, err := n.paths()
			if err != nil {
				return err
			}
			states := map[api.State]int{}
			for _, p := range paths {
				states[p.State]++
			}
			if len(paths) != 5 || states[api.Established]+states[api.Relayed] != 5 {
				return fmt.Errorf("%s: %v", n.Name(), states)
			}
		}
		return nil
	}
	c.within("everybody is connected to everybody", reachSoon, whole)
	hold(t, "nobody is taken for dead", time.Now().Add(foundDead), func() error { return errors.Join(c.noFalseDeath(), whole()) })
}
