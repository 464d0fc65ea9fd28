package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
	"github.com/weftnet/weft/crypto"
)

func contains(text, part string) bool { return strings.Contains(text, part) }

// logs waits for a line in the daemon's log.
func (n *node) logs(part string) {
	n.c.t.Helper()
	n.c.wait(fmt.Sprintf("%s logs %q", n.Name(), part), 2*time.Second, func() error {
		if text := n.log(); !contains(text, part) {
			return fmt.Errorf("its log says:\n%s", text)
		}
		return nil
	})
}

// says waits until `status connections` shows the target in that state with
// that text.
func (n *node) says(state, part string) {
	n.c.t.Helper()
	n.c.wait(fmt.Sprintf("%s says %s: %s", n.Name(), state, part), 2*time.Second, func() error {
		_, text, err := n.connections()
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); len(f) > 2 && f[2] == state && contains(line, part) {
				return nil
			}
		}
		return fmt.Errorf("status connections:\n%s", text)
	})
}

// alone fails when the host is connected to anybody.
func (n *node) alone() {
	n.c.t.Helper()
	count, text, err := n.connections()
	if err != nil {
		n.c.t.Fatal(err)
	}
	if count["established"]+count["pending"] > 0 {
		n.c.t.Errorf("%s joined somebody it must not:\n%s", n.Name(), text)
	}
}

// Everything that can be wrong between two hosts has its own message on both.
func TestRefusals(t *testing.T) {
	other := func(c *cluster) string {
		secret, err := crypto.NewSecret()
		if err != nil {
			c.t.Fatal(err)
		}
		return crypto.Token{Secret: secret}.String()
	}
	for _, tc := range []struct {
		name         string
		launch       func(c *cluster) []string // flags of host2
		state, says  string                    // on host2
		theirs, ours string                    // in the logs of host1 and host2
	}{
		{
			"wrong secret", func(c *cluster) []string { return []string{"--token", other(c)} },
			"failed", "wrong password", "wrong password", "wrong password",
		},
		{
			"other cluster", func(c *cluster) []string { return []string{"--token", c.token, "--cluster", "another"} },
			"failed", "cluster", "cluster", "cluster",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, 2)
			h1, h2 := c.nodes[0], c.nodes[1]
			h1.launch()
			h2.must(append(append([]string{"launch", "--datapath", run.datapath}, tc.launch(c)...), h1.Addr().String())...)
			h2.says(tc.state, tc.says)
			h1.logs(tc.theirs)
			h2.logs(tc.ours)
			h1.alone()
			h2.alone()
		})
	}
}

// A host that names itself says so, and goes on.
func TestConnectToItself(t *testing.T) {
	c := newCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.launch(h1.Addr().String())
	h1.says("failed", "cannot connect to ourself, retry: never")
	h1.logs("cannot connect to ourself")
	h2.launch(h1.Addr().String())
	c.wait("host2 joins all the same", c.goal(), func() error { return c.isMesh(h1, h2) })
}

// Something else listens where weft is expected.
func TestNotWeft(t *testing.T) {
	c := newCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	l, err := h1.Listen(t.Context(), addrPort(h1.Addr().String()+":6783"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n"))
			_ = conn.Close()
		}
	}()
	h2.launch(h1.Addr().String())
	h2.logs("something else")
	h2.alone()
	// When that is gone and weft comes, the retry finds it.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	h1.launch()
	c.wait("the retry finds weft", 10*time.Second, func() error { return c.isMesh(h1, h2) })
}

// A copied state directory gives two hosts one identity: both are told.
func TestClone(t *testing.T) {
	c := newCluster(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.launch()
	h2.launch(h1.Addr().String())
	c.waitMesh(h1, h2)
	identity := h2.sh("cat /var/lib/weft/identity")
	h3.sh("mkdir -p -m 700 /var/lib/weft")
	if r := h3.RunInput(t.Context(), identity, "sh", "-c", "umask 077; cat > /var/lib/weft/identity"); r.Err != nil {
		t.Fatal(r.Err)
	}
	r := h3.weft("launch", "--token", c.token, "--datapath", run.datapath, h1.Addr().String())
	if r.Exit == 0 || !contains(r.Stderr, "machine") {
		t.Errorf("a state directory of another machine was taken: %v", r)
	}
	// With the machine's own id copied too there is nothing left to tell by but
	// the two boots.
	if err := h3.WriteFile("/etc/machine-id", h2.sh("cat /etc/machine-id")); err != nil {
		t.Fatal(err)
	}
	h3.launch(h1.Addr().String())
	h3.logs("copied state directory")
	h1.logs("copied state directory")
}

// A name server that appears later makes a named target work: it is resolved
// again at every try.
func TestTargetNameAppears(t *testing.T) {
	c := newCluster(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	h1.launch()
	h2.launch("later.example")
	h2.says("retrying", "later.example")
	if err := h2.WriteFile("/etc/hosts", "127.0.0.1 localhost\n"+h1.Addr().String()+" later.example\n"); err != nil {
		t.Fatal(err)
	}
	c.wait("the name works once it is there", 10*time.Second, func() error { return c.isMesh(h1, h2) })
}

// Hosts whose IPv6 is switched off by sysctl take part.
func TestWithoutIPv6(t *testing.T) {
	c := newCluster(t, 2, func(topology *lab.Topology) {
		for i := range topology.Hosts {
			topology.Hosts[i].Sysctls = map[string]string{
				"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1",
			}
		}
	})
	for _, n := range c.nodes {
		if out := n.sh("ip -6 addr"); strings.TrimSpace(out) != "" {
			t.Fatalf("%s has IPv6 before the test: %s", n.Name(), out)
		}
	}
	c.nodes[0].launch()
	c.nodes[1].launch(c.nodes[0].Addr().String())
	c.waitMesh()
	boxes := c.attachEach()
	whole(c, boxes)
	eachPair(t, boxes, pingAll)
	for _, n := range c.nodes {
		if out := n.sh("ip -6 -o addr"); strings.Count(out, "\n") != 1 || !contains(out, "weft-wg") {
			t.Errorf("%s has IPv6 elsewhere than on weft-wg:\n%s", n.Name(), out)
		}
	}
}
