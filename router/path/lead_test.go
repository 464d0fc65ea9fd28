package path

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The end that does not decide goes back to the direct path while the other's
// daemon is gone and its kernel keeps the tunnel: before the relay forgets where
// that host is. It hands that back when the daemon is there again.
func TestFollowerLeads(t *testing.T) {
	for _, kernel := range []bool{true, false} { // of the follower
		p := newPair(t, 1, 2, 1)
		p.hosts[0].kernel, p.hosts[1].kernel = true, kernel
		p.begin(10 * time.Second)
		p.want("direct 0")
		for _, k := range []string{"0", "1"} {
			p.cut("0."+k, "1."+k, true)
		}
		p.wait(10 * time.Second)
		p.want("relay 0")

		dead, follower := p.hosts[0], p.hosts[1]
		follows := func(route string, k int) {
			t.Helper()
			if got := p.routes()[1]; got != route {
				t.Errorf("at %s: the follower uses %q, want %q\n%s", p.now, got, route, p)
			}
			if k >= 0 && dead.endpoint != simEndpoint(1, k) {
				t.Errorf("at %s: the other end sends to %s", p.now, dead.endpoint)
			}
		}
		follower.step(Alive(true))
		dead.stop()
		follower.changes = nil
		follower.step(Alive(false)) // as gossip finds out
		p.atMost("a try while the direct path is cut", p.measure(30*time.Second), 2500*time.Millisecond)
		follows("relay 0", -1)
		if n := len(follower.changes); n != 2 {
			t.Errorf("%d changes while the direct path is cut\n%s", n, p)
		}
		// The relay forgets the host, so this is the only way.
		p.wait(time.Minute)
		p.cut("0.0", "1.0", false)
		p.wait(time.Minute)
		follows("direct 0", 0)
		p.cut("0.1", "1.1", false)
		p.wait(time.Minute)

		dead.step(Start{Candidates: follower.lists, Handshake: dead.handshake, Endpoint: dead.endpoint})
		dead.binds()
		p.wait(10 * time.Second)
		if follower.machine.leads(epoch.Add(p.now)) {
			t.Error("it leads although the daemon is back")
		}
		follower.step(Alive(true))
		p.want("direct")
		for _, k := range []string{"0", "1"} {
			p.cut("0."+k, "1."+k, true)
		}
		p.atMost("death with both daemons", p.measure(20*time.Second), 3*time.Second)
		p.want("relay 0")

		// In time: nothing is interrupted.
		dead.stop()
		follower.step(Alive(false))
		p.cut("0.1", "1.1", false)
		p.cut("0.0", "1.0", false)
		p.atMost("return", p.measure(leadAfter+maxLeadGap/4), 500*time.Millisecond)
		follows("direct 1", 1) // that was not tried before
	}
}

// Who leads: the decider; the other end only some time without a sign of
// the decider's daemon.
func TestLeads(t *testing.T) {
	for _, e := range []Event{Pong{Endpoint: one}, Asked{one}, Punched{[]netip.AddrPort{one}}, Alive(true)} {
		m := New(Config{Rand: none})
		m.Step(epoch, Start{Candidates: []netip.AddrPort{one}})
		at := func(d time.Duration, e Event, want bool) {
			t.Helper()
			if m.Step(epoch.Add(d), e); m.leads(epoch.Add(d)) != want {
				t.Errorf("%T: leads after %s: %t", e, d, !want)
			}
		}
		at(time.Hour, Tick{}, false)
		at(time.Hour, Alive(false), false)
		at(time.Hour+leadAfter-1, Alive(false), false)
		at(time.Hour+leadAfter, Tick{}, true)
		at(time.Hour+leadAfter+1, e, false)
		_, known := e.(Alive)
		at(2*time.Hour, Tick{}, !known)
	}
	if m := New(Config{Decider: true, Rand: none}); !m.leads(epoch) {
		t.Error("the decider does not lead")
	}
}

// Who lost the path while it led does not go on initiating beside the decider
// that is back.
func TestLeadEnds(t *testing.T) {
	for _, back := range []Event{Alive(true), Asked{one}, Punched{[]netip.AddrPort{one}}} {
		for _, relayed := range []bool{false, true} {
			r := standing(t, false, Route{Endpoint: one})
			r.comes = false
			r.step(Alive(false))
			r.run(leadAfter)
			clear(r.passes)
			r.run(time.Minute)
			if m := r.machine; m.State() != Connecting || !m.up.initiator || !m.leads(r.at()) {
				t.Fatalf("%s, initiates %t, leads %t", m.State(), m.up.initiator, m.leads(r.at()))
			}
			for r.machine.up.due.Sub(r.at()) > time.Second {
				r.run(100 * time.Millisecond)
			}
			r.lines = nil
			r.step(back)
			if relayed {
				r.step(Relays{{Route: viaR}, {Route: Route{three, viaR.Via}}})
				r.step(Candidates{one, two, three})
			}
			r.run(answerWait - 1)
			for _, l := range r.lines {
				if strings.Contains(l, "initiate") {
					t.Errorf("%T, news %t: %s", back, relayed, l)
				}
			}
			r.lines = nil
			r.run(2 * time.Second)
			if len(r.lines) == 0 {
				t.Errorf("%T: it never helps", back)
			}
		}
	}
	// An introduction's word holds, and who leads a tunnel that came back does not
	// initiate when it goes again.
	for _, introduced := range []bool{false, true} {
		r := standing(t, false, Route{Endpoint: one})
		r.comes = false
		r.step(Alive(false))
		r.run(leadAfter)
		passes := maps.Clone(r.passes)
		clear(r.passes)
		r.run(20 * time.Second)
		if !r.machine.up.led {
			t.Fatal("it does not lead")
		}
		maps.Copy(r.passes, passes)
		if introduced {
			r.step(Introduced{Initiator: true, Candidates: []netip.AddrPort{one}})
		} else {
			r.run(time.Minute)
		}
		r.step(Alive(true))
		if got := r.machine.up.initiator; got != introduced {
			t.Errorf("introduced %t, initiates %t, %s", introduced, got, r.machine.State())
		}
	}
}
