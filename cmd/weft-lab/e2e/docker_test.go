package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A container of a Docker engine is named as Docker names it, and its record is
// gone with it.
func TestDockerContainers(t *testing.T) {
	parallel(t)
	if _, err := exec.LookPath("dockerd"); err != nil && run.datapath == "userspace" {
		t.Fatal("this test needs docker.io:", err)
	}
	c := joined(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	for _, n := range c.nodes {
		if err := n.StartDocker(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	id, err := h2.DockerRun(t.Context(), "--name", "web")
	if err != nil {
		t.Fatal(err)
	}
	if got := h2.must("attach", "10.32.0.2/12", "web"); got != "10.32.0.2\n" {
		t.Errorf("attach prints %q", got)
	}
	if got := h2.must("attach", "10.32.0.2/12", id[:12]); got != "10.32.0.2\n" {
		t.Errorf("attach by id prints %q", got)
	}
	if got := h2.must("ps"); !strings.HasPrefix(lastLine(got), id[:12]+" ") || !strings.HasSuffix(lastLine(got), " 10.32.0.2/12") {
		t.Errorf("ps prints %q", got)
	}
	flags := append([]string{"--name", "client"}, strings.Fields(h1.must("dns-args"))...)
	if _, err := h1.DockerRun(t.Context(), flags...); err != nil {
		t.Fatal(err)
	}
	h1.must("attach", "10.32.0.1/12", "client")
	// With the engine's FORWARD policy DROP in force, by the C library's resolver.
	c.wait("client reaches web by name", time.Second, func() error {
		return h1.Docker(t.Context(), "exec", "client", "ping", "-c", "1", "-W", "1", "web").Err
	})
	b := h1.start("bystander")
	b.addr = addrPort("10.32.0.9:0").Addr()
	h1.must("attach", "10.32.0.9/12", b.Ref())
	c.wait("web is known", time.Second, func() error { return b.finds("web", "10.32.0.2") })
	if r := h2.Docker(t.Context(), "rm", "-f", "web"); r.Err != nil {
		t.Fatal(r.Err)
	}
	c.wait("the name of a dead container is gone", time.Second, func() error { return b.finds("web") })
	if r := h1.weft("attach", "10.32.0.7/12", "nobody"); r.Exit != 1 || r.Stderr == "" {
		t.Errorf("attach of an unknown container: %v", r)
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
