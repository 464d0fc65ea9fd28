package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// streamTime is how long the stream of [TestKillUnderStream] lasts; the soak
// run asks for more.
func streamTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("WEFT_SOAK")
	if text == "" {
		return 20 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("WEFT_SOAK: %v", err)
	}
	return d
}

// claims is who surely has which address now. It is safe for concurrent use.
type claims struct {
	t  *testing.T
	mu sync.Mutex
	by map[netip.Addr]string
}

// add is told that an attach has answered.
func (c *claims) add(a netip.Addr, who string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other, ok := c.by[a]; ok && other != who {
		c.t.Errorf("%s was given to %s while %s has it", a, who, other)
	}
	c.by[a] = who
}

// remove is told before a detach is asked for.
func (c *claims) remove(list map[netip.Addr]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := range list {
		delete(c.by, a)
	}
}

// streamer is a container that is attached and detached all the time.
type streamer struct {
	n    *node
	ref  string
	asks []string            // what it may ask for, besides what it has
	held map[netip.Addr]bool // what it surely has
	sure bool                // and it has nothing else
}

func (s *streamer) who() string { return s.ref + " of " + s.n.Name() }

// step does one command. An error is why it failed, not what is wrong.
func (s *streamer) step(t *testing.T, all *claims, r *rand.Rand) error {
	if r.IntN(3) == 0 {
		all.remove(s.held)
		res := s.n.weft("detach", s.ref)
		if res.Err != nil {
			s.held, s.sure = map[netip.Addr]bool{}, false
			return res.Err
		}
		released := map[netip.Addr]bool{}
		for f := range strings.FieldsSeq(res.Stdout) {
			a, err := netip.ParseAddr(f)
			if err != nil {
				t.Errorf("detach prints %q", res.Stdout)
			}
			released[a] = true
		}
		if s.sure && !maps.Equal(released, s.held) {
			t.Errorf("%s had %v, detach released %v", s.who(), s.held, released)
		}
		s.held, s.sure = map[netip.Addr]bool{}, true
		return nil
	}
	ask := s.asks[r.IntN(len(s.asks))]
	a, err := s.n.tryAllot(s.ref, ask)
	if err != nil {
		s.sure = false
		return err
	}
	if fixed, ok := strings.CutSuffix(ask, "/12"); ok && a.String() != fixed {
		t.Errorf("%s asked for %s and got %s", s.who(), ask, a)
	} else if !ok && s.sure && len(s.held) > 0 && !s.held[a] {
		t.Errorf("%s has %v, and got %s for %s", s.who(), s.held, a, ask)
	}
	all.add(a, s.who())
	s.held[a] = true
	return nil
}

// While containers come and go all the time on two hosts, their daemons are
// killed at any moment. Nothing is ever given twice, and afterwards every
// address is where ps, the interfaces and the allocator say, and can be freed.
func TestKillUnderStream(t *testing.T) {
	parallelAs(t, ordinary, 30*time.Second) // most of it is waiting for the grace of what died with a daemon
	const each, workers = 9, 3
	c := joined(t, 2)
	all := &claims{t: t, by: map[netip.Addr]string{}}
	var streamers []*streamer
	for _, n := range c.nodes {
		for i, ref := range n.namespaces(each) {
			s := &streamer{n: n, ref: ref, held: map[netip.Addr]bool{}, sure: true}
			switch i % 3 {
			case 0:
				s.asks = []string{"net:default"}
			case 1: // a block, of which one host at most is the owner
				s.asks = []string{"net:10.40.5.0/24"}
			default:
				s.asks = []string{"net:default", fmt.Sprintf("10.40.6.%d/12", n.number*20+i)}
			}
			streamers = append(streamers, s)
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ctx, stop := context.WithCancel(t.Context())
	var stream sync.WaitGroup
	var mu sync.Mutex
	done, failed := 0, map[string]int{}
	for w := range workers * len(c.nodes) {
		mine := streamers[w*each/workers : (w+1)*each/workers]
		stream.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for ctx.Err() == nil {
				err := mine[r.IntN(len(mine))].step(t, all, r)
				mu.Lock()
				done++
				if err != nil {
					why := lastLine(err.Error())
					failed[why[max(0, strings.LastIndex(why, "weft: ")):]]++
				}
				mu.Unlock()
				pause := 10 * time.Millisecond // daemons and other tests need the processor, too
				if err != nil {
					pause = 50 * time.Millisecond // nobody is there
				}
				rest(ctx, pause)
			}
		})
	}
	r := rand.New(rand.NewPCG(seed, 1<<32))
	kills := 0
	for until := time.Now().Add(streamTime(t)); time.Now().Before(until); kills++ {
		victims := c.nodes[:r.IntN(len(c.nodes))+1] // one of them, or all
		if r.IntN(2) == 0 {
			victims = c.nodes[r.IntN(len(c.nodes)):]
		}
		time.Sleep(time.Duration(r.Int64N(int64(1500 * time.Millisecond))))
		for _, n := range victims {
			n.kill()
		}
		for _, n := range victims {
			n.relaunch()
		}
	}
	stop()
	stream.Wait()
	t.Logf("%d commands, %d kills; failed: %v", done, kills, failed)
	for why, count := range failed {
		if !isDeath(why) {
			t.Errorf("%d times: %s", count, why)
		}
	}
	if done < 5*kills {
		t.Errorf("%d commands are no stream", done)
	}

	c.waitMesh()
	c.settles("every address is accounted for", 40*time.Second)
	for _, n := range c.nodes {
		listed, err := n.listing()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range streamers {
			if s.n == n && s.sure {
				if got := addrSet(listed[s.ref]); !maps.Equal(got, s.held) {
					t.Errorf("%s has %v, ps says %v", s.who(), s.held, got)
				}
			}
		}
	}
	for _, s := range streamers {
		s.n.must("detach", s.ref)
	}
	c.settles("all are free again", 5*time.Second)
	for _, n := range c.nodes {
		if s := n.mustSpace(); s.Active > 0 || len(s.Pending) > 0 || len(s.Duplicates) > 0 {
			t.Errorf("left on %s: %d active, pending %v, duplicates %v", n.Name(), s.Active, s.Pending, s.Duplicates)
		}
	}
}

// isDeath says whether an error is that of a command whose daemon died, or was
// not there.
func isDeath(text string) bool {
	for _, s := range []string{"weftd ended before it answered", "weftd is not reachable"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

func addrSet(list []netip.Prefix) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, p := range list {
		out[p.Addr()] = true
	}
	return out
}
