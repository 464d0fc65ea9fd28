package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam/space"
	"github.com/weftnet/weft/mesh/ipam/store"
)

// rules say what a world is like. Everything else follows from the seed.
type rules struct {
	name   string // of the test, to replay it
	seed   uint64
	space  netip.Prefix
	hosts  int // that are launched with each other's names at the start
	late   int // that may join later
	ops    int // operations of users and faults together
	phases int // after each of which everything heals and is audited

	mode   string        // of ParseMode, for all hosts; empty: consensus
	pace   time.Duration // mean time between two operations
	loss   float64       // of a message
	dup    float64
	slow   float64 // share of messages that take seconds
	churn  float64 // probability of a container's end against its begin
	faults float64 // share of operations that are faults
	remove float64 // share of faults that are rmpeer, more than usual
	narrow float64 // share of allocations in a subnet
	static float64 // share of claims

	// takeover allows rmpeer of hosts that are switched off, leave hand-over,
	// oldDisk restarts from an old copy, force what the guarantee excludes.
	takeover, leave, oldDisk, force bool
	rings                           bool // there may be several
	history                         bool // is recorded for porcupine

	// What is broken on purpose.
	sabotage  sabotage
	loseWrite func(*disk, store.Write) bool // these never reach the disk
	onStart   func(h *host)                 // after newCore
	noClock   bool                          // clocks do not jump
	script    func(w *world)                // instead of random operations
	names     func(n int) []int             // targets of host n by number, nil: all of the first hosts
	tweak     func(n int) coreTweak         // nil: none
}

// coreTweak is what hosts may have different from each other.
type coreTweak struct {
	mode  string
	space netip.Prefix
}

// world is a cluster in one goroutine: hosts with a core and a disk each, the
// network between them, their users, and an oracle that sees everything.
type world struct {
	rules
	rnd   *rand.Rand
	geo   space.Geometry
	now   time.Duration // since the beginning; hosts have clocks of their own
	agent timetable
	hosts []*host // in order of creation, also those that are gone
	byID  map[crypto.Identity]*host
	net   network
	truth oracle
	log   history

	tickets  ticket
	pods     int
	removing int  // takeovers that go on
	empty    int  // seconds in which no daemon ran
	done     int  // operations so far
	calm     bool // no new faults and no users: what is broken heals
	count    map[string]int
	trace    []line // the latest, a ring
	lines    int
	mark     uint64 // hash of all that happened, equal for equal runs
	err      error
}

// line is an event of the trace; it is formatted only when it is printed.
type line struct {
	at     time.Duration
	who    string
	format string
	args   []any
}

// epoch is when every world begins.
func epoch() time.Time { return time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC) }

func newWorld(r rules) *world {
	geo, err := space.NewGeometry(r.space)
	if err != nil {
		panic(err)
	}
	w := &world{
		rules: r,
		rnd:   rand.New(rand.NewPCG(r.seed, 0x77656674)),
		geo:   geo,
		byID:  make(map[crypto.Identity]*host),
		count: make(map[string]int),
		trace: make([]line, sim.trace),
	}
	w.net.init(w, r.hosts+r.late)
	w.truth.init(w)
	for range r.hosts {
		w.add()
	}
	return w
}

// fail ends the run. Only the first failure counts. block, unless negative,
// is described.
func (w *world) fail(block int, format string, args ...any) {
	if w.err != nil {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, format, args...)
	fmt.Fprintf(&b, "\n  seed %d, operation %d, %v after the start; replay: go test ./mesh/ipam -run '^%s$' -sim.seed %d\n",
		w.seed, w.done, w.now, strings.ReplaceAll(w.name, "/", "$/^"), w.seed)
	fmt.Fprintf(&b, "  %d hosts, %s, mode %q\n", len(w.hosts), w.space, w.mode)
	for i := max(0, w.lines-len(w.trace)); i < w.lines; i++ {
		l := w.trace[i%len(w.trace)]
		fmt.Fprintf(&b, "  %12v %-8s %s\n", l.at, l.who, fmt.Sprintf(l.format, l.args...))
	}
	if block >= 0 {
		b.WriteString(w.describe(block))
	}
	for _, h := range w.hosts {
		fmt.Fprintf(&b, "  %s\n", h)
	}
	w.err = fmt.Errorf("%s", b.String())
}

// note adds a line to the trace. args must not change later.
func (w *world) note(h *host, format string, args ...any) {
	who := "world"
	n := uint64(len(w.hosts))
	if h != nil {
		who, n = h.nick, uint64(h.n)
	}
	w.trace[w.lines%len(w.trace)] = line{w.now, who, format, args}
	w.lines++
	w.stir(uint64(w.now), n, uint64(len(format)))
}

// stir adds numbers to the mark (FNV-1a).
func (w *world) stir(list ...uint64) {
	for _, v := range list {
		w.mark = (w.mark ^ v) * 0x100000001b3
	}
}

// p is true with probability x.
func (w *world) p(x float64) bool { return w.rnd.Float64() < x }

// between returns a random time from a to b.
func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rnd.Int64N(int64(b-a)+1))
}

// after does something d from now.
func (w *world) after(d time.Duration, do func()) { w.agent.add(w.now+d, do) }

// advance lets time pass until t, and does all that falls due.
func (w *world) advance(t time.Duration) {
	for w.err == nil {
		do, at, ok := w.agent.next(t)
		if !ok {
			break
		}
		w.now = at
		do()
	}
	w.now = t
}

// run is the life of a world.
func (w *world) run() error {
	if w.script != nil {
		w.script(w)
		return w.err
	}
	for _, h := range w.hosts {
		w.after(w.between(0, min(20*time.Second, 50*w.pace)), h.start)
	}
	if w.force {
		w.watchDuplicates()
	}
	for phase := range max(1, w.phases) {
		w.calm = false
		for end := w.ops * (phase + 1) / max(1, w.phases); w.done < end && w.err == nil; w.done++ {
			w.act()
			w.advance(w.now + time.Duration(w.rnd.ExpFloat64()*float64(w.pace)))
		}
		w.heal()
		w.audit()
	}
	if w.history && w.err == nil {
		w.log.check(w)
	}
	return w.err
}

// timetable is what will happen, a heap by time and then by order of adding.
type timetable struct {
	heap  []appointment
	added uint64
}

type appointment struct {
	at    time.Duration
	order uint64
	do    func()
}

func (a appointment) before(b appointment) bool {
	return a.at < b.at || a.at == b.at && a.order < b.order
}

func (t *timetable) add(at time.Duration, do func()) {
	t.added++
	t.heap = append(t.heap, appointment{at, t.added, do})
	for i := len(t.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if !t.heap[i].before(t.heap[parent]) {
			return
		}
		t.heap[i], t.heap[parent] = t.heap[parent], t.heap[i]
		i = parent
	}
}

// next takes out what is to be done first, if it is due until limit.
func (t *timetable) next(limit time.Duration) (do func(), at time.Duration, ok bool) {
	if len(t.heap) == 0 || t.heap[0].at > limit {
		return nil, 0, false
	}
	first := t.heap[0]
	last := len(t.heap) - 1
	t.heap[0] = t.heap[last]
	t.heap[last] = appointment{}
	t.heap = t.heap[:last]
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < last; child++ {
			if t.heap[child].before(t.heap[least]) {
				least = child
			}
		}
		if least == i {
			return first.do, first.at, true
		}
		t.heap[i], t.heap[least] = t.heap[least], t.heap[i]
		i = least
	}
}
