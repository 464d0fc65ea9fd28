package relay

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
)

// relayOf is what a keeper test plays: one relay, by hand.
type relayOf struct {
	t    testing.TB
	k    *Keeper
	key  [32]byte
	self crypto.Identity // of the keeper
	id   crypto.Identity
	addr netip.AddrPort
	now  time.Time
}

func newRelayOf(t testing.TB) *relayOf {
	r := &relayOf{
		t: t, key: [32]byte{5}, self: crypto.Identity{1}, id: crypto.Identity{2},
		addr: netip.MustParseAddrPort("192.0.2.2:6783"), now: epoch,
	}
	r.k = NewKeeper(r.self, 77)
	r.want(r.addr)
	return r
}

func (r *relayOf) want(addr netip.AddrPort) {
	r.k.Set(r.now, []Want{{Peer: r.id, Key: r.key, Addr: addr, Role: signal.WireGuardPort}})
}

// bind returns the one bind that is due.
func (r *relayOf) bind() signal.Packet {
	r.t.Helper()
	list := r.k.Due(r.now)
	if len(list) != 1 {
		r.t.Fatalf("%d binds are due, want one", len(list))
	}
	p, err := signal.Parse(list[0].Bytes)
	must(r.t, err)
	if !signal.Verify(list[0].Bytes, r.key) || p.Kind != signal.Bind || p.Boot != 77 || p.From != signal.IDOf(r.self) || p.To != signal.IDOf(r.id) {
		r.t.Fatalf("bind %+v", p)
	}
	return p
}

// say gives the keeper a packet of the relay's.
func (r *relayOf) say(from netip.AddrPort, p signal.Packet) Event {
	p.From, p.To = signal.IDOf(r.id), signal.IDOf(r.self)
	b := p.Append(nil, r.key)
	p, err := signal.Parse(b)
	must(r.t, err)
	return r.k.Handle(r.now, from, signal.WireGuardPort, p, b)
}

// accept answers a bind.
func (r *relayOf) accept(p signal.Packet, boot uint64) Event {
	return r.say(r.addr, signal.Packet{
		Kind: signal.BindReply, Number: p.Number, Boot: boot, Cookie: [8]byte{byte(boot)}, Accepted: true, Role: p.Role,
		Observed: netip.MustParseAddrPort("198.51.100.1:1"),
	})
}

func (r *relayOf) status() BindStatus { return r.k.Status()[0] }

// Without an answer a bind is sent again ever more rarely, and is given up
// after three.
func TestKeeperRetries(t *testing.T) {
	r := newRelayOf(t)
	r.accept(r.bind(), 1)
	var gaps []string
	last, lostAt := r.now, time.Duration(0)
	for range 9 {
		r.now = r.k.Next()
		r.bind()
		if !r.status().Accepted && lostAt == 0 {
			lostAt = r.now.Sub(epoch)
		}
		gaps = append(gaps, r.now.Sub(last).String())
		last = r.now
	}
	if got := fmt.Sprint(gaps); got != "[20s 500ms 1s 2s 4s 8s 16s 20s 20s]" {
		t.Errorf("binds after %s", got)
	}
	if want := 23500 * time.Millisecond; lostAt != want {
		t.Errorf("given up after %v, want %v", lostAt, want)
	}
	if e := r.accept(signal.Packet{Number: r.k.number}, 1); e.Kind != Bound || !r.status().Accepted {
		t.Errorf("bound again: %+v", e)
	}
	if got := r.k.Next().Sub(r.now); got != bindEvery {
		t.Errorf("next bind in %v", got)
	}
}

func TestKeeperCookies(t *testing.T) {
	r := newRelayOf(t)
	p := r.bind()
	if p.Cookie != [8]byte{} {
		t.Error("a cookie of nobody")
	}
	challenge := func(p signal.Packet, c byte) Event {
		return r.say(r.addr, signal.Packet{Kind: signal.BindReply, Number: p.Number, Boot: 1, Cookie: [8]byte{c}, Role: p.Role})
	}
	for i := range byte(challengeRate) {
		if e := challenge(p, i+1); e != (Event{}) || r.status().Accepted {
			t.Fatalf("event %+v", e)
		}
		if p = r.bind(); p.Cookie != [8]byte{i + 1} {
			t.Fatalf("cookie %x", p.Cookie)
		}
	}
	// A relay that changes its mind all the time is not followed all the time,
	// nor is one that takes its own cookie for wrong.
	challenge(p, 200)
	if len(r.k.Due(r.now)) != 0 {
		t.Error("followed at once, again")
	}
	r.now = r.now.Add(time.Second)
	p = r.bind()
	challenge(p, 0)
	if r.now.Before(r.k.Next()) && p.Cookie == [8]byte{} {
		t.Error("asked again at once with the same")
	}
}

// What a keeper does not believe.
func TestKeeperRefuses(t *testing.T) {
	r := newRelayOf(t)
	p := r.bind()
	good := signal.Packet{Kind: signal.BindReply, Number: p.Number, Boot: 1, Accepted: true, Role: p.Role}
	elsewhere := netip.MustParseAddrPort("192.0.2.9:6783")
	for what, e := range map[string]Event{
		"from elsewhere": r.say(elsewhere, good),
		"another number": func() Event { x := good; x.Number++; return r.say(r.addr, x) }(),
		"another role":   func() Event { x := good; x.Role = signal.RelayPort; return r.say(r.addr, x) }(),
		"no boot id":     func() Event { x := good; x.Boot = 0; return r.say(r.addr, x) }(),
		"a bind":         func() Event { x := good; x.Kind = signal.Bind; return r.say(r.addr, x) }(),
		"a notice":       r.say(r.addr, signal.Packet{Kind: signal.Notice, Number: 1, Boot: 1}),
		"another key":    func() Event { r.key[0]++; defer func() { r.key[0]-- }(); return r.say(r.addr, good) }(),
		"another relay":  func() Event { r.id[0]++; defer func() { r.id[0]-- }(); return r.say(r.addr, good) }(),
	} {
		if e != (Event{}) || r.status().Accepted {
			t.Errorf("%s: %+v", what, e)
		}
	}
	r.now = r.now.Add(replyWithin + 1)
	if e := r.say(r.addr, good); e != (Event{}) {
		t.Errorf("late: %+v", e)
	}
	r.now = r.now.Add(-replyWithin)
	if e := r.say(r.addr, good); e.Kind != Bound || e.Peer != r.id || e.Addr != r.addr {
		t.Errorf("the good one: %+v", e)
	}
	if s := r.status(); s.RTT != 1 || !s.Accepted || s.Boot != 1 {
		t.Errorf("status %+v", s)
	}
	if e := r.say(r.addr, good); e != (Event{}) {
		t.Errorf("the same again: %+v", e)
	}
}

func TestKeeperNotices(t *testing.T) {
	r := newRelayOf(t)
	notice := func(n, boot uint64) EventKind {
		return r.say(r.addr, signal.Packet{Kind: signal.Notice, Number: n, Boot: boot, Index: 9}).Kind
	}
	r.accept(r.bind(), 3)
	for _, tt := range []struct {
		number, boot uint64
		want         EventKind
	}{
		{5, 3, Noticed},
		{5, 3, Nothing},
		{4, 3, Nothing},
		{6, 2, Nothing},
		{6, 4, Nothing},
		{6, 3, Noticed},
	} {
		if got := notice(tt.number, tt.boot); got != tt.want {
			t.Errorf("notice %d of boot %d: %v, want %v", tt.number, tt.boot, got, tt.want)
		}
	}
	if e := r.say(netip.MustParseAddrPort("192.0.2.9:6783"), signal.Packet{Kind: signal.Notice, Number: 7, Boot: 3}); e != (Event{}) {
		t.Errorf("from elsewhere: %+v", e)
	}
	// The relay restarts.
	r.now = r.k.Next()
	if e := r.accept(r.bind(), 4); e.Kind != Restarted {
		t.Errorf("a new boot id: %v", e.Kind)
	}
	if notice(8, 3) != Nothing || notice(1, 4) != Noticed {
		t.Error("notices of the life before count, or of this do not")
	}
	believed := 0
	for i := range uint64(1000) {
		if notice(10+i, 4) == Noticed {
			believed++
		}
	}
	if believed > noticeRate {
		t.Errorf("%d notices at once", believed)
	}
}

func TestKeeperInvitations(t *testing.T) {
	r := newRelayOf(t)
	elsewhere := netip.MustParseAddrPort("198.51.100.9:5000")
	invite := func(from netip.AddrPort, n, boot uint64, size int) EventKind {
		return r.say(from, signal.Packet{Kind: signal.Invite, Number: n, Boot: boot, Size: size}).Kind
	}
	full := signal.Bind.Least()
	r.accept(r.bind(), 3)
	if invite(elsewhere, 1, 3, signal.Invite.Least()) != Nothing {
		t.Error("our bind would be longer than what asked for it")
	}
	if invite(elsewhere, 2, 3, full) != Invited {
		t.Fatal("not invited")
	}
	if next := r.k.Next(); !next.Before(r.now) || next.IsZero() {
		t.Errorf("due at %v", next)
	}
	list := r.k.Due(r.now)
	if len(list) != 1 || list[0].To != elsewhere {
		t.Fatalf("binds %+v", list)
	}
	if invite(elsewhere, 2, 3, full) != Nothing || invite(elsewhere, 3, 3, full) != Nothing {
		t.Error("a replay, or two within a second")
	}
	r.now = r.now.Add(time.Second)
	if invite(elsewhere, 2, 3, full) != Nothing || invite(elsewhere, 3, 3, full) != Invited {
		t.Error("a replay counts, or the next one does not")
	}
	// Copies of invitations make no bind fail that holds: the next go where
	// they always went.
	for i := range uint64(100) {
		r.now = r.now.Add(time.Second)
		invite(elsewhere, 1, 1000+i, full)
		list := r.k.Due(r.now)
		r.now = r.now.Add(firstRetry)
		for _, s := range append(list, r.k.Due(r.now)...) {
			p, err := signal.Parse(s.Bytes)
			must(t, err)
			if s.To == r.addr {
				r.accept(p, 3)
			}
		}
		if !r.status().Accepted || r.status().Addr != r.addr {
			t.Fatalf("after %d copies: %+v", i, r.status())
		}
	}
}

// What one port learns of a relay's new life hurries the bind of the other.
func TestKeeperOtherPort(t *testing.T) {
	r := newRelayOf(t)
	r.k.Set(r.now, []Want{
		{Peer: r.id, Key: r.key, Addr: r.addr, Role: signal.WireGuardPort},
		{Peer: r.id, Key: r.key, Addr: r.addr, Role: signal.RelayPort},
	})
	answerAll := func(boot uint64) (kinds []EventKind) {
		for _, s := range r.k.Due(r.now) {
			p, err := signal.Parse(s.Bytes)
			must(t, err)
			p.Kind, p.Boot, p.Accepted, p.From, p.To = signal.BindReply, boot, true, p.To, p.From
			b := p.Append(nil, r.key)
			kinds = append(kinds, r.k.Handle(r.now, r.addr, s.Role, p, b).Kind)
		}
		return kinds
	}
	if got := answerAll(1); !slices.Equal(got, []EventKind{Bound, Bound}) {
		t.Fatalf("events %v", got)
	}
	r.now = r.now.Add(time.Second)
	if e := r.say(r.addr, signal.Packet{Kind: signal.Invite, Number: 1, Boot: 2, Size: signal.Bind.Least()}); e.Kind != Invited {
		t.Fatalf("event %v", e.Kind)
	}
	if got := answerAll(2); !slices.Equal(got, []EventKind{Restarted, Restarted}) {
		t.Errorf("events %v", got)
	}
	if got := answerAll(2); got != nil {
		t.Errorf("due again: %v", got)
	}
	// Copies from former lives do not keep up a bind that nobody answers.
	for i := 0; r.status().Accepted; i++ {
		if i == 40 {
			t.Fatal("a dead relay seems alive")
		}
		r.now = r.now.Add(time.Second)
		r.say(r.addr, signal.Packet{Kind: signal.BindReply, Number: 1, Boot: 1})
		r.k.Due(r.now)
	}
}

func TestKeeperSet(t *testing.T) {
	r := newRelayOf(t)
	if !NewKeeper(r.self, 1).Next().IsZero() {
		t.Error("due without a want")
	}
	r.accept(r.bind(), 1)
	r.want(r.addr)
	if len(r.k.Due(r.now)) != 0 {
		t.Error("the same want is due again")
	}
	r.k.Now(crypto.Identity{9})
	if len(r.k.Due(r.now)) != 0 {
		t.Error("another's bind made this one due")
	}
	r.k.Now()
	r.accept(r.bind(), 1)
	r.k.Now(r.id)
	r.accept(r.bind(), 1)
	other := netip.MustParseAddrPort("192.0.2.77:6783")
	r.want(other)
	if list := r.k.Due(r.now); len(list) != 1 || list[0].To != other {
		t.Errorf("after another address: %+v", list)
	}
	r.k.Set(r.now, nil)
	if len(r.k.Status()) != 0 || len(r.k.Due(r.now.Add(time.Hour))) != 0 {
		t.Error("still wanted")
	}
	// Two ports and two relays, in order.
	var wants []Want
	for _, peer := range []byte{9, 3} {
		for _, role := range []signal.Role{signal.RelayPort, signal.WireGuardPort} {
			wants = append(wants, Want{Peer: crypto.Identity{peer}, Addr: r.addr, Role: role})
		}
	}
	r.k.Set(r.now, wants)
	var got []string
	for _, s := range r.k.Due(r.now) {
		p, _ := signal.Parse(s.Bytes)
		got = append(got, fmt.Sprintf("%d %s", p.To[0], s.Role))
	}
	if want := []string{"3 wireguard port", "3 relay port", "9 wireguard port", "9 relay port"}; !slices.Equal(got, want) {
		t.Errorf("due: %q", got)
	}
}

// FuzzKeeper: nothing that a stranger sends is believed.
func FuzzKeeper(f *testing.F) {
	r := newRelayOf(f)
	p := r.bind()
	for k := signal.Probe; k <= signal.Invite; k++ {
		f.Add(uint8(0), signal.Packet{
			Kind: k, From: signal.IDOf(r.id), To: signal.IDOf(r.self), Number: p.Number, Boot: 1, Accepted: true, Size: 100,
		}.Append(nil, [32]byte{}))
	}
	f.Fuzz(func(t *testing.T, role uint8, b []byte) {
		p, err := signal.Parse(b)
		if err != nil {
			return
		}
		if e := r.k.Handle(r.now, r.addr, signal.Role(role%2), p, b); e != (Event{}) || r.status().Accepted {
			t.Errorf("believed: %+v", e)
		}
	})
}

func TestWords(t *testing.T) {
	for k := Nothing; k <= Invited; k++ {
		if k.String() == "" {
			t.Errorf("kind %d has no word", k)
		}
	}
	for why := none + 1; why < reasonCount; why++ {
		if reasonNames[why] == "" {
			t.Errorf("reason %d has no name", why)
		}
	}
}
