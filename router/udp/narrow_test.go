package udp

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/weftnet/weft/router/kerneltest"
)

const aloneEnv = "WEFT_TEST_ALONE"

// alone reports whether the test is alone in a network namespace. If not, it
// has run it there, and the caller returns.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneEnv) == t.Name() {
		return true
	}
	kerneltest.NeedRoot(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), aloneEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("alone: %v\n%s", err, out)
	}
	return false
}

// run runs ip(8).
func run(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
}

// fragments counts those that this host has made.
func fragments(t *testing.T, ipv6 bool) (n int) {
	t.Helper()
	if ipv6 {
		b, err := os.ReadFile("/proc/net/snmp6")
		must(t, err)
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); f[0] == "Ip6FragCreates" {
				_, err = fmt.Sscan(f[1], &n)
				must(t, err)
				return n
			}
		}
		t.Fatal("not counted")
	}
	b, err := os.ReadFile("/proc/net/snmp")
	must(t, err)
	lines := strings.Split(string(b), "\n")
	for i, name := range strings.Fields(lines[0]) {
		if name == "FragCreates" {
			_, err = fmt.Sscan(strings.Fields(lines[1])[i], &n)
			must(t, err)
			return n
		}
	}
	t.Fatal("not counted")
	return 0
}

// A packet that exceeds a route's MTU leaves whole by Forward, which ignores
// it, and in fragments by Fragment; also when it could be coalesced.
func TestFragment(t *testing.T) {
	if !alone(t) {
		return
	}
	run(t, "link add v0 type veth peer v1")
	run(t, "link set v1 up")
	run(t, "link set v0 up")
	run(t, "addr add 10.1.0.1/24 dev v0")
	run(t, "addr add 2001:db8:1::1/64 dev v0 nodad")
	for _, x := range []struct {
		network, to string
		mtu, pieces int // of 1408 bytes of UDP
	}{{"udp4", "10.1.0.2", 600, 3}, {"udp6", "2001:db8:1::2", 1280, 2}} {
		ipv6 := x.network == "udp6"
		run(t, "neigh add "+x.to+" lladdr 02:00:00:00:00:01 dev v0")
		run(t, fmt.Sprintf("route add %s dev v0 mtu lock %d", x.to, x.mtu))
		s, err := Listen(x.network, 0)
		must(t, err)
		f := Flow{Remote: netip.AddrPortFrom(netip.MustParseAddr(x.to), 9)}
		list := []Message{{f, make([]byte, 10*1400), 1400}, {f, make([]byte, 100), 0}}
		for range 2 {
			before := fragments(t, ipv6)
			must(t, s.Forward(list))
			if n := fragments(t, ipv6) - before; n != 0 {
				t.Errorf("to %s: Forward made %d fragments", x.to, n)
			}
			must(t, s.Fragment(list))
			if n := fragments(t, ipv6) - before; n != 10*x.pieces {
				t.Errorf("to %s: Fragment made %d fragments, want %d", x.to, n, 10*x.pieces)
			}
		}
		must(t, s.Close())
	}
}
