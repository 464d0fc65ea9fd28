package path

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/crypto"
)

// Whatever it is told, in whatever order, by a peer or a relay that lies: a
// machine holds its invariants, keeps few things, and sends little.
func TestAnyEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := New(Config{Decider: rapid.Bool().Draw(t, "decider"), Rand: func(n time.Duration) time.Duration { return n / 3 }})
		endpoint := rapid.Custom(func(t *rapid.T) netip.AddrPort {
			if rapid.IntRange(0, 20).Draw(t, "zero") == 0 {
				return netip.AddrPort{}
			}
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(0, 40).Draw(t, "host"))}), 6784)
		})
		endpoints := rapid.SliceOfN(endpoint, 0, 12)
		relays := rapid.Custom(func(t *rapid.T) Relay {
			via := rapid.SliceOfN(rapid.Map(rapid.Byte(), func(b byte) crypto.Identity { return crypto.Identity{b} }), 0, 3).Draw(t, "via")
			return Relay{Route{endpoint.Draw(t, "relay"), via}, time.Duration(rapid.IntRange(0, 500).Draw(t, "rtt ms")) * time.Millisecond, 1500}
		})
		now := epoch
		var last Device
		books := newBooks(t)
		for range rapid.IntRange(1, 120).Draw(t, "events") {
			var e Event
			switch rapid.IntRange(0, 16).Draw(t, "kind") {
			case 0:
				e = Start{Candidates: endpoints.Draw(t, "list"), Endpoint: endpoint.Draw(t, "at"), Handshake: now.Add(-time.Duration(rapid.IntRange(0, 200).Draw(t, "age")) * time.Second)}
			case 1:
				e = Introduced{rapid.Bool().Draw(t, "initiator"), endpoints.Draw(t, "list")}
			case 2:
				e = Candidates(endpoints.Draw(t, "list"))
			case 3:
				e = Relays(rapid.SliceOfN(relays, 0, 12).Draw(t, "relays"))
			case 4, 5, 6:
				last.Rx += uint64(rapid.IntRange(0, 5000).Draw(t, "rx"))
				last.Tx += uint64(rapid.IntRange(0, 5000).Draw(t, "tx"))
				if rapid.Bool().Draw(t, "elsewhere") {
					last.Endpoint = endpoint.Draw(t, "endpoint")
				} else {
					last.Endpoint = m.Route().Endpoint
				}
				switch rapid.IntRange(0, 5).Draw(t, "handshake") {
				case 0:
					last.Handshake = time.Time{}
				case 1:
					last.Handshake = now
				}
				e = last
			case 7:
				e = Pong{Endpoint: endpoint.Draw(t, "endpoint"), RTT: 10 * time.Millisecond}
			case 8:
				e = Asked{endpoint.Draw(t, "endpoint")}
			case 9:
				e = Echo{Number: uint64(rapid.IntRange(0, int(m.pulse.number)+2).Draw(t, "number")), RTT: 10 * time.Millisecond}
			case 10:
				e = Unknown{}
			case 11:
				e = Restarted{m.Route().Endpoint}
			case 12:
				e = Withdrawn{endpoint.Draw(t, "endpoint")}
			case 13:
				e = Punched{endpoints.Draw(t, "list")}
			case 14:
				e = Moved{}
			case 15:
				e = Idle{time.Duration(rapid.IntRange(-1, 700).Draw(t, "idle")) * time.Second}
			case 16:
				e = Alive(rapid.Bool().Draw(t, "alive"))
			}
			books.enter(now, e, m.Step(now, e))
			if err := m.check(now); err != nil {
				t.Fatalf("after %T: %v", e, err)
			}
			until := now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			for n := m.Next(); !n.IsZero() && n.Before(until); n = m.Next() {
				now = n
				books.enter(now, Tick{}, m.Step(now, Tick{}))
				if err := m.check(now); err != nil {
					t.Fatalf("after a tick: %v", err)
				}
			}
			now = until
		}
		books.close(now, m)
	})
}

// books is what a machine did.
type books struct {
	t       *rapid.T
	probed  map[netip.AddrPort]time.Time // when one went alone
	volleys []time.Time
	shots   map[netip.AddrPort]int // in the last volley
	events  int
	begun   time.Time
	counts  map[string]int
	up      bool
	route   Route
	changes uint64
}

func newBooks(t *rapid.T) *books {
	return &books{t: t, probed: make(map[netip.AddrPort]time.Time), shots: make(map[netip.AddrPort]int), begun: epoch, counts: make(map[string]int)}
}

func (b *books) enter(now time.Time, e Event, do []Action) {
	if _, ok := e.(Tick); !ok {
		b.events++
	}
	volley := false
	for _, a := range do {
		switch a := a.(type) {
		case Probe:
			volley = volley || a.TTL > 0
			b.probe(now, a)
		case Quiet:
			if a.For < minQuiet || a.For > maxQuiet || !a.Route.Endpoint.IsValid() {
				b.t.Errorf("%s", a)
			}
		case SetEndpoint:
			if !a.Endpoint.IsValid() {
				b.t.Errorf("an endpoint that is none, after %T", e)
			}
		case Changed:
			b.change(now, a.Change)
		}
		switch a.(type) {
		case Changed, Probe:
		default:
			b.counts[fmtType(a)]++
		}
	}
	if volley {
		if n := len(b.volleys); n > 0 && now.Sub(b.volleys[n-1]) < newsRest {
			b.t.Errorf("volleys %s apart", now.Sub(b.volleys[n-1]))
		}
		b.volleys = append(b.volleys, now)
		clear(b.shots)
	}
}

// probe checks that one candidate is asked at most once a second, but for the
// shots of a volley.
func (b *books) probe(now time.Time, p Probe) {
	if n := len(b.volleys); p.TTL > 0 || n > 0 && now.Sub(b.volleys[n-1]) <= shots*shotGap+time.Second {
		if b.shots[p.Endpoint]++; b.shots[p.Endpoint] > shots+2 {
			b.t.Errorf("%d probes of %s in a volley", b.shots[p.Endpoint], p.Endpoint)
		}
	} else if gap := now.Sub(b.probed[p.Endpoint]); gap < probeGap {
		b.t.Errorf("probes of %s %s apart", p.Endpoint, gap)
	}
	b.probed[p.Endpoint] = now
}

func (b *books) change(now time.Time, c Change) {
	b.changes++
	if !c.At.Equal(now) || c.Why == "" || (c.FromState == Established) != b.up || b.up && c.From.Endpoint != b.route.Endpoint && b.route.Endpoint.IsValid() {
		b.t.Errorf("%s, after up %t on %s", c, b.up, b.route)
	}
	b.up, b.route = c.ToState == Established, c.To
}

func (b *books) close(now time.Time, m *Machine) {
	s := m.Status()
	if s.Changes != b.changes || len(s.History) != int(min(b.changes, historyLength)) {
		b.t.Errorf("%d changes, status tells %d, history %d", b.changes, s.Changes, len(s.History))
	}
	if (s.State == Established) != b.up || s.Loss < 0 || s.Loss > 1 {
		b.t.Errorf("told up %t: %+v", b.up, s)
	}
	// Each event may cause a few things; beyond that time limits them.
	seconds := int(now.Sub(b.begun)/time.Second) + 1
	for kind, most := range map[string]int{"Initiate": 2 * seconds, "SetEndpoint": 2 * seconds, "Readd": seconds, "Ping": 11 * seconds, "Quiet": seconds, "Rebind": 10 * seconds} {
		if b.counts[kind] > most+10*b.events {
			b.t.Errorf("%d × %s in %d s with %d events", b.counts[kind], kind, seconds, b.events)
		}
	}
}

func fmtType(a Action) string { return strings.TrimPrefix(fmt.Sprintf("%T", a), "path.") }
