package bridge

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/router/kernel"
)

// What must go through the walls.
func TestDoors(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil, nil)

	t.Run("containers of two hosts", func(t *testing.T) {
		l.run(l.a.container, "ping -c 1 -W 20 10.32.0.20")
		l.run(l.b.container, "ping -c 1 -W 20 -s 1342 -M do 10.32.0.10")
	})
	t.Run("peers", func(t *testing.T) {
		l.run(l.a, "ping -c 1 -W 20 "+l.b.cfg.Overlay.String())
		gossip := echo(t, l.b.Kernel, netip.AddrPortFrom(l.b.cfg.Overlay, 6786))
		if got := ask(t, l.a.Kernel, "tcp", gossip); got != marker {
			t.Errorf("gossip by TCP: %q", got)
		}
		// By UDP both ends use the port.
		here := l.listen(l.a.Kernel, 6786)
		_, err := here.WriteToUDPAddrPort([]byte(marker), gossip)
		ok(t, err)
		if _, arrived := received(here, true); !arrived {
			t.Error("no gossip by UDP")
		}
	})
	t.Run("name server", func(t *testing.T) {
		at := echo(t, l.a.Kernel, netip.AddrPortFrom(dns, 53))
		for name, k := range map[string]*kernel.Kernel{"switch": l.a.container, "other network": l.a.neighbour, "host": l.a.Kernel} {
			for _, network := range []string{"udp", "tcp"} {
				if got := ask(t, k, network, at); got != marker {
					t.Errorf("from %s by %s: %q", name, network, got)
				}
			}
		}
	})
	t.Run("no route to containers", func(t *testing.T) {
		if out := l.run(l.a, "ip route get 10.32.0.10 || true"); strings.Contains(out, "weft") {
			t.Errorf("the host has one: %s", out)
		}
	})
}

// An exposed host is on the switch with its exposed addresses, and leads
// containers out of it; a hidden one is not, and does not.
func TestExpose(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil, nil)
	host := netip.MustParseAddr("10.32.0.1")
	for _, k := range []*kernel.Kernel{l.a.container, l.b.container} {
		ok(t, k.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: host, Link: "weft0"}))
	}
	hidden := l.a.cfg
	exposed := hidden
	exposed.Exposed = []netip.Prefix{netip.PrefixFrom(host, 12)}
	masqueraded := exposed
	masqueraded.Masquerade = exposed.Exposed

	outside := l.listen(l.stranger, 9999)
	// Each attempt sends something else: a datagram may wait for its
	// neighbour for seconds.
	attempts := 0
	next := func() string {
		attempts++
		return fmt.Sprintf("attempt %d.", attempts)
	}
	away := func(from *kernel.Kernel, expected bool) string {
		text := next()
		l.send(from, netip.AddrPort{}, to(strangerIP, 9999), []byte(text))
		as, arrived := receivedText(outside, text, expected)
		if !arrived {
			return "nothing"
		}
		return as.Addr().String()
	}
	service := l.listen(l.a.Kernel, 9998)
	atHost := func(from *kernel.Kernel, addr netip.Addr, expected bool) bool {
		text := next()
		l.send(from, netip.AddrPort{}, to(addr, 9998), []byte(text))
		_, arrived := receivedText(service, text, expected)
		return arrived
	}

	if got := away(l.a.container, false); got != "nothing" {
		t.Errorf("hidden: out as %s", got)
	}
	ok(t, l.a.bridge.Set(t.Context(), masqueraded))
	if got := away(l.a.container, true); got != l.a.underlay.String() {
		t.Errorf("masqueraded: out as %s", got)
	}
	if got := away(l.b.container, true); got != l.a.underlay.String() {
		t.Errorf("masqueraded, container of another host: out as %s", got)
	}
	l.run(l.a.container, "ping -c 1 -W 20 192.0.2.9") // and back
	l.run(l.b.container, "ping -c 1 -W 20 10.32.0.1")
	l.run(l.a, "ping -c 1 -W 20 10.32.0.20")
	if out := l.run(l.a, "ping -c 1 -W 20 10.32.0.1"); strings.Contains(out, "192.0.2.") {
		t.Errorf("the host's own traffic was masqueraded: %s", out)
	}
	if !atHost(l.b.container, host, true) {
		t.Error("exposed: no service at the exposed address")
	}
	if atHost(l.b.container, l.a.underlay, false) {
		t.Error("exposed: a service at the underlay address")
	}

	ok(t, l.a.bridge.Set(t.Context(), exposed))
	if got := away(l.b.container, true); got != "10.32.0.20" {
		t.Errorf("exposed without masquerade: out as %s", got)
	}
	// Another host may have a route to the switch through this one.
	inside := l.listen(l.b.container, 9997)
	ok(t, l.stranger.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("10.32.0.0/12"), Via: l.a.underlay, Link: "lan"}))
	wayIn := func(expected bool) bool {
		text := next()
		l.send(l.stranger, netip.AddrPort{}, to(containerIP(2), 9997), []byte(text))
		_, arrived := receivedText(inside, text, expected)
		return arrived
	}
	if !wayIn(true) {
		t.Error("exposed: no way in")
	}

	ok(t, l.a.bridge.Set(t.Context(), hidden))
	if got := away(l.a.container, false); got != "nothing" {
		t.Errorf("hidden again: out as %s", got)
	}
	if atHost(l.b.container, host, false) {
		t.Error("hidden again: a service at the address that was exposed")
	}
	if wayIn(false) {
		t.Error("hidden again: a way in")
	}
}

// Docker's policy and bridge-nf-call-iptables together stop a switch; our
// accept lets its traffic through, and no traffic of anybody else.
func TestDockerPolicy(t *testing.T) {
	t.Parallel()
	if _, err := shell(local{}, "iptables --version"); err != nil {
		t.Skip("SKIPPED: no iptables")
	}
	for _, docker := range []bool{false, true} {
		t.Run(fmt.Sprintf("DOCKER-USER=%v", docker), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, nil, nil)
			l.t = t
			if _, err := l.a.Sysctl("net/bridge/bridge-nf-call-iptables"); err != nil {
				t.Skip("SKIPPED: no br_netfilter")
			}
			ok(t, l.a.SetSysctl("net/bridge/bridge-nf-call-iptables", "1"))
			ok(t, l.a.SetSysctl("net/bridge/bridge-nf-call-ip6tables", "1"))
			for _, tables := range []string{"iptables", "ip6tables"} {
				l.run(l.a, tables+" -P FORWARD DROP")
				if docker {
					l.run(l.a, tables+" -N DOCKER-USER && "+tables+" -A DOCKER-USER -j RETURN && "+tables+" -I FORWARD -j DOCKER-USER")
				}
			}
			second := l.secondContainer(l.a)
			if _, err := shell(l.a.container, "ping -c 1 -W 1 10.32.0.30"); err == nil {
				t.Fatal("the policy does not stop the switch: the test shows nothing")
			}
			repaired, err := l.a.bridge.Check(t.Context())
			ok(t, err)
			if len(repaired) != 2 || !strings.Contains(repaired[0], "accept") {
				t.Errorf("repaired %q", repaired)
			}
			l.run(l.a.container, "ping -c 1 -W 20 10.32.0.30")
			l.run(l.a.container, "ping -c 1 -W 20 10.32.0.20")
			l.run(second, "ping -c 1 -W 20 fd00::1") // IPv6 has a policy of its own
			// The other network stays as closed as its owner wants it.
			out := l.listen(l.stranger, 9999)
			l.send(l.a.neighbour, netip.AddrPort{}, to(strangerIP, 9999), []byte(marker))
			if _, arrived := received(out, false); arrived {
				t.Error("the accept is for others, too")
			}
			// And an exposed host does not open it.
			c := l.a.cfg
			c.Exposed = []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12")}
			c.Masquerade = c.Exposed
			ok(t, l.a.bridge.Set(t.Context(), c))
			ok(t, l.a.container.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.32.0.1"), Link: "weft0"}))
			l.send(l.a.container, netip.AddrPort{}, to(strangerIP, 9999), []byte(marker))
			if _, arrived := received(out, true); !arrived {
				t.Error("exposed: not out")
			}
			neighbour := l.listen(l.a.neighbour, 9999)
			l.send(l.a.container, netip.AddrPort{}, to(neighbourIP, 9999), []byte(marker))
			if _, arrived := received(neighbour, false); arrived {
				t.Error("exposed: into the other network past its policy")
			}
		})
	}
}

// secondContainer puts another container on a host's switch, 10.32.0.30; it
// and the first have an IPv6 address.
func (l *lab) secondContainer(h *host) *kernel.Kernel {
	l.t.Helper()
	k := freshIn(l.t)
	h.plug(l.t, k, "wv2", "weft", "weft0", netip.MustParsePrefix("10.32.0.30/12"))
	ok(l.t, k.AddAddr("weft0", netip.MustParsePrefix("fd00::3/64"), true))
	ok(l.t, h.container.AddAddr("weft0", netip.MustParsePrefix("fd00::1/64"), true))
	return k
}

// echo serves UDP and TCP at an address of a namespace.
func echo(t *testing.T, k *kernel.Kernel, at netip.AddrPort) netip.AddrPort {
	t.Helper()
	var u *net.UDPConn
	var l *net.TCPListener
	ok(t, k.Do(func() (err error) {
		if u, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
			return err
		}
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	}))
	t.Cleanup(func() { _ = u.Close(); _ = l.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := u.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = u.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			_, _ = c.Write([]byte(line))
			_ = c.Close()
		}
	}()
	return at
}

// ask sends the marker and returns the answer.
func ask(t *testing.T, k *kernel.Kernel, network string, at netip.AddrPort) string {
	t.Helper()
	answer := ""
	err := k.Do(func() error {
		c, err := (&net.Dialer{Timeout: patience(true)}).Dial(network, at.String())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(deadline(true))
		if _, err = c.Write([]byte(marker + "\n")); err != nil {
			return err
		}
		answer, err = bufio.NewReader(c).ReadString('\n')
		return err
	})
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(answer)
}
