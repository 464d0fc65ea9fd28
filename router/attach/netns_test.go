package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weftnet/weft/router/kernel"
	"github.com/weftnet/weft/router/kerneltest"
)

// container is a process in a network namespace of its own.
type container struct {
	path string
	pid  int
	stop func()
}

func startContainer(t *testing.T) *container {
	t.Helper()
	cmd := exec.Command("sleep", "3600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	// The signal comes when the thread ends that started the process.
	runtime.LockOSThread()
	err := cmd.Start()
	runtime.UnlockOSThread()
	check(t, err)
	c := &container{pid: cmd.Process.Pid, path: fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)}
	c.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(c.stop)
	return c
}

func (c *container) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", c.pid)}, args...)...).CombinedOutput()
	return string(out), err
}

// linkLocal waits until weft0 has a link-local address, which the kernel makes a
// moment after the link came up, and returns all that it has.
func (c *container) linkLocal(t *testing.T) (addrs string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		out, err := c.run(t, "ip", "addr", "show", "dev", "weft0")
		check(t, err)
		if addrs = out; strings.Contains(out, "inet6 fe80::") {
			return out
		}
	}
	t.Errorf("inside: no link-local address in\n%s", addrs)
	return addrs
}

// reaches pings until there is an answer: a port of a bridge forwards a moment
// after its link came up, and who is not found within three questions is given
// up. It ends before a stale ARP entry would expire (15 s).
func (c *container) reaches(t *testing.T, addr string) {
	t.Helper()
	var out string
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if out, err = c.run(t, "ping", "-c", "1", "-W", "1", addr); err == nil {
			return
		}
	}
	t.Fatalf("ping %s: %v\n%s", addr, err, out)
}

func open(path string) (Guest, error) { return kernel.Open(path) }

// realHost is a fresh namespace with a switch in it.
func realHost(t *testing.T) (*kernel.Kernel, *Attacher) {
	t.Helper()
	host := kerneltest.Fresh(t)
	check(t, host.AddBridge("weft", kernel.MAC{2, 0, 0, 0, 0, 1}, 1370))
	check(t, host.SetUp("weft", true))
	return host, New(host, open, Config{MTU: func() int { return 1370 }, DNS: prefix("169.254.67.83/32").Addr()})
}

func TestNamespaces(t *testing.T) {
	host, a := realHost(t)
	c1, c2 := startContainer(t), startContainer(t)
	ns1, err := a.Identify(c1.path)
	check(t, err)
	ns2, err := a.Identify(c2.path)
	check(t, err)
	if ns1.Cookie == 0 || ns1 == ns2 {
		t.Errorf("identities %v and %v: want two, with cookies", ns1, ns2)
	}
	spec1 := Spec{Label: "one", Addresses: prefixes("10.32.0.1/12", "10.32.0.3/12"), Multicast: true}
	spec2 := Spec{Label: "two", Addresses: prefixes("10.32.0.2/12"), Multicast: true}
	st, err := a.Set(c1.path, ns1, spec1)
	check(t, err)
	_, err = a.Set(c2.path, ns2, spec2)
	check(t, err)
	for range 2 {
		if st, err := a.Set(c1.path, ns1, spec1); err != nil || len(st.Changed) != 0 {
			t.Errorf("asking twice: %q, %v", st.Changed, err)
		}
	}

	out := c1.linkLocal(t)
	for _, want := range []string{st.MAC.String(), "mtu 1370", "inet 10.32.0.1/12"} {
		if !strings.Contains(out, want) {
			t.Errorf("inside: want %q in\n%s", want, out)
		}
	}
	out, err = c1.run(t, "ip", "route")
	check(t, err)
	for _, want := range []string{"224.0.0.0/4 dev weft0", "169.254.67.83 dev weft0"} {
		if !strings.Contains(out, want) {
			t.Errorf("inside: want %q in\n%s", want, out)
		}
	}
	if addrs, err := host.Addrs(ns1.HostEnd()); err != nil || len(addrs) != 0 {
		t.Errorf("the host's end has addresses %v, %v", addrs, err)
	}
	c1.reaches(t, "10.32.0.2")

	// The first address of a subnet goes, the second stays.
	spec1.Remove, spec1.Addresses = prefixes("10.32.0.1/12"), prefixes("10.32.0.3/12")
	_, err = a.Set(c1.path, ns1, spec1)
	check(t, err)
	c2.reaches(t, "10.32.0.3")
	if out, err := c2.run(t, "ping", "-c", "1", "-W", "1", "10.32.0.1"); err == nil {
		t.Errorf("the address that was taken answers:\n%s", out)
	}
}

// TestTakeover wants frames to follow an address to another container at once,
// though nobody's ARP entry has expired.
func TestTakeover(t *testing.T) {
	_, a := realHost(t)
	client := startContainer(t)
	attach := func(c *container, addr string) Namespace {
		ns, err := a.Identify(c.path)
		check(t, err)
		_, err = a.Set(c.path, ns, Spec{Addresses: prefixes(addr)})
		check(t, err)
		return ns
	}
	attach(client, "10.32.0.9/12")
	for i := range 5 {
		c := startContainer(t)
		ns := attach(c, "10.32.0.1/12")
		if out, err := client.run(t, "ping", "-c", "1", "-W", "10", "10.32.0.1"); err != nil {
			t.Fatalf("container %d is not reachable at once: %v\n%s", i, err, out)
		}
		check(t, a.Remove(ns))
	}
}

func TestContainerDies(t *testing.T) {
	host, a := realHost(t)
	c := startContainer(t)
	ns, err := a.Identify(c.path)
	check(t, err)
	_, err = a.Set(c.path, ns, Spec{Addresses: prefixes("10.32.0.1/12")})
	check(t, err)
	c.stop()
	if _, err := a.Set(c.path, ns, Spec{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Set after its death: %v", err)
	}
	check(t, a.Remove(ns))
	if _, err := host.Link(ns.HostEnd()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the host's end after its death: %v", err)
	}
}

// TestManyAtOnce attaches and detaches with eight callers and wants everything
// to return to its former number.
func TestManyAtOnce(t *testing.T) {
	host, a := realHost(t)
	const containers, callers, rounds = 40, 8, 5 // 200 attachments
	var cs []*container
	for range containers {
		cs = append(cs, startContainer(t))
	}
	count := func() (fds, links int) {
		list, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		l, err := a.Links()
		check(t, err)
		return len(list), len(l)
	}
	fds, links := count()
	ignore := goleak.IgnoreCurrent()
	var wg sync.WaitGroup
	errs := make([]error, callers)
	for caller := range callers {
		wg.Go(func() {
			for i := range containers * rounds {
				if i%callers == caller && errs[caller] == nil {
					errs[caller] = once(a, cs[i%containers], i)
				}
			}
		})
	}
	wg.Wait()
	check(t, errors.Join(errs...))
	goleak.VerifyNone(t, ignore)
	if f, l := count(); f != fds || l != links {
		t.Errorf("descriptors %d, links %d; want %d and %d", f, l, fds, links)
	}
	all, err := host.Links()
	check(t, err)
	if slices.ContainsFunc(all, func(l kernel.Link) bool { return isHostEnd(l.Name) }) {
		t.Error("host ends are left")
	}
}

func once(a *Attacher, c *container, i int) error {
	ns, err := a.Identify(c.path)
	if err != nil {
		return err
	}
	spec := Spec{Multicast: true, Addresses: prefixes(fmt.Sprintf("10.32.%d.%d/12", i/200, 1+i%200))}
	if _, err := a.Set(c.path, ns, spec); err != nil {
		return err
	}
	return a.Remove(ns)
}

// TestEndpointInNamespace does an engine's part with ip, the way engines do:
// IPv6 is off inside, and the interface moved from the host's namespace.
func TestEndpointInNamespace(t *testing.T) {
	host, a := realHost(t)
	c, client := startContainer(t), startContainer(t)
	ns, err := a.Identify(client.path)
	check(t, err)
	_, err = a.Set(client.path, ns, Spec{Addresses: prefixes("10.32.0.9/12")})
	check(t, err)
	ip := func(args ...string) {
		t.Helper()
		if out, err := c.run(t, args...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	ip("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	id := "e"
	for round := range 3 {
		guest, err := a.AddEndpoint(id, kernel.MAC{2, 1, 1, 1, 1, byte(round)}, true)
		check(t, err)
		spec := Spec{Addresses: prefixes("10.32.0.1/12"), Multicast: true}
		if _, _, err := a.SettleEndpoint(c.path, id, spec, nil); !errors.Is(err, ErrNotReady) {
			t.Errorf("not moved: %v", err)
		}
		check(t, host.Do(func() error {
			out, err := exec.Command("ip", "link", "set", guest, "netns", fmt.Sprint(c.pid)).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}))
		ip("ip", "link", "set", guest, "name", "weft0")
		ip("ip", "addr", "add", "10.32.0.1/12", "dev", "weft0")
		ip("ip", "link", "set", "weft0", "up")
		got, st, err := a.SettleEndpoint(c.path, id, spec, prefixes("10.48.0.1/24"))
		check(t, err)
		if st.Interface != "weft0" {
			t.Errorf("%+v", st)
		}
		// The engine's own, after that: it takes no route that is there for its own.
		ip("ip", "route", "add", "169.254.67.83/32", "dev", "weft0")
		ip("ip", "route", "add", "224.0.0.0/4", "dev", "weft0")
		if st, err := a.SetEndpoint(c.path, got, id, Spec{Addresses: prefixes("10.32.0.1/12", "10.48.0.1/24"), Multicast: true}); err != nil || len(st.Changed) != 0 {
			t.Errorf("everything is as it should be: %+v, %v", st, err)
		}
		client.reaches(t, "10.32.0.1")
		if out := c.linkLocal(t); !strings.Contains(out, "10.48.0.1/24") {
			t.Errorf("inside:\n%s", out)
		}
		check(t, a.RemoveEndpoint(id))
	}
}
