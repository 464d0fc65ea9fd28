package path

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/crypto"
)

// The times and margins of relays.
const (
	maxRelays = 8
	// rememberRelays is how many endpoints of relays are known as such though
	// they are not offered now.
	rememberRelays = 64
	// goneGrace is how long a relay that is no longer offered is still used
	// while it carries packets: what is offered follows from reports that
	// differ for a moment.
	goneGrace = time.Second
	// fasterTime is how long another relay must be better before it is taken.
	fasterTime   = 30 * time.Second
	fasterPause  = 60 * time.Second
	fasterMargin = 10 * time.Millisecond
	slowerMargin = 2 * time.Millisecond // by which fewer relays may be slower
	// youngRoute is how long a route may be left for a better one at once: the
	// first that is heard of is often not the best.
	youngRoute = 10 * time.Second
	// rerouteGap is the least time between handshakes that only follow a
	// change behind the first relay.
	rerouteGap = 60 * time.Second
)

// relays are the ways to the peer through others.
type relays struct {
	list     []Relay // that can be used now, best first
	heard    map[netip.AddrPort][]crypto.Identity
	gone     time.Time // when to leave a relay that is no longer offered
	faster   netip.AddrPort
	since    time.Time // since when it is better
	swapped  time.Time // when the last one was taken for being better
	rerouted time.Time // when the way behind our relay changed last
	stale    bool      // and no handshake followed
}

func (r *relays) find(ep netip.AddrPort) (Relay, bool) {
	i := slices.IndexFunc(r.list, func(x Relay) bool { return x.Endpoint == ep })
	if i < 0 {
		return Relay{}, false
	}
	return r.list[i], true
}

// set takes a new list and returns those in it that were not in the old one.
func (r *relays) set(list []Relay) (fresh []Relay) {
	old := *r
	r.list = nil
	if r.heard == nil || len(r.heard) > rememberRelays {
		r.heard = make(map[netip.AddrPort][]crypto.Identity)
	}
	for _, x := range list {
		if len(x.Via) > 0 && x.Endpoint.IsValid() && len(r.list) < maxRelays {
			r.list = append(r.list, x)
			r.heard[x.Endpoint] = x.Via
			if _, had := old.find(x.Endpoint); !had {
				fresh = append(fresh, x)
			}
		}
	}
	return fresh
}

// compare looks for a relay that is much better than the one in use.
func (r *relays) compare(now time.Time, use netip.AddrPort, rests rests) {
	cur, ok := r.find(use)
	i := slices.IndexFunc(r.list, func(x Relay) bool {
		return ok && !rests.has(now, x.Endpoint) && x.better(cur)
	})
	if i < 0 {
		r.faster, r.since = netip.AddrPort{}, time.Time{}
		return
	}
	if r.faster != r.list[i].Endpoint {
		r.faster, r.since = r.list[i].Endpoint, now
	}
}

// better reports whether a relay is worth a change from another: it is much
// faster, or there are fewer relays on the way and it is not slower.
func (x Relay) better(than Relay) bool {
	if x.RTT == 0 || than.RTT == 0 || x.Endpoint == than.Endpoint {
		return false
	}
	return muchBetter(x.RTT, than.RTT, fasterMargin) ||
		len(x.Via) < len(than.Via) && x.RTT <= than.RTT+than.RTT/10+slowerMargin
}

// due is when a better relay is to be taken; zero: there is none.
func (r *relays) due(young bool) time.Time {
	if r.since.IsZero() || young {
		return r.since
	}
	due := r.since.Add(fasterTime)
	if next := r.swapped.Add(fasterPause); !r.swapped.IsZero() && next.After(due) {
		return next
	}
	return due
}

// muchBetter reports whether an RTT is 30 % better than another, and by margin.
func muchBetter(rtt, than, margin time.Duration) bool {
	return rtt*10 <= than*7 && than-rtt >= margin
}

func (m *Machine) replaceRelays(now time.Time, list []Relay) []Action {
	fresh := m.relays.set(list)
	m.ends = slices.DeleteFunc(m.ends, func(c *candidate) bool { // a tunnel that outlived the daemon
		return !c.listed && len(m.via(c.endpoint)) > 0
	})
	if m.state != Established {
		if len(fresh) > 0 {
			m.relaysCame(now)
		}
		if m.up.rebind.IsZero() { // these came too late for it
			return rebind(fresh)
		}
		return nil
	}
	var do []Action
	if m.pulse.streak >= doubtStreak {
		do = rebind(fresh)
	}
	via := m.via(m.route.Endpoint)
	_, offered := m.relays.find(m.route.Endpoint)
	switch {
	case len(via) == 0:
		return do // direct
	case m.route.Direct(): // by ignorance
		if c := m.ends.find(m.route.Endpoint); c != nil && c.listed {
			return do
		}
		m.route.Via = via
		if m.move.on() {
			m.move.to = m.route
		}
		m.settle(now)
	case offered && !slices.Equal(via, m.route.Via):
		do = append(do, m.rerouted(now, via)...)
	}
	m.relays.compare(now, m.route.Endpoint, m.rests)
	if offered {
		m.relays.gone = time.Time{}
	} else if m.leads(now) && m.relays.gone.IsZero() {
		m.relays.gone = now.Add(goneGrace)
	}
	return do
}

// rerouted follows a change of the way behind our relay. The session goes on
// along the old way as long as that stands, and only a new handshake takes the
// new one. A relay that stops tells a little before it does, so one handshake
// is made at once; when the way changes often, the next miss makes it.
func (m *Machine) rerouted(now time.Time, via []crypto.Identity) []Action {
	quick := !within(now, m.relays.rerouted, rerouteGap)
	m.relays.rerouted = now
	var do []Action
	if m.leads(now) && quick {
		do = m.note(now, Route{m.route.Endpoint, via}, Established, "the way behind the relay changed")
		do = append(do, m.handshakeNow(now)...)
	} else {
		m.route.Via = via
		m.relays.stale = m.leads(now)
	}
	if m.move.on() {
		m.move.to, m.move.deadline = m.route, now.Add(proveTime)
	}
	return do
}

// leaveRelay does what is due about the relay in use: it is gone, or another
// is better.
func (m *Machine) leaveRelay(now time.Time) []Action {
	if !m.leads(now) || !m.route.Relayed() || m.move.on() && (m.relays.gone.IsZero() || m.move.echoed) {
		return nil
	}
	if reached(now, m.relays.gone) || !m.relays.gone.IsZero() && (m.pulse.streak > 0 || m.move.on()) {
		m.relays.gone = time.Time{}
		if to, ok := m.alternative(now, now.Add(-freshAnswer)); ok {
			return m.switchTo(now, to, "the relay is gone", false)
		}
	}
	if !m.move.on() && reached(now, m.relays.due(m.young())) {
		cur, _ := m.relays.find(m.route.Endpoint)
		better, ok := m.relays.find(m.relays.faster)
		m.relays.since = time.Time{}
		if ok {
			m.relays.swapped = now
			why := "there is a way with fewer relays"
			if len(better.Via) >= len(cur.Via) {
				why = fmt.Sprintf("another relay is %s faster", round(cur.RTT-better.RTT))
			}
			return m.switchTo(now, better.Route, why, true)
		}
	}
	if m.relays.stale && m.pulse.streak > 0 {
		return m.handshakeNow(now)
	}
	return nil
}

// young reports whether the route just came up, and was not chosen for being
// better.
func (m *Machine) young() bool {
	return within(m.now, m.since, youngRoute) && !within(m.now, m.relays.swapped, fasterPause)
}

// withdrawn lets a relay rest.
func (m *Machine) withdrawn(now time.Time, ep netip.AddrPort) []Action {
	if m.state != Established || m.route.Endpoint != ep {
		return nil
	}
	m.rests.add(now, ep)
	if to, ok := m.alternative(now, now.Add(-freshAnswer)); ok && m.leads(now) {
		return m.switchTo(now, to, "the relay stops", false)
	}
	return m.ping(now)
}

// round makes a duration short enough for people.
func round(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
