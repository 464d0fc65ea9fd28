package ipam

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
)

// The simulation runs whole clusters in one process: hosts with the real
// machine and a disk each, a network that loses, doubles, delays and cuts,
// users who attach and detach containers, and an oracle that sees everything.
// Time is virtual, and everything follows from a seed.
//
// # What is promised, and what is not
//
// Without rmpeer no address is used twice, in any partition; with it, as long
// as the host that is removed is really gone and everybody whom it gave space
// was asked. Some things can break that, and no protocol could help it. The
// random runs avoid exactly these and count how often they did ("skipped",
// "stopped", "put off" in the output):
//
//   - rmpeer of a host that gave space to somebody whom nobody asked, since
//     nobody who is asked knows of it.
//   - A host whose disk went back to an older copy, or was lost, and that
//     reaches nobody. It cannot know what it gave away since. As soon as it
//     reaches somebody it must ask everybody, and that is in the runs.
//   - A host that was removed and comes back reaching nobody, or only others
//     that were removed as well. The same. Both look for others for ten
//     seconds by their clock, which must not jump then.
//   - A host that took over the space of another one, by rmpeer or reset, and
//     whose disk then goes back to before that. Nobody else need know yet.
//   - A host whose disk went back, and rmpeer of those whom it gave space since,
//     before it could ask them what it gave.
//   - A host that is removed while it runs, or starts again while its space is
//     being taken over: it has to stay off until rmpeer has ended.
//   - Addresses that a removed host gave to containers so shortly before it
//     went that nobody heard of them. When it comes back and starts the same
//     containers again they may be duplicates, which have to be listed.
//   - Hosts added before the first division. Each host counts a majority of
//     those whom it knows or was told of, and two such majorities need not
//     have anybody in common. Of hosts that are launched with the same list
//     there is only one ring; that is in the runs.
//
// In the second mode (TestSimForce) nothing is avoided, and every duplicate
// has to be listed by somebody once all have met.

// settings are the flags of the simulation.
type simSettings struct {
	ops, seed, first uint64
	trace            int
	verbose          bool
}

func newSimSettings() *simSettings {
	s := &simSettings{}
	flag.Uint64Var(&s.ops, "sim.ops", 200_000/raceCost, "`operations` of the simulation")
	flag.Uint64Var(&s.seed, "sim.seed", 0, "replay the world with this `seed` only; 0: many")
	flag.Uint64Var(&s.first, "sim.first", 1, "begin with this `seed`")
	flag.IntVar(&s.trace, "sim.trace", 60, "print so many `events` before a failure")
	flag.BoolVar(&s.verbose, "sim.v", false, "a line for each world")
	return s
}

// sim is what the flags said.
var sim = newSimSettings()

// opsOf is how many operations a world has.
const opsOf = 4000

// randomRules makes the rules of a world from its seed.
func randomRules(seed uint64) rules {
	r := rand.New(rand.NewPCG(seed, 1))
	pick := func(list ...int) int { return list[r.IntN(len(list))] }
	// Of these the small ones are full all the time, which is where hosts need
	// each other; the large ones, with 4,096 blocks, are slow to simulate.
	spaces := []string{
		"10.32.0.0/27", "10.32.0.0/26", "10.32.0.0/25", "10.32.0.0/24", "10.32.0.0/22", "fd00:1::/122",
		"10.32.0.0/20", "10.32.0.0/19", "10.32.0.0/16", "10.32.0.0/12", "fd00:1::/112", "fd00:2::/64",
	}
	space := pick(0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 5)
	if r.IntN(5) == 0 {
		space = pick(6, 7, 8, 9, 10, 11)
	}
	w := rules{
		seed:   seed,
		space:  netip.MustParsePrefix(spaces[space]),
		hosts:  pick(3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 7, 9),
		late:   r.IntN(4),
		ops:    opsOf,
		phases: 2,
		pace:   time.Duration(pick(3, 10, 20, 40, 80)) * time.Millisecond,
		loss:   float64(pick(0, 0, 1, 5, 20)) / 100,
		dup:    float64(pick(0, 1, 10)) / 100,
		slow:   float64(pick(0, 0, 1, 5)) / 100,
		churn:  0.25 + r.Float64()*0.35,
		faults: float64(pick(0, 2, 4, 8, 16)) / 100,
		narrow: float64(pick(0, 20, 50, 90)) / 100,
		static: float64(pick(5, 20, 40)) / 100,
		mode:   []string{"", "", "", "consensus=2", "seed"}[r.IntN(5)],

		takeover: r.IntN(2) == 0,
		leave:    r.IntN(3) == 0,
		oldDisk:  r.IntN(3) == 0,
		history:  r.IntN(4) == 0,
	}
	if space > 5 { // every start reads 4,096 blocks
		w.ops, w.faults = opsOf/2, min(w.faults, 0.04)
	}
	if w.takeover && seed%3 == 0 {
		w.remove, w.pace = 0.2, max(w.pace, 40*time.Millisecond)
	}
	switch seed % 50 { // many hosts, fewer operations
	case 20:
		w.hosts, w.late, w.ops, w.phases, w.space = 50, 0, opsOf/10, 1, netip.MustParsePrefix(spaces[3])
	case 45:
		w.hosts, w.late, w.ops, w.phases, w.space = 25, 5, opsOf/4, 1, netip.MustParsePrefix(spaces[seed/50%5])
	}
	return w
}

// TestSim runs random worlds in which no address may be used twice.
func TestSim(t *testing.T) { simulate(t, sim.ops*9/10, sim.first, randomRules) }

// TestSimForce runs worlds in which everything is done that the guarantee
// excludes: rmpeer --force of hosts that run, old copies of disks that are
// alone. Every duplicate must be listed once all have met.
func TestSimForce(t *testing.T) {
	simulate(t, sim.ops/10, sim.first+1_000_000, func(seed uint64) rules {
		r := randomRules(seed)
		r.force, r.takeover, r.oldDisk, r.leave, r.history = true, true, true, false, false
		r.hosts, r.late, r.faults, r.remove = min(r.hosts, 9), min(r.late, 2), 0.02, 0.3
		r.pace, r.churn = max(r.pace, 40*time.Millisecond), 0.2
		return r
	})
}

// TestSimHistory runs worlds in which nothing goes wrong, so that it can be
// checked as well that claims are refused for a reason.
func TestSimHistory(t *testing.T) {
	simulate(t, sim.ops/40, sim.first+2_000_000, func(seed uint64) rules {
		r := randomRules(seed)
		r.hosts, r.late, r.ops, r.pace = min(r.hosts, 9), 0, opsOf/4, 30*time.Millisecond
		r.loss, r.slow, r.faults, r.static, r.narrow, r.history = 0, 0, 0, 0.4, 0.8, true
		return r
	})
}

// simulate runs worlds of consecutive seeds until there were enough
// operations, as many at a time as there are processors.
func simulate(t *testing.T, ops, first uint64, of func(seed uint64) rules) {
	t.Parallel()
	if sim.seed != 0 {
		first, ops = sim.seed, 1
	}
	if testing.Short() {
		ops = min(ops, 20_000)
	}
	begin := time.Now()
	var (
		done, steps atomic.Int64
		next, begun atomic.Uint64
		mu          sync.Mutex // count, failed
		count       = make(map[string]int)
		failed      error
		all         sync.WaitGroup
	)
	next.Store(first)
	for range min(runtime.GOMAXPROCS(0), 8) {
		all.Go(func() {
			for {
				seed := next.Add(1) - 1
				if planned := uint64(of(seed).ops); begun.Add(planned)-planned >= ops {
					return
				}
				r := of(seed)
				r.name = t.Name()
				start := time.Now()
				w := newWorld(r)
				err := w.run()
				done.Add(int64(w.done))
				steps.Add(int64(w.truth.steps))
				mu.Lock()
				for k, n := range w.count {
					count[k] += n
				}
				if sim.verbose {
					t.Logf("seed %d: %v %s, %d+%d hosts, %d steps, %v of %v, %d letters", seed, r.mode, r.space, r.hosts, r.late,
						w.truth.steps, w.now.Round(time.Second), time.Since(start).Round(time.Millisecond), w.net.sent)
				}
				stop := failed != nil
				if err != nil && failed == nil {
					failed, stop = err, true
				}
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	all.Wait()
	t.Logf("seeds %d to %d: %d operations, %d steps in %v\n%s", first, next.Load()-1, done.Load(), steps.Load(),
		time.Since(begin).Round(time.Millisecond), counted(count))
	if failed != nil {
		t.Fatal(failed)
	}
}

func counted(count map[string]int) string {
	var b strings.Builder
	for _, k := range sortedStrings(count) {
		fmt.Fprintf(&b, "  %7d %s\n", count[k], k)
	}
	return b.String()
}

// TestSimReplay runs worlds twice.
func TestSimReplay(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 8; seed++ {
		r := randomRules(seed)
		r.ops, r.phases = 500, 1
		a, b := newWorld(r), newWorld(r)
		errA, errB := a.run(), b.run()
		if a.mark != b.mark || a.lines != b.lines || a.now != b.now || (errA == nil) != (errB == nil) {
			t.Errorf("seed %d ran differently: %d and %d lines, %d and %d letters", seed, a.lines, b.lines, a.net.sent, b.net.sent)
			firstDifference(t, a, b)
		}
	}
}

func firstDifference(t *testing.T, a, b *world) {
	for i := range a.trace {
		x, y := a.trace[i], b.trace[i]
		if x.at != y.at || x.who != y.who || x.format != y.format {
			t.Logf("%v %s %s %v\n%v %s %s %v", x.at, x.who, x.format, x.args, y.at, y.who, y.format, y.args)
			return
		}
	}
}

// parseMode parses a mode; "seed" means all of the first hosts.
func (w *world) parseMode(s string) Mode {
	if s == "seed" {
		m := Mode{Kind: ModeSeed}
		for n := range w.rules.hosts {
			m.Seeds = append(m.Seeds, w.identity(n).Name())
		}
		slices.SortFunc(m.Seeds, func(a, b crypto.Name) int { return slices.Compare(a[:], b[:]) })
		return m
	}
	m, err := ParseMode(s)
	if err != nil {
		panic(err)
	}
	return m
}
