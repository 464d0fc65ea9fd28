package relay

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
)

// While a bind is made at another address of the relay, the one that holds is
// told and used; it is given up with the new one, when nobody answers there.
func TestKeeperMoves(t *testing.T) {
	other := netip.MustParseAddrPort("[2001:db8::2]:6783")
	answer := func(r *relayOf, p signal.Packet, accepted bool) Event {
		return r.say(other, signal.Packet{Kind: signal.BindReply, Number: p.Number, Boot: 1, Cookie: [8]byte{9}, Accepted: accepted})
	}
	holds := func(r *relayOf, at netip.AddrPort) {
		t.Helper()
		if s := r.status(); !s.Accepted || s.Addr != at {
			t.Errorf("accepted %t at %s, want at %s", s.Accepted, s.Addr, at)
		}
		if h, ok := r.k.Hush(r.id, crypto.Identity{3}, time.Second); !ok || h.To != at {
			t.Errorf("hush to %s, %t", h.To, ok)
		}
	}
	r := newRelayOf(t)
	r.accept(r.bind(), 1)
	r.want(other)
	holds(r, r.addr)
	p := r.bind()
	if e := answer(r, p, false); e != (Event{}) { // the cookie for there
		t.Errorf("event %+v", e)
	}
	holds(r, r.addr)
	if e := r.say(r.addr, signal.Packet{Kind: signal.Notice, Number: 1, Boot: 1}); e.Kind != Noticed || e.Addr != r.addr {
		t.Errorf("a notice from where the bind holds: %+v", e)
	}
	if e := answer(r, r.bind(), true); e.Kind != Bound || e.Addr != other {
		t.Errorf("event %+v", e)
	}
	holds(r, other)

	r.want(r.addr) // and nobody answers there
	start := r.now
	for r.status().Accepted {
		holds(r, other)
		if r.now.Sub(start) > 5*time.Second {
			t.Fatal("not given up")
		}
		r.bind()
		r.now = r.k.Next()
	}
	if s := r.status(); s.Addr != r.addr || r.now.Sub(start) < time.Second {
		t.Errorf("given up after %v: %+v", r.now.Sub(start), s)
	}
}

// However often somebody wants a bind at once: it is given up when nobody
// answers, and not while somebody does, however late.
func TestKeeperNow(t *testing.T) {
	for _, every := range []time.Duration{time.Millisecond, 100 * time.Millisecond, time.Second, 3 * time.Second} {
		r := newRelayOf(t)
		r.accept(r.bind(), 1)
		start, sent := r.now, 0
		for ; r.status().Accepted; r.now = r.now.Add(every) {
			if r.now.Sub(start) > 15*time.Second {
				t.Fatalf("Now every %v: a dead relay seems alive after %d binds", every, sent)
			}
			r.k.Now(r.id)
			sent += len(r.k.Due(r.now))
		}
		if d := r.now.Sub(start); d < maxMissed*doubtRetry || d > (maxMissed+1)*max(every, doubtRetry) || sent > 1+maxMissed {
			t.Errorf("Now every %v: given up after %v and %d binds", every, d, sent)
		}
	}
	r := newRelayOf(t) // 900 ms away
	r.accept(r.bind(), 1)
	type reply struct {
		at time.Time
		p  signal.Packet
	}
	var replies []reply
	for range 600 {
		r.now = r.now.Add(50 * time.Millisecond)
		r.k.Now(r.id)
		for _, s := range r.k.Due(r.now) {
			p, err := signal.Parse(s.Bytes)
			must(t, err)
			replies = append(replies, reply{r.now.Add(900 * time.Millisecond), p})
		}
		for len(replies) > 0 && !replies[0].at.After(r.now) {
			r.accept(replies[0].p, 1)
			replies = replies[1:]
		}
		if !r.status().Accepted {
			t.Fatal("a relay far away was given up")
		}
	}
	// Our address has changed: nothing is waited for.
	r.k.Now(r.id)
	r.k.Due(r.now)
	if r.k.Now(); len(r.k.Due(r.now)) != 1 {
		t.Error("not due at once")
	}
}

// A relay that answers and never accepts has lost the bind by itself.
func TestKeeperNeverAccepted(t *testing.T) {
	r := newRelayOf(t)
	r.accept(r.bind(), 1)
	for i := byte(2); r.status().Accepted; i++ {
		r.now = r.k.Next()
		if r.now.Sub(epoch) > keptFor+time.Second {
			t.Fatal("still accepted")
		}
		p := r.bind()
		r.now = r.now.Add(300 * time.Millisecond)
		r.say(r.addr, signal.Packet{Kind: signal.BindReply, Number: p.Number, Boot: 1, Cookie: [8]byte{i}})
		if r.k.Next().Before(r.now) {
			r.k.wants[want{signal.IDOf(r.id), signal.WireGuardPort}].due = r.now
		}
	}
	if d := r.now.Sub(epoch); d < keptFor-time.Second {
		t.Errorf("given up after %v", d)
	}
}
