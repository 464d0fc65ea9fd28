package wireguard

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/weftnet/weft/router/path"
)

// Two hosts start within 10 ms of each other, 50 ms apart, each naming the
// other, with traffic waiting at both ends: two real wireguard-go devices, two
// path machines, an introduction in each direction.
const (
	oneWay = 50 * time.Millisecond
	within = 2 * time.Second
	runs   = 100
)

// hold keeps wireguard-go's peers from the garbage collector for the life of
// the process: their finalizers read channels, which those of a bubble do not
// allow outside of it.
type hold struct {
	mu   sync.Mutex
	refs []any
}

var held hold

func (h *hold) add(x any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refs = append(h.refs, x)
}

// end is one host with its machine.
type end struct {
	*memoryHost
	other   *memoryHost
	machine *path.Machine
	smaller bool    // our identity is
	known   [2]bool // introductions completed here: dialled by us, by the other
}

// tell takes the machine a step further and obeys it, as far as a handshake
// goes: there are no relays, and nobody answers probes and pings.
func (e *end) tell(ev path.Event) error {
	for _, a := range e.machine.Step(time.Now(), ev) {
		var err error
		switch a := a.(type) {
		case path.SetEndpoint:
			err = e.SetEndpoint(e.other.peer().PublicKey, a.Endpoint)
		case path.Initiate:
			err = e.Initiate(e.other.peer().PublicKey)
		case path.Readd:
			p := e.other.peer()
			p.Endpoint = a.Endpoint
			err = e.Readd(p)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
	}
	return nil
}

// introduced is what mesh says when an introduction completes at this end.
func (e *end) introduced(dialled bool) error {
	first := !e.known[0] && !e.known[1]
	if dialled {
		e.known[0] = true
	} else {
		e.known[1] = true
	}
	if first { // now the router has the peer in the device
		if err := e.Set(e.config(e.other.peer())); err != nil {
			return err
		}
	}
	initiator := dialled
	if e.known[0] && e.known[1] {
		initiator = e.smaller
	}
	return e.tell(path.Introduced{Initiator: initiator, Candidates: []netip.AddrPort{e.other.addr}})
}

// drive looks at the device as the router does.
func (e *end) drive() error {
	list, err := e.Peers()
	if err != nil {
		return err
	}
	for _, p := range list {
		d := path.Device{Handshake: p.LastHandshake, Endpoint: p.Endpoint, Rx: p.RxBytes, Tx: p.TxBytes}
		if err := e.tell(d); err != nil {
			return err
		}
	}
	return e.tell(path.Tick{})
}

func (e *end) up() bool {
	return e.tun.got.Load() > 0 && e.machine.Status().State == path.Established
}

// meetAtOnce makes two hosts and returns how long it took until packets had
// arrived at both ends; it gives up after limit.
func meetAtOnce(t *testing.T, r *rand.Rand, limit time.Duration) (took time.Duration, ok bool) {
	ends, stop := openPair(t, newNetwork(oneWay), r)
	defer stop()
	start := time.Now()
	uniform := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }

	// An introduction is three round trips: TCP, TLS, proof and adverts. Who
	// hears last that it is done depends on who speaks last.
	type news struct {
		at      time.Time
		to      int
		dialled bool
	}
	var coming []news
	for i := range ends {
		dials := start.Add(uniform(10 * time.Millisecond))
		done := dials.Add(6*oneWay + uniform(20*time.Millisecond))
		heard := done.Add(oneWay - 2*uniform(oneWay) + uniform(20*time.Millisecond))
		coming = append(coming, news{done, i, true}, news{heard, 1 - i, false})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := 0; time.Since(start) < limit; n++ {
		now := <-tick.C
		left := coming[:0]
		for _, c := range coming {
			if c.at.After(now) {
				left = append(left, c)
				continue
			}
			must(t, ends[c.to].introduced(c.dialled))
		}
		coming = left
		for i, e := range ends {
			if n%10 == 5*i && (e.known[0] || e.known[1]) {
				must(t, e.drive())
			}
		}
		if ends[0].up() && ends[1].up() {
			return time.Since(start), true
		}
	}
	return 0, false
}

// openPair returns two hosts with traffic waiting for each other.
func openPair(t *testing.T, n *network, r *rand.Rand) (ends [2]*end, stop func()) {
	a, b := openMemory(t, n, 1), openMemory(t, n, 2)
	chance := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	ends[0] = &end{memoryHost: a, other: b, smaller: true}
	ends[1] = &end{memoryHost: b, other: a}
	for _, e := range ends {
		e.machine = path.New(path.Config{Decider: e.smaller, Rand: chance})
		e.wg.(*ipc).removed = func(p *device.Peer) { held.add(p) }
		must(t, e.Set(e.config()))
		go e.tun.send(e.overlay, e.other.overlay, 10*time.Millisecond)
	}
	return ends, func() {
		for _, e := range ends {
			if p := e.wgo.LookupPeer(device.NoisePublicKey(e.other.peer().PublicKey)); p != nil {
				held.add(p)
			}
			held.add(e.wgo)
			must(t, e.Close())
		}
		synctest.Wait()
	}
}

func TestTwoHostsMeetAtOnce(t *testing.T) {
	var worst time.Duration
	for seed := range uint64(runs) {
		synctest.Test(t, func(t *testing.T) {
			took, ok := meetAtOnce(t, rand.New(rand.NewPCG(seed, 1)), within)
			if !ok {
				t.Errorf("run %d: not established after %s", seed, within)
			}
			worst = max(worst, took)
		})
	}
	t.Logf("%d runs, slowest %s", runs, worst)
}

// The same without the rule that one end initiates: both set the other's
// endpoint as soon as they know it. This must fail, or the test above is
// worth nothing.
func TestTwoHostsMeetAtOnceWithoutRule(t *testing.T) {
	const few, long = 10, 30 * time.Second
	soon, late := 0, 0
	for seed := range uint64(few) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			ends, stop := openPair(t, newNetwork(oneWay), r)
			defer stop()
			start := time.Now()
			for _, e := range ends {
				p := e.other.peer()
				p.Endpoint = e.other.addr
				must(t, e.Set(e.config(p)))
				time.Sleep(time.Duration(r.Int64N(int64(10 * time.Millisecond))))
			}
			for time.Since(start) < long {
				time.Sleep(10 * time.Millisecond)
				if ends[0].tun.got.Load() > 0 && ends[1].tun.got.Load() > 0 {
					if time.Since(start) <= within {
						soon++
					}
					late++
					return
				}
			}
		})
	}
	t.Logf("without the rule %d of %d were established within %s, %d within %s", soon, few, within, late, long)
	if soon > 0 {
		t.Errorf("%d of %d runs were established within %s without the rule", soon, few, within)
	}
}
