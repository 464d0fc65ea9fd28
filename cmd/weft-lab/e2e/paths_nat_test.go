package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
	"github.com/weftnet/weft/router/api"
)

// natKinds are the four kinds of NAT that a lab makes.
func natKinds() []lab.NAT {
	var out []lab.NAT
	for _, m := range []lab.Mapping{lab.PortPreserving, lab.RandomPort} {
		for _, u := range []lab.Unsolicited{lab.Drop, lab.Answer} {
			out = append(out, lab.NAT{Mapping: m, Unsolicited: u})
		}
	}
	return out
}

// natPair is a host in the west and one in the east, each behind a NAT, and host1,
// which has an address of its own. Between west and east are three routers, so
// that a probe which is to open the own NAT only, and lives for four hops, ends
// in between, as it would in the world.
func natPair(name string, west, east lab.NAT) lab.Topology {
	t := lab.Topology{Name: name}
	networks := []string{"west", "middle1", "middle2", "east"}
	for _, n := range networks {
		t.AddNetwork(n)
	}
	t.AddHost("host1", "east")
	t.Hosts[0].Gateway = "router3"
	for i := range 3 {
		t.AddHost(fmt.Sprintf("router%d", i+1), networks[i], networks[i+1])
		t.Hosts[len(t.Hosts)-1].Forward = true
	}
	t.AddNAT("natw", "west", west, "host2")
	t.AddNAT("nate", "east", east, "host3")
	return t
}

// Every kind of NAT on the one side against every kind on the other: what can be
// direct becomes so, what cannot is relayed, and everybody reaches everybody
// from the beginning. Each pair is alone: Linux gives new destinations a port
// that somebody else's early packet has moved, for as long as anybody uses it.
func TestNATs(t *testing.T) {
	t.Parallel()
	for i, west := range natKinds() {
		for j, east := range natKinds() {
			t.Run(fmt.Sprintf("%d-%d %s %s, %s %s", i, j, west.Mapping, west.Unsolicited, east.Mapping, east.Unsolicited), func(t *testing.T) {
				parallelAs(t, ordinary, 20*time.Second)
				// A mapping that is the same for every destination can be
				// foretold; one that is another for each cannot, whoever tries.
				want := "host1"
				if west.Mapping == lab.PortPreserving && east.Mapping == lab.PortPreserving {
					want = "direct"
				}
				c := newGraph(t, func(name string) lab.Topology { return natPair(name, west, east) })
				c.joinGraph(inOrder(3))
				c.allReach(c.attachEach(), reachSoon)
				// What a NAT that answers has seen too early it forgets after
				// 30 s; the attempt is repeated after 40.
				path := func() error { return usesPath(c.nodes[1], c.nodes[2], want) }
				took := c.within("the path is "+want, 90*time.Second, path)
				t.Logf("FIGURE NAT %s/%s and %s/%s: %s after %s", west.Mapping, west.Unsolicited, east.Mapping, east.Unsolicited, want, took.Round(100*time.Millisecond))
				hold(t, "it stays so", time.Now().Add(4*time.Second), path)
				if err := c.noFalseDeath(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A host that two others see at different ports knows that its NAT gives every
// destination another one, and so does who asks why the path is relayed.
func TestSymmetricNAT(t *testing.T) {
	parallel(t)
	c := newGraph(t, func(name string) lab.Topology {
		topology := lab.BehindNATs(name, 3)
		topology.AddHost("host4", "internet")
		i := slices.IndexFunc(topology.Hosts, func(h lab.HostSpec) bool { return h.Name == "nat3" })
		topology.Hosts[i].NAT = &lab.NAT{Mapping: lab.RandomPort}
		return topology
	})
	c.joinGraph(inOrder(4))
	c.allReach(c.attachEach(), reachSoon)
	h2, h3 := c.byName("host2"), c.byName("host3")
	for _, pair := range [][2]*node{{h2, h3}, {h3, h2}} {
		c.within("weft why knows the reason on "+pair[0].Name(), 15*time.Second, func() error {
			w := pair[0].why(pair[1])
			if w.State != api.Relayed || !strings.Contains(w.Reason, "symmetric NAT") || w.Help == "" {
				return fmt.Errorf("it is %s by %v; it says %q and %q", w.State, w.Via, w.Reason, w.Help)
			}
			return nil
		})
	}
}

// Two hosts behind NATs of the good kind come to a direct path, with the help of
// one that has an address of its own.
func TestPunching(t *testing.T) {
	parallel(t)
	c := newGraph(t, func(name string) lab.Topology { return lab.BehindNATs(name, 3) })
	c.joinGraph(inOrder(3))
	c.allReach(c.attachEach(), reachSoon)
	h2, h3 := c.nodes[1], c.nodes[2]
	c.within("they are connected directly", 15*time.Second, func() error { return usesPath(h2, h3, "direct") })
	c.within("it is the NAT's address", 5*time.Second, func() error {
		p, err := h2.pathTo(h3)
		if nat := c.Host("nat3").Addr().String(); err == nil && !strings.HasPrefix(p.Address, nat+":") {
			err = fmt.Errorf("host2 reaches host3 at %s, want an address of its NAT, %s", p.Address, nat)
		}
		return err
	})
}

// Hosts that only let answers in are full members: each reaches everybody, also
// one of its own kind, and is reached.
func TestOnlyOutbound(t *testing.T) {
	parallel(t)
	c := newGraph(t, func(name string) lab.Topology {
		topology := lab.Flat(name, 4)
		topology.Hosts[1].Firewall, topology.Hosts[2].Firewall = true, true
		return topology
	})
	c.joinGraph(inOrder(4))
	boxes := c.attachEach()
	c.allReach(boxes, reachSoon)
	whole(c, boxes)
	c.within("all paths are direct in the end", 20*time.Second, func() error { return c.isMesh() })
}

// Hosts that dial nobody but those they are told to reach the others through
// these.
func TestNoDiscovery(t *testing.T) {
	parallel(t)
	c := newCluster(t, 3)
	c.nodes[0].launch(withoutSpace)
	for _, n := range c.nodes[1:] {
		n.launch(withoutSpace, "--no-discovery", c.nodes[0].Addr().String())
	}
	c.allReach(c.attachEach(), reachSoon)
	h2, h3 := c.nodes[1], c.nodes[2]
	relayed := func() error { return usesPath(h2, h3, "host1") }
	c.within("they are relayed", reachSoon, relayed)
	hold(t, "they stay so", time.Now().Add(5*time.Second), relayed)
	c.within("weft why names the remedy", 5*time.Second, func() error {
		if w := h2.why(h3); w.State != api.Relayed || !strings.Contains(w.Reason+w.Help, "weft connect") {
			return fmt.Errorf("%s, %q, %q", w.State, w.Reason, w.Help)
		}
		return nil
	})
}
