package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// hang is how much longer an engine may take for anything than one on a host
// without weft does. One that waits for somebody who is not there does so for 15 s.
const hang = 10 * time.Second

// stage is what the orders are tried on: a host with weft and an engine, one
// with an engine and without weft, and one whose container talks to those of
// the first. The hosts with engines have the same containers:
//
//	plug   on the network weft, restarted by its engine
//	prox   started through the proxy, restarted by its engine
//	plain  attached by hand, restarted by its engine
//	once   on the network weft, not restarted
type stage struct {
	*cluster
	t          *testing.T
	policy     string // for restarts
	here, bare *node
	far        *box
	had        map[string]netip.Addr // by container
	swap       bool                  // containers ended together: their engine does not say whose address it asks for
	begun      time.Time             // of the order
	before     []string              // what was on the host before weft was
	active     uint64                // addresses in use without containers
}

func (s *stage) names() []string { return []string{"once", "plain", "plug", "prox"} }

// newStage makes one where everything runs.
func newStage(t *testing.T, policy string) *stage {
	t.Helper()
	c := newCluster(t, 3)
	s := &stage{cluster: c, t: t, policy: policy, here: c.nodes[1], bare: c.nodes[2], had: map[string]netip.Addr{}}
	t.Cleanup(func() { // before the lab ends
		if b, err := os.ReadFile(s.here.LogFile("dockerd")); t.Failed() && err == nil {
			t.Logf("last of the engine's log:\n%s", b[max(0, len(b)-10000):])
		}
	})
	s.both("the first start of an engine", 0, func(n *node) error {
		err := n.StartDocker(t.Context())
		if err != nil {
			return err
		}
		// An engine makes this one when it first needs it, and keeps it.
		return n.Docker(t.Context(), "network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "-o", "com.docker.network.bridge.name=docker_gwbridge",
			"-o", "com.docker.network.bridge.enable_ip_masquerade=true", "docker_gwbridge").Err
	})
	s.here.sh("iptables -S >/dev/null; ip6tables -S >/dev/null")
	s.before = s.here.residue()
	c.nodes[0].launch()
	s.here.launch(c.nodes[0].Addr().String())
	c.waitMesh(c.nodes[:2]...)
	s.far = c.nodes[0].give("far")
	s.waitNetwork()
	s.active = s.here.mustSpace().Active
	s.populate()
	s.settled("everything was started")
	return s
}

func (s *stage) waitNetwork() {
	s.t.Helper()
	s.wait("the engine has the network weft", 2*time.Second, func() error {
		return s.here.Docker(s.t.Context(), "network", "inspect", "weft").Err
	})
}

// populate starts the containers.
func (s *stage) populate() {
	s.t.Helper()
	args := strings.Fields(s.here.must("dns-args"))
	s.both("docker run of four containers", hang, func(n *node) error {
		own, socket := n == s.here, ""
		if own {
			socket = "unix:///var/run/weft/docker.sock"
		}
		return errors.Join(
			s.run(n, "", "plug", own, "--restart", s.policy),
			s.run(n, socket, "prox", false, "--restart", s.policy),
			s.run(n, "", "plain", false, append(args, "--restart", s.policy)...),
			s.run(n, "", "once", own))
	})
}

// run starts a container that sleeps, by way of a socket, on the network weft or
// on that of every container.
func (s *stage) run(n *node, socket, name string, onWeft bool, flags ...string) error {
	var args []string
	if socket != "" {
		args = append(args, "-H", socket)
	}
	args = append(args, "run", "-d", "--stop-signal", "KILL", "--name", name)
	if onWeft {
		args = append(args, "--network", "weft")
	}
	return n.Docker(s.t.Context(), append(append(args, flags...), lab.DockerImage, "sleep", "1000000")...).Err
}

// timing is how long something took on the host with weft and on the other one.
type timing struct{ here, bare time.Duration }

func (t timing) String() string {
	return fmt.Sprintf("%s, without weft %s", t.here.Round(10*time.Millisecond), t.bare.Round(10*time.Millisecond))
}

// both does the same on the hosts with engines, at the same time, and wants it to
// work on both, and to take no more longer on the one with weft than a hang and
// what is known to be waited for: twice the time is the price of a network more.
func (s *stage) both(what string, waits time.Duration, f func(n *node) error) timing {
	s.t.Helper()
	var took timing
	var all sync.WaitGroup
	var errs [2]error
	for i, d := range []*time.Duration{&took.here, &took.bare} {
		all.Go(func() {
			begun := time.Now()
			errs[i] = f([]*node{s.here, s.bare}[i])
			*d = time.Since(begun)
		})
	}
	all.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		s.t.Errorf("%s: %v", what, err)
	}
	if took.here > 2*took.bare+(waits+hang)*run.slow() {
		s.t.Errorf("%s: the engine took %s, which is longer than a hang", what, took)
	}
	s.t.Logf("%s: %s", what, took)
	return took
}

// end9 kills every process of these names, all at once, and waits until they
// ended. What sleeps is a container.
func (n *node) end9(names ...string) error {
	var pids []string
	for pid, name := range n.processes() {
		if slices.Contains(names, name) {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return fmt.Errorf("%s has none of %v to kill", n.Name(), names)
	}
	// One that ends with another one is no error.
	const script = `kill -9 "$@"; for i in $(seq 500); do
		n=0; for p in "$@"; do [ -e /proc/$p ] && n=1; done # a zombie's threads may still hold locks
		[ $n = 0 ] && exit 0; sleep 0.02; done; exit 1`
	return n.Run(context.WithoutCancel(n.c.t.Context()), append([]string{"sh", "-c", script, "sh"}, pids...)...).Err
}

// end9Engine kills the engine and what is named besides. Its containers live.
func (n *node) end9Engine(more ...string) error {
	return errors.Join(n.end9(append(more, "dockerd")...), n.StopDocker())
}

// everything is what [node.end9] is told to end all.
func everything() []string {
	return []string{"containerd", "containerd-shim", "sleep", "weftd", "weft-plugin"}
}

// life is what the engine says of a container.
type life struct {
	id, endpoint string
	running      bool
	addr         netip.Addr // on the network weft
}

// lives asks the engine of all containers.
func (s *stage) lives() (map[string]life, error) {
	const format = `{{.Name}} {{.Id}} {{.State.Running}} {{range $n, $v := .NetworkSettings.Networks}}{{if eq $n "weft"}}{{$v.EndpointID}} {{$v.IPAddress}}{{end}}{{end}}`
	r := s.here.Docker(s.t.Context(), append([]string{"inspect", "-f", format}, s.names()...)...)
	if r.Err != nil {
		return nil, r.Err
	}
	out := map[string]life{}
	for line := range strings.Lines(r.Stdout) {
		f := append(strings.Fields(line), "", "")
		l := life{id: f[1], running: f[2] == "true", endpoint: f[3]}
		l.addr, _ = netip.ParseAddr(f[4])
		out[strings.TrimPrefix(f[0], "/")] = l
	}
	return out, nil
}

// whole says what is wrong with the network.
func (s *stage) whole() error {
	lives, err := s.lives()
	if err != nil {
		return err
	}
	want, known := map[string]string{}, []string{"far " + s.far.addr.String()}
	for name, l := range lives {
		if name == "plain" {
			l.addr = s.had[name]
		}
		if !l.running || !l.addr.IsValid() {
			return fmt.Errorf("%s: %+v", name, l)
		}
		if had, ok := s.had[name]; ok && had != l.addr && !(s.swap && (name == "plug" || name == "once")) {
			return fmt.Errorf("%s has %s, it had %s", name, l.addr, had)
		}
		want[l.id[:12]] = l.addr.String()
		known = append(known, name+" "+l.addr.String())
	}
	list, err := s.here.listing()
	if err != nil {
		return err
	}
	got := map[string]string{}
	for p, who := range list.all() {
		got[who] = p.Addr().String()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("weft ps (-engine +weft):\n%s", diff)
	}
	r, err := s.here.report()
	if err != nil {
		return err
	}
	var entries []string
	for _, e := range r.DNS.Entries {
		name, _, _ := strings.Cut(e.Hostname, ".")
		entries = append(entries, name+" "+e.Address)
	}
	slices.Sort(known)
	slices.Sort(entries)
	if diff := cmp.Diff(known, entries); diff != "" {
		return fmt.Errorf("names (-engine +weft):\n%s", diff)
	}
	for name, l := range lives {
		if name == "plain" {
			l.addr = s.had[name]
		}
		b := &box{name: name, addr: l.addr}
		if err := errors.Join(s.far.knows(b), s.far.reaches(b)); err != nil {
			return err
		}
		if r := s.here.inBox(name, "sh", "-c", "ping -c1 -W1 -q far && ping -c1 -W1 -q "+s.far.addr.String()); r.Err != nil {
			return r.Err
		}
	}
	return nil
}

// left says what is there of weft's that belongs to nothing: interfaces, and
// what the journal has. More than that is asked for with all: addresses that an
// engine asked for and never used are kept for a minute.
func (s *stage) left(all bool) error {
	lives, err := s.lives()
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(s.here.Root(), "var/lib/weft/workloads.json"))
	if err != nil {
		return err
	}
	var journal struct {
		Containers []struct {
			ID               string
			Adding, Removing []string
		}
		Endpoints []struct{ ID string }
		Reserved  []struct {
			Address, Endpoint string
			Dead              bool
		}
	}
	if err := json.Unmarshal(b, &journal); err != nil {
		return err
	}
	var want, got []string
	for name, l := range lives {
		if name == "plain" {
			want = append(want, "container "+l.id)
		} else {
			want = append(want, "endpoint "+l.endpoint)
		}
	}
	for _, c := range journal.Containers {
		got = append(got, strings.TrimSpace("container "+c.ID+" "+strings.Join(append(c.Adding, c.Removing...), " ")))
	}
	for _, e := range journal.Endpoints {
		got = append(got, "endpoint "+e.ID)
	}
	for _, x := range journal.Reserved {
		if all && !x.Dead && !slices.ContainsFunc(slices.Collect(maps.Values(lives)), func(l life) bool { return l.endpoint == x.Endpoint }) {
			got = append(got, "reserved "+x.Address)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("the journal (-engine +weft):\n%s", diff)
	}
	ends := s.here.hostEnds()
	on := s.here.sh("ls /sys/class/net/weft/brif | grep ^wv | wc -l")
	if len(ends) != len(lives) || strings.TrimSpace(on) != fmt.Sprint(len(lives)) {
		return fmt.Errorf("%d containers have the interfaces %v, %s of them on the bridge", len(lives), ends, strings.TrimSpace(on))
	}
	return nil
}

// up waits until the containers run that their engine starts.
func (s *stage) up() {
	s.t.Helper()
	s.wait("the engine's containers run", 3*time.Second, func() error {
		args := []string{"ps", "--format", "{{.Names}}"}
		here, bare := strings.Fields(s.here.docker(args...)), strings.Fields(s.bare.docker(args...))
		for _, name := range s.names() {
			if name != "once" && !slices.Contains(here, name) {
				return fmt.Errorf("%s does not run; there are %v, without weft %v", name, here, bare)
			}
		}
		return nil
	})
}

// settled does what people have to do themselves after an engine or a container
// ended, and waits until the network is as it was. It returns how long that took.
func (s *stage) settled(what string) time.Duration {
	s.t.Helper()
	begun := time.Now()
	s.up()
	lives, err := s.lives()
	if err != nil {
		s.t.Fatal(err)
	}
	if !lives["once"].running {
		s.both("docker start", 0, func(n *node) error { return n.Docker(s.t.Context(), "start", "once").Err })
	}
	a := s.here.allot("plain")
	if was := s.had["plain"]; was.IsValid() && a != was && time.Since(s.begun) < 30*time.Second {
		s.t.Errorf("plain is attached again with %s, it had %s", a, was)
	}
	s.had["plain"] = a
	s.within("after "+what+": whole", 5*time.Second, s.whole)
	whole := time.Since(begun)
	if lives, err = s.lives(); err != nil {
		s.t.Fatal(err)
	}
	for _, name := range []string{"plug", "prox", "once"} {
		s.had[name] = lives[name].addr
	}
	s.quick()
	deadline := time.Now().Add(5 * time.Second)
	for err = s.left(false); err != nil && time.Now().Before(deadline); err = s.left(false) {
		rest(s.t.Context(), 200*time.Millisecond)
	}
	if err != nil {
		s.t.Logf("left for now after %s: %v", what, err)
	}
	return whole
}

// quick wants the engine to answer as fast as one without weft.
func (s *stage) quick() {
	s.t.Helper()
	for _, args := range [][]string{{"ps"}, {"inspect", "plug"}} {
		s.both("docker "+args[0], 0, func(n *node) error { return n.Docker(s.t.Context(), args...).Err })
	}
	s.both("docker run --rm", 0, func(n *node) error {
		network := "bridge"
		if n == s.here {
			network = "weft"
		}
		return n.Docker(s.t.Context(), "run", "--rm", "--network", network, lab.DockerImage, "true").Err
	})
}

// residue lists what weft could leave on the host, in order.
func (n *node) residue() []string {
	n.c.t.Helper()
	out := strings.Split(n.sh(`for l in /sys/class/net/*; do echo link ${l##*/}; done
		for l in eth0 docker0 docker_gwbridge lo; do ip -4 -o addr show dev $l | sed 's/ valid_lft.*//; s/^[0-9]*: /address /'; done
		ip rule | sed 's/^/rule /'; ip -6 rule | sed 's/^/rule /'
		ip -4 route show table all | sed 's/ linkdown//; s/^/route /'
		ip -6 route show table all | grep -v 'docker\|local fe80' | sed 's/^/route /' # a bridge has some when it first had a port
		nft list tables | sed 's/^/nft /'
		iptables-save | grep ^- | sed 's/^/iptables /'
		find /run/weft /var/lib/weft /etc/weft 2>/dev/null | sed 's/^/file /'
		find /run/docker/plugins -mindepth 1 2>/dev/null | sed 's/^/file /'
		for d in /sys/class/net/docker*; do echo ${d##*/} $(cat /proc/sys/net/ipv4/conf/${d##*/}/forwarding); done
		true`), "\n")
	for _, name := range n.processes() {
		out = append(out, "process "+name)
	}
	out = slices.DeleteFunc(out, func(l string) bool {
		return l == "" || slices.Contains([]string{"process sh", "process sed", "process ps"}, l)
	})
	slices.Sort(out)
	return out
}

// over removes all containers and then weft, and wants nothing to be left. With
// waits it wants the addresses to be free before.
func (s *stage) over(waits bool) {
	s.t.Helper()
	begun := time.Now()
	s.within("nothing is left that belongs to nothing", 60*time.Second, func() error { return s.left(true) })
	s.t.Logf("FIGURE what was left after the orders was gone %s later", time.Since(begun).Round(10*time.Millisecond))
	s.both("docker rm of all", 0, func(n *node) error {
		return n.Docker(s.t.Context(), append([]string{"rm", "-f"}, s.names()...)...).Err
	})
	if waits {
		s.within("all addresses are free", 60*time.Second, func() error {
			if got := s.here.mustSpace().Active; got != s.active {
				return fmt.Errorf("%d are active", got)
			}
			return nil
		})
	}
	s.here.must("reset")
	s.within("nothing is left of weft", 3*time.Second, func() error {
		if diff := cmp.Diff(s.before, s.here.residue()); diff != "" {
			return diffError(diff)
		}
		return nil
	})
}
