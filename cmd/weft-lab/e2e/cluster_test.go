package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
	"github.com/weftnet/weft/crypto"
)

// cluster is a lab with daemons, or without them yet.
type cluster struct {
	*lab.Lab
	t     testing.TB
	token string
	vni   uint32 // of the switch
	nodes []*node
	wave  int // how many join a graph at a time; zero: one, or four where everything is slow
}

// node is one host of it.
type node struct {
	*lab.Host
	c      *cluster
	number int       // from 1
	swept  time.Time // when a sweep was last taken for a chance; zero: never
}

// newCluster makes n hosts on one network, without daemons. Everything ends
// with the test; when that failed, what may explain it is kept first.
func newCluster(t testing.TB, n int, change ...func(*lab.Topology)) *cluster {
	t.Helper()
	need(t, "weft", "weftd")
	skipHere(t)
	topology := lab.Flat(labName(t), n)
	for _, f := range change {
		f(&topology)
	}
	l, err := lab.Up(t.Context(), topology, lab.Options{BinDir: run.bin})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := crypto.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Lab: l, t: t, token: crypto.Token{Secret: secret}.String(), vni: secret.Keys("weft").VNI}
	for i, h := range l.Hosts() {
		c.nodes = append(c.nodes, &node{Host: h, c: c, number: i + 1})
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			for _, bad := range []string{"WARNING: DATA RACE", "\npanic: ", "\nfatal error: "} {
				if _, text, found := strings.Cut(n.log(), bad); found {
					t.Errorf("%s's daemon: %s%s", n.Name(), bad, text[:min(len(text), 4000)])
				}
			}
		}
		if t.Failed() {
			c.keepEvidence()
		}
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func labName(t testing.TB) string {
	name := strings.ToLower(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name()))
	return fmt.Sprintf("%s-%d", name[:min(len(name), 28)], os.Getpid())
}

// joined makes n hosts with daemons that are all connected: host1 is launched
// first, the others name it.
func joined(t testing.TB, n int, change ...func(*lab.Topology)) *cluster {
	t.Helper()
	c := newCluster(t, n, change...)
	for _, h := range c.nodes {
		if h.number == 1 {
			h.launch()
		} else {
			h.launch(c.nodes[0].Addr().String())
		}
	}
	c.waitMesh()
	return c
}

// weft runs a command of weft and returns how it ended.
func (n *node) weft(args ...string) lab.Result {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.c.t.Context()), time.Minute*(1+run.slow()))
	defer cancel()
	return n.Run(ctx, append([]string{"weft"}, args...)...)
}

// must is weft for commands that have to work; it returns their output.
func (n *node) must(args ...string) string {
	n.c.t.Helper()
	r := n.weft(args...)
	if r.Err != nil {
		n.c.t.Fatalf("%s: %v", n.Name(), r)
	}
	return r.Stdout
}

// sh runs a script on the host that has to work.
func (n *node) sh(script string) string {
	n.c.t.Helper()
	r := n.Run(n.c.t.Context(), "sh", "-c", script)
	if r.Err != nil {
		n.c.t.Fatalf("%s: %v", n.Name(), r)
	}
	return r.Stdout
}

// launch starts the daemon with the cluster's secret, and the data path of this
// run, and targets or other flags.
func (n *node) launch(args ...string) {
	n.c.t.Helper()
	out := n.must(append([]string{"launch", "--token", n.c.token, "--datapath", n.datapath()}, args...)...)
	if out != "" {
		n.c.t.Errorf("launch on %s prints %q; it prints nothing on stdout", n.Name(), out)
	}
}

// datapath is that of this run, or of this host in a mixed one.
func (n *node) datapath() string {
	if run.mixed && n.number%2 == 0 {
		return "userspace"
	}
	return run.datapath
}

// relaunch starts a daemon that was there before: no secret, no targets.
func (n *node) relaunch(args ...string) {
	n.c.t.Helper()
	n.must(append([]string{"launch", "--datapath", n.datapath()}, args...)...)
}

// report is what `weft report` says, as far as tests look.
type report struct {
	Ready  bool
	Router struct {
		Name, NickName string
		Connections    []struct {
			Address, State, Info string
			Outbound             bool
		}
		Targets []string
	}
	DNS *struct {
		Entries []struct{ Hostname, Origin, Address string }
	}
}

func (n *node) report() (report, error) {
	var r report
	res := n.weft("report")
	if res.Err != nil {
		return r, res.Err
	}
	if err := json.Unmarshal([]byte(res.Stdout), &r); err != nil {
		return r, fmt.Errorf("weft report: %w: %s", err, res.Stdout)
	}
	return r, nil
}

// connections counts what `weft status connections` lists, by state.
func (n *node) connections() (map[string]int, string, error) {
	r := n.weft("status", "connections")
	if r.Err != nil {
		return nil, "", r.Err
	}
	count := map[string]int{}
	for line := range strings.Lines(r.Stdout) {
		if f := strings.Fields(line); len(f) > 2 {
			count[f[2]]++
		}
	}
	return count, r.Stdout, nil
}

// isMesh says what is missing until every one of the nodes, of all when none
// are named, has an established connection to every other one.
func (c *cluster) isMesh(nodes ...*node) error {
	if len(nodes) == 0 {
		nodes = c.nodes
	}
	for _, n := range nodes {
		count, text, err := n.connections()
		if err != nil {
			return err
		}
		if count["established"] != len(nodes)-1 {
			return fmt.Errorf("%s has %d established connections, want %d:\n%s", n.Name(), count["established"], len(nodes)-1, text)
		}
	}
	return nil
}

// waitMesh waits until all given nodes are connected, and returns how long that
// took.
func (c *cluster) waitMesh(nodes ...*node) time.Duration {
	c.t.Helper()
	return c.wait("all see all", 2*time.Second, func() error { return c.isMesh(nodes...) })
}

// wait polls until f gives no error, for ten times the goal, and says what it
// took. A goal that is missed is not a failure: machines are shared.
func (c *cluster) wait(what string, goal time.Duration, f func() error) time.Duration {
	c.t.Helper()
	return wait(c.t, what, goal, f)
}

func wait(t testing.TB, what string, goal time.Duration, f func() error) time.Duration {
	t.Helper()
	begun := time.Now()
	pause := 10 * time.Millisecond
	for {
		err := f()
		took := time.Since(begun)
		if err == nil {
			t.Logf("%s: after %s (goal %s)", what, took.Round(time.Millisecond), goal)
			return took
		}
		if took > 10*goal*run.slow() {
			t.Fatalf("%s: not within %s: %v", what, took.Round(time.Millisecond), err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: %v: %v", what, t.Context().Err(), err)
		case <-time.After(pause):
		}
		pause = longer(pause, took)
	}
}

// longer is how long to wait until the next look, after some time without what is
// looked for: a look takes the processor from those that are waited for.
func longer(pause, waited time.Duration) time.Duration {
	return min(2*pause, max(waited/20, 200*time.Millisecond), time.Second)
}

// processes lists the host's processes by number, with their program's name.
func (n *node) processes() map[string]string {
	n.c.t.Helper()
	out := map[string]string{}
	dirs, err := filepath.Glob(filepath.Join(n.Root(), "proc/[0-9]*"))
	if err != nil {
		n.c.t.Fatal(err)
	}
	for _, d := range dirs {
		if b, err := os.ReadFile(filepath.Join(d, "comm")); err == nil {
			out[filepath.Base(d)] = strings.TrimSpace(string(b))
		}
	}
	return out
}

// kill ends the daemon without a chance to say goodbye.
func (n *node) kill() {
	n.c.t.Helper()
	found := false
	for pid, name := range n.processes() {
		if name == "weftd" {
			found = true
			n.sh("kill -9 " + pid)
		}
	}
	if !found {
		n.c.t.Fatalf("%s has no weftd to kill", n.Name())
	}
	n.c.wait(n.Name()+"'s daemon is dead", time.Second, n.noDaemon)
}

// log returns the daemon's log.
func (n *node) log() string {
	if n.Spec().Systemd {
		return n.journal()
	}
	b, err := os.ReadFile(filepath.Join(n.Root(), "run/weft/weftd.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// keepEvidence writes what may explain a failure.
func (c *cluster) keepEvidence() {
	dir := c.t.ArtifactDir()
	if run.artefacts != "" {
		dir = filepath.Join(run.artefacts, strings.ReplaceAll(c.t.Name(), "/", "-"))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), time.Minute)
	defer cancel()
	for _, n := range c.nodes {
		to := filepath.Join(dir, n.Name())
		if err := os.MkdirAll(to, 0o755); err != nil {
			c.t.Log(err)
			return
		}
		write := func(name, text string) { _ = os.WriteFile(filepath.Join(to, name), []byte(text), 0o644) }
		for _, args := range [][]string{
			{"weft", "status"},
			{"weft", "status", "connections"},
			{"weft", "status", "peers"},
			{"weft", "status", "dns"},
			{"weft", "report"},
			{"weft", "ps"},
			{"nft", "list", "ruleset"},
			{"iptables-save"},
			{"ip", "-d", "addr"},
			{"ip", "route", "show", "table", "all"},
			{"ip", "-6", "route", "show", "table", "all"},
			{"ip", "rule"},
			{"bridge", "fdb"},
			{"wg"},
			{"ps", "-ef"},
			{"ss", "-anp"},
		} {
			write(strings.Join(args, "-"), n.Run(ctx, args...).String())
		}
		log := n.log()
		write("weftd.log", log)
		for name, p := range n.Containers() {
			write("container-"+name, p.Run(ctx, "ip", "addr").String()+p.Run(ctx, "ip", "route").String()+p.Run(ctx, "ip", "neigh").String())
		}
		r := n.Run(ctx, "weft", "status", "connections")
		c.t.Logf("connections of %s:\n%s%s", n.Name(), r.Stdout, r.Stderr)
		lines := strings.Split(strings.TrimSpace(log), "\n")
		c.t.Logf("last of %s's log:\n%s", n.Name(), strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
	c.t.Logf("more is in %s", dir)
}

// box is a container on the switch.
type box struct {
	*lab.Container
	n    *node
	addr netip.Addr
	name string // of one label, known to the cluster
}

// resolver is where every host's containers find the name server.
func resolver() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 67, 83}) }

// attach starts a container on the host and puts it on the switch, with a name.
func (n *node) attach(name, addr string) *box {
	n.c.t.Helper()
	b := n.start(name)
	b.addr = netip.MustParseAddr(addr)
	if got := n.must("attach", addr+"/12", b.Ref()); got != addr+"\n" {
		n.c.t.Errorf("attach prints %q, want the address", got)
	}
	n.must("dns-add", addr, b.Ref(), "-h", name+".weft.internal")
	return b
}

// start starts a container that is not on the switch yet.
func (n *node) start(name string) *box {
	n.c.t.Helper()
	c, err := n.Container(n.c.t.Context(), name, lab.ContainerOptions{
		Resolvers: []netip.Addr{resolver()}, Search: []string{"weft.internal."},
	})
	if err != nil {
		n.c.t.Fatal(err)
	}
	return &box{Container: c, n: n, name: name}
}

// attachEach puts one container on the switch of every host: c1 is 10.32.0.1 on
// host1, and so on.
func (c *cluster) attachEach() []*box {
	c.t.Helper()
	var out []*box
	for _, n := range c.nodes {
		out = append(out, n.attachOwn())
	}
	return out
}

func (n *node) attachOwn() *box {
	return n.attach(fmt.Sprintf("c%d", n.number), fmt.Sprintf("10.32.0.%d", n.number))
}

// noDaemon is an error while the host has one.
func (n *node) noDaemon() error {
	for pid, name := range n.processes() {
		if name == "weftd" {
			return fmt.Errorf("process %s is weftd", pid)
		}
	}
	return nil
}
