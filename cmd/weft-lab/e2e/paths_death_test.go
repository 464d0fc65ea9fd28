package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
	"github.com/weftnet/weft/router/api"
)

const (
	// breakTime is how long an interruption should be at most when a path dies.
	breakTime = 3 * time.Second
	// agreeTime is how much later the other end should use the new path, too.
	agreeTime = 2 * time.Second
	// some is how many Mbit/s iperf3 sends where it is about a connection that lives.
	some = 5
	// returnTime is how soon a direct path that is back should be used again.
	returnTime = 30 * time.Second
)

// traffic is what runs between two containers while paths die: pings for the
// exact figure, a conversation over TCP, and iperf3 in both directions.
type traffic struct {
	c    *cluster
	a, b *box
	*pulse
	*talk
	load  *load // nil where iperf3 is not installed
	begun time.Time
}

// startTraffic lets it run; iperf3 sends so many Mbit/s each way.
func startTraffic(t testing.TB, a, b *box, mbit int) *traffic {
	t.Helper()
	tr := &traffic{c: a.n.c, a: a, b: b, begun: time.Now(), pulse: startPulse(t, a, b), talk: startTalk(t, a, b)}
	if _, err := exec.LookPath("iperf3"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Log("NOT TESTED: connections of iperf3: ", err)
	} else {
		tr.load = startLoad(t, a, b, mbit)
	}
	tr.steady(t)
	return tr
}

// switchTo does something to the network and waits until both ends use another
// path, and pings flow by it.
func (tr *traffic) switchTo(t testing.TB, what, path string, limit time.Duration, do func() error) {
	t.Helper()
	begun := time.Now()
	if err := do(); err != nil {
		t.Fatal(err)
	}
	tr.c.within(fmt.Sprintf("%s: both ends use the path %s", what, path), limit, func() error { return usesPath(tr.a.n, tr.b.n, path) })
	tr.steady(t)
	tr.report(t, what, begun)
	here, there := tr.lastChange(t, tr.a.n, tr.b.n), tr.lastChange(t, tr.b.n, tr.a.n)
	if here.At.Before(begun) || there.At.Before(begun) { // it sends to the same relay as before
		t.Logf("%s: only one end had to change: %s says %q, %s says %q", what, tr.a.n.Name(), here.Why, tr.b.n.Name(), there.Why)
		return
	}
	apart := here.At.Sub(there.At).Abs()
	t.Logf("%s: %s says %q, %s says %q, %s apart", what, tr.a.n.Name(), here.Why, tr.b.n.Name(), there.Why, apart.Round(time.Millisecond))
	if apart > 10*agreeTime*run.slow() {
		t.Errorf("%s: the ends changed %s apart", what, apart)
	}
}

// report says how long the traffic was interrupted since then.
func (tr *traffic) report(t testing.TB, what string, since time.Time) {
	t.Helper()
	now := time.Now()
	pings, words := tr.answers.gap(since, now), tr.talk.gap(since, now)
	t.Logf("FIGURE %s: pings interrupted for %s, TCP for %s", what, pings.Round(10*time.Millisecond), words.Round(10*time.Millisecond))
	if pings > 10*breakTime*run.slow() {
		t.Errorf("%s: pings were interrupted for %s, want at most %s", what, pings, breakTime)
	}
}

func (tr *traffic) lastChange(t testing.TB, on, to *node) api.WhyChange {
	t.Helper()
	h := on.why(to).History
	if len(h) == 0 {
		t.Fatalf("%s has no history of the path to %s", on.Name(), to.Name())
	}
	return h[len(h)-1]
}

// finish ends the traffic: no connection has broken.
func (tr *traffic) finish(t testing.TB) {
	t.Helper()
	if err := tr.end(); err != nil {
		t.Errorf("the connection between the containers broke: %v", err)
	}
	if tr.load != nil {
		// TCP may wait as long again as it was interrupted before it sends, and
		// iperf3 tells of whole seconds only.
		again := time.Now().Add(tr.talk.gap(tr.begun, time.Now()) + 3*time.Second)
		time.Sleep(max(time.Until(again), time.Until(tr.begun.Add(7*time.Second))))
		tr.load.finish(t)
	}
	tr.stop()
}

// stays fails the test when the path changes at either end until the time has
// passed.
func (tr *traffic) stays(t *testing.T, d time.Duration) {
	t.Helper()
	a, b := tr.a.n.why(tr.b.n).Changes, tr.b.n.why(tr.a.n).Changes
	hold(t, "the path stays", time.Now().Add(d), func() error {
		if x, y := tr.a.n.why(tr.b.n), tr.b.n.why(tr.a.n); x.Changes != a || y.Changes != b {
			return fmt.Errorf("it changed: %+v; %+v", x.History, y.History)
		}
		return nil
	})
}

// noFalseDeath is an error when a daemon took a member for dead besides those
// that were, by name.
func (c *cluster) noFalseDeath(dead ...string) error {
	var errs []error
	for _, n := range c.nodes {
		for line := range strings.Lines(n.log()) {
			named := slices.ContainsFunc(dead, func(d string) bool { return strings.Contains(line, "nickname="+d) })
			if strings.Contains(line, `msg="peer lost"`) && !named {
				errs = append(errs, fmt.Errorf("%s: %s", n.Name(), line))
			}
		}
	}
	return errors.Join(errs...)
}

// meshed is a cluster of n hosts of which those pairs are cut from the start,
// with a container each.
func meshed(t testing.TB, n int, cut ...[2]int) (*cluster, []*box) {
	t.Helper()
	c := newGraph(t, func(name string) lab.Topology {
		topology := lab.Flat(name, n)
		topology.Faults = lab.Except(topology, func(a, b string) bool {
			for _, p := range cut {
				x, y := fmt.Sprintf("host%d", p[0]), fmt.Sprintf("host%d", p[1])
				if a == x && b == y || a == y && b == x {
					return false
				}
			}
			return true
		})
		return topology
	})
	c.joinGraph(inOrder(n))
	boxes := c.attachEach()
	c.allReach(boxes, reachSoon)
	c.within("every pair is direct where it can be", reachSoon, c.bestPaths)
	return c, boxes
}

// A direct path dies and comes back: the third host relays meanwhile, no
// connection breaks, and the direct path is taken again, once.
func TestDirectPathDies(t *testing.T) {
	parallelAs(t, calm, 35*time.Second)
	directDies(t, some, func(l *lab.Lab) error { return l.CutPair(t.Context(), "host1", "host2") })
}

// It dies while as much as possible is sent, which must not hide the death. With
// other tests beside it, it is them and not the load that would keep the daemons
// from the processor: it has the machine to itself.
func TestDirectPathDiesUnderLoad(t *testing.T) {
	directDies(t, 1000, func(l *lab.Lab) error { return l.CutPair(t.Context(), "host1", "host2") })
}

// It dies in one direction only, the one or the other.
func TestDirectPathDiesOneWay(t *testing.T) {
	parallelAs(t, calm, 35*time.Second)
	directDies(t, some, func(l *lab.Lab) error { return l.CutOneWay(t.Context(), "host1", "host2") })
}

func TestDirectPathDiesOtherWay(t *testing.T) {
	parallelAs(t, calm, 35*time.Second)
	directDies(t, some, func(l *lab.Lab) error { return l.CutOneWay(t.Context(), "host2", "host1") })
}

func directDies(t *testing.T, mbit int, cut func(*lab.Lab) error) {
	t.Helper()
	c, boxes := meshed(t, 3)
	tr := startTraffic(t, boxes[0], boxes[1], mbit)
	tr.switchTo(t, "direct path cut", "host3", 4*time.Second, func() error { return cut(c.Lab) })
	tr.stays(t, 3*time.Second)
	tr.switchTo(t, "direct path back", "direct", returnTime, func() error { return c.HealAll(t.Context()) })
	tr.stays(t, 8*time.Second)
	tr.finish(t)
	if err := c.noFalseDeath(); err != nil {
		t.Error(err)
	}
}

// A relay dies, and with it its host's daemon: another one takes over.
func TestRelayDies(t *testing.T) {
	parallelAs(t, calm, 25*time.Second)
	c, boxes := meshed(t, 4, [2]int{1, 2})
	h1, h2 := c.nodes[0], c.nodes[1]
	used := ""
	c.within("both ends use one relay", 10*time.Second, func() error {
		p, err := h1.pathTo(h2)
		if err != nil {
			return err
		}
		used = pathText(p)
		return usesPath(h1, h2, used)
	})
	other := map[string]string{"host3": "host4", "host4": "host3"}[used]
	relay := c.byName(used)
	tr := startTraffic(t, boxes[0], boxes[1], some)
	tr.switchTo(t, "kill -9 of the relay", other, 4*time.Second, func() error { relay.kill(); return nil })
	relay.relaunch()
	c.waitRelayed()
	tr.stays(t, 5*time.Second)
	tr.finish(t)
	if err := c.noFalseDeath(used); err != nil {
		t.Error(err)
	}
}

// The only relay dies and comes back: what it has forgotten heals at once.
func TestOnlyRelayRestarts(t *testing.T) {
	parallelAs(t, calm, 15*time.Second)
	c, boxes := meshed(t, 3, [2]int{1, 2})
	h3 := c.nodes[2]
	tr := startTraffic(t, boxes[0], boxes[1], some)
	begun := time.Now()
	h3.kill()
	h3.relaunch()
	back := time.Now()
	away := back.Sub(begun)
	t.Logf("the relay was away for %s", away.Round(time.Millisecond))
	tr.steady(t)
	tr.report(t, "restart of the only relay", begun)
	tr.report(t, "restart of the only relay, since it is back", back)
	c.waitRelayed()
	tr.finish(t)
	dead := []string{"host3"}
	if away > 10*time.Second { // nothing leads from one to the other, for longer than members are suspected
		dead = append(dead, "host1", "host2")
	}
	if err := c.noFalseDeath(dead...); err != nil {
		t.Error(err)
	}
}

// The second relay of a chain dies: host1 - host2 - (host3 or host4) - host5.
func TestSecondRelayDies(t *testing.T) {
	parallelAs(t, calm, 15*time.Second)
	c, boxes := meshed(t, 5, [2]int{1, 3}, [2]int{1, 4}, [2]int{1, 5}, [2]int{2, 5}, [2]int{3, 4})
	h1, h5 := c.nodes[0], c.nodes[4]
	var second, other string
	c.within("the ends use a chain", 10*time.Second, func() error {
		p, err := h1.pathTo(h5)
		if err != nil {
			return err
		}
		second = strings.TrimPrefix(pathText(p), "host2,")
		if other = map[string]string{"host3": "host2,host4", "host4": "host2,host3"}[second]; other == "" {
			return fmt.Errorf("host1 reaches host5 by %s", pathText(p))
		}
		return nil
	})
	tr := startTraffic(t, boxes[0], boxes[4], some)
	tr.switchTo(t, "kill -9 of the second relay of a chain", other, 4*time.Second, func() error { c.byName(second).kill(); return nil })
	tr.stays(t, 3*time.Second)
	tr.finish(t)
	if err := c.noFalseDeath(second); err != nil {
		t.Error(err)
	}
}

// byName returns the node of that name.
func (c *cluster) byName(name string) *node {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.Name() == name {
			return n
		}
	}
	c.t.Fatalf("there is no host %q", name)
	return nil
}

// waitRelayed waits until every host has a connection to every other one, of
// whatever kind.
func (c *cluster) waitRelayed() {
	c.t.Helper()
	c.within("everybody is connected to everybody", reachSoon, func() error {
		for _, n := range c.nodes {
			count, text, err := n.connections()
			if err != nil {
				return err
			}
			if count["established"]+count["relayed"] != len(c.nodes)-1 {
				return fmt.Errorf("%s is not:\n%s", n.Name(), text)
			}
		}
		return nil
	})
}
