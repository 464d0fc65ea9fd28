package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// engines starts one on every host. It must be called from the test's own
// goroutine.
func (c *cluster) engines() {
	c.t.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil && run.datapath == "userspace" {
		c.t.Fatal("this test needs docker.io:", err)
	}
	var all sync.WaitGroup
	errs := make([]error, len(c.nodes))
	for i, n := range c.nodes {
		all.Go(func() { errs[i] = n.StartDocker(c.t.Context()) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		c.t.Fatal(err)
	}
}

// dockerised makes hosts with daemons and engines, and the default network on
// all of them.
func dockerised(t testing.TB, n int) *cluster {
	t.Helper()
	c := newCluster(t, n)
	for _, h := range c.nodes {
		args := []string{"--ipalloc-default-subnet", "10.32.0.0/16"}
		if h.number > 1 {
			args = append(args, c.nodes[0].Addr().String())
		}
		h.launch(args...)
	}
	c.engines()
	c.waitMesh()
	c.wait("every engine has the network weft", 2*time.Second, func() error {
		for _, h := range c.nodes {
			if out := h.docker("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"); !strings.Contains(out, "weft weft local\n") {
				return fmt.Errorf("%s has %q", h.Name(), out)
			}
		}
		return nil
	})
	return c
}

// dockerBox starts a container on a network of its host's engine, and returns
// its address there. It ends when it is told to.
func (n *node) dockerBox(name, network string, flags ...string) netip.Addr {
	n.c.t.Helper()
	if _, err := n.DockerRun(n.c.t.Context(), append([]string{"--name", name, "--network", network, "--stop-signal", "KILL"}, flags...)...); err != nil {
		n.c.t.Fatal(err)
	}
	return n.dockerAddr(name, network)
}

// dockerAddr returns what the engine says of a container's address.
func (n *node) dockerAddr(name, network string) netip.Addr {
	n.c.t.Helper()
	out := n.docker("inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", network), name)
	a, err := netip.ParseAddr(strings.TrimSpace(out))
	if err != nil {
		n.c.t.Fatalf("%s has no address on %s: %q", name, network, out)
	}
	return a
}

// inBox runs a command in a Docker container.
func (n *node) inBox(name string, command ...string) lab.Result {
	return n.Docker(n.c.t.Context(), append([]string{"exec", name}, command...)...)
}

// dockerRefuses wants a command of Docker's client to fail with these words.
func (n *node) dockerRefuses(words string, args ...string) {
	n.c.t.Helper()
	begun := time.Now()
	r := n.Docker(n.c.t.Context(), args...)
	if r.Err == nil || !strings.Contains(r.Stderr, words) {
		n.c.t.Errorf("docker %s: %v, want an error with %q", strings.Join(args, " "), r, words)
		return
	}
	n.c.t.Logf("docker %s: %s (after %s)", strings.Join(args, " "), strings.TrimSpace(r.Stderr), time.Since(begun).Round(time.Millisecond))
}

// hostEnds lists the interfaces of containers on the host.
func (n *node) hostEnds() []string {
	return strings.Fields(n.sh("ls /sys/class/net | grep ^wv || true"))
}

// Docker's own network commands put containers on the switch before they run:
// names, addresses and errors are as people expect of Docker, over all hosts
// and through restarts of everything; and nothing is left.
func TestDockerNetwork(t *testing.T) {
	parallelAs(t, engined, 110*time.Second) // it waits for half a minute
	c := dockerised(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	before := h1.mustSpace().Active

	short := h1.dockerBox("short", "weft")
	h1.docker("rm", "-f", "short")

	web := h1.dockerBox("web", "weft", "--network-alias", "shop")
	h2.dockerBox("client", "weft")
	h2.dockerBox("set", "weft", "--ip", "10.32.77.7", "--mac-address", "02:aa:bb:cc:dd:ee")
	for _, p := range []struct {
		n        *node
		from, to string
	}{{h2, "client", "web"}, {h2, "client", "shop"}, {h1, "web", "client"}, {h1, "web", "set.weft.internal"}, {h2, "client", "set"}, {h1, "web", "10.32.77.7"}} {
		c.wait(p.from+" reaches "+p.to, time.Second, func() error { return p.n.pingName(p.from, p.to) })
	}
	if got := h2.inBox("set", "cat", "/sys/class/net/weft0/address"); strings.TrimSpace(got.Stdout) != "02:aa:bb:cc:dd:ee" {
		t.Errorf("--mac-address: %v", got)
	}
	if web == short {
		t.Errorf("%s is given again right after its container was removed", short)
	}
	t.Run("first packet", func(t *testing.T) { firstPacket(t, h1, h2, web) })
	t.Run("errors", func(t *testing.T) { dockerErrors(t, c) })
	t.Run("restarts", func(t *testing.T) { dockerRestarts(t, c) })
	t.Run("two networks", func(t *testing.T) { twoNetworks(t, c) })

	removed := time.Now()
	for _, n := range c.nodes {
		n.docker(append([]string{"rm", "-f"}, strings.Fields(n.docker("ps", "-aq"))...)...)
	}
	c.wait("nothing is left of the containers", 30*time.Second, func() error {
		for _, n := range c.nodes {
			list, err := n.listing()
			if err != nil {
				return err
			}
			if ends := n.hostEnds(); len(ends) > 0 || len(list) > 0 {
				return fmt.Errorf("%s has the interfaces %v and lists %v", n.Name(), ends, list)
			}
			if got := n.mustSpace().Active; got != before {
				return fmt.Errorf("%s has %d addresses in use, had %d", n.Name(), got, before)
			}
			r, err := n.report()
			if err != nil {
				return err
			}
			if len(r.DNS.Entries) > 0 {
				return fmt.Errorf("%s knows the names %v", n.Name(), r.DNS.Entries)
			}
		}
		return nil
	})
	if took := time.Since(removed); took < 25*time.Second {
		t.Errorf("addresses were free after %s", took)
	}
	for _, n := range c.nodes {
		n.must("reset")
		if out := n.docker("network", "ls", "-f", "driver=weft", "-q"); out != "" {
			t.Errorf("after a reset %s's engine has networks of weft: %s", n.Name(), out)
		}
		if out := n.sh("ls /run/docker/plugins 2>/dev/null || true"); out != "" {
			t.Errorf("after a reset there is %s in %s's /run/docker/plugins", out, n.Name())
		}
	}
}

// firstPacket wants a container whose very command is a connection to another
// host's container to have it.
func firstPacket(t *testing.T, server, client *node, at netip.Addr) {
	server.sh("docker exec web sh -c 'echo hello >/tmp/index.html'; docker exec -d web httpd -f -p 80 -h /tmp")
	get := func(from string) lab.Result {
		return client.Docker(t.Context(), "run", "--rm", "--network", "weft", lab.DockerImage, "wget", "-q", "-O", "-", "http://"+from+"/")
	}
	server.c.wait("the server serves", time.Second, func() error { return server.inBox("web", "wget", "-q", "-O", "-", "http://127.0.0.1/").Err })
	for _, from := range []string{at.String(), "web", at.String(), "shop.weft.internal"} {
		begun := time.Now()
		if r := get(from); r.Err != nil || r.Stdout != "hello\n" {
			t.Errorf("from %s: %v", from, r)
		}
		t.Logf("docker run, of which the first act is a connection to %s: %s", from, time.Since(begun).Round(time.Millisecond))
	}
}

// twoNetworks has containers on an internal network, and on two at once. What
// runs with the policy to restart still runs.
func twoNetworks(t *testing.T, c *cluster) {
	h1, h2 := c.nodes[0], c.nodes[1]
	for _, n := range c.nodes {
		n.docker("network", "create", "-d", "weft", "--ipam-driver", "weft", "--subnet", "10.33.0.0/16", "--ip-range", "10.33.8.0/22",
			"-o", "weft.nomulticast=true", "--internal", "back")
	}
	db := h2.dockerBox("db", "back")
	if !netip.MustParsePrefix("10.33.8.0/22").Contains(db) {
		t.Errorf("--ip-range 10.33.8.0/22 gives %s", db)
	}
	out := h2.inBox("db", "ip", "route").Stdout
	if strings.Contains(out, "default") || strings.Contains(out, "224.0.0.0") || !strings.Contains(out, "169.254.67.83") {
		t.Errorf("routes in an internal network without multicast:\n%s", out)
	}
	h1.docker("network", "connect", "--ip", "10.33.9.9", "--alias", "front", "back", "web")
	for name, f := range map[string]func() error{
		"web reaches db by name":            func() error { return h1.pingName("web", "db") },
		"db reaches web by its alias":       func() error { return h2.pingName("db", "front") },
		"web still reaches the default one": func() error { return h1.pingName("web", "always") },
		"both addresses are known by name": func() error {
			got := strings.Fields(h2.must("dns-lookup", "web"))
			slices.Sort(got)
			if want := []string{h1.dockerAddr("web", "weft").String(), "10.33.9.9"}; !slices.Equal(got, want) {
				return fmt.Errorf("web is at %v, want %v", got, want)
			}
			return nil
		},
		"the alias is that of one network":   func() error { return h2.lookUp("front", "10.33.9.9") },
		"the other alias is not of this one": func() error { return h2.lookUp("shop", h1.dockerAddr("web", "weft").String()) },
	} {
		c.wait(name, time.Second, f)
	}
	// It starts with both, and gets both again.
	was := h1.dockerAddr("web", "weft")
	h1.docker("restart", "-t", "0", "web")
	if a := h1.dockerAddr("web", "weft"); a != was {
		t.Errorf("web had %s, and has %s after a restart", was, a)
	}
	c.wait("after a restart it is on both", time.Second, func() error {
		return errors.Join(h1.pingName("web", "db"), h1.pingName("web", "always"), h2.pingName("db", "front"), h2.pingName("always", "shop"))
	})
	h1.docker("network", "disconnect", "back", "web")
	c.wait("after it was disconnected, it is on one", time.Second, func() error {
		if h1.pingName("web", "db") == nil {
			return errors.New("web reaches db")
		}
		return errors.Join(h2.lookUp("front"), h2.lookUp("web", was.String()), h1.pingName("web", "always"))
	})
	h1.docker("network", "rm", "back")
	if h2.Docker(t.Context(), "network", "rm", "back").Err == nil {
		t.Error("a network in use is removed")
	}
	h2.docker("rm", "-f", "db")
	h2.docker("network", "rm", "back")
}

// dockerErrors wants Docker to print what people can act upon.
func dockerErrors(t *testing.T, c *cluster) {
	h1, h2 := c.nodes[0], c.nodes[1]
	create := func(args ...string) []string {
		return append([]string{"network", "create", "-d", "weft", "--ipam-driver", "weft"}, args...)
	}
	start := func(args ...string) []string {
		return append(append([]string{"run", "-d"}, args...), lab.DockerImage, "sleep", "100")
	}
	h1.dockerRefuses("subnet 192.0.2.0/24 is not inside 10.32.0.0/12", create("--subnet", "192.0.2.0/24", "wrong")...)
	h1.dockerRefuses("leave out --ipv6", create("--ipv6", "--subnet", "10.33.0.0/16", "--subnet", "fd00:1::/64", "six")...)
	h1.dockerRefuses("weft.speed is not an option of a network", create("-o", "weft.speed=9", "fast")...)
	h1.dockerRefuses("10.32.77.7", start("--name", "twice", "--network", "weft", "--ip", "10.32.77.7")...) // host2's
	h1.docker("rm", "twice")
	h2.dockerRefuses("10.32.77.7", start("--name", "twice", "--network", "weft", "--ip", "10.32.77.7")...)
	h2.docker("rm", "twice")
	h1.docker(create("--subnet", "10.34.0.0/30", "tiny")...)
	var got []netip.Addr
	for i := range 2 {
		got = append(got, h1.dockerBox(fmt.Sprint("tiny", i), "tiny"))
	}
	distinct(t, got)
	h1.dockerRefuses("10.34.0.0/30", start("--name", "tiny2", "--network", "tiny")...)
	h1.docker("rm", "-f", "tiny0", "tiny1", "tiny2")
	h1.docker("network", "rm", "tiny")
	// With addresses of somebody else's, and frames of ours.
	for _, n := range c.nodes {
		n.docker("network", "create", "-d", "weft", "--subnet", "172.30.0.0/24", "foreign")
	}
	h1.dockerBox("f1", "foreign", "--ip", "172.30.0.11")
	h2.dockerBox("f2", "foreign", "--ip", "172.30.0.12")
	c.wait("another IPAM driver works too", time.Second, func() error {
		return errors.Join(h1.pingName("f1", "172.30.0.12"), h1.pingName("f1", "f2"))
	})
	for i, n := range c.nodes {
		n.docker("rm", "-f", fmt.Sprint("f", i+1))
		n.docker("network", "rm", "foreign")
	}
}

// dockerRestarts restarts the engine, and kills the daemon.
func dockerRestarts(t *testing.T, c *cluster) {
	h1, h2 := c.nodes[0], c.nodes[1]
	addr := h2.dockerBox("always", "weft", "--restart", "always")
	for _, story := range []struct {
		what  string
		exact bool // it keeps its address
		do    func()
	}{
		{"the daemon's death", true, func() {
			h2.kill()
			begun := time.Now()
			h2.relaunch("--ipalloc-default-subnet", "10.32.0.0/16")
			t.Logf("the daemon is back in %s", time.Since(begun).Round(time.Millisecond))
		}},
		{"the engine's restart", false, func() {
			if err := h2.StopDocker(); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			if err := h2.StartDocker(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("an engine with a container on weft starts in %s", time.Since(begun).Round(time.Millisecond))
		}},
	} {
		what := story.what
		story.do()
		c.wait("after "+what+" the container is there", 5*time.Second, func() error {
			if out := h2.docker("inspect", "-f", "{{.State.Running}}", "always"); out != "true\n" {
				return errors.New("it does not run")
			}
			return errors.Join(h1.pingName("web", "always"), h2.inBox("always", "ping", "-c", "1", "-W", "1", "web").Err)
		})
		// An engine that starts several containers does not say for whom it asks.
		if a := h2.dockerAddr("always", "weft"); a != addr && story.exact {
			t.Errorf("after %s it has %s, it had %s", what, a, addr)
		}
		name := "new" + fmt.Sprint(len(what)) // one for each
		begun := time.Now()
		h2.dockerBox(name, "weft")
		t.Logf("after %s docker run takes %s", what, time.Since(begun).Round(time.Millisecond))
		c.wait("after "+what+" a new container is found", time.Second, func() error { return h1.pingName("web", name) })
		h2.docker("rm", "-f", name)
	}
}
