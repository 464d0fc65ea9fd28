package path

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/crypto"
)

// rig is a machine in front of a peer that does as it is told: it answers pings
// where packets pass, probes where it is said to, handshakes where both.
type rig struct {
	t       *testing.T
	machine *Machine
	now     time.Duration
	device  Device
	passes  map[netip.AddrPort]bool // packets, both ways
	opens   map[netip.AddrPort]bool // probes are answered
	comes   bool                    // the peer sends by itself
	goes    bool                    // and we to it
	broken  bool                    // there is no session
	deaf    bool                    // pings do not arrive
	lines   []string
	verbose bool // tell of probes
	coming  []later
}

type later struct {
	at time.Duration
	do func()
}

const rigTrip = 20 * time.Millisecond

var (
	viaR = Route{netip.MustParseAddrPort("198.51.100.1:6783"), []crypto.Identity{{1}}}
	viaS = Route{netip.MustParseAddrPort("198.51.100.2:6783"), []crypto.Identity{{2}}}
)

func newRig(t *testing.T, decider bool) *rig {
	return &rig{
		t: t, machine: New(Config{Decider: decider, Rand: none}),
		passes: make(map[netip.AddrPort]bool), opens: make(map[netip.AddrPort]bool),
		comes: true, goes: true,
	}
}

// standing is a rig whose tunnel stands for a while, with two candidates and
// two relays.
func standing(t *testing.T, decider bool, use Route) *rig {
	r := newRig(t, decider)
	for _, ep := range []netip.AddrPort{one, two, viaR.Endpoint, viaS.Endpoint} {
		r.passes[ep] = true
	}
	r.device = Device{Handshake: epoch.Add(-time.Second), Endpoint: use.Endpoint}
	r.step(Relays{{Route: viaR, RTT: 40 * time.Millisecond}, {Route: viaS, RTT: 50 * time.Millisecond}})
	r.step(Start{Candidates: []netip.AddrPort{one, two}, Handshake: r.device.Handshake, Endpoint: use.Endpoint})
	r.run(20 * time.Second)
	r.lines = nil
	return r
}

func (r *rig) at() time.Time { return epoch.Add(r.now) }

func (r *rig) after(d time.Duration, do func()) { r.coming = append(r.coming, later{r.now + d, do}) }

func (r *rig) step(e Event) {
	r.t.Helper()
	for _, a := range r.machine.Step(r.at(), e) {
		r.obey(a)
	}
	if err := r.machine.check(r.at()); err != nil {
		r.t.Fatalf("at %s, after %T: %v", r.now, e, err)
	}
}

func (r *rig) obey(a Action) {
	switch a := a.(type) {
	case SetEndpoint:
		r.device.Endpoint = a.Endpoint
	case Initiate:
		r.shake(r.device.Endpoint)
	case Readd:
		r.device.Endpoint, r.device.Handshake = a.Endpoint, time.Time{}
		r.shake(a.Endpoint)
	case Ping:
		r.device.Tx += pingBytes
		if r.passes[r.device.Endpoint] && !r.broken && !r.deaf {
			r.after(rigTrip, func() { r.device.Rx += pingBytes; r.step(Echo{Number: a.Number, RTT: rigTrip}) })
		}
		return
	case Probe:
		if r.opens[a.Endpoint] {
			r.after(rigTrip, func() { r.step(Pong{Endpoint: a.Endpoint, RTT: rigTrip}) })
		}
		if !r.verbose {
			return
		}
	}
	r.lines = append(r.lines, fmt.Sprintf("%s %s", r.now, a))
}

func (r *rig) shake(ep netip.AddrPort) {
	if r.passes[ep] {
		r.after(rigTrip, func() {
			r.broken = false
			r.device.Handshake = r.at()
			r.device.Rx += 92
		})
	}
}

// run lets time pass.
func (r *rig) run(d time.Duration) {
	r.t.Helper()
	for end := r.now + d; r.now < end; {
		next := min(end, (r.now/(100*time.Millisecond)+1)*(100*time.Millisecond))
		if n := r.machine.Next(); !n.IsZero() {
			next = min(next, max(n.Sub(epoch), r.now))
		}
		for _, c := range r.coming {
			next = min(next, c.at)
		}
		r.now = next
		due := r.coming
		r.coming = nil
		for _, c := range due {
			if c.at > r.now {
				r.coming = append(r.coming, c)
				continue
			}
			c.do()
		}
		if r.now%(100*time.Millisecond) == 0 {
			if r.goes {
				r.device.Tx += 1200
			}
			if r.comes && r.passes[r.device.Endpoint] && !r.broken {
				r.device.Rx += 1200
			}
			r.step(r.device)
		}
		r.step(Tick{})
	}
}

var rigNames = strings.NewReplacer(
	viaR.String(), "R", viaS.String(), "S", viaR.Endpoint.String(), "R", viaS.Endpoint.String(), "S",
	one.String(), "one", two.String(), "two", three.String(), "three",
)

// want compares what was done since a moment, with times from then.
func (r *rig) want(from time.Duration, want ...string) {
	r.t.Helper()
	var got []string
	for _, l := range r.lines {
		at, text, _ := strings.Cut(l, " ")
		d, err := time.ParseDuration(at)
		if err != nil {
			r.t.Fatal(err)
		}
		got = append(got, (d-from).String()+" "+rigNames.Replace(text))
	}
	r.lines = nil
	if d := cmp.Diff(want, got); d != "" {
		r.t.Error("(-want +got)\n" + d)
	}
}
