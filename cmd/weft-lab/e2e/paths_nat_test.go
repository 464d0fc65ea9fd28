package e2e

import (
	"fmt"
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

// natTable is a host in the west and one in the east for each of the kinds, behind
// a NAT of that kind, and host1, which has an address of its own. Between west
// and east are three routers, so that a probe which is to open the own NAT only,
// and lives for four hops, ends in between, as it would in the world.
func natTable(name string, kinds ...lab.NAT) lab.Topology {
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
	for i, kind := range kinds {
		t.AddNAT(fmt.Sprintf("natw%d", i+1), "west", kind, fmt.Sprintf("west%d", i+1))
		t.AddNAT(fmt.Sprintf("nate%d", i+1), "east", kind, fmt.Sprintf("east%d", i+1))
	}
	return t
}

// Every kind of NAT on the one side against every kind on the other: what can be
// direct becomes so, what cannot is relayed, and everybody reaches everybody
// from the beginning.
func TestNATs(t *testing.T) {
	t.Parallel()
	c := newGraph(t, func(name string) lab.Topology { return natTable(name, natKinds()...) })
	c.joinGraph(inOrder(len(c.nodes)))
	c.allReach(c.attachEach(), reachSoon)
	// A mapping that is the same for every destination can be foretold; one that
	// is another for each cannot, whoever tries.
	want := func(w, e lab.NAT) string {
		if w.Mapping == lab.PortPreserving && e.Mapping == lab.PortPreserving {
			return "direct"
		}
		return "host1"
	}
	// A NAT that answers strangers has to forget the first attempts, which it
	// does 30 s after the last of them.
	c.within("all 16 outcomes are as expected", 90*time.Second, func() error {
		table, wrong := c.natOutcomes(want)
		if len(wrong) > 0 {
			return fmt.Errorf("%s\n%s", strings.Join(wrong, ", "), table)
		}
		return nil
	})
	table, _ := c.natOutcomes(want)
	t.Logf("FIGURE NAT, rows in the west, columns in the east:\n%s", table)
	hold(t, "they stay so", time.Now().Add(5*time.Second), func() error {
		if table, wrong := c.natOutcomes(want); len(wrong) > 0 {
			return fmt.Errorf("%s\n%s", strings.Join(wrong, ", "), table)
		}
		return nil
	})
	for _, tc := range []struct{ on, to, says string }{{"west1", "east3", "symmetric NAT"}, {"west3", "east1", "symmetric NAT"}} {
		c.within("weft why knows the reason on "+tc.on, 10*time.Second, func() error {
			if w := c.byName(tc.on).why(c.byName(tc.to)); !strings.Contains(w.Reason, tc.says) || w.Help == "" {
				return fmt.Errorf("it says %q and %q", w.Reason, w.Help)
			}
			return nil
		})
	}
	if err := c.noFalseDeath(); err != nil {
		t.Error(err)
	}
}

// natOutcomes renders who reaches whom and how, and lists what is not as wanted.
func (c *cluster) natOutcomes(want func(w, e lab.NAT) string) (table string, wrong []string) {
	kinds := natKinds()
	name := func(n lab.NAT) string {
		return strings.Replace(fmt.Sprintf("%s/%s", n.Mapping, n.Unsolicited), "port-preserving", "keeping", 1)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-16s", "")
	for _, k := range kinds {
		fmt.Fprintf(&b, " %-16s", name(k))
	}
	for i, w := range kinds {
		west := c.byName(fmt.Sprintf("west%d", i+1))
		paths, err := west.paths()
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		fmt.Fprintf(&b, "\n%-16s", name(w))
		for j, e := range kinds {
			east := c.byName(fmt.Sprintf("east%d", j+1))
			got := pathText(paths[east.Name()])
			back, err := east.pathTo(west)
			if err == nil && pathText(back) != got {
				got += "/" + pathText(back)
			}
			fmt.Fprintf(&b, " %-16s", got)
			if got != want(w, e) {
				wrong = append(wrong, fmt.Sprintf("%s to %s: %s, want %s", west.Name(), east.Name(), got, want(w, e)))
			}
		}
	}
	return b.String(), wrong
}

// Two hosts behind NATs of the good kind come to a direct path, with the help of
// one that has an address of its own.
func TestPunching(t *testing.T) {
	t.Parallel()
	c := newGraph(t, func(name string) lab.Topology { return lab.BehindNATs(name, 3) })
	c.joinGraph(inOrder(3))
	c.allReach(c.attachEach(), reachSoon)
	h2, h3 := c.nodes[1], c.nodes[2]
	c.within("they are connected directly", 15*time.Second, func() error { return usesPath(h2, h3, "direct") })
	p, err := h2.pathTo(h3)
	if err != nil {
		t.Fatal(err)
	}
	if nat := c.Host("nat3").Addr().String(); !strings.HasPrefix(p.Address, nat+":") {
		t.Errorf("host2 reaches host3 at %s, want an address of its NAT, %s", p.Address, nat)
	}
}

// The same where both NATs answer strangers, so that whatever comes too early
// spoils the attempt: it takes one that begins when both have forgotten it.
func TestPunchingAnsweringNATs(t *testing.T) {
	t.Parallel()
	c := newGraph(t, func(name string) lab.Topology { return natTable(name, lab.NAT{Unsolicited: lab.Answer}) })
	c.joinGraph(inOrder(3))
	c.allReach(c.attachEach(), reachSoon)
	west, east := c.byName("west1"), c.byName("east1")
	c.within("they are connected directly", time.Minute, func() error { return usesPath(west, east, "direct") })
}

// Hosts that only let answers in are full members: each reaches everybody, also
// one of its own kind, and is reached.
func TestOnlyOutbound(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	if w := h2.why(h3); w.State != api.Relayed || !strings.Contains(w.Reason+w.Help, "weft connect") {
		t.Errorf("weft why host3 on host2: %q, %q", w.Reason, w.Help)
	}
}
