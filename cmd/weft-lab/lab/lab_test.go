package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestHostsSeeEachOther(t *testing.T) {
	l := up(t, Flat("", 3))
	for _, a := range l.Hosts() {
		for _, b := range l.Hosts() {
			if err := ping(t, a, b.Addr()); err != nil {
				t.Error(err)
			}
			if err := ping(t, a, b.Addr6()); err != nil {
				t.Error(err)
			}
		}
	}
	h1, h2 := l.Host("host1"), l.Host("host2")
	data := Payload(1<<20, "marker")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := TransferTCP(ctx, h1.Place, h2.Place, h2.Addr(), data); err != nil {
		t.Error(err)
	}
	if err := TransferUDP(ctx, h1.Place, h2.Place, h2.Addr6(), data[:1<<17], 1000, 100*time.Microsecond); err != nil {
		t.Error(err)
	}
}

func TestHostsAreTheirOwn(t *testing.T) {
	l := up(t, Flat("", 2))
	h1, h2 := l.Host("host1"), l.Host("host2")
	sh := func(h *Host, script string) string {
		t.Helper()
		r := h.Run(t.Context(), "sh", "-c", script)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return strings.TrimSpace(r.Stdout)
	}
	if got := sh(h1, "hostname; cat /etc/hostname"); got != "host1\nhost1" {
		t.Errorf("host name: %q", got)
	}
	if a, b := sh(h1, "cat /etc/machine-id"), sh(h2, "cat /etc/machine-id"); a == b || len(a) != 32 {
		t.Errorf("machine ids %q and %q", a, b)
	}
	for _, dir := range []string{"/run", "/var/run", "/etc", "/var/lib", "/var/lib/docker"} {
		sh(h1, "mkdir "+dir+"/weft-lab-test && echo mine > "+dir+"/weft-lab-test/file")
		for _, elsewhere := range []string{dir, h2.Root() + dir} {
			if _, err := os.Stat(elsewhere + "/weft-lab-test"); err == nil {
				t.Errorf("%s: what host1 wrote is seen at %s", dir, elsewhere)
			}
		}
		if dir == "/run" {
			sh(h1, "rm -r /run/weft-lab-test")
		}
	}
	if got, err := strconv.Atoi(sh(h1, "ls /proc | grep -c '^[0-9]*$'")); err != nil || got > 9 {
		t.Errorf("host1 sees %d processes, %v", got, err)
	}
	if got := sh(h1, "ls /sys/class/net"); got != "eth0\nlo" {
		t.Errorf("/sys of host1 shows %q", got)
	}
	sh(h1, "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter")
	if got := sh(h1, "grep host2 /etc/hosts | head -1"); got != h2.Addr().String()+" host2" {
		t.Errorf("/etc/hosts: %q", got)
	}
}

func TestRunReportsExit(t *testing.T) {
	t.Parallel()
	l := up(t, Flat("", 1))
	h := l.Host("host1")
	r := h.RunInput(t.Context(), "in", "sh", "-c", "cat; echo out; echo err >&2; exit 3")
	if r.Exit != 3 || r.Stdout != "inout\n" || r.Stderr != "err\n" || r.Err == nil {
		t.Errorf("%+v", r)
	}
	if r := h.Run(t.Context(), "no-such-program"); r.Exit != -1 || r.Err == nil {
		t.Errorf("%+v", r)
	}
	p, err := h.Start(t.Context(), h.LogFile("sleep"), "sh", "-c", "echo begun; exec sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log fills", func() error {
		b, err := os.ReadFile(p.Log)
		if err == nil && string(b) != "begun\n" {
			err = fmt.Errorf("log: %q", b)
		}
		return err
	})
	if err := p.Signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("killed process ended with %v", err)
	}
	// A daemon left behind holds the output open but not the command.
	if r := h.Run(t.Context(), "sh", "-c", "sleep 1000 & echo ok"); r.Err != nil || r.Stdout != "ok\n" {
		t.Errorf("%+v", r)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	l := up(t, Flat("", 3))
	ctx := t.Context()
	h1, h2, h3 := l.Host("host1"), l.Host("host2"), l.Host("host3")
	all := func(name string, want map[*Host]map[*Host]bool) {
		t.Helper()
		for a, to := range want {
			for b, ok := range to {
				c, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
				if ok {
					cancel()
					c, cancel = context.WithTimeout(ctx, 10*time.Second)
				}
				_, err := a.Ping(c, b.Addr(), 10, nil)
				cancel()
				if (err == nil) != ok {
					t.Errorf("%s: ping from %s to %s: %v, want it to pass: %v", name, a.Name(), b.Name(), err, ok)
				}
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	all("whole", map[*Host]map[*Host]bool{h1: {h2: true, h3: true}, h2: {h3: true}})
	must(l.Cut(ctx, "host1"))
	all("host1 cut", map[*Host]map[*Host]bool{h1: {h2: false, h3: false}, h2: {h3: true, h1: false}})
	must(l.Heal(ctx, "host1"))
	must(l.CutPair(ctx, "host1", "host2"))
	all("pair cut", map[*Host]map[*Host]bool{h1: {h2: false, h3: true}, h2: {h1: false, h3: true}})
	must(l.HealPair(ctx, "host1", "host2"))
	all("healed", map[*Host]map[*Host]bool{h1: {h2: true, h3: true}, h2: {h1: true}})

	// One way: what host1 sends to host2 is lost, what host2 sends arrives.
	must(l.CutOneWay(ctx, "host1", "host2"))
	all("one way", map[*Host]map[*Host]bool{h1: {h2: false, h3: true}, h2: {h1: false}})
	in, err := h1.ListenUDP(ctx, netip.AddrPortFrom(h1.Addr(), 4000))
	must(err)
	defer func() { _ = in.Close() }()
	out, err := h2.Dial(ctx, "udp", netip.AddrPortFrom(h1.Addr(), 4000))
	must(err)
	defer func() { _ = out.Close() }()
	_, err = out.Write([]byte("hello"))
	must(err)
	must(in.SetReadDeadline(time.Now().Add(10 * time.Second)))
	buf := make([]byte, 10)
	if n, err := in.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("over the way that stays: %q, %v", buf[:n], err)
	}
	must(l.HealAll(ctx))

	must(l.SetFault(ctx, Fault{Network: "lan", Percent: 100}))
	all("network cut", map[*Host]map[*Host]bool{h1: {h2: false}, h2: {h3: false}})
	must(l.HealAll(ctx))

	must(l.Loss(ctx, "host1", 30))
	ends := []udpPort{openUDP(t, h1, 0), openUDP(t, h2, 0)}
	for i, from := range ends {
		for range 200 {
			from.send(ends[1-i].at(), "some")
		}
	}
	must(l.HealAll(ctx))
	for i, from := range ends {
		from.send(ends[1-i].at(), "last") // nothing overtakes on the way
		lost := 200 - ends[1-i].count(t, "some", "last")
		// Far from none and from all is what is claimed.
		if lost < 20 || lost > 150 {
			t.Errorf("at 30 %% loss each way %d of 200 packets from %s were lost", lost, from.h.Name())
		}
	}
	all("healed", map[*Host]map[*Host]bool{h1: {h2: true}})
	if err := l.Cut(ctx, "host9"); err == nil {
		t.Error("an unknown host was cut")
	}
}

func TestRouter(t *testing.T) {
	t.Parallel()
	p := netip.MustParsePrefix
	l := up(t, Topology{
		Networks: []Network{
			{Name: "a", Subnets: []netip.Prefix{p("192.0.2.0/24"), p("2001:db8:1::/64")}},
			{Name: "b", Subnets: []netip.Prefix{p("198.51.100.0/24"), p("2001:db8:2::/64")}, MTU: 1400},
		},
		Hosts: []HostSpec{
			{Name: "r", Forward: true, Links: []Link{{Network: "a"}, {Network: "b"}}},
			{Name: "h1", Gateway: "r", Links: []Link{{Network: "a"}}},
			{Name: "h2", Gateway: "r", Links: []Link{{Network: "b", Addresses: []netip.Prefix{p("198.51.100.77/24"), p("2001:db8:2::77/64")}}}},
		},
	})
	h1, h2 := l.Host("h1"), l.Host("h2")
	if h2.Addr() != netip.MustParseAddr("198.51.100.77") {
		t.Errorf("address of h2: %s", h2.Addr())
	}
	for _, a := range []netip.Addr{h2.Addr(), h2.Addr6()} {
		if err := ping(t, h1, a); err != nil {
			t.Error(err)
		}
	}
	if err := l.CutPair(t.Context(), "h1", "h2"); err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{h2.Addr(), h2.Addr6()} {
		if answers(t, h1, a) {
			t.Errorf("%s answers across a cut", a)
		}
	}
	if err := ping(t, h1, l.Host("r").Addr()); err != nil {
		t.Error(err)
	}
}

func TestCapture(t *testing.T) {
	l := up(t, Flat("", 2))
	var pcap bytes.Buffer
	file, err := l.Capture("lan", &pcap)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Capture("lan", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Host("host1").Ping(t.Context(), l.Host("host2").Addr(), 100, []byte("needle")); err != nil {
		t.Fatal(err)
	}
	// Request and answer have passed, so they are recorded, whether or not somebody
	// has had the time to read them.
	frames, missed := c.Stop()
	var from []string
	for _, f := range frames {
		if bytes.Contains(f.Data, []byte("needle")) {
			from = append(from, f.From)
		}
	}
	if strings.Join(from, " ") != "host1 host2" {
		t.Errorf("the needle was sent by %v, want once by host1 and once by host2", from)
	}
	if missed != 0 {
		t.Errorf("%d frames were missed", missed)
	}
	file.Stop()
	if !bytes.HasPrefix(pcap.Bytes(), []byte{0xd4, 0xc3, 0xb2, 0xa1}) || bytes.Count(pcap.Bytes(), []byte("needle")) != 2 {
		t.Errorf("the file of %d bytes has the needle %d times", pcap.Len(), bytes.Count(pcap.Bytes(), []byte("needle")))
	}
	if _, err := l.Capture("wan", nil); err == nil {
		t.Error("a network that is not there can be captured")
	}
}

func TestShape(t *testing.T) {
	l := up(t, Flat("", 2))
	h1, h2 := l.Host("host1"), l.Host("host2")
	if err := l.SetShape("host2", "lan", Shape{RateKbit: 20_000}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	begun := time.Now()
	if err := TransferTCP(ctx, h1.Place, h2.Place, h2.Addr(), Payload(2<<20, "")); err != nil {
		t.Fatal(err)
	}
	// 2 MiB at 20 Mbit/s are 0.84 s; without the limit it is some milliseconds.
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("2 MiB at 20 Mbit/s took only %s", took)
	}
	if err := l.SetShape("host2", "lan", Shape{}); err != nil {
		t.Fatal(err)
	}
	if err := l.SetShape("host2", "wan", Shape{}); err == nil {
		t.Error("a link that is not there has a shape")
	}
}

func TestReboot(t *testing.T) {
	t.Parallel()
	topology := Flat("", 2)
	topology.Hosts[0].Containers = []string{"c1"}
	l := up(t, topology)
	h := l.Host("host1")
	if r := h.Run(t.Context(), "sh", "-c", "mkdir -p /etc/weft /var/lib/weft; touch /etc/weft/kept /var/lib/weft/kept /run/lost; sleep 1000 >/dev/null 2>&1 &"); r.Err != nil {
		t.Fatal(r.Err)
	}
	if err := l.Loss(t.Context(), "host2", 1); err != nil {
		t.Fatal(err)
	}
	before := h.Containers()["c1"]
	if err := h.Halt(); err != nil {
		t.Fatal(err)
	}
	if answers(t, l.Host("host2"), h.Addr()) {
		t.Error("a halted host answers")
	}
	if err := h.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := h.Run(t.Context(), "ls", "/etc/weft/kept", "/var/lib/weft/kept", "/run/lost"); r.Stdout != "/etc/weft/kept\n/var/lib/weft/kept\n" {
		t.Errorf("after a reboot: %v", r)
	}
	if h.Containers()["c1"] == before {
		t.Error("the container is still the old one")
	}
	eventually(t, "host2 reaches the rebooted host", func() error { return pingWithin(t, l.Host("host2"), h.Addr(), time.Second) })
}

func TestContainers(t *testing.T) {
	l := up(t, Flat("", 1))
	h := l.Host("host1")
	c, err := h.Container(t.Context(), "c1", ContainerOptions{
		Resolvers: []netip.Addr{netip.MustParseAddr("169.254.67.83")}, Search: []string{"weft.internal."},
		Sysctls: map[string]string{"net/ipv6/conf/all/disable_ipv6": "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := c.Run(t.Context(), "sh", "-c", "hostname; cat /etc/resolv.conf /proc/sys/net/ipv6/conf/all/disable_ipv6; ls /sys/class/net")
	if want := "c1\n# written by weft-lab\nnameserver 169.254.67.83\nsearch weft.internal.\n1\nlo\n"; r.Stdout != want {
		t.Errorf("in the container: %q, want %q", r.Stdout, want)
	}
	r = h.Run(t.Context(), "sh", "-c", fmt.Sprintf("tr '\\0' ' ' < /proc/%d/cmdline", c.PID()))
	if !strings.HasPrefix(r.Stdout, initName+" host1/c1") {
		t.Errorf("the host knows %s as %q", c.Ref(), r.Stdout)
	}
	if _, err := h.Container(t.Context(), "c1", ContainerOptions{}); err == nil {
		t.Error("two containers have one name")
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a killed container is gone", func() error { // its init is yet to reap it
		if r := h.Run(t.Context(), "ls", fmt.Sprintf("/proc/%d/ns/net", c.PID())); r.Exit == 0 {
			return errors.New("it is still there")
		}
		return nil
	})
}
