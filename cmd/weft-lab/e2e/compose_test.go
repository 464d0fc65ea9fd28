package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// compose runs docker-compose in the example's directory.
func (n *node) compose(args ...string) string {
	n.c.t.Helper()
	dir, err := filepath.Abs("../../../docs/examples/compose")
	if err != nil {
		n.c.t.Fatal(err)
	}
	begun := time.Now()
	r := n.Run(n.c.t.Context(), append([]string{"docker-compose", "--no-ansi", "--project-directory", dir, "-f", filepath.Join(dir, "docker-compose.yml")}, args...)...)
	if r.Err != nil {
		n.c.t.Fatal(r)
	}
	n.c.t.Logf("%s: docker-compose %s (%s)", n.Name(), strings.Join(args, " "), time.Since(begun).Round(time.Millisecond))
	return r.Stdout
}

// The example for Compose works as it says: three services over two hosts, one
// of them scaled, find each other by name; down leaves nothing.
func TestCompose(t *testing.T) {
	parallelAs(t, engined, 35*time.Second)
	skipHere(t)
	if _, err := exec.LookPath("docker-compose"); err != nil {
		t.Fatal("this test needs docker-compose:", err)
	}
	if _, err := os.Stat("../../../docs/examples/compose/docker-compose.yml"); err != nil {
		t.Fatal(err)
	}
	c := dockerised(t, 2)
	h1, h2 := c.nodes[0], c.nodes[1]
	for _, n := range c.nodes {
		n.docker("tag", lab.DockerImage, "busybox")
	}
	addrs := func(n *node, service string) (list []string) {
		for id := range strings.FieldsSeq(n.compose("ps", "-q", service)) {
			list = append(list, n.dockerAddr(id, "weft").String())
		}
		slices.Sort(list)
		return list
	}
	// asks returns what a name is for a container, and what each of them says.
	asks := func(n *node, from, name string, want []string) error {
		// Debian's busybox prints the server's own address first.
		out := n.inBox(from, "nslookup", name).Stdout
		var got []string
		for line := range strings.Lines(out[max(0, strings.Index(out, "Name:")):]) {
			if _, a, ok := strings.Cut(line, "Address"); ok {
				if f := strings.Fields(a[strings.Index(a, ":")+1:]); len(f) > 0 && !slices.Contains(got, f[0]) {
					got = append(got, f[0])
				}
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("%s is at %v for %s, want %v:\n%s", name, got, from, want, out)
		}
		said := map[string]bool{}
		for _, a := range got {
			r := n.inBox(from, "timeout", "2", "wget", "-q", "-O", "-", "http://"+a+"/")
			if r.Err != nil || !strings.HasPrefix(r.Stdout, "hello\n") {
				return fmt.Errorf("%s says %v", a, r)
			}
			said[r.Stdout] = true
		}
		if len(said) != len(want) {
			return fmt.Errorf("only %d of them answer: %v", len(said), said)
		}
		return nil
	}

	h1.compose("up", "-d", "--scale", "web=3", "web")
	h2.compose("up", "-d", "db", "client")
	client := strings.TrimSpace(h2.compose("ps", "-q", "client"))
	web := addrs(h1, "web")
	if len(web) != 3 {
		t.Fatalf("web has the addresses %v", web)
	}
	c.wait("a client on the other host finds and reaches all three", 2*time.Second, func() error { return asks(h2, client, "web", web) })
	c.wait("the client's own program does, too", 3*time.Second, func() error {
		if out := h2.docker("logs", client); !strings.Contains(out, "hello\n") {
			return fmt.Errorf("its log is %q", out)
		}
		return nil
	})

	// More of them, on both hosts: the whole name gives all.
	h1.compose("up", "-d", "--scale", "web=2", "web")
	h2.compose("up", "-d", "--scale", "web=2", "db", "client", "web")
	both := append(addrs(h1, "web"), addrs(h2, "web")...)
	slices.Sort(both)
	if len(both) != 4 {
		t.Fatalf("web has the addresses %v", both)
	}
	c.wait("the whole name gives those of both hosts", 2*time.Second, func() error { return asks(h2, client, "web.weft.internal", both) })
	c.wait("the bare name gives those of its own host", time.Second, func() error { return asks(h2, client, "web", addrs(h2, "web")) })

	for _, n := range c.nodes {
		n.compose("down")
	}
	c.wait("down leaves nothing", 2*time.Second, func() error {
		for _, n := range c.nodes {
			list, err := n.listing()
			if err != nil {
				return err
			}
			r, err := n.report()
			if err != nil {
				return err
			}
			if out := n.docker("ps", "-aq") + strings.Join(n.hostEnds(), " "); out != "" || len(list) > 0 || len(r.DNS.Entries) > 0 {
				return fmt.Errorf("%s has containers and interfaces %q, lists %v, knows %v", n.Name(), out, list, r.DNS.Entries)
			}
			if out := n.docker("network", "ls", "-q", "-f", "name=^weft$"); out == "" {
				return fmt.Errorf("%s has no network weft any more", n.Name())
			}
		}
		return nil
	})
}
