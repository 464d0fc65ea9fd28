package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// The tests of this file wait most of the time, so they run side by side.

const (
	// foundDead is how long it should take to find out that a host is gone: a
	// probe by each of the others, and 12 s of suspicion.
	foundDead = 20 * time.Second
	// longestSuspicion is how long a member may be suspected among so few hosts.
	longestSuspicion = 36 * time.Second
	// withoutSpace turns the allocator off: who owns an address may be out of
	// reach, or think that it is in use still.
	withoutSpace = "--ipalloc-range="
)

// split is a cluster with a container on each host.
type split struct {
	*cluster
	boxes []*box
}

func newSplit(t *testing.T, n int, flags ...string) *split {
	t.Helper()
	c := newCluster(t, n)
	for _, h := range c.nodes {
		if h.number == 1 {
			h.launch(flags...)
		} else {
			h.launch(append([]string{c.nodes[0].Addr().String()}, flags...)...)
		}
	}
	c.waitMesh()
	s := &split{c, c.attachEach()}
	whole(c, s.boxes)
	return s
}

// side picks the containers of hosts by number.
func (s *split) side(numbers ...int) []*box {
	var out []*box
	for _, i := range numbers {
		out = append(out, s.boxes[i-1])
	}
	return out
}

// named says whether each of the containers finds the names of exactly those
// that there are on the given side, at their addresses.
func (s *split) named(by, there []*box) error {
	for _, b := range by {
		for _, o := range s.boxes {
			var want []string
			for _, h := range there {
				if h == o {
					want = []string{o.addr.String()}
				}
			}
			if err := b.finds(o.name, want...); err != nil {
				return err
			}
		}
	}
	return nil
}

// linked says whether all of them reach each other.
func linked(boxes []*box) error {
	for _, a := range boxes {
		for _, b := range boxes {
			if a == b {
				continue
			}
			if err := a.reaches(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// separate is an error until every one of the nodes is connected to the others
// of them and takes only them for members. Connections with everybody else end
// before that: a tunnel dies within seconds, a member is suspected first.
func (c *cluster) separate(nodes ...*node) error {
	names := make(map[string]bool)
	for _, n := range nodes {
		names[n.identity().Name] = true
	}
	for _, n := range nodes {
		r := n.weft("status", "peers")
		if r.Err != nil {
			return r.Err
		}
		found := 0
		for line := range strings.Lines(r.Stdout) {
			name, _, member := strings.Cut(line, "(")
			switch {
			case !member || strings.HasPrefix(line, " "): // a connection of the member above
			case !names[name]:
				return fmt.Errorf("%s counts %s as a member:\n%s", n.Name(), name, r.Stdout)
			default:
				found++
			}
		}
		if found != len(nodes) {
			return fmt.Errorf("%s has %d members, want %d:\n%s", n.Name(), found, len(nodes), r.Stdout)
		}
	}
	return c.isMesh(nodes...)
}

// nobodyLost is an error when a daemon has ever taken a member for dead.
func (s *split) nobodyLost() error {
	for _, n := range s.nodes {
		for line := range strings.Lines(n.log()) {
			if strings.Contains(line, `msg="peer lost"`) {
				return fmt.Errorf("%s: %s", n.Name(), line)
			}
		}
	}
	return nil
}

// silence is an answer that did not come in time: whatever it was to say, it may
// say again. On a busy machine one is late now and then.
type silence struct{ error }

func (s silence) Unwrap() error { return s.error }

// silent says whether an error is of silences alone.
func silent(err error) bool {
	switch e := err.(type) { //nolint:errorlint // what is around it is looked into
	case silence:
		return true
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !silent(err) })
	}
	return false
}

// longSilence is for how long nothing may be heard of what is held.
const longSilence = 5 * time.Second

// hold fails the test when f gives an error before the time has passed: at once
// when that is a wrong answer; when it is none after a while, or when that was so
// for half of the time.
func hold(t *testing.T, what string, until time.Time, f func() error) {
	t.Helper()
	looked := 0
	begun := time.Now()
	heard, deaf := begun, time.Duration(0)
	for time.Now().Before(until) {
		asked := time.Now()
		err := f()
		switch {
		case err == nil:
			heard = time.Now()
		case !silent(err) || time.Since(heard) > longSilence*run.slow():
			t.Fatalf("%s, %s before the end: %v", what, time.Until(until).Round(time.Second), err)
		}
		looked++
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(250 * time.Millisecond):
		}
		if err != nil {
			deaf += time.Since(asked)
		}
	}
	if all := time.Since(begun); deaf > all/2 {
		t.Fatalf("%s: nothing was heard for %s of %s", what, deaf.Round(time.Second), all.Round(time.Second))
	}
	t.Logf("%s: looked %d times", what, looked)
}

// change alters the faults of the network.
func change(t *testing.T, err error) time.Time {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return time.Now()
}

// again waits until the whole cluster is as it was.
func (s *split) again(t *testing.T, goal time.Duration) {
	t.Helper()
	wait(t, "connections, names and packets are all back", goal, func() error {
		if err := s.isMesh(); err != nil {
			return err
		}
		return errors.Join(s.named(s.boxes, s.boxes), linked(s.boxes))
	})
}

// A host loses its power: its names are gone everywhere once it is declared
// dead, and those of the others never are. It comes back, and so do they.
func TestVanishedHostReturns(t *testing.T) {
	parallelAs(t, calm, 20*time.Second)
	s := newSplit(t, 3, withoutSpace)
	h3 := s.nodes[2]
	h3name := h3.identity().Name // its own line begins with it, connections are indented
	change(t, h3.Halt())
	left := s.side(1, 2)
	for _, b := range left {
		wait(t, "the names of the vanished host are gone on "+b.n.Name(), foundDead, func() error {
			if err := s.named([]*box{b}, left); err != nil {
				return errors.Join(err, s.named([]*box{b}, s.boxes))
			}
			return nil
		})
	}
	for _, b := range left {
		wait(t, b.n.Name()+" does not list it any more", time.Second, func() error {
			count, text, err := b.n.connections()
			switch peers := b.n.must("status", "peers"); {
			case err != nil:
				return err
			case count["established"] != 1 || strings.Count(text, "\n") != 2:
				return fmt.Errorf("connections:\n%s", text)
			case strings.Contains("\n"+peers, "\n"+h3name):
				return fmt.Errorf("peers:\n%s", peers)
			}
			return nil
		})
	}
	wait(t, "the others reach each other", time.Second, func() error { return linked(left) })
	if err := h3.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	h3.relaunch("--resume", withoutSpace)
	s.boxes[2] = h3.attach("c3", "10.32.0.3")
	s.again(t, 2*time.Second)
}

// Ten seconds without one host, or without any network at all, make nobody take
// anybody for dead: names stay, and packets flow again by themselves.
func TestTenSecondsWithoutHost(t *testing.T) {
	parallelAs(t, calm, 45*time.Second)
	outage(t, func(l *lab.Lab) error { return l.Cut(t.Context(), "host2") })
}

func TestTenSecondsWithoutNetwork(t *testing.T) {
	parallelAs(t, calm, 45*time.Second)
	outage(t, func(l *lab.Lab) error {
		var all []lab.Fault
		for _, h := range l.Hosts() {
			all = append(all, lab.Fault{From: h.Name(), Percent: 100})
		}
		return l.SetFault(t.Context(), all...)
	})
}

func outage(t *testing.T, cut func(*lab.Lab) error) {
	s := newSplit(t, 3)
	begun := change(t, cut(s.Lab))
	names := func() error { return s.named(s.boxes, s.boxes) }
	hold(t, "names during the outage", begun.Add(10*time.Second), names)
	if err := linked(s.boxes); err == nil {
		t.Error("packets passed: there was no outage")
	}
	change(t, s.HealAll(t.Context()))
	wait(t, "packets flow again", time.Second, func() error { return linked(s.boxes) })
	// Who was suspected was so within the first seconds.
	hold(t, "names after the outage", begun.Add(5*time.Second+longestSuspicion), func() error { return errors.Join(names(), s.nobodyLost()) })
	// A path that failed twice in the outage is left alone for a while.
	wait(t, "all paths are direct again", 30*time.Second, func() error { return s.isMesh() })
}

// A partition that is longer than every suspicion heals by itself. On both
// sides the names are right before, during and after it.
func TestPartitionHeals(t *testing.T) {
	parallelAs(t, calm, 55*time.Second)
	s := newSplit(t, 3)
	one, two := s.side(1), s.side(2, 3)
	begun := change(t, s.Cut(t.Context(), "host1"))
	sides := func() error { return errors.Join(s.named(one, one), s.named(two, two)) }
	wait(t, "each side has its own names only", foundDead, sides)
	long := longestSuspicion + 6*time.Second
	if os.Getenv("WEFT_SOAK") != "" {
		long = 3 * time.Minute
	}
	hold(t, "names during the partition", begun.Add(long), func() error { return errors.Join(sides(), linked(two)) })
	change(t, s.HealAll(t.Context()))
	// Nobody may have tried for a minute.
	s.again(t, 20*time.Second)
	hold(t, "names after the partition", time.Now().Add(10*time.Second), func() error { return s.named(s.boxes, s.boxes) })
}

// What one host sends to another is lost, and nothing else: the third one
// vouches for both, so names stay, and packets flow wherever they can, between
// the two by way of the third.
func TestOneWayCut(t *testing.T) {
	parallelAs(t, calm, 50*time.Second)
	s := newSplit(t, 3)
	begun := change(t, s.CutOneWay(t.Context(), "host1", "host2"))
	ctx, cancel := tries(t, 500*time.Millisecond)
	defer cancel()
	if _, err := s.nodes[1].Ping(ctx, s.nodes[0].Addr(), 64, nil); err == nil {
		t.Error("an answer came back: nothing is cut")
	}
	hold(t, "names during the cut", begun.Add(longestSuspicion+4*time.Second), func() error {
		return errors.Join(s.named(s.boxes, s.boxes), s.nobodyLost(), linked(s.side(1, 3)), linked(s.side(2, 3)))
	})
	wait(t, "somebody relays between the two", time.Second, func() error { return linked(s.boxes) })
	change(t, s.HealAll(t.Context()))
	s.again(t, 5*time.Second)
}

// Without a third host the two lose each other, and find each other again.
func TestOneWayCutOfTwo(t *testing.T) {
	parallelAs(t, calm, 25*time.Second)
	s := newSplit(t, 2)
	change(t, s.CutOneWay(t.Context(), "host1", "host2"))
	wait(t, "each has its own names only", foundDead, func() error {
		return errors.Join(s.named(s.side(1), s.side(1)), s.named(s.side(2), s.side(2)))
	})
	change(t, s.HealAll(t.Context()))
	s.again(t, 5*time.Second)
}
