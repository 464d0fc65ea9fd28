package main

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Each batch of packets is handed from goroutine to goroutine, and with each
// handing on Go's scheduler wakes another thread if one of its processors is
// idle. Two threads that wake each other for some microseconds of work carry
// less than one that does it all, unless there are processors to spare. So the
// daemon begins with one, tries another one while it is busy, and keeps that if
// more gets through (docs/decisions/2026-11-21-processors.md).

const (
	sampleTime = 250 * time.Millisecond
	// busyShare of its processors is what a busy daemon uses at least, or waits for
	// while others have them. A kernel that counts the time of interrupts by itself
	// takes it out of ours.
	busyShare = 0.7
	// trialSamples are compared with as many before the trial, after one in which
	// the change takes effect.
	trialSamples = 2
	// worth is which share of what one processor carries another one must bring to be
	// kept. One less is kept if no less gets through.
	worth = 0.2
	// leastRate of packets in a second that one processor works is that of a daemon
	// that carries packets; with fewer its work is of another kind.
	leastRate = 1000
	// calmSamples in which one processor less would do end its use without a trial.
	calmSamples = 4
	// Between trials there is a rest, in samples: twice as long after each that
	// changed nothing, up to 8 s and by chance up to as much again. It is not longer,
	// and not always the same, because two hosts that each wait for the other must try
	// together.
	shortRest, longRest = 2, 32
)

// governor decides how many processors the scheduler uses: a hill climb, pure.
type governor struct {
	// Constant after newGovernor.

	most int           // the machine's, or what its owner allows
	some func(int) int // random, below its argument

	// Owned by the caller's goroutine.

	now        int // from 1 to most
	busy, calm int // samples in a row
	rates      [trialSamples]float64

	down  bool // where the next trial goes
	rest  int  // samples until then, at least
	pause int  // the rest after a trial that changes nothing

	trial          int // samples left of one; 0: none
	from           int // before it
	before, during float64
}

func newGovernor(most int, some func(int) int) *governor {
	return &governor{most: most, some: some, now: 1, pause: shortRest}
}

// step takes what was seen since the last one, the processors that were wanted on
// average and the packets that were carried in a second, and returns how many to
// use.
func (g *governor) step(wanted, carried float64) int {
	g.rest = max(g.rest-1, 0)
	if carried < leastRate*wanted {
		carried = 0
	}
	if g.trial > 0 {
		g.try(carried)
		return g.now
	}
	copy(g.rates[:], g.rates[1:])
	g.rates[trialSamples-1] = carried
	g.busy = count(g.busy, wanted > busyShare*float64(g.now))
	g.calm = count(g.calm, g.now > 1 && wanted < busyShare*float64(g.now-1))
	switch {
	case g.calm >= calmSamples:
		g.now--
		g.calm = 0
	case g.busy >= trialSamples && g.rest == 0 && g.most > 1:
		g.begin()
	}
	return g.now
}

func count(n int, more bool) int {
	if more {
		return n + 1
	}
	return 0
}

// begin begins a trial.
func (g *governor) begin() {
	g.down = g.now == g.most || g.down && g.now > 1
	g.from, g.trial = g.now, trialSamples+1
	g.before, g.during = 0, 0
	for _, r := range g.rates {
		g.before += r
	}
	if g.down {
		g.now--
	} else {
		g.now++
	}
}

// try goes on with a trial, and judges it at the end. Where nothing is carried
// the work is of another kind, and gets its processors.
func (g *governor) try(carried float64) {
	if g.trial <= trialSamples {
		g.during += carried
	}
	if g.trial--; g.trial > 0 {
		return
	}
	g.busy, g.calm = 0, 0
	need := g.before * (1 + worth/float64(g.from))
	if g.down {
		need = g.before
	}
	if g.during >= need && (g.during > 0 || !g.down) {
		g.rest, g.pause = shortRest, shortRest
		return
	}
	g.now, g.down = g.from, !g.down
	g.rest, g.pause = g.pause+g.some(g.pause), min(2*g.pause, longRest)
}

// runProcessors lets the scheduler use as many processors as are worth it until
// ctx ends, unless there is only one, or the environment says how many. carried returns how many packets
// have passed through the daemon. A limit that its control group is given later
// holds all the same, by less time for each.
func runProcessors(ctx context.Context, carried func() uint64, log *slog.Logger) {
	if n, err := strconv.Atoi(os.Getenv("GOMAXPROCS")); err == nil && n > 0 {
		return
	}
	most := runtime.GOMAXPROCS(0)
	if most == 1 {
		return
	}
	g := newGovernor(most, rand.IntN)
	runtime.GOMAXPROCS(g.now)
	defer runtime.SetDefaultGOMAXPROCS()
	tick := time.NewTicker(sampleTime)
	defer tick.Stop()
	var d demand
	d.since()
	packets, settled := carried(), g.now
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wanted, took := d.since()
		was, p := g.now, carried()
		if now := g.step(wanted, float64(p-packets)/took.Seconds()); now != was {
			runtime.GOMAXPROCS(now)
		}
		packets = p
		if g.trial == 0 && g.now != settled {
			settled = g.now
			log.Debug("processors", "used", settled, "most", g.most)
		}
	}
}

// carried is how many packets the daemon has moved between others: what the kernel
// forwards by itself takes none of its processors.
func (d *daemon) carried() uint64 { return d.tap.Carried() + d.relay.Carried() }

// demand is how many processors the process wants: those that its threads run on,
// and those that they wait for while others have them.
type demand struct {
	at           time.Time
	used, waited time.Duration
	counting     bool // waited is of the last time
}

// littleUse of a processor is too little to ask for what the threads wait.
const littleUse = 0.1

// since returns the average since the last call, and how long ago that was.
func (d *demand) since() (processors float64, took time.Duration) {
	last := *d
	d.at = time.Now()
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) == nil {
		d.used = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	took = d.at.Sub(last.at)
	wanted := d.used - last.used
	if d.counting = wanted.Seconds() > littleUse*took.Seconds(); d.counting {
		d.waited = waitedTime()
		if last.counting {
			wanted += max(d.waited-last.waited, 0) // a thread that ends takes its own along
		}
	}
	return wanted.Seconds() / took.Seconds(), took
}

// waitedTime is how long the threads of the process have waited for a processor,
// where the kernel says so.
func waitedTime() (all time.Duration) {
	threads, _ := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		b, _ := os.ReadFile(filepath.Join("/proc/self/task", t.Name(), "schedstat"))
		if f := strings.Fields(string(b)); len(f) > 1 { // it ran, it waited, how often
			waited, _ := strconv.ParseInt(f[1], 10, 64)
			all += time.Duration(waited)
		}
	}
	return all
}
