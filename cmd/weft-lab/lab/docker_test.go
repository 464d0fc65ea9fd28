package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestDocker(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("dockerd"); err != nil {
		// The guest of the kernel tests has no engine.
		t.Skip("SKIPPED, NOT TESTED: no Docker engine is installed:", err)
	}
	before := machine(t)
	l := up(t, Flat("", 2))
	for _, h := range l.Hosts() {
		if err := h.StartDocker(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	h := l.Host("host1")
	id, err := h.DockerRun(t.Context(), "--name", "web", "--hostname", "shop")
	if err != nil {
		t.Fatal(err)
	}
	if r := h.Docker(t.Context(), "exec", "web", "hostname"); r.Stdout != "shop\n" {
		t.Errorf("in the container %s: %v", id, r)
	}
	if r := h.Docker(t.Context(), "inspect", "-f", "{{.State.Pid}}", "web"); r.Err != nil || h.Run(t.Context(), "ls", "/proc/"+strings.TrimSpace(r.Stdout)+"/ns/net").Err != nil {
		t.Errorf("the container's process is not seen in the host: %v", r)
	}
	if r := l.Host("host2").Docker(t.Context(), "ps", "-aq"); r.Stdout != "" || r.Err != nil {
		t.Errorf("host2 sees host1's containers: %v", r)
	}
	if r := h.Run(t.Context(), "iptables", "-S", "FORWARD"); !strings.Contains(r.Stdout, "-P FORWARD DROP") {
		t.Errorf("the engine set no FORWARD policy: %v", r)
	}
	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.StartDocker(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := h.Docker(t.Context(), "start", "web"); r.Err != nil {
		t.Errorf("after a reboot: %v", r)
	}
	if err := h.StopDocker(); err != nil {
		t.Error(err)
	}
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/memory"} {
		if _, err := os.Stat(fmt.Sprintf("%s/weft-lab/%s", root, l.Name())); err == nil {
			t.Errorf("control groups are left below %s", root)
		}
	}
	isAsBefore(t, "left on the machine", before)
}
