package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// system makes n hosts that run Debian's systemd as their first process.
func system(t testing.TB, n int) *cluster {
	t.Helper()
	skipHere(t)
	if len(packages(t)) == 0 {
		return nil // it has said so
	}
	begun := time.Now()
	if _, err := lab.SystemRoot(t.Context()); err != nil {
		what := fmt.Sprintf("this test needs a small Debian: %v", err)
		if os.Getenv("CI") == "true" || !errors.Is(err, exec.ErrNotFound) && os.Getenv("WEFT_OFFLINE") == "" {
			t.Fatal(what)
		}
		t.Skip("SKIPPED, NOT TESTED: " + what)
	}
	if took := time.Since(begun); took > time.Second {
		t.Logf("a small Debian was made in %s", took.Round(time.Second))
	}
	c := newCluster(t, n, func(topology *lab.Topology) {
		for i := range topology.Hosts {
			topology.Hosts[i].Systemd = true
		}
	})
	for _, n := range c.nodes {
		n.awaitSystem()
	}
	return c
}

func (n *node) awaitSystem() {
	n.c.t.Helper()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(n.c.t.Context(), time.Minute)
	defer cancel()
	failed, err := n.AwaitSystem(ctx)
	if err != nil {
		n.c.t.Fatal(err)
	}
	if failed != "" {
		n.c.t.Errorf("%s: units failed:\n%s", n.Name(), failed)
	}
	n.c.t.Logf("%s: systemd is up after %s", n.Name(), time.Since(begun).Round(time.Millisecond))
}

// packages returns the Debian package that `make package` made, or ends the test.
func packages(t testing.TB) []string {
	t.Helper()
	debs, err := filepath.Glob(filepath.Join(run.bin, "package/*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	if len(debs) == 0 {
		what := "this test needs " + run.bin + "/package/*.deb, which 'make package' makes"
		if os.Getenv("CI") == "true" || os.Geteuid() == 0 {
			t.Fatal(what)
		}
		t.Skip("SKIPPED, NOT TESTED: " + what)
	}
	return debs
}

// journal is what weft's units logged since the host booted.
func (n *node) journal() string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.c.t.Context()), 10*time.Second)
	defer cancel()
	return n.Run(ctx, "journalctl", "-b", "--no-pager", "-o", "short-precise", "-u", "weft", "-u", "weft-plugin").Stdout
}

// put writes a file of the host.
func (n *node) put(path, text string, mode os.FileMode) {
	n.c.t.Helper()
	full := filepath.Join(n.Root(), path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(text), mode), os.Chmod(full, mode)); err != nil {
		n.c.t.Fatal(err)
	}
}

// install gives the host the package.
func (n *node) install(deb string) {
	n.c.t.Helper()
	b, err := os.ReadFile(deb)
	if err != nil {
		n.c.t.Fatal(err)
	}
	n.put("/root/weft.deb", string(b), 0o644)
	n.sh("dpkg --force-unsafe-io -i /root/weft.deb && rm /root/weft.deb")
}

// property returns what systemd says of weft.service.
func (n *node) property(name string) string {
	n.c.t.Helper()
	return strings.TrimSpace(n.sh("systemctl show -P " + name + " weft.service"))
}

// configure writes weft.yaml.
func (n *node) configure(lines ...string) {
	n.c.t.Helper()
	n.put("/etc/weft/weft.yaml", strings.Join(append(lines, "datapath: "+n.datapath()), "\n")+"\n", 0o600)
}

// netns makes a container of a bare namespace and puts it on the switch.
func (n *node) netns() {
	n.c.t.Helper()
	n.sh("ip netns add c && ip -n c link set lo up")
	if got, want := n.must("attach", fmt.Sprintf("10.32.0.%d/12", n.number), "netns:c"), fmt.Sprintf("10.32.0.%d\n", n.number); got != want {
		n.c.t.Errorf("attach prints %q, want %q", got, want)
	}
}

// pings says whether the container of one host reaches that of another.
func (n *node) pings(to *node) error {
	r := n.Run(n.c.t.Context(), "ip", "netns", "exec", "c", "ping", "-c1", "-W1", fmt.Sprintf("10.32.0.%d", to.number))
	return r.Err
}

// started makes two hosts with the package whose services run and are joined,
// with a container each.
func started(t testing.TB, units ...string) *cluster {
	t.Helper()
	c := system(t, 2)
	for _, n := range c.nodes {
		n.install(packages(t)[0])
		for _, u := range units {
			n.put("/etc/systemd/system/weft.service.d/test.conf", u, 0o644)
		}
	}
	first := c.nodes[0]
	first.configure("token: " + c.token)
	c.nodes[1].put("/etc/weft/token", c.token+"\n", 0o600)
	c.nodes[1].configure("token-file: /etc/weft/token", "peers: ["+first.Addr().String()+"]")
	for _, n := range c.nodes {
		n.sh("systemctl daemon-reload && systemctl enable --now weft-plugin.socket weft.service 2>&1")
		// It is only started when it answers.
		n.must("status")
		n.netns()
	}
	c.waitMesh()
	c.wait("a container reaches the other", 2*time.Second, func() error { return first.pings(c.nodes[1]) })
	return c
}

// restarted waits until systemd has started the daemon again, and the container
// is where it was.
func (n *node) restarted(was string, goal time.Duration) {
	n.c.t.Helper()
	n.c.wait(n.Name()+" was started again", goal, func() error {
		if pid := n.property("MainPID"); pid == was || pid == "0" || n.property("ActiveState") != "active" {
			return fmt.Errorf("process %s, %s", pid, n.property("ActiveState"))
		}
		return nil
	})
	if ps := n.must("ps"); !strings.Contains(ps, fmt.Sprintf("10.32.0.%d/12", n.number)) {
		n.c.t.Errorf("after the restart attached:\n%s", ps)
	}
	n.c.waitMesh()
	n.c.wait("a container reaches the other again", 2*time.Second, func() error { return n.c.nodes[0].pings(n.c.nodes[1]) })
}

// A daemon that dies, stops, or whose loops do not go round any more is started
// again by systemd; one that is stopped by hand is not.
func TestUnit(t *testing.T) {
	parallelAs(t, calm, 45*time.Second)
	c := started(t, "[Service]\nWatchdogSec=8s\n")
	n := c.nodes[1]
	c.wait("systemd shows the daemon in words", 3*time.Second, func() error {
		if got := n.property("StatusText"); got != "host2: connected to 1 of 1 peers" {
			return errors.New(got)
		}
		return nil
	})

	if r := n.Run(t.Context(), "test", "-S", "/run/docker/plugins/weft.sock"); r.Err != nil || strings.Contains(n.must("status"), "Docker cannot") {
		t.Errorf("Docker would not find weft: %v", r)
	}

	pid := n.property("MainPID")
	n.sh("kill -9 " + pid)
	n.restarted(pid, 2*time.Second)

	pid = n.property("MainPID")
	n.sh("kill -STOP " + pid)
	n.restarted(pid, 10*time.Second)
	if got := n.property("NRestarts"); got != "2" {
		t.Errorf("%s restarts, want 2", got)
	}

	// A run loop that moves no packets may be held for minutes, here by a program
	// that does not end: systemd shows it, and the packets flow.
	pid = n.property("MainPID")
	n.sh(`mv /usr/sbin/nft /usr/sbin/nft.real
printf '#!/bin/sh\nexec sleep 1000\n' >/usr/sbin/nft && chmod 755 /usr/sbin/nft
nft.real delete table inet weft`)
	c.wait("the daemon says which loop does not answer", 3*time.Second, func() error {
		if !strings.Contains(n.journal(), "parts of the daemon do not answer") {
			return errors.New(n.property("StatusText"))
		}
		return nil
	})
	hold(t, "the daemon lives while its router loop is held", time.Now().Add(12*time.Second), func() error { // longer than the watchdog

		if now := n.property("MainPID"); now != pid {
			return fmt.Errorf("process %s has become %s", pid, now)
		}
		return nil
	})
	n.sh("mv /usr/sbin/nft.real /usr/sbin/nft && pkill -x sleep || true")
	c.wait("all its loops answer again", 5*time.Second, func() error {
		if s := n.property("StatusText"); strings.HasPrefix(s, "Slow") {
			return errors.New(s)
		}
		return nil
	})

	n.must("stop")
	c.wait("it stays stopped", time.Second, func() error {
		if got := n.property("ActiveState") + " " + n.property("Result"); got != "inactive success" {
			return errors.New(got)
		}
		return nil
	})
}

// A wrong configuration is said once, with its line, and not tried for ever.
func TestUnitRefuses(t *testing.T) {
	parallel(t)
	c := system(t, 1)
	n := c.nodes[0]
	n.install(packages(t)[0])
	n.put("/etc/weft/weft.yaml", "port: 7000\nprot: 7001\n", 0o600)
	const want = `/etc/weft/weft.yaml:2: unknown key "prot"`
	if r := n.Run(t.Context(), "weftd", "--check-config"); r.Exit != 2 || !strings.Contains(r.Stderr, want) {
		t.Errorf("--check-config: %v", r)
	}
	if r := n.Run(t.Context(), "systemctl", "start", "weft"); r.Err == nil {
		t.Error("the unit starts with a wrong configuration")
	}
	if got := n.property("NRestarts") + " " + n.property("ExecMainStatus"); got != "0 78" || !strings.Contains(n.journal(), want) {
		t.Errorf("restarts and exit code: %s; journal:\n%s", got, n.journal())
	}
	n.put("/etc/weft/weft.yaml", "port: 7000\n", 0o600)
	if r := n.Run(t.Context(), "weftd", "--check-config"); r.Err != nil {
		t.Error(r)
	}
	// A secret may come as a credential.
	n.put("/etc/credstore/weft.token", c.token+"\n", 0o600)
	n.sh("systemctl start weft")
	if got := strings.TrimSpace(n.must("token")); !strings.HasPrefix(got, strings.Split(c.token, ".")[0]) || got == "" {
		t.Errorf("token %q, want that of the credential", got)
	}
}
