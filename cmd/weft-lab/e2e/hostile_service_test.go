package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// The ports of a host's service: one socket for both families, one for IPv4.
const (
	bothPort = 4321
	ip4Port  = 4322
)

// startService starts a service on all addresses of a host; the ear hears who
// reaches it.
func startService(t testing.TB, p *lab.Place) *ear {
	t.Helper()
	e := newEar()
	for network, port := range map[string]int{"tcp": bothPort, "tcp4": ip4Port} {
		var l *net.TCPListener
		err := p.Do(func() (err error) {
			l, err = net.ListenTCP(network, &net.TCPAddr{Port: port})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.AcceptTCP()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = c.Close() }()
					_ = c.SetDeadline(time.Now().Add(5 * time.Second))
					if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
						e.hear(strings.TrimSpace(line))
					}
				}()
			}
		}()
	}
	e.hearDatagrams(t, p, "udp", bothPort)
	e.hearDatagrams(t, p, "udp4", ip4Port)
	return e
}

// knock returns a shot that says the text over a new TCP connection. It does
// not wait for it: a lost packet would take a second.
func knock(t testing.TB, p *lab.Place, to netip.AddrPort) func(string) error {
	return func(text string) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Second)
		go func() {
			defer cancel()
			if c, err := p.Dial(ctx, "tcp", to); err == nil {
				_, _ = fmt.Fprintln(c, text)
				_ = c.Close()
			}
		}()
		time.Sleep(2 * time.Millisecond)
		return nil
	}
}

// A service on all addresses of a host can be reached neither from containers
// nor through the tunnels, until the host is exposed; then containers reach it
// at that address, and at no other.
func TestHostileService(t *testing.T) {
	parallelAs(t, racing, 8*time.Second)
	s := newSiege(t)
	neighbour := s.host.attach("neighbour", "10.32.0.3")
	heard := startService(t, s.host.Place)
	// The worst of hosts: it would find its way back to a container, and take
	// packets that come by another way than its answers go.
	s.host.sh(`echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/weft/rp_filter
		echo 0 > /proc/sys/net/ipv6/conf/weft/accept_dad; ip route add 10.32.0.0/12 dev weft`)
	mac := macOf(t, s.host.Place, "weft")
	linkLocal := netip.AddrFrom16([16]byte{
		0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5],
	})
	for _, b := range []*box{neighbour, s.friend} {
		r := b.Run(t.Context(), "sh", "-c", fmt.Sprintf(`set -e
			ip route add %[1]s/32 dev weft0
			for a in %[1]s %[3]s %[4]s; do ip neigh replace $a lladdr %[2]s dev weft0; done`,
			s.host.Addr(), mac, linkLocal, resolver()))
		if r.Err != nil {
			t.Fatal(r)
		}
	}
	on := func(n *node, rules ...string) wall { return wall{n: n, rules: rules} }
	local := []wall{on(s.host, "names-local"), on(s.peer, "names-local")}
	// ways are all ways to the service that nobody may go.
	ways := func() []attack {
		answers := []wall{on(s.host, "switch-input", "switch-output")}
		out := []attack{}
		add := func(name string, from *lab.Place, to netip.AddrPort, walls ...wall) {
			shoot := s.asRoot(t, from).shot(u6(netip.AddrPortFrom(netip.IPv6Unspecified(), 0)), to, nil, 0)
			if to.Addr().Is4() {
				shoot = s.asRoot(t, from).shot(u4(netip.AddrPortFrom(netip.IPv4Unspecified(), 0)), to, nil, 0)
			}
			out = append(out,
				attack{name: name + ", UDP", ear: heard, walls: walls, shoot: shoot},
				attack{name: name + ", TCP", ear: heard, walls: walls, shoot: knock(t, from, to)})
		}
		for _, b := range []*box{neighbour, s.friend} {
			from := "container of this host, "
			server := answers
			if b == s.friend {
				from = "container of another host, "
				server = append(server[:1:1], local...)
			}
			add(from+"name server's address", b.Place, netip.AddrPortFrom(resolver(), bothPort), server...)
			if b == neighbour {
				add(from+"name server's address, IPv4 service", b.Place, netip.AddrPortFrom(resolver(), ip4Port), server...)
			}
			add(from+"underlay address", b.Place, netip.AddrPortFrom(s.host.Addr(), bothPort), answers...)
			scoped, err := b.Scoped(linkLocal, "weft0")
			if err != nil {
				t.Fatal(err)
			}
			on6 := answers[0]
			on6.ipv6 = true
			add(from+"link-local address", b.Place, netip.AddrPortFrom(scoped, bothPort), on6)
		}
		overlay := netip.AddrPortFrom(s.host.overlay(), bothPort)
		add("peer, overlay address", s.peer.Place, overlay, on(s.host, "tunnel-input"), on(s.peer, "tunnel-input"))
		return out
	}

	t.Run("hidden", func(t *testing.T) {
		s.fend(t, ways())
		s.stranger.sh(fmt.Sprintf("ip -6 route add %s/128 via %s dev eth0", s.host.overlay(), s.host.Addr6()))
		overlay := netip.AddrPortFrom(s.host.overlay(), bothPort)
		s.fend(t, []attack{{
			name: "stranger, overlay address, TCP", ear: heard, walls: []wall{on(s.host, "overlay-origin", "overlay-leak", "overlay-leak-late")},
			shoot: knock(t, s.stranger.Place, overlay),
		}})
	})
	exposed := netip.MustParseAddr("10.32.0.100")
	knocks := func() (out []attack) {
		for _, b := range []*box{neighbour, s.friend} {
			for _, port := range []uint16{bothPort, ip4Port} {
				at := netip.AddrPortFrom(exposed, port)
				out = append(out, attack{name: fmt.Sprintf("%s, exposed address, port %d", b.name, port), ear: heard, shoot: knock(t, b.Place, at)})
			}
		}
		return out
	}
	t.Run("exposed", func(t *testing.T) {
		s.host.must("expose", exposed.String()+"/12")
		for _, a := range knocks() {
			text := s.text(a.name)
			wait(t, a.name, time.Second, func() error {
				_ = a.shoot(text)
				if !heard.wait(text, 100*time.Millisecond) {
					return fmt.Errorf("not heard")
				}
				return nil
			})
		}
		s.mustMiss(t, ways())
	})
	t.Run("hidden again", func(t *testing.T) {
		s.host.must("hide", exposed.String()+"/12")
		s.mustMiss(t, knocks())
		s.mustMiss(t, ways())
	})
}
