package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// docker runs a command of Docker's client that has to work.
func (n *node) docker(args ...string) string {
	n.c.t.Helper()
	r := n.Docker(n.c.t.Context(), args...)
	if r.Err != nil {
		n.c.t.Fatal(r.Err)
	}
	return r.Stdout
}

// runDocker starts a container of the host's engine that asks us for names, and
// puts it on the switch.
func (n *node) runDocker(name, addr string) {
	n.c.t.Helper()
	if _, err := n.DockerRun(n.c.t.Context(), append([]string{"--name", name}, strings.Fields(n.must("dns-args"))...)...); err != nil {
		n.c.t.Fatal(err)
	}
	n.must("attach", addr+"/12", name)
}

// pingName says whether a Docker container reaches another one by its name.
func (n *node) pingName(from, to string) error {
	return n.Docker(n.c.t.Context(), "exec", from, "ping", "-c", "1", "-W", "1", to).Err
}

// lookUp says whether the host's name server knows the name at exactly these
// addresses.
func (n *node) lookUp(name string, want ...string) error {
	r := n.weft("dns-lookup", name)
	if r.Err != nil {
		return r.Err
	}
	if diff := cmp.Diff(strings.Join(want, " "), strings.Join(strings.Fields(r.Stdout), " ")); diff != "" {
		return fmt.Errorf("%s on %s (-want +got):\n%s", name, n.Name(), diff)
	}
	return nil
}

// acceptsInDocker says what is wrong unless our accept is once where Docker
// wants the rules of others, and nowhere else. Docker leaves IPv6 alone.
func (n *node) acceptsInDocker() error {
	if user, forward := n.accepts("DOCKER-USER"), n.accepts("FORWARD"); user != [2]int{1, 0} || forward != [2]int{} {
		return fmt.Errorf("%s has %d accepts in DOCKER-USER and %d in FORWARD (iptables, ip6tables)", n.Name(), user, forward)
	}
	return nil
}

// With an engine on every host, whose FORWARD policy is DROP, containers on
// different hosts and on one find and reach each other; our one accept is in
// DOCKER-USER, comes back whoever removes it, and goes with us.
func TestDockerForwardPolicy(t *testing.T) {
	parallelAs(t, engined, 30*time.Second)
	if _, err := exec.LookPath("dockerd"); err != nil && run.datapath == "userspace" {
		t.Fatal("this test needs docker.io:", err)
	}
	c := newCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	started := make(chan error, 1)
	start := func(n *node) error {
		n.sh("echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables")
		return n.StartDocker(t.Context())
	}
	// One engine is there before the daemon, the other comes later.
	begun := time.Now()
	if err := start(h1); err != nil {
		t.Fatal(err)
	}
	t.Logf("an engine starts in %s", time.Since(begun).Round(time.Millisecond))
	h1.sh("ip6tables -S >/dev/null") // makes the empty table that we only look at
	untouched := h1.sh("iptables -S; ip6tables -S")
	if !strings.Contains(untouched, "-P FORWARD DROP") {
		t.Fatalf("the engine's policy is not DROP:\n%s", untouched)
	}
	h1.launch()
	h2.launch(h1.Addr().String())
	go func() { started <- start(h2) }()
	c.waitMesh()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	inPlace := func(when string) {
		t.Helper()
		c.wait("one accept in DOCKER-USER "+when, time.Second, func() error {
			return errors.Join(h1.acceptsInDocker(), h2.acceptsInDocker())
		})
	}
	inPlace("after the start")

	h1.runDocker("web", "10.32.0.1")
	h1.runDocker("cache", "10.32.0.11")
	h2.runDocker("db", "10.32.0.2")
	for _, p := range []struct {
		n        *node
		from, to string
	}{{h1, "web", "db"}, {h2, "db", "web"}, {h1, "web", "cache"}, {h1, "cache", "db.weft.internal"}} {
		c.wait(p.from+" reaches "+p.to+" by name", time.Second, func() error { return p.n.pingName(p.from, p.to) })
	}
	h2.docker("rename", "db", "store")
	c.wait("a renamed container's name follows", time.Second, func() error {
		return errors.Join(h1.lookUp("db"), h1.lookUp("store", "10.32.0.2"), h1.pingName("web", "store"))
	})
	h2.docker("rm", "-f", "store")
	c.wait("a removed container's name is gone on both hosts", time.Second, func() error {
		return errors.Join(h1.lookUp("store"), h2.lookUp("store"))
	})
	h1.docker("kill", "cache")
	c.wait("a dead container's name is gone on both hosts", time.Second, func() error {
		return errors.Join(h1.lookUp("cache"), h2.lookUp("cache"))
	})

	// These outlive the engine.
	boxes := c.attachBoxes()
	flows := func(what string) {
		t.Helper()
		c.wait(what, time.Second, func() error { return reachAll(t, boxes) })
	}
	flows("containers without Docker reach each other")
	h1.mended(t, "after a flush", "iptables -F DOCKER-USER", "the accept in chain DOCKER-USER of iptables was missing",
		func() error { return errors.Join(h1.acceptsInDocker(), reachAll(t, boxes)) })
	h1.docker("rm", "-f", "web", "cache") // which would not heed SIGTERM
	if err := h1.StopDocker(); err != nil {
		t.Fatal(err)
	}
	begun = time.Now()
	if err := start(h1); err != nil {
		t.Fatal(err)
	}
	t.Logf("the engine restarts in %s", time.Since(begun).Round(time.Millisecond))
	inPlace("after the engine's restart")
	flows("after the engine's restart all reach all")
	h1.quiet(t, 2*time.Second) // Docker and weft do not fight
	h1.runDocker("again", "10.32.0.21")
	c.wait("the engine is followed again", time.Second, func() error { return h2.lookUp("again", "10.32.0.21") })
	h1.docker("rm", "-f", "again")
	c.wait("its containers' names go, too", time.Second, func() error { return h2.lookUp("again") })

	h1.must("stop")
	c.wait("the daemon ends", time.Second, h1.noDaemon)
	h1.sh("iptables -D DOCKER-USER 1")
	if boxes[0].reaches(boxes[1]) == nil {
		t.Error("the engine's policy drops nothing here: this test shows nothing")
	}
	h1.relaunch("--resume")
	inPlace("after a new start")
	h1.must("reset")
	if diff := cmp.Diff(untouched, h1.sh("iptables -S; ip6tables -S")); diff != "" {
		t.Errorf("left after reset (-before +now):\n%s", diff)
	}
}

// attachBoxes puts two containers without Docker on each host's switch; the
// first two are on one host.
func (c *cluster) attachBoxes() []*box {
	c.t.Helper()
	var out []*box
	for _, n := range c.nodes {
		for i := range 2 {
			out = append(out, n.attach(fmt.Sprintf("box%d%d", n.number, i), fmt.Sprintf("10.32.1.%d", 10*n.number+i)))
		}
	}
	return out
}
