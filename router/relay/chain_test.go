package relay

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/router/signal"
)

// chain is a world in which hosts stand in a row, the ends talk, and those
// between are relays.
func chain(t testing.TB, relays int) *world {
	w := newWorld(t, relays+2)
	for i, h := range w.hosts {
		for k, o := range w.hosts {
			if k > i+1 {
				h.next[o] = w.hosts[i+1]
			}
			if k < i-1 {
				h.next[o] = w.hosts[i-1]
			}
		}
		if i > 0 {
			h.bindAt(w.hosts[i-1])
		}
	}
	w.run()
	return w
}

// ends are the hosts that talk, and the relays next to them.
func (w *world) ends() (a, first, last, b *host) {
	n := len(w.hosts)
	return w.hosts[0], w.hosts[1], w.hosts[n-2], w.hosts[n-1]
}

// talk makes a session between the ends and sends along it both ways.
func (w *world) talk(i, j uint32) error {
	a, first, last, b := w.ends()
	for _, x := range []struct {
		what     string
		from, to *host
		b        []byte
	}{
		{"initiation", a, b, forge(initiation, b, i)},
		{"response", b, a, forge(response, a, j, i)},
		{"data", a, b, forge(transport, nil, j)},
		{"data back", b, a, forge(transport, nil, i)},
	} {
		by, end := first, last
		if x.from == b {
			by, end = last, first
		}
		if err := x.from.arrives(x.b, by, end, x.to); err != nil {
			return fmt.Errorf("%s: %w", x.what, err)
		}
	}
	return nil
}

func TestChains(t *testing.T) {
	for relays := 1; relays <= 5; relays++ {
		t.Run(fmt.Sprint(relays), func(t *testing.T) {
			w := chain(t, relays)
			a, first, last, b := w.ends()
			for round := range uint32(3) { // new handshakes while old sessions last
				must(t, w.talk(100+round, 200+round))
			}
			// The first session still works, and a cookie comes back too.
			must(t, b.arrives(forge(transport, nil, 100), last, first, a))
			must(t, b.arrives(forge(cookie, nil, 101), last, first, a))
			// Nothing is left when nobody has talked for long enough.
			w.sleep(sessionLife + 2*time.Second)
			if err := a.arrives(forge(transport, nil, 200), first, last, b); err == nil {
				t.Error("a session that nobody used goes on")
			}
			for i, h := range w.hosts {
				if len(h.table.sessions) > 0 || h.table.pairs != 0 || len(h.table.pending) > 0 {
					t.Errorf("host %d keeps %d sessions", i, len(h.table.sessions))
				}
			}
			must(t, w.talk(300, 301))
		})
	}
}

// Binds outlive what is short: all hosts stay bound for an hour at one packet
// and answer per 20 s.
func TestBindsLast(t *testing.T) {
	w := chain(t, 1)
	w.sleep(time.Minute)
	sent := 0
	w.tap = func(datagram) { sent++ }
	w.sleep(time.Hour)
	const binds = 2 * 2 * 2 // ends of links, roles, links
	if want := 2 * binds * 3600 / 20; sent > want+2*binds || sent < want-2*binds {
		t.Errorf("%d packets in an hour, want about %d", sent, want)
	}
	must(t, w.talk(1, 2))
	if n := len(w.hosts[1].table.bound()); n != 4 {
		t.Errorf("%d ports bound at the relay, want 4", n)
	}
}

// When a relay loses its state, each end is told by its own relay, and a new
// handshake heals the session. Which relay of three it is does not matter.
func TestRestartHeals(t *testing.T) {
	for lost := 1; lost <= 3; lost++ {
		t.Run(fmt.Sprintf("relay %d of 3", lost), func(t *testing.T) {
			w := chain(t, 3)
			must(t, w.talk(1, 2))
			a, first, last, b := w.ends()
			r := w.hosts[lost]
			r.start()
			// Its neighbours bind again: it invites them.
			for _, n := range []*host{w.hosts[lost-1], w.hosts[lost+1]} {
				n.keeper.Now(r.id)
			}
			w.run()
			restarted := slices.ContainsFunc(w.hosts[lost-1].events, func(e Event) bool { return e.Kind == Restarted && e.Peer == r.id })
			if !restarted {
				t.Fatal("a neighbour does not know")
			}
			for _, x := range []struct {
				from, by, end, to *host
				index             uint32
			}{{a, first, last, b, 2}, {b, last, first, a, 1}} {
				x.from.events = nil
				for try := 0; ; try++ {
					if try == 4 {
						t.Fatalf("no notice: %+v", x.from.events)
					}
					if err := x.from.arrives(forge(transport, nil, x.index), x.by, x.end, x.to); err == nil {
						t.Fatal("a relay forwards what it does not know")
					}
					noticed := func(e Event) bool {
						return e.Kind == Noticed && e.Peer == x.by.id && e.Role == signal.WireGuardPort && e.Index == x.index
					}
					if slices.ContainsFunc(x.from.events, noticed) {
						break
					}
				}
			}
			must(t, w.talk(3, 4))
		})
	}
}

// Of two relays it is enough that one is bound at the other: each knows the
// address of the other from that. And when one restarts, the other learns from
// the new boot id of its bind, or of the answer to its own, that sessions are
// lost.
func TestOneSided(t *testing.T) {
	for lost := 1; lost <= 3; lost++ {
		t.Run(fmt.Sprintf("relay %d of 3 restarts", lost), func(t *testing.T) {
			w := chain(t, 3)
			for i, h := range w.hosts {
				h.wants = slices.DeleteFunc(h.wants, func(x Want) bool {
					return x.Role == signal.RelayPort && i > 0 && x.Peer == w.hosts[i-1].id
				})
				h.start()
			}
			w.sleep(21 * time.Second)
			for i, h := range w.hosts[:4] {
				if p := h.table.known(w.hosts[i+1].id); !p.roles[signal.RelayPort].relay.IsValid() || p.roles[signal.RelayPort].bound.Remote.IsValid() {
					t.Fatalf("host %d: the next relay is known by %v", i, p.roles[signal.RelayPort])
				}
			}
			must(t, w.talk(1, 2))
			w.hosts[lost].start()
			w.sleep(21 * time.Second)
			a, first, last, b := w.ends()
			for range 3 { // the word goes from relay to relay
				for _, x := range []struct {
					from, by, end, to *host
					index             uint32
				}{{a, first, last, b, 2}, {b, last, first, a, 1}} {
					if err := x.from.arrives(forge(transport, nil, x.index), x.by, x.end, x.to); err == nil {
						t.Fatal("a relay forwards what it does not know")
					}
				}
			}
			for _, h := range []*host{a, b} {
				if !slices.ContainsFunc(h.events, func(e Event) bool { return e.Kind == Noticed }) {
					t.Errorf("no notice: %+v", h.events)
				}
			}
			must(t, w.talk(3, 4))
		})
	}
}

// The bind of a relay's new life says by itself that its sessions are gone.
func TestNewLife(t *testing.T) {
	w := chain(t, 2)
	must(t, w.talk(1, 2))
	_, first, last, _ := w.ends()
	last.start()
	w.run()
	if n := len(first.table.sessions); n != 0 {
		t.Errorf("%d sessions are left that go by it", n)
	}
}

// A notice counts once: the session that is made next may have the same index.
func TestNoticeReplayed(t *testing.T) {
	w := chain(t, 2)
	must(t, w.talk(1, 2))
	a, first, last, b := w.ends()
	var seen [][]byte
	w.tap = func(d datagram) {
		if d.from == last.port && d.to == first.port && signal.Is(d.b) && d.b[1] == byte(signal.Notice) {
			seen = append(seen, d.b)
		}
	}
	last.table.forget(func(*session) bool { return true })
	_ = a.arrives(forge(transport, nil, 2), first, last, b)
	if len(seen) != 1 || len(first.table.sessions) != 0 {
		t.Fatalf("%d notices, %d sessions left", len(seen), len(first.table.sessions))
	}
	must(t, w.talk(1, 2))
	w.send(last.port, first.port, seen[0])
	w.run()
	must(t, a.arrives(forge(transport, nil, 2), first, last, b))
}

// A host whose address changes binds from the new one, and its session goes on
// without a handshake.
func TestAddressChanges(t *testing.T) {
	w := chain(t, 2)
	must(t, w.talk(1, 2))
	a, first, last, b := w.ends()
	a.wg = netip.MustParseAddrPort("198.51.100.7:40000")
	if err := a.arrives(forge(transport, nil, 2), first, last, b); err == nil {
		t.Fatal("forwarded from where nobody is bound")
	}
	a.keeper.Now()
	a.events = nil
	w.run()
	must(t, a.arrives(forge(transport, nil, 2), first, last, b))
	must(t, b.arrives(forge(transport, nil, 1), last, first, a))
	for _, e := range a.events {
		if e.Kind != Bound || e.Observed != a.wg || e.Role != signal.WireGuardPort {
			t.Errorf("event %+v", e)
		}
	}
	if len(a.events) != 1 {
		t.Errorf("%d events, want one: the new address", len(a.events))
	}
}

// One of the ends' relays changes its port: who wants the bind is told, and
// binds there.
func TestRelayMoves(t *testing.T) {
	w := chain(t, 1)
	a, r, _, b := w.ends()
	r.port = netip.MustParseAddrPort("198.51.100.7:6783")
	for _, h := range []*host{a, b} {
		for i := range h.wants {
			h.wants[i].Addr = r.port
		}
		h.set()
	}
	w.run()
	for _, h := range []*host{a, b} {
		for _, s := range h.keeper.Status() {
			if !s.Accepted || s.Addr != r.port {
				t.Errorf("status %+v", s)
			}
		}
	}
	must(t, w.talk(1, 2))
}

// A relay that nobody can reach invites its neighbour, and the bind goes back
// the way that the invitation opened.
func TestInvitation(t *testing.T) {
	w := newWorld(t, 2)
	a, r := w.hosts[0], w.hosts[1]
	outside := netip.MustParseAddrPort("203.0.113.5:50000") // of r's relay port, once r has sent
	open := false
	w.lose = func(d datagram) bool { return d.to == r.port }
	deliver := func(d datagram) {
		if d.to == outside && open {
			r.relay(datagram{d.from, r.port, d.b})
		}
	}
	w.tap = deliver
	a.wants = []Want{{Peer: r.id, Key: testKeys.PairKey(a.id, r.id), Addr: r.port, Role: signal.WireGuardPort}}
	a.set()
	w.sleep(10 * time.Second)
	if s := a.keeper.Status()[0]; s.Accepted || s.Addr != r.port {
		t.Fatalf("bound at what cannot be reached: %+v", s)
	}
	open = true
	invite := signal.Packet{
		Kind: signal.Invite, From: signal.IDOf(r.id), To: signal.IDOf(a.id), Number: 1, Boot: r.table.boot, Size: signal.Bind.Least(),
	}.Append(nil, testKeys.PairKey(a.id, r.id))
	// What the relay answers leaves by its NAT.
	w.lose = func(d datagram) bool {
		if d.from == r.port && d.to == a.wg {
			w.send(outside, d.to, d.b)
			return true
		}
		return d.to == r.port
	}
	w.send(outside, a.wg, invite)
	w.run()
	if s := a.keeper.Status()[0]; !s.Accepted || s.Addr != outside || s.Observed != a.wg {
		t.Fatalf("after the invitation: %+v", s)
	}
	if n := r.table.addresses[a.wg]; n == nil || n.peer.id != a.id {
		t.Error("not bound there")
	}
	w.sleep(5 * time.Minute)
	if s := a.keeper.Status()[0]; !s.Accepted || w.now.Sub(s.Last) > bindEvery {
		t.Errorf("the bind does not last: %+v", s)
	}
	// When that way closes, the configured one is tried again.
	open = false
	w.sleep(time.Minute)
	if s := a.keeper.Status()[0]; s.Accepted || s.Addr != r.port {
		t.Errorf("after the way closed: %+v", s)
	}
}
