package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// passTime is how soon everything should pass a path that is narrow inside.
const passTime = 35 * time.Second

// narrowing is a hop between a host and host1: no interface of either host says
// what passes there, and nobody tells.
type narrowing struct {
	mtu    int // of the network in the middle
	maxUDP int // 0: any
}

func (n narrowing) String() string {
	if n.maxUDP > 0 {
		return fmt.Sprintf("no UDP above %d bytes", n.maxUDP)
	}
	return fmt.Sprintf("MTU %d inside", n.mtu)
}

// narrowTopology is host1 and, for each narrowing, a host behind it: host2, …
// It is a topology of IPv4 or of IPv6 alone.
func narrowTopology(name string, ipv6 bool, hops []narrowing) lab.Topology {
	t := lab.Topology{Name: name}
	network := func(network string, mtu int) {
		t.AddNetwork(network)
		n := &t.Networks[len(t.Networks)-1]
		n.MTU = mtu
		if ipv6 {
			n.Subnets = n.Subnets[1:]
		} else {
			n.Subnets = n.Subnets[:1]
		}
	}
	network("core", 1500)
	t.AddHost("host1", "core")
	for i, n := range hops {
		inside, far := fmt.Sprintf("narrow%d", i+2), fmt.Sprintf("lan%d", i+2)
		network(inside, n.mtu)
		network(far, 1500)
		for _, end := range []string{"core", far} {
			t.AddHost(fmt.Sprintf("router%d-%s", i+2, end), end, inside)
			r := &t.Hosts[len(t.Hosts)-1]
			r.Forward, r.HideMTU, r.MaxUDP = true, true, n.maxUDP
		}
		t.AddHost(fmt.Sprintf("host%d", i+2), far)
		t.Hosts[len(t.Hosts)-1].Gateway = fmt.Sprintf("router%d-%s", i+2, far)
	}
	// It knows the routers, and keeps to itself that it is not needed.
	t.Hosts[0].Gateway = "hub"
	t.AddHost("hub", "core")
	hub := &t.Hosts[len(t.Hosts)-1]
	hub.Forward = true
	hub.Sysctls = map[string]string{"net/ipv4/conf/all/send_redirects": "0", "net/ipv4/conf/default/send_redirects": "0"}
	return t
}

// bulk says whether large things pass between two containers, both ways: pings
// that are cut into pieces, and a megabyte over TCP.
func bulk(t testing.TB, a, b *box) error {
	for _, d := range [][2]*box{{a, b}, {b, a}} {
		ctx, cancel := tries(t, 2*time.Second)
		_, err := d[0].Ping(ctx, d[1].addr, 10000, []byte(marker))
		cancel()
		if err != nil {
			return err
		}
		ctx, cancel = tries(t, 5*time.Second)
		err = lab.TransferTCP(ctx, d[0].Place, d[1].Place, d[1].addr, lab.Payload(1<<20, marker))
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// Everything passes paths that are narrow somewhere inside, where nobody says
// so: below what weft's tunnels need as well, and also where only UDP is short.
// Over IPv6 the ordinary path is narrow already for a full packet of the switch.
func TestPathMTU(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		hops []narrowing
	}{
		{"IPv4", []narrowing{{mtu: 1280}, {mtu: 1000}, {mtu: 576}, {mtu: 1500, maxUDP: 700}}},
		{"IPv6", []narrowing{{mtu: 1280}, {mtu: 1500}}},
	} {
		if run.datapath == "kernel" && !run.all { // few hosts, one lab at a time, are enough for the guest
			tc.hops = tc.hops[len(tc.hops)/2:]
		}
		t.Run(tc.name, func(t *testing.T) {
			if run.datapath != "kernel" {
				parallelAs(t, ordinary, 15*time.Second)
			}
			testPathMTU(t, tc.name == "IPv6", tc.hops)
		})
	}
}

func testPathMTU(t *testing.T, ipv6 bool, hops []narrowing) {
	c := newGraph(t, func(name string) lab.Topology { return narrowTopology(name, ipv6, hops) })
	h1 := c.nodes[0]
	for _, n := range c.nodes {
		if n.number == 1 {
			n.launch(withoutSpace)
		} else {
			n.launch(withoutSpace, h1.AddrFor(n.Host).String())
		}
	}
	boxes := c.attachEach()
	begun := time.Now()
	for i, hop := range hops {
		c.within(hop.String()+": pings of 10,000 bytes and TCP pass", passTime, func() error { return bulk(t, boxes[0], boxes[i+1]) })
		want := hop.mtu
		if hop.maxUDP > 0 {
			want = hop.maxUDP
		}
		c.within(hop.String()+": both ends have measured it", passTime, func() error {
			there, back := h1.why(c.nodes[i+1]), c.nodes[i+1].why(h1)
			for _, w := range []int{there.PathMTU, back.PathMTU} {
				if w > want || w < want-8 {
					return fmt.Errorf("host1 says %d, host%d says %d; it is %d", there.PathMTU, i+2, back.PathMTU, want)
				}
			}
			return nil
		})
	}
	t.Logf("FIGURE path MTU: %d narrow paths found and used after %s", len(hops), time.Since(begun).Round(time.Millisecond))
	// Through host1 from the one narrow path into the other.
	n := len(boxes)
	if n > 2 {
		c.within("between the last two, too", passTime, func() error { return bulk(t, boxes[n-1], boxes[n-2]) })
	}
	for i, h := range c.nodes[1:] {
		c.within("TCP segments from "+h.Name()+" need no fragments", passTime, func() error {
			before := fragments(h)
			ctx, cancel := tries(t, 10*time.Second)
			defer cancel()
			if err := lab.TransferTCP(ctx, boxes[i+1].Place, boxes[0].Place, boxes[0].addr, lab.Payload(1<<20, marker)); err != nil {
				return err
			}
			// Gossip may have made a few.
			if made := fragments(h) - before; made > 200 {
				return fmt.Errorf("%d fragments were made for a megabyte", made)
			}
			return nil
		})
		c.within("pings of 10,000 bytes and TCP pass from "+h.Name(), passTime, func() error { return bulk(t, boxes[0], boxes[i+1]) })
		c.within("it is told that pings of 10,000 bytes did", 5*time.Second, func() error {
			if w := h.why(h1); w.Fragmented == 0 {
				return fmt.Errorf("%+v", w)
			}
			return nil
		})
	}
	for i, h := range c.nodes[1:] {
		told(c, h1, h, boxes[0], boxes[i+1])
		told(c, h, h1, boxes[i+1], boxes[0])
	}
}

// told checks what a container is told that sends more than the path to another
// one carries whole: the size that does, when its packets may not be fragmented
// and it can be told, which takes 576 bytes over IPv4 and 1280 over IPv6. All
// else passes.
func told(c *cluster, from, to *node, a, b *box) {
	c.t.Helper()
	limit := from.why(to).MTU
	ping := func(want string, args ...string) func() error {
		return func() error {
			ctx, cancel := tries(c.t, 5*time.Second)
			defer cancel()
			r := a.Run(ctx, append([]string{"ping", "-c", "1", "-W", "2"}, args...)...)
			// ping writes it in three ways.
			if out := strings.NewReplacer("mtu = ", "mtu=", "mtu: ", "mtu=").Replace(r.String()); !strings.Contains(out, want) {
				return fmt.Errorf("want %q: %s", want, out)
			}
			return nil
		}
	}
	v6 := func(x *box) string {
		at := fmt.Sprintf("fd00:77::%x", x.addr.As4()[3])
		_ = x.Run(c.t.Context(), "ip", "-6", "addr", "add", at+"/64", "dev", "weft0", "nodad") // again: it is there
		return at
	}
	_, other := v6(a), v6(b)
	const passes, full = " 1 received", 1370
	say := fmt.Sprintf("%s to %s, %d bytes pass whole: ", from.Name(), to.Name(), limit)
	answer4, answer6 := fmt.Sprintf("mtu=%d", limit), passes
	if limit < 576 {
		answer4 = passes
	}
	if limit >= 1280 {
		answer6 = fmt.Sprintf("mtu=%d", limit)
	}
	c.within(say+"a larger one that may be cut", passTime, ping(passes, "-M", "dont", "-s", fmt.Sprint(full-28), b.addr.String()))
	c.within(say+"a larger one that may not", passTime, ping(answer4, "-M", "do", "-s", fmt.Sprint(full-28), b.addr.String()))
	c.within(say+"a larger one over IPv6", passTime, ping(answer6, "-M", "do", "-s", fmt.Sprint(full-48), other))
	c.within(say+"10,000 bytes after that", passTime, ping(passes, "-s", "10000", b.addr.String()))
	c.within(say+"10,000 bytes over IPv6", passTime, ping(passes, "-s", "10000", other))
}

// fragments is how many a host has made of what it sent.
func fragments(h *node) (n int) {
	h.c.t.Helper()
	out := h.sh(`awk '/^Ip: [0-9]/ { n += $20 } /^Ip6FragCreates/ { n += $2 } END { print n }' /proc/net/snmp /proc/net/snmp6`)
	if _, err := fmt.Sscan(out, &n); err != nil {
		h.c.t.Fatal(err)
	}
	return n
}

// A path becomes narrow while it is used, and wide again.
func TestPathNarrows(t *testing.T) {
	parallelAs(t, ordinary, 25*time.Second)
	c := newGraph(t, func(name string) lab.Topology { return narrowTopology(name, false, []narrowing{{mtu: 1500}}) })
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.launch(withoutSpace)
	h2.launch(withoutSpace, h1.Addr().String())
	boxes := c.attachEach()
	measured := func(want int) func() error {
		return func() error {
			if a, b := h1.why(h2).PathMTU, h2.why(h1).PathMTU; a > want || a < want-8 || b > want || b < want-8 {
				return fmt.Errorf("the ends measured %d and %d, it is %d", a, b, want)
			}
			return nil
		}
	}
	c.within("a wide path", passTime, func() error { return errors.Join(measured(1500)(), bulk(t, boxes[0], boxes[1])) })
	if err := c.SetMTU(t.Context(), "narrow2", 900); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	c.within("it is narrow now, and everything passes", passTime, func() error { return bulk(t, boxes[0], boxes[1]) })
	t.Logf("FIGURE path MTU: a path that becomes narrow is used again after %s", time.Since(begun).Round(time.Millisecond))
	c.within("both ends have measured it", passTime, measured(900))
	if err := usesPath(h1, h2, "direct"); err != nil {
		t.Error(err)
	}
	if os.Getenv("WEFT_SOAK") == "" && !run.all {
		return
	}
	if err := c.SetMTU(t.Context(), "narrow2", 1500); err != nil {
		t.Fatal(err)
	}
	took := c.within("it is wide again, and used fully", time.Minute, func() error {
		return errors.Join(bulk(t, boxes[0], boxes[1]), measured(1500)()) // where nothing is sent nobody looks
	})
	t.Logf("FIGURE path MTU: a path that becomes wide is used fully after %s", took.Round(time.Millisecond))
}

// Networks that carry more are used fully, also through a relay.
func TestLargeMTU(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		headers int // of IP and UDP
	}{{"IPv4", 20 + 8}, {"IPv6", 40 + 8}} {
		t.Run(tc.name, func(t *testing.T) {
			if run.datapath != "kernel" {
				parallelAs(t, ordinary, 15*time.Second)
			}
			testLargeMTU(t, tc.name == "IPv6", tc.headers)
		})
	}
}

// testLargeMTU has hosts of one protocol only: where there are two they take
// either, and IPv6 leaves 16 bytes less.
func testLargeMTU(t *testing.T, ipv6 bool, headers int) {
	c := newGraph(t, func(name string) lab.Topology {
		p := lab.Chain(name, 3)
		for i := range p.Networks {
			n := &p.Networks[i]
			n.MTU = 9000
			if ipv6 {
				n.Subnets = n.Subnets[1:]
			} else {
				n.Subnets = n.Subnets[:1]
			}
		}
		return p
	})
	c.joinGraph(inOrder(3))
	boxes := c.attachEach()
	want := (9000-headers-32)/16*16 - 70 // WireGuard, which pads to 16 bytes, and what the switch adds
	for i := range 2 {
		c.within("pings of 10,000 bytes and TCP pass between host1 and "+c.nodes[i+1].Name(), passTime, func() error { return bulk(t, boxes[0], boxes[i+1]) })
	}
	c.within("the connections say so", passTime, func() error {
		for _, n := range c.nodes {
			if out := n.must("status", "connections"); strings.Count(out, fmt.Sprintf(" mtu=%d ", want)) != 2 {
				return fmt.Errorf("%s: want mtu=%d:\n%s", n.Name(), want, out)
			}
		}
		return usesPath(c.nodes[0], c.nodes[2], "host2")
	})
	underlay, err := c.Capture(c.Topology().Networks[0].Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := boxes[0].Run(t.Context(), "ping", "-c", "3", "-i", "0.2", "-M", "do", "-s", fmt.Sprint(want-28), boxes[2].addr.String()); r.Err != nil {
		t.Error(r)
	}
	frames, _ := underlay.Stop()
	longest := 0
	for _, f := range frames {
		if p := parse(f.Data); p.kind == "udp" && p.port(helloPort) { // the relay's
			longest = max(longest, len(f.Data)-14)
		}
	}
	t.Logf("FIGURE path MTU: an underlay of 9000 carries packets of %d bytes", longest)
	if longest < 9000-16 || longest > 9000 {
		t.Errorf("the longest packet of the tunnel has %d bytes, the network carries 9000", longest)
	}
}

// Somebody says that packets of a tunnel were too big, which is not true: it
// changes nothing, neither for the kernel nor for weft nor for what is sent.
func TestForgedFragNeeded(t *testing.T) {
	parallelAs(t, calm, 5*time.Second)
	c := newCluster(t, 3)
	h1, h2, stranger := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.launch(withoutSpace)
	h2.launch(withoutSpace, h1.Addr().String())
	c.waitMesh(h1, h2)
	boxes := []*box{h1.attach("c1", "10.32.0.1"), h2.attach("c2", "10.32.0.2")}
	c.within("the path is measured", passTime, func() error {
		if w := h1.why(h2); w.PathMTU != 1500 {
			return fmt.Errorf("it says %d", w.PathMTU)
		}
		return bulk(t, boxes[0], boxes[1])
	})
	eth, mac := openWire(t, stranger.Place, "eth0"), macOf(t, h1.Place, "eth0")
	forge := func(port uint16) {
		for _, pair := range [][2]netip.Addr{{h1.Addr(), h2.Addr()}, {h1.Addr6(), h2.Addr6()}} {
			for _, p := range tooBig(stranger, pair[0], pair[1], port) {
				if err := eth.send(ethernet(mac, eth.mac, p)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	routes := func() string {
		return h1.sh(fmt.Sprintf("ip route get %s; ip -6 route get %s", h2.Addr(), h2.Addr6()))
	}
	// The lie is a good one: about a port that is not weft's it is believed.
	other, err := h1.ListenUDP(t.Context(), netip.AddrPortFrom(netip.IPv4Unspecified(), 9))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	forge(9)
	wait(t, "the kernel believes what is said about other ports", time.Second, func() error {
		if out := routes(); !strings.Contains(out, "mtu 600") {
			return errors.New(out)
		}
		return nil
	})
	before := ""
	wait(t, "the kernel forgets it", time.Second, func() error {
		h1.sh("ip route flush cache; ip -6 route flush cache")
		if before = routes(); strings.Contains(before, "mtu") {
			return errors.New(before)
		}
		return nil
	})
	fast := rate(t, boxes[0], boxes[1])
	done := time.Now().Add(2 * time.Second)
	for time.Now().Before(done) {
		for _, port := range []uint16{tunnelPort, helloPort} {
			forge(port)
		}
		rest(t.Context(), 10*time.Millisecond)
	}
	if after := routes(); after != before {
		t.Errorf("the kernel believes it:\n%swas:\n%s", after, before)
	}
	if w := h1.why(h2); w.PathMTU != 1500 {
		t.Errorf("weft believes it: %d", w.PathMTU)
	}
	c.within("TCP is as fast as before", 5*time.Second, func() error { // others may want the processor for a moment
		slow := rate(t, boxes[0], boxes[1])
		t.Logf("TCP before %.0f, after %.0f Mbit/s", fast, slow)
		if slow < fast/3 {
			return fmt.Errorf("it fell from %.0f to %.0f Mbit/s", fast, slow)
		}
		return nil
	})
}

// rate sends for a while from one container to another and returns Mbit/s.
func rate(t testing.TB, a, b *box) float64 {
	t.Helper()
	data := lab.Payload(8<<20, marker)
	best := 0.0
	for range 3 {
		ctx, cancel := tries(t, 30*time.Second)
		begun := time.Now()
		if err := lab.TransferTCP(ctx, a.Place, b.Place, b.addr, data); err != nil {
			t.Fatal(err)
		}
		cancel()
		best = max(best, float64(8*len(data))/1e6/time.Since(begun).Seconds())
	}
	return best
}

// tooBig makes the message that a packet from a to b, from and to a UDP port,
// was too big for 600 bytes, or 1280 over IPv6.
func tooBig(from *node, a, b netip.Addr, port uint16) [][]byte {
	u := binary.BigEndian.AppendUint16(nil, port)
	u = append(binary.BigEndian.AppendUint16(u, port), 5, 0xb4, 0, 0)
	if a.Is4() {
		inner := ip4Packet(udp, a, b, append(u, make([]byte, 64)...), 6)
		binary.BigEndian.PutUint16(inner[2:], 1480)
		p := ip4Packet(icmp4, from.Addr(), a, append([]byte{3, 4, 0, 0, 0, 0, 600 >> 8, 600 & 0xff}, inner...), 2)
		copy(p[22:], []byte{0, 0}) // ICMP over IPv4 is summed without a pseudo header
		binary.BigEndian.PutUint16(p[22:], internetChecksum(p[20:]))
		return [][]byte{p}
	}
	inner := ip6Packet(a, b, udp, append(u, make([]byte, 600)...))
	body := append([]byte{2, 0, 0, 0, 0, 0, 1280 >> 8, 1280 & 0xff}, inner...)
	sumSegment(icmp6, from.Addr6(), a, body, 2)
	return [][]byte{ip6Packet(from.Addr6(), a, icmp6, body)}
}
