package relay

import (
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/weftnet/weft/router/signal"
	"github.com/weftnet/weft/router/udp"
)

// cookie is what shows that who binds receives what is sent to an address.
func (t *table) cookie(p *peer, role signal.Role, f udp.Flow) [8]byte {
	h := hmac.New(sha256.New, t.secret[:])
	h.Write(p.id[:])
	a := f.Remote.Addr().As16()
	h.Write([]byte{byte(role), byte(f.Remote.Port() >> 8), byte(f.Remote.Port())})
	h.Write(a[:])
	return [8]byte(h.Sum(nil))
}

// signal decides about a packet that is not WireGuard's.
func (t *table) signal(now time.Time, from udp.Flow, b []byte) verdict {
	p, err := signal.Parse(b)
	if err != nil {
		return verdict{why: malformed}
	}
	sender := t.peers[p.From]
	if sender == nil || p.To != t.self {
		return verdict{why: unbound}
	}
	switch p.Kind {
	case signal.Bind:
		if !t.usable(from.Remote) || t.stopping {
			return verdict{why: refused}
		}
	case signal.Hush: // from who is bound only
		if n := t.addresses[from.Remote]; n == nil || n != sender.roles[signal.WireGuardPort] {
			return verdict{why: unbound}
		}
	case signal.Notice, signal.BindReply, signal.Invite:
	default:
		return verdict{why: malformed}
	}
	if !signal.Verify(b, sender.key) {
		return verdict{why: unbound}
	}
	switch p.Kind {
	case signal.Bind:
		return t.bind(now, sender, from, p)
	case signal.Hush:
		return t.hush(now, sender, p)
	case signal.Notice:
		// Who is bound here is believed here. Others may be believed by the
		// keeper of our own binds.
		n := t.addresses[from.Remote]
		if n != nil && n == sender.roles[signal.RelayPort] && p.Boot == sender.boot && p.Number > sender.noticed {
			sender.noticed = p.Number
			t.forgetIndex(sender, p.Index)
		}
	default:
	}
	return verdict{answer: true}
}

// bind answers an authentic bind: with a cookie, or, when it has the right one,
// with the word that it holds. A number counts only when it comes with the
// cookie: a stranger may have been faster with a copy of the packet.
func (t *table) bind(now time.Time, sender *peer, from udp.Flow, p signal.Packet) verdict {
	n := sender.roles[p.Role]
	if p.Boot == 0 || slices.Contains(sender.former, p.Boot) || p.Boot == sender.boot && p.Number <= n.number {
		return verdict{why: replayed}
	}
	cookie := t.cookie(sender, p.Role, from)
	reply := signal.Packet{
		Kind: signal.BindReply, From: t.self, To: p.From, Number: p.Number,
		Boot: t.boot, Cookie: cookie, Role: p.Role, Observed: from.Remote,
	}
	if !hmac.Equal(cookie[:], p.Cookie[:]) {
		if !sender.attempts.allow(now, bindRate, bindRate) {
			return verdict{why: limited}
		}
		return verdict{reply: reply.Append(nil, sender.key)}
	}
	if !n.binds.allow(now, bindRate, bindRate) {
		return verdict{why: limited}
	}
	if p.Boot != sender.boot {
		if !sender.lives.allow(now, lifeRate, lifeBurst) {
			return verdict{why: limited}
		}
		if sender.boot != 0 {
			sender.former = append(sender.former, sender.boot)
			sender.former = sender.former[max(0, len(sender.former)-maxFormer):]
		}
		sender.boot, sender.hushed, sender.noticed = p.Boot, 0, 0
		for _, n := range sender.roles {
			n.number = 0
		}
		// Its relay has lost all sessions: let those before us know.
		t.forget(func(s *session) bool { return s.next == sender.roles[signal.RelayPort] })
	}
	n.number = p.Number
	t.bindTo(now, n, from)
	reply.Accepted = true
	return verdict{reply: reply.Append(nil, sender.key)}
}

// hush notes what a host does not want to get for a while.
func (t *table) hush(now time.Time, sender *peer, p signal.Packet) verdict {
	if p.Boot != sender.boot || p.Number <= sender.hushed {
		return verdict{why: replayed}
	}
	sender.hushed = p.Number
	n := sender.roles[signal.WireGuardPort]
	n.hushes = slices.DeleteFunc(n.hushes, func(h hush) bool { return h.of == p.Peer || !now.Before(h.until) })
	if p.For > 0 && len(n.hushes) < maxHushes {
		n.hushes = append(n.hushes, hush{of: p.Peer, until: now.Add(p.For)})
	}
	return verdict{}
}

// hushed says whether n does not want packets of sender now.
func (n *neighbour) hushed(now time.Time, sender signal.ID) bool {
	return slices.ContainsFunc(n.hushes, func(h hush) bool { return h.of == sender && now.Before(h.until) })
}

// notice answers a packet of a session that nobody here knows, if that is due.
func (t *table) notice(now time.Time, n *neighbour, index uint32, trigger int) verdict {
	v := verdict{why: unknown}
	if trigger < signal.Notice.Least() {
		return v
	}
	n.notices = slices.DeleteFunc(n.notices, func(x notice) bool { return now.Sub(x.at) >= time.Second })
	if len(n.notices) == maxNotices || slices.ContainsFunc(n.notices, func(x notice) bool { return x.index == index }) {
		return v
	}
	n.notices = append(n.notices, notice{index: index, at: now})
	t.number++
	v.reply = signal.Packet{
		Kind: signal.Notice, From: t.self, To: signal.IDOf(n.peer.id), Number: t.number, Boot: t.boot, Index: index,
	}.Append(nil, n.peer.key)
	return v
}
