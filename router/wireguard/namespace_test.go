package wireguard

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weftnet/weft/router/kernel"
)

// Tests that make interfaces run this binary again in namespaces of its own:
//
//	test ── unshare ──▶ the same test, alone with a fresh network and /var/run
//	                      └─ unshare ──▶ a host, told by lines of JSON what to do
const (
	aloneEnv = "WEFT_TEST_ALONE"
	hostEnv  = "WEFT_TEST_HOST"
	// kernelEnv makes hosts use the kernel's WireGuard.
	kernelEnv = "WEFT_TEST_KERNEL"
)

func TestMain(m *testing.M) {
	if os.Getenv(hostEnv) != "" {
		if err := hostMain(); err != nil {
			fmt.Fprintln(os.Stderr, "host:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// unshared is this binary in a new network and mount namespace.
func unshared(args ...string) *exec.Cmd {
	return exec.Command("unshare", append([]string{"--net", "--mount", "--propagation", "private", "--", os.Args[0]}, args...)...)
}

// alone reports whether the test is alone in its namespaces. If not, it has
// run it there, and the caller returns.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneEnv) == t.Name() {
		must(t, privateRun())
		run(t, "ip", "link", "set", "lo", "up")
		return true
	}
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("this needs root, and CI must not leave it out")
		}
		t.Skip("SKIPPED: this needs root")
	}
	cmd := unshared("-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), aloneEnv+"="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("alone: %v\n%s", err, out)
	} else {
		t.Logf("alone:\n%s", out)
	}
	return false
}

// privateRun hides the machine's /var/run, where control sockets live.
func privateRun() error {
	dir, err := filepath.EvalSymlinks("/var/run")
	if err != nil {
		return err
	}
	return unix.Mount("none", dir, "tmpfs", 0, "")
}

func run(t testing.TB, command ...string) string {
	t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
	return string(out)
}

// order is what a host is told; answer is what it says.
type order struct {
	Set      *Config
	Readd    *Peer
	Initiate *[32]byte
	Send     *parcel
	Next     bool // wait for a signal
	Run      []string
}

// parcel is a signal to or from somewhere.
type parcel struct {
	At      netip.AddrPort
	To      netip.Addr // which address of ours it came to
	B       []byte
	Options SendOptions
}

type answer struct {
	Err, Out string
	Signal   parcel
	Peers    []PeerStatus
}

// hostMain is a host: a device in namespaces of its own.
func hostMain() error {
	if err := privateRun(); err != nil {
		return err
	}
	k, err := kernel.New()
	if err != nil {
		return err
	}
	signals := make(chan parcel, 100)
	d, err := Open(Options{
		Name: name, Mode: hostMode(), Links: k,
		Receive: func(from netip.AddrPort, to netip.Addr, b []byte) {
			signals <- parcel{At: from, To: to, B: bytes.Clone(b)}
		},
	})
	if err != nil {
		return err
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return errors.Join(d.Close(), k.Close())
		}
		var a answer
		switch {
		case o.Set != nil:
			err = d.Set(*o.Set)
		case o.Readd != nil:
			err = d.Readd(*o.Readd)
		case o.Initiate != nil:
			err = d.Initiate(*o.Initiate)
		case o.Send != nil:
			err = d.Send(o.Send.At, o.Send.B, o.Send.Options)
		case o.Next:
			select {
			case a.Signal = <-signals:
			case <-time.After(20 * time.Second):
				err = errors.New("no signal came")
			}
		case o.Run != nil:
			var b []byte
			b, err = exec.Command(o.Run[0], o.Run[1:]...).CombinedOutput()
			a.Out = string(b)
		default:
			a.Peers, err = d.Peers()
		}
		if err != nil {
			a.Err = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

// hostMode is the kernel's WireGuard on demand, in a machine that has it:
//
//	CGO_ENABLED=0 go test -c -o wg.test ./router/wireguard
//	scripts/kernel-guest/run --append WEFT_TEST_KERNEL=1 wg.test -test.run 'TestTwoHosts|TestNarrowPath'
func hostMode() Mode {
	if os.Getenv(kernelEnv) != "" {
		return Kernel
	}
	return Userspace
}

// remote is a host in a process of its own.
type remote struct {
	t   *testing.T
	pid int
	in  io.Writer
	out *bufio.Reader
}

func startHost(t *testing.T) *remote {
	t.Helper()
	cmd := unshared()
	cmd.Env = append(os.Environ(), hostEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("host: %v", err)
		}
	})
	r := &remote{t, cmd.Process.Pid, in, bufio.NewReader(out)}
	r.tell(order{}) // it is there
	return r
}

func (r *remote) tell(o order) answer {
	r.t.Helper()
	must(r.t, json.NewEncoder(r.in).Encode(o))
	line, err := r.out.ReadBytes('\n')
	must(r.t, err)
	var a answer
	must(r.t, json.Unmarshal(line, &a))
	if a.Err != "" {
		r.t.Fatalf("host: %s\n%s", a.Err, a.Out)
	}
	return a
}

func (r *remote) run(command ...string) string {
	r.t.Helper()
	return r.tell(order{Run: command}).Out
}

// Two hosts with in-process devices, over real sockets: whatever goes between
// their overlay addresses arrives.
func TestTwoHosts(t *testing.T) {
	if !alone(t) {
		return
	}
	a, b := startHost(t), startHost(t)
	run(t, "ip", "link", "add", "ea", "type", "veth", "peer", "eb")
	for i, h := range []*remote{a, b} {
		dev := []string{"ea", "eb"}[i]
		run(t, "ip", "link", "set", dev, "netns", fmt.Sprint(h.pid))
		h.run("ip", "addr", "add", fmt.Sprintf("10.0.0.%d/24", i+1), "dev", dev)
		h.run("ip", "-6", "addr", "add", fmt.Sprintf("2001:db8::%d/64", i+1), "dev", dev, "nodad")
		h.run("ip", "link", "set", dev, "up")
		h.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/"+name+"/disable_ipv6")
	}
	var keys [2]wgtypes.Key
	var peers [2]Peer
	for i := range keys {
		keys[i] = clamp(key(byte(i + 1)))
		peers[i] = Peer{
			PublicKey: keys[i].PublicKey(), PresharedKey: key(9), Overlay: overlay(byte(i + 1)),
			Keepalive: 25 * time.Second, MTU: 1350,
		}
	}
	cfg := func(i int, p ...Peer) *Config {
		return &Config{PrivateKey: keys[i], ListenPort: 6784, MTU: 1444, Address: overlay(byte(i + 1)), FwMark: 7, Peers: p}
	}
	b.tell(order{Set: cfg(1, peers[0])}) // without an endpoint: it learns
	for _, endpoint := range []string{"10.0.0.2:6784", "[2001:db8::2]:6784"} {
		p := peers[1]
		p.Endpoint = netip.MustParseAddrPort(endpoint)
		a.tell(order{Set: cfg(0, p)})
		a.tell(order{Readd: &p})
		for _, size := range []string{"8", "1200", "1400", "9000"} {
			a.run("ping", "-6", "-c", "2", "-i", "0.2", "-W", "20", "-s", size, overlay(2).String())
		}
		b.run("ping", "-6", "-c", "2", "-i", "0.2", "-W", "20", overlay(1).String())
		got := a.tell(order{}).Peers
		if len(got) != 1 || got[0].Endpoint != p.Endpoint || got[0].LastHandshake.IsZero() || got[0].RxBytes < 9000 {
			t.Errorf("peers after pings: %+v", got)
		}
		got = b.tell(order{}).Peers
		if len(got) != 1 || got[0].Endpoint.Port() != 6784 {
			t.Errorf("peers at the other end: %+v", got)
		}
		k := p.PublicKey
		a.tell(order{Initiate: &k})
		a.run("ping", "-6", "-c", "1", "-W", "20", overlay(2).String())
	}

	show := a.run("wg", "show", name)
	for _, want := range []string{"listening port: 6784", "fwmark: 0x7", "endpoint: [2001:db8::2]:6784", "persistent keepalive: every 25 seconds", overlay(2).String() + "/128"} {
		if !strings.Contains(show, want) {
			t.Errorf("wg show has no %q:\n%s", want, show)
		}
	}
	addrs := a.run("ip", "-o", "addr", "show", "dev", name)
	if strings.Count(addrs, "inet") != 1 || !strings.Contains(addrs, overlay(1).String()+"/128") || strings.Contains(addrs, "tentative") {
		t.Errorf("addresses:\n%s", addrs)
	}
	if r := a.run("ip", "-6", "route", "get", overlay(2).String()); !strings.Contains(r, "dev "+name) || !strings.Contains(r, "mtu 1350") {
		t.Errorf("route: %s", r)
	}
	before := a.run("ip", "-6", "route")
	a.tell(order{Set: cfg(0)})
	if after := a.run("ip", "-6", "route"); !strings.Contains(before, overlay(2).String()) || strings.Contains(after, overlay(2).String()) {
		t.Errorf("routes with the peer:\n%swithout:\n%s", before, after)
	}
}

func TestUserspaceLife(t *testing.T) {
	if !alone(t) {
		return
	}
	leaks := goleak.IgnoreCurrent()
	k, err := kernel.New()
	must(t, err)
	must(t, os.MkdirAll(socketDir, 0o755))
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(name), Net: "unix"})
	must(t, err)
	dead.SetUnlinkOnClose(false)
	must(t, dead.Close()) // what a killed predecessor leaves

	var wrapped int
	d, err := Open(Options{Name: name, Mode: Userspace, Links: k, WrapTUN: func(d tun.Device) tun.Device { wrapped++; return d }})
	must(t, err)
	if d.Mode() != Userspace || wrapped != 1 {
		t.Errorf("mode %s, wrapped %d times", d.Mode(), wrapped)
	}
	info, err := os.Stat(socketPath(name))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("control socket has mode %o", info.Mode().Perm())
	}
	if left, _ := filepath.Glob(socketDir + "/.*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	taken, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 6784})
	must(t, err)
	if err := d.Set(config()); err == nil || !strings.Contains(err.Error(), "UDP port 6784 is taken by another program") {
		t.Errorf("port in use: %v", err)
	}
	must(t, taken.Close())
	set(t, d, config(peer(2)))
	first := run(t, "ip", "-d", "addr", "show", "dev", name) + run(t, "ip", "-6", "route")
	set(t, d, config(peer(2)))
	if again := run(t, "ip", "-d", "addr", "show", "dev", name) + run(t, "ip", "-6", "route"); again != first {
		t.Errorf("set again:\n%sfirst:\n%s", again, first)
	}
	if !strings.Contains(first, "mtu 1444") || !strings.Contains(first, "fd77:6566:7400::200 via fe80::1 dev weft-wg") {
		t.Errorf("after Set:\n%s", first)
	}
	if mtus := pathMTUDiscovery(t, 6784); !slices.Equal(mtus, []int{unix.IP_PMTUDISC_OMIT, unix.IPV6_PMTUDISC_OMIT}) {
		t.Errorf("path MTU discovery of the sockets: %v", mtus)
	}

	run(t, "ip", "link", "set", name, "down") // closes the sockets
	set(t, d, config(peer(2)))
	waitFor(t, "the sockets to be open again", func() bool {
		return slices.Equal(pathMTUDiscovery(t, 6784), []int{unix.IP_PMTUDISC_OMIT, unix.IPV6_PMTUDISC_OMIT})
	})
	run(t, "ip", "link", "del", name) // ends wireguard-go
	waitFor(t, "the device to end", func() bool {
		select {
		case <-d.local.Done():
			return true
		default:
			return false
		}
	})
	set(t, d, config(peer(2)))
	if wrapped != 2 {
		t.Errorf("wrapped %d times", wrapped)
	}
	run(t, "wg", "show", name)

	if _, err := Open(Options{Name: name, Mode: Userspace, Links: k}); err == nil || !strings.Contains(err.Error(), "another process holds it") {
		t.Errorf("a second device of that name: %v", err)
	}
	c, err := net.Dial("unix", socketPath(name)) // a client that never goes
	must(t, err)
	must(t, d.Close())
	must(t, d.Close())
	must(t, c.Close())
	if _, err := os.Stat(socketPath(name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("control socket after Close: %v", err)
	}
	if _, err := k.Link(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("interface after Close: %v", err)
	}
	must(t, Remove(k, name))
	if _, err := os.Stat(socketDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory after Remove: %v", err)
	}
	must(t, k.Close())
	goleak.VerifyNone(t, leaks)
}

// pathMTUDiscovery returns the setting of this process's UDP sockets on a port,
// IPv4 first.
func pathMTUDiscovery(t *testing.T, port int) []int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	var v4, v6 []int
	for _, e := range fds {
		var fd int
		_, _ = fmt.Sscan(e.Name(), &fd)
		if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_DGRAM {
			continue
		}
		sa, err := unix.Getsockname(fd)
		if err != nil {
			continue
		}
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			if v, err := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER); err == nil && sa.Port == port {
				v4 = append(v4, v)
			}
		case *unix.SockaddrInet6:
			if v, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER); err == nil && sa.Port == port {
				v6 = append(v6, v)
			}
		}
	}
	return append(v4, v6...)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if ok() {
			return
		}
		<-tick.C
	}
	t.Fatalf("waited in vain for %s", what)
}
