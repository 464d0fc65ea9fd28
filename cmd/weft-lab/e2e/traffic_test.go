package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// marker is in everything that containers send here, and must be on no wire.
const marker = "weft-e2e-marker-b7f30c"

// Containers on three hosts reach each other in every way that an Ethernet
// segment offers, and the network between the hosts sees nothing of it.
func TestTraffic(t *testing.T) {
	parallelAs(t, racing, 10*time.Second)
	c := newCluster(t, 3)
	underlay, err := c.Capture("", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		n.launch(c.nodes[n.number%3].Addr().String())
	}
	c.waitMesh()
	boxes := c.attachEach()
	t.Run("ping", func(t *testing.T) { eachPair(t, boxes, pingAll) })
	t.Run("names", func(t *testing.T) { eachPair(t, boxes, names) })
	t.Run("tcp", func(t *testing.T) { eachPair(t, boxes, megabyteTCP) })
	t.Run("udp", func(t *testing.T) { eachPair(t, boxes, megabyteUDP) })
	t.Run("multicast", func(t *testing.T) { multicast(t, boxes) })
	t.Run("coalesced", func(t *testing.T) { coalesced(t, c) })
	t.Run("neighbours", func(t *testing.T) { oneNeighbour(t, c) })
	checkUnderlay(t, underlay, marker)
}

// oneNeighbour wants the kernel to keep no neighbour for each peer, of which it
// keeps 1,024 on the whole machine. It makes one for the host's own address.
func oneNeighbour(t *testing.T, c *cluster) {
	for _, n := range c.nodes {
		out := n.sh("ip -6 neigh show dev weft-wg nud all")
		if strings.Count(out, "fd77:") > 1 || !strings.Contains(out, "fe80::1 ") {
			t.Errorf("%s has as neighbours on its tunnel:\n%s", n.Name(), out)
		}
	}
}

func eachPair(t *testing.T, boxes []*box, f func(t *testing.T, a, b *box)) {
	for _, a := range boxes {
		for _, b := range boxes {
			if a != b {
				f(t, a, b)
			}
		}
	}
}

// tries gives one attempt this long.
func tries(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d*run.slow())
}

// linkLocal waits for the addresses that new interfaces may use only after a
// while, and returns the one of a container as seen from another.
func linkLocal(t testing.TB, of, from *box) netip.Addr {
	t.Helper()
	var a netip.Addr
	wait(t, "link-local address of "+of.Name(), 3*time.Second, func() (err error) {
		if a, err = of.LinkLocal("weft0"); err == nil {
			_, err = from.LinkLocal("weft0")
		}
		return err
	})
	a, err := from.Scoped(a, "weft0")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func pingAll(t *testing.T, a, b *box) {
	for _, to := range []netip.Addr{b.addr, linkLocal(t, b, a)} {
		for _, size := range []int{1, 9000} {
			// The first large one over IPv6 may be what teaches the sender how
			// much the path carries.
			wait(t, fmt.Sprintf("%s answers %s with %d bytes", to, a.Name(), size), 5*time.Second, func() error {
				ctx, cancel := tries(t, time.Second)
				defer cancel()
				_, err := a.Ping(ctx, to, size, []byte(marker))
				return err
			})
		}
	}
}

func names(t *testing.T, a, b *box) {
	for _, name := range []string{b.name, b.name + ".weft.internal", b.name + ".weft.internal."} {
		wait(t, a.Name()+" finds "+name, time.Second, func() error {
			ctx, cancel := tries(t, time.Second)
			defer cancel()
			got, err := a.Lookup(ctx, name, dns.TypeA)
			if err == nil && !slices.Equal(got, []netip.Addr{b.addr}) {
				err = fmt.Errorf("it is %v, want %s", got, b.addr)
			}
			return err
		})
	}
	// And with the tool that people use, through the C library's resolver.
	wait(t, a.Name()+" pings "+b.name, time.Second, func() error {
		ctx, cancel := tries(t, 10*time.Second)
		defer cancel()
		return a.Run(ctx, "ping", "-c", "1", "-W", "5", b.name).Err
	})
}

func megabyteTCP(t *testing.T, a, b *box) {
	ctx, cancel := tries(t, 30*time.Second)
	defer cancel()
	if err := lab.TransferTCP(ctx, a.Place, b.Place, b.addr, lab.Payload(1<<20, marker)); err != nil {
		t.Error(err)
	}
}

func megabyteUDP(t *testing.T, a, b *box) {
	wholeUDP(t, a, b, lab.Payload(1<<20, marker), 1200, 500*time.Microsecond)
}

// wholeUDP sends datagrams until all of a transfer came: some may be lost, for one
// while the hosts change to a better path, but not every time.
func wholeUDP(t *testing.T, a, b *box, data []byte, size int, pause time.Duration) {
	t.Helper()
	var err error
	for range 5 {
		ctx, cancel := tries(t, 5*time.Second)
		err = lab.TransferUDP(ctx, a.Place, b.Place, b.addr, data, size, pause)
		cancel()
		if err == nil {
			return
		}
		t.Log(err)
	}
	t.Error(err)
}

// multicast sends from every container to a group that all have joined.
func multicast(t *testing.T, boxes []*box) {
	for _, group := range []netip.AddrPort{
		netip.MustParseAddrPort("239.1.2.3:5000"), netip.MustParseAddrPort("[ff02::1234]:5001"),
	} {
		var conns []*net.UDPConn
		for _, b := range boxes {
			join, err := b.JoinGroup(group.Addr(), "weft0")
			if err != nil {
				t.Fatal(err)
			}
			at := netip.AddrPortFrom(group.Addr(), group.Port())
			if group.Addr().Is6() {
				at = netip.AddrPortFrom(netip.IPv6Unspecified(), group.Port())
			}
			u, err := b.ListenUDP(t.Context(), at, join)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = u.Close() }()
			conns = append(conns, u)
		}
		for i, from := range boxes {
			text := fmt.Sprintf("%s from %s to %s", marker, from.name, group)
			for j, to := range conns {
				if i == j {
					continue
				}
				wait(t, fmt.Sprintf("%s hears %s in %s", boxes[j].name, from.name, group.Addr()), time.Second, func() error {
					if err := sendTo(conns[i], group, text); err != nil {
						return err
					}
					return hear(to, text)
				})
			}
		}
	}
}

// coalesced holds that packets leave in one piece to every host: nothing here
// loses those, whichever data path takes them.
func coalesced(t *testing.T, c *cluster) {
	for _, a := range c.nodes {
		for _, b := range c.nodes {
			if a == b {
				continue
			}
			wait(t, a.Name()+" sends in one piece to "+b.Name(), time.Second, func() error {
				p, err := a.pathTo(b)
				if err == nil && p.Single {
					err = errors.New("it sends one by one")
				}
				return err
			})
		}
	}
}

func sendTo(c *net.UDPConn, group netip.AddrPort, text string) error {
	_, err := c.WriteToUDPAddrPort([]byte(text), group)
	return err
}

func hear(c *net.UDPConn, text string) error {
	if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return errors.Join(errors.New("nothing came"), err)
		}
		if string(buf[:n]) == text {
			return nil
		}
	}
}
