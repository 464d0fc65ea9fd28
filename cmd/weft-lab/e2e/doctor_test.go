package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/router/api"
)

// doctor runs `weft doctor` and checks that its exit code is the one for what it
// says.
func (n *node) doctor(args ...string) (api.Diagnosis, error) { return n.doctorBy(nil, args...) }

// doctorBy is doctor run by another program.
func (n *node) doctorBy(by []string, args ...string) (api.Diagnosis, error) {
	var d api.Diagnosis
	ctx, cancel := context.WithTimeout(n.c.t.Context(), time.Minute*(1+run.slow()))
	defer cancel()
	r := n.Run(ctx, slices.Concat(by, []string{"weft", "doctor", "-o", "json"}, args)...)
	if err := json.Unmarshal([]byte(r.Stdout), &d); err != nil {
		return d, fmt.Errorf("%w: %v", err, r)
	}
	bad := slices.ContainsFunc(d.Findings, func(f api.Finding) bool { return f.Severity == api.Problem })
	if bad != (r.Err != nil) {
		return d, fmt.Errorf("exit code and findings differ: %v", r)
	}
	return d, nil
}

// finds polls until the doctor finds this about that subject (any when empty). A
// peer dials back every 10 s at most: the limit is beyond that.
func (n *node) finds(id string, s api.Severity, subject, what string, args ...string) {
	n.c.t.Helper()
	n.c.wait(fmt.Sprintf("%s finds %s", n.Name(), id), 5*time.Second, func() error {
		d, err := n.doctor(args...)
		if err != nil {
			return err
		}
		for _, f := range d.Findings {
			if f.ID == id && f.Severity == s && (subject == "" || f.Subject == subject) && strings.Contains(f.What, what) {
				if f.Remedy == "" && s != api.OK {
					n.c.t.Errorf("%s: no remedy: %+v", id, f)
				}
				return nil
			}
		}
		return fmt.Errorf("no %s %s about %q with %q in %+v", s, id, subject, what, d.Findings)
	})
}

// fine says what the doctor finds wrong.
func (n *node) fine() error {
	d, err := n.doctor()
	if err != nil {
		return err
	}
	for _, f := range d.Findings {
		if f.Severity.Rank() >= api.Warning.Rank() {
			return fmt.Errorf("%s: %+v", n.Name(), f)
		}
	}
	return nil
}

// daemon returns the process of the host's daemon.
func (n *node) daemon() int {
	n.c.t.Helper()
	for pid, name := range n.processes() {
		if name == "weftd" {
			return n.outside(pid)
		}
	}
	n.c.t.Fatalf("%s has no weftd", n.Name())
	return 0
}

// outside returns what a process of the host is called here.
func (n *node) outside(inner string) int {
	n.c.t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		n.c.t.Fatal(err)
	}
	mine, err := os.Readlink(filepath.Join(n.Root(), "../ns/pid"))
	if err != nil {
		n.c.t.Fatal(err)
	}
	for _, path := range dirs {
		if ns, _ := os.Readlink(filepath.Join(filepath.Dir(path), "ns/pid")); ns != mine {
			continue
		}
		b, _ := os.ReadFile(path)
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 1 && f[0] == "NSpid:" && f[len(f)-1] == inner {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
				if err != nil {
					n.c.t.Fatal(err)
				}
				return pid
			}
		}
	}
	n.c.t.Fatalf("%s: process %s is nowhere", n.Name(), inner)
	return 0
}

// TestDoctorHost: what is wrong with a host is found, with a remedy, and gone
// when it is mended; the status says the gravest by itself.
func TestDoctorHost(t *testing.T) {
	parallelAs(t, idle, 25*time.Second)
	c := joined(t, 2)
	a, b := c.nodes[0], c.nodes[1]
	c.wait("nothing is wrong", 5*time.Second, func() error {
		if err := a.fine(); err != nil {
			return err
		}
		return b.fine()
	})
	a.finds("disk", api.OK, "/var/lib/weft", "can be written")
	a.finds("dns", api.OK, "", "answers")
	a.finds("both-ways", api.OK, "host2", "its daemon answers", "host2")
	a.finds("large-packets", api.OK, "host2", "1370 bytes come back", "host2")
	a.finds("port-open", api.OK, "host2", "TCP 6783", "host2")
	a.finds("peer-dns", api.OK, "host2", "answers", "host2")
	if r := a.weft("doctor", "host9"); r.Err == nil || !strings.Contains(r.Stderr, "no peer is called host9") {
		t.Errorf("doctor of nobody: %v", r)
	}

	// Those that stand in no other's way are made together.
	a.sh(`nft 'table inet guard { chain in { type filter hook input priority 10; policy drop; iif lo accept; ct state established accept; iifname "weft*" accept; tcp dport 22 accept; }; }'`)
	a.sh(`mkdir -p /etc/docker /var/run && touch /var/run/docker.sock && echo nameserver 127.0.0.53 >/etc/resolv.conf && echo '{"iptables": false}' >/etc/docker/daemon.json`)
	b.sh("mount -t tmpfs -o size=64k tmpfs /var/lib/weft && dd if=/dev/zero of=/var/lib/weft/full bs=1k count=100 2>/dev/null || true")
	b.sh("nft 'table inet shut { chain out { type filter hook output priority 0; tcp dport 6783 drop; }; }'")
	begun := time.Now()
	a.finds("firewall", api.Problem, "inet guard", "TCP 6783, UDP 6783, UDP 6784")
	a.finds("docker-dns", api.Warning, "", "127.0.0.53")
	a.finds("docker-iptables", api.Note, "", "")
	a.finds("docker-live-restore", api.Note, "", "")
	a.finds("port-closed", api.Warning, "host2", "TCP 6783")
	b.finds("disk", api.Problem, "/var/lib/weft", "/var/lib/weft")
	b.finds("peer-port-closed", api.Note, "host1", "")
	a.sh("echo '{' >/etc/docker/daemon.json")
	a.finds("docker-config", api.Warning, "", "/etc/docker/daemon.json")

	// Status, log and events say the gravest unasked, within the minute.
	c.wait("the status says so by itself", 4*time.Second, func() error {
		for n, what := range map[*node]string{a: "chain in of table inet guard drops", b: "/var/lib/weft"} {
			r := n.weft("status")
			if r.Err != nil || !strings.Contains(r.Stderr, what) {
				return fmt.Errorf("%v", r)
			}
			if log := n.log(); !strings.Contains(log, "msg=found ") {
				return fmt.Errorf("not in the log of %s", n.Name())
			}
			if out := n.must("events"); !strings.Contains(out, `"message":"found"`) {
				return fmt.Errorf("no event of %s", n.Name())
			}
		}
		return nil
	})
	t.Logf("said after %s", time.Since(begun).Round(time.Millisecond))

	// Mended, it is found no more.
	a.sh("nft delete table inet guard; rm -r /etc/docker /var/run/docker.sock; echo nameserver 192.0.2.1 >/etc/resolv.conf")
	b.sh("nft delete table inet shut; umount /var/lib/weft")
	c.wait("nothing is wrong", 5*time.Second, func() error {
		if err := b.fine(); err != nil {
			return err
		}
		d, err := a.doctor()
		if err == nil && slices.ContainsFunc(d.Findings, func(f api.Finding) bool {
			return f.Severity.Rank() >= api.Warning.Rank() && f.ID != "dns-upstream" // nobody serves at 192.0.2.1
		}) {
			err = fmt.Errorf("%+v", d.Findings)
		}
		return err
	})
	a.finds("dns-upstream", api.Problem, "", "192.0.2.1")
}
