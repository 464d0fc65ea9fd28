package bridge

import (
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// redirectLab is a host with the name server's address on its switch, and a
// container that has an interface there and another one to the outside, by way
// of which the host cannot be reached.
func redirectLab(t *testing.T) (host, container *kernel.Kernel) {
	t.Helper()
	host, container = kerneltest.Fresh(t), kerneltest.Fresh(t)
	ok(t, host.AddVeth("weft", 1370, container, "weft0", kernel.MAC{}))
	ok(t, host.AddVeth("gw", 1500, container, "eth1", kernel.MAC{}))
	for _, a := range []struct {
		k    *kernel.Kernel
		link string
		addr string
	}{
		{host, "weft", "169.254.67.83/32"},
		{host, "gw", "172.18.0.1/16"},
		{container, "weft0", "10.32.0.10/12"},
		{container, "eth1", "172.18.0.10/16"},
	} {
		ok(t, a.k.AddAddr(a.link, netip.MustParsePrefix(a.addr), true))
	}
	for _, l := range []struct {
		k    *kernel.Kernel
		name string
	}{{host, "weft"}, {host, "gw"}, {container, "weft0"}, {container, "eth1"}, {container, "lo"}} {
		ok(t, l.k.SetUp(l.name, true))
	}
	for _, k := range []*kernel.Kernel{host, container} { // the strictest
		ok(t, k.SetSysctl("net/ipv4/conf/all/rp_filter", "1"))
	}
	ok(t, host.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("10.32.0.0/12"), Link: "weft", Scope: kernel.ScopeLink}))
	ok(t, container.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("169.254.67.83/32"), Link: "weft0", Scope: kernel.ScopeLink}))
	ok(t, container.ReplaceRoute(kernel.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("172.18.0.1"), Link: "eth1"}))
	return host, container
}

// answers says who it is to whoever asks, over UDP and TCP, until the test
// ends.
func answers(t *testing.T, k *kernel.Kernel, at, who string) {
	t.Helper()
	var udp net.PacketConn
	var tcp net.Listener
	ok(t, k.Do(func() (err error) {
		if udp, err = net.ListenPacket("udp4", at); err == nil {
			tcp, err = net.Listen("tcp4", at)
		}
		return err
	}))
	done := make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 100)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(who+" "+from.(*net.UDPAddr).IP.String()), from)
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(who + " " + c.RemoteAddr().(*net.TCPAddr).IP.String()))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_, _ = udp.Close(), tcp.Close()
		<-done
		<-done
	})
}

// query returns the answer, empty for none; it waits long for one that is
// expected.
func query(t *testing.T, k *kernel.Kernel, network, at string, expected bool) string {
	t.Helper()
	wait := time.Second
	if expected {
		wait = 20 * time.Second
	}
	buf := make([]byte, 100)
	n := 0
	_ = k.Do(func() error {
		d := net.Dialer{Timeout: wait}
		c, err := d.Dial(network, at)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(wait))
		if _, err = c.Write([]byte("?")); err == nil {
			n, err = c.Read(buf)
		}
		return err
	})
	return string(buf[:n])
}

func TestRedirect(t *testing.T) {
	host, container := redirectLab(t)
	answers(t, host, "169.254.67.83:53", "weft")
	answers(t, container, "127.0.0.11:53", "docker")
	r := NewRedirect(dns)
	nothing := [4]string{"", "", "docker 127.0.0.1", "docker 127.0.0.1"}
	all := [4]string{"weft 10.32.0.10", "weft 10.32.0.10", "docker 127.0.0.1", "docker 127.0.0.1"}
	look := func(when string, want [4]string) {
		t.Helper()
		got := [4]string{
			query(t, container, "udp", "192.0.2.53:53", want[0] != ""), query(t, container, "tcp", "192.0.2.53:53", want[1] != ""),
			query(t, container, "udp", "127.0.0.11:53", true), query(t, container, "tcp", "127.0.0.11:53", true),
		}
		if got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	look("before", nothing)
	ok(t, r.Remove(container)) // nothing there
	for range 2 {
		ok(t, r.Set(container, "weft0"))
		look("set", all)
	}
	if got := query(t, container, "udp", "169.254.67.83:53", true); got != "weft 10.32.0.10" {
		t.Errorf("asked itself: %q", got)
	}
	// Also where there is no way to the outside.
	outside := kernel.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("172.18.0.1"), Link: "eth1"}
	ok(t, container.DelRoute(outside))
	look("on an internal network", all)
	// A name server on the switch is left alone.
	ok(t, host.AddAddr("weft", netip.MustParsePrefix("10.32.0.53/32"), true))
	answers(t, host, "10.32.0.53:53", "another")
	for want, r := range map[string]*Redirect{"weft 10.32.0.10": r, "another 10.32.0.10": NewRedirect(dns, netip.MustParsePrefix("10.32.0.0/12"))} {
		ok(t, r.Set(container, "weft0"))
		if got := query(t, container, "udp", "10.32.0.53:53", true); got != want {
			t.Errorf("a name server on the switch: %q, want %q", got, want)
		}
	}
	ok(t, container.ReplaceRoute(outside))
	ok(t, r.Remove(container))
	look("removed", nothing)
	ok(t, r.Remove(container))
	rules, err := container.Rules()
	ok(t, err)
	for _, r := range rules {
		if r.DestPort != 0 {
			t.Errorf("a rule is left: %+v", r)
		}
	}
}

// TestRedirectLeavesOthersAlone: rules like those of Docker's resolver, in the
// container's own tables, survive ours and go on working.
func TestRedirectLeavesOthersAlone(t *testing.T) {
	host, container := redirectLab(t)
	answers(t, host, "169.254.67.83:53", "weft")
	answers(t, container, "127.0.0.11:4053", "docker")
	ok(t, container.Do(func() error {
		for _, line := range []string{
			"add table ip nat",
			"add chain ip nat OUTPUT { type nat hook output priority -100 ; }",
			"add chain ip nat POSTROUTING { type nat hook postrouting priority 100 ; }",
			"add rule ip nat OUTPUT ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:4053",
			"add rule ip nat OUTPUT ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:4053",
			"add rule ip nat POSTROUTING ip saddr 127.0.0.11 udp sport 4053 snat to 127.0.0.11:53",
		} {
			if out, err := runNFT(line); err != nil {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
		}
		return nil
	}))
	r := NewRedirect(dns)
	ok(t, r.Set(container, "weft0"))
	for _, network := range []string{"udp", "tcp"} {
		if got := query(t, container, network, "127.0.0.11:53", true); got != "docker 127.0.0.1" {
			t.Errorf("docker's resolver over %s: %q", network, got)
		}
		if got := query(t, container, network, "192.0.2.53:53", true); got != "weft 10.32.0.10" {
			t.Errorf("another one over %s: %q", network, got)
		}
	}
	ok(t, r.Remove(container))
	ok(t, container.Do(func() error {
		out, err := runNFT("list ruleset")
		if !strings.Contains(out, "127.0.0.11:4053") || strings.Contains(out, "weft") {
			t.Errorf("afterwards:\n%s", out)
		}
		return err
	}))
}

// runNFT runs one command of nft where it is called.
func runNFT(line string) (string, error) {
	out, err := exec.Command("nft", line).CombinedOutput()
	return string(out), err
}
