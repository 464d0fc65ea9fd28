package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// each does something on all hosts at once, and fails the test for any of them.
func (c *cluster) each(f func(n *node) error) {
	c.t.Helper()
	var all sync.WaitGroup
	errs := make([]error, len(c.nodes))
	for i, n := range c.nodes {
		all.Go(func() { errs[i] = f(n) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		c.t.Fatal(err)
	}
}

// dockerRun is a command line of docker run with what follows.
func dockerRun(rest string) string { return "/usr/bin/docker run " + rest }

// Twenty containers on each of three hosts, started by several at once, have an
// address each and are found by name from everywhere.
func TestDockerTwentyEach(t *testing.T) {
	parallelAs(t, engined, 50*time.Second)
	const count = 20
	c := dockerised(t, 3)
	begun := time.Now()
	c.each(func(n *node) error {
		return n.Run(t.Context(), "sh", "-c", fmt.Sprintf("seq %d | xargs -P 4 -I N ", count)+
			dockerRun(fmt.Sprintf("-d --name s%d-N --network weft --stop-signal KILL %s sleep 1000000 >/dev/null", n.number, lab.DockerImage))).Err
	})
	t.Logf("FIGURE %d containers on %d hosts, 4 at once on each: %s", count*len(c.nodes), len(c.nodes), time.Since(begun).Round(time.Millisecond))
	var names []string
	var addrs []netip.Addr
	for _, n := range c.nodes {
		var own []string
		for i := range count {
			own = append(own, fmt.Sprintf("s%d-%d", n.number, i+1))
		}
		names = append(names, own...)
		out := n.docker(append([]string{"inspect", "-f", "{{.NetworkSettings.Networks.weft.IPAddress}}"}, own...)...)
		for a := range strings.FieldsSeq(out) {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
	}
	if len(addrs) != len(names) {
		t.Fatalf("%d containers have %d addresses", len(names), len(addrs))
	}
	distinct(t, addrs)
	c.wait("every host knows all names", time.Second, func() error {
		for _, n := range c.nodes {
			r, err := n.report()
			if err != nil {
				return err
			}
			known := map[string]string{}
			for _, e := range r.DNS.Entries {
				known[strings.TrimSuffix(e.Hostname, ".weft.internal.")] = e.Address
			}
			for i, name := range names {
				if known[name] != addrs[i].String() {
					return fmt.Errorf("for %s %s is at %q, want %s", n.Name(), name, known[name], addrs[i])
				}
			}
		}
		return nil
	})
	begun = time.Now()
	c.each(func(n *node) error {
		r := n.inBox(fmt.Sprintf("s%d-1", n.number), "sh", "-c", "for n in "+strings.Join(names, " ")+"; do ping -c 1 -W 2 $n >/dev/null || ping -c 1 -W 2 $n >/dev/null || ping -c 1 -W 5 $n >/dev/null || echo $n; done")
		if r.Err != nil || r.Stdout != "" {
			return fmt.Errorf("%s does not reach by name: %v", n.Name(), r)
		}
		return nil
	})
	t.Logf("one container of each host reaches %d by name: %s", len(names), time.Since(begun).Round(time.Millisecond))
}

// Short lives in a network of fourteen addresses, eight at a time: an
// address whose container was removed is given again before anybody is refused
// one. Who stays keeps what it has.
func TestDockerShortLived(t *testing.T) {
	parallelAs(t, engined, 60*time.Second)
	const atOnce = 8
	runs := 30 // twice what there are addresses for
	if os.Getenv("WEFT_SOAK") != "" {
		runs = 200
	}
	c := dockerised(t, 1)
	h := c.nodes[0]
	h.docker("network", "create", "-d", "weft", "--ipam-driver", "weft", "--subnet", "10.40.0.0/28", "tiny")
	stays := h.dockerBox("stays", "tiny")
	begun := time.Now()
	r := h.Run(t.Context(), "sh", "-c", fmt.Sprintf("seq %d | xargs -P %d -I N ", runs, atOnce)+
		dockerRun(fmt.Sprintf("--rm --name brief-N --network tiny %s sh -c 'ping -c 1 -W 2 -q stays || ping -c 1 -W 5 -q stays' >/dev/null", lab.DockerImage)))
	took := time.Since(begun)
	if r.Err != nil {
		t.Fatal(r)
	}
	t.Logf("FIGURE %d short-lived containers in 10.40.0.0/28, %d at once: %s, %.0f a minute", runs, atOnce, took.Round(time.Millisecond), float64(runs)/took.Minutes())
	if out := h.inBox("stays", "ip", "-4", "-o", "addr", "show", "weft0").Stdout; !strings.Contains(out, " "+stays.String()+"/28 ") {
		t.Errorf("who stays had %s, and has %s", stays, out)
	}
	c.wait("the names of the others are gone", time.Second, func() error {
		report, err := h.report()
		if err != nil {
			return err
		}
		if len(report.DNS.Entries) != 1 {
			return fmt.Errorf("known are %v", report.DNS.Entries)
		}
		return nil
	})
	c.wait("nothing of them is left", time.Second, func() error {
		list, err := h.listing()
		if err == nil && (len(list) != 1 || len(h.hostEnds()) != 1) {
			err = fmt.Errorf("left are %v, %v", list, h.hostEnds())
		}
		return err
	})
	// One that has stopped keeps the address that is pinned to it, whatever comes.
	pinned := h.dockerBox("pinned", "tiny", "--ip", "10.40.0.9")
	h.docker("stop", "pinned")
	if r := h.Run(t.Context(), "sh", "-c", "seq 16 | xargs -P 4 -I N "+dockerRun("--rm --network tiny "+lab.DockerImage+" true")); r.Err != nil {
		t.Fatal(r)
	}
	h.docker("start", "pinned")
	if a := h.dockerAddr("pinned", "tiny"); a != pinned {
		t.Errorf("it had %s, and has %s after others came and went", pinned, a)
	}
}
