package e2e

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// contained is a node whose daemon is in a container: it has scripts/weft, an
// engine and the image, and no weft of its own.
type contained struct {
	*node
	script string
}

// weft types a command.
func (n *contained) weft(args ...string) string {
	n.c.t.Helper()
	r := n.Run(n.c.t.Context(), append([]string{"env", "WEFT_DOCKER=/usr/bin/docker", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", n.script}, args...)...)
	if r.Err != nil {
		n.c.t.Fatal(r)
	}
	return strings.TrimSpace(r.Stdout)
}

// contain gives a node an engine with the image, as make image builds it.
func (n *node) contain(dir string) *contained {
	t := n.c.t
	t.Helper()
	if err := n.StartDocker(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := n.Docker(t.Context(), "build", "-q", "-t", "weftnet/weft", dir); r.Err != nil {
		t.Fatal(r)
	}
	return &contained{n, filepath.Join(dir, "weft.sh")}
}

// imageDir is what the image is built of, and the script by the name of weft.sh.
func imageDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for to, from := range map[string]string{
		"weft":       filepath.Join(run.bin, "weft"),
		"weftd":      filepath.Join(run.bin, "weftd"),
		"Dockerfile": "../../../scripts/image/Dockerfile",
		"weft.sh":    "../../../scripts/weft",
	} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The daemon in a container is a host like any other: it joins one that has it
// natively, its commands are the same, it survives kill -9 and stop, and reset
// leaves nothing. No secret is to be read in the container's description.
func TestImage(t *testing.T) {
	parallelAs(t, engined, 20*time.Second)
	if _, err := exec.LookPath("dockerd"); err != nil && run.datapath == "userspace" {
		t.Fatal("this test needs docker.io:", err)
	}
	c := newCluster(t, 2)
	plain := c.nodes[0]
	plain.launch()
	n := c.nodes[1].contain(imageDir(t))
	n.weft("launch", "--token", c.token, "--nickname", "boxed", plain.Addr().String())
	c.waitMesh()
	description := n.Docker(t.Context(), "inspect", "weft").Stdout
	if strings.Contains(description, c.token) || strings.Contains(description, "--token") {
		t.Error("the secret is in the container's description")
	}
	var is []struct {
		HostConfig struct {
			Privileged    bool
			RestartPolicy struct{ Name string }
		}
	}
	if err := json.Unmarshal([]byte(description), &is); err != nil || len(is) != 1 || is[0].HostConfig.Privileged || is[0].HostConfig.RestartPolicy.Name != "always" {
		t.Errorf("%v: %+v", err, is)
	}
	if out := n.weft("status"); !strings.Contains(out, "(boxed)") || !strings.Contains(out, "Connections: 1") {
		t.Errorf("status: %s", out)
	}
	// A container here and one there.
	there, here := plain.attach("there", "10.32.0.1"), n.start("here")
	if got := n.weft("attach", "10.32.0.2/12", here.Ref()); got != "10.32.0.2" {
		t.Errorf("attach prints %q", got)
	}
	here.addr = netip.MustParseAddr("10.32.0.2")
	n.weft("dns-add", "10.32.0.2", here.Ref(), "-h", "here.weft.internal")
	whole(c, []*box{here, there})

	// The engine starts it again.
	pid := strings.TrimSpace(n.Docker(t.Context(), "inspect", "-f", "{{.State.Pid}}", "weft").Stdout)
	n.sh("kill -9 " + pid)
	begun := time.Now()
	c.within("the daemon is back", 20*time.Second, func() error {
		if r := n.Run(t.Context(), "env", "WEFT_DOCKER=/usr/bin/docker", n.script, "status"); r.Err != nil {
			return r.Err
		}
		return nil
	})
	t.Logf("FIGURE the engine started a killed daemon again after %s", time.Since(begun).Round(time.Millisecond))
	whole(c, []*box{here, there})

	n.weft("stop")
	if out := n.Docker(t.Context(), "ps", "-aq", "--filter", "name=^weft$").Stdout; out != "" {
		t.Errorf("after stop there is container %s", out)
	}
	n.weft("launch", "--resume")
	c.waitMesh()
	whole(c, []*box{here, there})
	n.weft("reset", "--force")
	if out := n.Docker(t.Context(), "ps", "-aq", "--filter", "name=^weft$").Stdout + n.Docker(t.Context(), "volume", "ls", "-q", "--filter", "name=weft-state").Stdout; out != "" {
		t.Errorf("reset left %s", out)
	}
	if out := n.sh("ip -o link show | grep -E ' (weft|wv)' || true; nft list tables | grep weft || true; ls /run/weft 2>/dev/null || true"); strings.TrimSpace(out) != "" {
		t.Errorf("reset left:\n%s", out)
	}
}
