package e2e

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// resolveBy makes hosts ask the name server.
func resolveBy(t *testing.T, server netip.Addr, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		if err := n.WriteFile("etc/resolv.conf", fmt.Sprintf("nameserver %s\n", server)); err != nil {
			t.Fatal(err)
		}
	}
}

// Peers are found under a name of the DNS, in whatever form, and at another
// port, by address and by name.
func TestTargetNames(t *testing.T) {
	parallelAs(t, ordinary, 25*time.Second)
	c := newCluster(t, 4)
	usual, moved, caller, place := c.nodes[0], c.nodes[1], c.nodes[2], c.nodes[3]
	s := newNameServer(t, place, place.Addr())
	resolveBy(t, place.Addr(), caller)
	s.set("four.example.", usual.Addr())
	s.set("six.example.", usual.Addr6())
	s.set("both.example.", usual.Addr(), usual.Addr6())
	s.set("some.example.", place.Addr(), usual.Addr()) // nobody listens at the first
	s.set("moved.example.", moved.Addr())
	usual.launch()
	moved.launch("--port", "7000")
	for _, tc := range []struct {
		target string
		to     *node
	}{
		{"four.example", usual},
		{"four.example:6783", usual},
		{"six.example", usual},
		{"six.example:6783", usual},
		{"both.example", usual},
		{"some.example", usual},
		{"FOUR.Example.", usual},
		{moved.Addr().String() + ":7000", moved},
		{fmt.Sprintf("[%s]:7000", moved.Addr6()), moved},
		{"moved.example:7000", moved},
	} {
		caller.launch(tc.target)
		wait(t, caller.Name()+" reaches "+tc.target, 2*time.Second, func() error { return c.isMesh(tc.to, caller) })
		if out := caller.must("status", "targets"); out != tc.target+"\n" {
			t.Errorf("status targets prints %q, want %s as typed", out, tc.target)
		}
		caller.must("stop")
		caller.must("reset")
	}
}

// A name is resolved again at every attempt: it may appear later, and stand for
// another address whenever it likes.
func TestTargetNameChanges(t *testing.T) {
	parallelAs(t, ordinary, 25*time.Second) // it waits for attempts
	c := newCluster(t, 4)
	first, caller, second, place := c.nodes[0], c.nodes[1], c.nodes[2], c.nodes[3]
	const name = "peer.example"
	s := newNameServer(t, place, place.Addr())
	resolveBy(t, place.Addr(), caller)
	shows := func(want string) {
		t.Helper()
		wait(t, "the status says "+want, 5*time.Second, func() error {
			_, text, err := caller.connections()
			if err == nil && !strings.Contains(text, want) {
				err = fmt.Errorf("connections:\n%s", text)
			}
			return err
		})
	}
	first.launch()
	caller.launch(name)
	shows(fmt.Sprintf("-> %-21v %-11v look up %s: lookup %s on %s:53: no such host", name, "retrying", name, name, place.Addr()))
	wait(t, "it is looked up again", 3*time.Second, func() error {
		n := <-s.asked
		s.asked <- n
		if n < 6 { // A and AAAA, three times
			return fmt.Errorf("%d queries", n)
		}
		return nil
	})
	s.set(name+".", second.Addr())
	shows(fmt.Sprintf("-> %s:6783       retrying    dial tcp %s:6783: connect: connection refused", second.Addr(), second.Addr()))
	s.set(name+".", first.Addr())
	wait(t, "the name leads to the first host", 5*time.Second, func() error { return c.isMesh(first, caller) })

	// The service behind the name moves.
	second.launch()
	first.must("stop")
	s.set(name+".", second.Addr())
	wait(t, "the name leads to the second host", 5*time.Second, func() error { return c.isMesh(second, caller) })
}

// On hosts with IPv6 switched off, nothing gets it but the tunnel device, and
// the container's end of an attachment. They work among themselves and with
// hosts that have it.
func TestIPv6Off(t *testing.T) {
	parallel(t)
	off := map[string]string{"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1"}
	c := newCluster(t, 3, func(topology *lab.Topology) {
		for i := range 2 {
			topology.Hosts[i].Sysctls = off
			topology.Hosts[i].Links[0].Addresses = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i+11))}
		}
	})
	switches := func(p *lab.Place) string {
		r := p.Run(t.Context(), "sh", "-c", "cd /proc/sys/net/ipv6/conf && grep . */disable_ipv6")
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return r.Stdout
	}
	before := map[*node]string{}
	for _, n := range c.nodes[:2] {
		if before[n] = switches(n.Place); strings.Contains(before[n], ":0") {
			t.Fatalf("IPv6 is on before weft is there:\n%s", before[n])
		}
	}
	for _, n := range c.nodes {
		n.launch(c.nodes[n.number%3].Addr().String())
	}
	c.waitMesh()
	var boxes []*box
	for _, n := range c.nodes {
		p, err := n.Container(t.Context(), fmt.Sprintf("c%d", n.number), lab.ContainerOptions{
			Resolvers: []netip.Addr{resolver()}, Search: []string{"weft.internal."}, Sysctls: off, // as Docker does
		})
		if err != nil {
			t.Fatal(err)
		}
		b := &box{Container: p, n: n, name: filepath.Base(p.Name()), addr: netip.AddrFrom4([4]byte{10, 32, 0, byte(n.number)})}
		n.must("attach", b.addr.String()+"/12", b.Ref())
		n.must("dns-add", b.Ref(), "-h", b.name+".weft.internal")
		boxes = append(boxes, b)
	}
	whole(c, boxes)
	linkLocal(t, boxes[0], boxes[1])
	eachPair(t, boxes, pingAll)
	on := func(text string) []string {
		var out []string
		for line := range strings.Lines(text) {
			if link, value, _ := strings.Cut(strings.TrimSpace(line), "/disable_ipv6:"); value == "0" {
				out = append(out, link)
			}
		}
		return out
	}
	for i, n := range c.nodes[:2] {
		if diff := cmp.Diff([]string{"weft-wg"}, on(switches(n.Place))); diff != "" {
			t.Errorf("IPv6 on %s is on for (-want +got):\n%s", n.Name(), diff)
		}
		if diff := cmp.Diff([]string{"weft0"}, on(switches(boxes[i].Place))); diff != "" {
			t.Errorf("IPv6 in %s is on for (-want +got):\n%s", boxes[i].Name(), diff)
		}
		if out := n.sh("ip -6 -o addr"); strings.Count(out, "\n") != 1 || !strings.Contains(out, "weft-wg") {
			t.Errorf("IPv6 addresses of %s:\n%s", n.Name(), out)
		}
		n.must("reset")
		if diff := cmp.Diff(before[n], switches(n.Place)); diff != "" {
			t.Errorf("after reset on %s (-before +now):\n%s", n.Name(), diff)
		}
	}
}

// The network between the hosts may be IPv6, on both or on one of them alone:
// containers notice nothing, whatever the size of what they send.
func TestOverIPv6(t *testing.T) {
	parallel(t)
	for _, tc := range []struct {
		name   string
		change func(*lab.Topology)
	}{
		{"alone", func(topology *lab.Topology) { topology.Networks[0].Subnets = topology.Networks[0].Subnets[1:] }},
		{"one has IPv4", func(topology *lab.Topology) {
			topology.Hosts[1].Links[0].Addresses = []netip.Prefix{netip.MustParsePrefix("2001:db8:1::c/64")}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, 2, tc.change)
			c.nodes[0].launch()
			c.nodes[1].launch(c.nodes[0].Addr6().String())
			c.waitMesh()
			for _, n := range c.nodes {
				if _, text, _ := n.connections(); !strings.Contains(text, "[2001:db8:") {
					t.Fatalf("%s is not connected by IPv6:\n%s", n.Name(), text)
				}
			}
			boxes := c.attachEach()
			whole(c, boxes)
			linkLocal(t, boxes[0], boxes[1]) // pingAll waits for that of the second one only
			eachPair(t, boxes, pingAll)
			eachPair(t, boxes, megabyteTCP)
			// Every size around those at which packets are cut. The first that
			// does not pass whole may be what tells the sender so.
			for size := 1180; size < 1440; size++ {
				var err error
				for range 5 {
					ctx, cancel := tries(t, time.Second)
					_, err = boxes[0].Ping(ctx, boxes[1].addr, size, nil)
					cancel()
					if err == nil {
						break
					}
				}
				if err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
			}
		})
	}
}
