package path

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/router/signal"
)

var (
	probeKey   = [32]byte{0xca, 0xfe}
	probeTime  = time.Unix(1000, 0)
	probeAddrA = netip.MustParseAddrPort("192.0.2.1:6784")
	probeAddrB = netip.MustParseAddrPort("198.51.100.2:6784")
)

var compareProbes = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

func probeIdentity(n byte) crypto.Identity { return crypto.KeyFromSeed([32]byte{n}).Identity() }

// probeHost is a prober, what it sent and what it learnt.
type probeHost struct {
	*Prober
	id      crypto.Identity
	sent    []probeSent
	fail    error // of the next sends
	results []ProbeResult
}

type probeSent struct {
	to netip.AddrPort
	b  []byte
	o  SendOptions
}

func newProbeHost(id crypto.Identity, peers ...crypto.Identity) *probeHost {
	h := &probeHost{id: id}
	h.Prober = NewProber(id, func(to netip.AddrPort, b []byte, o SendOptions) error {
		if h.fail != nil {
			return h.fail
		}
		h.sent = append(h.sent, probeSent{to, slices.Clone(b), o})
		return nil
	}, func(r ProbeResult) { h.results = append(h.results, r) })
	h.set(peers...)
	return h
}

func (h *probeHost) set(peers ...crypto.Identity) {
	var list []ProbePeer
	for _, id := range peers {
		list = append(list, ProbePeer{id, probeKey})
	}
	h.Set(list)
}

// take returns the only packet that was sent since the last call.
func (h *probeHost) take(t *testing.T) probeSent {
	t.Helper()
	if len(h.sent) != 1 {
		t.Fatalf("%d packets were sent, want one", len(h.sent))
	}
	s := h.sent[0]
	h.sent = nil
	return s
}

func (h *probeHost) takeResults() []ProbeResult {
	r := h.results
	h.results = nil
	return r
}

func probePair() (a, b *probeHost) {
	ida, idb := probeIdentity(1), probeIdentity(2)
	return newProbeHost(ida, idb, probeIdentity(3)), newProbeHost(idb, ida)
}

// TestProbe: a asks b, b answers, both learn.
func TestProbe(t *testing.T) {
	v6a, v6b := netip.MustParseAddrPort("[2001:db8::1]:6784"), netip.MustParseAddrPort("[2001:db8::2]:6784")
	mapped := netip.MustParseAddrPort("[::ffff:198.51.100.2]:6784")
	for _, tt := range []struct {
		what        string
		a, b        netip.AddrPort // where a is seen, and where it asks
		size, ttl   int
		df          bool
		answersFrom netip.AddrPort
		wantSize    int // of the IP packet
	}{
		{"least", probeAddrA, probeAddrB, 0, 0, false, probeAddrB, 28 + 60},
		{"least, IPv6", v6a, v6b, 0, 0, false, v6b, 48 + 60},
		{"full", probeAddrA, probeAddrB, 1500, 0, true, probeAddrB, 1500},
		{"full, IPv6", v6a, v6b, 1500, 0, true, v6b, 1500},
		{"jumbo", probeAddrA, probeAddrB, 65535, 0, true, probeAddrB, 65535},
		{"near", probeAddrA, probeAddrB, 0, 4, false, probeAddrB, 28 + 60},
		{"answer from elsewhere", probeAddrA, probeAddrB, 0, 0, false, netip.MustParseAddrPort("203.0.113.9:1"), 28 + 60},
		{"IPv4 as IPv6", probeAddrA, mapped, 0, 0, false, mapped, 28 + 60},
	} {
		t.Run(tt.what, func(t *testing.T) {
			a, b := probePair()
			if err := a.Probe(probeTime, b.id, tt.b, tt.size, tt.ttl, tt.df); err != nil {
				t.Fatal(err)
			}
			asked := netip.AddrPortFrom(tt.b.Addr().Unmap(), tt.b.Port())
			request := a.take(t)
			overhead := tt.wantSize - len(request.b)
			if request.to != asked || request.o != (SendOptions{TTL: tt.ttl, DontFragment: tt.df}) || overhead != 28 && overhead != 48 {
				t.Errorf("sent %d bytes to %v with %+v", len(request.b), request.to, request.o)
			}
			b.Handle(probeTime.Add(20*time.Millisecond), tt.a, asked.Addr(), request.b)
			reply := b.take(t)
			if reply.to != tt.a || len(reply.b) > len(request.b) || len(reply.b) > 100 || reply.o != (SendOptions{From: asked.Addr()}) {
				t.Errorf("replied %d bytes to %v with %+v", len(reply.b), reply.to, reply.o)
			}
			want := []ProbeResult{{Peer: a.id, Endpoint: tt.a, From: tt.a, Size: tt.wantSize, Request: true}}
			if d := cmp.Diff(want, b.takeResults(), compareProbes); d != "" {
				t.Errorf("learnt by who was asked (-want +got):\n%s", d)
			}

			a.Handle(probeTime.Add(50*time.Millisecond), tt.answersFrom, netip.Addr{}, reply.b)
			from := netip.AddrPortFrom(tt.answersFrom.Addr().Unmap(), tt.answersFrom.Port())
			want = []ProbeResult{{
				Peer: b.id, Endpoint: asked, From: from, RTT: 50 * time.Millisecond, Observed: tt.a, Size: tt.wantSize,
			}}
			if d := cmp.Diff(want, a.takeResults(), compareProbes); d != "" {
				t.Errorf("learnt by who asked (-want +got):\n%s", d)
			}
			if d := cmp.Diff(ProbeStats{Asked: 1, Answered: 1}, a.Stats()); d != "" {
				t.Errorf("counted (-want +got):\n%s", d)
			}
			if d := cmp.Diff(ProbeStats{Requests: 1, Replies: 1}, b.Stats()); d != "" {
				t.Errorf("counted (-want +got):\n%s", d)
			}
		})
	}
}

// TestProbeIgnores: what is not a fresh packet of a peer for us changes
// nothing, and above all gets no answer.
func TestProbeIgnores(t *testing.T) {
	a, b, stranger := signal.IDOf(probeIdentity(1)), signal.IDOf(probeIdentity(2)), signal.IDOf(probeIdentity(9))
	probe := signal.Packet{Kind: signal.Probe, From: a, To: b, Number: 1}
	with := func(change func(p *signal.Packet)) []byte {
		p := probe
		change(&p)
		return p.Append(nil, probeKey)
	}
	good := probe.Append(nil, probeKey)
	for _, tt := range []struct {
		what string
		b    []byte
	}{
		{"nothing", nil},
		{"garbage", slices.Repeat([]byte{signal.First}, 1000)},
		{"cut", good[:len(good)-1]},
		{"longer", append(slices.Clone(good), 0)},
		{"WireGuard", append([]byte{1}, good[1:]...)},
		{"wrong MAC", probe.Append(nil, [32]byte{1})},
		{"of a stranger", with(func(p *signal.Packet) { p.From = stranger })},
		{"for another", with(func(p *signal.Packet) { p.To = stranger })},
		{"from ourselves", with(func(p *signal.Packet) { p.From, p.To = b, b })},
		{"turned round", with(func(p *signal.Packet) { p.From, p.To = b, a })},
		{"bind", with(func(p *signal.Packet) { p.Kind = signal.Bind })},
		{"notice", with(func(p *signal.Packet) { p.Kind = signal.Notice })},
		{"answer to nothing", with(func(p *signal.Packet) { p.Kind = signal.ProbeReply })},
	} {
		t.Run(tt.what, func(t *testing.T) {
			h := newProbeHost(probeIdentity(2), probeIdentity(1), probeIdentity(2))
			h.Handle(probeTime, probeAddrA, netip.Addr{}, tt.b)
			if len(h.sent)+len(h.results) > 0 {
				t.Errorf("sent %v, learnt %v", h.sent, h.results)
			}
			if d := cmp.Diff(ProbeStats{Ignored: 1}, h.Stats()); d != "" {
				t.Errorf("counted (-want +got):\n%s", d)
			}
		})
	}
}

// TestProbeReplays: a packet counts once, from wherever it is sent again.
func TestProbeReplays(t *testing.T) {
	a, b := probePair()
	if err := a.Probe(probeTime, b.id, probeAddrB, 0, 0, false); err != nil {
		t.Fatal(err)
	}
	request := a.take(t)
	b.Handle(probeTime, probeAddrA, netip.Addr{}, request.b)
	reply := b.take(t)
	a.Handle(probeTime, probeAddrB, netip.Addr{}, reply.b)
	b.takeResults()
	a.takeResults()
	for i := range 10000 {
		elsewhere := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 1)
		b.Handle(probeTime.Add(time.Duration(i)*time.Millisecond), elsewhere, netip.Addr{}, request.b)
		a.Handle(probeTime, elsewhere, netip.Addr{}, reply.b)
	}
	if len(a.sent)+len(b.sent) > 0 || len(a.results)+len(b.results) > 0 {
		t.Errorf("replays: %d and %d packets sent, %d and %d things learnt", len(a.sent), len(b.sent), len(a.results), len(b.results))
	}
}

// TestProbeAnswersOfOthers: who knows another pair's key or number cannot
// answer for a peer.
func TestProbeAnswersOfOthers(t *testing.T) {
	a, b := probePair()
	if err := a.Probe(probeTime, b.id, probeAddrB, 0, 0, false); err != nil {
		t.Fatal(err)
	}
	request, err := signal.Parse(a.take(t).b)
	if err != nil {
		t.Fatal(err)
	}
	other := signal.Packet{Kind: signal.ProbeReply, From: signal.IDOf(probeIdentity(3)), To: request.From, Number: request.Number}
	a.Handle(probeTime, probeAddrB, netip.Addr{}, other.Append(nil, probeKey))
	wrong := signal.Packet{Kind: signal.ProbeReply, From: request.To, To: request.From, Number: request.Number + 1}
	a.Handle(probeTime, probeAddrB, netip.Addr{}, wrong.Append(nil, probeKey))
	if got := a.takeResults(); len(got) > 0 {
		t.Errorf("believed %+v", got)
	}
	if got := a.Stats(); got.Waiting != 1 {
		t.Errorf("%d probes wait, want the one", got.Waiting)
	}
}

// TestProbeErrors holds what Probe refuses, and that nothing is left of it.
func TestProbeErrors(t *testing.T) {
	tooLarge := errors.New("message too long")
	for _, tt := range []struct {
		what string
		peer crypto.Identity
		to   netip.AddrPort
		size int
		fail error
		want error // nil: any
	}{
		{"stranger", probeIdentity(9), probeAddrB, 0, nil, ErrProbePeer},
		{"ourselves", probeIdentity(1), probeAddrB, 0, nil, ErrProbePeer},
		{"no endpoint", probeIdentity(2), netip.AddrPort{}, 0, nil, nil},
		{"no port", probeIdentity(2), netip.AddrPortFrom(probeAddrB.Addr(), 0), 0, nil, nil},
		{"no such packet", probeIdentity(2), probeAddrB, 65536, nil, nil},
		{"not sent", probeIdentity(2), probeAddrB, 1500, tooLarge, tooLarge},
	} {
		t.Run(tt.what, func(t *testing.T) {
			a, _ := probePair()
			a.fail = tt.fail
			err := a.Probe(probeTime, tt.peer, tt.to, tt.size, 0, true)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if d := cmp.Diff(ProbeStats{}, a.Stats()); d != "" || len(a.sent) > 0 {
				t.Errorf("%d packets sent, counted (-want +got):\n%s", len(a.sent), d)
			}
		})
	}
}

// TestProbeExpires: an answer counts for 3 s.
func TestProbeExpires(t *testing.T) {
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{3 * time.Second, 1}, {3*time.Second + 1, 0}} {
		a, b := probePair()
		if err := a.Probe(probeTime, b.id, probeAddrB, 0, 0, false); err != nil {
			t.Fatal(err)
		}
		b.Handle(probeTime, probeAddrA, netip.Addr{}, a.take(t).b)
		a.Handle(probeTime.Add(tt.after), probeAddrB, netip.Addr{}, b.take(t).b)
		if got := a.takeResults(); len(got) != tt.want {
			t.Errorf("after %v: learnt %+v", tt.after, got)
		}
		if s := a.Stats(); s.Waiting != 0 || s.Answered != uint64(tt.want) || s.Lost != uint64(1-tt.want) {
			t.Errorf("after %v: counted %+v", tt.after, s)
		}
	}
}

// TestProbeWaitingIsBounded: the oldest gives way.
func TestProbeWaitingIsBounded(t *testing.T) {
	a, b := probePair()
	for range maxProbes + 10 {
		if err := a.Probe(probeTime, b.id, probeAddrB, 0, 0, false); err != nil {
			t.Fatal(err)
		}
	}
	if s := a.Stats(); s.Waiting != maxProbes || s.Lost != 10 || len(a.waiting) != maxProbes {
		t.Errorf("counted %+v, %d by number", s, len(a.waiting))
	}
	for i, sent := range a.sent {
		p, err := signal.Parse(sent.b)
		if err != nil {
			t.Fatal(err)
		}
		reply := signal.Packet{Kind: signal.ProbeReply, From: p.To, To: p.From, Number: p.Number}
		a.Handle(probeTime, probeAddrB, netip.Addr{}, reply.Append(nil, probeKey))
		if got := len(a.takeResults()); (got == 1) != (i >= 10) {
			t.Fatalf("probe %d: %d answers", i, got)
		}
	}
}

// TestProbeReplyLimits: 16 a second to a peer wherever it is, each of an office
// of 50 behind one address, 1,000 to an address, 2,000 in all; what was limited
// does not become a hint either.
func TestProbeReplyLimits(t *testing.T) {
	const peers = 200
	b := probeIdentity(0)
	var list []crypto.Identity
	for i := range peers {
		list = append(list, probeIdentity(byte(i+1)))
	}
	h := newProbeHost(b, list...)
	number := uint64(0)
	ask := func(now time.Time, peer int, from netip.AddrPort) {
		number++
		p := signal.Packet{Kind: signal.Probe, From: signal.IDOf(list[peer]), To: signal.IDOf(b), Number: number}
		h.Handle(now, from, netip.Addr{}, p.Append(nil, probeKey))
	}
	now := probeTime
	second := func(what string, want int, do func()) {
		t.Helper()
		h.sent, h.results = nil, nil
		before := h.Stats()
		do()
		s := h.Stats()
		if limited := s.Requests - before.Requests - uint64(want); len(h.sent) != want || len(h.results) != want ||
			s.Replies-before.Replies != uint64(want) || s.Limited-before.Limited != limited {
			t.Errorf("%s: %d replies and %d hints, want %d; counted %+v", what, len(h.sent), len(h.results), want, s)
		}
		now = now.Add(time.Second)
	}
	office := probeAddrA.Addr()
	second("one peer, many ports", maxRepliesToPeer, func() {
		for i := range 100 {
			ask(now, 0, netip.AddrPortFrom(office, uint16(1+i)))
		}
	})
	second("one peer, many addresses", maxRepliesToPeer, func() {
		for i := range 100 {
			ask(now, 0, netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 1))
		}
	})
	second("an office of 50 that searches for path MTUs", 50*10, func() {
		for i := range 50 * 10 {
			ask(now, i%50, netip.AddrPortFrom(office, uint16(1+i%50)))
		}
	})
	second("one address", maxRepliesToAddr, func() {
		for i := range 10 * peers {
			ask(now, i%peers, netip.AddrPortFrom(office, 1))
		}
	})
	second("in all", maxProbeReplies, func() {
		for i := range 15 * peers {
			ask(now.Add(999*time.Millisecond), i%peers, netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 1))
		}
	})
	if len(h.toAddr) > maxProbeReplies || len(h.toPeer) > peers {
		t.Errorf("%d addresses and %d peers counted", len(h.toAddr), len(h.toPeer))
	}
	if len(h.seen.known) != maxProbesSeen || len(h.seen.ring) != maxProbesSeen {
		t.Errorf("%d and %d numbers remembered, want %d", len(h.seen.known), len(h.seen.ring), maxProbesSeen)
	}
	second("afterwards", 1, func() { ask(now.Add(time.Second), 0, probeAddrA) })
}

func TestProbeConcurrent(t *testing.T) {
	var a, b *Prober
	ida, idb := probeIdentity(1), probeIdentity(2)
	a = NewProber(ida, func(_ netip.AddrPort, p []byte, _ SendOptions) error {
		b.Handle(probeTime, probeAddrA, netip.Addr{}, p)
		return nil
	}, func(r ProbeResult) {
		if r.Size == 1500 {
			_ = a.Probe(probeTime, idb, probeAddrB, 0, 0, false)
		}
	})
	b = NewProber(idb, func(_ netip.AddrPort, p []byte, _ SendOptions) error {
		a.Handle(probeTime, probeAddrB, netip.Addr{}, p)
		return nil
	}, func(ProbeResult) {})
	peers := []ProbePeer{{ida, probeKey}, {idb, probeKey}}
	a.Set(peers)
	b.Set(peers)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				_ = a.Probe(probeTime, idb, probeAddrB, 1500, 0, false)
				a.Set(peers)
				b.Stats()
			}
		})
	}
	wg.Wait()
	if s := a.Stats(); s.Answered != maxRepliesToPeer || s.Answered != b.Stats().Replies {
		t.Errorf("asked %+v, answered %+v", s, b.Stats())
	}
}

// FuzzProber: whatever comes in, with a good MAC or not, the reply is not
// longer, goes back, and is a reply.
func FuzzProber(f *testing.F) {
	a, b := probeIdentity(1), probeIdentity(2)
	p := signal.Packet{Kind: signal.Probe, From: signal.IDOf(a), To: signal.IDOf(b), Number: 1}
	f.Add(p.Append(nil, probeKey))
	p.Size = 200
	f.Add(p.Append(nil, probeKey))
	p.Kind = signal.ProbeReply
	f.Add(p.Append(nil, probeKey))
	f.Fuzz(func(t *testing.T, in []byte) {
		packets := [][]byte{in}
		if p, err := signal.Parse(in); err == nil {
			packets = append(packets, p.Append(nil, probeKey))
			p.From, p.To = signal.IDOf(a), signal.IDOf(b)
			packets = append(packets, p.Append(nil, probeKey))
		}
		h := newProbeHost(b, a)
		for _, in := range packets {
			h.Handle(probeTime, probeAddrA, netip.Addr{}, in)
			for _, out := range h.sent {
				if p, err := signal.Parse(out.b); len(out.b) > len(in) || out.to != probeAddrA || err != nil || p.Kind != signal.ProbeReply {
					t.Fatalf("%x\ngot %x to %v", in, out.b, out.to)
				}
			}
			h.sent = nil
		}
	})
}

// BenchmarkProbeStranger is what a packet with a wrong MAC costs us.
func BenchmarkProbeStranger(b *testing.B) {
	h := newProbeHost(probeIdentity(2), probeIdentity(1))
	p := signal.Packet{Kind: signal.Probe, From: signal.IDOf(probeIdentity(1)), To: signal.IDOf(h.id)}.Append(nil, [32]byte{})
	for b.Loop() {
		h.Handle(probeTime, probeAddrA, netip.Addr{}, p)
	}
}
